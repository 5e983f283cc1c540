"""Read text files, whole or block by block."""

import codecs
import gzip
import os
import pathlib
import re
import unicodedata
import zlib
from collections.abc import Iterator

from bigmodels.data.cleaning import last_cut
from bigmodels.data.notes import Notes
from bigmodels.data.readers import encodings

# Bytes that are read at once.
BLOCK_BYTES = 1 << 20
# Unicode normalisation takes quadratic time in the length of a run; no language needs ten.
_MAX_MARKS = 1000
# Size limit of a gzip file after unpacking, in characters, where all of it is held in memory.
_MAX_UNPACKED = 1 << 28
_LOST = "\N{REPLACEMENT CHARACTER}"
# Formats that are often mistaken for text.
_OTHERS = {
    b"PK\3\4": "a zip archive, as .xlsx and .docx files are",
    b"%PDF-": "a PDF",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0": "a Microsoft Office file",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet file",
}


def given_path(text: str) -> str:
    """Remove quotes around a path and expand `~`.

    Args:
        text: The path as the user gave it.

    Returns:
        A string.

    Example:

    >>> given_path("'my text.txt'")
    'my text.txt'
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return os.path.expanduser(text)


def text_file(
    path: str | os.PathLike,
    kind: str = "text",
    encoding: str | None = None,
    notes: Notes | None = None,
    *,
    setting: bool = False,
) -> str:
    """Read a text file, with or without a byte order mark, and unpack it if it is gzipped.

    Args:
        path: Path of the file; symbolic links are followed.
        kind: Beginning of messages, the argument that the path was given as.
        encoding: Encoding of the file; UTF-8 by default.
        notes: A `Notes` for remarks about the encoding, or `None`.
        setting: Whether the user can set the encoding; if so, messages suggest it.

    Returns:
        A string.

    Raises:
        ValueError: if the file cannot be read, is empty, is not in the encoding or contains a NUL
            character. The message names the file and the line, and the probable encoding with
            instructions for converting it.

    Example:

    >>> with open("greeting.txt", "w", encoding="gb18030") as file:
    ...     _ = file.write("你好")
    >>> text_file("greeting.txt", encoding="gb18030")
    '你好'
    """
    blocks, size = [], 0
    for block in text_blocks(path, kind, encoding, notes, setting=setting):
        blocks.append(block)
        size += len(block)
        if size > _MAX_UNPACKED and is_packed(path):
            raise ValueError(
                f"{kind}: {str(path)!r} has more than {_MAX_UNPACKED:,} characters when unpacked; "
                "unpack it"
            )
    text = "".join(blocks)
    if not text.strip():
        raise ValueError(f"{kind}: {str(path)!r} is empty")
    return text


def text_blocks(
    path: str | os.PathLike,
    kind: str = "text",
    encoding: str | None = None,
    notes: Notes | None = None,
    *,
    setting: bool = False,
) -> Iterator[str]:
    """Read a text file of any size as `text_file` does, about a megabyte at a time.

    Args:
        path: As for `text_file`.
        kind: As for `text_file`.
        encoding: As for `text_file`.
        notes: As for `text_file`; the remarks are made at the end of the file.
        setting: As for `text_file`.

    Yields:
        Strings that together are the text, which may be empty. They can be cleaned one by one, see
        `bigmodels.data.cleaning.last_cut`, and end with a line feed if they can.

    Raises:
        ValueError: as `text_file`, except for an empty file.

    Example:

    >>> with open("greeting.txt", "w") as file:
    ...     _ = file.write("hello")
    >>> list(text_blocks("greeting.txt"))
    ['hello']
    """
    path = pathlib.Path(path)
    decoder = _Decoder(path, f"{kind}: {str(path)!r}", encoding, setting)
    rest = ""
    for raw, is_last in raw_blocks(path, decoder.where):
        rest += decoder.decode(raw, is_last)
        decoder.check(rest)
        place = len(rest) if is_last else last_cut(rest)
        block, rest = rest[:place], rest[place:]
        decoder.count(block)
        if block:
            yield block
    if notes is not None:
        decoder.note(notes)


def is_packed(path: str | os.PathLike) -> bool:
    """Whether a file is gzipped.

    Args:
        path: Path of the file.

    Returns:
        A bool.

    Raises:
        OSError: if it cannot be read.

    Example:

    >>> with open("greeting.txt", "w") as file:
    ...     _ = file.write("hello")
    >>> is_packed("greeting.txt")
    False
    """
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def raw_blocks(path: pathlib.Path, where: str) -> Iterator[tuple[bytes, bool]]:
    """Read a file of plain text in blocks, and unpack it if it is gzipped.

    Args:
        path: A `pathlib.Path`.
        where: Beginning of messages, which names the file.

    Yields:
        `(block, is_last)`; at least one block, which is empty if the file is.

    Raises:
        ValueError: if the file cannot be read or is in a format that is not plain text.

    Example:

    >>> path = pathlib.Path("greeting.txt")
    >>> _ = path.write_text("hello")
    >>> list(raw_blocks(path, "text: 'greeting.txt'"))
    [(b'hello', True)]
    """
    try:
        if not path.is_file():
            raise ValueError(f"{where} is not a file")
        packed = is_packed(path)
        file = gzip.open(path) if packed else open(path, "rb")
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    with file:
        block = None
        while block != b"":
            try:
                following = file.read(BLOCK_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                problem = f"unpacked: {error}" if packed else f"read: {error.strerror}"
                raise ValueError(f"{where} cannot be {problem}") from None
            if block is not None:
                yield block, not following
            else:
                _check_format(following, where)
                if not following:
                    yield b"", True
            block = following


def _check_format(start, where):
    for mark, kind in _OTHERS.items():
        if start.startswith(mark):
            raise ValueError(f"{where} is {kind}, expected plain text; save it as UTF-8 text")


def check_marks(text: str, where: str, line: int = 1) -> None:
    """Refuse a text with more than 1000 combining marks in a row.

    Args:
        text: A string.
        where: Beginning of the message.
        line: Number of the text's first line.

    Raises:
        ValueError: naming the line.

    Example:

    >>> check_marks("e\\u0301", "text: 'greeting.txt'")
    """
    # A longer run contains one of every thousand characters.
    if not any(map(unicodedata.combining, text[::_MAX_MARKS])):
        return
    marks = "".join(c for c in set(text) if unicodedata.combining(c))
    if run := re.search(f"[{re.escape(marks)}]{{{_MAX_MARKS}}}", text):
        raise ValueError(
            f"{where}, line {line + text.count(chr(10), 0, run.start())}: more than {_MAX_MARKS} "
            "combining marks in a row, which is not text"
        )


def all_files(argument: str, directory: str | os.PathLike) -> list[pathlib.Path]:
    """List the files below a directory that are not hidden, sorted.

    Args:
        argument: Beginning of messages.
        directory: Path of the directory.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: if a folder cannot be listed; the message names it.

    Example:

    >>> import pathlib
    >>> pathlib.Path("notes").mkdir()
    >>> for name in ("b.txt", "a.md", ".hidden"):
    ...     pathlib.Path("notes", name).touch()
    >>> [path.name for path in all_files("text", "notes")]
    ['a.md', 'b.txt']
    """

    def fail(error):
        raise ValueError(f"{argument}: {error.filename!r} cannot be listed: {error.strerror}")

    return sorted(
        pathlib.Path(where, name)
        for where, _, names in os.walk(directory, onerror=fail)
        for name in names
        if not name.startswith(".")
    )


class _Decoder:
    """Decodes and checks a text file block by block, and counts what is worth a note."""

    def __init__(self, path, where, encoding, setting):
        encodings.check_encoding("data.encoding", encoding)
        self.path, self.where, self.encoding, self.setting = path, where, encoding, setting
        self._decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
        # Whether the bytes are ASCII, and whether they are UTF-8 too.
        self._ascii, self._utf8 = True, codecs.getincrementaldecoder("utf-8")()
        self._raw, self._offset, self._line = b"", 0, 1
        self._lost, self._first_lost = 0, None

    def decode(self, raw, is_last):
        """The text of a block of bytes."""
        is_first = not self._offset
        if is_first and not self.encoding and (name := encodings.marked(raw)):
            raise ValueError(f"{self.where} is {name}, expected UTF-8; {self._advice(name)}")
        self._raw = raw
        try:
            text = self._decoder.decode(raw, is_last)
        except UnicodeDecodeError as error:
            raise self._not_decoded(error) from None
        if self.encoding:
            self._ascii = self._ascii and raw.isascii()
            self._try_utf8(raw, is_last)
        self._offset += len(raw)
        # A byte order mark.
        return text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") if is_first else text

    def check(self, text):
        """Refuse what is not text; `text` begins in the current line."""
        if "\0" in text:
            looks = "" if self.encoding else encodings.likely(self._raw)
            hint = f"; it looks like {looks}: {self._advice(looks)}" if looks else ""
            line = self._line_at(text, text.index("\0"))
            raise ValueError(f"{self.where}, line {line}: NUL character{hint}")
        if not self.encoding and "\x1b$" in text:
            looks = "ISO-2022-JP"
            raise ValueError(f"{self.where} looks like {looks}: {self._advice(looks)}")
        check_marks(text, self.where, self._line)

    def count(self, block):
        """Count a block that was checked."""
        if _LOST in block:
            if not self._lost:
                self._first_lost = self._line_at(block, block.index(_LOST))
            self._lost += block.count(_LOST)
        self._line += block.count("\n")

    def note(self, notes):
        """Note characters that were lost, and how the file was decoded."""
        if self._lost:
            notes.say(
                f"{self.where} has {self._lost:,} replacement characters U+FFFD, the first in line "
                f"{self._first_lost}: the original characters were lost in a conversion."
            )
        if not self.encoding or self._ascii:
            return
        said = f"{self.where} is read as {self.encoding}, as data.encoding says"
        if self._utf8 is None:
            notes.say(f"{said}.")
        elif codecs.lookup(self.encoding).name != "utf-8":
            notes.say(f"{said}, but is valid UTF-8 too.")

    def _try_utf8(self, raw, is_last):
        try:
            if self._utf8 is not None:
                self._utf8.decode(raw, is_last)
        except UnicodeDecodeError:
            self._utf8 = None

    def _not_decoded(self, error):
        # `error.object` may begin with bytes of the block before.
        raw, place = error.object, error.start
        before = raw[:place].decode(self.encoding or "utf-8", "replace")
        offset = self._offset - (len(raw) - len(self._raw)) + place
        message = (
            f"{self.where}, line {self._line_at(before, len(before))}: byte 0x{raw[place]:02x} is "
            f"not {self.encoding or 'UTF-8'} (offset {offset})"
        )
        if looks := encodings.likely(raw, place):
            message += f"; it looks like {looks}: {self._advice(looks)}"
        return ValueError(message)

    def _advice(self, encoding):
        return encodings.conversion(encoding, self.path, self.setting)

    def _line_at(self, text, place):
        return self._line + text.count("\n", 0, place)
