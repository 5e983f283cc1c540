"""What is measured of filled holes, and what their report shows.

All figures but the losses are of the hole alone. PSNR is that of the mean squared error over the
images' holes (a hole that is filled exactly has none of its own); SSIM the mean of the map of
similarities over the hole's pixels.
"""

import math

import numpy as np
from scipy import ndimage

from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.layers import HarmonicFill
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric

# What the model is held against.
_BASELINES = ("biharmonic", "harmonic", "surroundings", "training_mean")
METRICS = {
    "psnr": Metric("dB", "max"),
    "ssim": Metric("", "max"),
    "sharpness": Metric("%"),
    "loss": Metric("", "min"),
    "d_loss": Metric("nats"),
    "g_loss": Metric("nats"),
    **{f"psnr_{name}": Metric("dB") for name in _BASELINES},
    **{f"psnr_over_{name}": Metric("dB", "max") for name in _BASELINES},
    **{f"ssim_{name}": Metric() for name in _BASELINES},
    **{f"ssim_over_{name}": Metric("", "max") for name in _BASELINES},
}
# Pixels around a hole whose mean is its surroundings'.
_RIM = 2
# Of a window for SSIM, where the image is large enough.
_SSIM_WINDOW = 7
_EXAMPLES, _DRAWN = 15, 8


def evaluate(model, data, config, measured):
    """PSNR and SSIM in the holes, beside what simpler ways make of the same holes.

    Under "validation" and "test": `psnr` (dB), `ssim`, and `sharpness`, the mean steepness of
    brightness in the filled holes, as a share of the true one. Under "test" also `psnr_...` and
    `ssim_...` of four other fillings: `biharmonic`, scikit-image's; `harmonic`, what the generator
    begins with; `surroundings`, the mean of the pixels up to two from the hole; `training_mean`,
    the mean training image; and `psnr_over_...`, `ssim_over_...`, how much higher ours are, image
    by image.
    """
    metrics = {}
    for split in ("validation", "test"):
        inputs, images = _first(getattr(data, split), config.measured_images)
        filled = model.predict(inputs, verbose=0)
        scores = _scores(_unit(filled), _unit(images), inputs[..., -1] > 0)
        true_scores = _scores(_unit(images), _unit(images), inputs[..., -1] > 0)
        metrics[split] = _own_metrics(scores, true_scores, f"{split} images", inputs)
    # All of these are now the test split's.
    _, of_training = _first(data.train_sample, config.measured_images)
    baselines = {
        "biharmonic": _biharmonic(inputs),
        "harmonic": _unit(HarmonicFill()(inputs)),
        "surroundings": _surroundings(inputs),
        "training_mean": _unit(of_training).mean(0),
    }
    for name in _BASELINES:
        others = _scores(baselines[name], _unit(images), inputs[..., -1] > 0)
        metrics["test"] |= _metrics_beside(name, scores, others, "test images")
    columns = {
        "hole": inputs[:_DRAWN, ..., :-1],
        "filled": filled[:_DRAWN],
        "biharmonic": 2 * baselines["biharmonic"][:_DRAWN] - 1,
        "true": images[:_DRAWN],
    }
    return Evaluation(metrics, lambda: {"Filled holes (test)": _grid(columns, data.scale)})


def _own_metrics(scores, true_scores, unit, inputs):
    """What is measured of the model in a split, of whose images the true ones have scores too."""
    errors, similarity, slopes = scores
    _, _, true_slopes = true_scores

    def sharpness(rows):
        return slopes[rows].mean() / max(true_slopes[rows].mean(), 1e-10)

    return {
        "psnr": Observations(errors, unit, statistic=_psnr),
        "ssim": Observations(similarity, unit, keys=intervals.keys(inputs)),
        "sharpness": Observations(np.arange(len(errors)), unit, statistic=sharpness),
    }


def _metrics_beside(name, scores, others, unit):
    """What is measured of another filling of that name, and how much better the model's is."""
    errors, similarity, _ = scores
    other_errors, other_similarity, _ = others

    def psnr_over(rows):
        return _psnr(errors[rows]) - _psnr(other_errors[rows])

    return {
        f"psnr_{name}": Observations(other_errors, unit, statistic=_psnr),
        f"psnr_over_{name}": Observations(np.arange(len(errors)), unit, statistic=psnr_over),
        f"ssim_{name}": Observations(other_similarity, unit),
        f"ssim_over_{name}": Observations(similarity - other_similarity, unit),
    }


def _first(batches, count):
    """The first of a split's elements: inputs and images."""
    parts = zip(*batches.unbatch().take(count).as_numpy_iterator(), strict=True)
    return tuple(np.stack(part) for part in parts)


def _unit(images):
    """From [-1, 1] to [0, 1], in which everything is measured."""
    return (np.asarray(images, "float64") + 1) / 2


def _biharmonic(inputs):
    """Holes filled by scikit-image from the pixels around them, `(n, height, width, channels)`."""
    from skimage.restoration import inpaint_biharmonic

    return np.stack(
        [inpaint_biharmonic(_unit(x[..., :-1]), x[..., -1] > 0, channel_axis=-1) for x in inputs]
    )


def _surroundings(inputs):
    """Holes filled with the mean of the visible pixels next to them."""
    images, masks = _unit(inputs[..., :-1]), inputs[..., -1] > 0
    for image, mask in zip(images, masks, strict=True):
        image[mask] = image[ndimage.binary_dilation(mask, iterations=_RIM) & ~mask].mean(0)
    return images


def _scores(filled, images, masks):
    """Of each image's hole: mean squared error, SSIM, and the mean steepness of what fills it.

    Args:
        filled: Floats in [0, 1], `(n, height, width, channels)`, or one for all. What lies outside
            of the holes is not looked at.
        images: What is right, `(n, height, width, channels)`.
        masks: Booleans `(n, height, width)`.

    Returns:
        Three arrays `(n,)`.
    """
    from skimage.metrics import structural_similarity

    side = min(_SSIM_WINDOW, *images.shape[1:3])
    side -= 1 - side % 2  # An odd number.
    rows = []
    filled = np.where(masks[..., None], filled, images)
    for picture, image, mask in zip(filled, images, masks, strict=True):
        _, similarity = structural_similarity(
            image, picture, win_size=side, channel_axis=-1, data_range=1.0, full=True
        )
        slopes = np.hypot(*np.gradient(picture, axis=(0, 1)))
        error = np.square(picture - image)[mask].mean()
        rows.append((error, similarity[mask].mean(), slopes[mask].mean()))
    return np.transpose(rows)


def _psnr(errors):
    """Decibels, from mean squared errors of values in [0, 1]."""
    return -10 * math.log10(max(np.mean(errors), 1e-10))


def _grid(columns, scale, repeat=1):
    """Pictures in rows, from `{title: images}`, with so many rows side by side."""
    pictures = [picture for row in zip(*columns.values(), strict=True) for picture in row]
    titles = list(columns) * (len(pictures) // len(columns))
    return plots.image_grid(pictures, titles, repeat * len(columns), scale)


def examples(data):
    """Some training images with their holes."""
    inputs, images = _first(data.train_sample, _EXAMPLES)
    columns = {"with a hole": inputs[..., :-1], "whole": images}
    return {"Training images": _grid(columns, data.scale, repeat=3)}


def sample(model, data, config):
    """The same holes of validation, every time."""
    inputs, images = _first(data.validation, _DRAWN)
    filled = model.predict(inputs, verbose=0)
    columns = {"hole": inputs[..., :-1], "filled": filled, "true": images}
    return _grid(columns, data.scale, repeat=2)


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }
