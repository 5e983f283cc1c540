"""Image classification with the CNN (article 2.3 and 4.1).

    bigmodels train --task=image_classification --seed=1 --workdir=runs/digits

An accuracy of 98.00 % on 500 test digits after 0.7 min, on two cores of an Intel Xeon. More in
notebooks/guide/results.md.

    bigmodels train --task=image_classification --dataset=images:my_photos --workdir=runs/mine \\
        --set data.image_size=96,96 --set model.kind=backbone --set model.weights=imagenet
"""

import dataclasses

import keras
import numpy as np

from bigmodels.data import Mixing
from bigmodels.data.images import augmentation_for
from bigmodels.fields import check_not_negative, check_positive, check_share, each, setting
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import CNN, BackboneClassifier, ResidualCNN
from bigmodels.models.backbone_classifier import APPLICATIONS
from bigmodels.tasks.image_classification import evaluation
from bigmodels.tasks.image_classification.inference import ImagePredictor
from bigmodels.tasks.images import ImageDataConfig, load_images_for
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, Optimizer


def _check_percent(name, value):
    if not 1 <= value <= 40:
        raise ValueError(f"{name}: {value!r}, expected a percentage from 1 to 40")


@dataclasses.dataclass(frozen=True)
class CNNConfig:
    """Arguments of `bigmodels.models.CNN`: the article's sizes, with regularization.

    `padding=valid`, `dropout_rate=0` and `batch_normalization=false` give the article's network.
    """

    kind: str = "cnn"
    filters: tuple[int, ...] = setting(
        (32, 64), "Number of filters of each convolution.", check=each(check_positive)
    )
    kernel_size: int = setting(
        3, "Height and width of the convolution kernels, in pixels.", check=check_positive
    )
    dense_units: int = setting(128, "Units of the dense layer.", check=check_positive)
    padding: str = setting("same", "Padding of the convolutions.", choices=("same", "valid"))
    dropout_rate: float = setting(0.25, "Fraction of the features to drop.", check=check_share)
    batch_normalization: bool = setting(
        True, "Whether batch normalization follows each convolution."
    )


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Arguments of `bigmodels.models.BackboneClassifier`."""

    kind: str = "backbone"
    application: str = setting(
        "MobileNetV2", "Backbone from keras.applications.", choices=APPLICATIONS
    )
    alpha: float = setting(1.0, "Width multiplier of the backbone.", check=check_positive)
    weights: str = setting(
        "",
        "Weights of the backbone: a file, or imagenet (downloaded by Keras if needed). Empty: "
        "random weights, all of which are trained.",
    )
    train_backbone: bool = setting(False, "Whether to train the backbone too (fine-tuning).")
    batch_statistics: bool = setting(
        False,
        "Whether the backbone's batch normalization uses batch statistics in training, instead of "
        "its moving averages.",
    )
    dropout_rate: float = setting(0.2, "Fraction of the features to drop.", check=check_share)


@dataclasses.dataclass(frozen=True)
class ResidualConfig:
    """Arguments of `bigmodels.models.ResidualCNN`."""

    kind: str = "residual"
    filters: tuple[int, ...] = setting(
        (64, 256, 256), "Number of filters of each stage.", check=each(check_positive)
    )
    mirror: bool | None = setting(
        None,
        "Whether to average the predictions for an image and its mirror image; by default if "
        "training images are mirrored.",
    )
    shift: int = setting(
        1,
        "Pixels by which images are shifted, to average the predictions for them; 0: no shifts.",
        check=check_not_negative,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(ImageDataConfig):
    """How images are read and weighted."""

    balance_classes: bool = setting(
        False, "Weight the training loss so that all classes count equally."
    )
    validation_percent: int | None = setting(
        None,
        "Percentage of the training images that is held out if a set of TFDS has no split for "
        "validation; 10 by default.",
        check=_check_percent,
    )


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.Augmentation`; `None` chooses by the data set."""

    horizontal_flip: bool | None = setting(
        None, "Whether to mirror half of the images; by default chosen by the data set."
    )
    translation: float | None = setting(
        None,
        "Largest shift, as a fraction of height and width; by default chosen by the data set.",
        check=check_not_negative,
    )
    rotation: float | None = setting(
        None,
        "Largest rotation, in degrees; by default chosen by the data set.",
        check=check_not_negative,
    )
    zoom: float | None = setting(
        None,
        "Largest zoom in or out, as a fraction; by default chosen by the data set.",
        check=check_not_negative,
    )
    alternate_flip: bool = setting(
        False,
        "With horizontal_flip: mirror each image in every second epoch, instead of drawing which.",
    )
    crop_padding: int = setting(
        0,
        "Pixels of reflection around an image, out of which a random crop of its size is cut.",
        check=check_not_negative,
    )


