"""Train a task, evaluate it, and write the run's directory with its report.

`train` chooses the strategy and checks whether the run is finished already. Then `_prepare` loads
the data and builds the model, `_fit` trains it, and `_finish` evaluates it and writes the results.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from bigmodels import distribute, kernels, tasks
from bigmodels.callbacks import BackupAndRestore, FiniteValues
from bigmodels.callbacks.run import Keeper, Profile, Progress, TensorBoardLog
from bigmodels.commands import budget, estimate
from bigmodels.data.notes import noted
from bigmodels.data.splits import Splits
from bigmodels.data.waiting import Waiting
from bigmodels.distribute.resume import get_state, set_state
from bigmodels.distribute.strategies import bytes_from_chief, from_chief
from bigmodels.evaluation import intervals, scaling_runs
from bigmodels.reports import plots, report
from bigmodels.reports.pages import counted, save_drawn
from bigmodels.runs.directory import RunDirectory, transfer_weights
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, command_line, flat_settings, with_settings

# Errors that TensorFlow raises when another worker is lost.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

_WORTH_MEASURING = 10.0  # Seconds of training.


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a training runs.

    Attributes:
        name: Name of the strategy.
        strategy: A `tf.distribute.Strategy`; `None` if nothing is trained.
        chief: Whether this process writes the run's directory.
        verbose: As for `train`.
    """

    name: str
    strategy: tf.distribute.Strategy | None
    chief: bool
    verbose: int

    @property
    def replicas(self):
        """Number of replicas that share a batch."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def say(self, text):
        """Print a line to stderr, on the chief only."""
        if self.verbose and self.chief:
            print(text, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class _Within:
    """What a budget goes by.

    Attributes:
        given: Names of the settings that the user has given.
        started: `time.monotonic()` from which the budget counts.
        chosen: What it chose when the run began, or `None`.
    """

    given: Collection[str]
    started: float
    chosen: dict | None


@dataclasses.dataclass(frozen=True)
class _Training:
    """Everything that `fit` needs.

    Attributes:
        task: The task.
        config: Its settings.
        chosen: What a budget has chosen of them, or `None`.
        run: The run's directory; on workers other than the chief a temporary one.
        place: Where it runs.
        data: The data that the task has loaded.
        model: The model, compiled and built, with its initial weights.
        precision: Keras' dtype policy.
        steps_per_epoch: Batches per epoch.
        backup: The callback that saves and restores checkpoints.
        batches_from: Function `(epoch, step)` that returns the endless batches from there on.
    """

    task: Task
    config: Config
    chosen: dict | None
    run: RunDirectory
    place: _Place
    data: Splits
    model: Any
    precision: str
    steps_per_epoch: int
    backup: BackupAndRestore
    batches_from: Callable


@dataclasses.dataclass(frozen=True)
class _Log:
    """The callbacks whose records end up in the result."""

    keeper: Keeper
    finite: FiniteValues


def train(
    task: str | Task,
    workdir: str | os.PathLike,
    settings: dict[str, Any] | None = None,
    verbose: int = 1,
    workers: Sequence[str] | None = None,
    worker: int | None = None,
    profile: tuple[int, int] | None = None,
    dry_run: bool = False,
    predict_from: Sequence[str | os.PathLike] = (),
    started: float | None = None,
) -> dict | None:
    """Train a task, evaluate it on held-out data, and write a report.

    Called again with the same arguments, it continues an unfinished run from its last checkpoint,
    and returns the result of a finished one. With several workers, each calls this function; only
    the chief writes the run's directory.

    Args:
        task: Name of a task, or a `bigmodels.tasks.record.Task` of your own.
        workdir: The run's directory.
        settings: Settings that differ from the task's defaults, by dotted name:
            `{"epochs": 3, "model.dense_units": 256}`.
        verbose: 0 for silence, 1 for progress on stderr.
        workers: Addresses of all workers, if there are several and neither TF_CONFIG nor Slurm
            names them; see `bigmodels.distribute.strategy`.
        worker: Index of this process among the workers.
        profile: `(first, last)` step to record for TensorBoard, counted from 1 in this process.
        dry_run: Only estimate what the training would take, with a budget what it would choose;
            train and write nothing.
        predict_from: For a dry run: directories of finished runs of other sizes on the same data,
            four or more, whose scaling law predicts the final validation loss.
        started: `time.monotonic()` from which the `budget` among the settings counts; by default
            now.

    Returns:
        The content of `result.json`; on workers other than the chief `None`. For a dry run the
        result of `bigmodels.commands.estimate.training`, with `steps`, `replicas` and `seconds`,
        and that of `bigmodels.evaluation.scaling_runs.prediction`.

    Raises:
        ValueError: naming the argument, setting, file or element that does not fit, before anything
            is trained or written.
        FloatingPointError: if loss or gradients become NaN or infinite.
        MemoryError: if a step does not fit in the device's memory; the message names a batch size
            that does.
        ConnectionError: if another worker is lost.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> result = train("image_classification", "runs/doctest", settings, verbose=0)
    >>> result["steps"]
    2
    """
    started = time.monotonic() if started is None else started
    task, settings = tasks.get(task), settings or {}
    config = with_settings(task.config(), settings)
    given = {
        name
        for name, value in flat_settings(config).items()
        if name in settings and value is not None
    }
    task = task.of(config)
    task.check(config)
    if config.deterministic:
        distribute.deterministic()
    run = RunDirectory(workdir)
    profiler = None if profile is None else Profile(run.logs, *profile)
    sized = _sized_runs(predict_from, dry_run)
    place, nothing_to_do, chosen = _place(task, config, given, run, verbose, workers, worker)
    within = _Within(given, started, chosen)
    if dry_run:
        return _estimate(task, config, place, within, sized)
    if nothing_to_do:
        if not place.chief:
            return None
        place.say(f"{run.path} is finished already; nothing to train.")
        return run.read_json("result.json")
    with _own_directory(run, place) as own, _lost_worker_named(place):
        training = _prepare(task, config, own, place, within)
        with _only_one(training):
            log = _fit(training, profiler)
            return _finish(training, log)


def _place(task, config, given, run, verbose, workers, worker):
    """Where to train, whether the run is finished already, and what a budget chose for it before.

    Only the chief reads the directory; it tells the others.
    """
    name, why = distribute.resolve(config.strategy, workers)
    chief = distribute.is_chief(config.strategy, workers, worker)
    refused = chosen = None
    if chief:
        try:
            chosen = run.chosen() if config.budget else None
            run.check(task, _with_chosen(config, chosen, given))
        except ValueError as error:
            refused = error
    finished = chief and refused is None and run.has_result()
    place = _Place(name, None, chief, verbose)
    if name == "multi_worker" or not (refused or finished):
        place.say(f"Strategy: {name}, as {why}.")
        strategy = distribute.strategy(config.strategy, workers, worker)
        place = dataclasses.replace(place, strategy=strategy)
        (finished,) = from_chief(strategy, [int(bool(refused or finished))])
    if refused:
        raise refused
    if config.budget and not finished:
        chosen = json.loads(bytes_from_chief(place.strategy, json.dumps(chosen).encode()))
    return place, bool(finished), chosen


def _with_chosen(config, chosen, given):
    """The config with the settings that a budget has chosen, except those that are given."""
    free = {n: v for n, v in (chosen or {"settings": {}})["settings"].items() if n not in given}
    return with_settings(config, free) if free else config


@contextlib.contextmanager
def _own_directory(run, place):
    """The run's directory; on workers other than the chief a temporary one."""
    if place.chief:
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="bigmodels-worker-") as own:
        yield RunDirectory(pathlib.Path(own) / "run")


