"""`--budget`: choose the size of the model and the length of the training by a short measurement.

The chosen values are ordinary settings, kept in the run's `config.json`, so a run that continues
does not measure again.
"""

import contextlib
import dataclasses
import io
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.strategies import from_chief
from bigmodels.distribute.upstream import global_state
from bigmodels.reports.pages import counted, plain
from bigmodels.tasks.record import Size, Task
from bigmodels.tasks.settings import Config, duration, with_settings

# The share of the time that is planned; the rest allows for a machine that becomes slower.
_PLANNED = 0.97
# Steps of a measurement: until everything is traced and the buffers are full, and measured ones.
_WARM_UP, _STEPS = 2, 8
# The share of the time in which the chosen size is measured over more steps, and its limit in s.
_AGAIN, _LONGEST = 0.02, 20.0
# Epochs that a training has at least, and the share of it that validation takes at most.
_EPOCHS, _VALIDATION = 10, 0.05
# Samples that a run draws of its model, at most.
_SAMPLES = 11


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a training takes on this machine, in seconds.

    Attributes:
        first: The first step, in which the model is traced, and what else is done once.
        step: Another step, with the wait for its batch.
        validation: The validation of an epoch.
        sample: A sample of the model, which some epochs draw.
        ending: The evaluation after the training, and the report.

    Example:

    >>> Costs(first=3.0, step=0.1).steps(13.0)
    100
    """

    first: float
    step: float
    validation: float = 0.0
    sample: float = 0.0
    ending: float = 0.0

    def steps(self, seconds: float) -> int:
        """Steps that fit into a time, without validation."""
        return max(0, math.floor((seconds - self.first - self.ending) / self.step + 1e-9))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings that were chosen.

    Attributes:
        settings: `{dotted name: value}`.
        why: Sentences that give the reasons.
        seconds: Time that the whole command should take, from its start.
        data: The data, loaded with the settings.
    """

    settings: dict[str, Any]
    why: list[str]
    seconds: float
    data: Any


def choose_size(sizes: Sequence[Size], steps_of: Callable[[int], int]) -> int:
    """Choose the largest size that makes the number of steps which it needs.

    It looks at only as many sizes as bisection does.

    Args:
        sizes: From small to large.
        steps_of: Maps the index of a size to the number of steps that it makes in the time.

    Returns:
        An index; 0 if none makes enough.

    Example:

    >>> sizes = [Size({}), Size({}, steps=500), Size({}, steps=900)]
    >>> choose_size(sizes, [4000, 1200, 400].__getitem__)
    1
    """
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if steps_of(middle) >= sizes[middle].steps:
            low = middle
        else:
            high = middle - 1
    return low


