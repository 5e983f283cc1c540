"""Evaluation and report of inpainting.

All metrics except the losses are computed on the holes only. PSNR is computed from the mean squared
error over the holes of all images, as it is infinite for a perfectly filled hole. SSIM is the mean
of the SSIM map over the pixels of a hole.
"""

import importlib
import math

import numpy as np
from scipy import ndimage

from bigmodels import extras
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.layers import HarmonicFill
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric

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
# Width in pixels of the border around a hole, for the `surroundings` baseline.
_RIM = 2
# Side of the SSIM window in pixels; smaller for smaller images.
_SSIM_WINDOW = 7
_EXAMPLES, _DRAWN = 15, 8


def evaluate(model, data, config, measured):
    """PSNR and SSIM in the holes, with those of simple baselines.

    Under "validation" and "test": `psnr` (dB), `ssim`, and `sharpness`, the mean gradient magnitude
    in the filled holes relative to that of the true images. Under "test" also `psnr_...` and
    `ssim_...` of four baselines: `biharmonic` (scikit-image); `harmonic`, the input of the
    generator; `surroundings`, the mean of the pixels within two pixels of the hole;
    `training_mean`, the mean training image. `psnr_over_...` and `ssim_over_...` are the
    differences between the model and the baselines, paired by image.
    """
    metrics = {}
    for split in ("validation", "test"):
        inputs, images = _first(getattr(data, split), config.measured_images)
        filled = model.predict(inputs, verbose=0)
        scores = _scores(_unit(filled), _unit(images), inputs[..., -1] > 0)
        true_scores = _scores(_unit(images), _unit(images), inputs[..., -1] > 0)
        metrics[split] = _own_metrics(scores, true_scores, f"{split} images", inputs)
    # The variables of the loop now hold the test split.
    _, of_training = _first(data.train_sample, config.measured_images)
    baselines = {
        "biharmonic": _biharmonic(inputs),
        "harmonic": _unit(HarmonicFill()(inputs)),
        "surroundings": _surroundings(inputs),
        "training_mean": _unit(of_training).mean(0),
    }
    for name in _BASELINES:
        baseline = _scores(baselines[name], _unit(images), inputs[..., -1] > 0)
        metrics["test"] |= _baseline_metrics(name, scores, baseline, "test images")
    columns = {
        "hole": inputs[:_DRAWN, ..., :-1],
        "filled": filled[:_DRAWN],
        "biharmonic": 2 * baselines["biharmonic"][:_DRAWN] - 1,
        "true": images[:_DRAWN],
    }
    return Evaluation(metrics, lambda: {"Filled holes (test)": _grid(columns, data.scale)})


def _own_metrics(scores, true_scores, unit, inputs):
    """Metrics of the model on a split, from the scores of filled and of true images."""
    errors, similarity, slopes = scores
    _, _, true_slopes = true_scores

    def sharpness(rows):
        return slopes[rows].mean() / max(true_slopes[rows].mean(), 1e-10)

    return {
        "psnr": Observations(errors, unit, statistic=_psnr),
        "ssim": Observations(similarity, unit, keys=intervals.keys(inputs)),
        "sharpness": Observations(np.arange(len(errors)), unit, statistic=sharpness),
    }


def _baseline_metrics(name, scores, baseline, unit):
    """Metrics of a baseline, and the differences of the model's from them."""
    errors, similarity, _ = scores
    baseline_errors, baseline_similarity, _ = baseline

    def psnr_over(rows):
        return _psnr(errors[rows]) - _psnr(baseline_errors[rows])

    return {
        f"psnr_{name}": Observations(baseline_errors, unit, statistic=_psnr),
        f"psnr_over_{name}": Observations(np.arange(len(errors)), unit, statistic=psnr_over),
        f"ssim_{name}": Observations(baseline_similarity, unit),
        f"ssim_over_{name}": Observations(similarity - baseline_similarity, unit),
    }


def _first(batches, count):
    """The first elements of a split: inputs and images."""
    parts = zip(*batches.unbatch().take(count).as_numpy_iterator(), strict=True)
    return tuple(np.stack(part) for part in parts)


def _unit(images):
    """Scale from [-1, 1] to [0, 1], the range of all metrics."""
    return (np.asarray(images, "float64") + 1) / 2


def check_installed():
    """Check that scikit-image is installed.

    Raises:
        ValueError: if it is not; the message says what to install.

    Example:

    >>> check_installed()
    """
    with extras.require_extra("task: inpainting", "inpainting"):
        importlib.import_module("skimage")


def _biharmonic(inputs):
    """Images with holes filled by scikit-image, `(n, height, width, channels)`."""
    from skimage.restoration import inpaint_biharmonic

    return np.stack(
        [inpaint_biharmonic(_unit(x[..., :-1]), x[..., -1] > 0, channel_axis=-1) for x in inputs]
    )


def _surroundings(inputs):
    """Images with holes filled with the mean of the border around them."""
    images, masks = _unit(inputs[..., :-1]), inputs[..., -1] > 0
    for image, mask in zip(images, masks, strict=True):
        image[mask] = image[ndimage.binary_dilation(mask, iterations=_RIM) & ~mask].mean(0)
    return images


def _scores(filled, images, masks):
    """Mean squared error, SSIM and mean gradient magnitude in the hole of each image.

    Args:
        filled: Filled images in [0, 1], `(n, height, width, channels)`, or one image for all. Only
            their pixels in the holes matter.
        images: True images, `(n, height, width, channels)`.
        masks: Booleans `(n, height, width)`, true in the holes.

    Returns:
        Three arrays `(n,)`.
    """
    from skimage.metrics import structural_similarity

    side = min(_SSIM_WINDOW, *images.shape[1:3])
    side -= 1 - side % 2  # It must be odd.
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
    """PSNR in dB, from mean squared errors of values in [0, 1]."""
    return -10 * math.log10(max(np.mean(errors), 1e-10))


def _grid(columns, scale, repeat=1):
    """A grid with a column per item of `{title: images}`, all columns `repeat` times."""
    cells = [image for row in zip(*columns.values(), strict=True) for image in row]
    titles = list(columns) * (len(cells) // len(columns))
    return plots.image_grid(cells, titles, repeat * len(columns), scale)


def examples(data):
    """Some training images with their holes."""
    inputs, images = _first(data.train_sample, _EXAMPLES)
    columns = {"with a hole": inputs[..., :-1], "whole": images}
    return {"Training images": _grid(columns, data.scale, repeat=3)}


def sample(model, data, config):
    """Filled holes of the first validation images."""
    inputs, images = _first(data.validation, _DRAWN)
    filled = model.predict(inputs, verbose=0)
    columns = {"hole": inputs[..., :-1], "filled": filled, "true": images}
    return _grid(columns, data.scale, repeat=2)


def describe(data):
    """Facts about the data."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }
