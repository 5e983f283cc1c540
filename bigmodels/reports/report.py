"""`report.html`: a run on one self-contained page, without JavaScript."""

import math

from bigmodels.evaluation import intervals
from bigmodels.reports import plots
from bigmodels.reports.pages import (
    aligned,
    between,
    cards,
    contents,
    counted,
    duration,
    grid,
    number,
    page,
    picture,
    plain,
    section,
    shell,
    table,
    text,
    with_unit,
    words,
)
from bigmodels.tasks.record import Metric
from bigmodels.tasks.settings import flat_settings, meanings, with_settings


def headline(task, metrics):
    """The main metric of a run.

    Args:
        task: A `Task`.
        metrics: `{metric: value}`, what was measured.

    Returns:
        The metric's name.
    """
    return next((name for name in task.metrics if name in metrics), next(iter(metrics)))


def best_epoch(history):
    """The epoch with the lowest validation loss, or `None` without one."""
    rows = [row for row in history if math.isfinite(row.get("val_loss", math.nan))]
    return min(rows, key=lambda row: row["val_loss"])["epoch"] if rows else None


def verdict(history, result, overfits=True):
    """Whether the run over- or underfits, and why, as text.

    Args:
        history: One dict per epoch.
        result: The run's result, with `train` and `validation` measured after training, without
            dropout or augmentation.
        overfits: Whether the losses can be compared; those of a GAN cannot.

    Returns:
        A paragraph.
    """
    if not overfits:
        return (
            "The two networks of a GAN compete, so their losses do not show how well it fits. "
            "Judge it by the samples and by the metrics of the separately trained classifier."
        )
    train, validation = result["train"]["loss"], result["validation"]["loss"]
    curve = [row["val_loss"] for row in history if "val_loss" in row]
    best = min(range(len(curve)), key=curve.__getitem__)
    gap = (validation - train) / max(train, 1e-9)
    losses = (
        f"After training, the loss without dropout or augmentation is {train:.4g} on training "
        f"data and {validation:.4g} on validation data ({gap:+.0%})."
    )
    if len(curve) > 2 and curve[-1] < 1e-3 * curve[0]:
        return f"It fits: validation loss is below a thousandth of its first value. {losses}"
    if len(curve) > 2 and curve[-1] > 1.1 * curve[best]:
        return (
            f"It overfits: validation loss was lowest after epoch {best + 1} ({curve[best]:.4g}) "
            f"and has risen to {curve[-1]:.4g} since. {losses} Fewer epochs, more dropout, "
            "augmentation or data would help."
        )
    if len(curve) < 3:
        count = f"{counted(len(curve), 'epoch')} {'is' if len(curve) == 1 else 'are'}"
        return f"{count} too few to tell; train longer. {losses}"
    still_falling = curve[-1] < 0.95 * curve[-2]
    if still_falling and gap < 1:
        return (
            f"It underfits: validation loss still fell by {1 - curve[-1] / curve[-2]:.0%} in the "
            f"last epoch. {losses} More epochs or a higher learning rate would help."
        )
    if gap > 1:
        return (
            f"It fits the training data clearly better than validation data, but validation loss "
            f"has not risen above its lowest value ({curve[best]:.4g}). {losses} "
            "More dropout, augmentation or data may still help."
        )
    if gap < 0.05:
        return (
            f"It does not overfit; a larger model may do better. {losses} Validation "
            f"loss was lowest after epoch {best + 1} of {len(curve)}."
        )
    return (
        f"It fits well: validation loss ends near its lowest value (epoch {best + 1} of "
        f"{len(curve)}), not far above the training loss. {losses}"
    )


