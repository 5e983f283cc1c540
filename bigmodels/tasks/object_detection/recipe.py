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

from bigmodels.data import load_detection
from bigmodels.evaluation import detections
from bigmodels.losses import CenterPoints
from bigmodels.models import Detector
from bigmodels.models.detector import STRIDE
from bigmodels.tasks.object_detection import evaluation
from bigmodels.tasks.object_detection.config import ObjectDetection
from bigmodels.tasks.object_detection.inference import DetectionPredictor
from bigmodels.tasks.record import Task


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
