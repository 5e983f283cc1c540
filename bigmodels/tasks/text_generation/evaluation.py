"""Evaluation and report of a language model."""

import math

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "loss": Metric("nats per character", "min"),
    "bits_per_character": Metric("bits", "min"),
    "accuracy": Metric("%", "max"),
}
# Characters of a block. Neighbouring characters depend on each other, blocks hardly.
_BLOCK = 1000


def evaluate(model, data, config, measured):
    """Bits per character, and the test metrics block by block."""
    losses, correct = _rate_tokens(model, data.test)
    targets = np.concatenate([y.numpy().ravel() for _, y in data.test])
    # The blocks do not depend on the length of a model's windows.
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
    """Cross-entropy in nats of every token, and 1.0 or 0.0 for correct or wrong predictions."""

    @tf.function(reduce_retracing=True)
    def rate(inputs, targets):
        logits = ops.cast(model(inputs, training=False), "float32")
        losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return losses, ops.cast(ops.equal(ops.argmax(logits, -1), targets), "float32")

    rated = [rate(inputs, targets) for inputs, targets in batches]
    losses, correct = zip(*rated, strict=True)
    return np.concatenate(losses).ravel(), np.concatenate(correct).ravel()


def _figures(model, data, seed):
    """Generated texts at three temperatures."""
    return {
        f"Generated text, temperature {temperature}": model.generate(
            _prompt(data), 400, temperature, seed
        )
        for temperature in (0.5, 0.8, 1.0)
    }


def _prompt(data):
    return "ROMEO:" if data.name == "tiny_shakespeare" else "The "


def examples(data):
    """The beginning of the training text."""
    ids = np.concatenate([x.numpy().ravel() for x, _ in data.train_sample.take(1)])
    return {"Beginning of the training text": data.vocabulary.decode(ids[:_BLOCK])}


def sample(model, data, config):
    """A short generated text."""
    return model.generate(_prompt(data), 200, 0.8, config.seed)


def describe(data):
    """Facts about the data."""
    return {
        "characters": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "vocabulary": f"{len(data.vocabulary)} IDs, including padding and unknown",
        "unknown characters": ", ".join(
            f"{share:.2%} {split}" for split, share in data.unknown_share.items()
        ),
    }
