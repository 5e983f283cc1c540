"""A callback that stops training, or skips the batch, before NaN or infinity reaches the model."""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bigmodels.distribute.finite import Watch
from bigmodels.runs import atomic


class FiniteValues(keras.callbacks.Callback):
    """Stops training at the first NaN or infinity, with the model as it was before the batch.

    `keras.callbacks.TerminateOnNaN` checks the loss after the weights have been changed. Here a
    step fails if the loss, a gradient or any variable (weights, batch statistics, moments of the
    optimizer) is no longer finite. Every variable then gets its value from before the step:
    weights, batch statistics, random states, counters, optimizers' variables and metrics. Works
    with `bigmodels.Model` in every strategy, with `jit_compile` and with `steps_per_execution`,
    where the steps after the failed one are not executed either.

    With mixed_float16, overflowing gradients lower the loss scale as usual. They count as a failure
    only once the scale is below one. The loss scale is not restored.

    Args:
        skip: Whether to skip the batch and continue.
        directory: Directory to write the batch to, as `bad_batch.npz`, for inspection; `None` does
            not write it.
        batch_at: Function of `(epoch, step)` that returns the batch of that step.
        verbose: Whether to report skipped batches on stderr.

    Attributes:
        skipped: The skipped steps, a list of strings; `left_out` is their number.

    Raises:
        FloatingPointError: while training, unless `skip`; it names epoch, step and weight.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile(keras.optimizers.SGD(1e30), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> model.fit(x, y, 2, verbose=0, callbacks=[bigmodels.callbacks.FiniteValues()])
    Traceback (most recent call last):
    FloatingPointError: epoch 1, step 2: the loss became NaN or infinite; ...
    >>> bool(np.isfinite(model.get_weights()[0]).all())
    True
    """

    def __init__(
        self,
        skip: bool = False,
        directory: str | os.PathLike | None = None,
        batch_at: Callable[[int, int], Any] | None = None,
        verbose: int | bool = 1,
    ) -> None:
        super().__init__()
        self.skip, self.directory, self.batch_at = skip, directory, batch_at
        self.verbose = verbose
        self.skipped = []

    def set_model(self, model):
        # Keras calls this before `fit` traces the step.
        super().set_model(model)
        if getattr(model, "optimizers", ()):
            Watch(model, self.skip)

    def get_state(self) -> list[str]:
        """Return the skipped steps, for a checkpoint."""
        return list(self.skipped)

    def set_state(self, state: list[str]) -> None:
        """Restore the skipped steps from `get_state`."""
        self.skipped = list(state)

    @property
    def left_out(self) -> int:
        """Number of skipped steps."""
        return len(self.skipped)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        new = self.model._watch.newly_left_out()
        if not new:
            return
        where = f"epoch {self._epoch + 1}, step {batch + 1}"
        if self.model.steps_per_execution > 1:
            where += f" or up to {self.model.steps_per_execution - 1} before it"
        self.skipped += [where] * new
        line = f"{where}: {self.model._watch.what()} became NaN or infinite"
        line += self._write(batch)
        if not self.skip:
            self.model._watch.leave()
            raise FloatingPointError(
                f"{line}; the model was left unchanged. A lower optimizer.learning_rate usually "
                "helps, if the batch itself is correct"
            )
        if self.verbose:
            tqdm.write(f"{line}; the step is skipped ({self.left_out} so far).", file=sys.stderr)

    def on_train_end(self, logs=None):
        self.model._watch.leave()

    def _write(self, step):
        if self.directory is None or self.batch_at is None:
            return ""
        path = pathlib.Path(self.directory) / "bad_batch.npz"
        parts = tf.nest.flatten(self.batch_at(self._epoch, step))
        os.makedirs(path.parent, exist_ok=True)
        with atomic.atomic_path(path) as temporary:
            np.savez_compressed(
                temporary, **{f"part_{i}": np.asarray(p) for i, p in enumerate(parts)}
            )
        return f" (the batch is in {path})"
