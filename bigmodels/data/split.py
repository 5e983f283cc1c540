"""How a data set is split in three, the same whatever the seed of a training."""

import numpy as np
from sklearn.model_selection import train_test_split

SEED = 0  # Of everything that is drawn once and belongs to a data set.


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
