"""The record of a task: its recipe, its evaluation and its inference."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Self

import keras

from bigmodels.data.progress import Progress
from bigmodels.evaluation.intervals import Observations
from bigmodels.tasks.settings import Config, read_value


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature (endpoint) of an exported model.

    Attributes:
        function: Function of tensors that returns `{name: tensor}`; the names of its arguments are
            the names of the inputs. Inputs and outputs of encoded images are named `..._bytes`, for
            which TensorFlow Serving's REST API uses base64.
        inputs: A `tf.TensorSpec` per argument, with `None` for dimensions of any size.
        example: An example value per argument, to compare an exported file with Keras.
        portable: Whether ONNX and LiteRT support it; they support neither strings and image files
            nor loops and random numbers.
        fixed_in_litert: Whether LiteRT supports it only with the shapes of `example`.

    Example:

    >>> def double(x):
    ...     return {"doubled": 2 * x}
    >>> signature = Signature(double, (tf.TensorSpec((None,), "float32"),), (np.ones(2),))
    >>> signature.portable
    False
    """

    function: Callable
    inputs: tuple
    example: tuple
    portable: bool = False
    fixed_in_litert: bool = False


@dataclasses.dataclass(frozen=True)
class Metric:
    """The unit and the direction of a metric.

    Attributes:
        unit: Unit, for example "nats"; with "%" a fraction is shown in percent.
        better: "max" or "min"; `None` if the metric does not rank runs.

    Example:

    >>> Metric("%", "max").better
    'max'
    """

    unit: str = ""
    better: str | None = None