@contextlib.contextmanager
def _lost_worker_named(place):
    """Turn TensorFlow's errors after the loss of another worker into a `ConnectionError`."""
    try:
        yield
    except _LOST as error:
        if place.name != "multi_worker":
            raise
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"worker: another worker was lost ({reason}); run the same command on all workers to "
            "continue from the last checkpoint"
        ) from error


def _sized_runs(workdirs, dry_run):
    """The runs that a prediction rests on, read before anything is loaded."""
    if workdirs and not dry_run:
        raise ValueError(f"predict_from: {list(map(str, workdirs))!r}, expected with dry_run only")
    sized = []
    for run in map(RunDirectory, workdirs):
        task, config = run.load_config()
        result = run.read_json("result.json") if run.has_result() else {}
        sized.append(scaling_runs.finished(str(run.path), task.name, flat_settings(config), result))
    return sized


def _estimate(task, config, place, within, sized):
    planned = scaling_runs.SizedRun("this run", task.name, flat_settings(config))
    if sized:
        try:
            scaling_runs.law_of(sized, planned)
        except ValueError as error:
            raise ValueError(f"predict_from: {error}") from None
    data, config, chosen = _load(task, config, place, within)
    with kernels.dtype_policy(kernels.precision(config.precision)[0]):
        model, steps_per_epoch = _compiled(task, config, data)
        estimated = estimate.training(model, data.train, place.replicas)
    steps = steps_per_epoch * config.last_epoch
    about = {"task": task.name, "dataset": config.dataset, "replicas": place.replicas}
    about |= {"steps": steps} | estimated
    if chosen:  # Then the time is measured.
        del about["seconds_per_step"]
        about |= {"seconds": chosen["seconds"], "chosen": chosen}
    else:
        about["seconds"] = steps * estimated["seconds_per_step"]
    if not sized:
        return about
    sizes = {
        "compute": steps * estimated["flops_per_step"],
        "parameters": estimated["parameters"],
        "tokens": steps * _per_step(data),
    }
    return about | scaling_runs.prediction(sized, dataclasses.replace(planned, sizes=sizes))


