"""Callbacks that write a run's files and show its progress on a terminal."""

import pathlib
import shutil
import sys
import time
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from bigmodels.distribute.strategies import from_chief
from bigmodels.reports.pages import save_drawn

_SAMPLES_PER_RUN = 10


class Keeper(keras.callbacks.Callback):
    """Records the metrics of every finished epoch, and samples at regular intervals.

    It also stops training early if `config.early_stopping` is set and validation loss no longer
    falls.

    Args:
        run: The `RunDirectory` to write to.
        task: The `Task`, whose `sample` draws the samples.
        data: The task's data.
        config: The task's config.
        strategy: The `tf.distribute` strategy.
        epoch: Number of epochs finished before this process.
        waiting: A `bigmodels.data.waiting.Waiting` that times the data.

    Attributes:
        rows: One dict per epoch.
        seconds: Seconds spent on the current epoch, in earlier processes too.
        first_step: Seconds of this process's first step, in which the model is traced; or `None`.
        stepping: Seconds of its other steps.
    """

    def __init__(
        self,
        run: Any,
        task: Any,
        data: Any,
        config: Any,
        strategy: tf.distribute.Strategy,
        epoch: int,
        waiting: Any,
    ) -> None:
        super().__init__()
        self.run, self.strategy, self.waiting = run, strategy, waiting
        self.task, self.data, self.config = task, data, config
        # An epoch may have been recorded before its checkpoint was written.
        self.rows = run.history()[:epoch]
        run.write_history(self.rows)
        self.seconds, self.first_step, self.stepping = 0.0, None, 0.0

    def get_state(self) -> float:
        """Return the seconds of the current epoch; everything else is in the run's files."""
        return self.seconds

    def set_state(self, state: float) -> None:
        """Restore the seconds from `get_state`."""
        self.seconds = state

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        taken = self._taken()
        if self.first_step is None:
            self.first_step, self._first_wait = taken, self.waiting.seconds
        else:
            self.stepping += taken

    def _taken(self):
        now = time.perf_counter()
        taken, self._began = now - self._began, now
        self.seconds += taken
        return taken

    @property
    def waited(self) -> float | None:
        """The fraction of `stepping` spent waiting for batches; `None` before the second step."""
        if not self.stepping:
            return None
        return (self.waiting.seconds - self._first_wait) / self.stepping

    def on_epoch_end(self, epoch, logs=None):
        self._taken()  # Adds the validation's seconds.
        row = {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.rows.append(row | {"learning_rate": rate, "seconds": self.seconds})
        self.seconds = 0.0
        self.run.write_history(self.rows)
        every = max(1, self.config.epochs // _SAMPLES_PER_RUN)
        if self.task.sample and ((epoch + 1) % every == 0 or epoch == 0):
            drawn = self.task.sample(self.model, self.data, self.config)
            save_drawn(self.run.samples / f"epoch_{epoch + 1:04d}", drawn)
        if self.stops_early():
            self.model.stop_training = True

    def stops_early(self) -> bool:
        """Whether validation loss has not fallen for `early_stopping` epochs.

        It depends only on the recorded epochs, so a continued run stops where the uninterrupted one
        would. Only the chief has those of earlier processes, so all workers ask the chief.
        """
        if self.config.early_stopping is None:
            return False
        losses = [row["val_loss"] for row in self.rows]
        best = losses.index(min(losses)) if losses else 0
        stop = len(losses) - 1 - best >= self.config.early_stopping
        return bool(from_chief(self.strategy, [int(stop)])[0])


class TensorBoardLog(keras.callbacks.Callback):
    """Logs the metrics of every epoch for TensorBoard, without gaps or repetitions after a restart.

    `keras.callbacks.TensorBoard` appends to the files of an earlier process, which may contain an
    epoch that is trained again. Here the files are rewritten from the recorded epochs.

    Args:
        directory: Directory of the subdirectories `train` and `validation`.
        rows: One dict per epoch: the `rows` of a `Keeper`, which must be called first.
    """

    def __init__(self, directory: pathlib.Path, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.directory, self.rows = directory, rows

    def get_state(self) -> None:
        """Return no state, as the callback starts afresh in every process."""

    def set_state(self, state: None) -> None:
        """Do nothing."""

    def on_train_begin(self, logs=None):
        shutil.rmtree(self.directory, ignore_errors=True)
        with tf.device("CPU:0"):
            self._writers = {
                split: tf.summary.create_file_writer(str(self.directory / split))
                for split in ("train", "validation")
            }
        for row in self.rows:
            self._write(row)

    def on_epoch_end(self, epoch, logs=None):
        self._write(self.rows[-1])

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()

    def _write(self, row):
        for name, value in row.items():
            split = "validation" if name.startswith("val_") else "train"
            if name not in ("epoch", "seconds"):
                # A training that was stopped by an error may have left recording switched off.
                with self._writers[split].as_default(), tf.summary.record_if(True):
                    tf.summary.scalar(
                        f"epoch_{name.removeprefix('val_')}", value, step=row["epoch"]
                    )
        for writer in self._writers.values():
            writer.flush()


class Progress(keras.callbacks.Callback):
    """Shows a progress bar over all epochs with the time left, and prints a line per epoch.

    Args:
        steps_per_epoch: Number of steps per epoch.
        epochs: Number of epochs in total.
        epoch: Epochs finished before this process.
        step: Steps of the next epoch finished before this process.
    """

    def __init__(self, steps_per_epoch: int, epochs: int, epoch: int, step: int) -> None:
        super().__init__()
        total, first = steps_per_epoch * epochs, steps_per_epoch * epoch + step
        # The bar is shown on a terminal only; in a log file the lines are enough.
        self.bar = tqdm(total=total, initial=first, unit="step", disable=None, file=sys.stderr)
        self.epochs = epochs

    def get_state(self) -> None:
        """Return no state, as the callback starts afresh in every process."""

    def set_state(self, state: None) -> None:
        """Do nothing."""

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix({k: f"{v:.4f}" for k, v in (logs or {}).items()}, refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        values = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        tqdm.write(f"epoch {epoch + 1}/{self.epochs}  {values}", file=sys.stderr)

    def on_train_end(self, logs=None):
        self.bar.close()


class Profile(keras.callbacks.Callback):
    """Records some steps with TensorFlow's profiler, for TensorBoard's profile page.

    Args:
        directory: Directory of the logs.
        start: The first step to record, counted from 1 in this process. The very first steps
            include tracing and compilation.
        stop: The last step to record.

    Raises:
        ValueError: if not `1 <= start <= stop`.
    """

    def __init__(self, directory: pathlib.Path, start: int, stop: int) -> None:
        super().__init__()
        if not 1 <= start <= stop:
            raise ValueError(f"profile: {start}:{stop}, expected START:STOP, counted from 1")
        self.directory, self.start, self.stop = directory, start, stop
        self._steps, self._runs = 0, False

    def get_state(self) -> None:
        """Return no state, as the callback starts afresh in every process."""

    def set_state(self, state: None) -> None:
        """Do nothing."""

    def on_train_batch_begin(self, batch, logs=None):
        if self._steps < self.start <= self._steps + self.model.steps_per_execution:
            tf.profiler.experimental.start(str(self.directory))
            self._runs = True

    def on_train_batch_end(self, batch, logs=None):
        self._steps += self.model.steps_per_execution
        if self._runs and self._steps >= self.stop:
            self._end()

    def on_train_end(self, logs=None):
        if self._runs:
            self._end()

    def _end(self):
        self._runs = False
        tf.profiler.experimental.stop()
