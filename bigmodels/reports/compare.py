"""Compare runs of one task."""

import dataclasses
import itertools
import math
import os
import pathlib
import sys
from collections.abc import Sequence

from bigmodels.evaluation import intervals, scaling_runs
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import pages, plots
from bigmodels.runs import atomic
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.record import Metric, Task
from bigmodels.tasks.settings import Config, command_line, flat_settings

# Runs of different size, from which on their scaling is fitted.
_FEWEST_SIZES = 4


@dataclasses.dataclass(frozen=True)
class _Run:
    name: str
    path: str
    task: Task
    config: Config
    stored: dict  # config.json
    result: dict  # result.json; empty if the run is not finished
    history: list
    observed: dict[str, Observations]

    def test(self, metric):
        return self.result.get("test", {}).get(metric)

    def interval(self, metric):
        return self.result.get("intervals", {}).get("test", {}).get(metric)


def compare(
    workdirs: Sequence[str | os.PathLike],
    output: str | os.PathLike | None = None,
    verbose: int = 1,
) -> dict:
    """Compare the metrics, settings and learning curves of runs.

    A run counts as better in a metric if the difference is significant: on the same test examples,
    if the bootstrap interval of the paired difference excludes zero; otherwise, if the intervals of
    the two runs do not overlap.

    Args:
        workdirs: Two or more run directories of one task; runs need not be finished.
        output: HTML file to write, or `None`.
        verbose: 0 for silence, 1 for a table on stderr.

    Returns:
        A dict with `task`; `runs`, a list of dicts with `name`, `workdir`, `finished`, `epochs` and
        the content of `result.json`; `differing`, `{setting: [value of each run]}`; `differences`,
        one dict per metric and pair of runs (`metric`, `a`, `b`, `difference`, which is `b` minus
        `a`, `interval` or `None`, `examples`); `verdicts`, `{metric: text}`; `warnings`; and
        `output`.

    Raises:
        ValueError: naming the directory that is not a run, or two that cannot be compared.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> for seed in (1, 2):
    ...     settings["seed"] = seed
    ...     _ = bigmodels.train("image_classification", f"runs/{seed}", settings, verbose=0)
    >>> compare(["runs/1", "runs/2"], verbose=0)["differing"]
    {'seed': [1, 2]}
    """
    output = None if output is None else _checked_output(output)
    runs = _read(workdirs)
    task = runs[0].task
    differences = _differences(runs)
    law, sized = _scaling(runs)
    names = {name: None for run in runs for name in run.result.get("test", {})}
    names = [*(name for name in task.metrics if name in names)] + [
        name for name in names if name not in task.metrics
    ]
    comparison = {
        "task": task.name,
        "runs": [
            {
                "name": run.name,
                "workdir": run.path,
                "finished": bool(run.result),
                "epochs": len(run.history),
                **run.result,
            }
            for run in runs
        ],
        "differing": _differing([flat_settings(run.stored["config"]) for run in runs]),
        "differences": differences,
        "verdicts": {name: _verdict(task, runs, name, differences) for name in names},
        "scaling": law and law.formula,
        "warnings": _warnings(runs),
        "output": None if output is None else str(output),
    }
    if verbose:
        print(_plain(runs, names, comparison), file=sys.stderr)
    if output is not None:
        atomic.write_text(output, _page(runs, names, comparison, law, sized))
    return comparison


def _checked_output(output):
    path = pathlib.Path(output)
    if path.suffix.lower() not in (".html", ".htm") or not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"output: {str(output)!r}, expected an .html in an existing directory")
    return path


def _read(workdirs):
    paths = [str(path) for path in workdirs]
    if len(paths) < 2:
        raise ValueError(f"workdirs: {len(paths)} given, expected two or more run directories")
    for a, b in itertools.combinations(paths, 2):
        if pathlib.Path(a).resolve() == pathlib.Path(b).resolve():
            raise ValueError(f"workdirs: {a!r} and {b!r} are the same run")
    last = [pathlib.Path(path).resolve().name for path in paths]
    runs = []
    for path, name in zip(paths, last, strict=True):
        run = RunDirectory(path)
        task, config = run.load_config()
        result = run.read_json("result.json") if run.has_result() else {}
        name = name if last.count(name) == 1 else path
        stored, observed = run.read_json("config.json"), run.observations()
        runs.append(_Run(name, path, task, config, stored, result, run.history(), observed))
    for run in runs[1:]:
        if run.task.name != runs[0].task.name:
            raise ValueError(
                f"workdirs: {runs[0].path!r} is {runs[0].task.name}, but {run.path!r} is "
                f"{run.task.name}; only runs of one task can be compared"
            )
    return runs


