"""Evaluate a trained run again."""

import os
from typing import Any

from bigmodels.data.notes import noted
from bigmodels.evaluation import intervals
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings

_CHANGEABLE = ("dataset", "data_dir", "batch_size", "data", "judge_steps")


def evaluate(workdir: str | os.PathLike, settings: dict[str, Any] | None = None) -> dict:
    """Evaluate a trained run on all splits, with its own data or another data set.

    Args:
        workdir: Directory of a finished run; it is not changed.
        settings: Settings that differ from the run's, for example `{"dataset": ..., "data_dir":
            ...}`.

    Returns:
        The content of `result.json`, with the new metrics and intervals.

    Raises:
        ValueError: if the run is not finished, or the data do not fit the model.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> result = bigmodels.train("image_classification", "runs/digits", settings, verbose=0)
    >>> evaluate("runs/digits")["test"] == result["test"]
    True
    """
    for name in settings or {}:
        if name.partition(".")[0] not in _CHANGEABLE:
            raise ValueError(f"set: {name!r} cannot be changed after training, in an evaluation")
    run = RunDirectory(workdir)
    task, config = run.load_config()
    config = with_settings(config, settings or {})
    result = run.read_json("result.json")
    model = run.load_model()
    data = task.load_data(config)
    expected, classes = (getattr(owner, "class_names", None) for owner in (model, data))
    if expected and classes and list(expected) != list(classes):
        raise ValueError(
            f"dataset: {config.dataset!r} has the classes {', '.join(classes)}, but the run was "
            f"trained for {', '.join(expected)}"
        )
    splits, observed, _ = task.evaluate_splits(model, data, config)
    measured = splits | intervals.summary(observed, config.seed)
    return result | {"dataset": config.dataset} | noted(data) | measured
