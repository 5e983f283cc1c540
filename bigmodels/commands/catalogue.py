"""What there is: tasks, data sets, models, and the settings of a task."""

import inspect

from bigmodels import models, tasks
from bigmodels.data import readers
from bigmodels.data.readers import embedded
from bigmodels.tasks.settings import flat_settings, meanings, with_settings


def catalogue():
    """One line on everything that has a name.

    Returns:
        `{"tasks": {name: line}, "datasets": {name: line}, "models": {name: line}}`.
    """
    return {
        "tasks": {name: tasks.get(name).summary for name in tasks.names()},
        "datasets": {name: _first_line(load) for name, load in embedded.ALL.items()}
        | {"NAME": "any set of TensorFlow Datasets of the task's kind, such as fashion_mnist"}
        | {source.form: source.summary for source in readers.sources()},
        "models": {name: _first_line(getattr(models, name)) for name in models.__all__},
    }


def settings(task, chosen=None):
    """Every setting of a task's recipe.

    Args:
        task: Name of a task.
        chosen: Settings that decide which others there are, such as `{"model.kind": "dense"}`.

    Returns:
        `{dotted name: (value, what it means and may be)}`.

    Raises:
        ValueError: naming a task or setting that there is not.
    """
    config = with_settings(tasks.get(task).config(), chosen or {})
    values, lines = flat_settings(config), meanings(config)
    return {name: (value, lines[name]) for name, value in values.items()}


def _first_line(what):
    return inspect.getdoc(what).partition("\n")[0].rstrip(".")
