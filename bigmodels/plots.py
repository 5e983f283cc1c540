"""The pictures of a report, drawn with matplotlib, without its global figures."""

import math

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Class names may be Chinese: use a font that has them, where one is installed.
_CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei",
            "PingFang SC", "SimHei")  # fmt: skip
_installed = set(font_manager.get_font_names())
rcParams["font.family"] = ["DejaVu Sans", *(name for name in _CHINESE if name in _installed)]

# Below it, a forest cannot say which settings of a search matter.
_FEWEST_FOR_IMPORTANCE = 10

_GREY, _COLOURS = "#666666", ("#1f6f8b", "#d1603d", "#5b8c5a", "#8e6bb0")


def learning_curves(history):
    """Training and validation over epochs, one panel a metric.

    Args:
        history: List of dicts, one an epoch, as in `metrics.jsonl`; `val_` marks validation.

    Returns:
        A matplotlib `Figure`.
    """
    names = [
        key
        for key, value in history[0].items()
        if not key.startswith("val_")
        and key not in ("epoch", "seconds", "learning_rate")
        and isinstance(value, float | int)
    ]
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, [r.get(name) for r in history], _COLOURS[0], marker=marker, label="train")
        if f"val_{name}" in history[0]:
            values = [r.get(f"val_{name}") for r in history]
            axes.plot(epochs, values, _COLOURS[1], marker=marker, label="validation")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
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


def image_grid(images, titles=None, columns=8, scale=(0.0, 1.0)):
    """Images side by side.

    Args:
        images: `(n, height, width, channels)`.
        titles: A line above each, or `None`.
        columns: Images a row.
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
                axes.set_title(titles[i], fontsize=8, color=_GREY)
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
        f"Random forest over {len(scores)} trials; R² on trials it has not seen: "
        f"{forest.oob_score_:.2f}" + (" (do not trust it)" if forest.oob_score_ < 0.3 else ""),
        fontsize=9,
    )
    return figure
