"""What happens at the end of an epoch: it is written down, and shown."""

import sys
import time

import keras
from tqdm import tqdm

from bigmodels.report import save_drawn

_SAMPLES_PER_RUN = 10


class Keeper(keras.callbacks.Callback):
    """Writes down every finished epoch: metrics, a sample now and then, a checkpoint."""

    def __init__(self, run, checkpoints, task, data, config, done):
        super().__init__()
        self.run, self.checkpoints = run, checkpoints
        self.task, self.data, self.config = task, data, config
        self.rows = run.history()[:done]
        self.nan_epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if any(value != value or abs(value) == float("inf") for value in logs.values()):
            self.nan_epoch = epoch + 1
            self.model.stop_training = True
            return
        seconds = time.perf_counter() - self.began
        row = {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        self.rows.append(row | {"seconds": seconds})
        self.run.write_history(self.rows)
        every = max(1, self.config.epochs // _SAMPLES_PER_RUN)
        if self.task.sample and ((epoch + 1) % every == 0 or epoch == 0):
            drawn = self.task.sample(self.model, self.data, self.config)
            save_drawn(self.run.samples / f"epoch_{epoch + 1:04d}", drawn)
        self.checkpoints.save(epoch + 1)


class Progress(keras.callbacks.Callback):
    """A bar over the whole training with the time left, and a line for every epoch."""

    def __init__(self, steps_per_epoch, epochs, done):
        super().__init__()
        total, first = steps_per_epoch * epochs, steps_per_epoch * done
        # On a terminal only; in a log file the lines are enough.
        self.bar = tqdm(total=total, initial=first, unit="step", disable=None, file=sys.stderr)
        self.epochs = epochs

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix({k: f"{v:.4f}" for k, v in (logs or {}).items()}, refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        values = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        tqdm.write(f"epoch {epoch + 1}/{self.epochs}  {values}", file=sys.stderr)

    def on_train_end(self, logs=None):
        self.bar.close()
