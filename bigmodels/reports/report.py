"""`report.html`: a run on one page, readable without a server or JavaScript."""

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
from bigmodels.tasks.settings import flat_settings


def headline(task, metrics):
    """The metric by which a run is judged first.

    Args:
        task: A `Task`.
        metrics: What was measured.

    Returns:
        Its name.
    """
    return next((name for name in task.metrics if name in metrics), next(iter(metrics)))


def best_epoch(history):
    """The epoch of the lowest validation loss, or `None` if there is none."""
    rows = [row for row in history if math.isfinite(row.get("val_loss", math.nan))]
    return min(rows, key=lambda row: row["val_loss"])["epoch"] if rows else None


def verdict(history, result, overfits=True):
    """Whether the run over- or underfits, in words, and how one can tell.

    Args:
        history: One dict an epoch.
        result: The run's result; its `train` and `validation` were both measured after training,
            without dropout or augmentation.
        overfits: Whether the losses can be compared at all; a GAN's cannot.

    Returns:
        A paragraph.
    """
    if not overfits:
        return (
            "A GAN's two losses pull against each other, so neither falling nor rising says that "
            "it fits well or badly. Look at the samples and at the figures of the separately "
            "trained judge."
        )
    train, validation = result["train"]["loss"], result["validation"]["loss"]
    curve = [row["val_loss"] for row in history if "val_loss" in row]
    best = min(range(len(curve)), key=curve.__getitem__)
    # How much higher the loss is on data that the model has not seen.
    gap = (validation - train) / max(train, 1e-9)
    losses = (
        f"After training, the loss without dropout or augmentation is {train:.4g} on training "
        f"data and {validation:.4g} on validation data ({gap:+.0%})."
    )
    if len(curve) > 2 and curve[-1] < 1e-3 * curve[0]:
        return f"It fits: validation loss is next to nothing of what it was at first. {losses}"
    if len(curve) > 2 and curve[-1] > 1.1 * curve[best]:
        return (
            f"It overfits: validation loss was lowest after epoch {best + 1} ({curve[best]:.4g}) "
            f"and has risen to {curve[-1]:.4g} since. {losses} Fewer epochs, more dropout, "
            "augmentation or data would help."
        )
    if len(curve) < 3:
        count = f"{counted(len(curve), 'epoch')} {'is' if len(curve) == 1 else 'are'}"
        return f"{count} too few to tell; train longer. {losses}"
    still = curve[-1] < 0.95 * curve[-2]
    if still and gap < 1:
        return (
            f"It underfits: validation loss still fell by {1 - curve[-1] / curve[-2]:.0%} in the "
            f"last epoch. {losses} More epochs or a higher learning rate would help."
        )
    if gap > 1:
        return (
            f"It fits the training data clearly better than new data, without harm so far: "
            f"validation loss has not risen from its lowest value ({curve[best]:.4g}). {losses} "
            "More dropout, augmentation or data may still help."
        )
    if gap < 0.05:
        return (
            f"It does not overfit; a larger model could still learn more. {losses} Validation "
            f"loss was lowest after epoch {best + 1} of {len(curve)}."
        )
    return (
        f"It fits well: validation loss ends near its lowest value (epoch {best + 1} of "
        f"{len(curve)}), not far above the training loss. {losses}"
    )


