"""What every recipe states: its settings, and one record of functions."""

import dataclasses
import difflib
import math
import os
import shlex
import types
import typing
from collections.abc import Callable

import keras

from bigmodels.checks import shown
from bigmodels.evaluation.intervals import Observations

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")


# Of whatever is counted; TensorFlow's own indices end here too.
_LARGEST = 2**31


def check_positive(name, value):
    """Refuse what is not a finite number above zero, naming it."""
    if not 0 < value < _LARGEST:
        raise ValueError(f"{name}: {shown(value)}, expected a positive number below {_LARGEST:,}")


def check_not_negative(name, value):
    """Refuse what is not a finite number from zero on, naming it."""
    if not 0 <= value < _LARGEST:
        raise ValueError(f"{name}: {shown(value)}, expected a number from 0 to below {_LARGEST:,}")


def check_share(name, value):
    """Refuse what is not in [0, 1), naming it."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {shown(value)}, expected a share from 0 to below 1")


def check_sizes(config, *names, where="model"):
    """Refuse a part of a config in which one of the named sizes is not positive, or a share is off.

    Args:
        config: A dataclass; `dropout_rate`, if it has one, must be in [0, 1).
        *names: Its fields that count something.
        where: Which part it is.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            check_positive(f"{where}.{name}", number)
    check_share(f"{where}.dropout_rate", getattr(config, "dropout_rate", 0.0))


def check_image_size(size):
    """Refuse a `data.image_size` that is neither empty nor a height and a width.

    Args:
        size: A tuple of numbers.

    Raises:
        ValueError: naming the setting and its value.
    """
    for number in size:
        check_positive("data.image_size", number)
    if len(size) not in (0, 2):
        raise ValueError(f"data.image_size: {size!r}, expected HEIGHT,WIDTH")


