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
