"""Building blocks shared by the models."""

from bigmodels.layers.cached_attention import CachedAttention
from bigmodels.layers.harmonic_fill import HarmonicFill
from bigmodels.layers.image_classifier import ImageClassifier, check_classes, image_spec
from bigmodels.layers.language_model import LanguageModel
from bigmodels.layers.layer_normalization import LayerNormalization
from bigmodels.layers.layer_stack import LayerStack, check_image_shape
from bigmodels.layers.log_mel import LogMel
from bigmodels.layers.lstm import LSTM
from bigmodels.layers.positional_encoding import PositionalEncoding
from bigmodels.layers.reversible_normalization import ReversibleNormalization
from bigmodels.layers.spec_augment import SpecAugment
from bigmodels.layers.spectral_normalization import SpectralNormalization
from bigmodels.layers.subwords import Subwords
from bigmodels.layers.transformer_block import TransformerBlock
from bigmodels.layers.vocabulary import Vocabulary

__all__ = [
    "LSTM",
    "CachedAttention",
    "HarmonicFill",
    "ImageClassifier",
    "LanguageModel",
    "LayerNormalization",
    "LayerStack",
    "LogMel",
    "PositionalEncoding",
    "ReversibleNormalization",
    "SpecAugment",
    "SpectralNormalization",
    "Subwords",
    "TransformerBlock",
    "Vocabulary",
    "check_classes",
    "check_image_shape",
    "image_spec",
]
