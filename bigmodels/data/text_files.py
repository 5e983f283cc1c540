"""The user's own texts: a file, pairs of texts."""

import codecs
import pathlib
import re
import unicodedata

from bigmodels.checks import shown

# Of UTF-32 first: UTF-16's mark is the beginning of it.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Unicode's normal form takes the square of such a run's length; no language needs ten.
_MAX_MARKS = 1000


def text_file(path, kind="text"):
    """A text file in UTF-8, with or without a byte order mark.

    Args:
        path: Path; symbolic links are followed.
        kind: What the user calls it, for messages.

    Returns:
        A string.

    Raises:
        ValueError: naming the file, and the line if it is not UTF-8 or holds a NUL character.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file():
            raise ValueError(f"{kind}: {str(path)!r} is not a file")
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{kind}: {str(path)!r} cannot be read: {error.strerror}") from None
    for mark, encoding in _OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise ValueError(
                f"{kind}: {str(path)!r} is {encoding}, expected UTF-8; convert it first"
            )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{kind}: {str(path)!r}, line {_line(raw, error.start)}: byte 0x{raw[error.start]:02x} "
            f"is not UTF-8 (offset {error.start})"
        ) from None
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # As a byte order mark.
    if "\0" in text:
        where = text.index("\0")
        raise ValueError(f"{kind}: {str(path)!r}, line {_line(text, where)}: NUL character")
    marks = "".join(c for c in set(text) if unicodedata.combining(c))
    if marks and (run := re.search(f"[{re.escape(marks)}]{{{_MAX_MARKS}}}", text)):
        raise ValueError(
            f"{kind}: {str(path)!r}, line {_line(text, run.start())}: more than {_MAX_MARKS} "
            "combining marks in a row are no text"
        )
    if not text.strip():
        raise ValueError(f"{kind}: {str(path)!r} is empty")
    return text


def pair_file(path):
    """Pairs of texts, one a line, divided by a tabulator; further columns are left alone.

    Args:
        path: Path of a file in UTF-8; symbolic links are followed.

    Returns:
        List of `(source, target)`.

    Raises:
        ValueError: naming the file, and the line if it is no pair.
    """
    pairs = []
    text = text_file(path, "pairs").replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        pair = tuple(part.strip() for part in line.split("\t")[:2])
        if len(pair) < 2 or not all(pair):
            raise ValueError(
                f"pairs: {str(path)!r}, line {number}: {shown(line)}, expected a source, a "
                "tabulator and a target"
            )
        pairs.append(pair)
    return pairs


def _line(content, place):
    """The number of the line in which a place of a text, or of its bytes, is."""
    return content.count("\n" if isinstance(content, str) else b"\n", 0, place) + 1