def render(task, result, history, config, *, used, describe, examples, drawn, samples, command):
    """Render the report of a run.

    Args:
        task: Its `Task`.
        result: The content of `result.json`.
        history: One dict per epoch.
        config: The content of `config.json`.
        used: `{dotted name: value}`, the values used for settings that were not given.
        describe: `{name: value}`, facts about the data.
        examples: `{title: Figure or str}`, examples of the data.
        drawn: `{title: Figure or str}`, the figures of the evaluation.
        samples: `{title: Figure, path or str}`, samples made during training.
        command: The command that repeats the run.

    Returns:
        HTML with embedded images.
    """
    title = f"{words(task.name).capitalize()}: {result['dataset']}"
    sections = {
        "Measured": _measured(task, result),
        "Learning curves": _curves(task, history),
        "Data": [
            table({"data set": result["dataset"], **describe}),
            *(f'<p class="note">{text(line)}</p>' for line in result.get("notes", ())),
            *_titled(examples),
        ],
        "What the model does": _titled(drawn),
        "While it was trained": [_row(samples)] if samples else [],
        "Chosen for the budget": [
            f"<p>{text(line)}</p>" for line in result.get("chosen", {}).get("why", ())
        ],
        "Run it again": [shell(command)],
        "Settings": [_settings(task, flat_settings(config["config"]), used)],
        "Speed": [table(_speed(result))],
        "Environment": [table(config["versions"] | config.get("machine", {}))],
    }
    sections = {name: parts for name, parts in sections.items() if parts}
    opinion = verdict(history, result, task.overfits)
    return page(
        title,
        [
            f'<header><h1>{text(title)}</h1><p class="soft">{text(task.summary)}</p></header>',
            cards(_first_figures(task, result, history)),
            f'<p class="note">{text(opinion)}</p>',
            contents(sections),
            *(section(name, parts) for name, parts in sections.items()),
        ],
    )


def _settings(task, given, used):
    """Settings as they were used; "(auto)" marks values that the program chose."""
    lines = {}
    for name, value in given.items():
        if value not in (None, "auto", [], ()):
            lines[name] = value
        elif name in used:
            lines[name] = f"{plain(used[name])} (auto)"
        else:
            lines[name] = "not set"
    known = flat_settings(task.config())
    kinds = {n: value for n, value in given.items() if n.endswith(".kind") and n in known}
    return table(lines, meanings(with_settings(task.config(), kinds)))


def _speed(result):
    """Speed, memory and kernels, `{label: value}`; results of older versions lack some."""
    shares = {
        "waiting for input": "input_wait",
        "share of the machine's matrix product rate": "share_of_limit",
    }
    lines = {f"{result['unit']} a second": f"{result['throughput']:,.0f}"}
    if "first_step_seconds" in result:
        lines["first step, including tracing"] = duration(result["first_step_seconds"] or 0)
    for label, name in shares.items():
        if result.get(name) is not None:
            lines[label] = f"{result[name]:.1%}"
    if result.get("peak_memory") is not None:
        lines["peak memory"] = f"{result['peak_memory'] / 1e9:.2f} GB"
    kernels = {f"kernel: {name}": kernel for name, kernel in result.get("kernels", {}).items()}
    if "precision" in result:
        lines["precision"] = result["precision"]
    return lines | kernels


def render_search(title, result, drawn):
    """Render the report of a search.

    Args:
        title: Heading.
        result: The content of the search's `result.json`.
        drawn: `{title: Figure}`.

    Returns:
        HTML with embedded images.
    """
    best, trials, objective = result["best"], result["trials"], result["objective"]
    states = [row["status"] for row in trials]
    count = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    names = list(dict.fromkeys(name for row in trials for name in row["settings"]))
    rows = [
        [
            row["trial"],
            number(row["score"]) or row.get("reason", row["status"]),
            *(plain(row["settings"].get(name, "")) for name in names),
            row["epochs"],
        ]
        for row in trials
    ]
    facts = {
        "task": result["task"],
        "data set": result["dataset"],
        "tuner": result["tuner"],
        "objective": f"{objective}, {result['direction']}",
        "seed": result["seed"],
    }
    sections = {
        "The best settings": [shell(best["command"])],
        "What was searched": [table(facts)],
        "What the trials say": _titled(drawn),
        "All trials, best first": [grid(["trial", objective, *names, "epochs"], rows)],
    }
    figures = [
        (f"Best {objective}", number(best["score"]), f"trial {best['trial']}"),
        ("Trials", len(trials), count),
        ("Time", duration(result["seconds"]), ""),
    ]
    return page(
        title,
        [
            f"<header><h1>{text(title)}</h1></header>",
            cards(figures),
            contents(sections),
            *(section(name, parts) for name, parts in sections.items()),
        ],
    )


