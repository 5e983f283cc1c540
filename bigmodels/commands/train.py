"""Train a task from its config to a run directory with a report.

`train` decides where the training happens and whether there is anything to do. The rest is three
steps: `_prepare` makes everything that `fit` needs, `_fit` trains, and `_finish` evaluates and
writes down.
"""

import contextlib
import dataclasses
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from bigmodels import distribute, kernels, tasks
from bigmodels.callbacks import BackupAndRestore, FiniteValues
from bigmodels.callbacks.run import Keeper, Profile, Progress, TensorBoardLog
from bigmodels.commands import estimate
from bigmodels.data.notes import noted
from bigmodels.data.splits import Splits
from bigmodels.data.waiting import Waiting
from bigmodels.distribute.resume import get_state, set_state
from bigmodels.distribute.strategies import from_chief
from bigmodels.evaluation import intervals
from bigmodels.reports import plots, report
from bigmodels.reports.pages import counted, save_drawn
from bigmodels.runs.directory import RunDirectory, transfer_weights
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, command_line, with_settings

# What TensorFlow raises in the workers that are left.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

_WORTH_MEASURING = 10.0  # Seconds.


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a training happens.

    Attributes:
        name: Of the strategy.
        strategy: A `tf.distribute.Strategy`; `None` where nothing is trained.
        chief: Whether this process writes the run's directory.
        verbose: As for `train`.
    """

    name: str
    strategy: tf.distribute.Strategy | None
    chief: bool
    verbose: int

    @property
    def replicas(self):
        """How many replicas share a batch."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def say(self, text):
        """Tell the user, once for all workers."""
        if self.verbose and self.chief:
            print(text, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class _Training:
    """All that `fit` needs.

    Attributes:
        task: What is trained.
        config: Its settings.
        run: The directory; on workers other than the chief a temporary one.
        place: Where.
        data: What the task has loaded.
        model: Built and compiled, with the weights to begin with.
        precision: Keras' dtype policy.
        steps_per_epoch: Batches of an epoch.
        backup: The callback that has found where to begin.
        batches_from: Function from an epoch and a step to the endless batches from there on.
    """

    task: Task
    config: Config
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
    """What the callbacks have seen of a training: a `Keeper` and a `FiniteValues`."""

    keeper: Keeper
    finite: FiniteValues


def train(
    task,
    workdir,
    settings=None,
    verbose=1,
    workers=None,
    worker=None,
    profile=None,
    dry_run=False,
):
    """Train, evaluate on held-out data, and write everything down.

    Run again with the same arguments, it continues after the last finished epoch of an unfinished
    run, and only reads the result of a finished one. Under several workers each calls this; the
    chief writes the run's directory and the others nothing but a temporary one of their own.

    Args:
        task: Name of a task, or a `bigmodels.tasks.record.Task` of your own.
        workdir: The run's directory.
        settings: Dotted names to values, what is to differ from the task's recipe:
            `{"epochs": 3, "model.dense_units": 256}`.
        verbose: 0 for silence, 1 for progress on stderr.
        workers: Addresses of all workers, if there are several and neither TF_CONFIG nor Slurm
            names them; see `bigmodels.distribute.strategy`.
        worker: Which of them this process is.
        profile: `(first, last)` step, counted from 1 in this process, to record for TensorBoard.
        dry_run: Whether to say what the training would take, and to train and write nothing.

    Returns:
        The content of `result.json`; on workers other than the chief `None`. For a dry run what
        `bigmodels.commands.estimate.training` gives, with `steps`, `replicas` and `seconds`.

    Raises:
        ValueError: naming the argument, setting, file or element that does not fit; nothing was
            trained or written then.
        FloatingPointError: if loss or gradients become NaN or infinite.
        MemoryError: if the device has no room for a step; it says how large a batch fits.
        ConnectionError: if another worker is lost.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> result = train("image_classification", "runs/doctest", settings, verbose=0)
    >>> result["steps"]
    2
    """
    task = tasks.get(task)
    config = with_settings(task.config(), settings or {})
    task.check(config)
    if config.deterministic:
        distribute.deterministic()
    run = RunDirectory(workdir)
    profiler = None if profile is None else Profile(run.logs, *profile)
    place, nothing_to_do = _place(task, config, run, verbose, workers, worker)
    if dry_run:
        return _estimate(task, config, place)
    if nothing_to_do:
        if not place.chief:
            return None
        place.say(f"{run.path} is finished already; nothing to train.")
        return run.read_json("result.json")
    with _own_directory(run, place) as own, _lost_worker_named(place):
        training = _prepare(task, config, own, place)
        with _only_one(training):
            log = _fit(training, profiler)
            return _finish(training, log)


def _place(task, config, run, verbose, workers, worker):
    """Where to train, and whether there is nothing to do.

    The chief alone reads the directory; the others hear from it.
    """
    name, why = distribute.resolve(config.strategy, workers)
    chief = distribute.is_chief(config.strategy, workers, worker)
    refused = None
    if chief:
        try:
            run.check(task, config)
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
    return place, bool(finished)


@contextlib.contextmanager
def _own_directory(run, place):
    """The run's directory, or, for workers other than the chief, one that is thrown away."""
    if place.chief:
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="bigmodels-worker-") as own:
        yield RunDirectory(pathlib.Path(own) / "run")


@contextlib.contextmanager
def _lost_worker_named(place):
    """Turn what TensorFlow raises in the workers that are left into what happened."""
    try:
        yield
    except _LOST as error:
        if place.name != "multi_worker":
            raise
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"worker: another was lost ({reason}); the same command, on all of them, goes on from "
            "the last checkpoint"
        ) from error


