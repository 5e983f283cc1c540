"""What there is: tasks, data sets, models, and the settings of a task."""

import inspect

from bigmodels import models, tasks
from bigmodels.data.readers import embedded
from bigmodels.tasks.task import flat_settings, with_settings

_OTHER_DATASETS = {
    "NAME": "any set of TensorFlow Datasets of the task's kind, such as fashion_mnist",
    "images:DIR": "your images, one folder per class",
    "coco:DIR": "your images with boxes, in the JSON form of COCO",
    "text:FILE": "your text, or text:DIR: all .txt files below it",
    "pairs:FILE": "your pairs: a source, a tab and its translation a line; .csv, .jsonl; FILE,FILE",
    "tub:DIR": "your recording of driving, a Donkeycar tub, version 2",
    "csv:FILE": "your measurements, a column of times and columns of numbers",
    "audio:DIR": "your recordings, one folder per word, or with a table such as metadata.csv",
}


def catalogue():
    """One line on everything that has a name.

    Returns:
        `{"tasks": {name: line}, "datasets": {name: line}, "models": {name: line}}`.
    """
    return {
        "tasks": {name: tasks.get(name).summary for name in tasks.NAMES},
        "datasets": {name: _first_line(load) for name, load in embedded.ALL.items()}
        | _OTHER_DATASETS,
        "models": {name: _first_line(getattr(models, name)) for name in models.__all__},
    }


def settings(task, chosen=None):
    """Every setting of a task's recipe.

    Args:
        task: Name of a task.
        chosen: Settings that decide which others there are, such as `{"model.kind": "dense"}`.

    Returns:
        `{dotted name: value}`.

    Raises:
        ValueError: naming a task or setting that there is not.
    """
    return flat_settings(with_settings(tasks.get(task).config(), chosen or {}))


def _first_line(what):
    return inspect.getdoc(what).partition("\n")[0].rstrip(".")
