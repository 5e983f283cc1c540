"""Text to the ids of words and pieces of words, and back, in Python and in exported graphs."""

import collections

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.messages import short_repr

# Stands for the space before a word, as in SentencePiece (Kudo and Richardson, 2018).
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# What no piece reaches beyond: a word or a single other character, with the space before it.
_LETTER = r"\p{L}\p{M}\p{N}"
_CHUNK = f"{SPACE}?(?:[{_LETTER}]+|[^{SPACE}{_LETTER}])|{SPACE}"
# Between two chunks; no text has it, as control characters are white space here.
_CUT = "\x1f"
# A longer word is cut into several, as the time that one takes grows by its square.
_LONG_WORD = f"[^{_CUT}]{{30}}"
_AT_ONCE = 10_000


class Subwords:
    r"""The pieces of text a model knows, each with a token id.

    Ids 0 to 3 are padding, unknown, start and end; the pieces follow. A text is cut into words and
    other characters, and each word, from its left, into the longest pieces there are; a character
    that is no piece is unknown. Spaces are part of the word that they precede, so that the pieces
    put together are the text again; runs of white space become one space, and that around a text is
    dropped.

    Args:
        pieces: Strings, each once, none of them empty, a space written as U+2581.

    Raises:
        ValueError: naming the piece that does not fit.
    """

    PADDING, UNKNOWN, START, END = range(4)

    def __init__(self, pieces):
        self.pieces = tuple(pieces)
        for piece, count in collections.Counter(self.pieces).items():
            if not isinstance(piece, str) or not piece or count > 1:
                raise ValueError(f"pieces: {short_repr(piece)} is not one string given once")
        # Ordered by a hash, so that a graph finds a piece without a table of its own to keep.
        names = np.array([piece.encode() for piece in self.pieces], object)
        with tf.init_scope():
            hashes = _hashed(tf.constant(names, "string")).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise ValueError(f"pieces: two of {len(hashes)} have the same hash; leave one out")
        self._hashes, self._names = hashes[order], names[order]
        self._ids = (order + 4).astype("int32")
        self._sizes = np.array(sorted({len(piece) for piece in self.pieces}), "int32")

    @classmethod
    def fit(cls, texts, vocab_size):
        """The pieces of training texts: all their characters, then the commonest pairs of pieces.

        This is byte-pair encoding (Sennrich et al., 2016) as the `tokenizers` package learns it.

        Args:
            texts: List of strings.
            vocab_size: How many token ids there are to be at most; as many as there are characters
                if that is more.

        Returns:
            `Subwords`, the same for the same texts.

        Raises:
            ValueError: if pieces longer than characters are wanted and `tokenizers` is missing.
        """
        chunks = [chunk for part in _parts(texts) for chunk in cls._chunks(part)[1].numpy()]
        counts = collections.Counter(chunk.decode() for chunk in chunks)
        characters = sorted({character for chunk in counts for character in chunk})
        if vocab_size <= 4 + len(characters):
            return cls(characters)
        what = f"vocab_size: {vocab_size}, more than the text's {len(characters)} characters,"
        with extras.require_extra(what, "translation"):
            import tokenizers
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.Split(_CUT, "removed")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - 4, initial_alphabet=characters, show_progress=False
        )
        # Its counts do not depend on the order, and neither do the pairs it joins.
        model.train_from_iterator(
            (_CUT.join([chunk] * count) for chunk, count in sorted(counts.items())), trainer
        )
        found = model.get_vocab()
        return cls(sorted(found, key=found.get))

    def __len__(self):
        """Number of token ids, the four special ones included."""
        return len(self.pieces) + 4

    def encode(self, texts):
        """Token ids of texts, also in a graph.

        Args:
            texts: UTF-8 strings, `(batch,)`.

        Returns:
            `tf.RaggedTensor` of int32, `(batch, None)`.
        """
        texts = tf.convert_to_tensor(texts, "string")
        if tf.executing_eagerly() and len(texts) > _AT_ONCE:
            return tf.concat([self.encode(part) for part in _parts(texts)], 0)
        row_of_chunk, chunks = self._chunks(texts)
        # A word that comes often is cut once.
        chunks, which = tf.unique(chunks)
        ids = tf.gather(self._cut(chunks), which)  # Ragged, (chunks, None).
        each = tf.RaggedTensor.from_value_rowids(ids, row_of_chunk, tf.size(texts, tf.int64))
        return each.merge_dims(1, 2)

    def decode(self, ids):
        """The texts of token ids; the special ones are dropped, unknown is shown as U+FFFD.

        Args:
            ids: int32 `(batch, length)`, dense or ragged.

        Returns:
            Strings `(batch,)`.
        """
        names = tf.constant(["", "\N{REPLACEMENT CHARACTER}", "", "", *self.pieces])
        texts = tf.strings.reduce_join(tf.gather(names, ids), -1)
        return tf.strings.strip(tf.strings.regex_replace(texts, SPACE, " "))

    @staticmethod
    def _chunks(texts):
        """`(row, chunk)` of every chunk of all texts, int64 and strings `(chunks,)`."""
        texts = tf.strings.regex_replace(texts, rf"[\s\p{{Z}}\p{{C}}{SPACE}]+", " ")
        texts = tf.strings.regex_replace(tf.strings.strip(texts), " ", SPACE)
        texts = tf.strings.regex_replace(texts, "^.", rf"{SPACE}\0")
        for chunk in (_CHUNK, _LONG_WORD):
            texts = tf.strings.regex_replace(texts, chunk, rf"\0{_CUT}")
        chunks = tf.strings.split(texts, _CUT)
        full = tf.ragged.boolean_mask(chunks, chunks != "")
        return full.value_rowids(), full.values

    def _cut(self, chunks):
        """Ids of the longest pieces of each, ragged `(chunks, None)`."""
        sizes = tf.constant(self._sizes)

        def one_piece(rest, ids):
            left = tf.strings.length(rest, unit="UTF8_CHAR")
            # (chunks, sizes): what each begins with.
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
            found = tf.gather(self._ids, tf.gather(place, longest, batch_dims=1))
            any_known = tf.reduce_any(known, 1)
            found = tf.where(any_known, found, self.UNKNOWN)
            found = tf.where(left > 0, found, self.PADDING)
            size = tf.minimum(tf.where(any_known, tf.gather(sizes, longest), 1), left)
            rest = tf.strings.substr(rest, size, left - size, unit="UTF8_CHAR")
            return rest, tf.concat([ids, found[:, None]], 1)

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
