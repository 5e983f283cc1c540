"""How a data set is split in three, the same whatever the seed of a training."""

import re

import numpy as np
from sklearn.model_selection import train_test_split

SEED = 0  # Of everything that is drawn once and belongs to a data set.
SPLITS = ("train", "validation", "test")
# How splits are usually called, without "set".
_NAMES = {
    "train": "train training trn",
    "validation": "validation val valid dev devel development",
    "test": "test testing tst",
}


def split_named(name):
    """Which split a folder, a file or a column calls by its name.

    Args:
        name: For example `Train`, `val`, `test_set`.

    Returns:
        `train`, `validation` or `test`; or `None`.
    """
    word = re.sub(r"[\s_.-]*(set|split|data)?$", "", name.lower().strip("_.- "))
    return next((split for split, names in _NAMES.items() if word in names.split()), None)


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
