"""Read a corpus: a text file, JSON Lines, or all text files of a directory."""

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator

from bigmodels.data.corpus import FEWEST_DOCUMENTS, Corpus, Piece
from bigmodels.data.files import is_junk, named_like
from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.readers.json_lines import SUFFIXES, BadLine, is_json_lines, json_documents
from bigmodels.data.readers.text_files import all_files, given_path, text_blocks
from bigmodels.data.splits import split_named

_HASHED_BYTES = 1 << 20
# Bad lines that a note names.
_NAMED = 3


def read_text(
    where: str,
    encoding: str | None = None,
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> Corpus:
    """Read a text file, JSON Lines, or all text files of a directory.

    Every file of a directory, and every line of JSON Lines, is a document. If all files of a
    directory, or their folders, are named like splits (`train.txt`, `ptb.valid.txt`,
    `test/a.jsonl`), they are the splits.

    Args:
        where: Path, as the user gave it.
        encoding: As for `text_file`.
        skip_bad_files: Whether to leave out files of a directory that are not text, and lines that
            hold no document. Otherwise the first one is an error.
        notes: A `Notes` about files that are not read. Which files are bad is noted by the corpus.

    Returns:
        A `Corpus`.

    Raises:
        ValueError: if there is no such file, or a directory has no text file. Bad files are found
            when the corpus is read.

    Example:

    >>> with open("greeting.txt", "w") as file:
    ...     _ = file.write("hello")
    >>> list(read_text("greeting.txt").read(None))
    [Piece(split=None, text='hello', ends=True)]
    """
    path = given_path(where)
    if not path:
        raise ValueError(
            f"dataset: 'text:{where}' does not name a file; give text:FILE or text:DIR"
        )
    if os.path.isdir(path):
        files = _files_below(pathlib.Path(path), Notes() if notes is None else notes)
    else:
        files = {pathlib.Path(path): None}
    reader = _Files(path, files, encoding, skip_bad_files)
    return Corpus(reader.read, reader.size, reader.fingerprint)


def _files_below(directory, notes):
    """`{file: split or None}` of the text files below a directory, in order."""
    where = f"text: {str(directory)!r}"
    for suffixes in ((".txt",), (*SUFFIXES, ".gz")):
        named = named_like("text", directory, suffixes)
        hidden = [path for path in named if any(map(is_junk, path.relative_to(directory).parts))]
        found = [path for path in named if path not in {*hidden}]
        found = [path for path in found if suffixes == (".txt",) or is_json_lines(path)]
        if found:
            break
    notes.leave_out("text", "hidden and system files", hidden)
    if not found:
        raise ValueError(f"{where} contains no .txt file and no .jsonl file")
    kind = ".jsonl" if is_json_lines(found[0]) else ".txt"
    empty = [path for path in found if os.path.isfile(path) and not path.stat().st_size]
    filled = [path for path in found if path not in {*empty}]
    notes.leave_out("text", "empty files", empty)
    used = {*found, *hidden}
    others = [path for path in all_files("text", directory) if path not in used]
    notes.leave_out("text", f"files that are not named {kind}", others)
    if not filled:
        raise ValueError(f"{where} contains no valid {kind} file")
    splits = [_split_of(path.relative_to(directory)) for path in filled]
    given = "train" in splits and None not in splits
    return dict(zip(filled, splits if given else [None] * len(filled), strict=True))


def _split_of(path):
    """The split that a file's outermost folder, its name or the end of its name stands for."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    name = path.parts[0] if len(path.parts) > 1 else stem
    return split_named(name) or split_named(name.rpartition(".")[2])


class _Files:
    """Reads files as the pieces of a corpus."""

    def __init__(self, where, files, encoding, skip_bad_files):
        self._where, self._files, self._encoding = where, files, encoding
        self._is_folder = os.path.isdir(where)
        self._skip = skip_bad_files
        # Files that are not the only one of their split are stripped.
        self._counts = collections.Counter(files.values())
        # Files to leave out; `None` before they are known.
        self._bad = None

    @property
    def size(self):
        """Number of bytes of all files; gzipped ones count four times."""
        return sum(
            path.stat().st_size * (4 if path.suffix.lower() == ".gz" else 1)
            for path in self._files
            if os.path.isfile(path)  # Otherwise reading it says what is wrong.
        )

    def fingerprint(self, progress):
        """A hash of all contents and of how they are read."""
        total = hashlib.blake2b(repr((self._encoding, self._skip, self._is_folder)).encode())
        for path, split in self._files.items():
            name = str(path.relative_to(self._where)) if self._is_folder else ""
            total.update(repr((name, is_json_lines(path), split)).encode())
            content = hashlib.blake2b()
            try:
                with open(path, "rb") as file:
                    while block := file.read(_HASHED_BYTES):
                        content.update(block)
                        progress.update(len(block))
            except OSError as error:
                raise ValueError(f"text: {str(path)!r} cannot be read: {error.strerror}") from None
            total.update(content.digest())
        return total.digest()

    def read(self, notes: Notes | None) -> Iterator[Piece]:
        """The pieces of all files; the first time, bad files are looked for."""
        bad, lines, good = {}, _BadLines(), {}
        for path, split in self._files.items():
            if self._bad is not None and path in self._bad:
                continue
            if self._bad is None and self._skip and self._is_folder and not is_json_lines(path):
                try:
                    for _ in text_blocks(path, encoding=self._encoding, setting=True):
                        pass
                except ValueError as error:
                    bad[path] = str(error).removeprefix(f"text: {str(path)!r}").lstrip(" ,")
                    continue
            for text, ends in self._documents(path, notes, lines):
                good[path] = split
                yield Piece(split, text, ends)
            if path not in good and not self._is_folder:
                raise ValueError(f"text: {str(path)!r} is empty")
        self._bad = self._files.keys() - good.keys()
        if notes is not None:
            self._note(notes, bad, lines, good)

    def _documents(self, path, notes, lines):
        """`(text, whether its document ends)` for every piece of a file."""
        if is_json_lines(path):
            for text in json_documents(path, self._encoding):
                if isinstance(text, BadLine) and not self._skip:
                    raise text
                if isinstance(text, BadLine) or not text.strip():
                    lines.add(text)
                else:
                    yield text, True
            return
        blocks = text_blocks(path, "text", self._encoding, notes, setting=True)
        if self._counts[self._files[path]] > 1:
            blocks = _stripped(blocks)
        yield from _with_last(_filled(blocks))

    def _note(self, notes, bad, lines, good):
        notes.leave_out("text", "bad files", bad)
        known = {*bad, *good}
        notes.leave_out("text", "empty files", [path for path in self._files if path not in known])
        lines.say(notes)
        if not self._is_folder:
            return
        where = f"text: {str(self._where)!r}"
        if not good:
            raise ValueError(f"{where} contains no valid text file")
        names = [str(path.relative_to(self._where)) for path in good]
        first = next(iter(good))
        more = f", ..., {names[-1]!r}" if len(names) > 4 else ""
        shown = ", ".join(map(repr, names[: 3 if more else 4]))
        if good[first]:
            what = "its splits, by their names"
        elif len(names) < FEWEST_DOCUMENTS and not is_json_lines(first):
            what = "one text, in this order"
        else:
            what = "documents, each in one split only"
        suffix = ".jsonl" if is_json_lines(first) else ".txt"
        notes.say(f"{where}: {len(names):,} {suffix} files are {what}: {shown}{more}.")


class _BadLines:
    """Counts lines that are left out."""

    def __init__(self):
        self._bad, self._count, self._empty = {}, 0, 0

    def add(self, line):
        if not isinstance(line, BadLine):
            self._empty += 1
            return
        self._count += 1
        if len(self._bad) < _NAMED:
            self._bad[line.place] = line.reason

    def say(self, notes):
        notes.leave_out("text", "lines without a document", self._bad, self._count)
        if self._empty:
            notes.say(f"text: {self._empty:,} documents without text are left out.")


def _with_last(items: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Every item, and whether it is the last one."""
    items = iter(items)
    for item in items:
        for following in items:
            yield item, False
            item = following
        yield item, True


def _filled(blocks):
    """The blocks, or nothing if they are white space only."""
    waiting = ""
    for block in blocks:
        waiting += block
        if waiting.strip():
            yield waiting
            break
    yield from blocks


def _stripped(blocks):
    """The blocks without line ends at the beginning and the end of their text."""
    waiting, begins = "", True
    for block in blocks:
        block = block.lstrip("\r\n") if begins else block
        if not block:
            continue
        begins = False
        text = (waiting + block).rstrip("\r\n")
        waiting = (waiting + block)[len(text) :]
        if text:
            yield text


register(
    Source(
        "text",
        "FILE",
        "text",
        "your text, a .jsonl file with a text a line, or text:DIR: all .txt or .jsonl files",
        read_text,
    )
)
