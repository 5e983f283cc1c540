"""keras-tuner with checkpoints: a search that survives kills, failures and lost workers.

keras-tuner decides what is tried next (its four oracles) and hands trials to several processes (its
chief and worker protocol). What is added here, and why:

* Its state is in several files, none of which survives a kill in the midst of writing, and a grid's
  place is in none: here one file is renamed when whole.
* Its grid search gives several workers one new combination at a time: here each gets its own.
* Its chief waits for dead workers for ever, and its workers for a dead chief an hour: here both
  give up.
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

import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos

from bigmodels.distribute.strategies import members

FailedTrialError = keras_tuner.errors.FailedTrialError

# How long a worker may take to start, in seconds: machines of a cluster do not start together.
_JOIN = 600
# A search in which this many trials have ended, all of them failed, is given up.
_HOPELESS = 10
# Values of a number in a grid: both ends of its range, and the middle.
_GRID = (0.0, 0.5, 1 - 1e-9)


class Space:
    """A task's search space without the settings that are fixed and, for a grid, with few numbers.

    Args:
        function: The task's `search_space`.
        given: Names of the settings that are fixed.
        config: All settings' values by name.
        grid: Whether to leave at most three values of each range of numbers.

    Attributes:
        searched: Names of the settings that vary, in the function's order.
        left: Names of those that would, were they not fixed.
        size: How many combinations a grid has.
    """

    def __init__(self, function, given, config, grid):
        self._function, self._grid = function, grid
        self._fixed = {name: config[name] for name in given}
        self.left = []
        hp = keras_tuner.HyperParameters()
        self.settings(hp)
        self.searched = [p.name for p in hp.space if not isinstance(p, Fixed)]
        self.size = math.prod(len(list(p.values)) for p in hp.space) if grid else None

    def __call__(self, hp):
        return self.settings(hp)

    def settings(self, hp):
        """Let `hp` know the space, and get its values.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            Names to values, without those that are fixed.
        """
        asked = _Hp(hp, self._fixed, self._grid, self.left)
        derived = self._function(asked) or {}
        values = asked.values | derived
        return {name: value for name, value in values.items() if name not in self._fixed}


class _Hp:
    """Stands before a keras-tuner `hp` when a task states its space.

    Attributes:
        values: What was asked for, by name.
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
                # Known to keras-tuner, as what else is searched may depend on it.
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
    """Four digits: more of a learning rate say nothing, and 0.1 + 0.2 is 0.3."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


class _Oracle:
    """What each of keras-tuner's oracles gets on top.

    Args:
        run: `RunDirectory` that the state is kept in, as `oracle.json`.
        hours: No trial begins after so many hours of searching; or `None`.
        on_begin: Called with each `Trial` that begins.
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
        """How long was searched, over all its continuations."""
        return self._spent + time.monotonic() - self._began

    def save(self):
        trials = {name: trial.get_state() for name, trial in self.trials.items()}
        content = {"seconds": self.seconds, "oracle": self.get_state(), "trials": trials}
        self._run.write_json("oracle.json", content)

    def reload(self):
        """Go on from the stored state, if there is one; trials in flight are run again."""
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
        # Nobody could make himself heard while this was being thought out.
        thought = time.monotonic() - began
        self._heard = {name: when + thought for name, when in self._heard.items()}
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
        """A trial; by asking for its own a worker says that it is alive."""
        self._hear(trial_id)
        return super().get_trial(trial_id)

    def _hear(self, trial_id):
        for name, trial in list(self.ongoing_trials.items()):
            if trial.trial_id == trial_id:
                self._heard[name] = time.monotonic()

    def expect(self, names):
        """Name the workers that will come: the search is not over before all have been told so."""
        self.tuner_ids |= set(names)

    def silent(self, limit):
        """The workers from whom nothing was heard for so many seconds."""
        now, lost = time.monotonic(), []
        for name in list(self.tuner_ids):
            since = now - self._heard.get(name, self._began)
            if since > (limit if name in self._heard else max(limit, _JOIN)):
                lost.append(name)
        if not self._heard and now - self._began > max(limit, _JOIN):
            lost = lost or ["any worker"]
        return lost

    def everyone_knows(self):
        """Whether the search is over and every worker has been told."""
        return self._told_stop and not self.ongoing_trials and not self.tuner_ids


