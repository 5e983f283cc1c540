"""Building blocks shared by the models."""

from bigmodels.layers.generation import generate, generate_strings, sample
from bigmodels.layers.layer_stack import LayerStack, check_image_shape
from bigmodels.layers.lstm import LSTM
from bigmodels.layers.positional_encoding import PositionalEncoding
from bigmodels.layers.transformer_block import TransformerBlock
from bigmodels.layers.vocabulary import Vocabulary

__all__ = [
    "LSTM",
    "LayerStack",
    "PositionalEncoding",
    "TransformerBlock",
    "Vocabulary",
    "check_image_shape",
    "generate",
    "generate_strings",
    "sample",
]