def _load(task, config, place, within):
    """The data, the config with what a budget chooses, and what that is."""
    chosen = within.chosen
    config = _with_chosen(config, chosen, within.given)
    if config.budget and not chosen:
        config = budget.smallest(task, config, within.given)
    data = task.load_data(config)
    place.say(f"Loaded and checked {config.dataset}.")
    for name, value in task.describe(data).items():
        place.say(f"  {name}: {value}")
    if config.budget and not chosen:
        choice = budget.choose(task, config, within.given, data, place.strategy, within.started)
        data, config = choice.data, with_settings(config, choice.settings)
        chosen = {"settings": choice.settings, "seconds": choice.seconds, "why": choice.why}
        chosen = json.loads(json.dumps(chosen))  # As it is read from a file.
        for line in [f"Chosen for {config.budget}:", *choice.why]:
            place.say(line)
    elif chosen:
        place.say(f"With the settings that were chosen for {config.budget} when the run began.")
    return data, config, chosen


def _compiled(task, config, data):
    """The compiled model, with its optimizer's variables, and the steps per epoch."""
    steps_per_epoch = config.steps_per_epoch or int(data.train.cardinality())
    model = task.build_model(config, data)
    task.compile_model(model, config, steps_per_epoch * config.epochs)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model, steps_per_epoch


def _prepare(task, config, run, place, within):
    """Load the data and build the model."""
    if config.jit_compile == "true" and place.replicas > 1:
        raise ValueError(
            f"jit_compile: true, but XLA cannot compile a step over {place.replicas} replicas; "
            "leave it at auto"
        )
    source = _pretrained(config.init_from) if place.chief else None
    data, config, chosen = _load(task, config, place, within)
    keras.utils.set_random_seed(config.seed)
    precision, why = kernels.precision(config.precision)
    if config.precision == "auto":
        place.say(f"Precision: {precision}, as {why}.")
    with place.strategy.scope(), kernels.dtype_policy(precision):
        model, steps_per_epoch = _compiled(task, config, data)
        if source is not None:
            _initialise(model, source, config.init_from, place.say)
        run.create(task, config, chosen)
        if config.init_from:
            # Only the chief has loaded these weights.
            state, counts = get_state(model)
            set_state(model, from_chief(place.strategy, state), counts)
    backup = BackupAndRestore(
        run.checkpoints.path,
        save_freq=config.save_freq or "epoch",
        delete_checkpoint=False,
        monitor="val_loss" if task.overfits else None,
        grace=config.grace,
        verbose=place.verbose,
        replay=False,
    )
    batches_an_epoch = int(data.train.cardinality())

    def batches_from(epoch, step):
        # An endless stream, as `steps_per_epoch` may differ from a pass over the data. The order of
        # a pass depends on the seed and the number of the pass.
        passes, batches = divmod(epoch * steps_per_epoch + step, batches_an_epoch)
        return data.train_from(passes).skip(batches)

    return _Training(
        task=task,
        config=config,
        chosen=chosen,
        run=run,
        place=place,
        data=data,
        model=model,
        precision=precision,
        steps_per_epoch=steps_per_epoch,
        backup=backup,
        batches_from=batches_from,
    )