def render(task, result, history, config, *, used, describe, examples, drawn, samples, command):
    """A run's page.

    Args:
        task: Its `Task`.
        result: The content of `result.json`.
        history: One dict an epoch.
        config: The content of `config.json`.
        used: `{dotted name: value}`, what stood for settings that were not given.
        describe: `{what: value}`, lines on the data.
        examples: `{title: Figure or str}`, a look at the data.
        drawn: `{title: Figure or str}`, what the trained model makes of it.
        samples: `{title: Figure, path or str}`, made while it was trained.
        command: How to repeat the run.

    Returns:
        HTML, with every picture inside.
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
        "Run it again": [shell(command)],
        "Settings": [table(_settings(flat_settings(config["config"]), used))],
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


def _settings(given, used):
    """Settings as they were used; those that were left to the program say so."""
    lines = {}
    for name, value in given.items():
        if value not in (None, "auto", [], ()):
            lines[name] = value
        elif name in used:
            lines[name] = f"{plain(used[name])} (auto)"
        else:
            lines[name] = "not set"
    return lines


def _speed(result):
    """How fast it was and what ran, `{what: value}`; a result of an older version lacks some."""
    shares = {
        "waiting for input": "input_wait",
        "share of the machine's rate of large products": "share_of_limit",
    }
    lines = {f"{result['unit']} a second": f"{result['throughput']:,.0f}"}
    if "first_step_seconds" in result:
        lines["first step, which traces the model"] = duration(result["first_step_seconds"] or 0)
    for what, name in shares.items():
        if result.get(name) is not None:
            lines[what] = f"{result[name]:.1%}"
    if result.get("peak_memory") is not None:
        lines["peak memory"] = f"{result['peak_memory'] / 1e9:.2f} GB"
    kernels = {f"kernel: {what}": kernel for what, kernel in result.get("kernels", {}).items()}
    if "precision" in result:
        lines["precision"] = result["precision"]
    return lines | kernels


def render_search(title, result, drawn):
    """The page of a search.

    Args:
        title: Heading.
        result: The search's result.
        drawn: Title to matplotlib `Figure`.

    Returns:
        HTML, with every picture inside.
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
    """The measured splits, and a row for each metric: its name and unit, then value and interval.

    Each cell is a pair of strings.
    """
    splits = [split for split in ("test", "validation", "train") if result.get(split)]
    measured = dict.fromkeys(name for split in splits for name in result[split])
    names = [name for name in task.metrics if name in measured]
    names += [name for name in measured if name not in names]
    given = result.get("intervals", {})
    rows = []
    for name in names:
        unit = task.metrics.get(name, Metric()).unit
        cells = [
            (number(result[s].get(name), unit), between(given.get(s, {}).get(name), unit))
            for s in splits
        ]
        rows.append([(words(name), unit), *cells])
    return splits, rows


def summary(task, result):
    """A result as a small table for a terminal.

    Args:
        task: A `Task`.
        result: The content of `result.json`.

    Returns:
        Lines of text.
    """
    splits, rows = _figures(task, result)
    table = [["", *splits]]
    for (name, unit), *cells in rows:
        shown = [f"{value} ({interval})" if interval else value for value, interval in cells]
        table.append([f"{name} {unit}".strip(), *shown])
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
    """What the intervals of a result rest on, in words."""
    over = {}
    for name, what in result["resampled"]["test"].items():
        over.setdefault(what, []).append(words(name))
    if len(over) == 1:
        (rests_on,) = over
    else:
        rests_on = "; ".join(f"{what} ({', '.join(names)})" for what, names in over.items())
    return (
        f"Below the test figures: {intervals.LEVEL:.0%} bootstrap intervals ({intervals.DRAWS:,} "
        f"draws, percentiles) over {rests_on}. They say what other test examples would have "
        "changed, not what another seed would have; where examples resemble each other, as "
        "neighbouring blocks of a text do, they are too narrow."
    )


def _curves(task, history):
    best = best_epoch(history) if task.overfits else None
    drawn = {}
    for name in plots.logged(history):
        unit = task.metrics.get(name, Metric()).unit
        drawn[f"{words(name)} over epochs"] = plots.learning_curve(history, name, unit, best)
    return [
        f'<div class="row">{"".join(picture(name, what) for name, what in drawn.items())}</div>',
        '<p class="soft">Training values are means over the epoch, while the weights move, and '
        "with dropout and augmentation where there are any; validation is measured after the "
        "epoch, without. The table above measures both after training, without.</p>",
    ]


def _titled(pictures):
    return [f"<h3>{text(name)}</h3>{picture(name, what)}" for name, what in pictures.items()]


def _row(pictures):
    each = "".join(picture(name, what, name) for name, what in pictures.items())
    return f'<div class="row">{each}</div>'
