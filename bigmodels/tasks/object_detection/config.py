"""Settings of object detection."""

import dataclasses

from bigmodels.data import BoxAugmentation
from bigmodels.fields import check_image_size, check_positive, check_share, each, setting
from bigmodels.tasks.settings import Config, Optimizer


def _check_stages(name, value):
    """Check that all numbers are positive, and that there are three stages or more."""
    each(check_positive)(name, value)
    if len(value) < 3:
        raise ValueError(f"{name}: {value!r}, expected three numbers or more")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Detector`."""

    filters: tuple[int, ...] = setting(
        (16, 32, 64, 64),
        "Number of filters of each stage, for three stages or more; each halves height and width.",
        check=_check_stages,
    )
    head_filters: int = setting(
        64, "Number of filters of the convolution before the outputs.", check=check_positive
    )
    dropout_rate: float = setting(
        0.1,
        "Fraction of the channels of the convolution before the outputs to drop.",
        check=check_share,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read."""

    image_size: tuple[int, ...] = setting(
        (),
        "HEIGHT,WIDTH in pixels to resize images and boxes to; empty: no resizing.",
        check=check_image_size,
    )
    max_objects: int = setting(
        100,
        "Largest number of objects in an image; an image with more is an error.",
        check=check_positive,
    )
    skip_bad_files: bool = setting(
        False,
        "Skip images that are missing or cannot be read, and invalid annotations, with a note in "
        "the report, instead of stopping.",
    )


@dataclasses.dataclass(frozen=True)
class ObjectDetection(Config):
    """Settings of object detection."""

    dataset: str = "digit_canvas"
    epochs: int = 12
    batch_size: int = 32
    box_weight: float = setting(
        1.0,
        "Weight of the box loss, relative to the loss of the center points.",
        check=check_positive,
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: BoxAugmentation = BoxAugmentation(translation=0.1, zoom=0.15, brightness=0.1)
    optimizer: Optimizer = Optimizer(learning_rate=3e-3, weight_decay=0.01)
