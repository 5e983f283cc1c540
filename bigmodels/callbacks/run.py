"""A run's files, and its progress on a terminal."""

import shutil
import sys
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from bigmodels.distribute.strategies import from_chief
from bigmodels.reports.pages import save_drawn

_SAMPLES_PER_RUN = 10


class Keeper(keras.callbacks.Callback):
    """Writes down every finished epoch: metrics, and a sample now and then.

    It also ends a training that no longer gets better, if `config.early_stopping` says so.

    Attributes:
        rows: One dict an epoch.
        seconds: Of the epoch at hand, in the processes before this one.
        first_step: Seconds of this process's first step, in which the model is traced; or `None`.
        stepping: Seconds of its other steps.
    """

    def __init__(self, run, task, data, config, strategy, epoch, waiting):
        super().__init__()
        self.run, self.strategy, self.waiting = run, strategy, waiting
        self.task, self.data, self.config = task, data, config
        # A line may have been written whose checkpoint was not.
        self.rows = run.history()[:epoch]
        run.write_history(self.rows)
        self.seconds, self.first_step, self.stepping = 0.0, None, 0.0

    def get_state(self):
        """The seconds of the epoch at hand; the rest is in the run's files."""
        return self.seconds

    def set_state(self, state):
        """Go on from `get_state`'s seconds."""
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
    def waited(self):
        """The share of `stepping` in which a batch was waited for; `None` where there is none."""
        if not self.stepping:
            return None
        return (self.waiting.seconds - self._first_wait) / self.stepping

    def on_epoch_end(self, epoch, logs=None):
        self._taken()  # The validation.
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

    def stops_early(self):
        """Whether validation loss has not fallen for `early_stopping` epochs.

        It follows from the lines written so far alone, so a continued run stops where the
        uninterrupted one would. Only the chief has those from before: all workers ask it.
        """
        if self.config.early_stopping is None:
            return False
        losses = [row["val_loss"] for row in self.rows]
        best = losses.index(min(losses)) if losses else 0
        stop = len(losses) - 1 - best >= self.config.early_stopping
        return bool(from_chief(self.strategy, [int(stop)])[0])


class TensorBoardLog(keras.callbacks.Callback):
    """The metrics of every epoch for TensorBoard, without gaps or doubles after a restart.

    `keras.callbacks.TensorBoard` adds to what an earlier process had written, also of an epoch that
    is trained again. Here the files are written anew from the epochs that are kept.

    Args:
        directory: Gets `train` and `validation`.
        rows: One dict for each epoch, a `Keeper`'s, which has to be called before.
    """

    def __init__(self, directory, rows):
        super().__init__()
        self.directory, self.rows = directory, rows

    def get_state(self):
        """Nothing: it begins anew in every process."""

    def set_state(self, state):
        """Nothing."""

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
                with self._writers[split].as_default():
                    tf.summary.scalar(
                        f"epoch_{name.removeprefix('val_')}", value, step=row["epoch"]
                    )
        for writer in self._writers.values():
            writer.flush()


class Progress(keras.callbacks.Callback):
    """A bar over the whole training with the time left, and a line for every epoch."""

    def __init__(self, steps_per_epoch, epochs, epoch, step):
        super().__init__()
        total, first = steps_per_epoch * epochs, steps_per_epoch * epoch + step
        # On a terminal only; in a log file the lines are enough.
        self.bar = tqdm(total=total, initial=first, unit="step", disable=None, file=sys.stderr)
        self.epochs = epochs

    def get_state(self):
        """Nothing: it begins anew in every process."""

    def set_state(self, state):
        """Nothing."""

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
        directory: The run's `logs`.
        start: The first of the steps, counted from 1 in this process. The very first ones also
            trace and compile.
        stop: The last of them.

    Raises:
        ValueError: if `start` and `stop` are no such steps.
    """

    def __init__(self, directory, start, stop):
        super().__init__()
        if not 1 <= start <= stop:
            raise ValueError(f"profile: {start}:{stop}, expected START:STOP, from 1 on")
        self.directory, self.start, self.stop = directory, start, stop
        self._steps, self._runs = 0, False

    def get_state(self):
        """Nothing: it begins anew in every process."""

    def set_state(self, state):
        """Nothing."""

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
