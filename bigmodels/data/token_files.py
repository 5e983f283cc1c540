"""A text as token ids, encoded once: in memory, or in files for texts of any size."""

import dataclasses
import io
import json
import pathlib

import numpy as np
import tensorflow as tf

from bigmodels.data.cleaning import Cleaning, UnknownCharacters
from bigmodels.data.corpus import SEPARATOR, Corpus, Splitter
from bigmodels.data.notes import Notes
from bigmodels.data.progress import Progress
from bigmodels.data.splits import SPLITS
from bigmodels.tokenizers import KINDS, Tokenizer, Vocabulary, from_config

# Part of the fingerprint of token files: another number makes new ones. Raise it with every change
# of what is read, cleaned, split or encoded.
VERSION = 1
# Characters that are encoded at once, in threads.
_AT_ONCE = 1 << 22
# Characters that a tokenizer with a choice of tokens is fitted on.
_FITTED = 1 << 26
_META = "tokens.json"


class Tokens:
    """The token ids of a split.

    Args:
        ids: uint16 or uint32 `(n,)`, or the path of a file with such numbers.
        documents: Offset of the first token of each document, uint64, or the path of a file.
        dtype: Dtype of the numbers in the file.
        size: Their number.

    Example:

    >>> tokens = Tokens(np.arange(10, dtype="uint16"), np.zeros(1, "uint64"))
    >>> tokens.windows(tf.constant([0, 5], "int64"), 3).numpy()
    array([[0, 1, 2],
           [5, 6, 7]], dtype=int32)
    """

    def __init__(
        self,
        ids: np.ndarray | pathlib.Path,
        documents: np.ndarray | pathlib.Path,
        dtype: str = "uint16",
        size: int | None = None,
    ):
        self._ids, self._dtype = ids, dtype
        self._documents = documents
        self._size = len(ids) if size is None else size
        if isinstance(ids, np.ndarray):
            self._constant = tf.constant(ids.astype("int32"))

    def __len__(self) -> int:
        """Number of tokens."""
        return self._size

    @property
    def documents(self) -> np.ndarray:
        """Offset of the first token of each document, uint64 `(documents,)`."""
        if isinstance(self._documents, np.ndarray):
            return self._documents
        return np.fromfile(self._documents, "uint64")

    def read(self, begin: int, end: int | None = None) -> np.ndarray:
        """Read consecutive tokens.

        Args:
            begin: Offset of the first one.
            end: Offset behind the last one; the end of the split by default.

        Returns:
            int32 `(end - begin,)`.
        """
        return self._all()[begin:end].astype("int32")

    def windows(self, starts: tf.Tensor, length: int) -> tf.Tensor:
        """Read windows of equal length; works in a graph too.

        Args:
            starts: Offset of the first token of each window, int64 `(batch,)`.
            length: Number of tokens of a window.

        Returns:
            int32 `(batch, length)`.
        """
        positions = starts[:, None] + tf.range(length, dtype="int64")  # (batch, length)
        if isinstance(self._ids, np.ndarray):
            return tf.gather(self._constant, positions)
        windows = tf.numpy_function(self._gather, [positions], tf.int32, stateful=False)
        return tf.ensure_shape(windows, positions.shape)

    def _gather(self, positions):
        return self._all()[positions].astype("int32")

    def _all(self):
        if isinstance(self._ids, np.ndarray):
            return self._ids
        # Mapped anew each time: pages that were read belong to the process until it is unmapped.
        return np.memmap(self._ids, self._dtype, "r", shape=(self._size,))


@dataclasses.dataclass(frozen=True)
class EncodedText:
    """A text as token ids.

    Attributes:
        splits: `{split: Tokens}` for train, validation and test.
        tokenizer: The `Tokenizer`, fitted on the training text only.
        unknown_share: `{split: share of unknown tokens}` for validation and test.
    """

    splits: dict[str, Tokens]
    tokenizer: Tokenizer
    unknown_share: dict[str, float]


def encode(
    corpus: Corpus,
    kind: str,
    vocab_size: int | None,
    notes: Notes,
    directory: pathlib.Path | None = None,
) -> EncodedText:
    """Clean, split and encode a corpus, of which only pieces are in memory at any time.

    Args:
        corpus: A `Corpus`.
        kind: Kind of the tokens, see `bigmodels.tokenizers.KINDS`.
        vocab_size: As for `Tokenizer.fit`.
        notes: A `Notes` about what is left out and changed.
        directory: An existing directory for the token files; `None` keeps the ids in memory.

    Returns:
        An `EncodedText`.

    Raises:
        ValueError: if the corpus cannot be read.

    Example:

    >>> encoded = encode(Corpus.of_texts("one two " * 100), "characters", None, Notes())
    >>> {split: len(tokens) for split, tokens in encoded.splits.items()}
    {'train': 720, 'validation': 40, 'test': 40}
    """
    with Progress("text: checking", corpus.size) as progress:
        splitter = Splitter(corpus, notes, progress)
    tokenizer = _fit(splitter, kind, vocab_size)
    dtype = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
    writers = {split: _Writer(split, directory, dtype) for split in SPLITS}
    cleaning, unknown = Cleaning(), {}
    if isinstance(tokenizer, Vocabulary):
        unknown = {s: UnknownCharacters(tokenizer.characters) for s in ("validation", "test")}
    with Progress("text: encoding", splitter.characters) as progress:
        for batch in _batches(_cleaned(splitter, cleaning)):
            ids_of_batch = tokenizer.encode_batch([piece.text for piece in batch])
            for piece, ids in zip(batch, ids_of_batch, strict=True):
                is_unknown = writers[piece.split].write(piece, ids, tokenizer)
                if piece.split in unknown:
                    unknown[piece.split].add(piece.text, is_unknown)
                progress.update(len(piece.text))
    cleaning.say(notes, "text")
    for split, characters in unknown.items():
        characters.say(notes, "text", f" of {split}")
    return EncodedText(
        {split: writer.tokens() for split, writer in writers.items()},
        tokenizer,
        {split: writers[split].unknown_share for split in ("validation", "test")},
    )