def schedule(
    seconds: float,
    costs: Costs,
    batches: int,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> tuple[int, int]:
    """Divide a time into epochs.

    An epoch is about a pass over the data, but there are at least ten, as long as validation takes
    no more than a twentieth of the time.

    Args:
        seconds: The time, from the beginning of the training to the end of the command.
        costs: What the training takes.
        batches: Number of batches of a pass over the training data.
        epochs: The number of epochs if it is given.
        steps_per_epoch: The number of steps if it is given.

    Returns:
        `(epochs, steps_per_epoch)`, each at least 1 even if the time does not suffice.

    Example:

    >>> schedule(605.0, Costs(first=5.0, step=0.1, validation=1.0), batches=500)
    (12, 490)
    >>> schedule(605.0, Costs(first=5.0, step=0.1, validation=1.0), batches=500, epochs=3)
    (3, 1990)
    """
    left = seconds - costs.first - costs.ending
    of_epoch = costs.validation + costs.sample
    if epochs is None and steps_per_epoch is None:
        passes = round(left / costs.step / batches)
        most = int(_VALIDATION * left / of_epoch) if of_epoch else passes
        epochs = max(1, min(max(passes, _EPOCHS), most))
    if epochs is None:
        epochs = max(1, int(left / (steps_per_epoch * costs.step + of_epoch)))
    if steps_per_epoch is None:
        others = epochs * costs.validation + min(epochs, _SAMPLES) * costs.sample
        steps_per_epoch = max(1, int((left - others) / (epochs * costs.step) + 1e-9))
    return epochs, steps_per_epoch


def smallest(task: Task, config: Config, given: Collection[str]) -> Config:
    """The config with the smallest of the task's sizes, with which to load the data.

    Args:
        task: A `Task`.
        config: Its config.
        given: Names of the settings that the user has given, which stay as they are.

    Returns:
        A config.
    """
    return with_settings(config, _free_sizes(task, config, given)[0].settings)


def choose(
    task: Task,
    config: Config,
    given: Collection[str],
    data: Any,
    strategy: tf.distribute.Strategy,
    started: float,
) -> Choice:
    """Choose the settings that are not given, so that the command ends when the budget does.

    The largest of the task's sizes is chosen that makes at least as many steps as it needs
    (`Size.steps`); a task without sizes keeps its model. Then the chosen size is measured once
    more, with its validation and evaluation, and the rest of the time is divided into epochs. Every
    worker must call this; the chief's measurement counts.

    Args:
        task: A `Task`.
        config: Its config, with a `budget` and the `smallest` size.
        given: Names of the settings that the user has given, which stay as they are.
        data: The data, loaded with `config`.
        strategy: The `tf.distribute` strategy.
        started: `time.monotonic()` when the command began.

    Returns:
        A `Choice`.

    Raises:
        ValueError: if the time does not suffice for a single step.
    """
    planned = _PLANNED * duration("budget", config.budget)
    measure = _Measurement(task, config, data, strategy)
    loaded = measure.agreed(time.monotonic() - started)
    sizes = _free_sizes(task, config, given)
    with _names_of_their_own():
        steps = {}

        def steps_of(index):
            costs = measure.steps(sizes[index])
            left = planned - measure.agreed(time.monotonic() - started)
            steps[index] = costs.steps(left)
            return steps[index]

        index = choose_size(sizes, steps_of)
        size = sizes[index]
        costs = measure.everything(size, min(_AGAIN * planned, _LONGEST))
    measured = measure.agreed(time.monotonic() - started)
    data = measure.data(size)
    batches = int(data.train.cardinality())
    kept = {name: getattr(config, name) for name in ("epochs", "steps_per_epoch") if name in given}
    epochs, per_epoch = schedule(planned - measured, costs, batches, **kept)
    settings = {**size.settings, "epochs": epochs, "steps_per_epoch": per_epoch}
    settings = {name: value for name, value in settings.items() if name not in given}
    total = epochs * per_epoch
    seconds = measured + costs.first + total * costs.step + costs.ending
    seconds += epochs * costs.validation + min(epochs, _SAMPLES) * costs.sample
    if seconds > planned and len(kept) < 2:
        raise ValueError(
            f"budget: {config.budget!r} is too short, as the shortest training takes "
            f"{seconds / _PLANNED:.0f} s here with loading, measuring and evaluating"
        )
    why = [
        *_about_size(sizes, index, steps, costs.step),
        f"{counted(epochs, 'epoch')} of {per_epoch:,} steps: {total / batches:.3g} passes over the "
        "training data.",
        f"Time: {loaded:.0f} s to load, {measured - loaded:.0f} s to measure, "
        f"{costs.first + total * costs.step:.0f} s of training, {costs.ending:.0f} s to evaluate; "
        f"{seconds:.0f} s of {config.budget}.",
    ]
    return Choice(settings, why, round(seconds, 1), data)


class _Measurement:
    """Measures trainings with the sizes of a task, each once."""

    def __init__(self, task, config, data, strategy):
        self._task, self._config, self._data = task, config, data
        self._strategy, self._precision = strategy, kernels.precision(config.precision)[0]
        self._made = {}

    def agreed(self, seconds):
        """The chief's number."""
        return float(from_chief(self._strategy, [seconds])[0])

    def steps(self, size):
        """The costs of the steps of a size."""
        return self._of(size).costs

    def data(self, size):
        """The data for a size."""
        return self._of(size).data

    def everything(self, size, seconds):
        """All costs of a size, with a time in which to measure its step once more."""
        task, (config, data, model, costs) = self._task, self._of(size)
        step = costs.step
        with self._scope():
            if (steps := int(seconds / step)) > 2 * _STEPS:
                step = self._fit(model, data, steps).step
            model.evaluate(data.validation.take(1), verbose=0)  # Traces it.
            validation, _ = self._timed(lambda: model.evaluate(data.validation, verbose=0))
            sample = 0.0
            if task.sample:
                task.sample(model, data, config)
                sample, _ = self._timed(lambda: task.sample(model, data, config))
            ending, _ = self._timed(lambda: self._end(config, data, model))
        # The end of a training traces the step once more, to count its operations.
        return Costs(costs.first, step, validation, sample, ending + costs.first)

    def _end(self, config, data, model):
        if self._task.calibrate:
            self._task.calibrate(model, data, config)
        _, _, figures = self._task.evaluate_splits(model, data, config)
        for figure in figures().values():
            if hasattr(figure, "savefig"):
                figure.savefig(io.BytesIO())

    def _of(self, size):
        """The measured size, made if it has not been."""
        if id(size) not in self._made:
            config, data = with_settings(self._config, size.settings), self._data
            if any(
                getattr(config, name) != getattr(self._config, name)
                for name in vars(config).keys() - {"model", "optimizer"}
            ):
                data = self._task.load_data(config)
            with self._scope():
                building, model = self._timed(lambda: self._build(config, data))
                costs = self._fit(model, data, _STEPS)
            costs = dataclasses.replace(costs, first=building + costs.first)
            self._made[id(size)] = _Measured(config, data, model, costs)
        return self._made[id(size)]

    def _build(self, config, data):
        model = self._task.build_model(config, data)
        self._task.compile_model(model, config, _STEPS)
        return model

    def _fit(self, model, data, steps):
        watch = _Watch()
        model.fit(
            data.train_from(0),
            epochs=1,
            steps_per_epoch=_WARM_UP + steps,
            callbacks=[watch],
            verbose=0,
        )
        warm_up, end = map(self.agreed, (watch.times[_WARM_UP - 1], watch.times[-1]))
        return Costs(first=warm_up, step=(end - warm_up) / steps)

    @contextlib.contextmanager
    def _scope(self):
        with self._strategy.scope(), kernels.dtype_policy(self._precision):
            yield

    def _timed(self, function):
        began = time.monotonic()
        result = function()
        return self.agreed(time.monotonic() - began), result


class _Measured(NamedTuple):
    config: Config
    data: Any
    model: keras.Model
    costs: Costs


class _Watch(keras.callbacks.Callback):
    """Notes the seconds from the beginning of a training to the end of each of its steps."""

    def on_train_begin(self, logs=None):
        self._began, self.times = time.monotonic(), []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.monotonic() - self._began)

    def on_epoch_end(self, epoch, logs=None):
        self.times[-1] = time.monotonic() - self._began  # A GPU has ended its work by now.


