"""A text as a stream of documents, of any size, and its splits."""

import collections
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bigmodels.data.notes import Notes
from bigmodels.data.progress import Progress

# With fewer documents, they are cut as one text.
FEWEST_DOCUMENTS = 20
# Between documents that are one text.
SEPARATOR = "\n\n"
# Where the test and the validation text begin, as shares of the text.
_BEGINS = {"test": 0.95, "validation": 0.9}
# Documents whose hashes decide about the shares; of more documents the first ones suffice.
_MOST_HASHES = 1 << 20


class Piece(NamedTuple):
    """A piece of a document.

    Attributes:
        split: "train", "validation" or "test", or `None` if the source does not name the splits.
        text: A string.
        ends: Whether it is the last piece of its document.
    """

    split: str | None
    text: str
    ends: bool


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text that is read in pieces, from the beginning as often as needed.

    Args:
        read: Function of a `Notes` or `None` that returns an iterator of `Piece`. The notes say
            what is left out; they are given once.
        size: Number of bytes of the source, about.
        fingerprint: Function of a `Progress` that returns a hash, as bytes, of everything that
            `read` depends on.

    Example:

    >>> corpus = Corpus.of_texts("Once upon a time.")
    >>> [piece.text for piece in corpus.read(None)]
    ['Once upon a time.']
    """

    read: Callable[[Notes | None], Iterator[Piece]]
    size: int
    fingerprint: Callable[[Progress], bytes]

    @classmethod
    def of_texts(cls, texts: str | dict[str, str]) -> "Corpus":
        """A corpus of texts in memory.

        Args:
            texts: A text, or `{split: text}`.

        Returns:
            A `Corpus` with one document per split.
        """
        texts = {None: texts} if isinstance(texts, str) else texts

        def read(notes):
            return (Piece(split, text, True) for split, text in texts.items())

        def fingerprint(progress):
            return hashlib.blake2b(repr(texts).encode()).digest()

        return cls(read, sum(map(len, texts.values())), fingerprint)


class Splitter:
    """Divides a corpus into train, validation and test, which do not depend on a seed.

    Splits that the source names stay as they are. Otherwise a tenth of the documents is held out,
    half of it for validation and half for test, by a hash of each document's beginning: copies of a
    document are never in two splits. Fewer than 20 documents are cut as one text, of which the last
    tenth is held out: neighbouring passages share context and must not be in two splits.

    Args:
        corpus: A `Corpus`, all of which is read once.
        notes: A `Notes` about what is left out.
        progress: A `Progress`, which counts characters.

    Attributes:
        characters: Number of characters of all splits.

    Raises:
        ValueError: if a piece cannot be read, or there is no training text.

    Example:

    >>> corpus = Corpus.of_texts("abcdefghijklmnopqrst")
    >>> splitter = Splitter(corpus, Notes(), Progress("text: checking"))
    >>> {piece.split: piece.text for piece in splitter.read()}
    {'train': 'abcdefghijklmnopqr', 'validation': 's', 'test': 't'}
    """

    def __init__(self, corpus: Corpus, notes: Notes, progress: Progress):
        self._corpus = corpus
        characters, documents, hashes = (collections.defaultdict(kind) for kind in (int, int, list))
        for piece, begins in _beginnings(corpus.read(notes)):
            if begins and len(hashes[piece.split]) < _MOST_HASHES:
                hashes[piece.split].append(_hash(piece.text))
            characters[piece.split] += len(piece.text)
            documents[piece.split] += piece.ends
            progress.update(len(piece.text))
        self.characters = sum(characters.values())
        self._source = None if None in characters else "train"
        if self._source not in characters:
            raise ValueError(f"dataset: it has only {sorted(characters)}, expected a training text")
        self._by_document = documents[self._source] >= FEWEST_DOCUMENTS
        self._hashes = np.sort(np.array(hashes[self._source], "uint64"))
        joined = characters[self._source] + len(SEPARATOR) * (documents[self._source] - 1)
        self._cuts = self._places(len(self._hashes) if self._by_document else joined, characters)

    def read(self) -> Iterator[Piece]:
        """Read the corpus again, with the split of every piece.

        Returns:
            An iterator of `Piece`.
        """
        pieces = self._corpus.read(None)
        if not self._cuts:
            return pieces
        return self._documents(pieces) if self._by_document else self._one_text(pieces)

    def _places(self, total, given):
        """`(begin, end, split)` of the splits to be cut from the source, the last one first."""
        cuts, end = [], total
        for split, share in _BEGINS.items():
            if split not in given:
                begin = int((total if self._source is None else end) * share)
                cuts.append((begin, end if cuts else sys.maxsize, split))
                end = begin
        return cuts

    def _documents(self, pieces):
        """The pieces, with a split for each document of the source."""
        chosen = "train"
        for piece, begins in _beginnings(pieces):
            if piece.split != self._source:
                yield piece
                continue
            if begins:
                value = _hash(piece.text)
                limits = ((self._hashes[begin], split) for begin, _, split in self._cuts)
                chosen = next((split for least, split in limits if value >= least), "train")
            yield piece._replace(split=chosen)

    def _one_text(self, pieces):
        """The pieces, with the documents of the source joined, and cut at fixed places."""
        place, separator = 0, ""
        cuts = [*self._cuts, (0, self._cuts[-1][0], "train")]
        for piece in pieces:
            if piece.split != self._source:
                yield piece
                continue
            rest, separator = separator + piece.text, SEPARATOR if piece.ends else ""
            while rest:
                end, split = next((end, split) for begin, end, split in cuts if place >= begin)
                yield Piece(split, rest[: end - place], False)
                place, rest = min(place + len(rest), end), rest[end - place :]


def _beginnings(pieces):
    """Every piece, and whether its document begins with it."""
    begins = True
    for piece in pieces:
        yield piece, begins
        begins = piece.ends


def _hash(text):
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)
