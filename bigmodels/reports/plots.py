"""The figures of a report. None of them is registered with `matplotlib.pyplot`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

# Class names may be Chinese: add a Chinese font if one is installed.
_CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei",
            "PingFang SC", "SimHei")  # fmt: skip
_installed = set(font_manager.get_font_names())
rcParams["font.family"] = ["DejaVu Sans", *(name for name in _CHINESE if name in _installed)]

# Trials; with fewer, a random forest cannot rank the settings of a search.
_FEWEST_FOR_IMPORTANCE = 10
# Predictions in a bin of the reliability diagram.
_FEWEST_OF_BIN = 30

_GREY = "#666666"
_COLOURS = ("#1f6f8b", "#d1603d", "#5b8c5a", "#8e6bb0", "#b8860b", "#444444")
_LINES = ("-", "--", ":", "-.")
# Boxes: colour (visible on light and dark images), line style, and whether the text is below.
_BOXES = {"true": ("#5bd35b", "--", True), "found": ("#ff8c42", "-", False)}


def logged(history: Sequence[dict]) -> list[str]:
    """The names of the metrics in a history.

    Args:
        history: One dict per epoch, as in `metrics.jsonl`; `val_` marks validation metrics.

    Returns:
        The names in the history's order, without the validation metrics.

    Example:

    >>> logged([{"epoch": 1, "seconds": 2.0, "loss": 0.5, "val_loss": 0.6}])
    ['loss']
    """
    return [
        key
        for key, value in history[0].items()
        if not key.startswith("val_")
        and key not in ("epoch", "seconds", "learning_rate")
        and isinstance(value, float | int)
    ]


def learning_curve(
    history: Sequence[dict], name: str, unit: str = "", best: int | None = None
) -> Figure:
    """Plot one metric over epochs, for training and validation.

    Args:
        history: As for `logged`.
        name: Name of the metric.
        unit: Unit in the axis label; "%" converts fractions to percent.
        best: Epoch to mark, or `None`.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> history = [{"epoch": 1, "loss": 0.5, "val_loss": 0.6}]
    >>> learning_curve(history, "loss").axes[0].get_xlabel()
    'epoch'
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    _draw_curve(figure.subplots(), history, name, unit, best)
    return figure


def in_percent(values: Sequence[float], unit: str) -> list[float]:
    """Convert fractions to percent if the unit is "%".

    Args:
        values: Numbers.
        unit: Unit of the metric.

    Returns:
        The values, times 100 if `unit` is "%".

    Example:

    >>> in_percent([0.25, 0.5], "%")
    [25.0, 50.0]
    """
    return [100 * value for value in values] if unit == "%" else values


def learning_curves(history: Sequence[dict], units: dict[str, str] | None = None) -> Figure:
    """Plot all metrics over epochs, one panel per metric.

    Args:
        history: As for `logged`.
        units: `{metric: unit}`, as for `learning_curve`.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> history = [{"epoch": 1, "loss": 0.5, "val_loss": 0.6, "accuracy": 0.8}]
    >>> [axes.get_title() for axes in learning_curves(history, {"accuracy": "%"}).axes]
    ['loss', 'accuracy']
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
    if unit == "%":  # No margin far beyond 0 and 100 %.
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))
    if best is not None:
        axes.axvline(
            best, color=_GREY, linestyle=":", label=f"lowest validation loss (epoch {best})"
        )
    axes.set(title=_words(name), xlabel="epoch", ylabel=_words(name, unit))
    _finish(axes, whole_numbers=True)


def overlaid(curves: dict[str, tuple[Any, Any]], title: str, xlabel: str, ylabel: str) -> Figure:
    """Plot several curves in one figure, for example those of several runs.

    Args:
        curves: `{label: (x, y)}`, two sequences of numbers of the same length each.
        title: Title of the figure.
        xlabel: Label of the x axis.
        ylabel: Label of the y axis.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> curves = {"a": ([1, 2], [0.5, 0.4]), "b": ([1, 2], [0.6, 0.3])}
    >>> len(overlaid(curves, "Loss", "epoch", "loss").axes[0].lines)
    2
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, (label, (x, y)) in enumerate(curves.items()):
        # Distinguishable without colour too.
        colour, line = _COLOURS[i % len(_COLOURS)], _LINES[i % len(_LINES)]
        axes.plot(x, y, color=colour, linestyle=line, marker=_marker(x), label=label)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    _finish(axes, whole_numbers=xlabel == "epoch")
    return figure


