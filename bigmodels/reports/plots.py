"""The pictures of a report, drawn with matplotlib, without its global figures."""

import math

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

# Class names may be Chinese: use a font that has them, where one is installed.
_CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei",
            "PingFang SC", "SimHei")  # fmt: skip
_installed = set(font_manager.get_font_names())
rcParams["font.family"] = ["DejaVu Sans", *(name for name in _CHINESE if name in _installed)]

# Below it, a forest cannot say which settings of a search matter.
_FEWEST_FOR_IMPORTANCE = 10
# Answers in a bin of the calibration plot.
_FEWEST_OF_BIN = 30

_GREY = "#666666"
_COLOURS = ("#1f6f8b", "#d1603d", "#5b8c5a", "#8e6bb0", "#b8860b", "#444444")
_LINES = ("-", "--", ":", "-.")
# Boxes on images, light and dark ones: colour, line, and whether the text stands below them.
_BOXES = {"true": ("#5bd35b", "--", True), "found": ("#ff8c42", "-", False)}


def logged(history):
    """The metrics of a history, in its order.

    Args:
        history: List of dicts, one an epoch, as in `metrics.jsonl`; `val_` marks validation.

    Returns:
        Their names, without those of validation.
    """
    return [
        key
        for key, value in history[0].items()
        if not key.startswith("val_")
        and key not in ("epoch", "seconds", "learning_rate")
        and isinstance(value, float | int)
    ]


def learning_curve(history, name, unit="", best=None):
    """One metric of training and validation over epochs.

    Args:
        history: As for `logged`.
        name: The metric.
        unit: What stands behind its name at the axis.
        best: An epoch to mark, or `None`.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    _draw_curve(figure.subplots(), history, name, unit, best)
    return figure


def in_percent(values, unit):
    """Shares as percent where the unit says so; other values as they are."""
    return [100 * value for value in values] if unit == "%" else values


def learning_curves(history, units=None):
    """Training and validation over epochs, one panel a metric.

    Args:
        history: As for `logged`.
        units: `{metric: unit}`, as for `learning_curve`.

    Returns:
        A matplotlib `Figure`.
    """
    names = logged(history)
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_curve(axes, history, name, (units or {}).get(name, ""))
    return figure


def _draw_curve(axes, history, name, unit="", best=None):
    epochs = [row["epoch"] for row in history]
    for key, label, colour in ((name, "training", 0), (f"val_{name}", "validation", 1)):
        if key in history[0]:
            values = in_percent([row.get(key, math.nan) for row in history], unit)
            axes.plot(epochs, values, _COLOURS[colour], marker=_marker(epochs), label=label)
    if unit == "%":  # No margin beyond what a share can be.
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))
    if best is not None:
        axes.axvline(
            best, color=_GREY, linestyle=":", label=f"lowest validation loss (epoch {best})"
        )
    axes.set(title=_words(name), xlabel="epoch", ylabel=_words(name, unit))
    _finish(axes, whole_numbers=True)


def overlaid(curves, title, xlabel, ylabel):
    """Several runs' curves in one picture.

    Args:
        curves: `{run: (x, y)}`, two lists of numbers each.
        title: Heading.
        xlabel: Under the horizontal axis.
        ylabel: Beside the vertical axis.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, (label, (x, y)) in enumerate(curves.items()):
        # Told apart without colour too.
        colour, line = _COLOURS[i % len(_COLOURS)], _LINES[i % len(_LINES)]
        axes.plot(x, y, color=colour, linestyle=line, marker=_marker(x), label=label)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    _finish(axes, whole_numbers=xlabel == "epoch")
    return figure


def _marker(points):
    return "o" if len(points) == 1 else None


