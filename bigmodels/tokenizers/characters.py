"""Character-level tokenizer."""

import collections
from collections.abc import Iterable
from typing import Self

import numpy as np


class Vocabulary:
    """Character-level tokenizer.

    Id 0 is padding and id 1 is the unknown character; the characters follow in order.

    Args:
        characters: The known characters, without duplicates.

    Raises:
        ValueError: if an item is not a single character or is repeated.

    Example:

    >>> vocabulary = Vocabulary.fit("abba")
    >>> vocabulary.encode("abc")
    array([2, 3, 1], dtype=int32)
    >>> vocabulary.decode([2, 3, 0])
    'ab'
    """

    PADDING, UNKNOWN = 0, 1

    def __init__(self, characters: Iterable[str]):
        self.characters = tuple(characters)
        for character, count in collections.Counter(self.characters).items():
            if len(character) != 1 or count > 1:
                raise ValueError(
                    f"characters: {character!r}, expected single characters without duplicates"
                )
        self._id = {c: i for i, c in enumerate(self.characters, start=2)}

    @classmethod
    def fit(cls, text: str) -> Self:
        """Make the vocabulary of a training text, in code-point order.

        Args:
            text: The text.

        Returns:
            A `Vocabulary`.
        """
        return cls(sorted(set(text)))

    def __len__(self) -> int:
        """Number of token ids, including padding and the unknown character."""
        return len(self.characters) + 2

    def encode(self, text: str) -> np.ndarray:
        """Convert a text to token ids.

        Args:
            text: The text.

        Returns:
            int32 array `(length,)`, one id per character.
        """
        return np.fromiter((self._id.get(c, self.UNKNOWN) for c in text), "int32", len(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Convert token ids to text.

        Args:
            ids: One-dimensional integers.

        Returns:
            The text, without padding and with U+FFFD for unknown characters.
        """
        return "".join(("", "\N{REPLACEMENT CHARACTER}", *self.characters)[i] for i in ids)
