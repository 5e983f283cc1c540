"""Tokenizers: text to token ids and back."""

from bigmodels.tokenizers.characters import Vocabulary
from bigmodels.tokenizers.subwords import Subwords

__all__ = ["Subwords", "Vocabulary"]
