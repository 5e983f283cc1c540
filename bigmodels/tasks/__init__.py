"""The applications by name: a folder each, and those of other packages.

A package of your own adds tasks without touching this one. Either it names them as entry points::

    [options.entry_points]
    bigmodels.tasks =
        my_task = my_package.recipe:TASK

or a command is told what to import, and the module calls `register`::

    bigmodels train --import=my_package.recipe --task=my_task --workdir=runs/mine

What such a module defines beside a task, sources (`bigmodels.data.readers.register`) or models and
metrics (`keras.saving.register_keras_serializable`), is then known as well. A file never decides
what is imported: a run of an unknown task is refused.
"""

import importlib
import importlib.metadata
import sys

from bigmodels.messages import did_you_mean

NAMES = (
    "image_classification",
    "object_detection",
    "text_generation",
    "translation",
    "speech_recognition",
    "time_series",
    "image_generation",
    "inpainting",
    "driving",
)
"""The tasks of this package."""

GROUP = "bigmodels.tasks"

_registered = {}
# Modules that `import_module` was told to import, in order.
_imported = []


def names():
    """The names of all tasks: this package's, those of entry points, and those registered.

    Example:

    >>> "image_classification" in names()
    True
    """
    return (*NAMES, *(name for name in _entry_points() | _registered if name not in NAMES))


def get(task):
    """A task by its name.

    Args:
        task: One of `names()`; or a `bigmodels.tasks.record.Task`, which is registered.

    Returns:
        A `bigmodels.tasks.record.Task`.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    if not isinstance(task, str):
        return register(task)
    if task in _registered:
        return _registered[task]
    if task in NAMES:
        # By its name: to name the tasks does not import TensorFlow.
        return importlib.import_module(f"{__name__}.{task}.recipe").TASK
    if task in _entry_points():
        return register(_entry_points()[task].load())
    known = names()
    raise ValueError(
        f"task: {task!r} is not one of {', '.join(known)}{did_you_mean(task, known)}; those of "
        "other packages need --import"
    )


def register(task):
    """Add a task of your own.

    Args:
        task: A `bigmodels.tasks.record.Task`.

    Returns:
        The task.

    Raises:
        ValueError: if there is another of its name, or it is no task.
    """
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not hasattr(task, "load_data"):
        raise ValueError(f"task: {task!r} is neither the name of a task nor a Task")
    if name in NAMES and get(name) is not task:
        raise ValueError(f"task: {name!r} is a task of bigmodels; give yours another name")
    if name not in NAMES:
        _registered[name] = task
    return task


def import_module(name):
    """Import a module that registers tasks, sources, models or metrics.

    Args:
        name: Its dotted name; it may lie in the current directory.

    Raises:
        ValueError: if it cannot be imported.
    """
    if name in _imported:
        return
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"import: {name!r} cannot be imported: {error}") from error
    _imported.append(name)


def imported():
    """The modules that `import_module` has imported."""
    return tuple(_imported)


def _entry_points():
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