def save_meta(encoded: EncodedText, notes: Notes, directory: pathlib.Path) -> None:
    """Write beside token files what `load` needs besides.

    Args:
        encoded: What `encode` has returned.
        notes: Its notes.
        directory: The directory of the token files.
    """
    content = {
        "version": VERSION,
        "tokenizer": encoded.tokenizer.get_config(),
        "tokens": {split: len(tokens) for split, tokens in encoded.splits.items()},
        "unknown_share": encoded.unknown_share,
        "notes": notes.lines,
        "left_out": notes.left_out,
    }
    (directory / _META).write_text(json.dumps(content), encoding="utf-8")


def load(directory: pathlib.Path, notes: Notes) -> EncodedText | None:
    """Load token files.

    Args:
        directory: Where `encode` and `save_meta` have written them.
        notes: A `Notes`, which gets what the encoding noted.

    Returns:
        An `EncodedText`, or `None` if files are missing or damaged.
    """
    try:
        content = json.loads((directory / _META).read_text(encoding="utf-8"))
        tokenizer = from_config(content["tokenizer"])
        dtype = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
        splits = {
            split: _opened(split, directory, dtype, content["tokens"][split]) for split in SPLITS
        }
        shares = content["unknown_share"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for line in content["notes"]:
        notes.say(line)
    notes.left_out.update(content["left_out"])
    return EncodedText(splits, tokenizer, shares)


def _opened(split, directory, dtype, size):
    path = directory / f"{split}.tokens"
    if path.stat().st_size != size * np.dtype(dtype).itemsize:
        raise ValueError
    return Tokens(path, directory / f"{split}.documents", dtype, size)


def _fit(splitter, kind, vocab_size):
    """The tokenizer of the training text, or of pieces from all over it."""
    step = max(1, splitter.characters // _FITTED) if kind == "subwords" else 1
    with Progress("text: reading the vocabulary", splitter.characters) as progress:

        def texts():
            cleaning, documents, begins = Cleaning(), 0, True
            for number, piece in enumerate(splitter.read()):
                progress.update(len(piece.text))
                if piece.split == "train":
                    documents, begins = documents + begins, piece.ends
                    if number % step == 0:
                        yield cleaning.clean(piece.text)
            if documents > 1 and KINDS[kind].END is None:
                yield SEPARATOR

        return KINDS[kind].fit(texts(), vocab_size)


def _cleaned(splitter, cleaning):
    for piece in splitter.read():
        yield piece._replace(text=cleaning.clean(piece.text))


def _batches(pieces):
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Writer:
    """Writes the tokens of a split, and where its documents begin."""

    def __init__(self, split, directory, dtype):
        self._paths = [None, None]
        if directory is not None:
            self._paths = [directory / f"{split}.{what}" for what in ("tokens", "documents")]
        self._files = [open(path, "wb") if path else io.BytesIO() for path in self._paths]
        self._dtype, self._size, self._unknown = dtype, 0, 0
        self._begins = True

    def write(self, piece, ids, tokenizer):
        """Append the ids of a piece; returns whether there are unknown ones among them."""
        if self._begins:
            if self._size:
                self._append(_between(tokenizer))
            self._files[1].write(np.uint64(self._size).tobytes())
        self._begins = piece.ends
        unknown = 0
        if isinstance(tokenizer, Vocabulary):
            unknown = int(np.count_nonzero(ids == tokenizer.UNKNOWN))
        self._unknown += unknown
        self._append(ids)
        return unknown > 0

    @property
    def unknown_share(self):
        return self._unknown / self._size if self._size else 0.0

    def tokens(self):
        """The `Tokens` of all that was written."""
        contents = self._paths
        if self._paths[0] is None:
            kinds = (self._dtype, "uint64")
            contents = [
                np.array(memoryview(file.getvalue()).cast("B"), "uint8").view(kind)
                for file, kind in zip(self._files, kinds, strict=True)
            ]
        else:
            for file in self._files:
                file.close()
        return Tokens(*contents, self._dtype, self._size)

    def _append(self, ids):
        self._files[0].write(ids.astype(self._dtype).tobytes())
        self._size += len(ids)


def _between(tokenizer):
    """The tokens between two documents."""
    if tokenizer.END is None:
        return tokenizer.encode(SEPARATOR)
    return np.array([tokenizer.END])
