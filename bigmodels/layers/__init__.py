"""Building blocks shared by the models."""

from bigmodels.layers.generation import generate, sample
from bigmodels.layers.positional_encoding import PositionalEncoding
from bigmodels.layers.transformer_block import TransformerBlock
from bigmodels.layers.vocabulary import Vocabulary

__all__ = ["PositionalEncoding", "TransformerBlock", "Vocabulary", "generate", "sample"]
