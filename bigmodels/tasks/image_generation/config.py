"""Settings of image generation."""

import dataclasses

import keras

from bigmodels.fields import check_not_negative, check_positive, check_share, setting
from bigmodels.losses import Wasserstein
from bigmodels.tasks.images import ImageDataConfig
from bigmodels.tasks.settings import Config

# Losses of the discriminator and of the generator.
LOSSES = {
    "cross_entropy": (None, None),  # The GAN's defaults.
    "hinge": (keras.losses.Hinge(), Wasserstein()),
}
# Default learning rates. The dense pair has DCGAN's. The convolutional pair can have a larger one,
# as the moving average of its generator evens out the steps.
RATES = {"conv": 1e-3, "dense": 2e-4}


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """Settings of both pairs of networks, see `bigmodels.models.GAN`."""

    kind: str = ""
    latent_dim: int = setting(
        100, "Dimension of the generator's noise input.", check=check_positive
    )
    normalization: str = setting(
        "none", "Normalization of the discriminator.", choices=("none", "batch", "spectral")
    )
    loss: str = setting(
        "cross_entropy", "Adversarial loss of both networks.", choices=tuple(LOSSES)
    )
    r1: float = setting(
        0.0,
        "Weight of the R1 gradient penalty of the discriminator; 0 turns it off.",
        check=check_not_negative,
    )
    ema_momentum: float = setting(
        0.0,
        "Momentum of the moving average of the generator's weights, which generates the images; 0 "
        "turns it off.",
        check=check_share,
    )


@dataclasses.dataclass(frozen=True)
class ConvConfig(PairConfig):
    """Settings of the convolutional pair, with a moving average of the generator."""

    kind: str = "conv"
    ema_momentum: float = 0.999
    dropout_rate: float = setting(
        0.3, "Fraction of the discriminator's features to drop.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class DenseConfig(PairConfig):
    """Settings of the article's dense pair."""

    kind: str = "dense"
    normalization: str = "batch"


@dataclasses.dataclass(frozen=True)
class AdamPair:
    """Settings of both networks' Adam optimizers, with DCGAN's low momentum."""

    learning_rate: float | None = setting(
        None,
        "Constant learning rate; the default depends on model.kind.",
        check=check_positive,
    )
    beta_1: float = setting(0.5, "Decay rate of Adam's first moment estimate.", check=check_share)


@dataclasses.dataclass(frozen=True)
class ImageGeneration(Config):
    """Settings of image generation."""

    dataset: str = "digits"
    epochs: int = 60
    judge_steps: int = setting(
        600, "Training steps of the CNN that evaluates the samples.", check=check_positive
    )
    model: ConvConfig | DenseConfig = ConvConfig()
    data: ImageDataConfig = ImageDataConfig()
    optimizer: AdamPair = AdamPair()
