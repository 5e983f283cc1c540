"""Train a task from its config to a run directory with a report."""

import contextlib
import pathlib
import re
import sys
import tempfile

import keras
import tensorflow as tf

from bigmodels import distribute, kernels, tasks
from bigmodels.callbacks import (
    BackupAndRestore,
    FiniteValues,
    Keeper,
    Profile,
    Progress,
    TensorBoardLog,
)
from bigmodels.commands import estimate
from bigmodels.data.notes import noted
from bigmodels.data.waiting import Waiting
from bigmodels.evaluation import intervals
from bigmodels.reports import plots, report
from bigmodels.reports.pages import counted, save_drawn
from bigmodels.runs.directory import RunDirectory, transfer_weights
from bigmodels.tasks.task import command_line, with_settings

# What TensorFlow raises in the workers that are left.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

_WORTH_MEASURING = 10.0  # Seconds.


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
    """Train, measure on held-out data, and write everything down.

    Run again with the same arguments, it continues after the last finished epoch of an unfinished
    run, and only reads the result of a finished one. Under several workers each calls this; the
    chief writes the run's directory and the others nothing but a temporary one of their own.

    Args:
        task: Name of a task.
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
    """
    task = tasks.get(task)
    config = with_settings(task.config(), settings or {})
    task.check(config)
    if config.deterministic:
        distribute.deterministic()
    run = RunDirectory(workdir)
    profiler = None if profile is None else Profile(run.logs, *profile)
    name, why = distribute.resolve(config.strategy, workers)
    chief = distribute.is_chief(config.strategy, workers, worker)
    say = (lambda text: print(text, file=sys.stderr)) if verbose and chief else (lambda text: None)
    refused = None
    if chief:  # Which alone reads the directory; the others hear from it.
        try:
            run.check(task, config)
        except ValueError as error:
            refused = error
    strategy = None
    finished = chief and refused is None and run.has_result()
    if name == "multi_worker" or not (refused or finished):
        say(f"Strategy: {name}, as {why}.")
        strategy = distribute.strategy(config.strategy, workers, worker)
        (over,) = distribute.from_chief(strategy, [int(bool(refused or finished))])
        if over and not chief:
            return None
    if refused:
        raise refused
    if dry_run:
        return _estimate(task, config, strategy.num_replicas_in_sync if strategy else 1)
    if finished:
        say(f"{run.path} is finished already; nothing to train.")
        return run.read_json("result.json")
    with contextlib.ExitStack() as stack:
        if not chief:
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="bigmodels-worker-"))
            run = RunDirectory(pathlib.Path(own) / "run")
        try:
            return _train(task, config, run, name, strategy, chief, say, verbose, stack, profiler)
        except _LOST as error:
            if name != "multi_worker":
                raise
            reason = str(error).splitlines()[0]
            raise ConnectionError(
                f"worker: another was lost ({reason}); the same command, on all of them, goes on "
                "from the last checkpoint"
            ) from error


def _compiled(task, config, data):
    """The model, with its optimizers' variables, and the steps of an epoch."""
    steps_per_epoch = config.steps_per_epoch or int(data.train.cardinality())
    model = task.build_model(config, data)
    task.compile_model(model, config, steps_per_epoch * config.epochs)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model, steps_per_epoch


def _estimate(task, config, replicas):
    data = task.load_data(config)
    with kernels.dtype_policy(kernels.precision(config.precision)[0]):
        model, steps_per_epoch = _compiled(task, config, data)
        found = estimate.training(model, data.train, replicas)
    steps = steps_per_epoch * config.last_epoch
    seconds = steps * found["seconds_per_step"]
    about = {"task": task.name, "dataset": config.dataset, "replicas": replicas, "steps": steps}
    return about | found | {"seconds": seconds}


