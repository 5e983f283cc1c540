"""A training that was stopped or killed goes on as if nothing had happened."""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time

import numpy as np
from tqdm import tqdm

from bigmodels import distribute
from bigmodels.checkpoint import Checkpoints

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Over several workers to agree on a step costs a message, so it is not done after each.
_STEPS_TO_AGREE = 10
# Of Keras' own, whose sign they turn once in every process.
_TURNED = "min_delta"


class BackupAndRestore(distribute.Resumable):
    """Lets a training that was stopped or killed go on as if nothing had happened.

    Like `keras.callbacks.BackupAndRestore`, but the continued training is the uninterrupted one, to
    the bit on one device: what every step changes is put back (weights, all optimizers, loss scale,
    averaged weights, random states, metrics in progress), what the other callbacks have counted
    (`EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`, ...), the history, and the data at the
    next batch. For `bigmodels.Model`, in every strategy; only the chief reads and writes.

    The data must come in the same order in every process: a `tf.data.Dataset` with a seed in each
    `shuffle`, or arrays with `shuffle=False`; with `steps_per_epoch` an endless one.

    On SIGTERM and SIGINT the step at hand is finished, a checkpoint written, and the signal passed
    on to whom it was for: by default the process ends, or `KeyboardInterrupt` is raised. With
    several workers it is within ten steps, and one that got the signal is enough. A second signal
    is passed on at once.

    Args:
        backup_dir: Directory of the checkpoints.
        save_freq: "epoch", or after how many steps a checkpoint is written; one is written at the
            end of every epoch all the same. Data of unknown length are kept at epochs' ends only.
        max_to_keep: How many checkpoints stay.
        delete_checkpoint: Whether they are removed when the training has ended.
        monitor: A logged metric; the checkpoint of the epoch in which it was lowest is kept beside
            the newest ones, as `best.npz`. `None` keeps none.
        grace: Seconds from a signal after which the process ends without a new checkpoint, should
            the step, or the validation at the end of an epoch, take longer. `None` waits.
        verbose: Whether to say on stderr what happens.

    Raises:
        ValueError: if an argument does not fit, or, when `fit` begins, the checkpoints are of
            another model.
    """

    def __init__(
        self,
        backup_dir,
        save_freq="epoch",
        max_to_keep=2,
        delete_checkpoint=True,
        monitor=None,
        grace=None,
        verbose=1,
    ):
        super().__init__()
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise ValueError(f"save_freq: {save_freq!r}, expected 'epoch' or a number of steps")
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep: {max_to_keep!r}, expected a positive integer")
        if grace is not None and not grace > 0:
            raise ValueError(f"grace: {grace!r}, expected a positive number of seconds")
        self.checkpoints = Checkpoints(backup_dir, max_to_keep)
        self.save_freq, self.delete_checkpoint = save_freq, delete_checkpoint
        self.monitor, self.grace, self.verbose = monitor, grace, verbose
        self._stored, self._before, self._alarm = None, {}, None
        self._looked = False

    def look(self, model):
        """Read the newest checkpoint, for who wants to know before `fit` where it will begin.

        Args:
            model: The model to be trained, compiled.

        Returns:
            `(epoch, step)`; `(0, 0)` if there is none.
        """
        strategy = model.distribute_strategy
        self._chief = distribute.writes(strategy)
        stored = self.checkpoints.newest(self._say) if self._chief else None
        stored = distribute.bytes_from_chief(strategy, stored or b"")
        self._stored = self.checkpoints.unpack(stored) if stored else None
        about = self._stored[1] if stored else {"epoch": 0, "step": 0}
        self.position, self._looked = (about["epoch"], about["step"]), True
        if stored:
            after = f", step {about['step']}" if about["step"] else ""
            self._say(
                f"Continuing {self.checkpoints.path.parent} after epoch {about['epoch']}{after}."
            )
        return self.position

    def restore(self, model):
        """Put the weights, optimizers and random states back that `look` has found, without `fit`.

        Args:
            model: As for `look`.
        """
        if self._stored is not None:
            distribute.set_state(model, self._state_for(model), None)

    def find(self, model, others):
        self._others = others
        self._fresh = [_counted(callback) for callback in others]
        if not self._looked:
            self.look(model)
        self._looked = False

    def on_train_begin(self, logs=None):
        self._begun, self._rows, self._epochs = False, [], []
        if self._stored is not None:
            self._rows, self._epochs = (list(self._stored[1][name]) for name in ("rows", "epochs"))
            self._put_back()
        self._signal = None
        self._take_signals()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if not self._begun:  # Keras' own record begins anew after all `on_train_begin`.
            history = self.model.history
            history.epoch = list(self._epochs)
            names = dict.fromkeys(name for row in self._rows for name in row)
            history.history = {n: [row[n] for row in self._rows if n in row] for n in names}

    def on_train_batch_begin(self, batch, logs=None):
        if not self._begun and self._stored is not None and self.position[1]:
            # Keras has reset the metrics, and other callbacks may have set a learning rate.
            self._put_back()
        self._begun = True

    def on_train_batch_end(self, batch, logs=None):
        step, steps = batch + 1, self.params["steps"]
        if steps is None or step >= steps:
            return  # The end of the epoch comes next.
        each = self.model.steps_per_execution
        workers = distribute.workers(self.model.distribute_strategy)
        agrees = workers == 1 or step % _STEPS_TO_AGREE < each
        number = self._agreed_signal() if agrees else None
        if number or (self.save_freq != "epoch" and step % self.save_freq < each):
            self._save(self._epoch, step)
        if number:
            self._end(number)

    def on_epoch_end(self, epoch, logs=None):
        self._begun = True
        self._rows.append({name: float(value) for name, value in (logs or {}).items()})
        self._epochs.append(epoch)
        self._save(epoch + 1, 0)
        values = [row.get(self.monitor, math.nan) for row in self._rows]
        if self._chief and values[-1] <= min((v for v in values if v == v), default=-math.inf):
            self.checkpoints.keep_best()
        if number := self._agreed_signal():
            self._end(number)

    def leave(self):
        self._give_back_signals()
        self._stored = None

    def on_train_end(self, logs=None):
        if self.delete_checkpoint and self._chief:
            self.checkpoints.clear()

    def _save(self, epoch, step):
        state, counts = distribute.get_state(self.model)  # Takes all workers.
        if not self._chief:
            return
        arrays = {f"state/{i}": value for i, value in enumerate(state)}
        arrays |= {f"counts/{i}": value for i, value in enumerate(counts)}
        callbacks = []
        for i, (callback, fresh) in enumerate(zip(self._others, self._fresh, strict=True)):
            plain = {}
            for name, value in _counted(callback).items():
                if name in fresh and _same(value, fresh[name]):
                    continue
                if isinstance(value, list):  # Weights that it keeps.
                    arrays |= {f"callbacks/{i}/{name}/{j}": v for j, v in enumerate(value)}
                else:
                    plain[name] = value
            callbacks.append({"class": type(callback).__name__, "values": plain})
        about = {"epoch": epoch, "step": step, "rows": self._rows, "epochs": self._epochs}
        self.checkpoints.save(epoch, step, arrays, about | {"callbacks": callbacks})

    def _state_for(self, model):
        state = _numbered(self._stored[0], "state")
        now = distribute.training_state(model)
        if [v.shape for v in state] != [tuple(v.shape) for v in now]:
            raise ValueError(
                f"backup_dir: {str(self.checkpoints.path)!r} holds checkpoints of another model"
            )
        return state

    def _put_back(self):
        arrays, about = self._stored
        state, counts = self._state_for(self.model), _numbered(arrays, "counts")
        distribute.set_state(self.model, state, counts)
        for i, (callback, stored) in enumerate(zip(self._others, about["callbacks"], strict=False)):
            if type(callback).__name__ != stored["class"]:
                continue  # Another one than before: it begins anew.
            kept = {key.split("/")[2] for key in arrays if key.startswith(f"callbacks/{i}/")}
            values = {name: _numbered(arrays, f"callbacks/{i}/{name}") for name in kept}
            for name, value in (stored["values"] | values).items():
                setattr(callback, name, value)

    def _take_signals(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in _SIGNALS}
            if self.grace is not None:
                self._set_alarm()

    def _set_alarm(self):
        # Python calls a signal's handler only when the step at hand has ended, but writes the
        # signal's number into this pipe at once.
        heard, said = os.pipe()
        os.set_blocking(said, False)
        before = signal.set_wakeup_fd(said, warn_on_full_buffer=False)
        self._alarm = said, before
        threading.Thread(target=self._count_down, args=(heard, before), daemon=True).start()

    def _count_down(self, heard, before):
        """End the process when the seconds are over, unless the pipe is closed earlier."""
        number, deadline = None, None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([heard], [], [], left)[0]:
                self._give_up(number)
            byte = os.read(heard, 1)
            if not byte:
                os.close(heard)
                return
            if before != -1:  # An event loop's, for example a notebook's.
                with contextlib.suppress(OSError):
                    os.write(before, byte)
            if deadline is None and byte[0] in _SIGNALS:
                number, deadline = byte[0], time.monotonic() + self.grace

    def _give_back_signals(self):
        if self._alarm is not None:
            said, before = self._alarm
            signal.set_wakeup_fd(before)
            os.close(said)
            self._alarm = None
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _asked(self, number, frame):
        if self._signal is not None:
            self._end(number)
        self._signal = number
        name = signal.Signals(number).name
        if self.verbose and self._chief:
            # Past Python's buffer, which the signal may have found in the midst of a line.
            with contextlib.suppress(OSError, ValueError):
                line = f"{name}: saving after this step; once more ends at once.\n"
                os.write(sys.stderr.fileno(), line.encode())

    def _give_up(self, number):
        self._say(f"No step has ended within {self.grace:g} s; ending without a new checkpoint.")
        sys.stderr.flush()
        os._exit(128 + number)

    def _agreed_signal(self):
        """The signal that any worker got, or `None`."""
        strategy = self.model.distribute_strategy
        if distribute.workers(strategy) == 1:
            return self._signal
        return distribute.from_any_worker(strategy, self._signal or 0) or None

    def _end(self, number):
        self._give_back_signals()
        signal.raise_signal(number)
        # Whoever had the signal before might only have taken note of it.
        self.model.stop_training = True

    def _say(self, line):
        if self.verbose and self._chief:
            tqdm.write(line, file=sys.stderr)


def _numbered(arrays, name):
    found = []
    while f"{name}/{len(found)}" in arrays:
        found.append(arrays[f"{name}/{len(found)}"])
    return found


def _counted(callback):
    """What a callback may have counted: numbers, words, and lists of arrays.

    Not what its attribute `not_counted` names: times of this process, for example.
    """
    found = {}
    for name, value in vars(callback).items():
        if name in (_TURNED, *getattr(callback, "not_counted", ())):
            continue
        if isinstance(value, np.generic):
            value = value.item()
        arrays = isinstance(value, list) and value
        if arrays and all(isinstance(each, np.ndarray) for each in value):
            found[name] = value
        elif value is None or isinstance(value, bool | int | float | str):
            found[name] = value
    return found


def _same(a, b):
    return type(a) is type(b) and not isinstance(a, list) and (a == b or (a != a and b != b))
