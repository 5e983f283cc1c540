"""Object detection with an anchor-free CNN (article 2.3).

    bigmodels train --task=object_detection --seed=1 --workdir=runs/objects

A mean average precision of 98.4 % at an IoU of 0.5, on 172 test canvases with real digits that are
on no training canvas, after 5.7 min beside other work on two cores of an Intel Xeon. More in
notebooks/guide/results.md.

    bigmodels train --task=object_detection --dataset=coco:my_photos --workdir=runs/mine \\
        --set data.image_size=128,128 --set augmentation.horizontal_flip=true
    bigmodels predict --workdir=runs/objects --input=photo.png --output=boxes.png
"""

import dataclasses

from bigmodels.data import BoxAugmentation, load_detection
from bigmodels.evaluation import detections
from bigmodels.fields import check_image_size, check_positive, check_share, each, setting
from bigmodels.losses import CenterPoints
from bigmodels.models import Detector
from bigmodels.models.detector import STRIDE
from bigmodels.tasks.object_detection import evaluation
from bigmodels.tasks.object_detection.inference import DetectionPredictor
from bigmodels.tasks.record import Task
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


def load_data(config):
    """Load images in [0, 1], and their objects: boxes in pixels and classes."""
    detections.check_installed()  # Fail before the training, not at its evaluation.
    return load_detection(
        config.dataset,
        config.batch_size,
        image_size=config.data.image_size or None,
        max_objects=config.data.max_objects,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=config.augmentation,
        seed=config.seed,
    )


def build_model(config, data):
    """Build a detector for the data."""
    names = data.class_names
    model = Detector(len(names), class_names=names, **dataclasses.asdict(config.model))
    model.build((None, *data.image_shape))
    return model


def compile_model(model, config, steps):
    """Compile with the loss of center points and boxes."""
    model.compile(
        config.optimizer.build(steps),
        CenterPoints(STRIDE, config.box_weight),
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Search the size of the network, the learning rate, and the weight of the box loss."""
    hp.Choice("model.filters", ["8,16,32,32", "16,32,64,64", "16,32,64,128"])
    hp.Choice("model.head_filters", [32, 64, 128])
    hp.Float("model.dropout_rate", 0.0, 0.3, step=0.1)
    hp.Float("optimizer.learning_rate", 5e-4, 1e-2, sampling="log")
    hp.Float("box_weight", 0.3, 3.0, sampling="log")


TASK = Task(
    name="object_detection",
    summary="detect objects in images (anchor-free CNN)",
    unit="images",
    config=ObjectDetection,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=DetectionPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    objective="validation.map_50",
    metrics=evaluation.METRICS,
    predict_flags=("--input=photo.png", "--output=boxes.png"),
)
