"""How messages show a value, and what they suggest instead of it."""

import difflib


def short_repr(value):
    """A value as a message shows it: on one line, of bearable length.

    Args:
        value: Anything.

    Returns:
        At most 203 characters.

    Example:

    >>> short_repr("x" * 300)[-4:]
    'x...'
    """
    try:
        line = repr(value)
    except (ValueError, RecursionError):  # A number of more digits than Python writes out.
        line = f"a {type(value).__name__} too long to show"
    return line if len(line) <= 200 else f"{line[:200]}..."


def did_you_mean(value, choices, cutoff=0.6):
    """A hint for the end of an error message, or nothing.

    Args:
        value: What was given.
        choices: The names that there are.
        cutoff: How alike a name must be, from 0 to 1.

    Returns:
        A string that begins with a semicolon, or is empty.

    Example:

    >>> did_you_mean("mirored", ["mirrored", "tpu"])
    '; did you mean mirrored?'
    """
    near = difflib.get_close_matches(value, choices, 1, cutoff) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def check_choice(name, value, choices):
    """Refuse a value that is not one of some names.

    Args:
        name: What the value is for.
        value: The value.
        choices: The names.

    Raises:
        ValueError: naming all three, and the nearest choice.

    Example:

    >>> check_choice("schedule", "cosin", ("cosine", "constant"))
    Traceback (most recent call last):
    ValueError: schedule: 'cosin' is not one of cosine, constant; did you mean cosine?
    """
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}: {short_repr(value)} is not one of {', '.join(choices)}{hint}")
