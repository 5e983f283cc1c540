"""Image classification with the CNN (article 2.3 and 4.1).

    bigmodels-train --task=image_classification --workdir=runs/digits
    bigmodels-train --task=image_classification --dataset=fashion_mnist --workdir=runs/fashion
    bigmodels-train --task=image_classification --dataset=images:my_photos --workdir=runs/mine \
        --set data.image_size=96,96 --set model.kind=backbone --set model.weights=imagenet

Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from bigmodels.data import Mixing, files, load_images
from bigmodels.data.images import augmentation_for
from bigmodels.data.mixing import KINDS
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import CNN, BackboneClassifier
from bigmodels.models.backbone_classifier import APPLICATIONS
from bigmodels.reports import plots
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_choice,
    check_image_size,
    check_not_negative,
    check_positive,
    check_share,
    check_sizes,
)

_EXAMPLES = 30
# Of the calibration error.
_BINS = 15
_TOP = 5
# Classes whose images are counted one by one before training.
_MOST_COUNTED = 20


@dataclasses.dataclass(frozen=True)
class CNNConfig:
    """Arguments of `bigmodels.models.CNN`: the article's sizes, and help against overfitting.

    `padding=valid`, `dropout_rate=0` and `batch_normalization=false` give the article's bare
    network.
    """

    kind: str = "cnn"
    filters: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    dense_units: int = 128
    padding: str = "same"
    dropout_rate: float = 0.25
    batch_normalization: bool = True

    def __post_init__(self):
        check_sizes(self, "filters", "kernel_size", "dense_units")
        check_choice("model.padding", self.padding, ("same", "valid"))


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Arguments of `bigmodels.models.BackboneClassifier`.

    `weights`: where the backbone's come from: a file, or `imagenet` for those that Keras has or
    fetches. Empty, all of it is trained from nothing.
    """

    kind: str = "backbone"
    application: str = "MobileNetV2"
    alpha: float = 1.0
    weights: str = ""
    train_backbone: bool = False
    batch_statistics: bool = False
    dropout_rate: float = 0.2

    def __post_init__(self):
        check_sizes(self)
        check_positive("model.alpha", self.alpha)
        check_choice("model.application", self.application, APPLICATIONS)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    `image_size` (height, width) is what they are resized to; empty keeps them as they are.
    `skip_bad_files` leaves out files of `images:DIR` that cannot be read. `balance_classes` makes
    every class count alike in training, however many images it has.
    """

    image_size: tuple[int, ...] = ()
    skip_bad_files: bool = False
    balance_classes: bool = False

    def __post_init__(self):
        check_image_size(self.image_size)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.Augmentation`; `None` leaves it to `data.images`."""

    horizontal_flip: bool | None = None
    translation: float | None = None
    rotation: float | None = None
    zoom: float | None = None

    def __post_init__(self):
        for name in ("translation", "rotation", "zoom"):
            if getattr(self, name) is not None:
                check_not_negative(f"augmentation.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """Arguments of `bigmodels.data.Mixing`: MixUp or CutMix, and label smoothing."""

    kind: str = "none"
    alpha: float = 0.2
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_choice("mixing.kind", self.kind, KINDS)
        check_positive("mixing.alpha", self.alpha)
        check_share("mixing.label_smoothing", self.label_smoothing)


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
    kind = hp.Fixed("model.kind", "cnn")
    space = {
        "model.kind": kind,
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 3e-4, 1e-2, sampling="log"),
        "optimizer.weight_decay": hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log"),
    }
    if kind == "backbone":
        return space
    return space | {
        "model.filters": hp.Choice("model.filters", ["16,32", "32,64", "64,128"]),
        "model.dense_units": hp.Choice("model.dense_units", [64, 128, 256, 512]),
    }


def measure(model, data, config, measured):
    """What the test figures rest on, image by image; and how far the probabilities are true.

    `calibration_error` is the expected one (Guo et al., 2017): how far the highest probability and
    the share of right answers lie apart, in the mean over 15 equal intervals of the former. Where
    there are more than five classes, `top_5_accuracy` counts an answer as right that is among the
    five likeliest.

    Returns:
        The metrics; and the probabilities `(n, classes)` and true class numbers `(n,)` of the test
        split.
    """
    labels = np.concatenate([y for _, y in data.test.as_numpy_iterator()])
    if labels.ndim > 1:
        labels = labels.argmax(-1)
    logits = tf.cast(model.predict(data.test, verbose=0), "float32")
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()
    correct = np.float32(tf.argmax(logits, -1) == labels)
    probabilities = tf.nn.softmax(logits).numpy()
    keys = intervals.keys(image for images, _ in data.test for image in images.numpy())

    def calibration_error(rows):
        confidence, right = probabilities[rows.astype(int)].max(-1), correct[rows.astype(int)]
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        return np.abs(np.bincount(bins, right - confidence)).sum() / len(rows)

    test = {
        "loss": Observations(losses, "images", keys=keys),
        "accuracy": Observations(correct, "images", keys=keys),
        "calibration_error": Observations(
            np.arange(len(labels)), "images", statistic=calibration_error
        ),
    }
    if len(data.class_names) > _TOP:
        likeliest = np.argsort(-probabilities, -1)[:, :_TOP]
        among = (likeliest == labels[:, None]).any(-1)
        test[f"top_{_TOP}_accuracy"] = Observations(among.astype(float), "images", keys=keys)
    return {"test": test}, (probabilities, labels)


def examples(data):
    """Some training images of each class, and how many there are."""
    names = data.class_names
    each, chosen = max(1, _EXAMPLES // len(names)), {label: [] for label in range(len(names))}
    for image, label in data.train_sample.unbatch().as_numpy_iterator():
        label = int(label.argmax() if label.ndim else label)
        if len(chosen[label]) < each:
            chosen[label].append(image)
    pairs = [(image, names[label]) for label in chosen for image in chosen[label]][:_EXAMPLES]
    images, titles = zip(*pairs, strict=True)
    return {
        "Training images": plots.image_grid(images, titles, 6, data.scale),
        "Images of each class": plots.class_counts(data.class_counts, names),
    }


def draw(model, data, config, found):
    """Confusion matrix, calibration, and most confident errors on the test split."""
    probabilities, labels = found
    predicted = probabilities.argmax(-1)
    names = data.class_names
    drawn = {
        "Confusion matrix (test)": plots.confusion_matrix(labels, predicted, names),
        "How true its probabilities are (test)": plots.reliability(
            probabilities.max(-1), predicted == labels, _BINS
        ),
    }
    wrong = np.flatnonzero(predicted != labels)
    if len(wrong):
        # The most confident errors first.
        wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:24]
        images = np.concatenate([x for x, _ in data.test.as_numpy_iterator()])[wrong]
        pairs = [(names[labels[i]], f"\N{RIGHTWARDS ARROW} {names[predicted[i]]}") for i in wrong]
        titles = [("\n" if len(max(names, key=len)) > 4 else " ").join(pair) for pair in pairs]
        name = "Surest mistakes (test), true \N{RIGHTWARDS ARROW} predicted"
        drawn[name] = plots.image_grid(images, titles, 6, data.scale)
    return drawn


def settled(model, data, config):
    """The augmentation that suits the data set."""
    used = augmentation_for(config.dataset, **dataclasses.asdict(config.augmentation))
    return {f"augmentation.{name}": value for name, value in dataclasses.asdict(used).items()}


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
        "classes": ", ".join(data.class_names),
        "images of each class": _counted(data),
    }


def _counted(data):
    """How many images of each class each split has, or where there are many classes, about."""
    return "; ".join(
        f"{split}: {_each(data.class_names, counts)}" for split, counts in data.class_counts.items()
    )


def _each(names, counts):
    if counts.min() == counts.max():
        return f"{counts.min():,} each"
    if len(names) > _MOST_COUNTED:
        return f"{counts.min():,} to {counts.max():,}"
    return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


def predict(model, config, input=None):
    """Class and probability of image files.

    Args:
        model: A trained model.
        config: Its config.
        input: An image file, or a directory, of whose files those named like images are taken.

    Yields:
        `{"file": ..., "class": ..., "probability": ...}`.

    Raises:
        ValueError: if there is nothing to read or a file is no image.
    """
    if not input:
        raise ValueError("input: give an image file, or a directory of them")
    height, width, channels = model.get_build_config()["input_shape"][1:]
    for file, image in files.read_images(input, channels, config.data.skip_bad_files):
        if image.shape[:2] != (height, width):
            image = files.resize(image, (height, width))
        image = tf.cast(image, "float32")[None] / 255
        (probabilities,) = model.predict_proba(image, verbose=0)
        best = int(probabilities.argmax())
        yield {
            "file": str(file),
            "class": model.class_names[best],
            "probability": float(probabilities[best]),
        }


def serving(model, config):
    """Images in, as pixels of any size or as files; classes out, the same as from `predict`."""
    height, width, channels = model.get_build_config()["input_shape"][1:]
    names = tf.constant(model.class_names)

    def probabilities(images):
        logits = model(tf.cast(images, "float32") / 255, training=False)
        return {"probabilities": tf.nn.softmax(logits)}

    def classify(images):
        images = tf.ensure_shape(
            files.resize(images, (height, width)), (None, None, None, channels)
        )
        each = probabilities(images)["probabilities"]  # (batch, classes)
        return {
            "class": tf.gather(names, tf.argmax(each, -1)),
            "probability": tf.reduce_max(each, -1),
            "probabilities": each,
            "class_names": tf.broadcast_to(names, tf.shape(each)),
        }

    def classify_bytes(image_bytes):
        images, _ = files.decode_images(image_bytes, (height, width, channels))
        return classify(images)

    any_size = tf.TensorSpec((None, None, None, channels), "uint8")
    own_size = tf.TensorSpec((None, height, width, channels), "uint8")
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, height, width, channels), "uint8")
    large = random.integers(0, 256, (2, height + 5, width + 3, channels), "uint8")
    signatures = {"classify": Signature(classify, (any_size,), (large,))}
    if channels in (1, 3, 4):  # Others no image file has.
        encoded = np.array([tf.io.encode_png(image).numpy() for image in large])
        strings = tf.TensorSpec((None,), "string")
        signatures["classify_bytes"] = Signature(classify_bytes, (strings,), (encoded,))
    signatures["probabilities"] = Signature(probabilities, (own_size,), (small,), portable=True)
    return signatures, {"class_names": list(model.class_names)}


TASK = Task(
    name="image_classification",
    summary="which class an image belongs to (CNN)",
    unit="images",
    config=ImageClassification,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=None,
    describe=describe,
    settled=settled,
    predict=predict,
    predict_flags=("--input=photo.png",),
    serving=serving,
    examples=examples,
    metrics={
        "accuracy": Metric("%", "max"),
        "top_5_accuracy": Metric("%", "max"),
        "calibration_error": Metric("%", "min"),
        "loss": Metric("nats", "min"),
    },
)
