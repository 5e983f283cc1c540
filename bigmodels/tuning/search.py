"""A search with keras-tuner that survives kills, failures and lost workers.

keras-tuner chooses the settings of the next trial (with its four oracles) and distributes trials
over several processes (with its chief and worker protocol). This module adds:

* One state file, replaced atomically. keras-tuner writes several, which a kill can leave
  incomplete, and does not save the position of a grid search.
* A grid search whose workers run at the same time. keras-tuner's waits for the end of a trial
  before it starts the next.
* Timeouts. keras-tuner's chief waits forever for lost workers, and its workers wait an hour for a
  lost chief.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos

from bigmodels.distribute.strategies import members

FailedTrialError = keras_tuner.errors.FailedTrialError

# Seconds a worker may take to start: the machines of a cluster do not start at the same time.
_JOIN = 600
# A search ends when this many trials have ended and all of them failed.
_HOPELESS = 10
# Grid values of a numeric range: both ends and the middle.
_GRID = (0.0, 0.5, 1 - 1e-9)


class Space:
    """A task's search space without fixed settings and, for a grid, with discrete numbers.

    Args:
        function: The task's `search_space`.
        given: Names of the fixed settings.
        config: The values of all settings by name.
        grid: Whether to reduce each numeric range to at most three values.

    Attributes:
        searched: Names of the searched settings, in the function's order.
        left: Names of the settings that are not searched, as they are fixed.
        size: Number of combinations of a grid.

    Example:

    >>> def search_space(hp):
    ...     hp.Int("units", 8, 16)
    ...     hp.Choice("activation", ["relu", "gelu"])
    >>> space = Space(search_space, ["activation"], {"activation": "relu"}, grid=True)
    >>> space.searched, space.left, space.size
    (['units'], ['activation'], 3)
    """

    def __init__(
        self,
        function: Callable[[Any], dict | None],
        given: Iterable[str],
        config: dict[str, Any],
        grid: bool,
    ):
        self._function, self._grid = function, grid
        self._fixed = {name: config[name] for name in given}
        self.left = []
        hp = keras_tuner.HyperParameters()
        self.settings(hp)
        self.searched = [p.name for p in hp.space if not isinstance(p, Fixed)]
        self.size = math.prod(len(list(p.values)) for p in hp.space) if grid else None

    def __call__(self, hp):
        return self.settings(hp)

    def settings(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Register the space with `hp`, and get its values.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            `{name: value}` without the fixed settings.
        """
        recorded = _Hp(hp, self._fixed, self._grid, self.left)
        derived = self._function(recorded) or {}
        values = recorded.values | derived
        return {name: value for name, value in values.items() if name not in self._fixed}


class _Hp:
    """A wrapper of a keras-tuner `hp` that handles fixed settings and grids.

    Attributes:
        values: The values of all hyperparameters by name.
    """

    def __init__(self, hp, fixed, grid, left):
        self._hp, self._fixed, self._grid, self._left = hp, fixed, grid, left
        self.values = {}

    def __getattr__(self, name):
        return getattr(self._hp, name)

    def Int(self, name, *args, **kwargs):
        return self._value("Int", name, *args, **kwargs)

    def Float(self, name, *args, **kwargs):
        return self._value("Float", name, *args, **kwargs)

    def Choice(self, name, *args, **kwargs):
        return self._value("Choice", name, *args, **kwargs)

    def Boolean(self, name, *args, **kwargs):
        return self._value("Boolean", name, *args, **kwargs)

    def Fixed(self, name, *args, **kwargs):
        return self._value("Fixed", name, *args, **kwargs)

    def _value(self, kind, name, *args, **kwargs):
        self.values[name] = value = self._ask(kind, name, *args, **kwargs)
        return value

    def _ask(self, kind, name, *args, **kwargs):
        if name in self._fixed:
            value = self._fixed[name]
            if kind != "Fixed" and name not in self._left:
                self._left.append(name)
            if isinstance(value, bool | int | float | str):
                # keras-tuner must know it, as other hyperparameters may depend on it.
                self._hp.Fixed(name, value)
            return value
        if self._grid and kind in ("Int", "Float"):
            scratch = keras_tuner.HyperParameters()
            getattr(scratch, kind)(name, *args, **kwargs)
            (number,) = scratch.space
            values = sorted({_rounded(number.prob_to_value(share)) for share in _GRID})
            kind, args, kwargs = "Choice", (values,), {}
        return _rounded(getattr(self._hp, kind)(name, *args, **kwargs))


