"""Evaluation and report of a language model.

Bits per byte compare models with different tokens. They are the cross-entropy of the measured text,
in bits, over the number of bytes that the text has in UTF-8 after cleaning: `loss / ln 2 * tokens /
bytes`. The end of a document costs bits and has no bytes; an unknown character, which only the
tokens "characters" have, counts as one byte.
"""

import math

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.data.progress import Progress
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "loss": Metric("nats per character", "min"),
    "bits_per_character": Metric("bits", "min"),
    "bits_per_byte": Metric("bits", "min"),
    "accuracy": Metric("%", "max"),
}
# Tokens of a block. Neighbouring tokens depend on each other, blocks hardly.
_BLOCK = 1000


def metrics_of(unit):
    """The metrics for tokens of a unit, for example "byte"."""
    names = [name for name in METRICS if unit == "character" or name != "bits_per_character"]
    return {name: METRICS[name] for name in names} | {"loss": Metric(f"nats per {unit}", "min")}


def evaluate(model, data, config, measured):
    """Bits per byte, and the test metrics block by block."""
    tokenizer = data.vocabulary
    blocks = _Blocks(tokenizer)
    rate = _rating(model)
    with Progress("measuring test", int(data.test.cardinality()), " batches") as progress:
        for inputs, targets in data.test:
            blocks.add(*(values.numpy().ravel() for values in rate(inputs, targets)), targets)
            progress.update(1)
    metrics = {}
    for split, batches in (("train", data.train_sample), ("validation", data.validation)):
        bits = measured[split]["loss"] / math.log(2)
        metrics[split] = {"bits_per_byte": bits / _bytes_per_token(batches, tokenizer)}
        if tokenizer.UNIT == "character":
            metrics[split]["bits_per_character"] = bits
    return Evaluation(
        metrics | {"test": blocks.observed()}, lambda: _figures(model, data, config.seed)
    )


def _rating(model):
    """A function that rates predictions: cross-entropy in nats, and 1.0 or 0.0 for correct."""

    @tf.function(reduce_retracing=True)
    def rate(inputs, targets):
        logits = ops.cast(model(inputs, training=False), "float32")
        losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return losses, ops.cast(ops.equal(ops.argmax(logits, -1), targets), "float32")

    return rate


def _bytes_per_token(batches, tokenizer):
    sizes, tokens, size = tokenizer.num_bytes, 0, 0
    for _, targets in batches.as_numpy_iterator():
        tokens += targets.size
        size += int(sizes[targets].sum())
    return max(size, 1) / tokens


class _Blocks:
    """Means over blocks of consecutive tokens, which do not depend on the length of the windows."""

    def __init__(self, tokenizer):
        self._sizes, self._unit = tokenizer.num_bytes, tokenizer.UNIT
        self._rest = None
        self._columns = []

    def add(self, losses, correct, targets):
        """Add rated tokens, each `(n,)`."""
        new = losses, correct, np.ravel(targets)
        if self._rest is not None:
            new = [np.concatenate(pair) for pair in zip(self._rest, new, strict=True)]
        whole = len(new[0]) // _BLOCK * _BLOCK
        self._close([values[:whole] for values in new])
        self._rest = [values[whole:] for values in new]

    def observed(self):
        """`{metric: Observations}`."""
        self._close(self._rest)
        loss, correct, tokens, sizes, keys = map(np.concatenate, zip(*self._columns, strict=True))
        nats = loss / tokens
        of = f"blocks of {_BLOCK:,} {self._unit}s"
        metrics = {
            "loss": Observations(nats, of, tokens, keys),
            "accuracy": Observations(correct / tokens, of, tokens, keys),
            "bits_per_byte": Observations(loss / math.log(2) / sizes, of, sizes, keys),
        }
        if self._unit == "character":
            bits = Observations(nats / math.log(2), of, tokens, keys)
            metrics["bits_per_character"] = bits
        return metrics

    def _close(self, values):
        losses, correct, targets = values
        if not len(targets):
            return
        starts = np.arange(0, len(targets), _BLOCK)
        sums = [
            np.add.reduceat(column.astype("float64"), starts)
            for column in (losses, correct, self._sizes[targets])
        ]
        tokens = np.diff(starts, append=len(targets))
        keys = intervals.keys(np.split(targets, starts[1:]))
        self._columns.append((*sums[:2], tokens, np.maximum(sums[2], 1), keys))


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
        f"{data.vocabulary.UNIT}s": ", ".join(
            f"{count:,} {split}" for split, count in data.sizes.items()
        ),
        "vocabulary": data.vocabulary.summary,
        "unknown characters": ", ".join(
            f"{share:.2%} {split}" for split, share in data.unknown_share.items()
        ),
    }
