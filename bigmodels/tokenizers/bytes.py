"""Byte-level tokenizer."""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from bigmodels.tokenizers.tokenizer import Tokenizer


class Bytes(Tokenizer):
    """Byte-level tokenizer: one token per byte of UTF-8, so that nothing is ever unknown.

    Id 0 is padding, id 1 the end of a document, and ids 2 to 257 are the bytes in order.

    Example:

    >>> tokenizer = Bytes()
    >>> tokenizer.encode("né")
    array([112, 197, 171], dtype=int32)
    >>> tokenizer.decode([112, 197, 171, 1])
    'né'
    """

    KIND, UNIT = "bytes", "byte"
    END = 1
    # Ids before that of byte 0.
    FIRST = 2

    @classmethod
    def fit(cls, texts: Iterable[str] = (), vocab_size: int | None = None) -> Self:
        """Make the tokenizer, which is the same for every text.

        Args:
            texts: Not read.
            vocab_size: Has no effect.

        Returns:
            A `Bytes`.
        """
        return cls()

    def __len__(self) -> int:
        """Number of token ids: the bytes, padding and the end of a document."""
        return len(self.tokens)

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each id; none for padding and the end of a document."""
        return [b"", b"", *(bytes([value]) for value in range(256))]

    @property
    def num_bytes(self) -> np.ndarray:
        """Number of bytes of each id, int64 `(size,)`; 0 for the end of a document."""
        return np.array([*map(len, self.tokens)], "int64")

    def encode(self, text: str) -> np.ndarray:
        """Convert a text to token ids.

        Args:
            text: The text.

        Returns:
            int32 array `(length,)`, one id per byte of UTF-8.
        """
        return np.frombuffer(utf8(text), "uint8").astype("int32") + self.FIRST

    def encode_strings(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # Repairs invalid UTF-8.
        return self._byte_ids(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Convert token ids to text.

        Args:
            ids: One-dimensional integers.

        Returns:
            The text; U+FFFD stands for bytes that are not UTF-8, for example half a character.
        """
        return self.decode_strings(np.array([*ids], "int32")).numpy().decode()

    def decode_strings(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.strings.unicode_transcode(super().decode_strings(ids), "UTF-8", "UTF-8")

    def get_config(self) -> dict[str, Any]:
        return {"kind": self.KIND}

    def _byte_ids(self, strings):
        """The ids of the bytes of strings `(n,)`, ragged int32 `(n, None)`."""
        split = tf.strings.bytes_split(strings)
        values = tf.reshape(tf.io.decode_raw(split.values, "uint8"), [-1])
        return split.with_values(tf.cast(values, "int32") + self.FIRST)


def utf8(text: str) -> bytes:
    """Encode a text; half a surrogate pair, which UTF-8 cannot hold, becomes a question mark.

    Args:
        text: A string.

    Returns:
        UTF-8.

    Example:

    >>> utf8("é")
    b'\\xc3\\xa9'
    """
    return text.encode("utf-8", "replace")