def _train(task, config, run, name, strategy, chief, say, verbose, stack, profiler):
    if config.jit_compile == "true" and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"jit_compile: true, but XLA cannot compile a step over "
            f"{strategy.num_replicas_in_sync} replicas; leave it at auto"
        )
    source = _pretrained(config.init_from) if chief else None
    data = task.load_data(config)
    say(f"Loaded and checked {config.dataset}.")
    for what, value in task.describe(data).items():
        say(f"  {what}: {value}")
    keras.utils.set_random_seed(config.seed)
    precision, why = kernels.precision(config.precision)
    if config.precision == "auto":
        say(f"Precision: {precision}, as {why}.")
    with strategy.scope(), kernels.dtype_policy(precision):
        model, steps_per_epoch = _compiled(task, config, data)
        if source is not None:
            _initialise(model, source, config.init_from, say)
        run.create(task, config)
        if config.init_from:
            # Only the chief has read it.
            state, counts = distribute.get_state(model)
            distribute.set_state(model, distribute.from_chief(strategy, state), counts)
        if chief:
            stack.enter_context(run.lock())
            run.check_space(model)
        backup = BackupAndRestore(
            run.checkpoints.path,
            save_freq=config.save_freq or "epoch",
            delete_checkpoint=False,
            monitor="val_loss" if task.overfits else None,
            grace=config.grace,
            verbose=verbose,
        )
        epoch, step = backup.look(model)
        # One endless stream, so that a run goes on where it stopped: an epoch's order follows from
        # the seed and its number. `steps_per_epoch` need not be the whole data.
        backup.replay = False

        def batches_from(epoch, step):
            passes, batches = divmod(epoch * steps_per_epoch + step, int(data.train.cardinality()))
            return data.train_from(passes).skip(batches)

        say(
            f"{model.name}: {model.count_params():,} parameters. Training on "
            f"{data.sizes['train']:,} {task.unit}, {counted(steps_per_epoch, 'step')} an epoch."
        )
        taken = kernels.described(model)
        say("Kernels: " + "; ".join(f"{what}: {kernel}" for what, kernel in taken.items()) + ".")
        waiting = Waiting()
        keeper = Keeper(run, task, data, config, strategy, epoch, waiting)
        finite = FiniteValues(
            config.skip_bad_batches,
            run.path if chief else None,
            lambda epoch, step: next(iter(batches_from(epoch, step))),
            verbose,
        )
        callbacks = [finite, keeper, backup]
        if chief:
            callbacks.append(TensorBoardLog(run.logs, keeper.rows))
            callbacks += [profiler] if profiler else []
        if chief and verbose:
            callbacks.append(Progress(steps_per_epoch, config.last_epoch, epoch, step))
        if epoch < config.last_epoch and not keeper.stops_early():
            with _memory_told(model, data, config, strategy, say):
                model.fit(
                    waiting.timed(batches_from(epoch, step)),
                    epochs=config.last_epoch,
                    steps_per_epoch=steps_per_epoch,
                    validation_data=data.validation,
                    callbacks=callbacks,
                    verbose=0,
                )
        else:
            backup.restore(model)
        data.notes.leave_out(
            "skip_bad_batches", "batches at NaN or infinity", list(dict.fromkeys(finite.skipped))
        )
        if task.calibrate:
            task.calibrate(model, data, config)
        run.save_model(model)
        say("Measuring on held-out data ...")
        # All workers measure and draw, as predicting needs them all.
        splits, observed, found = task.measure_splits(model, data, config)
        drawn = task.draw(model, data, config, found)
    if not chief:
        return None
    result = _result(model, task, data, config, run.history(), steps_per_epoch, splits)
    result |= {
        "first_step_seconds": keeper.first_step,
        "input_wait": keeper.waited,
        "share_of_limit": _share_of_limit(model, data, keeper, result, strategy),
        "peak_memory": _peak_memory(),
        "precision": precision,
        "kernels": taken,
    }
    if config.skip_bad_batches:
        result["skipped_batches"] = finite.left_out
    result |= intervals.summary(observed, config.seed)
    run.write_observations(observed.get("test", {}))
    used = {
        "strategy": name,
        "precision": precision,
        "jit_compile": model.jit_compile,
        "steps_per_epoch": steps_per_epoch,
    }
    if hasattr(data, "image_shape"):
        used["data.image_size"] = data.image_shape[:2]
    used |= task.settled(model, data, config)
    _write_report(task, data, config, run, result, drawn, used)
    run.write_json("result.json", result)
    say(f"Done: {run.path / 'report.html'}")
    return result


@contextlib.contextmanager
def _memory_told(model, data, config, strategy, say):
    """Turn TensorFlow's error of a device without memory into one that says what would fit."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        problem = f"batch_size: {config.batch_size} needs more memory than the device has"
        if strategy.num_replicas_in_sync > 1:
            raise MemoryError(f"{problem}; take a smaller one") from error
        say("Out of memory; looking for the batch that fits ...")
        rows = estimate.largest_batch(model, next(iter(data.train)))
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


def _result(model, task, data, config, history, steps_per_epoch, splits):
    seconds = sum(row["seconds"] for row in history)
    steps = steps_per_epoch * len(history)
    per_step = data.sizes["train"] / int(data.train.cardinality())
    result = {
        "task": task.name,
        "dataset": config.dataset,
        "seed": config.seed,
        "parameters": model.count_params(),
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


def _share_of_limit(model, data, keeper, result, strategy):
    """Arithmetic a second, in parts of the rate of large products on this machine.

    `None` where it would say nothing: over several replicas, for which products are not measured,
    and for a training of seconds, of which a good part is the beginning.
    """
    if strategy.num_replicas_in_sync > 1 or keeper.stepping < _WORTH_MEASURING:
        return None
    flops = estimate.training(model, data.train)["flops_per_step"]
    rate = estimate.product_rate(model.compute_dtype)
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


def _write_report(task, data, config, run, result, drawn, used):
    for name, what in drawn.items():
        save_drawn(run.samples / re.sub(r"\W+", "_", name.lower()).strip("_"), what)
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
            used=used,
            describe=task.describe(data),
            examples=task.examples(data) if task.examples else {},
            drawn=drawn,
            samples=run.samples_in_order(),
            command=command_line(task, config),
        ),
    )
