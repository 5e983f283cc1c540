"""The settings of a task: dataclasses whose fields say what they mean and what they may be.

A field made by `setting` is all that a setting needs. Its check, its flag, its line in `--help` and
`--list`, its row in reports and its name in a search follow from it.
"""

import dataclasses
import os
import shlex
import types
import typing

from bigmodels import tasks
from bigmodels.messages import check_choice, did_you_mean, short_repr

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")

# Of whatever is counted; TensorFlow's own indices end here too.
_LARGEST = 2**31
# What people type who have used other programs.
OTHER_NAMES = {"lr": "learning_rate", "bs": "batch_size", "output_dir": "workdir"}


def setting(default, help, *, check=None, choices=(), flags=(), topic=""):
    """A field of a config.

    Args:
        default: Its value in the recipe.
        help: What it means, in a sentence or two, with its unit.
        check: `(name, value) -> None`, which raises a `ValueError` for a value that makes no sense;
            it is not asked about `None`.
        choices: All the values there are, if they have names.
        flags: The commands that have a flag of this name: "train", "tune".
        topic: The heading under which `--help` shows that flag.

    Returns:
        What `dataclasses.field` gives.

    Example:

    >>> @dataclasses.dataclass(frozen=True)
    ... class ModelConfig:
    ...     units: int = setting(64, "Width of the dense layer.", check=check_positive)
    >>> check_settings(ModelConfig(units=0), "model.")
    Traceback (most recent call last):
    ValueError: model.units: 0, expected a positive number below 2,147,483,648
    """
    about = {"help": help, "check": check, "choices": choices, "flags": flags, "topic": topic}
    return dataclasses.field(default=default, metadata=about)


def check_positive(name, value):
    """Refuse what is not a finite number above zero, naming it."""
    if not 0 < value < _LARGEST:
        expected = f"a positive number below {_LARGEST:,}"
        raise ValueError(f"{name}: {short_repr(value)}, expected {expected}")


def check_not_negative(name, value):
    """Refuse what is not a finite number from zero on, naming it."""
    if not 0 <= value < _LARGEST:
        expected = f"a number from 0 to below {_LARGEST:,}"
        raise ValueError(f"{name}: {short_repr(value)}, expected {expected}")


