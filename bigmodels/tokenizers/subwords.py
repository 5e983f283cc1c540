"""Subword tokenizer that works in Python and in exported graphs."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.messages import short_repr

# Stands for the space before a word, as in SentencePiece (Kudo and Richardson, 2018).
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# A word or a single other character, with the space before it; pieces never span two chunks.
_LETTER = r"\p{L}\p{M}\p{N}"
_CHUNK = f"{SPACE}?(?:[{_LETTER}]+|[^{SPACE}{_LETTER}])|{SPACE}"
# Separates chunks; it cannot occur in a text, as control characters are treated as white space.
_CUT = "\x1f"
# Longer words are split, as the time for a word grows with the square of its length.
_LONG_WORD = f"[^{_CUT}]{{30}}"
# Number of texts processed at once.
_AT_ONCE = 10_000


class Subwords:
    r"""Subword tokenizer, trained by byte-pair encoding (Sennrich et al., 2016).

    Ids 0 to 3 are padding, unknown, start and end; the pieces follow. A text is split into words
    and other characters, and each word greedily, from left to right, into the longest known pieces;
    an unknown character gets the unknown id. A space belongs to the word after it, so that joining
    the pieces restores the text. Runs of white space become one space, and white space around a
    text is removed.

    Args:
        pieces: Non-empty strings without duplicates, with U+2581 for a space.

    Raises:
        ValueError: naming the piece that is invalid.

    Example:

    >>> subwords = Subwords(["\u2581", "a", "b", "\u2581ab"])
    >>> ids = subwords.encode(["ab b"])
    >>> ids.to_list()
    [[7, 4, 6]]
    >>> subwords.decode(ids).numpy()
    array([b'ab b'], dtype=object)
    """

    PADDING, UNKNOWN, START, END = range(4)

    def __init__(self, pieces: Iterable[str]):
        self.pieces = tuple(pieces)
        for piece, count in collections.Counter(self.pieces).items():
            if not isinstance(piece, str) or not piece or count > 1:
                raise ValueError(
                    f"pieces: {short_repr(piece)}, expected non-empty strings without duplicates"
                )
        # Sorted by hash, so that a graph can find pieces without a lookup table.
        names = np.array([piece.encode() for piece in self.pieces], object)
        with tf.init_scope():
            hashes = _hashed(tf.constant(names, "string")).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise ValueError(
                f"pieces: two of {len(hashes)} have the same hash, expected different hashes; "
                "remove one"
            )
        self._hashes, self._names = hashes[order], names[order]
        self._ids = (order + 4).astype("int32")
        self._sizes = np.array(sorted({len(piece) for piece in self.pieces}), "int32")

    @classmethod
    def fit(cls, texts: Sequence[str], vocab_size: int) -> Self:
        """Learn pieces from training texts by byte-pair encoding, with the `tokenizers` package.

        Args:
            texts: List of strings.
            vocab_size: Maximum number of token ids. All characters of the texts are included, even
                if there are more.

        Returns:
            `Subwords`, always the same for the same texts.

        Raises:
            ValueError: if pieces longer than a character are needed and `tokenizers` is not
                installed.
        """
        chunks = [chunk for part in _parts(texts) for chunk in cls._chunks(part)[1].numpy()]
        counts = collections.Counter(chunk.decode() for chunk in chunks)
        characters = sorted({character for chunk in counts for character in chunk})
        if vocab_size <= 4 + len(characters):
            return cls(characters)
        wanted = f"vocab_size: {vocab_size}, more than the text's {len(characters)} characters,"
        with extras.require_extra(wanted, "translation"):
            import tokenizers
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.Split(_CUT, "removed")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - 4, initial_alphabet=characters, show_progress=False
        )
        # The counts, and so the merges, do not depend on the order.
        model.train_from_iterator(
            (_CUT.join([chunk] * count) for chunk, count in sorted(counts.items())), trainer
        )
        ids = model.get_vocab()
        return cls(sorted(ids, key=ids.get))

    def __len__(self) -> int:
        """Number of token ids, including the four reserved ones."""
        return len(self.pieces) + 4

    def encode(self, texts: Any) -> tf.RaggedTensor:
        """Convert texts to token ids; works in a graph too.

        Args:
            texts: UTF-8 strings, `(batch,)`.

        Returns:
            `tf.RaggedTensor` of int32, `(batch, None)`.
        """
        texts = tf.convert_to_tensor(texts, "string")
        if tf.executing_eagerly() and len(texts) > _AT_ONCE:
            return tf.concat([self.encode(part) for part in _parts(texts)], 0)
        row_of_chunk, chunks = self._chunks(texts)
        # Repeated words are split only once.
        chunks, which = tf.unique(chunks)
        ids = tf.gather(self._cut(chunks), which)  # Ragged, (chunks, None).
        by_text = tf.RaggedTensor.from_value_rowids(ids, row_of_chunk, tf.size(texts, tf.int64))
        return by_text.merge_dims(1, 2)

    def decode(self, ids: Any) -> tf.Tensor:
        """Convert token ids to texts; works in a graph too.

        Args:
            ids: int32 `(batch, length)`, dense or ragged.

        Returns:
            UTF-8 strings `(batch,)`, without padding, start and end, and with U+FFFD for unknown
            characters.
        """
        names = tf.constant(["", "\N{REPLACEMENT CHARACTER}", "", "", *self.pieces])
        texts = tf.strings.reduce_join(tf.gather(names, ids), -1)
        return tf.strings.strip(tf.strings.regex_replace(texts, SPACE, " "))

    @staticmethod
    def _chunks(texts):
        """Split texts into chunks: their row numbers and strings, int64 and `(chunks,)`."""
        texts = tf.strings.regex_replace(texts, rf"[\s\p{{Z}}\p{{C}}{SPACE}]+", " ")
        texts = tf.strings.regex_replace(tf.strings.strip(texts), " ", SPACE)
        texts = tf.strings.regex_replace(texts, "^.", rf"{SPACE}\0")
        for chunk in (_CHUNK, _LONG_WORD):
            texts = tf.strings.regex_replace(texts, chunk, rf"\0{_CUT}")
        chunks = tf.strings.split(texts, _CUT)
        full = tf.ragged.boolean_mask(chunks, chunks != "")
        return full.value_rowids(), full.values

    def _cut(self, chunks):
        """Split chunks into the longest known pieces: their ids, ragged `(chunks, None)`."""
        sizes = tf.constant(self._sizes)

        def one_piece(rest, ids):
            left = tf.strings.length(rest, unit="UTF8_CHAR")
            # (chunks, sizes): the beginning of each chunk, of every piece length.
            shape = tf.stack([tf.size(rest), tf.size(sizes)])
            beginnings = tf.strings.substr(
                tf.broadcast_to(rest[:, None], shape),
                tf.zeros(shape, "int32"),
                tf.broadcast_to(sizes, shape),
                unit="UTF8_CHAR",
            )
            place = tf.searchsorted(self._hashes, tf.reshape(_hashed(beginnings), [-1]))
            place = tf.reshape(tf.minimum(place, len(self._hashes) - 1), shape)
            known = (tf.gather(self._names, place) == beginnings) & (sizes <= left[:, None])
            longest = tf.shape(sizes)[0] - 1 - tf.argmax(known[:, ::-1], 1, tf.int32)
            new = tf.gather(self._ids, tf.gather(place, longest, batch_dims=1))
            any_known = tf.reduce_any(known, 1)
            new = tf.where(any_known, new, self.UNKNOWN)
            new = tf.where(left > 0, new, self.PADDING)
            size = tf.minimum(tf.where(any_known, tf.gather(sizes, longest), 1), left)
            rest = tf.strings.substr(rest, size, left - size, unit="UTF8_CHAR")
            return rest, tf.concat([ids, new[:, None]], 1)

        _, ids = tf.while_loop(
            lambda rest, _: tf.reduce_any(rest != ""),
            one_piece,
            (chunks, tf.zeros((tf.size(chunks), 0), "int32")),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None, None])),
        )
        return tf.ragged.boolean_mask(ids, ids != self.PADDING)


def _hashed(strings):
    return tf.strings.to_hash_bucket_fast(strings, 2**63 - 1)


def _parts(texts):
    return [texts[i : i + _AT_ONCE] for i in range(0, len(texts), _AT_ONCE)]
