"""Steering from a camera's frame with PilotNet (article 2.3: autonomous driving).

    bigmodels-train --task=driving --workdir=runs/road
    bigmodels-train --task=driving --dataset=tub:my_tub --workdir=runs/tub
    bigmodels-predict --workdir=runs/tub --input=my_tub

The default data set is a synthetic road: rendered, not filmed. Measured figures, with seed,
machine and time, are in notebooks/guide/results.md. They say how near the angles come to the
driver's on frames that were not trained on; whether a car stays on the road when the model steers
is another question.
"""

import dataclasses
import os

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import r2_score

from bigmodels.data import SteeringAugmentation, files, load_driving
from bigmodels.data.notes import Notes
from bigmodels.data.readers.embedded import DRIVES
from bigmodels.data.readers.tub import MANIFEST, read_tub
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.models import PilotNet
from bigmodels.reports import plots
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

# Frames. Neighbours are not independent; the errors of two that lie this far apart nearly are.
_BLOCK = 15
_SHOWN = 12
# Frames of the picture over time.
_LONGEST = 400
_ARROW = "\N{RIGHTWARDS ARROW}"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.PilotNet`."""

    strided_filters: tuple[int, ...] = (24, 36, 48)
    filters: tuple[int, ...] = (64, 64)
    dense_units: tuple[int, ...] = (100, 50, 10)
    dropout_rate: float = 0.1

    def __post_init__(self):
        check_sizes(self, "strided_filters", "filters", "dense_units")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How a recording is read.

    `image_size` (height, width) is what frames are resized to; empty keeps them as they are. `gap`
    is how many frames are left out between those of training, validation and test.
    `skip_bad_files` leaves out frames whose image cannot be read, and damaged lines of a tub.
    """

    image_size: tuple[int, ...] = (66, 88)
    gap: int = 20
    skip_bad_files: bool = False

    def __post_init__(self):
        check_image_size(self.image_size)
        check_positive("data.gap", self.gap)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.SteeringAugmentation`."""

    horizontal_flip: bool = True
    brightness: float = 0.3
    translation: float = 0.04

    def __post_init__(self):
        check_share("augmentation.brightness", self.brightness)
        check_share("augmentation.translation", self.translation)


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
    return {
        "model.dense_units": hp.Choice("model.dense_units", ["50", "100,50", "100,50,10"]),
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.4, step=0.1),
        "augmentation.brightness": hp.Float("augmentation.brightness", 0.0, 0.5, step=0.1),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 2e-4, 5e-3, sampling="log"),
        "optimizer.weight_decay": hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log"),
    }


def measure(model, data, config, measured):
    """R2, and what two answers that look at no frame would get on the same frames.

    `training_mean` always answers the mean angle of the training frames; `previous_frame` answers
    what the driver did one frame before, which the model is not told and which is hard to beat: a
    hand on the wheel moves little from one frame to the next.

    Returns:
        The metrics, and the model's answers on the test split.
    """
    sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
    mean, more = data.angles["train"].mean(), {}
    for split, batches in sets.items():
        sampled = "train_sample" if split == "train" else split
        true, previous = data.angles[sampled], data.previous[sampled]
        answers = {
            "": model.predict(batches.map(lambda images, _: images), verbose=0)[:, 0],
            "_training_mean": np.full_like(true, mean),
            "_previous_frame": np.where(np.isnan(previous), mean, previous),
        }
        more[split] = {
            f"{metric}{name}": value
            for name, answer in answers.items()
            for metric, value in _rated(true, answer, data.places[sampled], split == "test").items()
        }
    return more, answers[""]  # Of the last split, the test.


def _rated(true, answer, places, in_blocks):
    """MAE and R2 of answers, as numbers or block of neighbours by block."""
    errors = np.abs(answer - true).astype("float64")
    if not in_blocks:
        return {"mae": errors.mean(), "r2": r2_score(true, answer)}
    starts = _blocks(places)
    sizes = np.diff(starts, append=len(true))
    numbered = np.stack([places, true.astype("float64")], axis=-1)  # (frames, 2)
    blocks = np.split(np.arange(len(true)), starts[1:])

    def r2(chosen):
        rows = np.concatenate([blocks[i] for i in chosen])
        return r2_score(true[rows], answer[rows])

    unit = f"blocks of {_BLOCK} neighbouring frames"
    keys = intervals.keys(np.split(numbered, starts[1:]))
    return {
        "mae": Observations(np.add.reduceat(errors, starts) / sizes, unit, sizes, keys),
        "r2": Observations(np.arange(len(starts)), unit, statistic=r2),
    }


def _blocks(places):
    """Where blocks of at most `_BLOCK` frames begin, none of which goes over a gap."""
    starts = [0]
    for i in range(1, len(places)):
        if places[i] != places[i - 1] + 1 or i - starts[-1] == _BLOCK:
            starts.append(i)
    return np.array(starts)


def examples(data):
    """Some training frames with the driver's angle."""
    chosen = np.linspace(0, len(data.angles["train_sample"]) - 1, 2 * _SHOWN).astype(int)
    titles = [f"{angle:+.2f}" for angle in data.angles["train_sample"][chosen]]
    frames = _frames(data.train_sample, chosen)
    return {"Training frames, and the driver's angle": _grid(frames, titles)}


