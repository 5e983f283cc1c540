"""Object detection: what is where in an image (CNN without anchors; article 2.3).

    bigmodels-train --task=object_detection --workdir=runs/objects
    bigmodels-train --task=object_detection --dataset=coco:my_photos --workdir=runs/mine \\
        --set data.image_size=128,128 --set augmentation.horizontal_flip=true
    bigmodels-predict --workdir=runs/objects --input=photo.png --output=boxes.png

The embedded set is real digits on canvases; digits of the test canvases are on none for training.
Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from bigmodels.data import BoxAugmentation, files, load_detection
from bigmodels.evaluation import detections, intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.losses import CenterPoints
from bigmodels.models import Detector
from bigmodels.models.detector import STRIDE
from bigmodels.reports import pages, plots
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_image_size,
    check_positive,
    check_share,
    check_sizes,
)

# Least score of a box that is drawn, and of one that is rated: what is less likely comes so late
# that it changes nothing.
_DRAWN, _RATED = 0.3, 0.01
_EXAMPLES, _SAMPLED, _WORST = 12, 8, 12
_MOST_DRAWN = 24
# Validation images at most, by which what needs no network is tuned.
_TUNED = 300
# Of `THRESHOLDS`: that of 0.5.
_HALF = slice(1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Detector`."""

    filters: tuple[int, ...] = (16, 32, 64, 64)
    head_filters: int = 64
    dropout_rate: float = 0.1

    def __post_init__(self):
        check_sizes(self, "filters", "head_filters")
        if len(self.filters) < 3:
            raise ValueError(f"model.filters: {self.filters!r}, expected three numbers or more")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    `image_size` (height, width) is what they are resized to, and the boxes with them; empty keeps
    them as they are. An image that has more than `max_objects` is an error. `skip_bad_files` leaves
    out images that are not there or cannot be read, and annotations that do not fit.
    """

    image_size: tuple[int, ...] = ()
    max_objects: int = 100
    skip_bad_files: bool = False

    def __post_init__(self):
        check_image_size(self.image_size)
        check_positive("data.max_objects", self.max_objects)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.BoxAugmentation`."""

    horizontal_flip: bool = False
    translation: float = 0.1
    zoom: float = 0.15
    brightness: float = 0.1

    def __post_init__(self):
        for name in ("translation", "zoom", "brightness"):
            check_share(f"augmentation.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class ObjectDetection(Config):
    """The recipe. `box_weight`: how much the boxes count in the loss beside the peaks."""

    dataset: str = "digit_canvas"
    epochs: int = 12
    batch_size: int = 32
    box_weight: float = 1.0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: Optimizer = Optimizer(learning_rate=3e-3, weight_decay=0.01)

    def __post_init__(self):
        super().__post_init__()
        check_positive("box_weight", self.box_weight)


def load_data(config):
    """Images in [0, 1], and objects: a box in pixels and a class each."""
    detections.check_installed()  # Before anything is trained that could not be measured.
    return load_detection(
        config.dataset,
        config.batch_size,
        image_size=config.data.image_size or None,
        max_objects=config.data.max_objects,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=BoxAugmentation(**dataclasses.asdict(config.augmentation)),
        seed=config.seed,
    )


def build_model(config, data):
    """A built detector for the data's images and classes."""
    names = data.class_names
    model = Detector(len(names), class_names=names, **dataclasses.asdict(config.model))
    model.build((None, *data.image_shape))
    return model


def compile_model(model, config, steps):
    """Peaks at the middles of objects, and their boxes."""
    model.compile(
        config.optimizer.build(steps),
        CenterPoints(STRIDE, config.box_weight),
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """The network's size, how fast it learns, and what its boxes count."""
    return {
        "model.filters": hp.Choice("model.filters", ["8,16,32,32", "16,32,64,64", "16,32,64,128"]),
        "model.head_filters": hp.Choice("model.head_filters", [32, 64, 128]),
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.3, step=0.1),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 5e-4, 1e-2, sampling="log"),
        "box_weight": hp.Float("box_weight", 0.3, 3.0, sampling="log"),
    }


def _found(model, batches, least=_RATED):
    """What a model finds, float32 `(n, 6)` an image: a box in pixels, its class and its score."""
    return [
        np.column_stack([each["boxes"], each["classes"], each["scores"]]).astype("float32")
        for each in model.detect(batches, least, verbose=0)
    ]


def _pictures(batches, numbers):
    """The images of a split that have these numbers."""
    found = {}
    for number, (image, _) in enumerate(batches.unbatch().as_numpy_iterator()):
        if number in numbers:
            found[number] = image
        if len(found) == len(numbers):
            break
    return [found[number] for number in numbers]


