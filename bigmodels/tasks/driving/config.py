"""Settings of driving."""

import dataclasses

from bigmodels.data import SteeringAugmentation
from bigmodels.fields import (
    check_image_size,
    check_not_negative,
    check_positive,
    check_share,
    each,
    setting,
)
from bigmodels.tasks.settings import Config, Optimizer


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.PilotNet`."""

    strided_filters: tuple[int, ...] = setting(
        (24, 36, 48),
        "Number of filters of each 5x5 convolution with stride 2.",
        check=each(check_positive),
    )
    filters: tuple[int, ...] = setting(
        (64, 64),
        "Number of filters of each following 3x3 convolution.",
        check=each(check_positive),
    )
    dense_units: tuple[int, ...] = setting(
        (100, 50, 10), "Units of each dense layer before the output.", check=each(check_positive)
    )
    dropout_rate: float = setting(
        0.1, "Fraction of the units to drop before each dense layer.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How a recording is read."""

    image_size: tuple[int, ...] = setting(
        (66, 88),
        "HEIGHT,WIDTH in pixels to resize frames to; empty: no resizing.",
        check=check_image_size,
    )
    gap: int = setting(
        20,
        "Number of frames to leave out between training, validation and test stretches.",
        check=check_positive,
    )
    recovery_views: int = setting(
        3,
        "Number of views to render for each training frame of synthetic_road, as a car sees them "
        "that has strayed, with the angle that leads back. An epoch is drawn from frames and "
        "views, as many as there are frames. Recordings have none.",
        check=check_not_negative,
    )
    skip_bad_files: bool = setting(
        False,
        "Skip frames whose image cannot be read, and damaged lines of a tub, with a note in the "
        "report, instead of stopping.",
    )


@dataclasses.dataclass(frozen=True)
class Driving(Config):
    """Settings of driving."""

    dataset: str = "synthetic_road"
    epochs: int = 30
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: SteeringAugmentation = SteeringAugmentation()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)
