"""A callback that resumes a stopped or killed training run exactly where it was."""

import contextlib
import importlib.metadata
import math
import os
import select
import signal
import sys
import threading
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from bigmodels.callbacks.state import Kept, key_of, packed, unpacked
from bigmodels.distribute import repeatable, replicas
from bigmodels.distribute.resume import Resumable, get_state, set_state
from bigmodels.distribute.strategies import (
    bytes_from_chief,
    from_any_worker,
    from_chief,
    writes,
)
from bigmodels.distribute.variables import dtype_of, named_variables
from bigmodels.runs.checkpoint import Checkpoints

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Several workers need a message to agree on a signal, so they do not do it after every step.
_STEPS_TO_AGREE = 10
# Version of the checkpoint format; the first one did not name variables.
_FORMAT = 2


class BackupAndRestore(Resumable):
    """Saves a training run and resumes it exactly where it was stopped or killed.

    Like `keras.callbacks.BackupAndRestore`, but the continued run gives the same weights as an
    uninterrupted one, bit for bit on one device. It restores everything that a step changes
    (weights, all optimizers, loss scale, averaged weights, random states, metrics in progress), the
    state of the other callbacks, the history, and the position in the data. If the training was
    complete, or stopped early by a callback, `fit` trains no further and returns its history. Works
    with `bigmodels.Model` in every strategy; only the chief reads and writes.

    **Data.** Arrays are shuffled in an order that depends on `keras.utils.set_random_seed`, or on a
    random seed saved in the checkpoint. A `tf.data.Dataset` needs a seed in each `shuffle`, and
    must be endless if `steps_per_epoch` is given. A stateful data set (a Keras layer or a
    `tf.random.Generator` in `map`, `from_generator`, `tf.py_function`) is read again from the
    beginning, and refused if the first batch of a pass differs from before. To avoid this, use
    `tf.random.stateless_*` and `tf.numpy_function(..., stateful=False)`. Other iterables are
    refused, and so are models that use `tf.random`, whose state cannot be read.

    **Callbacks.** Keras' own callbacks continue where they were, including the file of `CSVLogger`;
    only `TensorBoard` logs repeated steps again. For any other callback, all attributes of it and
    its class that have changed since `on_train_begin` are saved, if they are numbers, strings,
    arrays, dates, paths, enumeration members, or lists, tuples, sets, deques, dicts or dataclasses
    of these. Attributes of other types are named in a warning when `fit` begins. A callback with
    `get_state()` and `set_state(state)` decides what is saved; `get_state` returns such a value.

    **Refused** are checkpoints of another model (variables that are missing, unexpected, or of
    another shape or dtype are named), another batch size, other data (batches per epoch, shapes,
    dtypes, and a digest of the arrays or the data set's operations, but not of files that it
    reads), and other versions of bigmodels, Keras or TensorFlow, which may compute other numbers.

    **Signals.** On SIGTERM and SIGINT the current step is finished, a checkpoint is written, and
    the signal is passed on to the previous handler: by default the process ends, or
    `KeyboardInterrupt` is raised. With several workers this happens within ten steps, and it is
    enough if one of them gets the signal. A second signal is passed on at once.

    Args:
        backup_dir: Directory of the checkpoints.
        save_freq: "epoch", or the number of steps between checkpoints in addition to those at the
            end of every epoch. Data of unknown length are saved at the end of epochs only.
        double_checkpoint: As in Keras: whether the checkpoint before the newest one is retained, as
            the newest may be damaged. This is so anyway unless `max_to_keep` is 1.
        delete_checkpoint: Whether the checkpoints are removed at the end of training.
        max_to_keep: Number of checkpoints to retain.
        monitor: Name of a logged metric. The checkpoint of the epoch with its lowest value is
            retained in addition, as `best.npz`. `None` retains none.
        grace: Seconds after a signal until the process ends without a new checkpoint, if the step,
            or the validation at the end of an epoch, takes longer. `None` waits.
        verbose: Whether to print messages to stderr.
        replay: Whether `fit` advances its data to the next batch. Set it to `False` if the data
            already begin at the position that `find_position` returned.

    Raises:
        ValueError: if an argument is invalid, or, when `fit` begins, a checkpoint does not match.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile("sgd", "mse")
    >>> backup = bigmodels.callbacks.BackupAndRestore("backup", save_freq=100)
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[backup], verbose=0)
    >>> history.epoch
    [0]
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        max_to_keep: int = 2,
        monitor: str | None = None,
        grace: float | None = None,
        verbose: int | bool = 1,
        replay: bool = True,
    ) -> None:
        super().__init__()
        self.replay = replay
        if not backup_dir:
            raise ValueError(
                f"backup_dir: {backup_dir!r}, expected a directory. Empty `backup_dir` argument "
                "passed"
            )
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise ValueError(
                f"save_freq: {save_freq!r}, expected 'epoch' or a number of steps. Invalid value"
            )
        for name, value in {
            "double_checkpoint": double_checkpoint,
            "delete_checkpoint": delete_checkpoint,
        }.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name}: {value!r}, expected True or False")
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep: {max_to_keep!r}, expected a positive integer")
        if grace is not None and not grace > 0:
            raise ValueError(f"grace: {grace!r}, expected a positive number of seconds")
        self.backup_dir, self.double_checkpoint = backup_dir, double_checkpoint
        self.checkpoints = Checkpoints(backup_dir, max(max_to_keep, 1 + double_checkpoint))
        self.save_freq, self.delete_checkpoint = save_freq, delete_checkpoint
        self.monitor, self.grace, self.verbose = monitor, grace, verbose
        self._stored, self._before, self._alarm = None, {}, None
        self._looked, self._others = False, None

    def find_position(self, model: keras.Model) -> tuple[int, int]:
        """Read the newest checkpoint, for callers that need the position before `fit`.

        Args:
            model: The compiled model to be trained.

        Returns:
            `(epoch, step)`; `(0, 0)` if there is no checkpoint.

        Raises:
            ValueError: if it was written in another format, or by other versions.
        """
        strategy = model.distribute_strategy
        self._chief = writes(strategy)
        stored = self.checkpoints.newest(self._say) if self._chief else None
        stored = bytes_from_chief(strategy, stored or b"")
        self._stored = self.checkpoints.unpack(stored) if stored else None
        self.position, self.begun, self.over = (0, 0), 0, False
        self.seed, self.expected, self._looked = None, (), True
        if self._stored is None:
            return self.position
        about = self._stored[1]
        if about.get("format") != _FORMAT:
            raise ValueError(
                f"{self._where()} in the format of another version of bigmodels, which this one "
                "does not read; finish the training with that version, or remove the directory"
            )
        for name, version in _versions().items():
            if about["versions"][name] != version:
                raise ValueError(
                    f"{self._where()} by {name} {about['versions'][name]}, and this is {version}, "
                    "which may compute other numbers; install that version, or start in another "
                    "directory"
                )
        self.position = about["epoch"], about["step"]
        self.begun, self.over, self.seed = about["begun"], about["over"], about["seed"]
        self.expected = about["digests"]
        after = f", step {about['step']}" if about["step"] else ""
        nothing = "; it was stopped there, nothing is left to train" if self.over else ""
        self._say(
            f"Continuing {self.checkpoints.path.parent} after epoch {about['epoch']}{after}"
            f"{nothing}."
        )
        return self.position

    def _where(self):
        return f"backup_dir: {str(self.checkpoints.path)!r} holds checkpoints that were written"

    def restore(self, model: keras.Model) -> None:
        """Restore weights, optimizers and random states from the checkpoint of `find_position`.

        Args:
            model: As for `find_position`.
        """
        if self._stored is not None:
            set_state(model, self._state_for(model), None)

    def find(self, model, others, initial_epoch, data):
        if not self._looked:
            self.find_position(model)
        self._looked = False
        self._others, self._data = others, data
        if self._stored is None:
            self.position, self.begun = (initial_epoch, 0), initial_epoch
        elif self.position < (initial_epoch, 0):
            raise ValueError(
                f"initial_epoch: {initial_epoch}, but {str(self.checkpoints.path)!r} holds a "
                f"checkpoint after epoch {self.position[0]}; start in another directory"
            )
        elif data is not None and self._stored[1]["data"] is not None:
            self._check_data(self._stored[1]["data"], data)
        if self.seed is None:
            seed = from_chief(model.distribute_strategy, [repeatable.new_seed()])
            self.seed = int(seed[0])

    def _check_data(self, before, data):
        messages = {
            "batch_size": "batch_size: {}, and it was {}",
            "batches": "x: {} batches per epoch, and it was {}",
            "elements": "x: elements of {}, and they were {}",
            "shuffle": "shuffle: {}, and it was {}",
            "content": "x: other data than before (digest {}, and it was {})",
        }
        for name, message in messages.items():
            now, was = data.get(name), before.get(name)
            if now != was and (name not in ("batch_size", "content") or None not in (now, was)):
                raise ValueError(
                    f"{message.format(now, was)} when the checkpoints in "
                    f"{str(self.checkpoints.path)!r} were written; start in another directory"
                )

    def on_train_begin(self, logs=None):
        if self._others is None:
            raise ValueError(
                "callbacks: bigmodels' BackupAndRestore is for a bigmodels.Model, and this is "
                f"{type(self.model)}; use keras.callbacks.BackupAndRestore"
            )
        self._kept = {
            key_of(callback, self._others[:i]): Kept(callback, self.model)
            for i, callback in enumerate(self._others)
        }
        if self._stored is not None:
            self._put_back()
            dropped = [key for key in self._stored[1]["callbacks"] if key not in self._kept]
            if dropped:
                names = ", ".join(key.partition("#")[0] for key in dropped)
                self._say(f"No longer among the callbacks, so their state is dropped: {names}.")
        self._signal, self._ended = None, False
        self._take_signals()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_first_batch(self):
        if self._stored is not None and self.position[1]:
            # Keras has reset the metrics, and other callbacks may have set a learning rate.
            self._put_back()

    def on_train_batch_end(self, batch, logs=None):
        step, steps = batch + 1, self.params["steps"]
        if steps is None or step >= steps:
            return  # `on_epoch_end` is called next.
        per_execution = self.model.steps_per_execution
        workers = replicas.workers(self.model.distribute_strategy)
        agrees = workers == 1 or step % _STEPS_TO_AGREE < per_execution
        number = self._agreed_signal() if agrees else None
        if number or (self.save_freq != "epoch" and step % self.save_freq < per_execution):
            self._save(self._epoch, step)
        if number:
            self._end(number)

    def on_epoch_end(self, epoch, logs=None):
        if self._ended:  # In the middle of the epoch, where a checkpoint was written.
            return
        self._save(epoch + 1, 0)
        value = (logs or {}).get(self.monitor)
        values = [v for v in self.model.history.history.get(self.monitor, ()) if v == v]
        if self._chief and value is not None and value <= min(values, default=-math.inf):
            self.checkpoints.keep_best()
        if number := self._agreed_signal():
            self._end(number)

    def leave(self):
        self._give_back_signals()
        self._stored = self._others = None

    def on_train_end(self, logs=None):
        if self.delete_checkpoint and self._chief:
            self.checkpoints.clear()

    def _save(self, epoch, step):
        state, counts = get_state(self.model)  # All workers must call it.
        if not self._chief:
            return
        names = named_variables(self.model)
        arrays = {f"state/{name}": value for name, value in zip(names, state, strict=True)}
        arrays |= {f"counts/{i}": value for i, value in enumerate(counts)}
        callbacks = {}
        for key, kept in self._kept.items():
            try:
                callbacks[key], held = packed(kept.state())
            except TypeError as error:
                raise ValueError(
                    f"callbacks: get_state() of {key.partition('#')[0]} returns a value of type "
                    f"{error}, which cannot be saved in a checkpoint"
                ) from None
            arrays |= {f"callbacks/{key}/{i}": value for i, value in enumerate(held)}
        about = {
            "format": _FORMAT,
            "versions": _versions(),
            "epoch": epoch,
            "step": step,
            "begun": self.begun,
            "over": bool(self.model.stop_training),
            "seed": self.seed,
            "digests": list(self.digests),
            "data": self._data,
            "metrics": [metric.name for metric in self.model.metrics],
            "callbacks": callbacks,
        }
        self.checkpoints.save(epoch, step, arrays, about)

    def _state_for(self, model):
        stored = {
            name.removeprefix("state/"): value
            for name, value in self._stored[0].items()
            if name.startswith("state/")
        }
        now = {
            name: (tuple(variable.shape), dtype_of(variable))
            for name, variable in named_variables(model).items()
        }
        was = {name: (value.shape, value.dtype.name) for name, value in stored.items()}
        changed = [
            f"{name} is {was[name][1]}{list(was[name][0])} there and "
            f"{now[name][1]}{list(now[name][0])} here"
            for name in now.keys() & was.keys()
            if now[name] != was[name]
        ]
        differences = [
            _counted(word, names)
            for word, names in (
                ("no", [n for n in now if n not in was]),
                ("unexpected", [n for n in was if n not in now]),
                ("", sorted(changed)),
            )
            if names
        ]
        if differences:
            raise ValueError(
                f"backup_dir: {str(self.checkpoints.path)!r} holds checkpoints of another model: "
                f"{'; '.join(differences)}"
            )
        return [stored[name] for name in now]

    def _put_back(self):
        arrays, about = self._stored
        counts = _numbered(arrays, "counts")
        metrics = [metric.name for metric in self.model.metrics]
        shapes = [tuple(v.shape) for v in self.model.metrics_variables]
        if metrics != about["metrics"] or [c.shape[1:] for c in counts] != shapes:
            raise ValueError(
                f"metrics: {', '.join(metrics)}, but the checkpoints in "
                f"{str(self.checkpoints.path)!r} were written with {', '.join(about['metrics'])}"
            )
        set_state(self.model, self._state_for(self.model), counts)
        for key, content in about["callbacks"].items():
            if key in self._kept:
                held = _numbered(arrays, f"callbacks/{key}")
                self._kept[key].put_back(unpacked(content, held))

    def _take_signals(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in _SIGNALS}
            if self.grace is not None:
                self._set_alarm()

    def _set_alarm(self):
        # Python calls a signal handler only after the current step, but writes the signal's number
        # to this pipe at once.
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._alarm = write_end, before
        threading.Thread(target=self._count_down, args=(read_end, before), daemon=True).start()

    def _count_down(self, read_end, before):
        """End the process after `grace` seconds, unless the pipe is closed earlier."""
        number, deadline = None, None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([read_end], [], [], left)[0]:
                self._give_up(number)
            byte = os.read(read_end, 1)
            if not byte:
                os.close(read_end)
                return
            if before != -1:  # That of an event loop, for example in a notebook.
                with contextlib.suppress(OSError):
                    os.write(before, byte)
            if deadline is None and byte[0] in _SIGNALS:
                number, deadline = byte[0], time.monotonic() + self.grace

    def _give_back_signals(self):
        if self._alarm is not None:
            write_end, before = self._alarm
            signal.set_wakeup_fd(before)
            os.close(write_end)
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
            # Not through Python's buffer, in which the signal may have interrupted a write.
            with contextlib.suppress(OSError, ValueError):
                line = f"{name}: saving after this step; a second signal ends at once.\n"
                os.write(sys.stderr.fileno(), line.encode())

    def _give_up(self, number):
        self._say(f"No step ended within {self.grace:g} s; ending without a new checkpoint.")
        sys.stderr.flush()
        os._exit(128 + number)

    def _agreed_signal(self):
        """The signal received by any worker, or `None`."""
        strategy = self.model.distribute_strategy
        if replicas.workers(strategy) == 1:
            return self._signal
        return from_any_worker(strategy, self._signal or 0) or None

    def _end(self, number):
        self._give_back_signals()
        signal.raise_signal(number)
        # The previous handler may not end the process.
        self.model.stop_training = self._ended = True

    def _say(self, line):
        if self.verbose and self._chief:
            tqdm.write(line, file=sys.stderr)


def _numbered(arrays, name):
    values = []
    while f"{name}/{len(values)}" in arrays:
        values.append(arrays[f"{name}/{len(values)}"])
    return values


def _counted(word, names):
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{word} {names[0]}{more}".strip()


def _versions():
    installed = importlib.metadata.version("bigmodels")
    return {"bigmodels": installed, "keras": keras.__version__, "tensorflow": tf.__version__}
