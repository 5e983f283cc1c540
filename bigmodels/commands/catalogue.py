"""Lists of all tasks, data sets and models, and of the settings of a task."""

import inspect
from typing import Any

from bigmodels import models, tasks
from bigmodels.data import readers
from bigmodels.data.readers import embedded
from bigmodels.tasks.settings import flat_settings, meanings, with_settings


def catalogue() -> dict[str, dict[str, str]]:
    """List all tasks, data sets and models with a one-line description each.

    Returns:
        `{"tasks": {name: line}, "datasets": {name: line}, "models": {name: line}}`.

    Example:

    >>> list(catalogue())
    ['tasks', 'datasets', 'models']
    """
    return {
        "tasks": {name: tasks.get(name).summary for name in tasks.names()},
        "datasets": {name: _first_line(load) for name, load in embedded.ALL.items()}
        | {"NAME": "any set of TensorFlow Datasets of the task's kind, such as fashion_mnist"}
        | {source.form: source.summary for source in readers.sources()},
        "models": {name: _first_line(getattr(models, name)) for name in models.__all__},
    }


def settings(task: str, chosen: dict[str, Any] | None = None) -> dict[str, tuple[Any, str]]:
    """List all settings of a task.

    Args:
        task: Name of a task.
        chosen: Settings on which others depend, such as `{"model.kind": "dense"}`.

    Returns:
        `{dotted name: (default, description)}`.

    Raises:
        ValueError: naming an unknown task or setting.

    Example:

    >>> settings("image_classification")["model.dropout_rate"][0]
    0.25
    """
    config = with_settings(tasks.get(task).config(), chosen or {})
    values, lines = flat_settings(config), meanings(config)
    return {name: (value, lines[name]) for name, value in values.items()}


def _first_line(documented):
    return inspect.getdoc(documented).partition("\n")[0].rstrip(".")
