"""What is measured of a model that steers, and what its report shows."""

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
# Frames. Neighbours are not independent; the errors of two that lie this far apart nearly are.
_BLOCK = 15
_SHOWN = 12
# Frames of the picture over time.
_LONGEST = 400
_ARROW = "\N{RIGHTWARDS ARROW}"


def evaluate(model, data, config, measured):
    """R2, and what two answers that look at no frame would get on the same frames.

    `training_mean` always answers the mean angle of the training frames; `previous_frame` answers
    what the driver did one frame before, which the model is not told and which is hard to beat: a
    hand on the wheel moves little from one frame to the next.
    """
    sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
    mean, metrics, predicted = data.angles["train"].mean(), {}, {}
    for split, batches in sets.items():
        sampled = "train_sample" if split == "train" else split
        true, previous = data.angles[sampled], data.previous[sampled]
        frames = batches.map(lambda images, _: images)
        predicted[split] = model.predict(frames, verbose=0)[:, 0]
        answers = {
            "": predicted[split],
            "_training_mean": np.full_like(true, mean),
            "_previous_frame": np.where(np.isnan(previous), mean, previous),
        }
        metrics[split] = {
            f"{metric}{name}": value
            for name, answer in answers.items()
            for metric, value in _rated(true, answer, data.places[sampled], split == "test").items()
        }
    return Evaluation(metrics, lambda: _figures(model, data, predicted["test"]))


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


def _figures(model, data, predicted):
    """Steering over time, the worst frames, and what the answers hang on, on the test split."""
    true, places = data.angles["test"], data.places["test"]
    gaps = 1 + np.flatnonzero(np.diff(places) != 1)
    gaps = gaps[gaps < _LONGEST]
    x = np.insert(np.arange(len(true[:_LONGEST]), dtype="float64"), gaps, np.nan)
    curves = {
        name: (x, np.insert(angles[:_LONGEST].astype("float64"), gaps, np.nan))
        for name, angles in (("driver", true), ("model", predicted))
    }
    # The worst of a block stands for its neighbours, which look the same.
    errors = np.abs(predicted - true)
    blocks = np.split(np.arange(len(true)), _blocks(places)[1:])
    worst = sorted((block[errors[block].argmax()] for block in blocks), key=lambda i: -errors[i])
    worst = worst[:_SHOWN]
    some = np.linspace(0, len(true) - 1, _SHOWN).astype(int)
    titles = [f"{a:+.2f} {_ARROW} {b:+.2f}" for a, b in zip(true, predicted, strict=True)]
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
    wanted, frames, begin = set(map(int, chosen)), {}, 0
    for images, _ in batches.as_numpy_iterator():
        held = range(begin, begin + len(images))
        frames |= {i: images[i - begin] for i in wanted.intersection(held)}
        begin += len(images)
    return np.stack([frames[int(i)] for i in chosen])


def _grid(frames, titles):
    return plots.image_grid(frames, titles, 4, (0.0, 255.0))


def _saliency(model, frames):
    """Frames in grey, and in red where a change of a pixel would change the steering most."""
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
    """Some training frames with the driver's angle."""
    angles = data.angles["train_sample"]
    chosen = np.linspace(0, len(angles) - 1, 2 * _SHOWN).astype(int)
    titles = [f"{angle:+.2f}" for angle in angles[chosen]]
    frames = _frames(data.train_sample, chosen)
    return {"Training frames, and the driver's angle": _grid(frames, titles)}


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
