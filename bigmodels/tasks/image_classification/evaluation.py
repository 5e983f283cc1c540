"""Evaluation and report of an image classifier."""

import numpy as np
import tensorflow as tf

from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "accuracy": Metric("%", "max"),
    "top_5_accuracy": Metric("%", "max"),
    "calibration_error": Metric("%", "min"),
    "loss": Metric("nats", "min"),
}
_EXAMPLES, _ERRORS = 30, 24
# Bins of the calibration error.
_BINS = 15
_TOP = 5
# With more classes, `describe` gives only the range of their counts.
_MOST_COUNTED = 20


def evaluate(model, data, config, measured):
    """The test metrics image by image, and calibration.

    `calibration_error` is the expected calibration error (Guo et al., 2017): the mean difference
    between confidence and accuracy over 15 equal bins of the confidence. `top_5_accuracy` is
    measured if there are more than five classes.
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
        hits = (likeliest == labels[:, None]).any(-1)
        test[f"top_{_TOP}_accuracy"] = Observations(hits.astype(float), "images", keys=keys)
    return Evaluation({"test": test}, lambda: _figures(data, probabilities, labels))


def _figures(data, probabilities, labels):
    """Confusion matrix, calibration and most confident errors on test data."""
    predicted = probabilities.argmax(-1)
    names = data.class_names
    figures = {
        "Confusion matrix (test)": plots.confusion_matrix(labels, predicted, names),
        "Calibration (test)": plots.reliability(probabilities.max(-1), predicted == labels, _BINS),
    }
    wrong = np.flatnonzero(predicted != labels)
    if len(wrong):
        # The most confident errors first.
        wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:_ERRORS]
        images = np.concatenate([x for x, _ in data.test.as_numpy_iterator()])[wrong]
        pairs = [(names[labels[i]], f"\N{RIGHTWARDS ARROW} {names[predicted[i]]}") for i in wrong]
        titles = [("\n" if len(max(names, key=len)) > 4 else " ").join(pair) for pair in pairs]
        name = "Most confident errors (test), true \N{RIGHTWARDS ARROW} predicted"
        figures[name] = plots.image_grid(images, titles, 6, data.scale)
    return figures


def examples(data):
    """Some training images of each class, and the number of images per class."""
    names = data.class_names
    per_class, chosen = max(1, _EXAMPLES // len(names)), {i: [] for i in range(len(names))}
    for image, label in data.train_sample.unbatch().as_numpy_iterator():
        label = int(label.argmax() if label.ndim else label)
        if len(chosen[label]) < per_class:
            chosen[label].append(image)
    pairs = [(image, names[label]) for label in chosen for image in chosen[label]][:_EXAMPLES]
    images, titles = zip(*pairs, strict=True)
    return {
        "Training images": plots.image_grid(images, titles, 6, data.scale),
        "Images per class": plots.class_counts(data.class_counts, names),
    }


def describe(data):
    """Facts about the data."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
        "classes": ", ".join(data.class_names),
        "images per class": "; ".join(
            f"{split}: {_counted(data.class_names, counts)}"
            for split, counts in data.class_counts.items()
        ),
    }


def _counted(names, counts):
    """The number of images per class, or its range if there are many classes."""
    if counts.min() == counts.max():
        return f"{counts.min():,} each"
    if len(names) > _MOST_COUNTED:
        return f"{counts.min():,} to {counts.max():,}"
    return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
