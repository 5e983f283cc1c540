"""Keras layers used by the models."""

from bigmodels.layers.biased_batch_normalization import BiasedBatchNormalization
from bigmodels.layers.cached_attention import CachedAttention
from bigmodels.layers.grouped_query_attention import GroupedQueryAttention
from bigmodels.layers.harmonic_fill import HarmonicFill
from bigmodels.layers.layer_normalization import LayerNormalization
from bigmodels.layers.log_mel import LogMel
from bigmodels.layers.lstm import LSTM
from bigmodels.layers.patch_whitening import PatchWhitening
from bigmodels.layers.positional_encoding import PositionalEncoding
from bigmodels.layers.reversible_normalization import ReversibleNormalization
from bigmodels.layers.rotary_embedding import RotaryEmbedding
from bigmodels.layers.spec_augment import SpecAugment
from bigmodels.layers.spectral_normalization import SpectralNormalization
from bigmodels.layers.transformer_block import TransformerBlock

__all__ = [
    "LSTM",
    "BiasedBatchNormalization",
    "CachedAttention",
    "GroupedQueryAttention",
    "HarmonicFill",
    "LayerNormalization",
    "LogMel",
    "PatchWhitening",
    "PositionalEncoding",
    "ReversibleNormalization",
    "RotaryEmbedding",
    "SpecAugment",
    "SpectralNormalization",
    "TransformerBlock",
]
