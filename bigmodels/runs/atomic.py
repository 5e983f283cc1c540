"""Write files atomically: completely or not at all, even if the process dies or the disk fills."""

import contextlib
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator

_LEFT_OVER = re.compile(r"\.\d+\.\S")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Write a file or directory under a temporary name, and rename it on success.

    The data are synced to the disk before `path` is replaced. If anything goes wrong, the previous
    content of `path` stays.

    Args:
        path: Final path of the file or directory.

    Yields:
        A temporary path in the same directory, with the same suffix.

    Example:

    >>> with atomic_path("result.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> pathlib.Path("result.txt").read_text()
    'done'
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        inside = temporary.rglob("*") if temporary.is_dir() else ()
        for written in (*inside, temporary):
            _sync(written)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_left_over(directory: str | os.PathLike) -> None:
    """Remove the temporary files of killed processes.

    Args:
        directory: A directory in which no other process is writing.
    """
    for path in pathlib.Path(directory).glob(".*"):
        if _LEFT_OVER.match(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def lock(directory: str | os.PathLike) -> int:
    """Lock a directory against other processes that use this function.

    Args:
        directory: An existing directory.

    Returns:
        A file descriptor. Closing it, or the end of the process, releases the lock.

    Raises:
        BlockingIOError: if another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where directories cannot be opened either.
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
    on_windows = sys.platform == "win32"  # Syncs only files open for writing, and no directories.
    if on_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
