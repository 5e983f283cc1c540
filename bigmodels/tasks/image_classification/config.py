"""Settings of image classification."""

import dataclasses

from bigmodels.data import Mixing
from bigmodels.fields import check_not_negative, check_positive, check_share, each, setting
from bigmodels.models.backbone_classifier import APPLICATIONS
from bigmodels.tasks.images import ImageDataConfig
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
    images_per_class: int | None = setting(
        None,
        "Number of training images of each class, chosen by the seed; all by default. Validation "
        "and test keep all of theirs.",
        check=check_positive,
    )
    grayscale_to_rgb: bool = setting(
        False,
        "Give images of one channel three alike, for a model that was trained on colour images.",
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
    random_erasing: float = setting(
        0.0,
        "Probability that a random rectangle of an image is replaced by noise.",
        check=check_share,
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
        # A subclass may have a model of its own, which has no kinds.
        usual = KINDS.get(settings.get("dataset")) if hasattr(self.model, "kind") else None
        return RESIDUAL if settings.get("model.kind", usual) == "residual" else {}
