"""Characters to token ids and back."""

import collections

import numpy as np


class Vocabulary:
    """The characters a model knows, each with a token id.

    Id 0 is padding and id 1 stands for every character not seen when the vocabulary was made; the
    rest follow in the order of `characters`.

    Args:
        characters: The known characters, each once.

    Raises:
        ValueError: if one of them is not a single character or comes twice.
    """

    PADDING, UNKNOWN = 0, 1

    def __init__(self, characters):
        self.characters = tuple(characters)
        for character, count in collections.Counter(self.characters).items():
            if len(character) != 1 or count > 1:
                raise ValueError(f"characters: {character!r} is not one character given once")
        self._id = {c: i for i, c in enumerate(self.characters, start=2)}

    @classmethod
    def fit(cls, text):
        """The vocabulary of a training text, in code-point order.

        Args:
            text: A string.

        Returns:
            A `Vocabulary`.
        """
        return cls(sorted(set(text)))

    def __len__(self):
        """Number of token ids, padding and unknown included."""
        return len(self.characters) + 2

    def encode(self, text):
        """Token ids of a text.

        Args:
            text: A string.

        Returns:
            int32 array of its length.
        """
        return np.fromiter((self._id.get(c, self.UNKNOWN) for c in text), "int32", len(text))

    def decode(self, ids):
        """The text of token ids; padding is dropped, the unknown token is shown as U+FFFD.

        Args:
            ids: One-dimensional integers.

        Returns:
            A string.
        """
        return "".join(("", "\N{REPLACEMENT CHARACTER}", *self.characters)[i] for i in ids)