def _first_figures(task, result, history):
    name = headline(task, result["test"])
    unit = task.metrics.get(name, Metric()).unit
    interval = result.get("intervals", {}).get("test", {}).get(name)
    remark = f"{intervals.LEVEL:.0%} interval {between(interval, unit)} {unit}" if interval else ""
    value = with_unit(result["test"][name], unit)
    speed = f"{result['throughput']:,.0f} {result['unit']} a second"
    return [
        (f"Test {words(name)}", value, remark),
        ("Training time", duration(result["seconds"]), speed),
        ("Epochs", len(history), counted(result["steps"], "step")),
        ("Parameters", f"{result['parameters']:,}", f"seed {result['seed']}"),
    ]


def _figures(task, result):
    """The splits, and a row for each metric: `(name, unit)`, then `(value, interval)` per split."""
    splits = [split for split in ("test", "validation", "train") if result.get(split)]
    measured = dict.fromkeys(name for split in splits for name in result[split])
    names = [name for name in task.metrics if name in measured]
    names += [name for name in measured if name not in names]
    bounds = result.get("intervals", {})
    rows = []
    for name in names:
        unit = task.metrics.get(name, Metric()).unit
        cells = [
            (number(result[s].get(name), unit), between(bounds.get(s, {}).get(name), unit))
            for s in splits
        ]
        rows.append([(words(name), unit), *cells])
    return splits, rows


def summary(task, result):
    """Format a result as a table for a terminal.

    Args:
        task: A `Task`.
        result: The content of `result.json`.

    Returns:
        Lines of text.
    """
    splits, rows = _figures(task, result)
    table = [["", *splits]]
    for (name, unit), *cells in rows:
        values = [f"{value} ({interval})" if interval else value for value, interval in cells]
        table.append([f"{name} {unit}".strip(), *values])
    trained = (
        f"{duration(result['seconds'])}, {counted(result['steps'], 'step')}, "
        f"{counted(result['parameters'], 'parameter')}, seed {result['seed']}"
    )
    notes = [f"Note: {note}" for note in result.get("notes", ())]
    return "\n".join([*aligned(table), f"Trained in {trained}.", *notes])


def _measured(task, result):
    splits, rows = _figures(task, result)
    parts = [grid(["", *splits], rows)]
    if result.get("intervals", {}).get("test"):
        parts.append(f'<p class="soft">{text(about_intervals(result))}</p>')
    return parts


def about_intervals(result):
    """Explain the intervals of a result."""
    over = {}
    for name, examples in result["resampled"]["test"].items():
        over.setdefault(examples, []).append(words(name))
    if len(over) == 1:
        (basis,) = over
    else:
        basis = "; ".join(f"{examples} ({', '.join(names)})" for examples, names in over.items())
    return (
        f"Below the test metrics: {intervals.LEVEL:.0%} percentile bootstrap intervals "
        f"({intervals.DRAWS:,} draws) over {basis}. They cover the choice of test examples, not "
        "the seed of the training. They are too narrow where examples depend on each other, as "
        "neighbouring blocks of a text do."
    )


def _curves(task, history):
    best = best_epoch(history) if task.overfits else None
    drawn = {}
    for name in plots.logged(history):
        unit = task.metrics.get(name, Metric()).unit
        drawn[f"{words(name)} over epochs"] = plots.learning_curve(history, name, unit, best)
    return [
        f'<div class="row">{"".join(picture(name, curve) for name, curve in drawn.items())}</div>',
        '<p class="soft">Training values are means over the batches of an epoch, with dropout and '
        "augmentation. Validation values are measured after the epoch, without them, and so are "
        "both in the table above, after training.</p>",
    ]


def _titled(figures):
    return [f"<h3>{text(name)}</h3>{picture(name, figure)}" for name, figure in figures.items()]


def _row(figures):
    parts = "".join(picture(name, figure, name) for name, figure in figures.items())
    return f'<div class="row">{parts}</div>'
