"""Steering from a camera's frame with PilotNet (article 2.3: autonomous driving).

    bigmodels train --task=driving --seed=1 --workdir=runs/road

A mean absolute error of 0.044 on the test frames of a synthetic road (rendered, not filmed), where
angles go from -1 to 1, in 2.5 min on two cores of an AMD EPYC. Whether a car stays on the road when
the model steers is another question. More in notebooks/guide/results.md.

    bigmodels train --task=driving --dataset=tub:my_tub --workdir=runs/tub
    bigmodels predict --workdir=runs/tub --input=my_tub
"""

import dataclasses

import keras

from bigmodels.data import SteeringAugmentation, load_driving
from bigmodels.models import PilotNet
from bigmodels.tasks.driving import evaluation
from bigmodels.tasks.driving.inference import SteeringPredictor
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import (
    Config,
    Optimizer,
    check_image_size,
    check_positive,
    check_share,
    each,
    setting,
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.PilotNet`."""

    strided_filters: tuple[int, ...] = setting(
        (24, 36, 48),
        "Filters of each convolution of 5 x 5 pixels with stride 2.",
        check=each(check_positive),
    )
    filters: tuple[int, ...] = setting(
        (64, 64),
        "Filters of each convolution of 3 x 3 pixels after these.",
        check=each(check_positive),
    )
    dense_units: tuple[int, ...] = setting(
        (100, 50, 10), "Width of each dense layer before the output.", check=each(check_positive)
    )
    dropout_rate: float = setting(
        0.1, "Share of units dropped before each dense layer.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How a recording is read."""

    image_size: tuple[int, ...] = setting(
        (66, 88),
        "HEIGHT,WIDTH to resize frames to, pixels; empty keeps them as they are.",
        check=check_image_size,
    )
    gap: int = setting(
        20, "Frames left out between training, validation and test.", check=check_positive
    )
    skip_bad_files: bool = setting(
        False,
        "Leave out frames whose image cannot be read, and damaged lines of a tub, and say so.",
    )


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.SteeringAugmentation`."""

    horizontal_flip: bool = setting(
        True, "Whether half the frames are mirrored, and their angles with them."
    )
    brightness: float = setting(0.3, "Largest change of the light, a share.", check=check_share)
    translation: float = setting(
        0.04, "Largest shift, a share of height and width; the angle stays.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class Driving(Config):
    """The recipe."""

    dataset: str = "synthetic_road"
    epochs: int = 30
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)


def load_data(config):
    """Frames in 0..255, and angles from -1 to 1."""
    return load_driving(
        config.dataset,
        config.batch_size,
        image_size=config.data.image_size or None,
        gap=config.data.gap,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=SteeringAugmentation(**dataclasses.asdict(config.augmentation)),
        seed=config.seed,
    )


def build_model(config, data):
    """A built PilotNet for the data's frames."""
    model = PilotNet(**dataclasses.asdict(config.model))
    model.build((None, *data.image_shape))
    return model


def compile_model(model, config, steps):
    """Mean squared error, as in the paper; mean absolute error beside it."""
    model.compile(
        config.optimizer.build(steps),
        keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """The dense part's size, how fast it learns, and what keeps it from overfitting."""
    hp.Choice("model.dense_units", ["50", "100,50", "100,50,10"])
    hp.Float("model.dropout_rate", 0.0, 0.4, step=0.1)
    hp.Float("augmentation.brightness", 0.0, 0.5, step=0.1)
    hp.Float("optimizer.learning_rate", 2e-4, 5e-3, sampling="log")
    hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log")


TASK = Task(
    name="driving",
    summary="how a driver would steer at what a camera sees (CNN)",
    unit="frames",
    config=Driving,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=SteeringPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    metrics=evaluation.METRICS,
    predict_flags=("--input=my_tub",),
)
