"""Evaluation and report of an object detector."""

import numpy as np

from bigmodels.evaluation import detections, intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.losses import CenterPoints
from bigmodels.models.detector import STRIDE
from bigmodels.reports import plots
from bigmodels.tasks.object_detection.inference import THRESHOLD
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "map_50": Metric("%", "max"),
    "map": Metric("%", "max"),
    "map_50_components": Metric("%"),
    "map_components": Metric("%"),
    "loss": Metric("", "min"),
}
# Score threshold of the evaluation; detections below it hardly change the average precision.
_RATED = 0.01
_EXAMPLES, _SAMPLED, _WORST = 12, 8, 12
# Largest number of validation images to tune the baseline on.
_TUNED = 300
# Selects an IoU of 0.5 from `detections.THRESHOLDS`.
_HALF = slice(1)


def evaluate(model, data, config, measured):
    """COCO's mean average precision, computed by pycocotools, with a baseline without a network.

    Under "validation" and "test": `map_50`, the average precision at an IoU (intersection over
    union) of 0.5, averaged over the classes; `map`, the same averaged over IoUs of 0.5, 0.55, ...,
    0.95. Under "test" both also for the baseline, with the suffix `_components`, see
    `bigmodels.evaluation.detections.Components`.
    """

    def ratings(split, rows):
        return detections.Ratings(data.objects[split], rows, len(data.class_names))

    validation = _precisions(ratings("validation", _detected(model, data.validation)))
    rated = ratings("test", _detected(model, data.test))
    baseline = ratings("test", _detected_by_components(data))
    loss = CenterPoints(STRIDE, config.box_weight, reduction="none")
    losses = [loss(y, model(x, training=False)) for x, y in data.test]
    keys = intervals.keys(image for images, _ in data.test for image in images.numpy())
    metrics = {
        "validation": {name: precision.figure() for name, precision in validation.items()},
        "test": {
            "loss": Observations(np.concatenate(losses), "images", keys=keys),
            **_precisions(rated),
            **_precisions(baseline, "_components"),
        },
    }
    return Evaluation(metrics, lambda: _figures(data, rated, baseline))


def _detected(model, batches, least=_RATED):
    """A model's detections, float32 `(n, 6)` per image: box in pixels, class and score."""
    return [
        np.column_stack([image["boxes"], image["classes"], image["scores"]]).astype("float32")
        for image in model.detect(batches, least, verbose=0)
    ]


def _detected_by_components(data):
    """The baseline's detections in the test images.

    It is fitted to an epoch of training data, and tuned on the first validation images.
    """
    epoch = data.train_from(0).take(int(data.train.cardinality()))
    components = detections.Components(epoch.as_numpy_iterator(), len(data.class_names))
    count = min(data.sizes["validation"], _TUNED)
    components.tune(_images(data.validation, range(count)), data.objects["validation"][:count])
    return [rows for images, _ in data.test for rows in components.detect(images)]


def _precisions(ratings, suffix=""):
    """Both mean average precisions, as `Observations` of images."""
    numbers = np.arange(ratings.num_images)
    return {
        f"map_50{suffix}": Observations(
            numbers, "images", statistic=lambda n: ratings.average_precision(n, _HALF)
        ),
        f"map{suffix}": Observations(numbers, "images", statistic=ratings.average_precision),
    }


def _figures(data, rated, baseline):
    """Detections in test images, most errors, precision-recall curves, and average precisions."""
    objects = data.objects["test"]

    def draw(numbers):
        rows = [rated.found[i] for i in numbers]
        rows = [image_rows[image_rows[:, 5] >= THRESHOLD] for image_rows in rows]
        true = [objects[i] for i in numbers]
        return _drawn(_images(data.test, numbers), true, rows, data.class_names)

    figures = {"Detections (test)": draw(range(min(_EXAMPLES, len(objects))))}
    mistakes = rated.mistakes(THRESHOLD)
    worst = [int(i) for i in np.argsort(-mistakes, kind="stable")[:_WORST] if mistakes[i]]
    if worst:
        figures["Images with the most errors (test)"] = draw(worst)
    # Precisions at an IoU of 0.5, (recalls, classes).
    network, components = (r.precisions(thresholds=_HALF)[0] for r in (rated, baseline))
    curves = {"network": network, "baseline (components)": components}
    recalls = np.linspace(0, 1, 101)
    figures["Precision-recall curve (test)"] = plots.overlaid(
        {name: (recalls, np.nanmean(curve, -1)) for name, curve in curves.items()},
        "IoU 0.5, mean over the classes",
        "recall",
        "precision",
    )
    width = max(map(len, data.class_names))
    lines = [f"{'':{width}}  network  components"]
    lines += [
        f"{name:{width}}  {p:7.1f}  {baseline_p:10.1f}"
        for name, p, baseline_p in zip(
            data.class_names, 100 * network.mean(0), 100 * components.mean(0), strict=True
        )
    ]
    figures["Average precision per class at IoU 0.5, in percent (test)"] = "\n".join(lines)
    return figures


def _images(batches, numbers):
    """The images of a split with these numbers."""
    images = {}
    for number, (image, _) in enumerate(batches.unbatch().as_numpy_iterator()):
        if number in numbers:
            images[number] = image
        if len(images) == len(numbers):
            break
    return [images[number] for number in numbers]


def _drawn(images, objects, detected, names):
    """Draw images with their true and detected boxes."""
    boxes = [
        {"true": _labelled(true, names, False), "found": _labelled(rows, names, True)}
        for true, rows in zip(objects, detected, strict=True)
    ]
    return plots.boxed_images(images, boxes)


def _labelled(rows, names, scored):
    """Boxes with their labels."""
    return [(*row[:4], names[int(row[4])] + (f" {row[5]:.2f}" if scored else "")) for row in rows]


def examples(data):
    """Some training images with their boxes, and the number of objects per class."""
    images, objects = next(iter(data.train_sample.unbatch().batch(_EXAMPLES)))
    boxes = [
        {"true": _labelled(rows[rows[:, 4] >= 0], data.class_names, False)}
        for rows in objects.numpy()
    ]
    counts = plots.class_counts(data.class_counts, data.class_names, "objects")
    return {
        "Training images": plots.boxed_images(images.numpy(), boxes),
        "Objects per class": counts,
    }


def sample(model, data, config):
    """Detections in the first validation images."""
    images, _ = next(iter(data.validation))
    detected = _detected(model, images[:_SAMPLED], THRESHOLD)
    objects = data.objects["validation"][: len(detected)]
    return _drawn(images[:_SAMPLED], objects, detected, data.class_names)


def describe(data):
    """Facts about the data."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "objects": ", ".join(f"{c.sum():,} {split}" for split, c in data.class_counts.items()),
        "image shape": f"{shape}, scaled to (0.0, 1.0)",
        "classes": ", ".join(data.class_names),
        "objects per class": "; ".join(
            f"{split}: {counts.min():,} to {counts.max():,}"
            for split, counts in data.class_counts.items()
        ),
    }