def _rounded(value):
    """A float rounded to four significant digits: readable, and 0.1 + 0.2 is 0.3."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


class _Oracle:
    """A mixin for keras-tuner's oracles.

    Args:
        run: `RunDirectory` in which the state is saved, as `oracle.json`.
        hours: Hours of searching after which no new trial starts, or `None`.
        on_begin: Called with each `Trial` that starts, and whether it was started before.
        on_end: Called with each `Trial` that has ended.
        **kwargs: keras-tuner's own arguments.
    """

    def __init__(self, run, hours, on_begin, on_end, **kwargs):
        super().__init__(**kwargs)
        self.verbose = 0
        self._run, self._hours = run, hours
        self._on_begin, self._on_end = on_begin, on_end
        self._began, self._spent = time.monotonic(), 0.0
        self._heard = {}
        self._told_stop = False

    @property
    def seconds(self):
        """Seconds of searching, including those before the search was continued."""
        return self._spent + time.monotonic() - self._began

    def save(self):
        trials = {name: trial.get_state() for name, trial in self.trials.items()}
        content = {"seconds": self.seconds, "oracle": self.get_state(), "trials": trials}
        self._run.write_json("oracle.json", content)

    def reload(self):
        """Restore the saved state, if there is one; interrupted trials are queued again."""
        if not (self._run.path / "oracle.json").exists():
            return
        content = self._run.read_json("oracle.json")
        self.trials = {name: Trial.from_state(s) for name, s in content["trials"].items()}
        self.set_state(content["oracle"])
        self._spent = content["seconds"]
        self._retry_queue += [trial.trial_id for trial in self.ongoing_trials.values()]
        self.ongoing_trials = {}

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        began, known = time.monotonic(), len(self.trials)
        running = tuner_id in self.ongoing_trials
        if self._is_over() and not running:
            self.tuner_ids.discard(tuner_id)
            trial = Trial(self.get_space(), status=TrialStatus.STOPPED)
        else:
            trial = super().create_trial(tuner_id)
        self._told_stop |= trial.status == TrialStatus.STOPPED
        # Workers could not be heard during this call, which may take long.
        taken = time.monotonic() - began
        self._heard = {name: when + taken for name, when in self._heard.items()}
        self._heard[tuner_id] = time.monotonic()
        if trial.status == TrialStatus.RUNNING and not running:
            self._on_begin(trial, len(self.trials) == known)
        return trial

    def _is_over(self):
        if self._hours is not None and self.seconds >= 3600 * self._hours:
            return True
        ended = [self.trials[name].status for name in self.end_order]
        return len(ended) >= _HOPELESS and set(ended) == {TrialStatus.FAILED}

    @keras_tuner.synchronized
    def end_trial(self, trial):
        self._hear(trial.trial_id)
        super().end_trial(trial)
        self._on_end(self.trials[trial.trial_id])

    def get_trial(self, trial_id):
        """A trial. Workers call this for their own trial as a sign of life."""
        self._hear(trial_id)
        return super().get_trial(trial_id)

    def _hear(self, trial_id):
        for name, trial in list(self.ongoing_trials.items()):
            if trial.trial_id == trial_id:
                self._heard[name] = time.monotonic()

    def expect(self, names):
        """Register the workers; the search ends only when all of them have been told so."""
        self.tuner_ids |= set(names)

    def silent(self, limit):
        """The workers without a sign of life for `limit` seconds."""
        now, lost = time.monotonic(), []
        for name in list(self.tuner_ids):
            since = now - self._heard.get(name, self._began)
            if since > (limit if name in self._heard else max(limit, _JOIN)):
                lost.append(name)
        if not self._heard and now - self._began > max(limit, _JOIN):
            lost = lost or ["any worker"]
        return lost

    def everyone_knows(self):
        """Whether the search is over and every worker has been told so."""
        return self._told_stop and not self.ongoing_trials and not self.tuner_ids


class _Random(_Oracle, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    pass


class _Hyperband(_Oracle, keras_tuner.oracles.HyperbandOracle):
    def reload(self):
        # Ignore the saved number, as a search may be continued with a larger budget.
        iterations = self.hyperband_iterations
        super().reload()
        self.hyperband_iterations = iterations


class _Grid(_Oracle, keras_tuner.oracles.GridSearchOracle):
    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if response["status"] == TrialStatus.RUNNING:
            # keras-tuner waits for the end of the trial, in case it adds hyperparameters. Trials
            # here never do, so the next combination may start at once.
            self._populate_next.append(trial_id)
        return response

    def reload(self):
        super().reload()

        def compare(a, b):
            return self._compare(*(self.trials[name].hyperparameters.values for name in (a, b)))

        for name in sorted(self.trials, key=functools.cmp_to_key(compare)):
            self._ordered_ids.insert(name)
        self._populate_next = list(self.start_order)


ORACLES = {"random": _Random, "hyperband": _Hyperband, "bayesian": _Bayesian, "grid": _Grid}


class Tuner(BaseTuner):
    """A keras-tuner tuner that runs trials with a function.

    Args:
        oracle: An instance of one of `ORACLES`.
        space: `(hp) -> settings`.
        run_trial: `(trial) -> score`; raises `FailedTrialError` if the trial failed. Any other
            exception ends the search.
        role: The process's `Role`.
        directory: Directory for keras-tuner's files.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        space: Callable[[Any], dict],
        run_trial: Callable[[Trial], float],
        role: "Role",
        directory: str | os.PathLike,
    ):
        self._role, self._run_trial, self._waits = role, run_trial, False
        self.current = None  # The ID of the running trial.
        super().__init__(oracle, space, directory=directory, project_name="keras_tuner")

    def pre_create_trial(self):
        if self._waits:  # For trials of other workers; keras-tuner would retry at once.
            time.sleep(1)
        self._waits = True

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self._waits = False

    def run_trial(self, trial):
        self.current = trial.trial_id
        try:
            return {self.oracle.objective.name: self._run_trial(trial)}
        except FailedTrialError:
            raise
        except Exception as error:  # keras-tuner treats all others as a failed trial.
            raise keras_tuner.errors.FatalError from error
        finally:
            self.current = None

    def save(self):
        if self._role.kind != "worker":
            self.oracle.save()