@contextlib.contextmanager
def _only_one(training):
    """Lock the run's directory, and check that there is enough disk space."""
    if not training.place.chief:
        yield
        return
    with training.run.lock():
        training.run.check_space(training.model)
        yield


def _fit(training, profiler):
    """Train from the last checkpoint, or from the beginning, to the last epoch."""
    task, config, run, place = training.task, training.config, training.run, training.place
    model, data, steps_per_epoch = training.model, training.data, training.steps_per_epoch
    with place.strategy.scope(), kernels.dtype_policy(training.precision):
        epoch, step = training.backup.find_position(model)
        place.say(
            f"{model.name}: {model.count_params():,} parameters. Training on "
            f"{data.sizes['train']:,} {task.unit}, {counted(steps_per_epoch, 'step')} an epoch."
        )
        chosen = kernels.described(model)
        place.say("Kernels: " + "; ".join(f"{k}: {kernel}" for k, kernel in chosen.items()) + ".")
        waiting = Waiting()
        keeper = Keeper(run, task, data, config, place.strategy, epoch, waiting)
        finite = FiniteValues(
            config.skip_bad_batches,
            run.path if place.chief else None,
            lambda epoch, step: next(iter(training.batches_from(epoch, step))),
            place.verbose,
        )
        callbacks = [finite, keeper, training.backup]
        if place.chief:
            callbacks.append(TensorBoardLog(run.logs, keeper.rows))
            callbacks += [profiler] if profiler else []
        if place.chief and place.verbose:
            callbacks.append(Progress(steps_per_epoch, config.last_epoch, epoch, step))
        if epoch < config.last_epoch and not keeper.stops_early():
            with _memory_told(training):
                model.fit(
                    waiting.timed(training.batches_from(epoch, step)),
                    epochs=config.last_epoch,
                    steps_per_epoch=steps_per_epoch,
                    validation_data=data.validation,
                    callbacks=callbacks,
                    verbose=0,
                )
        else:
            training.backup.restore(model)
    data.notes.leave_out(
        "skip_bad_batches", "batches at NaN or infinity", list(dict.fromkeys(finite.skipped))
    )
    return _Log(keeper, finite)


def _finish(training, log):
    """Save and evaluate the model, and write the result and the report."""
    task, config, run, place = training.task, training.config, training.run, training.place
    model, data = training.model, training.data
    with place.strategy.scope(), kernels.dtype_policy(training.precision):
        if task.calibrate:
            task.calibrate(model, data, config)
        run.save_model(model)
        place.say("Evaluating on held-out data ...")
        # All workers evaluate and draw, as predictions involve all of them.
        splits, observed, figures = task.evaluate_splits(model, data, config)
        drawn = figures()
    if not place.chief:
        return None
    result = _result(training, splits)
    result |= _speed(training, log, result) | intervals.summary(observed, config.seed)
    if training.chosen:
        result["chosen"] = training.chosen
    run.write_observations(observed.get("test", {}))
    _write_report(training, result, drawn)
    run.write_json("result.json", result)
    place.say(f"Done: {run.path / 'report.html'}")
    return result


