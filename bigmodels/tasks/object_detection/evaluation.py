"""What is measured of a detector, and what its report shows."""

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
# Least score of a box that is rated: what is less likely comes so late that it changes nothing.
_RATED = 0.01
_EXAMPLES, _SAMPLED, _WORST = 12, 8, 12
# Validation images at most, by which what needs no network is tuned.
_TUNED = 300
# Of `detections.THRESHOLDS`: that of 0.5.
_HALF = slice(1)


def evaluate(model, data, config, measured):
    """COCO's mean average precision, by pycocotools, beside what is found without a network.

    Under "validation" and "test": `map_50`, average precision at an overlap (intersection over
    union) of 0.5, mean over the classes; `map`, the mean of those at 0.5, 0.55, ..., 0.95. Under
    "test" also both with `_components`, see `bigmodels.evaluation.detections.Components`.
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
    """What a model finds, float32 `(n, 6)` an image: a box in pixels, its class and its score."""
    return [
        np.column_stack([found["boxes"], found["classes"], found["scores"]]).astype("float32")
        for found in model.detect(batches, least, verbose=0)
    ]


def _detected_by_components(data):
    """What is found in the test images without a network.

    It knows the objects of an epoch of training, and is tuned on the first validation images.
    """
    epoch = data.train_from(0).take(int(data.train.cardinality()))
    components = detections.Components(epoch.as_numpy_iterator(), len(data.class_names))
    count = min(data.sizes["validation"], _TUNED)
    components.tune(_images(data.validation, range(count)), data.objects["validation"][:count])
    return [rows for images, _ in data.test for rows in components.detect(images)]


def _precisions(ratings, suffix=""):
    """Both mean average precisions, image by image."""
    numbers = np.arange(ratings.num_images)
    return {
        f"map_50{suffix}": Observations(
            numbers, "images", statistic=lambda n: ratings.average_precision(n, _HALF)
        ),
        f"map{suffix}": Observations(numbers, "images", statistic=ratings.average_precision),
    }


def _figures(data, rated, baseline):
    """What is found in test images, the worst of them, precision over recall, and the classes."""
    objects = data.objects["test"]

    def pictures(numbers):
        rows = [rated.found[i] for i in numbers]
        rows = [image_rows[image_rows[:, 5] >= THRESHOLD] for image_rows in rows]
        true = [objects[i] for i in numbers]
        return _drawn(_images(data.test, numbers), true, rows, data.class_names)

    figures = {"Found (test)": pictures(range(min(_EXAMPLES, len(objects))))}
    mistakes = rated.mistakes(THRESHOLD)
    worst = [int(i) for i in np.argsort(-mistakes, kind="stable")[:_WORST] if mistakes[i]]
    if worst:
        figures["Most mistakes (test)"] = pictures(worst)
    # Precisions of both at an overlap of one half, (recalls, classes).
    network, components = (r.precisions(thresholds=_HALF)[0] for r in (rated, baseline))
    curves = {"the network": network, "components and neighbours": components}
    recalls = np.linspace(0, 1, 101)
    figures["Precision over recall (test)"] = plots.overlaid(
        {name: (recalls, np.nanmean(curve, -1)) for name, curve in curves.items()},
        "At an overlap of one half, mean of the classes",
        "recall",
        "precision",
    )
    width = max(map(len, data.class_names))
    lines = [f"{'':{width}}  network  components"]
    lines += [
        f"{name:{width}}  {ours:7.1f}  {theirs:10.1f}"
        for name, ours, theirs in zip(
            data.class_names, 100 * network.mean(0), 100 * components.mean(0), strict=True
        )
    ]
    figures["Average precision at 0.5 of each class, in percent (test)"] = "\n".join(lines)
    return figures


def _images(batches, numbers):
    """The images of a split that have these numbers."""
    images = {}
    for number, (image, _) in enumerate(batches.unbatch().as_numpy_iterator()):
        if number in numbers:
            images[number] = image
        if len(images) == len(numbers):
            break
    return [images[number] for number in numbers]


def _drawn(images, objects, detected, names):
    """Images with the true boxes and those that were found."""
    boxes = [
        {"true": _labelled(true, names, False), "found": _labelled(rows, names, True)}
        for true, rows in zip(objects, detected, strict=True)
    ]
    return plots.boxed_images(images, boxes)


def _labelled(rows, names, scored):
    """Boxes with what is written at them."""
    return [(*row[:4], names[int(row[4])] + (f" {row[5]:.2f}" if scored else "")) for row in rows]


def examples(data):
    """Some training images with their boxes, and how many objects there are."""
    images, objects = next(iter(data.train_sample.unbatch().batch(_EXAMPLES)))
    boxes = [
        {"true": _labelled(rows[rows[:, 4] >= 0], data.class_names, False)}
        for rows in objects.numpy()
    ]
    counts = plots.class_counts(data.class_counts, data.class_names, "objects")
    return {
        "Training images": plots.boxed_images(images.numpy(), boxes),
        "Objects of each class": counts,
    }


def sample(model, data, config):
    """The first validation images, with what is found in them."""
    images, _ = next(iter(data.validation))
    detected = _detected(model, images[:_SAMPLED], THRESHOLD)
    objects = data.objects["validation"][: len(detected)]
    return _drawn(images[:_SAMPLED], objects, detected, data.class_names)


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "objects": ", ".join(f"{c.sum():,} {split}" for split, c in data.class_counts.items()),
        "image shape": f"{shape}, scaled to (0.0, 1.0)",
        "classes": ", ".join(data.class_names),
        "objects of each class": "; ".join(
            f"{split}: {counts.min():,} to {counts.max():,}"
            for split, counts in data.class_counts.items()
        ),
    }
