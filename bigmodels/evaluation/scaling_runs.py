"""The scaling law of finished runs, and what it says about a planned one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodels.evaluation import scaling
from bigmodels.evaluation.scaling import ScalingLaw

# Settings under `data.` that change neither text nor tokens.
_NOT_THE_DATA = ("data.cache_dir", "data.skip_bad_files")
# Runs from which a law of parameters and tokens is fitted, if both vary on their own.
_FEWEST_OF_TWO = 6


@dataclasses.dataclass(frozen=True)
class SizedRun:
    """A run, finished or planned.

    Attributes:
        name: What messages call it.
        task: Name of its task.
        settings: `{dotted name: value}`, as from `bigmodels.tasks.settings.flat_settings`.
        sizes: `{"compute": operations of the training, "parameters": number, "tokens": number it
            is trained on}`; empty if they are unknown.
        result: The content of `result.json`; empty for a run that is not finished.

    Example:

    >>> SizedRun("runs/a", "text_generation", {"dataset": "python_docs"}).sizes
    {}
    """

    name: str
    task: str
    settings: Mapping[str, Any]
    sizes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def finished(name: str, task: str, settings: Mapping[str, Any], result: Mapping) -> SizedRun:
    """A run from its `result.json`.

    Args:
        name: As in `SizedRun`.
        task: As in `SizedRun`.
        settings: As in `SizedRun`.
        result: The content of `result.json`, empty if there is none.

    Returns:
        A `SizedRun`. Its sizes are empty if the result has no `training_flops`.

    Example:

    >>> result = {"training_flops": 6e9, "parameters": 1000, "throughput": 1e5, "seconds": 10.0}
    >>> finished("runs/a", "text_generation", {}, result).sizes
    {'compute': 6000000000.0, 'parameters': 1000, 'tokens': 1000000.0}
    """
    sizes = {}
    if result.get("training_flops"):
        tokens = result["throughput"] * result["seconds"]
        sizes = {"compute": result["training_flops"], "parameters": result["parameters"]}
        sizes["tokens"] = tokens
    return SizedRun(name, task, settings, sizes, result)


def law_of(runs: Sequence[SizedRun], planned: SizedRun | None = None) -> ScalingLaw:
    """Fit the validation losses of runs over their compute.

    Six or more runs whose parameters and tokens vary independently are fitted over both.

    Args:
        runs: Finished runs of one task, data set and kind of model.
        planned: A run that the law is for, or `None`.

    Returns:
        A `bigmodels.evaluation.scaling.ScalingLaw` of `compute`, or of `parameters` and `tokens`.

    Raises:
        ValueError: naming the run that is not finished, too short to have counted its arithmetic,
            or of other data; or if the runs are too few.

    Example:

    >>> runs = [
    ...     SizedRun("a", "t", {}, {"compute": c}, {"validation": {"loss": 3 + 2 / c}})
    ...     for c in (1.0, 2.0, 4.0, 8.0)
    ... ]
    >>> round(law_of(runs).exponents["compute"], 2)
    1.0
    """
    for run in runs:
        if not run.result:
            raise ValueError(f"{run.name} is not finished")
        if not run.sizes:
            raise ValueError(
                f"{run.name} has no training_flops in its result.json; they are counted in "
                "trainings of ten seconds or more on one device"
            )
    first = planned or (runs[0] if runs else None)
    for run in runs:
        _check_same("task", run, run.task, first, first.task)
        for name in run.settings.keys() | first.settings.keys():
            if name in ("dataset", "model.kind") or _is_data(name):
                _check_same(name, run, run.settings.get(name), first, first.settings.get(name))
    losses = [run.result["validation"]["loss"] for run in runs]
    both = {name: [run.sizes.get(name, 0) for run in runs] for name in ("parameters", "tokens")}
    if len({*zip(*both.values(), strict=True)}) >= _FEWEST_OF_TWO:
        try:
            return scaling.fit(losses, **both)
        except ValueError:  # They grow together, or one of them hardly.
            pass
    return scaling.fit(losses, compute=[run.sizes["compute"] for run in runs])


def prediction(runs: Sequence[SizedRun], planned: SizedRun) -> dict[str, Any]:
    """Predict the final validation loss of a planned run.

    Args:
        runs: As for `law_of`.
        planned: The planned run, with its sizes.

    Returns:
        A dict: `predicted_loss`, and `predicted_bits_per_byte` if the runs have them, each with
        an `..._interval` of 95%, `[low, high]`; `scaling_law`, the formula; and `extrapolation`, a
        sentence, if a size is more than ten times outside the runs.

    Raises:
        ValueError: as for `law_of`.

    Example:

    >>> runs = [
    ...     SizedRun("a", "t", {}, {"compute": c}, {"validation": {"loss": 3 + 2 / c}})
    ...     for c in (1.0, 2.0, 4.0, 8.0, 16.0)
    ... ]
    >>> round(prediction(runs[:4], runs[4])["predicted_loss"], 3)
    3.125
    """
    law = law_of(runs, planned)
    sizes = {name: planned.sizes[name] for name in law.scales}
    loss, interval = law.predict(**sizes), law.interval(**sizes)
    predicted = {"predicted_loss": loss, "predicted_loss_interval": [*interval]}
    ratios = [
        run.result["validation"]["bits_per_byte"] / run.result["validation"]["loss"]
        for run in runs
        if "bits_per_byte" in run.result["validation"]
    ]
    if len(ratios) == len(runs):  # The text is the same, so bits are in proportion to nats.
        ratio = sum(ratios) / len(ratios)
        predicted["predicted_bits_per_byte"] = loss * ratio
        predicted["predicted_bits_per_byte_interval"] = [end * ratio for end in interval]
    predicted["scaling_law"] = law.formula
    if far := law.beyond(**sizes):
        predicted["extrapolation"] = "far outside the runs: " + ", ".join(
            f"{multiple:.3g} times the {name} of the {'largest' if multiple > 1 else 'smallest'}"
            for name, multiple in far.items()
        )
    return predicted


def _is_data(name):
    return name.startswith("data.") and name not in _NOT_THE_DATA


def _check_same(setting, run, value, other, expected):
    if value != expected:
        raise ValueError(f"{run.name} has {setting}: {value!r}, but {other.name} {expected!r}")
