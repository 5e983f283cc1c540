"""What a `--dataset` that is not known may have been meant to be."""

import os

from bigmodels import messages
from bigmodels.data.readers import forms, sources


def did_you_mean(name, kind, known=()):
    """A hint for the end of an error message, or nothing.

    Args:
        name: What was given.
        kind: Of the task's data, one of `bigmodels.data.readers.KINDS`.
        known: Names of data sets.

    Returns:
        A string that begins with a semicolon, or is empty.
    """
    if os.path.exists(os.path.expanduser(name)):
        return f"; for your own files, give {sources(kind)[0].prefix}:{name}"
    return messages.did_you_mean(name, known)


def unknown_name(kind, name, what, known):
    """The error for a name that no set of this kind has.

    Args:
        kind: One of `bigmodels.data.readers.KINDS`.
        name: What was given.
        what: What it is: "no series".
        known: Names of data sets.
    """
    hint = did_you_mean(name, kind, known)
    choices = f"{forms(kind)} or {', '.join(known)}"
    return ValueError(f"dataset: {messages.short_repr(name)} is {what}; give {choices}{hint}")
