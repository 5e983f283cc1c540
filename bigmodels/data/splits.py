"""Train, validation and test splits, which do not depend on the seed of a training."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from sklearn.model_selection import train_test_split

from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches

SEED = 0  # For everything random that is part of a data set, such as its splits.
SPLITS = ("train", "validation", "test")

_WORDS = {
    "train": "train|training|trn|训练",
    "validation": "val|valid|validation|validate|validating|dev|devel|development|eval|evaluation"
    "|验证",
    "test": "test|testing|tst|测试",
}
# `Train`, `val_set`, `test-images`, `train2017`, `test1`, `1_train`, `02 Test`.
_NAME = (
    r"(?:\d+[ _.-]+)?(?:{})"
    r"(?:[ _.-]*(?:set|data|dataset|split|images?|imgs?|folder|集))?[ _.-]*\d*"
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """Data ready for `fit`, in three splits; the base class of what loaders return.

    Attributes:
        name: Name of the data set, as it was given to the loader.
        train: Shuffled, augmented batches; each iteration is a new epoch.
        train_from: Function that maps the number of an epoch to the endless stream of batches from
            that epoch on, the same each time: for `fit(data.train_from(0), steps_per_epoch=...)`.
        train_sample: Training data without augmentation, as many as there are for validation.
        validation: Batches in order.
        test: Batches in order.
        sizes: Number of examples in each split.
        notes: A `Notes`: what was left out, and how the rest was interpreted.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable[[int], tf.data.Dataset]
    train_sample: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    sizes: dict[str, int]
    notes: Notes = dataclasses.field(default_factory=Notes)

    @classmethod
    def from_arrays(cls, name, arrays, batch_size, seed=0, **others):
        """Splits of data in memory, for a task of your own.

        Args:
            name: What the data set is called.
            arrays: `{"train": (x, y), "validation": ..., "test": ...}`, NumPy arrays or structures
                of them, with one row an example.
            batch_size: The global batch.
            seed: Decides the order of training.
            **others: Fields of a subclass.

        Returns:
            An instance of the class.

        Example:

        >>> x, y = np.zeros((20, 3), "float32"), np.zeros(20)
        >>> arrays = {"train": (x, y), "validation": (x[:5], y[:5]), "test": (x[:5], y[:5])}
        >>> data = Splits.from_arrays("zeros", arrays, batch_size=4)
        >>> data.sizes, int(data.train.cardinality())
        ({'train': 20, 'validation': 5, 'test': 5}, 5)
        """

        def prepare(batch, batch_seed):
            return batch

        rows = {split: tf.data.Dataset.from_tensor_slices(part) for split, part in arrays.items()}
        sizes = {split: int(elements.cardinality()) for split, elements in rows.items()}
        train, train_from = training_batches(
            rows["train"], sizes["train"], batch_size, seed, prepare
        )
        held_out = {
            "train_sample": rows["train"].take(sizes["validation"]),
            "validation": rows["validation"],
            "test": rows["test"],
        }
        return cls(
            name=name,
            train=train,
            train_from=train_from,
            sizes=sizes,
            **{
                split: evaluation_batches(elements, batch_size, prepare)
                for split, elements in held_out.items()
            },
            **others,
        )


def split_named(name: str) -> str | None:
    """Return the split that the name of a folder, file or column stands for.

    Args:
        name: Name without a suffix, in any case: `Train`, `valid_set`, `test-images`, `train2017`,
            `1_train`.

    Returns:
        "train", "validation", "test", or `None`.

    Example:

    >>> split_named("valid_set"), split_named("trained")
    ('validation', None)
    """
    name = name.lower().strip("_.- ")
    return next((s for s, words in _WORDS.items() if re.fullmatch(_NAME.format(words), name)), None)


def stratified_split(labels: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Split rows 80/10/10 such that all splits have the same class proportions.

    Args:
        labels: One integer per row.

    Returns:
        `{"train": rows, "validation": rows, "test": rows}`, arrays of row indices; the same for
        the same labels.

    Example:

    >>> rows = stratified_split([0, 1] * 10)
    >>> {split: len(indices) for split, indices in rows.items()}
    {'train': 16, 'validation': 2, 'test': 2}
    """
    rows = np.arange(len(labels))
    labels = np.asarray(labels)
    train, rest = train_test_split(rows, test_size=0.2, random_state=SEED, stratify=labels)
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=SEED, stratify=labels[rest]
    )
    return {"train": train, "validation": validation, "test": test}


def class_sample(
    labels: Sequence[int] | np.ndarray, per_class: int, class_names: Sequence[str], seed: int
) -> np.ndarray:
    """Choose as many rows of every class, at random.

    Args:
        labels: One integer per row, from 0.
        per_class: Number of rows of each class.
        class_names: One name per class, in label order.
        seed: Decides which rows.

    Returns:
        Row indices in ascending order.

    Raises:
        ValueError: naming the class, if one has fewer rows.

    Example:

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> labels[class_sample(labels, 2, ["cat", "dog"], seed=0)]
    array([0, 0, 1, 1])
    """
    labels, random = np.asarray(labels), np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < per_class:
        scarce = class_names[counts.argmin()]
        raise ValueError(
            f"data.images_per_class: {per_class}, but there are {counts.min():,} training images "
            f"of {scarce!r}"
        )
    rows = [
        random.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in range(len(class_names))
    ]
    return np.sort(np.concatenate(rows))