def _by_components(data):
    """What is found in the test images without a network.

    It knows the objects of an epoch of training, and is tuned on the first validation images.
    """
    epoch = data.train_from(0).take(int(data.train.cardinality()))
    others = detections.Components(epoch.as_numpy_iterator(), len(data.class_names))
    count = min(data.sizes["validation"], _TUNED)
    known = data.objects["validation"][:count]
    others.tune(_pictures(data.validation, range(count)), known)
    return [rows for images, _ in data.test for rows in others.detect(images)]


def measure(model, data, config, measured):
    """COCO's mean average precision, by pycocotools, beside what is found without a network.

    Returns:
        Under "validation" and "test": `map_50`, average precision at an overlap (intersection over
        union) of 0.5, mean over the classes; `map`, the mean of those at 0.5, 0.55, ..., 0.95.
        Under "test" also both with `_components`, see `bigmodels.evaluation.detections.Components`.
        And the `Ratings` of both on the test split.
    """

    def ratings(split, rows):
        return detections.Ratings(data.objects[split], rows, len(data.class_names))

    def precisions(rated, name=""):
        numbers = np.arange(rated.num_images)
        return {
            f"map_50{name}": Observations(
                numbers, "images", statistic=lambda n: rated.average_precision(n, _HALF)
            ),
            f"map{name}": Observations(numbers, "images", statistic=rated.average_precision),
        }

    validation = precisions(ratings("validation", _found(model, data.validation)))
    rated = ratings("test", _found(model, data.test))
    others = ratings("test", _by_components(data))
    each = CenterPoints(STRIDE, config.box_weight, reduction="none")
    losses = [each(y, model(x, training=False)) for x, y in data.test]
    keys = intervals.keys(image for images, _ in data.test for image in images.numpy())
    return {
        "validation": {name: what.figure() for name, what in validation.items()},
        "test": {
            "loss": Observations(np.concatenate(losses), "images", keys=keys),
            **precisions(rated),
            **precisions(others, "_components"),
        },
    }, (rated, others)


def _texts(rows, names, scored):
    """Boxes with what is written at them."""
    return [(*row[:4], names[int(row[4])] + (f" {row[5]:.2f}" if scored else "")) for row in rows]


def _drawn(images, objects, found, names):
    """Pictures with the true boxes and those that were found."""
    boxes = [
        {"true": _texts(true, names, False), "found": _texts(rows, names, True)}
        for true, rows in zip(objects, found, strict=True)
    ]
    return plots.boxed_images(images, boxes)


def examples(data):
    """Some training images with their boxes, and how many objects there are."""
    images, objects = next(iter(data.train_sample.unbatch().batch(_EXAMPLES)))
    boxes = [
        {"true": _texts(rows[rows[:, 4] >= 0], data.class_names, False)} for rows in objects.numpy()
    ]
    counts = plots.class_counts(data.class_counts, data.class_names, "objects")
    return {
        "Training images": plots.boxed_images(images.numpy(), boxes),
        "Objects of each class": counts,
    }


def sample(model, data, config):
    """The first validation images, with what is found in them."""
    images, _ = next(iter(data.validation))
    found = _found(model, images[:_SAMPLED], _DRAWN)
    objects = data.objects["validation"][: len(found)]
    return _drawn(images[:_SAMPLED], objects, found, data.class_names)


def draw(model, data, config, found):
    """What is found in test images, the worst of them, precision over recall, and the classes."""
    names, objects = data.class_names, data.objects["test"]
    rated, others = found

    def pictures(numbers):
        rows = [rated.found[i] for i in numbers]
        shown = [each[each[:, 5] >= _DRAWN] for each in rows]
        return _drawn(_pictures(data.test, numbers), [objects[i] for i in numbers], shown, names)

    drawn = {"Found (test)": pictures(range(min(_EXAMPLES, len(objects))))}
    mistakes = rated.mistakes(_DRAWN)
    worst = [int(i) for i in np.argsort(-mistakes, kind="stable")[:_WORST] if mistakes[i]]
    if worst:
        drawn["Most mistakes (test)"] = pictures(worst)
    recalls = np.linspace(0, 1, 101)
    curves = {"the network": rated, "components and neighbours": others}
    drawn["Precision over recall (test)"] = plots.overlaid(
        {
            name: (recalls, np.nanmean(each.precisions(thresholds=_HALF)[0], -1))
            for name, each in curves.items()
        },
        "At an overlap of one half, mean of the classes",
        "recall",
        "precision",
    )
    each = 100 * np.stack([r.precisions(thresholds=_HALF)[0].mean(0) for r in (rated, others)], -1)
    width = max(map(len, names))
    lines = [f"{'':{width}}  network  components"]
    lines += [
        f"{name:{width}}  {ours:7.1f}  {theirs:10.1f}"
        for name, (ours, theirs) in zip(names, each, strict=True)
    ]
    drawn["Average precision at 0.5 of each class, in percent (test)"] = "\n".join(lines)
    return drawn


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "objects": ", ".join(f"{c.sum():,} {split}" for split, c in data.class_counts.items()),
        "image shape": f"{shape}, scaled to (0.0, 1.0)",
        "classes": ", ".join(data.class_names),
        "objects of each class": "; ".join(
            f"{split}: {counts.min():,} to {counts.max():,}"
            for split, counts in data.class_counts.items()
        ),
    }


