"""How a data set is split in three, the same whatever the seed of a training."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from sklearn.model_selection import train_test_split

from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches

SEED = 0  # Of everything that is drawn once and belongs to a data set.
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
    """Data ready for `fit`, in three parts; each kind of data adds what else is known of it.

    Attributes:
        name: What was loaded.
        train: Shuffled, augmented batches; each iteration is another epoch.
        train_from: Function from an epoch's number to the endless stream of epochs from there on,
            the same every time: for `fit(data.train_from(0), steps_per_epoch=...)`.
        train_sample: As much training data as there is for validation, as evaluation sees it.
        validation: Batches in order.
        test: Batches in order.
        sizes: Number of examples of each split.
        notes: What was left out and how the rest was understood, a `Notes`.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable
    train_sample: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    sizes: dict
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


def split_named(name):
    """Which split a folder, a file or a column of this name is for, in any case.

    Args:
        name: Without the suffix: `Train`, `valid_set`, `test-images`, `train2017`, `1_train`.

    Returns:
        "train", "validation", "test", or `None`.
    """
    name = name.lower().strip("_.- ")
    return next((s for s, words in _WORDS.items() if re.fullmatch(_NAME.format(words), name)), None)


def stratified_split(labels):
    """Row numbers of an 80/10/10 split in which every class keeps its share.

    Args:
        labels: One integer a row.

    Returns:
        `{"train": rows, "validation": rows, "test": rows}`, the same for the same labels.
    """
    rows = np.arange(len(labels))
    labels = np.asarray(labels)
    train, rest = train_test_split(rows, test_size=0.2, random_state=SEED, stratify=labels)
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=SEED, stratify=labels[rest]
    )
    return {"train": train, "validation": validation, "test": test}
