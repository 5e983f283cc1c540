"""Data sources, one module per kind of source.

To add a source, add a module to this folder that calls `register`. This adds
`--dataset=PREFIX:WHERE`, the source's line in the catalogue, hints in error messages and fuzz
tests. Your own package can call `register` too, in a module that an entry point or `--import`
names.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

from bigmodels.messages import short_repr

# What `read` returns for each kind, and the keyword arguments that it is called with.
KINDS = {
    "images": "`(splits, class_names, skipped)`, see `embedded.digits`, where splits allow random "
    "access to elements; `image_size`, `skip_bad_files`, `notes`",
    "text": "a string, `{split: string}`, or a `bigmodels.data.corpus.Corpus` of any size; "
    "`encoding`, `skip_bad_files`, `notes`",
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
    """A source of data from the user's files.

    Args:
        prefix: The text before the colon in a data set's name: "images".
        where: Placeholder for the text after the colon: "DIR".
        kind: One of `KINDS`, which determines the loader.
        summary: A line for the catalogue.
        read: Function of `(where, **options)`, see `KINDS`.

    Example:

    >>> source = Source("poems", "DIR", "text", "your poems", lambda where, **options: "Roses")
    >>> source.form
    'poems:DIR'
    """

    prefix: str
    where: str
    kind: str
    summary: str
    read: Callable

    @property
    def form(self) -> str:
        """The form of its names: "images:DIR"."""
        return f"{self.prefix}:{self.where}"


def register(source: Source) -> Source:
    """Register a source, so that loaders find it by its prefix.

    Args:
        source: A `Source`.

    Returns:
        The source.

    Raises:
        ValueError: if its kind is unknown, or another source has the same prefix.

    Example:

    >>> register(Source("csv", "FILE", "text", "tables", lambda where, **options: ""))
    Traceback (most recent call last):
    ValueError: prefix: 'csv' is taken by ...
    """
    if source.kind not in KINDS:
        raise ValueError(f"kind: {source.kind!r} is not one of {', '.join(KINDS)}")
    other = _sources.setdefault(source.prefix, source)
    if other is not source:
        raise ValueError(f"prefix: {source.prefix!r} is taken by {other.summary!r}")
    return source


def sources(kind: str | None = None) -> list[Source]:
    """List the registered sources.

    Args:
        kind: One of `KINDS`, to list only sources of this kind.

    Returns:
        A list of `Source`.

    Example:

    >>> [source.form for source in sources("driving")]
    ['tub:DIR']
    """
    return [source for source in _sources.values() if kind in (None, source.kind)]


def find(kind: str, name: str) -> tuple[Source, str] | None:
    """Find the source for the name of a data set.

    Args:
        kind: One of `KINDS`.
        name: The name that the user gave.

    Returns:
        `(source, where)`, or `None` if the name does not begin with a prefix of this kind.

    Example:

    >>> source, where = find("images", "images:pets/cats")
    >>> source.prefix, where
    ('images', 'pets/cats')
    """
    prefix, colon, where = str(name).partition(":")
    source = _sources.get(prefix) if colon else None
    return (source, where) if source and source.kind == kind else None


def has_prefix(name: str) -> bool:
    """Whether the name of a data set begins with the prefix of a source.

    Args:
        name: Name of a data set.

    Returns:
        A bool.

    Example:

    >>> has_prefix("images:pets"), has_prefix("digits")
    (True, False)
    """
    prefix, colon, _ = str(name).partition(":")
    return bool(colon) and prefix in _sources


def forms(kind: str) -> str:
    """Return the forms of the sources of a kind, for error messages.

    Args:
        kind: One of `KINDS`.

    Returns:
        A string such as "tub:DIR".

    Example:

    >>> forms("series")
    'csv:FILE'
    """
    return " or ".join(source.form for source in sources(kind))


def refusal(kind: str, name: str, what: str) -> ValueError:
    """Make the error for the name of a data set of another kind.

    Args:
        kind: One of `KINDS`.
        name: The name that the user gave.
        what: What was expected: "images".

    Returns:
        A `ValueError`, to be raised by the caller.

    Example:

    >>> print(refusal("images", "co2", "images"))
    dataset: 'co2' is not images; give images:DIR or a name
    """
    return ValueError(f"dataset: {short_repr(name)} is not {what}; give {forms(kind)} or a name")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
