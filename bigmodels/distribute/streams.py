"""Batches out of Python, checked as they come: generators, `PyDataset`s, other loaders."""

import types

import keras

from bigmodels import checks
from bigmodels.distribute.batches import WrappedAdapter
from bigmodels.distribute.upstream import DataAdapter, data_adapters


def is_stream(x):
    """Whether Keras makes batches of `x` one after another, without holding all of it."""
    return (
        isinstance(x, types.GeneratorType | keras.utils.PyDataset | DataAdapter)
        or data_adapters.is_torch_dataloader(x)
        or data_adapters.is_grain_dataset(x)
    )


class CheckedStream(WrappedAdapter):
    """What Keras makes of such data, with the checks of `bigmodels.checks` in it.

    As many batches are drawn as Keras draws, in the same order.

    Args:
        x: What `is_stream`.
        name: What to call it in messages.
        specs: As for `bigmodels.checks.guard`.
        weigh: A function that gives a data set of batches `(x, y)` sample weights, or `None`.
        **kwargs: As `fit` was given them: `y`, `sample_weight`, `shuffle` and so on.
    """

    def __init__(self, x, name, specs, weigh=None, **kwargs):
        self._adapter = data_adapters.get_data_adapter(x, **kwargs)
        self._name, self._specs, self._weigh = name, specs, weigh

    def get_tf_dataset(self):
        dataset = self._adapter.get_tf_dataset()
        if self._weigh is not None:
            dataset = self._weigh(dataset)
        return checks.watch(dataset, self._name, self._specs)
