"""Where data comes from: one kind of source a file.

A file of this folder that calls `register` is all that a new source needs:
`--dataset=PREFIX:WHERE`, the catalogue, the hints in errors and the fuzz tests follow from it. A
package of your own calls `register` too, in a module that an entry point or `--import` names.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

from bigmodels.messages import short_repr

# What `read` gives, and the options that it is called with, by keyword.
KINDS = {
    "images": "`(splits, class_names, skipped)`, see `embedded.digits`, where an element of a "
    "split can be had by its number; `image_size`, `skip_bad_files`, `notes`",
    "text": "a string, or `{split: string}`; `encoding`, `skip_bad_files`, `notes`",
    "pairs": "a list of `(source, target)`, or `{split: list}`; `columns`, `encoding`, "
    "`skip_bad_files`, `notes`",
    "recordings": "a list of `recordings.Recording`, or `{split: list}`; `word_folder`, "
    "`skip_bad_files`, `notes`",
    "series": "a `csv_series.Table`; `time`, `targets`, `time_format`, `missing`, `decimal`, "
    "`encoding`, `notes`",
    "driving": "a `tub.Tub`; `skip_bad_files`, `notes`",
    "objects": "`({split: list of coco.Picture}, class_names)`; `skip_bad_files`, `notes`",
}

_sources = {}


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of files of the user's own.

    Attributes:
        prefix: What stands before the colon: "images".
        where: What stands behind it, in words: "DIR".
        kind: One of `KINDS`, which says who loads it.
        summary: A line for the catalogue.
        read: `(where, **options)`, as `KINDS` says.
    """

    prefix: str
    where: str
    kind: str
    summary: str
    read: Callable

    @property
    def form(self):
        """How a user writes it: "images:DIR"."""
        return f"{self.prefix}:{self.where}"


def register(source):
    """Make a kind of source known.

    Args:
        source: A `Source`.

    Returns:
        The source.

    Raises:
        ValueError: if its kind is none, or there is another with its prefix.
    """
    if source.kind not in KINDS:
        raise ValueError(f"kind: {source.kind!r} is not one of {', '.join(KINDS)}")
    other = _sources.setdefault(source.prefix, source)
    if other is not source:
        raise ValueError(f"prefix: {source.prefix!r} is taken by {other.summary!r}")
    return source


def sources(kind=None):
    """The sources that there are.

    Args:
        kind: Only those of this kind.

    Returns:
        A list of `Source`.
    """
    return [source for source in _sources.values() if kind in (None, source.kind)]


def find(kind, name):
    """The source that a data set's name asks for.

    Args:
        kind: One of `KINDS`.
        name: What the user gave.

    Returns:
        `(source, where)`, or `None` if no prefix of this kind begins it.
    """
    prefix, colon, where = str(name).partition(":")
    source = _sources.get(prefix) if colon else None
    return (source, where) if source and source.kind == kind else None


def has_prefix(name):
    """Whether a data set's name begins with the prefix of any source."""
    prefix, colon, _ = str(name).partition(":")
    return bool(colon) and prefix in _sources


def forms(kind):
    """How the sources of a kind are written, as an error says it."""
    return " or ".join(source.form for source in sources(kind))


def refusal(kind, name, what):
    """The error for a name that is known to be something else.

    Args:
        kind: One of `KINDS`.
        name: What the user gave.
        what: What was expected: "images".
    """
    return ValueError(f"dataset: {short_repr(name)} is not {what}; give {forms(kind)} or a name")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
