"""Read documents from JSON Lines: one object a line, with the text in its field `text`."""

import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterator

from bigmodels.data.readers.text_files import check_marks, is_packed

SUFFIXES = (".jsonl", ".ndjson")
FIELD = "text"
# Size limit of a line, as a line is held in memory.
MAX_LINE_BYTES = 1 << 26
# Reading stops at a line that is longer, unless such lines are left out.
_PART_BYTES = 1 << 20


class BadLine(ValueError):
    """A line that holds no document.

    Attributes:
        place: File and line, for example `"'a.jsonl', line 3"`.
        reason: What is wrong with it.

    Example:

    >>> str(BadLine("'a.jsonl', line 3", "it is not JSON"))
    "text: 'a.jsonl', line 3: it is not JSON"
    """

    def __init__(self, place: str, reason: str):
        super().__init__(f"text: {place}: {reason}")
        self.place, self.reason = place, reason


def is_json_lines(path: str | os.PathLike) -> bool:
    """Whether a file is named like JSON Lines, gzipped or not.

    Args:
        path: Path of the file.

    Returns:
        A bool.

    Example:

    >>> [is_json_lines(name) for name in ("a.jsonl", "a.JSONL.gz", "a.json")]
    [True, True, False]
    """
    name = pathlib.Path(path).name.lower()
    return name.removesuffix(".gz").endswith(SUFFIXES)


def json_documents(path: str | os.PathLike, encoding: str | None = None) -> Iterator[str | BadLine]:
    """Read the documents of a file, a line at a time; empty lines are skipped.

    Args:
        path: Path of the file.
        encoding: Its encoding; UTF-8 by default.

    Yields:
        The text of each line, which may be empty; or a `BadLine`, after which reading goes on.

    Raises:
        ValueError: if the file cannot be read; the message names it.

    Example:

    >>> with open("texts.jsonl", "w") as file:
    ...     _ = file.write('{"text": "one"}\\n{"body": "two"}\\n')
    >>> for document in json_documents("texts.jsonl"):
    ...     print(document)
    one
    text: 'texts.jsonl', line 2: no field 'text', but 'body'
    """
    path = pathlib.Path(path)
    for number, line in enumerate(_lines(path), 1):
        place = f"{str(path)!r}, line {number}"
        if line is None:
            yield BadLine(place, f"longer than {MAX_LINE_BYTES:,} bytes, expected shorter lines")
        elif not line.isspace():
            try:
                yield _text(line, encoding or "utf-8-sig", place)
            except ValueError as error:
                yield error if isinstance(error, BadLine) else BadLine(place, str(error))


def _lines(path):
    """The lines as bytes; `None` for one that is too long."""
    where = f"text: {str(path)!r}"
    try:
        if not path.is_file():
            raise ValueError(f"{where} is not a file")
        with gzip.open(path) if is_packed(path) else open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) <= MAX_LINE_BYTES:
                    yield line
                    continue
                while line and not line.endswith(b"\n"):
                    line = file.readline(_PART_BYTES)
                yield None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{where} cannot be read: {reason}") from None


def _text(line, encoding, place):
    try:
        content = json.loads(line.decode(encoding))
    except UnicodeDecodeError as error:
        reason = f"byte 0x{line[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}"
        raise BadLine(place, reason) from None
    except RecursionError:
        raise BadLine(place, "nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadLine(place, f"not JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(content, dict):
        raise BadLine(place, f"a {type(content).__name__}, expected an object")
    if FIELD not in content:
        names = ", ".join(map(repr, [*content][:3])) or "nothing"
        raise BadLine(place, f"no field {FIELD!r}, but {names}")
    text = content[FIELD]
    if not isinstance(text, str):
        raise BadLine(place, f"{FIELD!r} is a {type(text).__name__}, expected a string")
    if "\0" in text:
        raise BadLine(place, "NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadLine(place, "half of a surrogate pair") from None
    check_marks(text, place)
    return text