def _estimate(task, config, place):
    data = task.load_data(config)
    with kernels.dtype_policy(kernels.precision(config.precision)[0]):
        model, steps_per_epoch = _compiled(task, config, data)
        budget = estimate.training(model, data.train, place.replicas)
    steps = steps_per_epoch * config.last_epoch
    seconds = steps * budget["seconds_per_step"]
    about = {"task": task.name, "dataset": config.dataset, "replicas": place.replicas}
    return about | {"steps": steps} | budget | {"seconds": seconds}


def _compiled(task, config, data):
    """The model, with its optimizers' variables, and the steps of an epoch."""
    steps_per_epoch = config.steps_per_epoch or int(data.train.cardinality())
    model = task.build_model(config, data)
    task.compile_model(model, config, steps_per_epoch * config.epochs)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model, steps_per_epoch


def _prepare(task, config, run, place):
    """Load the data, make the model, and find where to begin; gives a `_Training`."""
    if config.jit_compile == "true" and place.replicas > 1:
        raise ValueError(
            f"jit_compile: true, but XLA cannot compile a step over {place.replicas} replicas; "
            "leave it at auto"
        )
    source = _pretrained(config.init_from) if place.chief else None
    data = task.load_data(config)
    place.say(f"Loaded and checked {config.dataset}.")
    for name, value in task.describe(data).items():
        place.say(f"  {name}: {value}")
    keras.utils.set_random_seed(config.seed)
    precision, why = kernels.precision(config.precision)
    if config.precision == "auto":
        place.say(f"Precision: {precision}, as {why}.")
    with place.strategy.scope(), kernels.dtype_policy(precision):
        model, steps_per_epoch = _compiled(task, config, data)
        if source is not None:
            _initialise(model, source, config.init_from, place.say)
        run.create(task, config)
        if config.init_from:
            # Only the chief has read it.
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
        # One endless stream: an epoch's order follows from the seed and its number, and
        # `steps_per_epoch` need not be the whole data.
        passes, batches = divmod(epoch * steps_per_epoch + step, batches_an_epoch)
        return data.train_from(passes).skip(batches)

    return _Training(
        task=task,
        config=config,
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
    """Keep other processes out of the run's directory, and see that what comes has room."""
    if not training.place.chief:
        yield
        return
    with training.run.lock():
        training.run.check_space(training.model)
        yield


def _fit(training, profiler):
    """Train from where the run stands to its last epoch; gives a `_Log`."""
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
    """Save and evaluate the model, write result and report; gives the content of `result.json`."""
    task, config, run, place = training.task, training.config, training.run, training.place
    model, data = training.model, training.data
    with place.strategy.scope(), kernels.dtype_policy(training.precision):
        if task.calibrate:
            task.calibrate(model, data, config)
        run.save_model(model)
        place.say("Evaluating on held-out data ...")
        # All workers evaluate and draw, as predicting needs them all.
        splits, observed, figures = task.evaluate_splits(model, data, config)
        drawn = figures()
    if not place.chief:
        return None
    result = _result(training, splits)
    result |= _speed(training, log, result) | intervals.summary(observed, config.seed)
    run.write_observations(observed.get("test", {}))
    _write_report(training, result, drawn)
    run.write_json("result.json", result)
    place.say(f"Done: {run.path / 'report.html'}")
    return result


@contextlib.contextmanager
def _memory_told(training):
    """Turn TensorFlow's error of a device without memory into one that says what would fit."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        problem = f"batch_size: {training.config.batch_size} needs more memory than the device has"
        if training.place.replicas > 1:
            raise MemoryError(f"{problem}; take a smaller one") from error
        training.place.say("Out of memory; looking for the batch that fits ...")
        rows = estimate.largest_batch(training.model, next(iter(training.data.train)))
        smaller = f"{rows} fits" if rows else "not even 1 fits: take a smaller model"
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
        raise ValueError(f"init_from: {init_from!r} shares no layer with this model")
    say(f"From {init_from}: took {', '.join(taken)}.")
    say(f"Freshly initialised: {', '.join(left) or 'nothing'}.")


def _result(training, splits):
    """What a run's result says, but for what `_speed` and the intervals add."""
    task, config, data = training.task, training.config, training.data
    history = training.run.history()
    seconds = sum(row["seconds"] for row in history)
    steps = training.steps_per_epoch * len(history)
    per_step = data.sizes["train"] / int(data.train.cardinality())
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
            "throughput": steps * per_step / seconds,
            "unit": task.unit,
            "examples_per_second": steps * config.batch_size / seconds,
        }
    )


def _speed(training, log, result):
    """Where the time went, by which kernels, and what was skipped."""
    speed = {
        "first_step_seconds": log.keeper.first_step,
        "input_wait": log.keeper.waited,
        "share_of_limit": _share_of_limit(training, log.keeper, result),
        "peak_memory": _peak_memory(),
        "precision": training.precision,
        "kernels": kernels.described(training.model),
    }
    if training.config.skip_bad_batches:
        speed["skipped_batches"] = log.finite.left_out
    return speed


def _share_of_limit(training, keeper, result):
    """Arithmetic a second, in parts of the rate of large products on this machine.

    `None` where it would say nothing: over several replicas, for which products are not measured,
    and for a training of seconds, of which a good part is the beginning.
    """
    if training.place.replicas > 1 or keeper.stepping < _WORTH_MEASURING:
        return None
    flops = estimate.training(training.model, training.data.train)["flops_per_step"]
    rate = estimate.product_rate(training.model.compute_dtype)
    return flops * result["steps"] / result["seconds"] / rate


def _peak_memory():
    """The most bytes this process has held: of the first GPU, or, where there is none, at all.

    `None` on Windows, whose Python does not know.
    """
    if kernels.has_gpu():
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB.


def _settings_used(training):
    """What stood for the settings that were not given."""
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
