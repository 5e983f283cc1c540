"""Character-level tokenizer."""

import collections
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from bigmodels.tokenizers.tokenizer import Tokenizer

_LAST_CODE_POINT = 0x10FFFF


class Vocabulary(Tokenizer):
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

    KIND, UNIT = "characters", "character"
    PADDING, UNKNOWN = 0, 1
    NUM_RESERVED_IDS = 2

    def __init__(self, characters: Iterable[str]):
        self.characters = tuple(characters)
        for character, count in collections.Counter(self.characters).items():
            if len(character) != 1 or count > 1:
                raise ValueError(
                    f"characters: {character!r}, expected single characters without duplicates"
                )
        codes = np.array([*map(ord, self.characters)], "int64")
        # The last entry stands for all larger code points.
        self._ids = np.full(codes.max(initial=-1) + 2, self.UNKNOWN, "int32")
        self._ids[codes] = np.arange(2, len(self))

    @classmethod
    def fit(cls, texts: str | Iterable[str], vocab_size: int | None = None) -> Self:
        """Make the vocabulary of a training text, in code-point order.

        Args:
            texts: The text, or its pieces.
            vocab_size: Has no effect; every character of the text is known.

        Returns:
            A `Vocabulary`.
        """
        occurs = np.zeros(_LAST_CODE_POINT + 1, "bool")
        for text in [texts] if isinstance(texts, str) else texts:
            occurs[_code_points(text)] = True
        return cls(map(chr, np.flatnonzero(occurs).tolist()))

    def __len__(self) -> int:
        """Number of token ids, including padding and the unknown character."""
        return len(self.characters) + 2

    @property
    def tokens(self) -> list[bytes]:
        """The UTF-8 bytes of each id; U+FFFD for unknown characters."""
        letters = ("", "\N{REPLACEMENT CHARACTER}", *self.characters)
        return [letter.encode("utf-8", "surrogatepass") for letter in letters]

    @property
    def num_bytes(self) -> np.ndarray:
        """Number of UTF-8 bytes of each id, int64 `(size,)`.

        An unknown character counts as one byte, the least it can have, so that bits per byte are
        never too low for it.
        """
        sizes = np.array([*map(len, self.tokens)], "int64")
        sizes[self.UNKNOWN] = 1
        return sizes

    def encode(self, text: str) -> np.ndarray:
        """Convert a text to token ids.

        Args:
            text: The text.

        Returns:
            int32 array `(length,)`, one id per character.
        """
        return self._ids[np.minimum(_code_points(text), len(self._ids) - 1)]

    def encode_strings(self, texts: tf.Tensor) -> tf.RaggedTensor:
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        last = len(self._ids) - 1
        return characters.with_values(tf.gather(self._ids, tf.minimum(characters.values, last)))

    def decode(self, ids: Iterable[int]) -> str:
        """Convert token ids to text.

        Args:
            ids: One-dimensional integers.

        Returns:
            The text, without padding and with U+FFFD for unknown characters.
        """
        return "".join(("", "\N{REPLACEMENT CHARACTER}", *self.characters)[i] for i in ids)

    def unknown(self, text: str) -> list[str]:
        return sorted(set(text) - set(self.characters))

    def get_config(self) -> dict[str, Any]:
        return {"kind": self.KIND, "characters": "".join(self.characters)}

    @property
    def summary(self) -> str:
        """The number and kind of the ids in words, for reports."""
        return f"{len(self)} IDs, including padding and unknown"


def _code_points(text):
    """The characters' code points, uint32; an array, as it is ten times faster than a loop."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
