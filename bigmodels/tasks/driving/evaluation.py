"""Evaluation and report of a steering model."""

import numpy as np
import tensorflow as tf
from sklearn.metrics import r2_score

from bigmodels.data.readers.embedded import DRIVES
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "mae": Metric("", "min"),
    "r2": Metric("", "max"),
    "mae_training_mean": Metric(""),
    "mae_previous_frame": Metric(""),
    "r2_training_mean": Metric(""),
    "r2_previous_frame": Metric(""),
    "loss": Metric("", "min"),
}
# Frames of a block. The errors of neighbouring frames depend on each other, those of blocks hardly.
_BLOCK = 15
_SHOWN = 12
# Frames in the figure of steering over time.
_LONGEST = 400
_ARROW = "\N{RIGHTWARDS ARROW}"


def evaluate(model, data, config, measured):
    """R2, and the metrics of two baselines that do not use the frames.

    `training_mean` always predicts the mean angle of the training frames. `previous_frame` predicts
    the driver's angle in the previous frame, which the model does not know. It is hard to beat, as
    the angle changes little from one frame to the next.
    """
    sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
    mean, metrics, predicted = data.angles["train"].mean(), {}, {}
    for split, batches in sets.items():
        sampled = "train_sample" if split == "train" else split
        true, previous = data.angles[sampled], data.previous[sampled]
        frames = batches.map(lambda images, _: images)
        predicted[split] = model.predict(frames, verbose=0)[:, 0]
        predictions = {
            "": predicted[split],
            "_training_mean": np.full_like(true, mean),
            "_previous_frame": np.where(np.isnan(previous), mean, previous),
        }
        metrics[split] = {
            f"{metric}{suffix}": value
            for suffix, angles in predictions.items()
            for metric, value in _rated(true, angles, data.places[sampled], split == "test").items()
        }
    return Evaluation(metrics, lambda: _figures(model, data, predicted["test"]))


def _rated(true, predicted, places, in_blocks):
    """MAE and R2 of predictions, as numbers or as `Observations` of blocks of frames."""
    errors = np.abs(predicted - true).astype("float64")
    if not in_blocks:
        return {"mae": errors.mean(), "r2": r2_score(true, predicted)}
    starts = _blocks(places)
    sizes = np.diff(starts, append=len(true))
    numbered = np.stack([places, true.astype("float64")], axis=-1)  # (frames, 2)
    blocks = np.split(np.arange(len(true)), starts[1:])

    def r2(chosen):
        rows = np.concatenate([blocks[i] for i in chosen])
        return r2_score(true[rows], predicted[rows])

    unit = f"blocks of {_BLOCK} neighbouring frames"
    keys = intervals.keys(np.split(numbered, starts[1:]))
    return {
        "mae": Observations(np.add.reduceat(errors, starts) / sizes, unit, sizes, keys),
        "r2": Observations(np.arange(len(starts)), unit, statistic=r2),
    }


def _blocks(places):
    """Start indices of blocks of at most `_BLOCK` consecutive frames."""
    starts = [0]
    for i in range(1, len(places)):
        if places[i] != places[i - 1] + 1 or i - starts[-1] == _BLOCK:
            starts.append(i)
    return np.array(starts)


def _figures(model, data, predicted):
    """Steering over time, the worst frames, and saliency maps on test data."""
    true, places = data.angles["test"], data.places["test"]
    gaps = 1 + np.flatnonzero(np.diff(places) != 1)
    gaps = gaps[gaps < _LONGEST]
    x = np.insert(np.arange(len(true[:_LONGEST]), dtype="float64"), gaps, np.nan)
    curves = {
        name: (x, np.insert(angles[:_LONGEST].astype("float64"), gaps, np.nan))
        for name, angles in (("driver", true), ("model", predicted))
    }
    # Only the worst frame of each block, as its neighbours look the same.
    errors = np.abs(predicted - true)
    blocks = np.split(np.arange(len(true)), _blocks(places)[1:])
    worst = sorted((block[errors[block].argmax()] for block in blocks), key=lambda i: -errors[i])
    worst = worst[:_SHOWN]
    some = np.linspace(0, len(true) - 1, _SHOWN).astype(int)
    titles = [f"{a:+.2f} {_ARROW} {b:+.2f}" for a, b in zip(true, predicted, strict=True)]
    return {
        "Steering over time (test)": plots.overlaid(
            curves, "Gaps separate stretches of time", "test frame", "angle, from left to right"
        ),
        f"Worst frames (test), driver {_ARROW} model": _grid(
            _frames(data.test, worst), [titles[i] for i in worst]
        ),
        f"Saliency (test), driver {_ARROW} model": _grid(
            _saliency(model, _frames(data.test, some)), [titles[i] for i in some]
        ),
    }


def _frames(batches, chosen):
    """The frames with these numbers, `(n, height, width, 3)`."""
    numbers, frames, begin = set(map(int, chosen)), {}, 0
    for images, _ in batches.as_numpy_iterator():
        in_batch = range(begin, begin + len(images))
        frames |= {i: images[i - begin] for i in numbers.intersection(in_batch)}
        begin += len(images)
    return np.stack([frames[int(i)] for i in chosen])


def _grid(frames, titles):
    return plots.image_grid(frames, titles, 4, (0.0, 255.0))


def _saliency(model, frames):
    """Saliency maps: grey frames, red where the gradient of the steering is largest."""
    frames = tf.constant(frames)
    with tf.GradientTape() as tape:
        tape.watch(frames)
        steering = model(frames, training=False)
    influence = tf.reduce_max(tf.abs(tape.gradient(steering, frames)), -1, keepdims=True)
    influence = tf.nn.avg_pool2d(influence, 5, 1, "SAME")
    influence /= tf.reduce_max(influence, (1, 2, 3), keepdims=True) + 1e-12
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(frames))
    red = tf.constant([255.0, 30.0, 0.0])
    return (0.8 * grey * (1 - influence) + red * influence).numpy()


def examples(data):
    """Some training frames with the driver's angles."""
    angles = data.angles["train_sample"]
    chosen = np.linspace(0, len(angles) - 1, 2 * _SHOWN).astype(int)
    titles = [f"{angle:+.2f}" for angle in angles[chosen]]
    frames = _frames(data.train_sample, chosen)
    return {"Training frames with the driver's angles": _grid(frames, titles)}


def describe(data):
    """Facts about the data."""
    lines = {
        "frames": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "drives": f"{data.drives:,}, each cut into stretches of time",
        "left out": f"{data.between:,} frames between the stretches",
        "image shape": " x ".join(map(str, data.image_shape)),
    }
    if data.name in DRIVES:
        lines["origin"] = "synthetic: rendered by this package, not filmed"
    if data.deleted:
        lines["deleted"] = f"{data.deleted:,} frames that are marked as deleted in the tub"
    return lines