@contextlib.contextmanager
def _memory_told(training):
    """Turn TensorFlow's out-of-memory error into one that names a batch size that fits."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        problem = f"batch_size: {training.config.batch_size} needs more memory than the device has"
        if training.place.replicas > 1:
            raise MemoryError(f"{problem}; use a smaller one") from error
        training.place.say("Out of memory; looking for a batch size that fits ...")
        rows = estimate.largest_batch(training.model, next(iter(training.data.train)))
        smaller = f"{rows} fits" if rows else "not even 1 fits; use a smaller model"
        raise MemoryError(f"{problem}; {smaller}") from error


def _pretrained(init_from):
    if init_from is None:
        return None
    try:
        return RunDirectory(init_from).load_model()
    except ValueError as error:
        raise ValueError(f"init_from: {str(error).removeprefix('workdir: ')}") from None


def _initialise(model, source, init_from, say):
    taken, left = transfer_weights(source, model)
    if not taken:
        raise ValueError(
            f"init_from: {init_from!r} holds a {type(source).__name__} that shares no layer with "
            f"this {type(model).__name__}; give the settings of model that it was trained with"
        )
    new = f"freshly initialised: {', '.join(left)}" if left else "nothing is new"
    say(f"Weights from {init_from}: {len(taken)} of {len(taken) + len(left)}; {new}.")


def _result(training, splits):
    """The result without `_speed` and the intervals."""
    task, config, data = training.task, training.config, training.data
    history = training.run.history()
    seconds = sum(row["seconds"] for row in history)
    steps = training.steps_per_epoch * len(history)
    result = {
        "task": task.name,
        "dataset": config.dataset,
        "seed": config.seed,
        "parameters": training.model.count_params(),
        "steps": steps,
        "seconds": round(seconds, 3),
    }
    return (
        result
        | splits
        | noted(data)
        | {
            "throughput": steps * _per_step(data) / seconds,
            "unit": task.unit,
            "examples_per_second": steps * config.batch_size / seconds,
        }
    )


def _per_step(data):
    """Examples, or tokens, that a step is trained on."""
    return data.sizes["train"] / int(data.train.cardinality())


def _speed(training, log, result):
    """Timings, arithmetic, memory, kernels, and skipped batches."""
    flops = _training_flops(training, log.keeper, result)
    share = flops and flops / result["seconds"] / estimate.product_rate(
        training.model.compute_dtype
    )
    speed = {
        "first_step_seconds": log.keeper.first_step,
        "input_wait": log.keeper.waited,
        "training_flops": flops,
        # Of this machine's rate of large matrix products.
        # Above one, other work has disturbed the measurement.
        "share_of_limit": share if share and share <= 1 else None,
        "peak_memory": _peak_memory(),
        "precision": training.precision,
        "kernels": kernels.described(training.model),
    }
    if training.config.skip_bad_batches:
        speed["skipped_batches"] = log.finite.left_out
    return speed


def _training_flops(training, keeper, result):
    """Floating-point operations of all steps.

    `None` for several replicas, which are not counted, and for trainings of a few seconds, which
    are dominated by startup.
    """
    if training.place.replicas > 1 or keeper.stepping < _WORTH_MEASURING:
        return None
    flops = estimate.training(training.model, training.data.train)["flops_per_step"]
    return flops * result["steps"]


def _peak_memory():
    """Peak memory of the first GPU, or of this process if there is none, in bytes.

    `None` on Windows, where Python cannot measure it.
    """
    if kernels.has_gpu():
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB.


def _settings_used(training):
    """The values used for settings that were not given."""
    data, model = training.data, training.model
    used = {
        "strategy": training.place.name,
        "precision": training.precision,
        "jit_compile": model.jit_compile,
        "steps_per_epoch": training.steps_per_epoch,
    }
    if hasattr(data, "image_shape"):
        used["data.image_size"] = data.image_shape[:2]
    return used | training.task.settled(model, data, training.config)


def _write_report(training, result, drawn):
    task, data, run = training.task, training.data, training.run
    for name, figure in drawn.items():
        save_drawn(run.samples / re.sub(r"\W+", "_", name.lower()).strip("_"), figure)
    history = run.history()
    units = {name: metric.unit for name, metric in task.metrics.items()}
    save_drawn(run.samples / "learning_curves", plots.learning_curves(history, units))
    run.write_text(
        "report.html",
        report.render(
            task,
            result,
            history,
            config=run.read_json("config.json"),
            used=_settings_used(training),
            describe=task.describe(data),
            examples=task.examples(data) if task.examples else {},
            drawn=drawn,
            samples=run.samples_in_order(),
            command=command_line(task, training.config),
        ),
    )
