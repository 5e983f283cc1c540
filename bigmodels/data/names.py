"""Error messages for unknown names of data sets, with a suggestion."""

import os
from collections.abc import Iterable

from bigmodels import messages
from bigmodels.data.readers import forms, sources


def did_you_mean(name: str, kind: str, known: Iterable[str] = ()) -> str:
    """Suggest another name at the end of an error message.

    Args:
        name: The name that the user gave.
        kind: Kind of the task's data, one of `bigmodels.data.readers.KINDS`.
        known: Names of data sets.

    Returns:
        A string that begins with a semicolon, or is empty.

    Example:

    >>> did_you_mean("sunspot", "series", ["co2", "sunspots"])
    '; did you mean sunspots?'
    """
    if os.path.exists(os.path.expanduser(name)):
        return f"; for your own files, give {sources(kind)[0].prefix}:{name}"
    return messages.did_you_mean(name, known)


def unknown_name(kind: str, name: str, what: str, known: Iterable[str]) -> ValueError:
    """Make the error for a name that is no data set of a kind.

    Args:
        kind: One of `bigmodels.data.readers.KINDS`.
        name: The name that the user gave.
        what: What is wrong with it: "not a series".
        known: Names of data sets.

    Returns:
        A `ValueError`, to be raised by the caller.

    Example:

    >>> print(unknown_name("series", "sunspot", "not a series", ["co2", "sunspots"]))
    dataset: 'sunspot' is not a series; give csv:FILE or co2, sunspots; did you mean sunspots?
    """
    hint = did_you_mean(name, kind, known)
    choices = f"{forms(kind)} or {', '.join(known)}"
    return ValueError(f"dataset: {messages.short_repr(name)} is {what}; give {choices}{hint}")