def _words(name, unit=""):
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def _finish(axes, whole_numbers):
    if whole_numbers:
        low, high = axes.get_xlim()
        if high - low < 1:  # One epoch: without room, the axis would show fractions of it.
            middle = round((low + high) / 2)
            axes.set_xlim(middle - 0.5, middle + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def class_counts(counts, class_names, unit="images"):
    """How many examples each class has.

    Args:
        counts: `{split: (classes,) integers}`.
        class_names: One name a class; beyond 40 they are left out.
        unit: What is counted.

    Returns:
        A matplotlib `Figure`.
    """
    classes = range(len(class_names))
    height = 1.2 + 0.2 * min(len(class_names), 40)
    figure = Figure(figsize=(7, height), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (split, numbers), colour in zip(panels, counts.items(), _COLOURS, strict=False):
        axes.barh(classes, numbers, color=colour)
        axes.set(title=split, xlabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(*((classes, class_names) if len(class_names) <= 40 else ([],)))
    panels[0].set_ylabel("class")
    panels[0].invert_yaxis()  # The panels share it.
    return figure


def confusion_matrix(labels, predicted, class_names):
    """How often each class is taken for each other.

    Args:
        labels: True class numbers.
        predicted: Predicted class numbers.
        class_names: One name a class.

    Returns:
        A matplotlib `Figure`.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    count = len(class_names)
    size = min(4 + 0.35 * count, 14)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(count),
        display_labels=class_names,
        include_values=count <= 20,
        cmap="Blues",
        xticks_rotation="vertical",
        colorbar=False,
        ax=axes,
    )
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def reliability(confidence, right, bins):
    """How often an answer is right, against the probability that was given to it.

    The answers are divided by their probability into bins of as many each, as a share of a few
    answers says nothing. Bars are 95 % intervals (Wilson).

    Args:
        confidence: Highest probability of each answer, `(answers,)`.
        right: Whether it was right, `(answers,)`.
        bins: How many bins at most; fewer where they would hold less than 30 answers each.

    Returns:
        A matplotlib `Figure`.
    """
    from scipy.stats import binomtest

    confidence, right = np.asarray(confidence), np.asarray(right, bool)
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], _GREY, linestyle=":", label="perfectly calibrated")
    number = min(bins, max(1, len(confidence) // _FEWEST_OF_BIN))
    parts = np.array_split(np.argsort(confidence, kind="stable"), number)
    mean = [confidence[part].mean() for part in parts]
    share = np.array([right[part].mean() for part in parts])
    ends = [binomtest(int(right[p].sum()), len(p)).proportion_ci(method="wilson") for p in parts]
    reach = np.abs(np.transpose([(end.low, end.high) for end in ends]) - share)
    upper.errorbar(mean, share, reach, color=_COLOURS[0], marker="o", capsize=2, label="measured")
    upper.set(ylabel="share of right answers")
    _finish(upper, whole_numbers=False)
    lower.hist(confidence, bins, (0, 1), color=_COLOURS[0])
    lower.set(xlabel="probability of the answer", ylabel="answers", yscale="log")
    lower.spines[["top", "right"]].set_visible(False)
    return figure


def image_grid(images, titles=None, columns=8, scale=(0.0, 1.0)):
    """Images side by side.

    Args:
        images: `(n, height, width, channels)`.
        titles: A line above each, or `None`.
        columns: Images a row; those with titles are to stay readable on a phone with 6.
        scale: Range of the pixel values.

    Returns:
        A matplotlib `Figure`.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height = 1.15 if titles is None else 1.45
    figure = Figure(figsize=(1.15 * columns, height * rows), layout="constrained")
    low, high = scale
    for i, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.axis("off")
        if i < len(images):
            picture = np.clip((np.asarray(images[i], "float32") - low) / (high - low), 0, 1)
            grey = picture.shape[-1] == 1
            axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=1)
            if titles is not None:
                axes.set_title(titles[i], fontsize=9, color=_GREY)
    return figure


def boxed_images(images, boxes, columns=4, side=1.9):
    """Images side by side, with boxes on them.

    Args:
        images: `(height, width, channels)` each, from 0 to 1.
        boxes: For each image `{kind: rows}`, a row `(left, top, right, bottom, text)` in pixels;
            the kinds are "true" and "found", told apart by colour and line.
        columns: Images a row.
        side: Inches of an image.

    Returns:
        A matplotlib `Figure`.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(side * columns, side * rows + 0.3), layout="constrained")
    for i, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.axis("off")
        if i >= len(images):
            continue
        picture = np.clip(images[i], 0, 1)
        grey = picture.shape[-1] == 1
        axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=1)
        for kind, found in boxes[i].items():
            colour, line, below = _BOXES[kind]
            for left, top, right, bottom, text in found:
                # Pixels lie around their numbers.
                x = np.array([left, right, right, left, left]) - 0.5
                y = np.array([top, top, bottom, bottom, top]) - 0.5
                axes.plot(x, y, color=colour, linestyle=line, linewidth=1.2)
                where, align = (y[2], "top") if below else (y[0], "bottom")
                style = {"fontsize": 7, "va": align, "color": colour, "parse_math": False}
                axes.text(x[0], where, text, **style)
        axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    if all(len(each) == len(_BOXES) for each in boxes):
        lines = [
            Line2D([], [], color=colour, linestyle=line) for colour, line, _ in _BOXES.values()
        ]
        figure.legend(lines, [*_BOXES], loc="outside lower center", ncols=2, frameon=False)
    return figure


def attention_map(weights, sources, targets):
    """How much each token that is written looks at each that is read.

    Args:
        weights: `(targets, sources)`, shares.
        sources: Names of the tokens read.
        targets: Names of the tokens written.

    Returns:
        A matplotlib `Figure`.
    """
    size = (2 + 0.3 * len(sources), 1.6 + 0.3 * len(targets))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(sources)), sources, rotation="vertical")
    axes.set_yticks(range(len(targets)), targets)
    axes.set(xlabel="read", ylabel="written")
    return figure


def series(times, values, variables, borders):
    """Measurements over time, the splits told apart by colour.

    Args:
        times: `(rows,)` numbers or dates.
        values: `(rows, variables)`.
        variables: Their names; beyond twelve they are left out.
        borders: `{split: (first row, row after the last)}`.

    Returns:
        A matplotlib `Figure`.
    """
    variables = variables[:12]
    figure = Figure(figsize=(9, 1 + 1.3 * len(variables)), layout="constrained")
    panels = figure.subplots(len(variables), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, variable) in enumerate(zip(panels, variables, strict=True)):
        axes.plot(times, values[:, i], color=_GREY, linewidth=0.6, alpha=0.5)
        for (split, (begin, end)), colour in zip(borders.items(), _COLOURS, strict=False):
            part = slice(begin, end)
            axes.plot(times[part], values[part, i], color=colour, linewidth=0.8, label=split)
        axes.set_ylabel(variable)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def forecasts(panels, variables, coverage):
    """Forecasts with their bounds, and what came.

    Args:
        panels: One dict a window: `title`, and arrays `(steps, variables)`: `before`, of any
            number of steps; `after`, `forecast`, `lower` and `upper`, of the horizon.
        variables: Names of those to draw, a row each.
        coverage: The share that the bounds are to hold.

    Returns:
        A matplotlib `Figure`.
    """
    size = (max(4.6, 3.4 * len(panels)), 0.9 + 1.7 * len(variables))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(variables), len(panels), sharex=True, squeeze=False)
    for column, panel in enumerate(panels):
        steps = np.arange(1, len(panel["after"]) + 1)
        past = np.arange(1 - len(panel["before"]), 1)
        for i, axes in enumerate(grid[:, column]):
            axes.plot(past, panel["before"][:, i], color=_GREY, label="before")
            axes.plot(steps, panel["after"][:, i], color=_COLOURS[0], label="what came")
            axes.plot(steps, panel["forecast"][:, i], "--", color=_COLOURS[1], label="forecast")
            axes.fill_between(
                steps,
                panel["lower"][:, i],
                panel["upper"][:, i],
                color=_COLOURS[1],
                alpha=0.2,
                linewidth=0,
                label=f"{coverage:.0%} bounds",
            )
            axes.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axes.set_ylabel(variables[i])
        grid[0, column].set_title(panel["title"], fontsize=9)
        grid[-1, column].set_xlabel("steps ahead")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def spectrograms(features, seconds_per_frame, titles, marks=None):
    """Sounds as the network hears them, one above the other.

    Args:
        features: One `(frames, bands)` a sound.
        seconds_per_frame: From one frame to the next.
        titles: A line above each.
        marks: For each sound `(second, text)` of what is written where, or `None`.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(7, 1.9 * len(features)), layout="constrained")
    panels = figure.subplots(len(features), 1, squeeze=False)[:, 0]
    longest = max(len(each) for each in features) * seconds_per_frame
    for i, (axes, each, title) in enumerate(zip(panels, features, titles, strict=True)):
        end = len(each) * seconds_per_frame
        extent = (0, end, 0, each.shape[1])
        axes.imshow(each.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
        axes.set_title(title, fontsize=9, color=_GREY, pad=16 if marks else 6)
        axes.set(xlim=(0, longest), ylabel="mel band")
        for second, written in marks[i] if marks else ():
            axes.axvline(second, color="white", linewidth=0.8, linestyle=":")
            axes.annotate(
                "\N{OPEN BOX}" if written == " " else written,
                (second, each.shape[1]),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                annotation_clip=False,
            )
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds")
    return figure


def parallel_coordinates(settings, scores, names, objective, higher_is_better):
    """A line a trial through its settings to its score.

    Args:
        settings: One dict a trial, of numbers, strings or booleans; a missing one breaks the line.
        scores: One number a trial.
        names: Which of the settings to draw, one axis each.
        objective: What the score is.
        higher_is_better: Which end of the scores is.

    Returns:
        A matplotlib `Figure`.
    """
    columns = [[row.get(name) for row in settings] for name in names] + [list(scores)]
    places, ticks = zip(*(_axis(values) for values in columns), strict=True)
    figure = Figure(figsize=(max(5, 1.9 * len(columns)), 4.2), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(
        scores if higher_is_better else -np.asarray(scores)
    )  # The best last, on top.
    for place, i in enumerate(order):
        share = place / max(len(order) - 1, 1)
        best = place == len(order) - 1
        axes.plot(
            range(len(columns)),
            [column[i] for column in places],
            color=_COLOURS[1] if best else _COLOURS[0],
            linewidth=2.5 if best else 1.2,
            alpha=1 if best else 0.15 + 0.6 * share,
            marker="o",
            markersize=3,
            label="best" if best else None,
        )
    for x, marks in enumerate(ticks):
        axes.axvline(x, color=_GREY, linewidth=0.8)
        for y, text in marks:
            axes.annotate(
                text,
                (x, y),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_GREY,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            )
    axes.set_xticks(range(len(columns)), [n.replace(".", ".\n") for n in (*names, objective)])
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(columns) - 0.4)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12))
    return figure