def _differing(settings):
    """The names whose values differ between some dicts, with the value of each dict."""
    names = dict.fromkeys(name for values in settings for name in values)
    rows = {name: [values.get(name) for values in settings] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _differences(runs):
    """The paired differences of all runs that were measured on the same examples."""
    rows = []
    for a, b in itertools.combinations([run for run in runs if run.result], 2):
        if a.result["dataset"] != b.result["dataset"]:
            continue
        for metric in a.observed.keys() & b.observed.keys():
            paired = intervals.difference(a.observed[metric], b.observed[metric], seed=0)
            if paired is not None:
                difference, interval, count = paired
                rows.append(
                    {
                        "metric": metric,
                        "a": a.name,
                        "b": b.name,
                        "difference": difference,
                        "interval": interval and list(interval),
                        "examples": f"{count:,} {a.observed[metric].unit}",
                    }
                )
    order = {name: i for i, name in enumerate(runs[0].task.metrics)}
    return sorted(rows, key=lambda row: order.get(row["metric"], len(order)))


def _scaling(runs):
    """The scaling law of text runs that differ in size, and the runs; `(None, [])` without one."""
    sized = [
        scaling_runs.finished(run.name, run.task.name, flat_settings(run.config), run.result)
        for run in runs
        if "bits_per_byte" in run.task.metrics and run.result.get("training_flops")
    ]
    if len({run.sizes["parameters"] for run in sized}) < _FEWEST_SIZES:
        return None, []
    try:
        return scaling_runs.law_of(sized), sized
    except ValueError:  # Of different data, or the loss does not fall.
        return None, []


def _verdict(task, runs, metric, differences):
    """Which run is best in a metric, as text."""
    better = task.metrics.get(metric, Metric()).better
    measured = [run for run in runs if run.test(metric) is not None]
    if better is None or len(measured) < 2:
        return ""
    if len({run.result["dataset"] for run in measured}) > 1:
        return "not comparable: different data"
    pick = max if better == "max" else min
    best = pick(measured, key=lambda run: run.test(metric))
    similar = [
        run.name
        for run in measured
        if run is not best and not _apart(best, run, metric, differences)
    ]
    if not similar:
        return f"{best.name} is better"
    return f"{best.name} is ahead, but not significantly of {', '.join(similar)}"


def _apart(a, b, metric, differences):
    """Whether two runs differ significantly."""
    for row in differences:
        if row["metric"] == metric and {row["a"], row["b"]} == {a.name, b.name}:
            interval = row["interval"]
            return interval is not None and not interval[0] <= 0 <= interval[1]
    first, second = a.interval(metric), b.interval(metric)
    return bool(first and second) and (first[1] < second[0] or second[1] < first[0])


def _warnings(runs):
    lines = []
    data = {run.name: run.result.get("dataset", run.config.dataset) for run in runs}
    if len(set(data.values())) > 1:
        which = ", ".join(f"{name} on {dataset}" for name, dataset in data.items())
        lines.append(f"The runs were measured on different data ({which}).")
    unfinished = [run.name for run in runs if not run.result]
    if unfinished:
        lines.append(f"Not finished, so without test metrics: {', '.join(unfinished)}.")
    machines = [run.stored["machine"] for run in runs if "machine" in run.stored]
    if any(machine != machines[0] for machine in machines):
        lines.append("The runs were trained on different machines: times are not comparable.")
    return lines


def _plain(runs, names, comparison):
    """The table for a terminal."""
    task = runs[0].task
    rows = [["test", *(run.name for run in runs), ""]]
    for name in names:
        unit = task.metrics.get(name, Metric()).unit
        rows.append([f"{pages.words(name)} {unit}".strip()])
        for run in runs:
            value = pages.number(run.test(name), unit)
            interval = pages.between(run.interval(name), unit)
            rows[-1].append(f"{value} ({interval})" if interval else value)
        rows[-1].append(comparison["verdicts"][name])
    rows.append(["epochs trained", *(str(len(run.history)) for run in runs), ""])
    rows.append(["training time", *(pages.duration(_seconds(run)[-1]) for run in runs), ""])
    for name, values in comparison["differing"].items():
        rows.append([name, *map(pages.plain, values), ""])
    law = [f"Fitted over compute: {comparison['scaling']}"] if comparison["scaling"] else []
    notes = [f"Note: {line}" for line in comparison["warnings"]]
    return "\n".join([*notes, *pages.aligned(rows), *law])


def _seconds(run):
    """Cumulative seconds of training at the end of each epoch, beginning with 0."""
    return [0.0, *itertools.accumulate(row["seconds"] for row in run.history)]


def _page(runs, names, comparison, law, sized):
    task, results = runs[0].task, [run.result for run in runs]
    run_names = [run.name for run in runs]
    title = f"{pages.words(task.name).capitalize()}: {' and '.join(run_names)}"
    facts = [
        ["data set", *(run.result.get("dataset", run.config.dataset) for run in runs)],
        ["finished", *("yes" if result else "no" for result in results)],
        ["epochs", *(len(run.history) for run in runs)],
        ["training time", *(pages.duration(_seconds(run)[-1]) for run in runs)],
        [f"{task.unit} a second", *(_count(result.get("throughput")) for result in results)],
        ["parameters", *(_count(result.get("parameters")) for result in results)],
    ]
    environment = _differing(
        [{**run.stored.get("versions", {}), **run.stored.get("machine", {})} for run in runs]
    )
    sections = {
        "Measured on test data": _measured(task, runs, names, comparison) if names else [],
        "Loss over compute": _scaling_parts(task, law, sized) if law else [],
        "Learning curves": _curves(task, runs),
        "Time and size": [pages.grid(["", *run_names], facts)],
        "Differing settings": [_settings_grid(run_names, comparison["differing"])],
        "Differing environment": [_settings_grid(run_names, environment)] if environment else [],
        "Run them again": [
            f"<h3>{pages.text(run.name)}</h3>{pages.shell(command_line(task, run.config))}"
            for run in runs
        ],
    }
    sections = {name: parts for name, parts in sections.items() if parts}
    return pages.page(
        title,
        [
            f'<header><h1>{pages.text(title)}</h1><p class="soft">{pages.text(task.summary)}</p>'
            "</header>",
            *(f'<p class="note warning">{pages.text(line)}</p>' for line in comparison["warnings"]),
            pages.contents(sections),
            *(pages.section(name, parts) for name, parts in sections.items()),
        ],
    )


def _count(value):
    return "" if value is None else f"{value:,.0f}"


def _settings_grid(run_names, differing):
    if not differing:
        return "<p>None.</p>"
    rows = [[name, *map(pages.plain, values)] for name, values in differing.items()]
    return pages.grid(["", *run_names], rows)


def _measured(task, runs, names, comparison):
    rows = []
    for name in names:
        unit = task.metrics.get(name, Metric()).unit
        cells = [
            (pages.number(run.test(name), unit), pages.between(run.interval(name), unit))
            for run in runs
        ]
        rows.append([(pages.words(name), unit), *cells, comparison["verdicts"][name]])
    parts = [pages.grid(["", *(run.name for run in runs), "verdict"], rows)]
    if comparison["differences"]:
        parts.append("<h3>Differences on the same test examples</h3>")
        parts.append(
            pages.grid(
                ["", "runs", "difference", "over"],
                [_difference_row(task, row) for row in comparison["differences"]],
            )
        )
    paired = (
        "the interval of the paired difference excludes zero (on the same test examples) or, "
        "otherwise, if "
    )
    parts.append(
        f'<p class="soft">In small print: {intervals.LEVEL:.0%} bootstrap intervals. A run counts '
        f"as better if {paired if comparison['differences'] else ''}the two intervals do not "
        "overlap. The intervals cover the choice of test examples, not the seed of the training: "
        "train with several seeds before you rely on a small difference.</p>"
    )
    return parts


def _difference_row(task, row):
    unit = task.metrics.get(row["metric"], Metric()).unit
    scale = 100 if unit == "%" else 1
    signed = [f"{scale * value:+.3g}" for value in (row["difference"], *(row["interval"] or ()))]
    return [
        (pages.words(row["metric"]), "percentage points" if unit == "%" else unit),
        f"{row['b']} minus {row['a']}",
        (signed[0], " to ".join(signed[1:])),
        row["examples"],
    ]


def _scaling_parts(task, law, sized):
    points = {run.name: (run.sizes["compute"], run.result["validation"]["loss"]) for run in sized}
    figure = plots.scaling(points, law, f"validation loss ({task.metrics['loss'].unit})")
    line = f"{law.formula}. The runs lie {law.deviation:.2%} (standard deviation) from it."
    return [pages.picture("validation loss over training compute", figure, line)]


def _curves(task, runs):
    started = [run for run in runs if run.history]
    names = dict.fromkeys(
        key
        for run in started
        for key in plots.logged(run.history)
        if f"val_{key}" in run.history[0]
    )
    drawn = {}
    for name in names:
        unit = task.metrics.get(name, Metric()).unit
        ylabel = pages.words(name) + (f" ({unit})" if unit else "")
        values = {
            run.name: plots.in_percent(
                [row.get(f"val_{name}", math.nan) for row in run.history], unit
            )
            for run in started
        }
        for xlabel, points in (
            ("epoch", {run.name: [row["epoch"] for row in run.history] for run in started}),
            ("seconds of training", {run.name: _seconds(run)[1:] for run in started}),
        ):
            heading = f"validation {pages.words(name)} over {xlabel}"
            lines = {run.name: (points[run.name], values[run.name]) for run in started}
            drawn[heading] = plots.overlaid(lines, heading, xlabel, ylabel)
    if not drawn:
        return []
    return [
        '<div class="row">'
        + "".join(pages.picture(heading, figure) for heading, figure in drawn.items())
        + "</div>"
    ]