@dataclasses.dataclass(frozen=True)
class Role:
    """The role of a process in a search.

    Attributes:
        kind: "alone", "chief" (assigns trials) or "worker" (runs trials).
        name: The process's name in keras-tuner.
        addresses: `host:port` of all processes, as far as known. The chief, which listens at its
            address, is the first.
        index: Index of this process among them.

    Example:

    >>> Role().kind
    'alone'
    """

    kind: str = "alone"
    name: str = "tuner0"
    addresses: tuple = ()
    index: int = 0


def role(workers: list[str] | None = None, worker: int | None = None) -> Role:
    """The role of this process: from keras-tuner's environment variables, or as `distribute` does.

    Args:
        workers: As for `bigmodels.distribute.strategy`.
        worker: As for `bigmodels.distribute.strategy`.

    Returns:
        A `Role`.

    Raises:
        ValueError: naming the variable or argument that does not fit.

    Example:

    >>> role(["host1:2345", "host2:2345"], worker=1).name
    'tuner1'
    """
    own = {n: os.environ.get(f"KERASTUNER_{n}") for n in ("ORACLE_IP", "ORACLE_PORT", "TUNER_ID")}
    if own["ORACLE_IP"]:
        for name, value in own.items():
            if not value:
                raise ValueError(f"KERASTUNER_{name}: not set, but KERASTUNER_ORACLE_IP is")
        kind = "chief" if "chief" in own["TUNER_ID"] else "worker"
        return Role(kind, own["TUNER_ID"], (f"{own['ORACLE_IP']}:{own['ORACLE_PORT']}",))
    addresses, index = members(workers, worker)
    if len(addresses) < 2:
        return Role()
    if index == 0:
        return Role("chief", "chief", tuple(addresses))
    return Role("worker", f"tuner{index}", tuple(addresses), index)


@contextlib.contextmanager
def playing(role: Role) -> Iterator[None]:
    """Set the environment variables of a role: for keras-tuner, and so that trials run alone.

    Args:
        role: The process's `Role`.

    Example:

    >>> with playing(Role("chief", "chief", ("localhost:2345",))):
    ...     print(os.environ["KERASTUNER_ORACLE_PORT"])
    2345
    """
    changes = {"TF_CONFIG": None, "SLURM_PROCID": None}
    if role.kind != "alone":
        host, _, port = role.addresses[0].rpartition(":")
        changes |= {"KERASTUNER_ORACLE_IP": host, "KERASTUNER_ORACLE_PORT": port}
        changes["KERASTUNER_TUNER_ID"] = role.name
    before = {name: os.environ.get(name) for name in changes}
    with contextlib.ExitStack() as stack:
        stack.callback(_set_environment, before)
        # Every trial builds a new model, so retracing is expected.
        log, quiet = tf.get_logger(), _NoRetracing()
        log.addFilter(quiet)
        stack.callback(log.removeFilter, quiet)
        _set_environment(changes)
        if len(role.addresses) > 1:
            _take_gpus(role)
            if role.kind == "worker":
                host, _, port = role.addresses[role.index].rpartition(":")
                with contextlib.suppress(OSError):
                    # An open port shows the launcher that this worker has joined.
                    stack.enter_context(socket.create_server((host, int(port))))
        yield


