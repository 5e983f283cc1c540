"""Helpers for error messages: short representations, and suggestions for misspelt names."""

import difflib
from collections.abc import Collection
from typing import Any


def short_repr(value: Any) -> str:
    """Return the `repr` of a value, truncated to 200 characters.

    Args:
        value: Any value.

    Returns:
        A string of at most 203 characters, with "..." at the end if truncated.

    Example:

    >>> short_repr("x" * 300)[-4:]
    'x...'
    """
    try:
        line = repr(value)
    except (ValueError, RecursionError):  # A number with more digits than Python converts.
        line = f"a {type(value).__name__} too long to show"
    return line if len(line) <= 200 else f"{line[:200]}..."


def did_you_mean(value: Any, choices: Collection[str], cutoff: float = 0.6) -> str:
    """Suggest the most similar name, for the end of an error message.

    Args:
        value: The unknown name.
        choices: The valid names.
        cutoff: Minimum similarity of a suggestion, from 0 to 1.

    Returns:
        A hint that begins with a semicolon, or an empty string.

    Example:

    >>> did_you_mean("mirored", ["mirrored", "tpu"])
    '; did you mean mirrored?'
    """
    near = difflib.get_close_matches(value, choices, 1, cutoff) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuse a value that is not one of the choices.

    Args:
        name: Name of the argument or setting.
        value: Its value.
        choices: The valid values.

    Raises:
        ValueError: naming all three, and the most similar choice.

    Example:

    >>> check_choice("schedule", "cosin", ("cosine", "constant"))
    Traceback (most recent call last):
    ValueError: schedule: 'cosin' is not one of cosine, constant; did you mean cosine?
    """
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}: {short_repr(value)} is not one of {', '.join(choices)}{hint}")