class _Random(_Oracle, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    pass


class _Hyperband(_Oracle, keras_tuner.oracles.HyperbandOracle):
    def reload(self):
        # Not the stored one: a search may be continued with a larger budget.
        iterations = self.hyperband_iterations
        super().reload()
        self.hyperband_iterations = iterations


class _Grid(_Oracle, keras_tuner.oracles.GridSearchOracle):
    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if response["status"] == TrialStatus.RUNNING:
            # keras-tuner waits for the trial's end, as it might show new settings. Ours do not.
            self._populate_next.append(trial_id)
        return response

    def reload(self):
        super().reload()

        def compare(one, other):
            return self._compare(
                *(self.trials[name].hyperparameters.values for name in (one, other))
            )

        for name in sorted(self.trials, key=functools.cmp_to_key(compare)):
            self._ordered_ids.insert(name)
        self._populate_next = list(self.start_order)


ORACLES = {"random": _Random, "hyperband": _Hyperband, "bayesian": _Bayesian, "grid": _Grid}


class Tuner(BaseTuner):
    """Runs what the oracle asks for.

    Args:
        oracle: One of `ORACLES`.
        space: `(hp) -> settings`.
        run_trial: `(trial) -> score`; raises `FailedTrialError` for a trial that failed, and any
            other exception to end the search.
        role: The process's `Role`.
        directory: Where keras-tuner may write.
    """

    def __init__(self, oracle, space, run_trial, role, directory):
        self._role, self._run_trial, self._waits = role, run_trial, False
        self.current = None  # The trial that runs.
        super().__init__(oracle, space, directory=directory, project_name="keras_tuner")

    def pre_create_trial(self):
        if self._waits:  # For trials of others; keras-tuner would ask again at once.
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
        except Exception as error:  # keras-tuner would take any other for a failed trial.
            raise keras_tuner.errors.FatalError from error
        finally:
            self.current = None

    def save(self):
        if self._role.kind != "worker":
            self.oracle.save()


@dataclasses.dataclass(frozen=True)
class Role:
    """What a process does in a search.

    Attributes:
        kind: "alone"; or "chief", who hands out trials; or "worker", who runs them.
        name: By which keras-tuner knows it.
        addresses: `host:port` of all, chief first, as far as known; the chief's is its server's.
        index: Which of them this process is.
    """

    kind: str = "alone"
    name: str = "tuner0"
    addresses: tuple = ()
    index: int = 0


def role(workers=None, worker=None):
    """Find out this process's part: from keras-tuner's own variables, or as `distribute` does.

    Args:
        workers: As for `bigmodels.distribute.strategy`.
        worker: As for `bigmodels.distribute.strategy`.

    Returns:
        A `Role`.

    Raises:
        ValueError: naming the variable or argument that does not fit.
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
def playing(role):
    """Tell keras-tuner who this process is, and each trial that it is alone on its machine."""
    changes = {"TF_CONFIG": None, "SLURM_PROCID": None}
    if role.kind != "alone":
        host, _, port = role.addresses[0].rpartition(":")
        changes |= {"KERASTUNER_ORACLE_IP": host, "KERASTUNER_ORACLE_PORT": port}
        changes["KERASTUNER_TUNER_ID"] = role.name
    before = {name: os.environ.get(name) for name in changes}
    with contextlib.ExitStack() as stack:
        stack.callback(_set_environment, before)
        # Every trial is another model, so every trial traces: no reason for a warning.
        log, quiet = tf.get_logger(), _NoRetracing()
        log.addFilter(quiet)
        stack.callback(log.removeFilter, quiet)
        _set_environment(changes)
        if len(role.addresses) > 1:
            _take_gpus(role)
            if role.kind == "worker":
                host, _, port = role.addresses[role.index].rpartition(":")
                with contextlib.suppress(OSError):
                    # Nobody calls here; but by its open port a launcher knows who has joined.
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
    """Each worker of a machine its own GPUs, or a part of one; the chief needs none."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return
    mine, shared = share_gpus(gpus, role)
    tf.config.set_visible_devices(mine, "GPU")
    for gpu in mine if shared else ():
        tf.config.experimental.set_memory_growth(gpu, True)


def share_gpus(gpus, role):
    """Which GPUs of its machine a process takes.

    Args:
        gpus: A list of the machine's.
        role: The process's `Role`.

    Returns:
        `(own, shared)`: a list, and whether other workers use them too.
    """
    hosts = [address.rpartition(":")[0] for address in role.addresses]
    here = [i for i in range(1, len(hosts)) if hosts[i] == hosts[role.index]]
    if role.kind == "chief":
        return [], False
    place = here.index(role.index)
    return gpus[place :: len(here)] or [gpus[place % len(gpus)]], len(here) > len(gpus)


def search(tuner, oracle, role, timeout):
    """Search until the oracle has enough.

    Args:
        tuner: A `Tuner`.
        oracle: Its oracle, which it has replaced by a messenger on a worker.
        role: The process's `Role`.
        timeout: Seconds without a sign of life after which the others count as lost.

    Raises:
        TimeoutError: naming who was lost.
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

    # keras-tuner's server notices neither that workers are lost nor, for twenty seconds, the end.
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    while server.is_alive() and not oracle.everyone_knows():
        server.join(0.2)
        if lost := oracle.silent(timeout):
            raise TimeoutError(
                f"nothing was heard from {', '.join(sorted(lost))} for a long time (more than "
                f"{timeout:g} s); the same command continues the search"
            )
    if errors:
        reason = str(errors[0]).splitlines()[0]
        raise OSError(f"workers: cannot listen at {role.addresses[0]!r}: {reason}")


class _Pulse:
    """Tells the chief that this worker is alive, and notices if the chief is not."""

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
            except Exception:  # Each kind of gRPC's errors says the same here: no answer.
                self._lost = time.monotonic() - answered > limit
                if self._lost and self._in_main:
                    # Ends the training, or the waiting for the chief's answer.
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
