"""What happens at the end of an epoch: it is written down, and shown."""

import sys
import time

import keras
from tqdm import tqdm

from bigmodels import distribute
from bigmodels.pages import save_drawn

_SAMPLES_PER_RUN = 10


class Keeper(keras.callbacks.Callback):
    """Writes down every finished epoch: metrics, a sample now and then, a checkpoint.

    It also ends a training that no longer gets better, if `config.early_stopping` says so.
    """

    def __init__(self, run, checkpoints, task, data, config, done, strategy):
        super().__init__()
        self.run, self.checkpoints, self.strategy = run, checkpoints, strategy
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
        return bool(distribute.from_chief(self.strategy, [int(stop)])[0])


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