# The defaults that `model.kind=residual` changes.
RESIDUAL = {
    "model.kind": "residual",
    "epochs": 15,
    "batch_size": 512,
    # Twice as fast on a GPU, or a CPU with AVX512-BF16 or AMX; others are faster in float32.
    "precision": "mixed_bfloat16",
    "data.validation_percent": 2,
    "augmentation.translation": 0.0,
    "augmentation.alternate_flip": True,
    "augmentation.crop_padding": 2,
    "mixing.label_smoothing": 0.2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.75,
    "optimizer.momentum": 0.85,
    "optimizer.nesterov": True,
    "optimizer.schedule": "linear",
    "optimizer.weight_decay": 0.009,
    "optimizer.clip_norm": 0.0,
}
# The default kind of model of a data set, if it is not the CNN.
KINDS = {"cifar10": "residual"}


@dataclasses.dataclass(frozen=True)
class ImageClassification(Config):
    """Settings of image classification."""

    dataset: str = "digits"
    epochs: int = 20
    model: CNNConfig | ResidualConfig | BackboneConfig = CNNConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    mixing: Mixing = Mixing()
    optimizer: Optimizer = Optimizer(learning_rate=2e-3, weight_decay=0.05)

    def defaults_given(self, settings):
        """The kind of model depends on the data set, and the training on the kind of model."""
        usual = KINDS.get(settings.get("dataset"), self.model.kind)
        return RESIDUAL if settings.get("model.kind", usual) == "residual" else {}


def load_data(config):
    """Load labelled images in [0, 1]."""
    return load_images_for(
        config,
        augmentation=_augmentation(config),
        mixing=config.mixing,
        balance_classes=config.data.balance_classes,
        validation_percent=config.data.validation_percent,
    )


def _augmentation(config):
    return augmentation_for(config.dataset, **dataclasses.asdict(config.augmentation))


def _mirror(config):
    mirror = config.model.mirror
    return _augmentation(config).horizontal_flip if mirror is None else mirror


def build_model(config, data):
    """Build a CNN, a residual network or a classifier with a pretrained backbone, for the data."""
    names, settings = data.class_names, dataclasses.asdict(config.model)
    kind = settings.pop("kind")
    if kind == "cnn":
        model = CNN(len(names), class_names=names, **settings)
    elif kind == "residual":
        settings["mirror"] = _mirror(config)
        model = ResidualCNN(len(names), class_names=names, **settings)
    else:
        weights = settings.pop("weights")
        model = BackboneClassifier(len(names), data.image_shape, class_names=names, **settings)
        if weights:
            model.load_backbone(weights)
    model.build((None, *data.image_shape))
    if kind == "residual":
        model.adapt(np.concatenate([images for images, _ in data.train_sample.as_numpy_iterator()]))
    return model


def compile_model(model, config, steps):
    """Compile with cross-entropy on logits, and accuracy."""
    if config.mixing.soft:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    else:
        loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        config.optimizer.build(steps),
        loss,
        metrics=["accuracy"],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Search the size of the network, the learning rate and the regularization."""
    kind = hp.Fixed("model.kind", "cnn")
    if kind == "residual":
        hp.Float("optimizer.learning_rate", 0.2, 2.0, sampling="log")
        hp.Float("optimizer.weight_decay", 1e-3, 3e-2, sampling="log")
        hp.Choice("model.filters", ["32,64,128", "64,128,128", "64,256,256"])
        return
    hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1)
    hp.Float("optimizer.learning_rate", 3e-4, 1e-2, sampling="log")
    hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log")
    if kind == "cnn":
        hp.Choice("model.filters", ["16,32", "32,64", "64,128"])
        hp.Choice("model.dense_units", [64, 128, 256, 512])


def settled(model, data, config):
    """The augmentation chosen by the data set, and whether mirror images count."""
    used = dataclasses.asdict(_augmentation(config))
    chosen = {f"augmentation.{name}": value for name, value in used.items()}
    return chosen | ({"model.mirror": model.mirror} if config.model.kind == "residual" else {})


TASK = Task(
    name="image_classification",
    summary="classify images (CNN)",
    unit="images",
    config=ImageClassification,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=ImagePredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    settled=settled,
    metrics=evaluation.METRICS,
    predict_flags=("--input=photo.png",),
)
