"""The tasks by name: those of this package, one folder each, and those of other packages.

Other packages can add tasks. They either declare them as entry points::

    [options.entry_points]
    bigmodels.tasks =
        my_task = my_package.recipe:TASK

or a module calls `register`, and the command imports that module::

    bigmodels train --import=my_package.recipe --task=my_task --workdir=runs/mine

Such a module can also register sources (`bigmodels.data.readers.register`), and models and metrics
(`keras.saving.register_keras_serializable`). For safety, the files of a run never decide what is
imported: a run of an unknown task is refused.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import typing

from bigmodels.messages import did_you_mean

if typing.TYPE_CHECKING:  # It imports TensorFlow.
    from bigmodels.tasks.record import Task

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
# Modules imported by `import_module`, in order.
_imported = []


def names() -> tuple[str, ...]:
    """The names of all tasks: of this package, of entry points, and of `register`.

    Returns:
        Names.

    Example:

    >>> "image_classification" in names()
    True
    """
    return _all_names(_entry_points())


def get(task: str | Task) -> Task:
    """Get a task by its name.

    Args:
        task: One of `names()`; or a `bigmodels.tasks.record.Task`, which is then registered.

    Returns:
        A `bigmodels.tasks.record.Task`.

    Raises:
        ValueError: if there is no such task; the message suggests the nearest name.

    Example:

    >>> get("image_classification").unit
    'images'
    """
    if not isinstance(task, str):
        return register(task)
    if task in _registered:
        return _registered[task]
    if task in NAMES:
        # Imported only now, as the recipes import TensorFlow.
        return importlib.import_module(f"{__name__}.{task}.recipe").TASK
    entry_points = _entry_points()
    if task in entry_points:
        return register(entry_points[task].load())
    known = _all_names(entry_points)
    raise ValueError(
        f"task: {task!r} is not one of {', '.join(known)}{did_you_mean(task, known)}; those of "
        "other packages need --import"
    )


def register(task: Task) -> Task:
    """Register a task of your own.

    Args:
        task: A `bigmodels.tasks.record.Task`.

    Returns:
        The task.

    Raises:
        ValueError: if it is not a task, or has the name of a task of this package.

    Example:

    >>> task = get("image_classification")  # Or `Task(name="my_task", ...)`.
    >>> register(task) is task
    True
    """
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not hasattr(task, "load_data"):
        raise ValueError(f"task: {task!r} is neither the name of a task nor a Task")
    if name in NAMES and get(name) is not task:
        raise ValueError(f"task: {name!r} is a task of bigmodels; give yours another name")
    if name not in NAMES:
        _registered[name] = task
    return task


def import_module(name: str) -> None:
    """Import a module that registers tasks, sources, models or metrics.

    Args:
        name: Dotted name of the module, which may be in the current directory.

    Raises:
        ValueError: if it cannot be imported.

    Example:

    >>> import_module("no_such_module")
    Traceback (most recent call last):
    ValueError: import: 'no_such_module' cannot be imported: No module named 'no_such_module'
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


def imported() -> tuple[str, ...]:
    """The names of the modules that `import_module` has imported.

    Returns:
        Dotted names, in the order of import.

    Example:

    >>> "my_package.recipe" in imported()
    False
    """
    return tuple(_imported)


def _all_names(entry_points):
    return (*NAMES, *(name for name in entry_points | _registered if name not in NAMES))


def _entry_points():
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