def draw(model, data, config, found):
    """Steering over time, the worst frames, and what the answers hang on, on the test split."""
    true, answers = data.angles["test"], found
    gaps = 1 + np.flatnonzero(np.diff(data.places["test"]) != 1)
    gaps = gaps[gaps < _LONGEST]
    x = np.insert(np.arange(len(true[:_LONGEST]), dtype="float64"), gaps, np.nan)
    curves = {
        name: (x, np.insert(angles[:_LONGEST].astype("float64"), gaps, np.nan))
        for name, angles in (("driver", true), ("model", answers))
    }
    # The worst of a block stands for its neighbours, which look the same.
    errors = np.abs(answers - true)
    blocks = np.split(np.arange(len(true)), _blocks(data.places["test"])[1:])
    worst = sorted((block[errors[block].argmax()] for block in blocks), key=lambda i: -errors[i])
    worst = worst[:_SHOWN]
    some = np.linspace(0, len(true) - 1, _SHOWN).astype(int)
    titles = [f"{a:+.2f} {_ARROW} {b:+.2f}" for a, b in zip(true, answers, strict=True)]
    return {
        "Steering over time (test)": plots.overlaid(
            curves, "Breaks: between two stretches", "test frame", "steering, left to right"
        ),
        f"Worst frames (test), driver {_ARROW} model": _grid(
            _frames(data.test, worst), [titles[i] for i in worst]
        ),
        f"What the answer hangs on (test), driver {_ARROW} model": _grid(
            _saliency(model, _frames(data.test, some)), [titles[i] for i in some]
        ),
    }


def _frames(batches, chosen):
    """The frames of those numbers, `(n, height, width, 3)`."""
    wanted, found, begin = set(map(int, chosen)), {}, 0
    for images, _ in batches.as_numpy_iterator():
        held = range(begin, begin + len(images))
        found |= {i: images[i - begin] for i in wanted.intersection(held)}
        begin += len(images)
    return np.stack([found[int(i)] for i in chosen])


def _grid(frames, titles):
    return plots.image_grid(frames, titles, 4, (0.0, 255.0))


def _saliency(model, frames):
    """Frames in grey, and in red where a change of a pixel would change the steering most."""
    frames = tf.constant(frames)
    with tf.GradientTape() as tape:
        tape.watch(frames)
        steering = model(frames, training=False)
    found = tf.reduce_max(tf.abs(tape.gradient(steering, frames)), -1, keepdims=True)
    found = tf.nn.avg_pool2d(found, 5, 1, "SAME")
    found /= tf.reduce_max(found, (1, 2, 3), keepdims=True) + 1e-12
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(frames))
    return (0.8 * grey * (1 - found) + tf.constant([255.0, 30.0, 0.0]) * found).numpy()


