"""How a data set is split in three, the same whatever the seed of a training."""

import re

import numpy as np
from sklearn.model_selection import train_test_split

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