def check_choice(name, value, choices):
    """Refuse a value that is not one of some names.

    Args:
        name: What the value is for.
        value: The value.
        choices: The names.

    Raises:
        ValueError: naming all three, and the nearest choice.
    """
    if value not in choices:
        near = difflib.get_close_matches(value if isinstance(value, str) else "", choices)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}: {shown(value)} is not one of {', '.join(choices)}{hint}")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the weights move: `learning_rate` is reached after a linear warm-up, then decays.

    Args:
        name: `adamw`, `adam` or `sgd` (with momentum 0.9).
        learning_rate: Highest learning rate; `None` where the task has its own.
        warmup_steps: Steps to reach it (fewer if the training is short).
        schedule: `cosine` (to zero) or `constant`.
        weight_decay: Decoupled weight decay, for `adamw`; biases and norms are left out.
        beta_2: Second-moment decay of Adam.
        clip_norm: Largest global norm of the gradient; 0 turns clipping off.
    """

    name: str = "adamw"
    learning_rate: float | None = 1e-3
    warmup_steps: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.01
    beta_2: float = 0.999
    clip_norm: float = 1.0

    def __post_init__(self):
        check_choice("optimizer.name", self.name, ("adamw", "adam", "sgd"))
        check_choice("optimizer.schedule", self.schedule, ("cosine", "constant"))
        if self.learning_rate is not None:
            check_positive("optimizer.learning_rate", self.learning_rate)
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            check_not_negative(f"optimizer.{name}", getattr(self, name))
        check_share("optimizer.beta_2", self.beta_2)

    def build(self, steps):
        """A Keras optimizer for a training of so many steps."""
        rate = self.learning_rate
        if rate is None:
            raise ValueError("optimizer.learning_rate: None, but this task has none of its own")
        if self.schedule == "cosine":
            warmup = min(self.warmup_steps, steps // 10)
            rate = keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else rate,
                max(steps - warmup, 1),
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        clip = self.clip_norm or None
        if self.name == "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=clip)
        if self.name == "adam":
            return keras.optimizers.Adam(rate, beta_2=self.beta_2, global_clipnorm=clip)
        optimizer = keras.optimizers.AdamW(
            rate, self.weight_decay, beta_2=self.beta_2, global_clipnorm=clip
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "embedding"])
        return optimizer


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings every task has; each task adds its own.

    Args:
        dataset: A name, or the user's own files (`images:DIR`, `text:FILE`).
        data_dir: Where TensorFlow Datasets finds prepared sets.
        epochs: Passes over the training data.
        steps_per_epoch: Batches an epoch, if not the whole data.
        early_stopping: Epochs without a lower validation loss after which to stop; `None` never
            does. The weights are those of the last epoch.
        stop_after: Epochs after which to stop, whatever `epochs` says: the learning rate is then
            still on its way, and the run is the beginning of the whole one.
        save_freq: Steps after which the run can go on from where it was, beside the ends of epochs;
            `None` for those alone.
        grace: Seconds from SIGTERM or SIGINT after which the process ends without a checkpoint
            should a step take so long, as a cluster's scheduler would; `None` waits.
        skip_bad_batches: Whether a batch whose loss or gradients are NaN or infinite is left out;
            else it ends the training.
        batch_size: The global batch.
        seed: Behind initial weights, order, augmentation, dropout and noise.
        precision: Keras dtype policy: float32, mixed_bfloat16 or mixed_float16; `auto` looks at the
            machine, see `bigmodels.kernels.precision`.
        jit_compile: Whether XLA compiles the step; `auto` does so on one GPU, as Keras does, and
            for the dense GAN on one CPU, which is the only model to gain there.
        deterministic: Whether the same training gives the same bits each time on a GPU too, see
            `bigmodels.distribute.deterministic`; on one CPU device it always does.
        strategy: Where to train, see `bigmodels.distribute`.
        init_from: Another run's directory, to start from its weights.
        optimizer: See `Optimizer`.
    """

    dataset: str = ""
    data_dir: str | None = None
    epochs: int = 10
    steps_per_epoch: int | None = None
    early_stopping: int | None = None
    stop_after: int | None = None
    save_freq: int | None = None
    grace: float | None = None
    skip_bad_batches: bool = False
    batch_size: int = 64
    seed: int = 0
    precision: str = "float32"
    jit_compile: str = "auto"
    deterministic: bool = False
    strategy: str = "auto"
    init_from: str | None = None
    optimizer: Optimizer = Optimizer()

    def __post_init__(self):
        check_positive("epochs", self.epochs)
        check_positive("batch_size", self.batch_size)
        for name in ("steps_per_epoch", "early_stopping", "stop_after", "save_freq", "grace"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: {shown(self.seed)}, expected a number from 0 to below 2**32")
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("jit_compile", self.jit_compile, ("auto", "true", "false"))
        if self.deterministic and self.jit_compile == "true":
            raise ValueError(
                "jit_compile: true, but not all that XLA makes for a GPU is deterministic; leave "
                "it at auto"
            )

    @property
    def last_epoch(self):
        """How many epochs are trained at most."""
        return min(self.epochs, self.stop_after or self.epochs)

    @property
    def keras_jit_compile(self):
        """`jit_compile` as `keras.Model.compile` takes it."""
        return {"auto": "auto", "true": True, "false": False}[self.jit_compile]


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
        load_data: `(config) -> data` with `train`, `train_from`, `train_sample`, `validation`,
            `test`, `sizes`; see `bigmodels.data.ImageData`.
        build_model: `(config, data) -> model`.
        compile_model: `(model, config, steps) -> None`.
        search_space: `(hp) -> settings`, for a keras-tuner `hp`: dotted names to what it chose.
        measure: `(model, data, config, measured) -> (metrics, found)`. `metrics`, `{split: {metric:
            value}}`, is what comes on top of the `measured` that Keras evaluates. A value may be
            `bigmodels.evaluation.intervals.Observations`: the metric then gets an interval, and so
            does one that is in `measured` already. `found` is what `draw` need not find again.
        draw: `(model, data, config, found) -> {title: Figure or str}`, at the end.
        sample: `(model, data, config) -> Figure or str`, now and then while training; or `None`.
        describe: `(data) -> {what: value}`, the data's lines in the report.
        predict: `(model, config, **options) -> iterable`, what `bigmodels-predict` prints.
        predict_flags: An example of what `bigmodels-predict` is given beside `--workdir`.
        serving: `(model, config) -> (signatures, metadata)` for `bigmodels.export`: a dict of
            `Signature` by name, the first of them the default; and what else a user of the file
            needs, as a dict that JSON can hold.
        calibrate: `(model, data, config) -> None`, what is fitted to validation data after training
            and kept in the model; or `None`.
        overfits: Whether comparing training and validation loss says something (not for a GAN).
        objective: `SPLIT.METRIC` that a search goes by.
        examples: `(data) -> {title: Figure or str}`, a look at the data; or `None`.
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
    measure: Callable
    draw: Callable
    sample: Callable | None
    describe: Callable
    predict: Callable
    predict_flags: tuple[str, ...]
    serving: Callable
    calibrate: Callable | None = None
    overfits: bool = True
    objective: str = "validation.loss"
    examples: Callable | None = None
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

    def measure_splits(self, model, data, config):
        """Metrics of a trained model on each split, without dropout or augmentation.

        Args:
            model: A trained, compiled model.
            data: What `load_data` gave; "train" is its sample as large as "validation".
            config: The run's config.

        Returns:
            `(splits, observed, found)`: `{split: {metric: float}}` for train, validation and test;
            `{split: {metric: Observations}}` for what has them; and what `draw` is to be given.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        # What is random in measuring (a GAN's noise, its judge) is the same every time.
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
        more, found = self.measure(model, data, config, measured)
        observed = {}
        for split, metrics in more.items():
            for name, value in metrics.items():
                if isinstance(value, Observations):
                    observed.setdefault(split, {})[name] = value
                    value = measured[split].get(name, value.figure())
                measured[split][name] = value
        splits = {
            split: {name: float(value) for name, value in metrics.items()}
            for split, metrics in measured.items()
        }
        return splits, observed, found


def with_settings(config, settings):
    """A config with some settings changed.

    Args:
        config: A `Config`.
        settings: Dotted names to values, or to strings to be read as the field's type:
            `{"epochs": 3, "model.dense_units": "256"}`. Where a field may be one of several
            configs, `<field>.kind` picks one.

    Returns:
        A new `Config`.

    Raises:
        ValueError: naming the setting: unknown (with the nearest name), or not of its type.
    """
    # A kind first: the other settings belong to what it picks.
    for name, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".kind")):
        try:
            config = _with_setting(config, name, name.split("."), value)
        except KeyError:
            known = list(flat_settings(config))
            field = {"lr": "learning_rate"}.get(name, name)
            near = [each for each in known if each.rpartition(".")[2] == field]
            near += difflib.get_close_matches(name, known, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"set: there is no setting {shown(name)}{hint}") from None
    return config


def _with_setting(config, name, path, value):
    hints = typing.get_type_hints(type(config)) if dataclasses.is_dataclass(config) else {}
    field, rest = path[0], path[1:]
    current, hint = getattr(config, field, None), hints[field]  # KeyError: no such setting.
    choices = typing.get_args(hint)
    if rest == ["kind"] and choices and all(map(dataclasses.is_dataclass, choices)):
        kinds = {kind().kind: kind for kind in choices}
        check_choice(name, value, tuple(kinds))
        new = current if current.kind == value else kinds[value]()
    elif rest:
        new = _with_setting(current, name, rest, value)
    elif dataclasses.is_dataclass(current):
        raise KeyError(name)
    else:
        new = _read(name, value, hint)
    return dataclasses.replace(config, **{field: new})


def flat_settings(config, prefix=""):
    """All settings of a config by dotted name.

    Args:
        config: A `Config`, or the nested dict that `config.json` holds.
        prefix: What the names begin with.

    Returns:
        `{"epochs": 3, "model.dense_units": 256, ...}`.

    Raises:
        ValueError: if it is no such dict.
    """
    settings = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    if not isinstance(settings, dict):
        raise ValueError(f"config: {settings!r}, expected settings by name")
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# Settings that `bigmodels-train` has no flag of their own for.
_SET = ("steps_per_epoch", "early_stopping", "stop_after", "optimizer")
_FLAGS = {field.name for field in dataclasses.fields(Config)} - {*_SET}


def command_line(task, config):
    """The command that repeats a run, with what differs from the recipe.

    Args:
        task: A `Task`.
        config: The run's config.

    Returns:
        A line for a shell; the run's directory stands in it as DIR.
    """
    usual = flat_settings(task.config())
    if kind := getattr(config.model, "kind", None):  # Whose own settings are then the usual ones.
        of_kind = with_settings(task.config(), {"model.kind": kind})
        usual = flat_settings(of_kind) | {"model.kind": usual["model.kind"]}
    words = ["bigmodels-train", f"--task={task.name}", "--workdir=DIR"]
    for name, value in flat_settings(config).items():
        if value != usual.get(name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name}={text}"] if name in _FLAGS else ["--set", f"{name}={text}"]
    return shlex.join(words)


def _read(name, value, hint):
    """A value as the field's type wants it."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_text = isinstance(value, str)
    if type(None) in options and (value is None or (is_text and value.lower() == "none")):
        return None
    (kind,) = (option for option in options if option is not type(None))
    try:
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, (str, tuple, list)):
                raise ValueError
            items = [item for item in value.split(",") if item] if is_text else value
            return tuple(_read(name, item, typing.get_args(kind)[0]) for item in items)
        if kind is bool:
            return {"true": True, "false": False}[value.lower() if is_text else str(value).lower()]
        if kind is str and not isinstance(value, (str, os.PathLike)):
            raise ValueError
        if kind in (int, float) and (
            isinstance(value, bool) or (kind is int and not is_text and value != int(value))
        ):
            raise ValueError
        return kind(value)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        expected = getattr(kind, "__name__", str(kind))
        if typing.get_origin(kind) is tuple:
            expected = "numbers separated by commas"
        raise ValueError(f"{name}: {shown(value)} is not of type {expected}") from None