def describe(data):
    """The data in a few lines."""
    lines = {
        "frames": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "drives": f"{data.drives:,}, each cut into stretches of time",
        "left out": f"{data.between:,} frames between the stretches",
        "image shape": " x ".join(map(str, data.image_shape)),
    }
    if data.name in DRIVES:
        lines["origin"] = "synthetic: rendered by this package, no camera has seen it"
    if data.deleted:
        lines["deleted"] = f"{data.deleted:,} frames that the tub marks so"
    return lines


def predict(model, config, input=None):
    """The steering for image files.

    Args:
        model: A trained PilotNet.
        config: Its config.
        input: An image file; a directory, of whose files those named like images are taken; or a
            Donkeycar tub.

    Yields:
        `{"file": ..., "angle": ...}`, and for a tub's frames `user_angle`, what its driver did.

    Raises:
        ValueError: if there is nothing to read or a file is no image.
    """
    if not input:
        raise ValueError("input: give an image file, a directory of them, or a tub")
    notes, recorded = Notes(), None
    if os.path.exists(os.path.join(input, MANIFEST)):
        recorded = read_tub(input, "input", notes, config.data.skip_bad_files)
    height, width, channels = model.get_build_config()["input_shape"][1:]
    paths = recorded.paths if recorded else files.list_images(input, notes)

    skips = config.data.skip_bad_files and os.path.isdir(input)
    reader = files.ImageReader("input", channels, skips)

    for begin in range(0, len(paths), config.batch_size):
        some = range(begin, min(begin + config.batch_size, len(paths)))
        read = {i: image for i in some if (image := reader.read(paths[i])) is not None}
        if not read:
            continue
        frames = [files.resize(image, (height, width)) for image in read.values()]
        frames = tf.cast(tf.stack(frames), "float32")
        for i, (angle,) in zip(read, model.predict(frames, verbose=0), strict=True):
            row = {"file": str(paths[i]), "angle": float(angle)}
            yield row | ({"user_angle": recorded.angles[i]} if recorded else {})
    reader.tell(notes)


def serving(model, config):
    """Frames in, as pixels of any size or as files; angles out, the same as from `predict`."""
    height, width, channels = model.get_build_config()["input_shape"][1:]

    def angle(frames):
        return {"angle": model(tf.cast(frames, "float32"), training=False)[:, 0]}

    def steer(frames):
        frames = files.resize(frames, (height, width))
        return angle(tf.ensure_shape(frames, (None, None, None, channels)))

    def steer_bytes(frame_bytes):
        frames, _ = files.decode_images(frame_bytes, (height, width, channels))
        return steer(frames)

    any_size = tf.TensorSpec((None, None, None, channels), "uint8")
    own_size = tf.TensorSpec((None, height, width, channels), "uint8")
    strings = tf.TensorSpec((None,), "string")
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, height, width, channels), "uint8")
    large = random.integers(0, 256, (2, height + 5, width + 3, channels), "uint8")
    encoded = np.array([tf.io.encode_png(image).numpy() for image in large])
    return {
        "steer": Signature(steer, (any_size,), (large,)),
        "steer_bytes": Signature(steer_bytes, (strings,), (encoded,)),
        "angle": Signature(angle, (own_size,), (small,), portable=True),
    }, {}


TASK = Task(
    name="driving",
    summary="how a driver would steer at what a camera sees (CNN)",
    unit="frames",
    config=Driving,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=None,
    describe=describe,
    predict=predict,
    predict_flags=("--input=my_tub",),
    serving=serving,
    examples=examples,
    metrics={
        "mae": Metric("", "min"),
        "r2": Metric("", "max"),
        "mae_training_mean": Metric(""),
        "mae_previous_frame": Metric(""),
        "r2_training_mean": Metric(""),
        "r2_previous_frame": Metric(""),
        "loss": Metric("", "min"),
    },
)
