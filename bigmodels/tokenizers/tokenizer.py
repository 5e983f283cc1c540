"""What all tokenizers of language models share."""

import abc
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf


class Tokenizer(abc.ABC):
    """Text to token ids and back, for language models.

    Id 0 is padding. A tokenizer is saved with its model, by `get_config`.

    Attributes:
        KIND: Name of the kind of token, as in the setting `data.tokens`.
        UNIT: What one token is called, for example "character".
        END: Id of the token between two documents, or `None`: then an empty line separates them.
        NUM_RESERVED_IDS: Number of leading ids that a model never generates.

    Example:

    >>> issubclass(bigmodels.tokenizers.Vocabulary, Tokenizer)
    True
    """

    PADDING = 0
    KIND: ClassVar[str]
    UNIT: ClassVar[str] = "token"
    END: ClassVar[int | None] = None
    NUM_RESERVED_IDS: ClassVar[int] = 1

    @classmethod
    @abc.abstractmethod
    def fit(cls, texts: Iterable[str], vocab_size: int | None = None) -> Self:
        """Make the tokenizer of a training text.

        Args:
            texts: The text in pieces, which are read once.
            vocab_size: Maximum number of token ids, if the kind has a choice.

        Returns:
            A tokenizer, always the same for the same texts.
        """

    @property
    @abc.abstractmethod
    def tokens(self) -> list[bytes]:
        """The UTF-8 bytes that each id stands for; none for padding and the end of a document."""

    @property
    @abc.abstractmethod
    def num_bytes(self) -> np.ndarray:
        """Number of bytes of text that each id stands for, int64 `(size,)`."""

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Convert a text to token ids.

        Args:
            text: The text.

        Returns:
            int32 array `(length,)`.
        """

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Convert many texts to token ids, as fast as possible.

        Args:
            texts: The texts.

        Returns:
            A list of int32 arrays, one per text.
        """
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def encode_strings(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """`encode` as graph operations, for exported models.

        Args:
            texts: UTF-8 strings, `(batch,)`.

        Returns:
            int32 `tf.RaggedTensor`, `(batch, None)`.
        """

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Convert token ids to text.

        Args:
            ids: One-dimensional integers.

        Returns:
            The text; padding and the end of a document leave nothing in it.
        """

    def decode_strings(self, ids: tf.Tensor) -> tf.Tensor:
        """`decode` as graph operations, for exported models.

        Args:
            ids: int32 `(batch, length)`.

        Returns:
            UTF-8 strings `(batch,)`.
        """
        return tf.strings.reduce_join(tf.gather(tf.constant(self.tokens), ids), -1)

    def unknown(self, text: str) -> list[str]:
        """List the characters of a text that have no id of their own, sorted.

        Args:
            text: The text.

        Returns:
            A list of characters without duplicates.
        """
        return []

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The tokenizer as JSON values; `bigmodels.tokenizers.from_config` makes it again."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of token ids, including the reserved ones."""

    @property
    def summary(self) -> str:
        """The number and kind of the ids in words, for reports."""
        return f"{len(self):,} IDs, including padding and the end of a document"
