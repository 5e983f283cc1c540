"""What a task is: its recipe, its evaluation and its inference, in one record."""

import dataclasses
import inspect
import math
from collections.abc import Callable

import keras

from bigmodels.evaluation.intervals import Observations
from bigmodels.tasks.settings import Config, read_value


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way in which an exported model can be asked.

    Attributes:
        function: Tensors to `{name: tensor}`; its arguments' names are the inputs' names. An input
            or output of encoded images is named `..._bytes`, which is base64 in TensorFlow
            Serving's REST interface.
        inputs: A `tf.TensorSpec` for each argument; `None` in a shape where any size goes.
        example: A value for each argument, to try an exported file with.
        portable: Whether arithmetic on numbers is all it needs, so that ONNX and LiteRT can hold
            it too; strings, image files, loops and random numbers they cannot.
        fixed_in_litert: Whether LiteRT can hold it only at the shapes of `example`.
    """

    function: Callable
    inputs: tuple
    example: tuple
    portable: bool = False
    fixed_in_litert: bool = False


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown, and which way it is better.

    Attributes:
        unit: What stands behind the number, "nats" for example; "%" shows a share in percent.
        better: "max" or "min"; `None` where neither says that a run is good.
    """

    unit: str = ""
    better: str | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a task's own evaluation finds.

    Attributes:
        metrics: `{split: {metric: value}}`, what comes on top of Keras' own. A value may be
            `Observations`: the metric then has an interval, also one that Keras has evaluated.
        figures: `() -> {title: Figure or str}`, what a report shows of it; it is called only where
            a report is written.
    """

    metrics: dict
    figures: Callable[[], dict] = dict


class Predictor:
    """A trained model in use: what `bigmodels predict` prints, and what is exported.

    Args:
        model: A trained model.
        config: Its run's config.
    """

    def __init__(self, model, config):
        self.model, self.config = model, config

    def predict(self, input=None):
        """What `bigmodels predict` prints, item by item: strings, or dicts that JSON can hold.

        A subclass takes whatever options it needs, each with a default.
        """
        raise NotImplementedError

    def signatures(self):
        """`{name: Signature}` for `bigmodels.export`, the first of them the default."""
        raise NotImplementedError

    def metadata(self):
        """What else a user of an exported file needs, as a dict that JSON can hold."""
        return {}

    @classmethod
    def read_options(cls, options, task):
        """What `predict` is to be called with.

        Args:
            options: Names to values, or to texts, which are read as the type of the default, or of
                the annotation where there is one. `None` stands for the default.
            task: The task's name, for messages.

        Returns:
            Keyword arguments.

        Raises:
            ValueError: naming an option that there is not, or that is not of its type.
        """
        parameters = dict([*inspect.signature(cls.predict).parameters.items()][1:])
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in parameters:
                raise ValueError(f"{name}: {task} takes only {', '.join(parameters)}")
            default, hint = parameters[name].default, parameters[name].annotation
            if isinstance(value, str) and (hint is not inspect.Parameter.empty):
                given[name] = read_value(name, value, hint)
            elif isinstance(value, str) and default is not None:
                given[name] = read_value(name, value, type(default))
        return given


def _usual_metrics():
    return {"accuracy": Metric("%", "max"), "loss": Metric("", "min")}


@dataclasses.dataclass(frozen=True)
class Task:
    """One application, as data.

    Attributes:
        name: As on the command line.
        summary: One line.
        unit: What `throughput` counts, for example "images".
        config: The `Config` subclass; its defaults are the recipe.
        load_data: `(config) -> data`, a `bigmodels.data.splits.Splits`.
        build_model: `(config, data) -> model`.
        compile_model: `(model, config, steps) -> None`.
        search_space: `(hp) -> settings or None`, for a keras-tuner `hp`: what is asked of it under
            a setting's name is searched; the settings that it returns follow from those.
        evaluate: `(model, data, config, measured) -> Evaluation`; `measured` is what Keras has
            evaluated, `{split: {metric: value}}`.
        predictor: The `Predictor` subclass.
        describe: `(data) -> {what: value}`, the data's lines in the report.
        examples: `(data) -> {title: Figure or str}`, a look at the data; or `None`.
        sample: `(model, data, config) -> Figure or str`, now and then while training; or `None`.
        predict_flags: An example of what `bigmodels predict` is given beside `--workdir`.
        calibrate: `(model, data, config) -> None`, what is fitted to validation data after training
            and kept in the model; or `None`.
        overfits: Whether comparing training and validation loss says something (not for a GAN).
        objective: `SPLIT.METRIC` that a search goes by.
        settled: `(model, data, config) -> {dotted name: value}`, the settings that are left to the
            data or the model where they are not given, with the values that were used.
        metrics: `{name: Metric}`, the one a report begins with first; what is not named is shown
            as a plain number.
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

    def check(self, config):
        """Refuse settings that make no sense for this task.

        Args:
            config: Its config.

        Raises:
            ValueError: naming the setting.
        """
        if config.early_stopping is not None and not self.overfits:
            raise ValueError(
                f"early_stopping: {config.early_stopping}, but the validation loss of {self.name} "
                "does not say when it stops getting better"
            )

    def evaluate_splits(self, model, data, config):
        """Metrics of a trained model on each split, without dropout or augmentation.

        Args:
            model: A trained, compiled model.
            data: What `load_data` gave; "train" is its sample as large as "validation".
            config: The run's config.

        Returns:
            `(splits, observed, figures)`: `{split: {metric: float}}` for train, validation and
            test; `{split: {metric: Observations}}` for what has them; and the `figures` of the
            task's `Evaluation`.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        # What is random in an evaluation (a GAN's noise, its judge) is the same every time.
        keras.utils.set_random_seed(config.seed)
        sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
        measured = {
            split: model.evaluate(batches, return_dict=True, verbose=0)
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