class _NoRetracing(logging.Filter):
    def filter(self, record):
        return "triggered tf.function retracing" not in record.getMessage()


def _set_environment(values):
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _take_gpus(role):
    """Restrict a worker to its share of the machine's GPUs; the chief uses none."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return
    mine, shared = share_gpus(gpus, role)
    tf.config.set_visible_devices(mine, "GPU")
    for gpu in mine if shared else ():
        tf.config.experimental.set_memory_growth(gpu, True)


def share_gpus(gpus: list, role: Role) -> tuple[list, bool]:
    """Divide the GPUs of a machine among its workers.

    Args:
        gpus: All GPUs of the machine.
        role: The process's `Role`.

    Returns:
        `(own, shared)`: the GPUs of this process, and whether other workers use them too.

    Example:

    >>> share_gpus(["GPU:0", "GPU:1"], Role("worker", "tuner2", ("a:1", "a:2", "a:3"), 2))
    (['GPU:1'], False)
    """
    hosts = [address.rpartition(":")[0] for address in role.addresses]
    here = [i for i in range(1, len(hosts)) if hosts[i] == hosts[role.index]]
    if role.kind == "chief":
        return [], False
    place = here.index(role.index)
    return gpus[place :: len(here)] or [gpus[place % len(gpus)]], len(here) > len(gpus)


def search(tuner: Tuner, oracle: keras_tuner.Oracle, role: Role, timeout: float) -> None:
    """Run a search to its end.

    Args:
        tuner: A `Tuner`.
        oracle: Its oracle. (On a worker the tuner itself holds only a client of the chief's.)
        role: The process's `Role`.
        timeout: Seconds without a sign of life after which another process counts as lost.

    Raises:
        TimeoutError: naming the lost processes.
        OSError: if the chief cannot listen at its address.
    """
    try:
        if role.kind == "chief":
            _serve(tuner, oracle, role, timeout)
        elif role.kind == "worker":
            with _Pulse(tuner, role, timeout):
                tuner.search()
        else:
            tuner.search()
    except keras_tuner.errors.FatalError as error:
        raise error.__cause__ or error from None


def _serve(tuner, oracle, role, timeout):
    oracle.expect(f"tuner{i}" for i in range(1, len(role.addresses)))
    errors = []

    def serve():
        try:
            tuner.search()
        except Exception as error:
            errors.append(error)

    # keras-tuner's server does not notice lost workers, and takes 20 seconds to notice the end.
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    while server.is_alive() and not oracle.everyone_knows():
        server.join(0.2)
        if lost := oracle.silent(timeout):
            raise TimeoutError(
                f"no sign of life from {', '.join(sorted(lost))} for more than {timeout:g} s; the "
                "same command continues the search"
            )
    if errors:
        reason = str(errors[0]).splitlines()[0]
        raise OSError(f"workers: cannot listen at {role.addresses[0]!r}: {reason}")


class _Pulse:
    """Sends signs of life to the chief, and detects when the chief is lost."""

    def __init__(self, tuner, role, timeout):
        self._tuner, self._chief, self._timeout = tuner, role.addresses[0], timeout
        self._lost, self._over = False, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self):
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._over.set()
        if self._in_main:
            signal.signal(signal.SIGINT, self._before)
        if self._lost:
            raise TimeoutError(
                f"the chief at {self._chief} has not answered for {self._timeout:g} s; the same "
                "command continues the search"
            ) from None

    def _interrupt(self, number, frame):
        if self._lost:
            raise KeyboardInterrupt
        if callable(self._before):
            self._before(number, frame)

    def _beat(self):
        service, stub = protos.get_service(), self._tuner.oracle.stub
        answered, limit = time.monotonic(), max(self._timeout, _JOIN)
        while not self._over.wait(min(5, self._timeout / 4)):
            try:
                if trial := self._tuner.current:
                    stub.GetTrial(service.GetTrialRequest(trial_id=trial), timeout=self._timeout)
                else:
                    stub.GetSpace(service.GetSpaceRequest(), timeout=self._timeout)
                answered, limit = time.monotonic(), self._timeout
            except Exception:  # Any gRPC error means that there was no answer.
                self._lost = time.monotonic() - answered > limit
                if self._lost and self._in_main:
                    # Interrupts the training, or the wait for the chief's answer.
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