def scaling(points: dict[str, tuple[float, float]], law: Any, ylabel: str) -> Figure:
    """Plot the losses of runs over their training compute, with the fitted law if it is of that.

    Args:
        points: `{name of a run: (floating-point operations, loss)}`.
        law: A `bigmodels.evaluation.scaling.ScalingLaw`.
        ylabel: Label of the y axis.

    Returns:
        A matplotlib `Figure` with logarithmic axes.

    Example:

    >>> from bigmodels.evaluation.scaling import fit
    >>> points = {"a": (1e12, 5.0), "b": (2e12, 4.0), "c": (4e12, 3.5), "d": (8e12, 3.25)}
    >>> compute, losses = zip(*points.values())
    >>> scaling(points, fit(losses, compute=compute), "loss").axes[0].get_xscale()
    'log'
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    compute, losses = np.transpose(list(points.values()))
    axes.plot(compute, losses, "o", color=_COLOURS[0], label="runs")
    for name, point in points.items():
        axes.annotate(name, point, (4, 4), textcoords="offset points", fontsize="small")
    if law.exponents.keys() == {"compute"}:
        drawn = np.geomspace(compute.min(), 3 * compute.max(), 100)
        label = f"fit, exponent {law.exponents['compute']:.3f}"
        axes.plot(drawn, law.predict(compute=drawn), color=_COLOURS[1], label=label)
    axes.set(xlabel="floating-point operations of the training", ylabel=ylabel)
    axes.set(title="loss over training compute", xscale="log", yscale="log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    _finish(axes, whole_numbers=False)
    return figure


def _marker(points):
    return "o" if len(points) == 1 else None


def _words(name, unit=""):
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def _finish(axes, whole_numbers):
    if whole_numbers:
        low, high = axes.get_xlim()
        if high - low < 1:  # A single epoch; otherwise the ticks would be fractions of epochs.
            middle = round((low + high) / 2)
            axes.set_xlim(middle - 0.5, middle + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def class_counts(
    counts: dict[str, np.ndarray], class_names: Sequence[str], unit: str = "images"
) -> Figure:
    """Plot the number of examples per class, one panel per split.

    Args:
        counts: `{split: integers (classes,)}`.
        class_names: One name per class; not shown if there are more than 40.
        unit: What is counted, as the axis label.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = class_counts({"train": [3, 5], "test": [1, 2]}, ["cat", "dog"])
    >>> [axes.get_title() for axes in figure.axes]
    ['train', 'test']
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
    panels[0].invert_yaxis()  # The panels share this axis.
    return figure


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Plot a confusion matrix.

    Args:
        labels: True class indices `(n,)`.
        predicted: Predicted class indices `(n,)`.
        class_names: One name per class.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = confusion_matrix([0, 1, 1], [0, 1, 0], ["cat", "dog"])
    >>> figure.axes[0].get_ylabel()
    'true'
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


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int) -> Figure:
    """Plot a reliability diagram: accuracy against confidence, with a histogram of confidence.

    The bins hold equally many predictions. Error bars are 95% Wilson intervals.

    Args:
        confidence: Highest probability of each prediction, `(n,)`.
        right: Whether the prediction is correct, booleans `(n,)`.
        bins: Largest number of bins; reduced until each holds at least 30 predictions.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = reliability(np.array([0.6, 0.7, 0.9]), np.array([False, True, True]), bins=15)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy', 'predictions']
    """
    from scipy.stats import binomtest

    confidence, right = np.asarray(confidence), np.asarray(right, bool)
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], _GREY, linestyle=":", label="perfectly calibrated")
    number = min(bins, max(1, len(confidence) // _FEWEST_OF_BIN))
    parts = np.array_split(np.argsort(confidence, kind="stable"), number)
    mean = [confidence[part].mean() for part in parts]
    accuracy = np.array([right[part].mean() for part in parts])
    ends = [binomtest(int(right[p].sum()), len(p)).proportion_ci(method="wilson") for p in parts]
    errors = np.abs(np.transpose([(end.low, end.high) for end in ends]) - accuracy)
    style = {"color": _COLOURS[0], "marker": "o", "capsize": 2, "label": "measured"}
    upper.errorbar(mean, accuracy, errors, **style)
    upper.set(ylabel="accuracy")
    _finish(upper, whole_numbers=False)
    lower.hist(confidence, bins, (0, 1), color=_COLOURS[0])
    lower.set(xlabel="confidence", ylabel="predictions", yscale="log")
    lower.spines[["top", "right"]].set_visible(False)
    return figure


def image_grid(
    images: np.ndarray,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    scale: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Draw a grid of images.

    Args:
        images: `(n, height, width, channels)`, with one or three channels.
        titles: A line above each image, or `None`.
        columns: Images per row; titles remain readable on a phone with 6.
        scale: Range of the pixel values.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> len(image_grid(np.zeros((3, 4, 4, 1)), titles=["a", "b", "c"]).axes)
    3
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


def boxed_images(
    images: Sequence[np.ndarray], boxes: Sequence[dict], columns: int = 4, side: float = 1.9
) -> Figure:
    """Draw a grid of images with bounding boxes.

    Args:
        images: Images `(height, width, channels)` in [0, 1].
        boxes: For each image `{kind: rows}`, each row `(left, top, right, bottom, text)` in pixels.
            The kind is "true" (ground truth) or "found" (detections).
        columns: Images per row.
        side: Size of an image in inches.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = boxed_images([np.zeros((8, 8, 1))], [{"true": [(1, 1, 5, 6, "cat")]}])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['cat']
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
        for kind, rows in boxes[i].items():
            colour, line, below = _BOXES[kind]
            for left, top, right, bottom, text in rows:
                # matplotlib puts the centres of pixels at whole numbers.
                x = np.array([left, right, right, left, left]) - 0.5
                y = np.array([top, top, bottom, bottom, top]) - 0.5
                axes.plot(x, y, color=colour, linestyle=line, linewidth=1.2)
                where, align = (y[2], "top") if below else (y[0], "bottom")
                style = {"fontsize": 7, "va": align, "color": colour, "parse_math": False}
                axes.text(x[0], where, text, **style)
        axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    if all(len(kinds) == len(_BOXES) for kinds in boxes):
        lines = [
            Line2D([], [], color=colour, linestyle=line) for colour, line, _ in _BOXES.values()
        ]
        labels = ["ground truth", "detected"]
        figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def attention_map(weights: np.ndarray, sources: Sequence[str], targets: Sequence[str]) -> Figure:
    """Plot attention weights as a heat map.

    Args:
        weights: `(targets, sources)`; each row adds up to 1.
        sources: The source tokens, as strings.
        targets: The target tokens, as strings.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = attention_map(np.full((1, 2), 0.5), ["a", "b"], ["x"])
    >>> figure.axes[0].get_xlabel()
    'source'
    """
    size = (2 + 0.3 * len(sources), 1.6 + 0.3 * len(targets))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(sources)), sources, rotation="vertical")
    axes.set_yticks(range(len(targets)), targets)
    axes.set(xlabel="source", ylabel="target")
    return figure


def series(
    times: np.ndarray,
    values: np.ndarray,
    variables: Sequence[str],
    borders: dict[str, tuple[int, int]],
) -> Figure:
    """Plot time series, one panel per variable, with a colour for each split.

    Args:
        times: Numbers or dates `(rows,)`.
        values: `(rows, variables)`.
        variables: Names of the variables; only the first twelve are drawn.
        borders: `{split: (first row, row after the last)}`.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = series(np.arange(9), np.zeros((9, 2)), ["a", "b"], {"train": (0, 6)})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['a', 'b']
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


def forecasts(panels: Sequence[dict], variables: Sequence[str], coverage: float) -> Figure:
    """Plot forecasts with their bounds, and the values that followed.

    Args:
        panels: One dict per window: a `title`, and arrays `(steps, variables)`: the history
            `before`, of any number of steps; `after`, `forecast`, `lower` and `upper`, of the
            horizon's number of steps.
        variables: Names of the variables, one row of panels each.
        coverage: Nominal coverage of the bounds, from 0 to 1.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> arrays = {name: np.zeros((2, 1)) for name in ("after", "forecast", "lower", "upper")}
    >>> panel = {"title": "1959", "before": np.zeros((5, 1)), **arrays}
    >>> forecasts([panel], ["x"], coverage=0.9).axes[0].get_title()
    '1959'
    """
    size = (max(4.6, 3.4 * len(panels)), 0.9 + 1.7 * len(variables))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(variables), len(panels), sharex=True, squeeze=False)
    for column, panel in enumerate(panels):
        steps = np.arange(1, len(panel["after"]) + 1)
        past = np.arange(1 - len(panel["before"]), 1)
        for i, axes in enumerate(grid[:, column]):
            axes.plot(past, panel["before"][:, i], color=_GREY, label="history")
            axes.plot(steps, panel["after"][:, i], color=_COLOURS[0], label="actual")
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


def spectrograms(
    features: Sequence[np.ndarray],
    seconds_per_frame: float,
    titles: Sequence[str],
    marks: Sequence[list[tuple[float, str]]] | None = None,
) -> Figure:
    """Plot spectrograms, one above the other.

    Args:
        features: A spectrogram `(frames, bands)` per recording.
        seconds_per_frame: Time between two frames in seconds.
        titles: A line above each spectrogram.
        marks: Pairs `(second, text)` to mark, per recording; or `None`.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> figure = spectrograms([np.zeros((20, 8))], 0.01, ["hello"], [[(0.1, "h")]])
    >>> figure.axes[0].get_title(), figure.axes[0].texts[0].get_text()
    ('hello', 'h')
    """
    figure = Figure(figsize=(7, 1.9 * len(features)), layout="constrained")
    panels = figure.subplots(len(features), 1, squeeze=False)[:, 0]
    longest = max(len(frames) for frames in features) * seconds_per_frame
    for i, (axes, frames, title) in enumerate(zip(panels, features, titles, strict=True)):
        end = len(frames) * seconds_per_frame
        extent = (0, end, 0, frames.shape[1])
        axes.imshow(frames.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
        axes.set_title(title, fontsize=9, color=_GREY, pad=16 if marks else 6)
        axes.set(xlim=(0, longest), ylabel="mel band")
        for second, text in marks[i] if marks else ():
            axes.axvline(second, color="white", linewidth=0.8, linestyle=":")
            axes.annotate(
                "\N{OPEN BOX}" if text == " " else text,
                (second, frames.shape[1]),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                annotation_clip=False,
            )
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds")
    return figure


def parallel_coordinates(
    settings: Sequence[dict],
    scores: Sequence[float],
    names: Sequence[str],
    objective: str,
    higher_is_better: bool,
) -> Figure:
    """Plot the trials of a search in parallel coordinates: a line through settings and score.

    Args:
        settings: `{name: value}` for each trial, with numbers, strings or booleans; a missing
            value interrupts the line.
        scores: The score of each trial.
        names: Settings to draw, one axis each.
        objective: Name of the score.
        higher_is_better: Whether a higher score is better.

    Returns:
        A matplotlib `Figure`.

    Example:

    >>> settings = [{"units": 8, "kind": "a"}, {"units": 16, "kind": "b"}]
    >>> figure = parallel_coordinates(settings, [0.5, 0.25], ["units", "kind"], "loss", False)
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['units', 'kind', 'loss']
    """
    columns = [[row.get(name) for row in settings] for name in names] + [list(scores)]
    places, ticks = zip(*(_axis(values) for values in columns), strict=True)
    figure = Figure(figsize=(max(5, 1.9 * len(columns)), 4.2), layout="constrained")
    axes = figure.subplots()
    # The best is drawn last, on top.
    order = np.argsort(scores if higher_is_better else -np.asarray(scores))
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
    """Positions of values on an axis from 0 to 1, and `(position, text)` of its tick marks."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str | bool) for value in known):
        kinds = sorted(set(map(str, known)))
        positions = {kind: i / max(len(kinds) - 1, 1) for i, kind in enumerate(kinds)}
        marks = [(position, kind) for kind, position in positions.items()]
        return [positions.get(str(value), np.nan) for value in values], marks
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


def importance(
    settings: Sequence[dict], scores: Sequence[float], names: Sequence[str]
) -> Figure | None:
    """Plot the permutation importance of each setting of a search.

    A random forest is fitted to the trials. The importance of a setting is the decrease of R² when
    its values are shuffled among the trials.

    Args:
        settings: `{name: value}` for each trial.
        scores: The score of each trial.
        names: Settings to rate.

    Returns:
        A matplotlib `Figure`; or `None` if there are fewer than ten trials or two settings.

    Example:

    >>> print(importance([{"units": 8}, {"units": 16}], [0.5, 0.25], ["units"]))
    None
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = [name for name in names if len({str(row.get(name)) for row in settings}) > 1]
    if len(scores) < _FEWEST_FOR_IMPORTANCE or len(names) < 2:
        return None
    columns = [_axis([row.get(name) for row in settings])[0] for name in names]
    values = np.nan_to_num(np.transpose(columns), nan=-1.0)
    forest = RandomForestRegressor(100, oob_score=True, random_state=0).fit(values, scores)
    result = permutation_importance(forest, values, scores, n_repeats=10, random_state=0)
    figure = Figure(figsize=(6.5, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(result.importances_mean)
    axes.barh(
        [names[i] for i in order],
        result.importances_mean[order],
        xerr=result.importances_std[order],
        color=_COLOURS[0],
        ecolor=_GREY,
    )
    axes.set_xlabel("decrease of R² when the setting is shuffled")
    axes.set_title(
        f"Random forest over {len(scores)} trials\nout-of-bag R²: {forest.oob_score_:.2f}"
        + (" (not reliable)" if forest.oob_score_ < 0.3 else ""),
        fontsize=9,
    )
    return figure
