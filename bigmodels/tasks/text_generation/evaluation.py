"""What is measured of a language model, and what its report shows."""

import math

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "loss": Metric("nats a character", "min"),
    "bits_per_character": Metric("bits", "min"),
    "accuracy": Metric("%", "max"),
}
# Characters. Neighbours are not independent; what lies this far apart nearly is.
_BLOCK = 1000


def evaluate(model, data, config, measured):
    """Bits per character, the other common unit, and the test figures block by block."""
    losses, correct = _rate_tokens(model, data.test)
    targets = np.concatenate([y.numpy().ravel() for _, y in data.test])
    # The same blocks for every model, whatever the length of its windows.
    starts = np.arange(0, len(targets), _BLOCK)
    sizes = np.diff(starts, append=len(targets))
    keys = intervals.keys(np.split(targets, starts[1:]))

    def blocks(values):
        means = np.add.reduceat(values.astype("float64"), starts) / sizes
        return Observations(means, f"blocks of {_BLOCK:,} characters", sizes, keys)

    metrics = {
        split: {"bits_per_character": values["loss"] / math.log(2)}
        for split, values in measured.items()
    }
    metrics["test"] = {
        "loss": blocks(losses),
        "accuracy": blocks(correct),
        "bits_per_character": blocks(losses / math.log(2)),
    }
    return Evaluation(metrics, lambda: _figures(model, data, config.seed))


def _rate_tokens(model, batches):
    """Cross-entropy in nats, and 1.0 or 0.0 for right or wrong, of every single token."""

    @tf.function(reduce_retracing=True)
    def rate(inputs, targets):
        logits = ops.cast(model(inputs, training=False), "float32")
        losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return losses, ops.cast(ops.equal(ops.argmax(logits, -1), targets), "float32")

    rated = [rate(inputs, targets) for inputs, targets in batches]
    losses, correct = zip(*rated, strict=True)
    return np.concatenate(losses).ravel(), np.concatenate(correct).ravel()


def _figures(model, data, seed):
    """Texts at three temperatures."""
    return {
        f"Text at temperature {temperature}": model.generate(_prompt(data), 400, temperature, seed)
        for temperature in (0.5, 0.8, 1.0)
    }


def _prompt(data):
    return "ROMEO:" if data.name == "tiny_shakespeare" else "The "


def examples(data):
    """Where the training text begins."""
    ids = np.concatenate([x.numpy().ravel() for x, _ in data.train_sample.take(1)])
    return {"The training text begins": data.vocabulary.decode(ids[:_BLOCK])}


def sample(model, data, config):
    """A short text."""
    return model.generate(_prompt(data), 200, 0.8, config.seed)


def describe(data):
    """The data in a few lines."""
    return {
        "characters": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "vocabulary": f"{len(data.vocabulary)} ids, padding and unknown included",
        "unknown characters": ", ".join(
            f"{share:.2%} {split}" for split, share in data.unknown_share.items()
        ),
    }
