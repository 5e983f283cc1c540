"""Byte-level subword tokenizer that works in Python and in exported graphs."""

import functools
import json
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.messages import short_repr
from bigmodels.tokenizers.bytes import Bytes, utf8

# A word or number with the space before it, other characters, or white space; tokens never span two
# of these. Without look-ahead, which TensorFlow's regular expressions do not have. The control
# characters are literal, because the two engines read their escapes differently.
_SPACE = "\t\n\x0b\x0c\r\x85" + r"\p{Z}"
_CHUNK = (
    r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}"
    rf"| ?[^{_SPACE}\p{{L}}\p{{M}}\p{{N}}]+|[{_SPACE}]+"
)
# Separates chunks; no UTF-8 text contains this byte.
_CUT = b"\xff"
_NEVER = 2**31 - 1
# Length limit of a token, in bytes. Each merge can double it, so a few lines of a malicious file
# could otherwise fill the memory.
_LONGEST = 256


class BytePairs(Bytes):
    """Subword tokenizer by byte-level byte-pair encoding (Radford et al., 2019).

    Ids 0 to 257 are those of `Bytes`; a token per merge follows. A text is split into words, and
    the bytes of each word are merged in the order of `merges`. As every byte has an id, nothing is
    ever unknown, and decoding restores the text exactly.

    Args:
        merges: Pairs of ids, in the order in which they are merged. Each makes a new token, unless
            an earlier pair makes the same bytes.

    Raises:
        ValueError: naming the pair that is invalid.

    Example:

    >>> tokenizer = BytePairs([[99, 100], [258, 101]])  # "ab", "abc"
    >>> ids = tokenizer.encode("abcab")
    >>> ids, tokenizer.decode(ids)
    (array([259, 258], dtype=int32), 'abcab')
    """

    KIND, UNIT = "subwords", "token"

    def __init__(self, merges: Iterable[Iterable[int]] = ()):
        self.merges = [[*pair] for pair in merges]
        self._tokens = super().tokens
        ids = {token: i for i, token in enumerate(self._tokens)}
        pairs, made = set(), []
        for pair in self.merges:
            known = all(type(i) is int and self.FIRST <= i < len(self._tokens) for i in pair)
            if len(pair) != 2 or not known or tuple(pair) in pairs:
                raise ValueError(
                    f"merges: {short_repr(pair)}, expected different pairs of earlier ids"
                )
            pairs.add(tuple(pair))
            token = b"".join(self._tokens[i] for i in pair)
            if len(token) > _LONGEST:
                raise ValueError(
                    f"merges: {short_repr(pair)} makes {len(token)} bytes, expected at most "
                    f"{_LONGEST}"
                )
            if ids.setdefault(token, len(self._tokens)) == len(self._tokens):
                self._tokens.append(token)
            made.append(ids[token])
        # Sorted, so that a graph can find a pair without a lookup table.
        keys = np.array([left * len(self) + right for left, right in self.merges], "int64")
        self._ranks = np.argsort(keys).astype("int32")
        self._keys, self._made = keys[self._ranks], np.array(made, "int32")

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int | None = 8192) -> Self:
        """Learn merges from training texts, with the `tokenizers` package.

        Args:
            texts: The text in pieces, which are read once.
            vocab_size: Maximum number of token ids, at least 258. There are fewer if no more pairs
                occur twice.

        Returns:
            A `BytePairs`, always the same for the same texts.

        Raises:
            ValueError: if `vocab_size` is too small, or `tokenizers` is not installed.
        """
        if vocab_size < 258:
            raise ValueError(
                f"vocab_size: {vocab_size!r}, expected at least 258: 256 bytes, padding and the "
                "end of a document"
            )
        tokenizers = _package()
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = _pre_tokenizer(tokenizers)
        alphabet = _letters()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - cls.FIRST,
            min_frequency=2,
            initial_alphabet=alphabet,
            max_token_length=_LONGEST,
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        ids = {letter: i for i, letter in enumerate(alphabet, cls.FIRST)}
        merges = []
        for left, right in json.loads(model.to_str())["model"]["merges"]:
            merges.append([ids[left], ids[right]])
            ids.setdefault(left + right, cls.FIRST + len(ids))
        return cls(merges)

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each id; none for padding and the end of a document."""
        return self._tokens

    def encode(self, text: str) -> np.ndarray:
        """Convert a text to token ids, as `encode_strings`.

        Args:
            text: The text.

        Returns:
            int32 array `(length,)`.
        """
        return self.encode_strings([utf8(text)])[0].numpy()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Convert many texts to the ids of `encode`, with the `tokenizers` package in threads.

        Args:
            texts: The texts.

        Returns:
            A list of int32 arrays, one per text.

        Raises:
            ValueError: if `tokenizers` is not installed.
        """
        encodings = self._encoder.encode_batch_fast([*texts], add_special_tokens=False)
        return [np.array(encoding.ids, "int32") for encoding in encodings]

    def encode_strings(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # Repairs invalid UTF-8.
        cut = tf.strings.regex_replace(texts, _CHUNK, rb"\0" + _CUT)
        chunks = tf.strings.split(cut, _CUT)
        chunks = tf.ragged.boolean_mask(chunks, chunks != "")
        # Repeated chunks are merged only once.
        different, which = tf.unique(chunks.values)
        ids = tf.gather(self._merged(different), which)  # Ragged, (chunks, None).
        rows = tf.RaggedTensor.from_value_rowids(ids, chunks.value_rowids(), chunks.nrows())
        return rows.merge_dims(1, 2)

    def get_config(self) -> dict[str, Any]:
        return {"kind": self.KIND, "merges": self.merges}

    def _merged(self, chunks):
        """Merge the bytes of each chunk: ids, ragged int32 `(chunks, None)`."""
        ids = self._byte_ids(chunks).to_tensor()
        # Two columns of padding, so that there is a pair even without a chunk.
        ids = tf.pad(ids, [[0, 0], [0, 2]])  # (chunks, width)
        if self.merges:
            ids, _ = tf.while_loop(lambda _, any_left: any_left, self._merge, (ids, True))
        return tf.ragged.boolean_mask(ids, ids != self.PADDING)

    def _merge(self, ids, _):
        """Merge the pair of lowest rank in each row of ids `(chunks, width)`."""
        pairs = tf.cast(ids[:, :-1], "int64") * len(self) + tf.cast(ids[:, 1:], "int64")
        found = tf.searchsorted(self._keys, tf.reshape(pairs, [-1]))
        found = tf.reshape(tf.minimum(found, len(self._keys) - 1), tf.shape(pairs))
        rank = tf.where(
            tf.gather(self._keys, found) == pairs, tf.gather(self._ranks, found), _NEVER
        )
        place = tf.argmin(rank, 1, "int32")[:, None]  # (chunks, 1), the leftmost of equal ones.
        lowest = tf.gather(rank, place, batch_dims=1)  # (chunks, 1)
        exists = lowest < _NEVER
        new = tf.gather(self._made, tf.where(exists, lowest, 0))
        columns = tf.range(tf.shape(ids)[1])
        moved = tf.pad(ids[:, 1:], [[0, 0], [0, 1]])
        merged = tf.where(columns == place, new, tf.where(columns > place, moved, ids))
        return tf.where(exists, merged, ids), tf.reduce_any(exists)

    @functools.cached_property
    def _encoder(self):
        tokenizers = _package()
        alphabet = _letters()
        # As `tokenizers` writes tokens: a letter for each byte.
        written = ["".join(alphabet[value] for value in token) for token in self._tokens]
        ids = {letters: i for i, letters in enumerate(written) if letters}
        merges = [(written[left], written[right]) for left, right in self.merges]
        encoder = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
        encoder.pre_tokenizer = _pre_tokenizer(tokenizers)
        return encoder


def _package():
    with extras.require_extra("data.tokens: subwords", "subwords"):
        import tokenizers
    return tokenizers


def _pre_tokenizer(tokenizers):
    steps = tokenizers.pre_tokenizers
    chunks = steps.Split(tokenizers.Regex(_CHUNK), "isolated")
    return steps.Sequence([chunks, steps.ByteLevel(add_prefix_space=False, use_regex=False)])


def _letters():
    """The letter that `tokenizers` writes for each byte, a list: printable bytes are themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(value if value in printable else next(others)) for value in range(256)]
