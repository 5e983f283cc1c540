"""Checks of data that arrive batch by batch from Python: generators, `PyDataset`s, loaders."""

import types
from typing import Any

import keras

from bigmodels import checks
from bigmodels.distribute.batches import WrappedAdapter
from bigmodels.distribute.upstream import DataAdapter, data_adapters


def is_stream(x: Any) -> bool:
    """Whether `x` yields batches one by one from Python, so that its values are not in memory."""
    return (
        isinstance(x, types.GeneratorType | keras.utils.PyDataset | DataAdapter)
        or data_adapters.is_torch_dataloader(x)
        or data_adapters.is_grain_dataset(x)
    )


class CheckedStream(WrappedAdapter):
    """Keras' adapter for such data, with the checks of `bigmodels.checks`.

    The same batches are drawn as by Keras, in the same order.

    Args:
        x: Data for which `is_stream` is true.
        name: Name of the data in messages.
        specs: As for `bigmodels.checks.guard`.
        weigh: A function that adds sample weights to a data set of batches `(x, y)`, or `None`.
        **kwargs: Arguments of `fit`: `y`, `sample_weight`, `shuffle` and so on.
    """

    def __init__(self, x, name, specs, weigh=None, **kwargs):
        self._adapter = data_adapters.get_data_adapter(x, **kwargs)
        self._name, self._specs, self._weigh = name, specs, weigh

    def get_tf_dataset(self):
        dataset = self._adapter.get_tf_dataset()
        if self._weigh is not None:
            dataset = self._weigh(dataset)
        return checks.untuned(checks.watch(dataset, self._name, self._specs))
