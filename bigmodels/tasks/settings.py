"""The settings of a task: dataclasses whose fields carry their description and their checks.

To add a setting, add a field made by `bigmodels.fields.setting`. Its check, its flag, its line in
`--help` and `--list`, its row in reports and its name in a search follow from the field.
"""

import dataclasses
import math
import os
import re
import shlex
import types
import typing
from collections.abc import Mapping
from typing import Any

from bigmodels import tasks
from bigmodels.fields import (
    check_not_negative,
    check_positive,
    check_settings,
    check_share,
    check_value,
    fields,
    setting,
)
from bigmodels.messages import check_choice, did_you_mean, short_repr

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")

# Names that other programs use for the same settings.
OTHER_NAMES = {"lr": "learning_rate", "bs": "batch_size", "output_dir": "workdir"}


def _check_seed(name, value):
    if not 0 <= value < 2**32:
        raise ValueError(f"{name}: {short_repr(value)}, expected a number from 0 to below 2**32")


def duration(name: str, value: str) -> float:
    """Read a time such as `90s`, `10min` or `1.5h`.

    Args:
        name: Name of the setting, for messages.
        value: The time.

    Returns:
        Seconds.

    Raises:
        ValueError: naming the setting, if the value is not a positive time.

    Example:

    >>> duration("budget", "10min")
    600.0
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|h)", value)
    seconds = float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f"{name}: {short_repr(value)}, expected a time: 90s, 10min, 2h")
    return seconds


def _check_multipliers(name, value):
    for item in value:
        pattern, sign, factor = item.rpartition("=")
        try:
            good = pattern and sign and 0 <= float(factor) < math.inf
        except ValueError:
            good = False
        if not good:
            raise ValueError(
                f"{name}: {short_repr(item)}, expected PATTERN=FACTOR, for example embedding=3"
            )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Settings of the optimizer and its learning rate schedule: linear warm-up, then decay.

    Example:

    >>> type(Optimizer(name="adam").build(steps=1000)).__name__
    'Adam'
    """

    name: str = setting(
        "adamw",
        "Optimizer; muon updates matrices by Muon and everything else by adamw.",
        choices=("adamw", "adam", "sgd", "muon"),
    )
    learning_rate: float | None = setting(
        1e-3,
        "Learning rate after the warm-up; the largest of the schedule.",
        check=check_positive,
        flags=("train",),
        topic="Training",
    )
    learning_rate_multipliers: tuple[str, ...] = setting(
        (),
        "PATTERN=FACTOR,...: the learning rate of variables whose path has a match of the regular "
        "expression is multiplied.",
        check=_check_multipliers,
    )
    warmup_steps: int = setting(
        100,
        "Steps of linear learning rate warm-up; limited to a tenth of all steps.",
        check=check_not_negative,
    )
    schedule: str = setting(
        "cosine",
        "Learning rate after the warm-up: cosine and linear decay to the end, warmup_stable_decay "
        "is constant and decays linearly in the last steps.",
        choices=("cosine", "linear", "warmup_stable_decay", "constant"),
    )
    decay_share: float = setting(
        0.2, "Fraction of all steps in which warmup_stable_decay decays.", check=check_share
    )
    final_rate: float = setting(
        0.0,
        "Learning rate at the end of a schedule that decays, as a fraction of the largest.",
        check=check_share,
    )
    weight_decay: float = setting(
        0.01, "Decoupled weight decay of adamw, muon and sgd.", check=check_not_negative
    )
    exclude_from_weight_decay: tuple[str, ...] = setting(
        ("bias", "gamma", "beta", "embedding"),
        "Variables without weight decay: parts of their names.",
    )
    momentum: float | None = setting(
        None, "Momentum; by default 0.9 for sgd and 0.95 for muon.", check=check_share
    )
    nesterov: bool = setting(
        False, "Whether the momentum of sgd is Nesterov's; that of muon always is."
    )
    beta_2: float = setting(
        0.999, "Decay rate of Adam's second moment estimate.", check=check_share
    )
    exclude_layers: tuple[str, ...] = setting(
        ("/dense/", "/dense2/", "/head/"),
        "Variables that muon leaves to adamw, by parts of their paths, besides embeddings and "
        "vectors; by default the last layers of the models here.",
    )
    clip_norm: float = setting(
        1.0,
        "Gradients are clipped to this global norm; 0 turns clipping off.",
        check=check_not_negative,
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Update the weights after so many batches, with the mean of their gradients.",
        check=check_positive,
    )

    def build(self, steps: int) -> Any:
        """Create the Keras optimizer.

        Args:
            steps: Number of batches, for the schedule.

        Returns:
            A `keras.optimizers.Optimizer`.
        """
        import keras  # Not at the top, so that `--help` is fast.

        from bigmodels import optimizers

        accumulated = self.gradient_accumulation_steps
        options = {
            "global_clipnorm": self.clip_norm or None,
            "gradient_accumulation_steps": accumulated if accumulated > 1 else None,
        }
        family = keras.optimizers
        if self.learning_rate_multipliers:
            family = optimizers
            pairs = (item.rpartition("=") for item in self.learning_rate_multipliers)
            factors = {pattern: float(factor) for pattern, _, factor in pairs}
            options["learning_rate_multipliers"] = factors
        rate = self._rate(steps // accumulated)
        if self.name == "sgd":
            momentum = 0.9 if self.momentum is None else self.momentum
            options["nesterov"], options["weight_decay"] = self.nesterov, self.weight_decay or None
            optimizer = family.SGD(rate, momentum=momentum, **options)
            return self._without_decay(optimizer)
        options["beta_2" if self.name != "muon" else "adam_beta_2"] = self.beta_2
        if self.name == "adam":
            return family.Adam(rate, **options)
        if self.name == "adamw":
            optimizer = family.AdamW(rate, self.weight_decay, **options)
        else:
            optimizer = optimizers.Muon(
                rate,
                momentum=0.95 if self.momentum is None else self.momentum,
                weight_decay=self.weight_decay,
                adam_weight_decay=self.weight_decay,
                exclude_layers=list(self.exclude_layers),
                **options,
            )
        return self._without_decay(optimizer)

    def _without_decay(self, optimizer):
        """The optimizer, with the variables left out that do not decay."""
        if optimizer.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=list(self.exclude_from_weight_decay))
        return optimizer

    def _rate(self, steps):
        """The learning rate, or its schedule."""
        import keras

        from bigmodels.optimizers import WarmupStableDecay

        rate = self.learning_rate
        if rate is None:
            raise ValueError("optimizer.learning_rate: None, but this task has no default")
        warmup = min(self.warmup_steps, steps // 10)
        if self.schedule == "constant":
            return rate
        if self.schedule == "cosine":
            return keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else rate,
                max(steps - warmup, 1),
                alpha=self.final_rate,
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        stable = self.schedule == "warmup_stable_decay"
        decay = min(int(self.decay_share * steps), steps - warmup) if stable else steps - warmup
        return WarmupStableDecay(rate, steps, warmup, decay, self.final_rate)


_BOTH = ("train", "tune")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings that all tasks share; each task adds its own.

    Example:

    >>> Config(epochs=3).last_epoch
    3
    """

    dataset: str = setting(
        "",
        "Name of a TFDS data set, or your own files (`bigmodels train --list` shows the forms); an "
        "embedded data set by default.",
        flags=_BOTH,
        topic="Data",
    )
    data_dir: str | None = setting(
        None,
        "Directory of prepared TFDS data sets; TFDS_DATA_DIR by default.",
        flags=_BOTH,
        topic="Data",
    )
    epochs: int = setting(
        10,
        "Passes over the training data; the default depends on the task.",
        check=check_positive,
        flags=_BOTH,
        topic="Training",
    )
    budget: str | None = setting(
        None,
        "Time that the whole command should take: 90s, 10min, 2h. A short measurement chooses the "
        "size of the model, the batch and the number of steps, unless they are given.",
        check=duration,
        flags=("train",),
        topic="Training",
    )
    steps_per_epoch: int | None = setting(
        None, "Batches per epoch; all training data by default.", check=check_positive
    )
    early_stopping: int | None = setting(
        None,
        "Stop after this many epochs without a lower validation loss (patience); the weights of "
        "the last epoch are kept.",
        check=check_positive,
        flags=("tune",),
        topic="Search",
    )
    stop_after: int | None = setting(
        None,
        "Stop after this many epochs. The learning rate schedule still spans `epochs`, so the run "
        "equals the beginning of a full one.",
        check=check_positive,
    )
    save_freq: int | None = setting(
        None,
        "Steps between checkpoints, in addition to one after each epoch.",
        check=check_positive,
        flags=("train",),
        topic="Stopping and resuming",
    )
    grace: float | None = setting(
        None,
        "Seconds after SIGTERM or Ctrl-C until the process ends without a new checkpoint if the "
        "current step is still running; by default it waits for the step.",
        check=check_positive,
        flags=("train",),
        topic="Stopping and resuming",
    )
    skip_bad_batches: bool = setting(
        False,
        "Skip batches whose loss or gradients are NaN or infinite, instead of stopping.",
        flags=("train",),
        topic="Training",
    )
    batch_size: int = setting(
        64,
        "Global batch size, over all devices; the default depends on the task.",
        check=check_positive,
        flags=_BOTH,
        topic="Data",
    )
    seed: int = setting(
        0,
        "Seed of everything random: weights, order, augmentation, dropout, noise; 0 by default.",
        check=_check_seed,
        flags=_BOTH,
        topic="Training",
    )
    precision: str = setting(
        "float32",
        "Keras' dtype policy; auto chooses by the device. float32 by default.",
        choices=PRECISIONS,
        flags=_BOTH,
        topic="Training",
    )
    jit_compile: str = setting(
        "auto",
        "Whether to compile the training step with XLA; auto, the default, does so on one GPU, and "
        "for the dense GAN on one CPU.",
        choices=("auto", "true", "false"),
        flags=_BOTH,
        topic="Training",
    )
    deterministic: bool = setting(
        False,
        "Make training on a GPU reproducible bit by bit, at the cost of speed; on one CPU it "
        "always is.",
        flags=("train",),
        topic="Training",
    )
    strategy: str = setting(
        "auto",
        "Distribution strategy; auto, the default, chooses by the available devices.",
        choices=STRATEGIES,
        flags=_BOTH,
        topic="Devices and machines",
    )
    init_from: str | None = setting(
        None, "Directory of a run to load initial weights from.", flags=("train",), topic="General"
    )
    optimizer: Optimizer = Optimizer()

    def __post_init__(self):
        check_settings(self)
        if self.deterministic and self.jit_compile == "true":
            raise ValueError(
                "jit_compile: true, but XLA on a GPU is not always deterministic; leave it at auto"
            )

    def defaults_given(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults that depend on other settings; a task whose defaults do overrides this.

        Args:
            settings: The settings that are given, `{dotted name: value}`.

        Returns:
            Defaults, `{dotted name: value}`, which replace the fields' own.
        """
        return {}

    @property
    def last_epoch(self) -> int:
        """The largest number of epochs to train."""
        return min(self.epochs, self.stop_after or self.epochs)

    @property
    def keras_jit_compile(self) -> bool | str:
        """`jit_compile` as `keras.Model.compile` takes it."""
        return {"auto": "auto", "true": True, "false": False}[self.jit_compile]


def flags_of(command: str, config: type = Config, prefix: str = "") -> dict[str, tuple]:
    """The settings that a command has a flag for.

    Args:
        command: "train" or "tune".
        config: A config class.
        prefix: Prefix of the settings' names.

    Returns:
        `{flag: (setting, type, metadata)}`.

    Example:

    >>> flags_of("train")["learning_rate"][0]
    'optimizer.learning_rate'
    """
    flags, hints = {}, typing.get_type_hints(config)
    for name, about in fields(config).items():
        hint = hints[name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        (kind,) = (kind for kind in kinds if kind is not type(None))
        if dataclasses.is_dataclass(kind):
            flags |= flags_of(command, kind, f"{prefix}{name}.")
        elif command in about.get("flags", ()):
            flags[name] = f"{prefix}{name}", kind, about
    return flags


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """A copy of a config with some settings changed.

    Args:
        config: A `Config`.
        settings: `{dotted name: value}`, for example `{"epochs": 3, "model.dense_units": "256"}`;
            strings are converted to the type of the field. If a field has several config classes,
            `<field>.kind` selects one.

    Returns:
        A new `Config`.

    Raises:
        ValueError: naming the setting, if it is unknown (with the nearest name) or its value is not
            valid.

    Example:

    >>> with_settings(Config(), {"optimizer.learning_rate": "3e-4"}).optimizer.learning_rate
    0.0003
    """
    if config == type(config)():  # Otherwise the defaults were chosen before.
        settings = {**config.defaults_given(settings), **settings}
    # Kinds first, as the other settings depend on them.
    for name, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".kind")):
        try:
            config = _with_setting(config, name, name.split("."), value)
        except KeyError:
            known = list(flat_settings(config))
            field = OTHER_NAMES.get(name, name)
            matches = [other for other in known if other.rpartition(".")[2] == field]
            hint = f"; did you mean {matches[0]}?" if matches else did_you_mean(name, known, 0.4)
            raise ValueError(f"set: there is no setting {short_repr(name)}{hint}") from None
    return config