def check_share(name, value):
    """Refuse what is not in [0, 1), naming it."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {short_repr(value)}, expected a share from 0 to below 1")


def check_image_size(name, value):
    """Refuse a tuple that is neither empty nor a positive height and width, naming it."""
    each(check_positive)(name, value)
    if len(value) not in (0, 2):
        raise ValueError(f"{name}: {value!r}, expected HEIGHT,WIDTH")


def each(check):
    """A check of every item of a tuple.

    Args:
        check: A check of one value.

    Returns:
        A check as `setting` takes it.
    """

    def check_items(name, value):
        for item in value:
            check(name, item)

    return check_items


def _check_seed(name, value):
    if not 0 <= value < 2**32:
        raise ValueError(f"{name}: {short_repr(value)}, expected a number from 0 to below 2**32")


def check_settings(config, prefix=""):
    """Refuse a config in which a value does not pass its field's check.

    Args:
        config: A dataclass; those that it holds are checked as well.
        prefix: What the names in messages begin with.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name, about in fields(config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_settings(value, f"{prefix}{name}.")
        elif value is not None:
            if about.get("choices"):
                check_choice(prefix + name, value, about["choices"])
            if about.get("check"):
                about["check"](prefix + name, value)


def fields(config):
    """What the fields of a config say of themselves.

    Args:
        config: A dataclass or an instance of one.

    Returns:
        `{name: metadata}`; a field whose default a subclass replaced says what it said before.
    """
    owners = (config if isinstance(config, type) else type(config)).__mro__
    return {
        field.name: next(
            (
                found.metadata
                for owner in owners
                if (found := vars(owner).get("__dataclass_fields__", {}).get(field.name))
                and found.metadata
            ),
            {},
        )
        for field in dataclasses.fields(config)
    }


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the weights move: `learning_rate` is reached after a linear warm-up, then decays."""

    name: str = setting(
        "adamw",
        "The optimizer; sgd has a momentum of 0.9.",
        choices=("adamw", "adam", "sgd"),
    )
    learning_rate: float | None = setting(
        1e-3, "The highest learning rate.", check=check_positive, flags=("train",), topic="Training"
    )
    warmup_steps: int = setting(
        100,
        "Steps in which the learning rate rises to it; at most a tenth of the training.",
        check=check_not_negative,
    )
    schedule: str = setting(
        "cosine", "How it falls afterwards, to zero or not at all.", choices=("cosine", "constant")
    )
    weight_decay: float = setting(
        0.01,
        "Decoupled weight decay of adamw; biases, norms and embeddings are left out.",
        check=check_not_negative,
    )
    beta_2: float = setting(0.999, "Decay of Adam's second moment.", check=check_share)
    clip_norm: float = setting(
        1.0,
        "Largest global norm of the gradient; 0 turns clipping off.",
        check=check_not_negative,
    )

    def build(self, steps):
        """A Keras optimizer for a training of so many steps."""
        import keras  # Which `--help` does not wait for.

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


_BOTH = ("train", "tune")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings that every task has; each task adds its own."""

    dataset: str = setting(
        "",
        "A TFDS name, or your own files (`bigmodels train --list` names the kinds); the task's "
        "embedded set by default.",
        flags=_BOTH,
        topic="Data",
    )
    data_dir: str | None = setting(
        None, "Where TFDS finds prepared sets, else TFDS_DATA_DIR.", flags=_BOTH, topic="Data"
    )
    epochs: int = setting(
        10,
        "Passes over the training data; the task's number by default.",
        check=check_positive,
        flags=_BOTH,
        topic="Training",
    )
    steps_per_epoch: int | None = setting(
        None, "Batches of an epoch, if it is not to be all the data.", check=check_positive
    )
    early_stopping: int | None = setting(
        None,
        "Epochs without a lower validation loss after which to stop, with the weights of the last "
        "of them.",
        check=check_positive,
        flags=("tune",),
        topic="Search",
    )
    stop_after: int | None = setting(
        None,
        "Epochs after which to stop, whatever `epochs` says: the learning rate is then still on "
        "its way, and the run is the beginning of the whole one.",
        check=check_positive,
    )
    save_freq: int | None = setting(
        None,
        "Steps between checkpoints, beside those at the ends of epochs.",
        check=check_positive,
        flags=("train",),
        topic="Stopping and going on",
    )
    grace: float | None = setting(
        None,
        "Seconds from SIGTERM or Ctrl-C after which the process ends without a new checkpoint, "
        "should the step at hand take longer; it waits by default.",
        check=check_positive,
        flags=("train",),
        topic="Stopping and going on",
    )
    skip_bad_batches: bool = setting(
        False,
        "Leave out batches whose loss or gradients are NaN or infinite, which else end the "
        "training.",
        flags=("train",),
        topic="Training",
    )
    batch_size: int = setting(
        64,
        "The global batch; the task's by default.",
        check=check_positive,
        flags=_BOTH,
        topic="Data",
    )
    seed: int = setting(
        0,
        "Behind everything random: weights, order, augmentation, dropout, noise; 0 by default.",
        check=_check_seed,
        flags=_BOTH,
        topic="Training",
    )
    precision: str = setting(
        "float32",
        "Keras' dtype policy; auto looks at the machine. float32 by default.",
        choices=PRECISIONS,
        flags=_BOTH,
        topic="Training",
    )
    jit_compile: str = setting(
        "auto",
        "Whether XLA compiles the step; auto, the default, does so on one GPU, as Keras does, and "
        "for the dense GAN on one CPU, the only model to gain there.",
        choices=("auto", "true", "false"),
        flags=_BOTH,
        topic="Training",
    )
    deterministic: bool = setting(
        False,
        "The same bits each time on a GPU too, where it costs speed; on one CPU they always are.",
        flags=("train",),
        topic="Training",
    )
    strategy: str = setting(
        "auto",
        "Where to train; auto, the default, takes what the machine has.",
        choices=STRATEGIES,
        flags=_BOTH,
        topic="Devices and machines",
    )
    init_from: str | None = setting(
        None, "A run whose weights to start from.", flags=("train",), topic="What"
    )
    optimizer: Optimizer = Optimizer()

    def __post_init__(self):
        check_settings(self)
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


def flags_of(command, config=Config, prefix=""):
    """The settings of every task that a command has a flag for.

    Args:
        command: "train" or "tune".
        config: The config class to look in.
        prefix: What the settings' names begin with.

    Returns:
        `{flag: (setting, type, metadata)}`.
    """
    found, hints = {}, typing.get_type_hints(config)
    for name, about in fields(config).items():
        (kind,) = (t for t in typing.get_args(hints[name]) or (hints[name],) if t is not type(None))
        if dataclasses.is_dataclass(kind):
            found |= flags_of(command, kind, f"{prefix}{name}.")
        elif command in about.get("flags", ()):
            found[name] = f"{prefix}{name}", kind, about
    return found


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

    Example:

    >>> with_settings(Config(), {"optimizer.learning_rate": "3e-4"}).optimizer.learning_rate
    0.0003
    """
    # A kind first: the other settings belong to what it picks.
    for name, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".kind")):
        try:
            config = _with_setting(config, name, name.split("."), value)
        except KeyError:
            known = list(flat_settings(config))
            field = OTHER_NAMES.get(name, name)
            same = [each for each in known if each.rpartition(".")[2] == field]
            hint = f"; did you mean {same[0]}?" if same else did_you_mean(name, known, 0.4)
            raise ValueError(f"set: there is no setting {short_repr(name)}{hint}") from None
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
        new = read_value(name, value, hint)
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


def meanings(config, prefix=""):
    """What every setting of a config means and may be.

    Args:
        config: A `Config`.
        prefix: What the names begin with.

    Returns:
        `{dotted name: sentence}`.
    """
    found, hints = {}, typing.get_type_hints(type(config))
    for name, about in fields(config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            found |= meanings(value, f"{prefix}{name}.")
            kinds = [kind for kind in typing.get_args(hints[name]) if hasattr(kind, "kind")]
            if kinds:
                names = " or ".join(kind.kind for kind in kinds)
                found[f"{prefix}{name}.kind"] = f"{names}; it decides which others there are."
        else:
            found[prefix + name] = with_choices(about)
    return found


def with_choices(about):
    """A field's help, with the values that there are.

    Args:
        about: The field's metadata.

    Returns:
        A text.
    """
    choices = f" One of {', '.join(about['choices'])}." if about.get("choices") else ""
    return about.get("help", "") + choices


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
    imports = [f"--import={','.join(tasks.imported())}"] if tasks.imported() else []
    words = ["bigmodels-train", *imports, f"--task={task.name}", "--workdir=DIR"]
    flags = {dotted: flag for flag, (dotted, _, _) in flags_of("train").items()}
    for name, value in flat_settings(config).items():
        if value != usual.get(name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flag = None if value is None else flags.get(name)  # No flag can say `None`.
            words += [f"--{flag}={text}"] if flag else ["--set", f"{name}={text}"]
    return shlex.join(words)


def read_value(name, value, hint):
    """A value, or a text, as a type wants it.

    Args:
        name: What the value is for.
        value: The value.
        hint: The type: `int`, `float | None`, `tuple[int, ...]`, ...

    Returns:
        The value.

    Raises:
        ValueError: naming both, if it is not of that type.

    Example:

    >>> read_value("model.filters", "32,64", tuple[int, ...])
    (32, 64)
    """
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