@dataclasses.dataclass(frozen=True)
class Size:
    """A size of a task's model, one of those that a budget of time chooses from.

    Attributes:
        settings: The settings that make it, `{dotted name: value}`; all sizes of a task name the
            same settings.
        steps: The least number of steps after which it has been measured to be better than the next
            smaller size in the same time.

    Example:

    >>> Size({"model.rnn_units": 256, "batch_size": 16}, steps=2000).settings["batch_size"]
    16
    """

    settings: dict[str, Any]
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of a task's evaluation, in addition to the metrics that Keras evaluates.

    Attributes:
        metrics: `{split: {metric: value}}`, with floats or `Observations`. With `Observations` the
            metric gets an interval, even if Keras has evaluated it already.
        figures: `() -> {title: Figure or str}`, the figures of the report; called only when a
            report is written.

    Example:

    >>> Evaluation({"test": {"f1": 0.9}}).figures()
    {}
    """

    metrics: dict
    figures: Callable[[], dict] = dict


class Predictor:
    """Predictions with a trained model, and the signatures of its export.

    Subclasses implement `predict` and `signatures`.

    Args:
        model: A trained model.
        config: The run's config.

    Example:

    >>> class LengthPredictor(Predictor):
    ...     def predict(self, prompt="", times=1):
    ...         yield str(times * len(prompt))
    >>> options = LengthPredictor.read_options({"prompt": "abc", "times": "2"}, "length")
    >>> list(LengthPredictor(None, None).predict(**options))
    ['6']
    """

    def __init__(self, model: keras.Model, config: Config):
        self.model, self.config = model, config

    def predict(self, input=None):
        """Yield predictions: strings, or dicts of JSON values.

        Subclasses define the options that they need, each with a default.
        """
        raise NotImplementedError

    def signatures(self) -> dict[str, Signature]:
        """The signatures of the exported model by name, the default one first."""
        raise NotImplementedError

    def metadata(self) -> dict:
        """Metadata for users of an exported file, a dict of JSON values."""
        return {}

    @classmethod
    def read_options(cls, options: dict, task: str) -> dict:
        """Convert and check the options of `predict`.

        Args:
            options: `{name: value}`. Strings are converted to the type of the option's annotation
                or else of its default. `None` stands for the default.
            task: Name of the task, for messages.

        Returns:
            Keyword arguments of `predict`.

        Raises:
            ValueError: naming an option that is unknown or has a value of the wrong type.
        """
        parameters = dict([*inspect.signature(cls.predict).parameters.items()][1:])
        arguments = {name: value for name, value in options.items() if value is not None}
        for name, value in arguments.items():
            if name not in parameters:
                raise ValueError(f"{name}: {task} takes only {', '.join(parameters)}")
            default, hint = parameters[name].default, parameters[name].annotation
            if isinstance(value, str) and (hint is not inspect.Parameter.empty):
                arguments[name] = read_value(name, value, hint)
            elif isinstance(value, str) and default is not None:
                arguments[name] = read_value(name, value, type(default))
        return arguments


class _Shown(keras.callbacks.Callback):
    """Shows the progress of an evaluation that takes longer than a few seconds."""

    def __init__(self, split, batches):
        super().__init__()
        total = int(getattr(batches, "cardinality", lambda: -1)())  # A task may give other sets.
        self._progress = Progress(f"measuring {split}", total if total > 0 else None, " batches")

    def on_test_batch_end(self, batch, logs=None):
        self._progress.update(batch + 1 - self._progress.done)

    def on_test_end(self, logs=None):
        self._progress.__exit__()


def _usual_metrics():
    return {"accuracy": Metric("%", "max"), "loss": Metric("", "min")}


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: everything to train, evaluate and use a model for one application.

    Attributes:
        name: Name on the command line.
        summary: Description in one line.
        unit: Unit of `throughput`, for example "images".
        config: The `Config` subclass, whose defaults are the recipe.
        load_data: `(config) -> data`, a `bigmodels.data.splits.Splits`.
        build_model: `(config, data) -> model`.
        compile_model: `(model, config, steps) -> None`.
        search_space: `(hp) -> settings or None`, for a keras-tuner `hp`. Hyperparameters named
            like settings are searched; the returned settings are derived from them.
        evaluate: `(model, data, config, measured) -> Evaluation`, where `measured` holds the
            metrics evaluated by Keras, `{split: {metric: value}}`.
        predictor: The `Predictor` subclass.
        describe: `(data) -> {name: value}`, facts about the data for the report.
        examples: `(data) -> {title: Figure or str}`, examples of the data for the report; or
            `None`.
        sample: `(model, data, config) -> Figure or str`, a sample to save during training; or
            `None`.
        predict_flags: Example flags of `bigmodels predict` in addition to `--workdir`.
        calibrate: `(model, data, config) -> None`, fits the model's calibration to validation data
            after training; or `None`.
        overfits: Whether the validation loss shows overfitting (not for a GAN).
        objective: `SPLIT.METRIC`, the default objective of a search.
        settled: `(model, data, config) -> {dotted name: value}`, the values used for settings whose
            defaults depend on the data or the model.
        metrics: `{name: Metric}`, the main metric first. Others are shown as plain numbers.
        worded: `(config) -> {"unit": ..., "metrics": ...}`, if these depend on the settings.
        sizes: `(config) -> [Size, ...]`, from small to large, for a training with a `budget`; none
            if the size of the model should not be chosen.

    Example:

    >>> task = bigmodels.tasks.get("image_classification")
    >>> task.unit, list(task.metrics)[0]
    ('images', 'accuracy')
    """

    name: str
    summary: str
    unit: str
    config: type[Config]
    load_data: Callable
    build_model: Callable
    compile_model: Callable
    search_space: Callable
    evaluate: Callable
    predictor: type[Predictor]
    describe: Callable
    predict_flags: tuple[str, ...]
    examples: Callable | None = None
    sample: Callable | None = None
    calibrate: Callable | None = None
    overfits: bool = True
    objective: str = "validation.loss"
    settled: Callable = lambda model, data, config: {}
    metrics: dict = dataclasses.field(default_factory=_usual_metrics)
    worded: Callable = lambda config: {}
    sizes: Callable = lambda config: ()

    def of(self, config: Config) -> Self:
        """This task with the unit and the metrics of the settings.

        Args:
            config: A config of this task.

        Returns:
            A `Task`.
        """
        words = self.worded(config)
        return dataclasses.replace(self, **words) if words else self

    def check(self, config: Config) -> None:
        """Check that the settings are valid for this task.

        Args:
            config: A config of this task.

        Raises:
            ValueError: naming the setting.
        """
        if config.early_stopping is not None and not self.overfits:
            raise ValueError(
                f"early_stopping: {config.early_stopping}, but the validation loss of {self.name} "
                "does not show whether it still improves"
            )

    def evaluate_splits(self, model: keras.Model, data: Any, config: Config) -> tuple:
        """Evaluate a trained model on each split, without dropout or augmentation.

        Args:
            model: A trained, compiled model.
            data: The data from `load_data`. As "train" its sample is evaluated, which is as large
                as "validation".
            config: The run's config.

        Returns:
            `(splits, observed, figures)`: `{split: {metric: float}}` for train, validation and
            test; `{split: {metric: Observations}}` for metrics with intervals; and the `figures`
            of the task's `Evaluation`.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        # For evaluations that draw random numbers, such as a GAN's.
        keras.utils.set_random_seed(config.seed)
        sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
        measured = {
            split: model.evaluate(
                batches, return_dict=True, verbose=0, callbacks=[_Shown(split, batches)]
            )
            for split, batches in sets.items()
        }
        for split, metrics in measured.items():
            if not math.isfinite(metrics.get("loss", 0)):
                raise FloatingPointError(
                    f"{split}: the loss of the trained model is {metrics['loss']}, so its outputs "
                    "are not finite; a lower learning rate or float32 may help"
                )
        evaluation = self.evaluate(model, data, config, measured)
        observed = {}
        for split, metrics in evaluation.metrics.items():
            for name, value in metrics.items():
                if isinstance(value, Observations):
                    observed.setdefault(split, {})[name] = value
                    value = measured[split].get(name, value.figure())
                measured[split][name] = value
        splits = {
            split: {name: float(value) for name, value in metrics.items()}
            for split, metrics in measured.items()
        }
        return splits, observed, evaluation.figures
