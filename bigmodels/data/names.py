"""What a `--dataset` that is not known may have been meant to be."""

import difflib
import os


def did_you_mean(name, prefix, known=()):
    """A hint for the end of an error message, or nothing.

    Args:
        name: What was given.
        prefix: Of the user's own files, for this task: "images".
        known: Names of data sets.

    Returns:
        A string that begins with a semicolon, or is empty.
    """
    if os.path.exists(os.path.expanduser(name)):
        return f"; for your own files, give {prefix}:{name}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
