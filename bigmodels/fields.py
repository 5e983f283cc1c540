"""Described fields: fields of a dataclass that carry their description and their checks.

The settings of the tasks consist of them (`bigmodels.tasks.settings`), and so do the augmentations
in `bigmodels.data`, which are settings themselves.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bigmodels.messages import check_choice, short_repr

# Upper bound of all numbers; many of TensorFlow's indices are int32.
_LARGEST = 2**31


def setting(
    default: Any,
    help: str,
    *,
    check: Callable[[str, Any], None] | None = None,
    choices: Iterable[str] = (),
    flags: Iterable[str] = (),
    topic: str = "",
) -> Any:
    """Define a setting, as a field of a config.

    Args:
        default: Default value.
        help: Description in a sentence or two, with the unit.
        check: Function `(name, value)` that raises a `ValueError` if the value is not valid; it is
            not called for `None`.
        choices: All valid values, if they are names.
        flags: Commands that have a flag of this name: "train", "tune".
        topic: Heading of that flag in `--help`.

    Returns:
        A `dataclasses.field`.

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


def check_positive(name: str, value: float) -> None:
    """Raise a `ValueError` unless a number is positive and finite.

    Args:
        name: Name of the setting.
        value: Its value.

    Example:

    >>> check_positive("model.units", 64)
    """
    if not 0 < value < _LARGEST:
        expected = f"a positive number below {_LARGEST:,}"
        raise ValueError(f"{name}: {short_repr(value)}, expected {expected}")


def check_not_negative(name: str, value: float) -> None:
    """Raise a `ValueError` unless a number is zero or positive, and finite.

    Args:
        name: Name of the setting.
        value: Its value.

    Example:

    >>> check_not_negative("optimizer.weight_decay", 0.0)
    """
    if not 0 <= value < _LARGEST:
        expected = f"a number from 0 to below {_LARGEST:,}"
        raise ValueError(f"{name}: {short_repr(value)}, expected {expected}")


def check_share(name: str, value: float) -> None:
    """Raise a `ValueError` unless a number is in [0, 1).

    Args:
        name: Name of the setting.
        value: Its value.

    Example:

    >>> check_share("model.dropout_rate", 1.0)
    Traceback (most recent call last):
    ValueError: model.dropout_rate: 1.0, expected a share from 0 to below 1
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {short_repr(value)}, expected a share from 0 to below 1")


def check_image_size(name: str, value: tuple[int, ...]) -> None:
    """Raise a `ValueError` unless a tuple is empty, or a positive height and width.

    Args:
        name: Name of the setting.
        value: Its value.

    Example:

    >>> check_image_size("data.image_size", (96, 128))
    """
    each(check_positive)(name, value)
    if len(value) not in (0, 2):
        raise ValueError(f"{name}: {value!r}, expected HEIGHT,WIDTH")


def each(check: Callable[[str, Any], None]) -> Callable[[str, Iterable], None]:
    """Turn a check of a value into a check of every item of a tuple.

    Args:
        check: A check as `setting` takes it.

    Returns:
        A check as `setting` takes it.

    Example:

    >>> each(check_positive)("model.filters", (32, 0))
    Traceback (most recent call last):
    ValueError: model.filters: 0, expected a positive number below 2,147,483,648
    """

    def check_items(name, value):
        for item in value:
            check(name, item)

    return check_items


def check_value(name: str, value: Any, about: Mapping) -> None:
    """Check a value with the choices and the check of its field.

    Args:
        name: Name of the setting.
        value: Its value; `None` is not checked.
        about: Metadata of the field.

    Raises:
        ValueError: naming the setting and its value.

    Example:

    >>> check_value("model.padding", "sam", {"choices": ("same", "valid")})
    Traceback (most recent call last):
    ValueError: model.padding: 'sam' is not one of same, valid; did you mean same?
    """
    if value is None:
        return
    if about.get("choices"):
        check_choice(name, value, about["choices"])
    if about.get("check"):
        about["check"](name, value)


def check_settings(config: Any, prefix: str = "") -> None:
    """Check all values of a config with the checks of their fields.

    Args:
        config: A dataclass instance; nested dataclasses are checked as well.
        prefix: Prefix of the names in messages.

    Raises:
        ValueError: naming the setting and its value.

    Example:

    >>> @dataclasses.dataclass(frozen=True)
    ... class ModelConfig:
    ...     padding: str = setting("same", "Padding.", choices=("same", "valid"))
    >>> check_settings(ModelConfig(padding="valid"))
    >>> check_settings(ModelConfig(padding="sam"), "model.")
    Traceback (most recent call last):
    ValueError: model.padding: 'sam' is not one of same, valid; did you mean same?
    """
    for name, about in fields(config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_settings(value, f"{prefix}{name}.")
        else:
            check_value(prefix + name, value, about)


def fields(config: Any) -> dict[str, Mapping]:
    """The metadata of a config's fields.

    Args:
        config: A dataclass, or an instance of one.

    Returns:
        `{name: metadata}`. A field whose default is overridden in a subclass keeps its metadata.

    Example:

    >>> @dataclasses.dataclass(frozen=True)
    ... class ModelConfig:
    ...     units: int = setting(64, "Width of the dense layer.", check=check_positive)
    >>> fields(ModelConfig)["units"]["help"]
    'Width of the dense layer.'
    """
    owners = (config if isinstance(config, type) else type(config)).__mro__
    return {
        field.name: next(
            (
                declared.metadata
                for owner in owners
                if (declared := vars(owner).get("__dataclass_fields__", {}).get(field.name))
                and declared.metadata
            ),
            {},
        )
        for field in dataclasses.fields(config)
    }
