"""Measure a trained run again, from its files alone."""

from bigmodels.data.notes import noted
from bigmodels.evaluation import intervals
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings

_CHANGEABLE = ("dataset", "data_dir", "batch_size", "data", "judge_steps")


def evaluate(workdir, settings=None):
    """Load a run's model and data and measure every split.

    Args:
        workdir: A finished run's directory; nothing in it is changed.
        settings: What is to differ from the run's config, for example `{"dataset": ...,
            "data_dir": ...}`.

    Returns:
        The content of `result.json`, with the metrics and intervals measured now.

    Raises:
        ValueError: if there is no finished run, or data and model do not fit together.
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
    wanted, found = (getattr(each, "class_names", None) for each in (model, data))
    if wanted and found and list(wanted) != list(found):
        raise ValueError(
            f"dataset: {config.dataset!r} has the classes {', '.join(found)}, but the run was "
            f"trained for {', '.join(wanted)}"
        )
    splits, observed, _ = task.evaluate_splits(model, data, config)
    measured = splits | intervals.summary(observed, config.seed)
    return result | {"dataset": config.dataset} | noted(data) | measured
