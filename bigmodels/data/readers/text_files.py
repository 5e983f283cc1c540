"""Read text files: a single file, or all files of a directory."""

import codecs
import gzip
import os
import pathlib
import re
import unicodedata
import zlib

from bigmodels.data.files import is_junk, named_like
from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, encodings, register
from bigmodels.data.splits import split_named

# Unicode normalisation takes quadratic time in the length of a run; no language needs ten.
_MAX_MARKS = 1000
# Size limit of a gzip file after unpacking.
_MAX_UNPACKED_BYTES = 1 << 28
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
    text = _text(path, kind, encoding, notes, setting)
    if not text.strip():
        raise ValueError(f"{kind}: {str(path)!r} is empty")
    return text


def read_text(
    where: str,
    encoding: str | None = None,
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> str | dict[str, str]:
    """Read a text file, or all text files of a directory.

    Args:
        where: Path, as the user gave it.
        encoding: As for `text_file`.
        skip_bad_files: As for `text_folder`.
        notes: As for `text_folder`.

    Returns:
        As `text_file` or `text_folder`.

    Raises:
        ValueError: if a file cannot be read; the message names it.

    Example:

    >>> with open("greeting.txt", "w") as file:
    ...     _ = file.write("hello")
    >>> read_text("greeting.txt")
    'hello'
    """
    path = given_path(where)
    if not path:
        raise ValueError(
            f"dataset: 'text:{where}' does not name a file; give text:FILE or text:DIR"
        )
    if os.path.isdir(path):
        return text_folder(path, encoding, skip_bad_files, notes)
    return text_file(path, encoding=encoding, notes=notes, setting=True)


def text_folder(
    directory: str | os.PathLike,
    encoding: str | None = None,
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> str | dict[str, str]:
    """Read all .txt files below a directory, in order.

    Args:
        directory: Path of the directory.
        encoding: As for `text_file`.
        skip_bad_files: Whether to leave out files that are not text. Otherwise the first one is an
            error.
        notes: A `Notes` about which files are read and which are left out; by default a new one.

    Returns:
        A string in which files are separated by an empty line. If all files or their folders are
        named like splits (`train.txt`, `ptb.valid.txt`, `test/a.txt`), a dict of such strings by
        split.

    Raises:
        ValueError: if there is no .txt file, or a file is not text; the message names it.

    Example:

    >>> import pathlib
    >>> pathlib.Path("texts").mkdir()
    >>> for name in ("train.txt", "test.txt"):
    ...     _ = pathlib.Path("texts", name).write_text(f"some text for {name}")
    >>> text_folder("texts")["test"]
    'some text for test.txt'
    """
    notes = Notes() if notes is None else notes
    where = f"text: {str(directory)!r}"
    named = named_like("text", pathlib.Path(directory), (".txt",))
    hidden = [p for p in named if any(map(is_junk, p.relative_to(directory).parts))]
    notes.leave_out("text", "hidden and system files", hidden)
    found = [path for path in named if path not in hidden]
    if not found:
        raise ValueError(f"{where} contains no .txt file")
    texts, bad, empty = {}, {}, []
    for path in found:
        try:
            texts[path] = _text(path, "text", encoding, notes, True)
        except ValueError as error:
            if not skip_bad_files:
                raise
            bad[path] = str(error).removeprefix(f"text: {str(path)!r}").lstrip(" ,")
        else:
            if not texts[path].strip():
                empty.append(path)
                del texts[path]
    notes.leave_out("text", "bad files", bad)
    notes.leave_out("text", "empty files", empty)
    if not texts:
        raise ValueError(f"{where} contains no valid .txt file")
    names = [str(path.relative_to(directory)) for path in texts]
    more = f", ..., {names[-1]!r}" if len(names) > 4 else ""
    shown = ", ".join(map(repr, names[: 3 if more else 4]))
    others = [path for path in all_files("text", directory) if path.suffix.lower() != ".txt"]
    others = [path for path in others if path not in hidden]
    notes.leave_out("text", "files that are not named .txt", others)
    splits = [_split_of(path.relative_to(directory)) for path in texts]
    given = "train" in splits and None not in splits
    as_what = "one text, in this order" if not given else "its splits, by their names"
    notes.say(f"{where}: {len(names):,} .txt files are {as_what}: {shown}{more}.")
    if given:
        parts = {split: [] for split in splits}
        for split, text in zip(splits, texts.values(), strict=True):
            parts[split].append(text)
        return {split: _joined(part) for split, part in parts.items()}
    return _joined(texts.values())


def _split_of(path):
    """The split that a file's outermost folder, its name or the end of its name stands for."""
    name = path.parts[0] if len(path.parts) > 1 else path.stem
    return split_named(name) or split_named(name.rpartition(".")[2])


def _joined(texts):
    first, *more = texts
    return "\n\n".join(text.strip("\r\n") for text in texts) if more else first


def _text(path, kind, encoding, notes, setting):
    path = pathlib.Path(path)
    where = f"{kind}: {str(path)!r}"
    encodings.check_encoding("data.encoding", encoding)
    raw = _contents(path, where)
    text = _decoded(raw, where, path, encoding, setting)
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # As a byte order mark.
    if "\0" in text:
        place = text.index("\0")
        looks = "" if encoding else encodings.likely(raw)
        hint = f"; it looks like {looks}: {_advice(looks, path, setting)}" if looks else ""
        raise ValueError(f"{where}, line {_line(text, place)}: NUL character{hint}")
    if not encoding and "\x1b$" in text:
        looks = "ISO-2022-JP"
        raise ValueError(f"{where} looks like {looks}: {_advice(looks, path, setting)}")
    marks = "".join(c for c in set(text) if unicodedata.combining(c))
    if marks and (run := re.search(f"[{re.escape(marks)}]{{{_MAX_MARKS}}}", text)):
        raise ValueError(
            f"{where}, line {_line(text, run.start())}: more than {_MAX_MARKS} "
            "combining marks in a row, which is not text"
        )
    if notes is not None:
        _note(notes, where, raw, text, encoding)
    return text


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


def _contents(path, where):
    try:
        if not path.is_file():
            raise ValueError(f"{where} is not a file")
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    for mark, kind in _OTHERS.items():
        if raw.startswith(mark):
            raise ValueError(f"{where} is {kind}, expected plain text; save it as UTF-8 text")
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        with gzip.open(path) as packed:
            raw = packed.read(_MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} cannot be unpacked: {error}") from None
    if len(raw) > _MAX_UNPACKED_BYTES:
        raise ValueError(
            f"{where} has more than {_MAX_UNPACKED_BYTES:,} bytes when unpacked; unpack it"
        )
    return raw


def _decoded(raw, where, path, encoding, setting):
    if not encoding and (name := encodings.marked(raw)):
        raise ValueError(f"{where} is {name}, expected UTF-8; {_advice(name, path, setting)}")
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        place = error.start
    before = raw[:place].decode(encoding or "utf-8", "replace")
    message = (
        f"{where}, line {_line(before, len(before))}: byte 0x{raw[place]:02x} is not "
        f"{encoding or 'UTF-8'} (offset {place})"
    )
    if looks := encodings.likely(raw, place):
        message += f"; it looks like {looks}: {_advice(looks, path, setting)}"
    raise ValueError(message)


def _advice(encoding, path, setting):
    return encodings.conversion(encoding, path, setting)


def _note(notes, where, raw, text, encoding):
    if _LOST in text:
        notes.say(
            f"{where} has {text.count(_LOST):,} replacement characters U+FFFD, the first in line "
            f"{_line(text, text.index(_LOST))}: the original characters were lost in a conversion."
        )
    if not encoding or raw.isascii():
        return
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        notes.say(f"{where} is read as {encoding}, as data.encoding says.")
    else:
        if codecs.lookup(encoding).name == "utf-8":
            return
        notes.say(f"{where} is read as {encoding}, as data.encoding says, but is valid UTF-8 too.")


def _line(text, place):
    """The number of the line at an offset of a text."""
    return text.count("\n", 0, place) + 1


register(
    Source("text", "FILE", "text", "your text, or text:DIR: all .txt files below it", read_text)
)
