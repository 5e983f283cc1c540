"""The article's four families, one file each."""

from bigmodels.models.cnn import CNN
from bigmodels.models.gan import (
    GAN,
    ConvDiscriminator,
    ConvGenerator,
    Discriminator,
    Generator,
)
from bigmodels.models.rnn import RNN
from bigmodels.models.transformer import Transformer

__all__ = [
    "CNN",
    "GAN",
    "RNN",
    "ConvDiscriminator",
    "ConvGenerator",
    "Discriminator",
    "Generator",
    "Transformer",
]