def _with_setting(config, name, path, value):
    hints = typing.get_type_hints(type(config)) if dataclasses.is_dataclass(config) else {}
    field, rest = path[0], path[1:]
    current, hint = getattr(config, field, None), hints[field]  # KeyError for unknown settings.
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
        new = read_value(name, value, hint)
        # A part that checks itself does not know its prefix.
        check_value(name, new, fields(config)[field])
    return dataclasses.replace(config, **{field: new})


def flat_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """All settings of a config by dotted name.

    Args:
        config: A `Config`, or a nested dict as in `config.json`.
        prefix: Prefix of the names.

    Returns:
        `{"epochs": 3, "model.dense_units": 256, ...}`.

    Raises:
        ValueError: if `config` is neither.

    Example:

    >>> flat_settings(Config())["optimizer.schedule"]
    'cosine'
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


def meanings(config: Any, prefix: str = "") -> dict[str, str]:
    """The descriptions of all settings of a config.

    Args:
        config: A `Config`.
        prefix: Prefix of the names.

    Returns:
        `{dotted name: description}`.

    Example:

    >>> meanings(Config())["optimizer.name"]
    'Optimizer; ... One of adamw, adam, sgd, muon.'
    """
    descriptions, hints = {}, typing.get_type_hints(type(config))
    for name, about in fields(config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            descriptions |= meanings(value, f"{prefix}{name}.")
            kinds = [kind for kind in typing.get_args(hints[name]) if hasattr(kind, "kind")]
            if kinds:
                names = " or ".join(kind.kind for kind in kinds)
                descriptions[f"{prefix}{name}.kind"] = (
                    f"{names}; the other {prefix}{name} settings depend on it."
                )
        else:
            descriptions[prefix + name] = with_choices(about)
    return descriptions


def with_choices(about: Mapping) -> str:
    """A field's description, with its choices.

    Args:
        about: Metadata of the field.

    Returns:
        The description.

    Example:

    >>> with_choices({"help": "Padding of the convolutions.", "choices": ("same", "valid")})
    'Padding of the convolutions. One of same, valid.'
    """
    choices = f" One of {', '.join(about['choices'])}." if about.get("choices") else ""
    return about.get("help", "") + choices


def command_line(task: Any, config: Config) -> str:
    """The command that repeats a run, with the settings that differ from the defaults.

    Args:
        task: A `Task`.
        config: The run's config.

    Returns:
        A shell command, with DIR for the run's directory.

    Example:

    >>> task = tasks.get("translation")
    >>> command_line(task, with_settings(task.config(), {"epochs": 3}))
    'bigmodels-train --task=translation --workdir=DIR --epochs=3'
    """
    settings, chosen = flat_settings(config), {}
    for name in ("dataset", "model.kind", "model.recipe"):  # Other defaults depend on them.
        defaults = flat_settings(with_settings(task.config(), chosen))
        if settings.get(name) != defaults.get(name):
            chosen[name] = settings[name]
    defaults = flat_settings(with_settings(task.config(), chosen))
    imports = [f"--import={','.join(tasks.imported())}"] if tasks.imported() else []
    words = ["bigmodels-train", *imports, f"--task={task.name}", "--workdir=DIR"]
    flags = {dotted: flag for flag, (dotted, _, _) in flags_of("train").items()}
    for name, value in settings.items():
        # What a budget has chosen is among the other settings.
        if name in chosen or (value != defaults.get(name) and name != "budget"):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flag = None if value is None else flags.get(name)  # `None` needs --set.
            words += [f"--{flag}={text}"] if flag else ["--set", f"{name}={text}"]
    return shlex.join(words)


def read_value(name: str, value: Any, hint: Any) -> Any:
    """Convert a value or a string to a type.

    Args:
        name: Name of the setting or option, for messages.
        value: The value, or a string.
        hint: The type: `int`, `float | None`, `tuple[int, ...]`, ...

    Returns:
        The converted value.

    Raises:
        ValueError: naming the setting and its value, if it cannot be converted.

    Example:

    >>> read_value("model.filters", "32,64", tuple[int, ...])
    (32, 64)
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_text = isinstance(value, str)
    if type(None) in options and (value is None or (is_text and value.lower() == "none")):
        return None
    (kind,) = (option for option in options if option is not type(None))
    if is_text and kind is not str:
        value = value.strip()
    try:
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, (str, tuple, list)):
                raise ValueError
            items = [item for item in value.split(",") if item] if is_text else value
            return tuple(read_value(name, item, typing.get_args(kind)[0]) for item in items)
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
        raise ValueError(f"{name}: {short_repr(value)} is not of type {expected}") from None