def _axis(values):
    """Where values lie on an axis from 0 to 1, and `(where, text)` of its marks."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str | bool) for value in known):
        kinds = sorted(set(map(str, known)))
        where = {kind: i / max(len(kinds) - 1, 1) for i, kind in enumerate(kinds)}
        marks = [(place, kind) for kind, place in where.items()]
        return [where.get(str(value), np.nan) for value in values], marks
    low, high = min(known), max(known)
    scale = np.log if low > 0 and high / low > 10 else np.asarray
    begin, span = scale(low), (scale(high) - scale(low)) or 1.0
    marks = sorted(set(known))
    if len(marks) > 6:
        middle = np.sqrt(low * high) if scale is np.log else (low + high) / 2
        marks = [low, middle, high]
    return (
        [np.nan if value is None else float((scale(value) - begin) / span) for value in values],
        [(float((scale(mark) - begin) / span), f"{mark:.4g}") for mark in marks],
    )


def importance(settings, scores, names):
    """How much the score depends on each setting, as far as the trials can tell.

    A random forest is fitted to the trials; a setting is as important as the forest gets worse when
    its values are shuffled among the trials.

    Args:
        settings: One dict a trial.
        scores: One number a trial.
        names: Which of the settings to rate.

    Returns:
        A matplotlib `Figure`; or `None` if there are fewer than ten trials or two settings.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = [name for name in names if len({str(row.get(name)) for row in settings}) > 1]
    if len(scores) < _FEWEST_FOR_IMPORTANCE or len(names) < 2:
        return None
    columns = [_axis([row.get(name) for row in settings])[0] for name in names]
    values = np.nan_to_num(np.transpose(columns), nan=-1.0)
    forest = RandomForestRegressor(100, oob_score=True, random_state=0).fit(values, scores)
    found = permutation_importance(forest, values, scores, n_repeats=10, random_state=0)
    figure = Figure(figsize=(6.5, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(found.importances_mean)
    axes.barh(
        [names[i] for i in order],
        found.importances_mean[order],
        xerr=found.importances_std[order],
        color=_COLOURS[0],
        ecolor=_GREY,
    )
    axes.set_xlabel("fall of R² when the setting is shuffled")
    axes.set_title(
        f"Random forest over {len(scores)} trials\nR² on trials it has not seen: "
        f"{forest.oob_score_:.2f}" + (" (do not trust it)" if forest.oob_score_ < 0.3 else ""),
        fontsize=9,
    )
    return figure
