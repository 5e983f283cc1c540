"""Image classification with the CNN (article 2.3 and 4.1).

    bigmodels train --task=image_classification --seed=1 --workdir=runs/digits

98.00 % of 500 test digits in 0.7 min, on two cores of an Intel Xeon. More in
notebooks/guide/results.md.

    bigmodels train --task=image_classification --dataset=images:my_photos --workdir=runs/mine \\
        --set data.image_size=96,96 --set model.kind=backbone --set model.weights=imagenet
"""

import dataclasses

import keras

from bigmodels.data import Mixing, load_images
from bigmodels.data.images import augmentation_for
from bigmodels.data.mixing import KINDS
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import CNN, BackboneClassifier
from bigmodels.models.backbone_classifier import APPLICATIONS
from bigmodels.tasks.image_classification import evaluation
from bigmodels.tasks.image_classification.inference import ImagePredictor
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import (
    Config,
    Optimizer,
    check_image_size,
    check_not_negative,
    check_positive,
    check_share,
    each,
    setting,
)


@dataclasses.dataclass(frozen=True)
class CNNConfig:
    """Arguments of `bigmodels.models.CNN`: the article's sizes, and help against overfitting.

    `padding=valid`, `dropout_rate=0` and `batch_normalization=false` give the article's bare
    network.
    """

    kind: str = "cnn"
    filters: tuple[int, ...] = setting(
        (32, 64), "Filters of each convolution.", check=each(check_positive)
    )
    kernel_size: int = setting(3, "Height and width of a filter, pixels.", check=check_positive)
    dense_units: int = setting(128, "Width of the dense layer.", check=check_positive)
    padding: str = setting("same", "Of the convolutions.", choices=("same", "valid"))
    dropout_rate: float = setting(0.25, "Share of features dropped.", check=check_share)
    batch_normalization: bool = setting(True, "Whether a convolution is followed by one.")


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Arguments of `bigmodels.models.BackboneClassifier`."""

    kind: str = "backbone"
    application: str = setting("MobileNetV2", "Of keras.applications.", choices=APPLICATIONS)
    alpha: float = setting(1.0, "Its width, as a multiple of the usual.", check=check_positive)
    weights: str = setting(
        "",
        "Where its weights come from: a file, or imagenet for those that Keras has or fetches. "
        "Empty, all of it is trained from nothing.",
    )
    train_backbone: bool = setting(False, "Whether the backbone is trained too.")
    batch_statistics: bool = setting(
        False, "Whether its batch normalization follows the batches in training."
    )
    dropout_rate: float = setting(0.2, "Share of features dropped.", check=check_share)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read."""

    image_size: tuple[int, ...] = setting(
        (),
        "HEIGHT,WIDTH to resize to, pixels; empty keeps them as they are.",
        check=check_image_size,
    )
    skip_bad_files: bool = setting(False, "Leave out files that cannot be read, and say so.")
    balance_classes: bool = setting(
        False, "Make every class count alike in training, however many images it has."
    )


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.Augmentation`; what is `None` suits the data set."""

    horizontal_flip: bool | None = setting(None, "Whether half the images are mirrored.")
    translation: float | None = setting(
        None, "Largest shift, a share of height and width.", check=check_not_negative
    )
    rotation: float | None = setting(None, "Largest turn, degrees.", check=check_not_negative)
    zoom: float | None = setting(None, "Largest change of size.", check=check_not_negative)


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """Arguments of `bigmodels.data.Mixing`."""

    kind: str = setting("none", "What training images are mixed by.", choices=KINDS)
    alpha: float = setting(0.2, "Of the Beta distribution of shares.", check=check_positive)
    label_smoothing: float = setting(
        0.0, "Share of the labels spread over all classes.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class ImageClassification(Config):
    """The recipe."""

    dataset: str = "digits"
    epochs: int = 20
    model: CNNConfig | BackboneConfig = CNNConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    mixing: MixingConfig = MixingConfig()
    optimizer: Optimizer = Optimizer(learning_rate=2e-3, weight_decay=0.05)


def load_data(config):
    """Labelled images in [0, 1]."""
    return load_images(
        config.dataset,
        config.batch_size,
        data_dir=config.data_dir,
        image_size=config.data.image_size or None,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=augmentation_for(config.dataset, **dataclasses.asdict(config.augmentation)),
        mixing=_mixing(config),
        balance_classes=config.data.balance_classes,
        seed=config.seed,
    )


def _mixing(config):
    return Mixing(**dataclasses.asdict(config.mixing))


def build_model(config, data):
    """A built CNN for the data's images and classes, or a pretrained backbone."""
    names, settings = data.class_names, dataclasses.asdict(config.model)
    if settings.pop("kind") == "cnn":
        model = CNN(len(names), class_names=names, **settings)
    else:
        weights = settings.pop("weights")
        model = BackboneClassifier(len(names), data.image_shape, class_names=names, **settings)
        if weights:
            model.load_backbone(weights)
    model.build((None, *data.image_shape))
    return model


def compile_model(model, config, steps):
    """Cross-entropy on logits, accuracy."""
    if _mixing(config).soft:
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
    """The network's size, how fast it learns, and what keeps it from overfitting."""
    hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1)
    hp.Float("optimizer.learning_rate", 3e-4, 1e-2, sampling="log")
    hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log")
    if hp.Fixed("model.kind", "cnn") == "cnn":
        hp.Choice("model.filters", ["16,32", "32,64", "64,128"])
        hp.Choice("model.dense_units", [64, 128, 256, 512])


def settled(model, data, config):
    """The augmentation that suits the data set."""
    used = augmentation_for(config.dataset, **dataclasses.asdict(config.augmentation))
    return {f"augmentation.{name}": value for name, value in dataclasses.asdict(used).items()}


TASK = Task(
    name="image_classification",
    summary="which class an image belongs to (CNN)",
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
