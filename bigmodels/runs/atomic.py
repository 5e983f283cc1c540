"""Files that are whole or not there, whatever ends the process or fills the disk."""

import contextlib
import os
import pathlib
import re
import shutil
import sys

_LEFT_OVER = re.compile(r"\.\d+\.\S")


@contextlib.contextmanager
def atomic_path(path):
    """A name to write a file or directory under.

    What is written there becomes `path` when all went well, on the disk and not only in memory;
    what was at `path` stays until then, and for good if anything goes wrong.

    Args:
        path: Where the file or directory is to be.

    Yields:
        A path beside it, with the same ending.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        inside = temporary.rglob("*") if temporary.is_dir() else ()
        for each in (*inside, temporary):
            _sync(each)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_left_over(directory):
    """Remove what a process that was killed had begun to write.

    Args:
        directory: Nobody else may be writing in it.
    """
    for path in pathlib.Path(directory).glob(".*"):
        if _LEFT_OVER.match(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def lock(directory):
    """Keep other processes out of a directory, as long as they ask as well.

    Args:
        directory: Where it is.

    Returns:
        A descriptor; closing it, or the end of the process, gives the directory back.

    Raises:
        BlockingIOError: if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which opens no directories either.
        return _lock_file(pathlib.Path(directory) / ".lock")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lock_file(path):
    import msvcrt

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(*error.args) from error
    return descriptor


def _sync(path):
    on_windows = sys.platform == "win32"  # It syncs what is open for writing, and no directories.
    if on_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
