"""Files that are whole or not there, whatever ends the process or fills the disk."""

import contextlib
import os
import pathlib
import re
import shutil

_LEFT_OVER = re.compile(r"\.\d+\.\S")


@contextlib.contextmanager
def whole(path):
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
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_left_over(directory):
    """Remove what a process that was killed had begun to write.

    Args:
        directory: Nobody else may be writing in it.
    """
    for path in pathlib.Path(directory).glob(".*"):
        if _LEFT_OVER.match(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
