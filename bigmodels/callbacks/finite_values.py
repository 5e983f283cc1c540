"""A training ends before NaN or infinity reaches the model, or goes on without that batch."""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bigmodels.distribute.finite import Watch
from bigmodels.runs import atomic


class FiniteValues(keras.callbacks.Callback):
    """Ends a training at the first NaN or infinity; the model stays as it was before the batch.

    `keras.callbacks.TerminateOnNaN` looks at the loss after the weights have been changed. Here a
    step has failed if the loss, a gradient or any variable (weights, batch statistics, moments of
    the optimizer) is no longer finite, and then every variable gets back the value it had before
    the step: weights, batch statistics, random states, counters, optimizers' variables and metrics.
    For `bigmodels.Model`, in every strategy, with `jit_compile` and with `steps_per_execution`,
    where the steps after the one that failed are not made either.

    Under mixed_float16, gradients that overflow lower the loss scale, as always; they count here
    once the scale is below one. The loss scale is not put back.

    Args:
        skip: Whether to leave the batch out and go on.
        directory: Where the batch is written to, for inspection, as `bad_batch.npz`; `None` writes
            none.
        batch_at: Function of `(epoch, step)` to the batch that was trained on there.
        verbose: Whether to say on stderr what was left out.

    Attributes:
        skipped: Which steps were left out, a list of strings; `left_out` is how many.

    Raises:
        FloatingPointError: while training, unless `skip`; it names epoch, step and weight.
    """

    def __init__(self, skip=False, directory=None, batch_at=None, verbose=1):
        super().__init__()
        self.skip, self.directory, self.batch_at = skip, directory, batch_at
        self.verbose = verbose
        self.skipped = []

    def set_model(self, model):
        # Before `fit` traces the step.
        super().set_model(model)
        if getattr(model, "optimizers", ()):
            Watch(model, self.skip)

    def get_state(self):
        """Which steps were left out."""
        return list(self.skipped)

    def set_state(self, state):
        """Go on from what `get_state` gave."""
        self.skipped = list(state)

    @property
    def left_out(self):
        """How many steps were left out."""
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
                f"{line}; the model was left as it was. A lower optimizer.learning_rate "
                "usually helps, if the batch is sound"
            )
        if self.verbose:
            tqdm.write(f"{line}; this step is left out ({self.left_out} so far).", file=sys.stderr)

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
