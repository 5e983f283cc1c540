"""COCO's average precision for detected boxes, and a detector without a network as a baseline.

Objects are rows of left, top, right, bottom, class and `iscrowd`. Detections are rows of left, top,
right, bottom, class and score.
"""

import contextlib
import dataclasses
import importlib
import io
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from bigmodels import extras

# Smallest intersection over union (IoU) at which a detection matches an object.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # Detections per class and image that count.
_HIGHEST_AREA = 1e10

# Crops for the nearest neighbours: side in pixels, largest number of training crops, and k.
_SIDE, _KNOWN, _NEIGHBOURS = 16, 6000, 5
# Components of an image that are classified, the largest first.
_SPOTS = 30
# Candidate thresholds, as shares of the range from an image's darkest to its lightest pixel.
_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6)
# Components below this share of the smallest training object's area are noise.
_DUST = 0.25


def check_installed() -> None:
    """Check that pycocotools is installed.

    Raises:
        ValueError: if it is not; the message says what to install.

    Example:

    >>> check_installed()
    """
    with extras.require_extra("task: object_detection", "detection"):
        importlib.import_module("pycocotools.cocoeval")


@dataclasses.dataclass(frozen=True)
class _OfClass:
    """The detections of one class in all images, by descending score."""

    images: np.ndarray  # (detections,), image numbers.
    right: np.ndarray  # (thresholds, detections) booleans: true positives.
    ignored: np.ndarray  # (thresholds, detections) booleans: matched with a crowd.
    true_images: np.ndarray  # (objects,), image numbers.


class Ratings:
    """Matches detections with objects, as COCO defines it (computed by pycocotools).

    Args:
        objects: The objects of each image: a list of float arrays `(n, 6)`, see the module.
        found: The detections in each image: a list of float arrays `(n, 6)`.
        num_classes: Number of classes.

    Example:

    >>> objects = [np.array([[0.0, 0, 10, 10, 0, 0]])]
    >>> detections = [np.array([[0.0, 0, 10, 10, 0, 0.9]])]
    >>> round(Ratings(objects, detections, num_classes=1).average_precision(), 3)
    1.0
    """

    def __init__(self, objects: list[np.ndarray], found: list[np.ndarray], num_classes: int):
        self.num_images = len(objects)
        evaluated = _evaluated(objects, found, num_classes)
        self._classes = []
        for number in range(num_classes):
            rows = evaluated[number * self.num_images : (number + 1) * self.num_images]
            rows = [(image, row) for image, row in enumerate(rows) if row is not None]
            self._classes.append(_of_class(rows))
        self.objects, self.found = objects, found

    def precisions(
        self, images: np.ndarray | None = None, thresholds: slice = slice(None)
    ) -> np.ndarray:
        """Precision at 101 recalls.

        Args:
            images: Image numbers to count, with repetition, as a bootstrap draws them; every image
                once by default.
            thresholds: Which of `THRESHOLDS`.

        Returns:
            `(thresholds, 101, classes)`, NaN where no image has an object of the class. The mean
            is COCO's average precision.
        """
        if images is None:
            images = np.arange(self.num_images)
        counts = np.bincount(images.astype(int), minlength=self.num_images).astype("float64")
        shape = (len(THRESHOLDS[thresholds]), len(_RECALLS), len(self._classes))
        result = np.full(shape, np.nan)
        for number, matches in enumerate(self._classes):
            objects = counts[matches.true_images].sum()
            if not objects:
                continue
            weight = counts[matches.images] * ~matches.ignored[thresholds]
            right = matches.right[thresholds]
            hits = np.cumsum(weight * right, 1)
            precision = hits / np.maximum(np.cumsum(weight, 1), 1e-10)
            # The highest precision at this recall or a higher one.
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            for row, (recall, curve) in enumerate(zip(hits / objects, precision, strict=True)):
                places = np.searchsorted(recall, _RECALLS)
                result[row, :, number] = np.append(curve, 0.0)[places]
        return result

    def average_precision(
        self, images: np.ndarray | None = None, thresholds: slice = slice(None)
    ) -> float:
        """The mean of `precisions`, with the same arguments; 0 without objects."""
        precisions = self.precisions(images, thresholds)
        return float(np.nanmean(precisions)) if not np.isnan(precisions).all() else 0.0

    def mistakes(self, least: float) -> np.ndarray:
        """Count false positives and false negatives in each image, at an IoU of 0.5.

        Args:
            least: Score threshold: detections below it are dropped.

        Returns:
            Integers `(images,)`.
        """
        wrong = np.zeros(self.num_images, int)
        confident = [rows[rows[:, 5] >= least] for rows in self.found]
        for matches in Ratings(self.objects, confident, len(self._classes))._classes:
            np.add.at(wrong, matches.true_images, 1)
            np.add.at(wrong, matches.images[matches.right[0] & ~matches.ignored[0]], -1)
            np.add.at(wrong, matches.images[~matches.right[0] & ~matches.ignored[0]], 1)
        return wrong


