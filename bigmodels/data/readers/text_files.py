"""The user's own texts: a file, or all of a directory."""

import codecs
import gzip
import os
import pathlib
import re
import unicodedata
import zlib

from bigmodels.data.files import is_junk, named_like
from bigmodels.data.readers import Source, encodings, register
from bigmodels.data.splits import split_named

# Unicode's normal form takes the square of such a run's length; no language needs ten.
_MAX_MARKS = 1000
# Of what is packed.
_MAX_UNPACKED_BYTES = 1 << 28
_LOST = "\N{REPLACEMENT CHARACTER}"
# What is often taken for text.
_OTHERS = {
    b"PK\3\4": "a zip archive, as .xlsx and .docx files are",
    b"%PDF-": "a PDF",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0": "a Microsoft Office file",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet file",
}


def given_path(text):
    """The path that a user means: in quotes or not, `~` is their home.

    Args:
        text: As it was given.

    Returns:
        A string.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return os.path.expanduser(text)


def text_file(path, kind="text", encoding=None, notes=None, *, setting=False):
    """A text file in UTF-8, with or without a byte order mark, packed with gzip or not.

    Args:
        path: Path; symbolic links are followed.
        kind: What the user calls it, for messages.
        encoding: The encoding if it is not UTF-8.
        notes: A `Notes`, told what the file looks like beside its encoding; or `None`.
        setting: Whether the user can set the encoding, for messages.

    Returns:
        A string.

    Raises:
        ValueError: naming the file, and the line if it is not UTF-8 or holds a NUL character; of
            another encoding it says which it looks like, and how to convert it.
    """
    text = _text(path, kind, encoding, notes, setting)
    if not text.strip():
        raise ValueError(f"{kind}: {str(path)!r} is empty")
    return text


def read_text(where, encoding=None, skip_bad_files=False, notes=None):
    """A text file, or all of a directory.

    Args:
        where: Path, as the user gave it.
        encoding: As for `text_file`.
        skip_bad_files: As for `text_folder`.
        notes: As for `text_folder`.

    Returns:
        As `text_file` or `text_folder`.

    Raises:
        ValueError: naming what cannot be read.
    """
    path = given_path(where)
    if not path:
        raise ValueError(f"dataset: 'text:{where}' names no file; give text:FILE or text:DIR")
    if os.path.isdir(path):
        return text_folder(path, encoding, skip_bad_files, notes)
    return text_file(path, encoding=encoding, notes=notes, setting=True)


def text_folder(directory, encoding=None, skip_bad_files=False, notes=None):
    """The texts of all files below a directory whose names end with .txt, in order.

    Args:
        directory: Path.
        encoding: As for `text_file`.
        skip_bad_files: Whether files that are no texts are left out; else the first is an error.
        notes: A `Notes`, told which files are read and which are left out.

    Returns:
        A string, in which an empty line divides two files; or, if all files or their folders are
        named as splits are (`train.txt`, `ptb.valid.txt`, `test/a.txt`), a dict of such by split.

    Raises:
        ValueError: naming the directory that holds no such file, or the file that is no text.
    """
    where = f"text: {str(directory)!r}"
    every = named_like("text", pathlib.Path(directory), (".txt",))
    hidden = [p for p in every if any(map(is_junk, p.relative_to(directory).parts))]
    notes.leave_out("text", "hidden and system files", hidden)
    found = [path for path in every if path not in hidden]
    if not found:
        raise ValueError(f"{where} holds no .txt file")
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
        raise ValueError(f"{where} holds no .txt file that is a text")
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
    """The split that a file's outermost folder, or its name or the end of that, says."""
    name = path.parts[0] if len(path.parts) > 1 else path.stem
    return split_named(name) or split_named(name.rpartition(".")[2])


def _joined(texts):
    first, *more = texts
    return "\n\n".join(text.strip("\r\n") for text in texts) if more else first


def _text(path, kind, encoding, notes, setting):
    path = pathlib.Path(path)
    where = f"{kind}: {str(path)!r}"
    encodings.check_encoding(encoding)
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
            "combining marks in a row are no text"
        )
    if notes is not None:
        _note(notes, where, raw, text, encoding)
    return text


def all_files(argument, directory):
    """The files below a directory that are not hidden, in order.

    Args:
        argument: What a message begins with.
        directory: Path.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: naming the folder that cannot be listed.
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
            f"{where} holds more than {_MAX_UNPACKED_BYTES:,} bytes, packed; unpack it"
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
            f"{_line(text, text.index(_LOST))}: what stood there was lost when it was converted."
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
        notes.say(f"{where} is read as {encoding}, as data.encoding says, but is UTF-8 as well.")


def _line(text, place):
    """The number of the line in which a place of a text is."""
    return text.count("\n", 0, place) + 1


register(
    Source("text", "FILE", "text", "your text, or text:DIR: all .txt files below it", read_text)
)