def predict(model, config, input=None, threshold=_DRAWN, output=None):
    """What is where in image files.

    Args:
        model: A trained detector.
        config: Its config.
        input: An image file, or a directory, of whose files those named like images are taken.
        threshold: Least score of what counts.
        output: PNG file to draw the images into with their boxes, of many files the first 24.

    Yields:
        `{"file": ..., "boxes": ..., "classes": ..., "scores": ...}`, three lists with an item for
        each object, by falling score; a box is left, top, right, bottom in pixels of the file's
        image.

    Raises:
        ValueError: naming the argument or file that does not fit.
    """
    if not input:
        raise ValueError("input: give an image file, or a directory of them")
    path = output and pathlib.Path(output)
    if path and (path.suffix.lower() != ".png" or not path.parent.is_dir()):
        raise ValueError(f"output: {str(output)!r}, expected a .png in an existing directory")
    *size, channels = model.get_build_config()["input_shape"][1:]
    drawn = []
    for file, image in files.read_images(input, channels, config.data.skip_bad_files):
        small = image if image.shape[:2] == size else files.resize(image, size)
        (found,) = model.detect(tf.cast(small, "float32")[None] / 255, threshold, verbose=0)
        down, across = np.divide(tuple(image.shape[:2]), size)
        boxes = found["boxes"] * [across, down, across, down]
        classes = [model.class_names[i] for i in found["classes"]]
        if path and len(drawn) < _MOST_DRAWN:
            rows = np.column_stack([boxes, found["classes"], found["scores"]])
            drawn.append((image.numpy() / 255, {"found": _texts(rows, model.class_names, True)}))
        yield {
            "file": str(file),
            "boxes": [[round(float(side), 2) for side in box] for box in boxes],
            "classes": classes,
            "scores": [round(float(score), 4) for score in found["scores"]],
        }
    if drawn:
        pictures, found = zip(*drawn, strict=True)
        figure = plots.boxed_images(pictures, found, side=6 if len(drawn) == 1 else 2.4)
        pages.save_drawn(path.with_suffix(""), figure)


def serving(model, config):
    """Images in, as pixels of any size or as files; boxes out, the same as from `predict`."""
    height, width, channels = model.get_build_config()["input_shape"][1:]
    names = tf.constant(model.class_names)

    def candidates(images):
        scores, boxes = model.candidates(model(tf.cast(images, "float32") / 255, training=False))
        return {"scores": scores, "boxes": boxes}

    def found(images, sizes):
        """Of images of the model's size, boxes in those that they had, (height, width) each."""
        each = model.decode(model(tf.cast(images, "float32") / 255, training=False))
        scale = tf.cast(tf.reverse(sizes, [-1]), "float32") / tf.constant(
            [width, height], "float32"
        )
        return {
            "boxes": each["boxes"] * tf.tile(scale, [1, 2])[:, None],
            "scores": each["scores"],
            "classes": tf.gather(names, each["classes"]),
        }

    def detect(images):
        small = files.resize(images, (height, width))
        sizes = tf.tile(tf.shape(images)[None, 1:3], [tf.shape(images)[0], 1])
        return found(tf.ensure_shape(small, (None, height, width, channels)), sizes)

    def detect_bytes(image_bytes):
        return found(*files.decode_images(image_bytes, (height, width, channels)))

    any_size = tf.TensorSpec((None, None, None, channels), "uint8")
    own_size = tf.TensorSpec((None, height, width, channels), "uint8")
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, height, width, channels), "uint8")
    large = random.integers(0, 256, (2, height + 5, width + 3, channels), "uint8")
    signatures = {"detect": Signature(detect, (any_size,), (large,))}
    if channels in (1, 3, 4):  # Others no image file has.
        encoded = np.array([tf.io.encode_png(image).numpy() for image in large])
        strings = tf.TensorSpec((None,), "string")
        signatures["detect_bytes"] = Signature(detect_bytes, (strings,), (encoded,))
    signatures["candidates"] = Signature(candidates, (own_size,), (small,), portable=True)
    return signatures, {"class_names": list(model.class_names)}


TASK = Task(
    name="object_detection",
    summary="what is where in an image (CNN without anchors)",
    unit="images",
    config=ObjectDetection,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    predict=predict,
    predict_flags=("--input=photo.png", "--output=boxes.png"),
    serving=serving,
    objective="validation.map_50",
    examples=examples,
    metrics={
        "map_50": Metric("%", "max"),
        "map": Metric("%", "max"),
        "map_50_components": Metric("%"),
        "map_components": Metric("%"),
        "loss": Metric("", "min"),
    },
)