def _of_class(rows):
    """Merge pycocotools' evaluations of one class, pairs `(image, evaluation)`."""
    none = np.zeros((len(THRESHOLDS), 0), bool)
    images = [np.full(len(row["dtScores"]), image) for image, row in rows]
    scores = np.concatenate([[], *(row["dtScores"] for _, row in rows)])
    true_images = [np.full((row["gtIgnore"] == 0).sum(), image) for image, row in rows]
    right, ignored = (
        np.concatenate([none, *(row[name].astype(bool) for _, row in rows)], 1)
        for name in ("dtMatches", "dtIgnore")
    )
    order = np.argsort(-scores, kind="mergesort")
    return _OfClass(
        np.concatenate([[], *images])[order].astype(int),
        right[:, order],
        ignored[:, order],
        np.concatenate([[], *true_images]).astype(int),
    )


def _evaluated(objects, found, num_classes):
    """pycocotools' evaluation of every class and image, class by class."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # It prints its progress.
        truth = _coco(objects, num_classes, "iscrowd")
        detections = _coco(found, num_classes, "score")
        evaluation = COCOeval(truth, detections, "bbox")
        settings = evaluation.params
        settings.imgIds, settings.catIds = range(len(objects)), range(num_classes)
        settings.iouThrs, settings.maxDets = THRESHOLDS, [_MOST]
        settings.areaRng, settings.areaRngLbl = [[0, _HIGHEST_AREA]], ["all"]
        evaluation.evaluate()
    return evaluation.evalImgs


def _coco(images, num_classes, last):
    """A pycocotools `COCO` of boxes; `last` is its key for the last column."""
    from pycocotools.coco import COCO

    rows = [(number, row) for number, rows in enumerate(images) for row in rows.tolist()]
    annotations = [
        {
            "id": i,
            "image_id": number,
            "category_id": int(label),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            last: value,
        }
        for i, (number, (left, top, right, bottom, label, value)) in enumerate(rows, 1)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number} for number in range(num_classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


class Components:
    """A baseline detector without a network: connected components, classified by neighbours.

    Each image is thresholded at a level between its darkest and lightest pixel. The crop of each
    connected component is resized and classified by k nearest neighbours (scikit-learn) among the
    crops of the training objects; the score is the weighted share of neighbours of that class.
    `tune` chooses the level, and whether objects are lighter or darker than the background.

    Args:
        batches: Pairs of images, floats `(n, height, width, channels)`, and their objects,
            `(n, most, 5)` with left, top, right, bottom and class; the class is -1 in rows without
            an object. Reading stops after 6000 objects.
        num_classes: Number of classes.

    Example:

    >>> image = np.zeros((1, 8, 8, 1), "float32")
    >>> image[0, 2:5, 3:7] = 1
    >>> detector = Components([(image, [[[3, 2, 7, 5, 0]]])], num_classes=1)
    >>> detector.detect(image)[0].tolist()
    [[3.0, 2.0, 7.0, 5.0, 0.0, 1.0]]
    """

    def __init__(self, batches: Iterable[tuple], num_classes: int):
        from sklearn.neighbors import KNeighborsClassifier

        self.num_classes, self.sign, self.level = num_classes, 1, _LEVELS[0]
        crops, labels, areas = {1: [], -1: []}, [], []
        for images, objects in batches:
            for image, rows in zip(_grey(images), np.asarray(objects), strict=True):
                for *box, label in rows[rows[:, 4] >= 0]:
                    whole = _whole(box, image.shape)
                    for sign, examples in crops.items():
                        examples.append(_square(image if sign > 0 else 1 - image, whole))
                    labels.append(int(label))
                    areas.append((box[2] - box[0]) * (box[3] - box[1]))
            if len(labels) >= _KNOWN:
                break
        self.least = _DUST * min(areas)
        count = min(_NEIGHBOURS, len(labels))
        self.neighbours = {
            sign: KNeighborsClassifier(count, weights="distance", algorithm="brute").fit(
                examples, labels
            )
            for sign, examples in crops.items()
        }

    def tune(self, images: np.ndarray, objects: list[np.ndarray]) -> None:
        """Choose the level and the sign with the best average precision on labelled images.

        Args:
            images: Floats `(n, height, width, channels)`.
            objects: The objects of each image, a list of float arrays `(n, 6)`.
        """
        choices = [(sign, level) for sign in (1, -1) for level in _LEVELS]
        scores = []
        for self.sign, self.level in choices:
            rated = Ratings(objects, self.detect(images), self.num_classes)
            scores.append(rated.average_precision())
        self.sign, self.level = choices[int(np.argmax(scores))]

    def detect(self, images: np.ndarray) -> list[np.ndarray]:
        """Detect objects.

        Args:
            images: Floats `(n, height, width, channels)`.

        Returns:
            The detections in each image, a list of float32 arrays `(n, 6)`.
        """
        detections, crops = [], []
        for image in _grey(images):
            image = image if self.sign > 0 else 1 - image
            spots = (image > self.level) & (np.ptp(image) > 0)
            numbered, _ = ndimage.label(spots, np.ones((3, 3)))
            boxes = [
                (columns.start, rows.start, columns.stop, rows.stop)
                for rows, columns in ndimage.find_objects(numbered)
            ]
            areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
            largest = [i for i in np.argsort(areas)[::-1][:_SPOTS] if areas[i] >= self.least]
            rows = np.zeros((len(largest), 6), "float32")
            rows[:, :4] = [boxes[i] for i in largest] or 0
            crops += [_square(image, boxes[i]) for i in largest]
            detections.append(rows)
        if crops:
            neighbours = self.neighbours[self.sign]
            probabilities = neighbours.predict_proba(crops)
            ends = np.cumsum([len(rows) for rows in detections])[:-1]
            for rows, p in zip(detections, np.split(probabilities, ends), strict=True):
                rows[:, 4], rows[:, 5] = neighbours.classes_[p.argmax(1)], p.max(1)
        return detections


def _grey(images):
    """Brightness `(n, height, width)`, scaled to [0, 1] in each image."""
    grey = np.asarray(images, "float32").mean(-1)
    low, high = (limit(grey, (1, 2), keepdims=True) for limit in (np.min, np.max))
    return (grey - low) / np.maximum(high - low, 1e-6)


def _whole(box, shape):
    """Round a box outwards to whole pixels inside the image, at least one."""
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    height, width = shape
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def _square(image, box):
    """The crop of a box, padded to a square, scaled to a maximum of 1, resized and flattened."""
    left, top, right, bottom = box
    part = image[top:bottom, left:right]
    part = part / max(part.max(), 1e-6)
    missing = [max(part.shape) - side for side in part.shape]
    part = np.pad(part, [(n // 2, n - n // 2) for n in missing])
    return ndimage.zoom(part, _SIDE / len(part), order=1).ravel()