def _free_sizes(task, config, given):
    """The sizes, without the settings that are given; at least one."""
    # Weights of another run fit only its own size.
    sizes = () if config.init_from else task.sizes(config)
    free = {}
    for size in sizes or [Size({})]:
        settings = {name: value for name, value in size.settings.items() if name not in given}
        free.setdefault(repr(settings), dataclasses.replace(size, settings=settings))
    return list(free.values())


def _about_size(sizes, index, steps, step):
    spoken = [" ".join(f"{k}={plain(v)}" for k, v in size.settings.items()) for size in sizes]
    lines = [f"{spoken[index] or 'The model stays as it is'}: {1000 * step:.3g} ms a step."]
    if len(sizes) == 1:
        return lines
    if index + 1 == len(sizes):
        lines.append("It is the largest size.")
    else:
        lines.append(
            f"The next size, {spoken[index + 1]}, would make {steps[index + 1]:,} steps of the "
            f"{sizes[index + 1].steps:,} that it needs."
        )
    return lines


@contextlib.contextmanager
def _names_of_their_own() -> Iterator[None]:
    """Layers made inside do not change the names that Keras gives to layers made afterwards.

    Settings such as `optimizer.exclude_layers` go by names.
    """
    before = dict(global_state.get_global_attribute("object_name_uids") or {})
    try:
        yield
    finally:
        counts = global_state.get_global_attribute("object_name_uids")
        if counts is not None:
            counts.clear()
            counts.update(before)
