"""How found boxes are rated, as COCO does it; and boxes found without a network.

Objects are rows of left, top, right, bottom, class and whether it is a crowd; what was found are
rows of left, top, right, bottom, class and score.
"""

import contextlib
import dataclasses
import importlib
import io

import numpy as np
from scipy import ndimage

from bigmodels import extras

# Least overlap (intersection over union) with an object for a box to have found it.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # Boxes of a class that are rated an image.
_HIGHEST_AREA = 1e10

# Of the crops that are compared with known ones: their side, how many are known at most, and how
# many of those are asked.
_SIDE, _KNOWN, _NEIGHBOURS = 16, 6000, 5
# Spots of an image that are looked at, the largest first.
_SPOTS = 30
# Where between an image's darkest and lightest pixel the border of what is looked at may lie.
_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6)
# Spots below this share of the smallest known object's area are dust.
_DUST = 0.25


def check_installed():
    """See that pycocotools is there.

    Raises:
        ValueError: if it is not, with what to install.
    """
    with extras.require_extra("task: object_detection", "detection"):
        importlib.import_module("pycocotools.cocoeval")


@dataclasses.dataclass(frozen=True)
class _OfClass:
    """What was found of one class, by falling score, of all images."""

    images: np.ndarray  # (found,) numbers.
    right: np.ndarray  # (thresholds, found) booleans.
    ignored: np.ndarray  # (thresholds, found) booleans; of a crowd.
    true_images: np.ndarray  # (objects,) numbers.


class Ratings:
    """Which of the boxes found in some images are right, by pycocotools.

    Args:
        objects: float `(n, 6)` for each image.
        found: float `(n, 6)` for each image.
        num_classes: Number of classes.
    """

    def __init__(self, objects, found, num_classes):
        self.num_images = len(objects)
        evaluated = _evaluated(objects, found, num_classes)
        self._classes = []
        for number in range(num_classes):
            rows = evaluated[number * self.num_images : (number + 1) * self.num_images]
            rows = [(image, row) for image, row in enumerate(rows) if row is not None]
            self._classes.append(_of_class(rows))
        self.objects, self.found = objects, found

    def precisions(self, images=None, thresholds=slice(None)):
        """Precision at 101 recalls.

        Args:
            images: Numbers of those to count, one as often as it is in there; all once when `None`.
            thresholds: Which of `THRESHOLDS`.

        Returns:
            `(thresholds, 101, classes)`, NaN where no image has an object of the class. The mean
            over it is COCO's average precision.
        """
        if images is None:
            images = np.arange(self.num_images)
        counts = np.bincount(images.astype(int), minlength=self.num_images).astype("float64")
        shape = (len(THRESHOLDS[thresholds]), len(_RECALLS), len(self._classes))
        result = np.full(shape, np.nan)
        for number, each in enumerate(self._classes):
            objects = counts[each.true_images].sum()
            if not objects:
                continue
            weight = counts[each.images] * ~each.ignored[thresholds]
            right = each.right[thresholds]
            hits = np.cumsum(weight * right, 1)
            precision = hits / np.maximum(np.cumsum(weight, 1), 1e-10)
            # Of all that have as much recall, the best.
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            for row, (recall, curve) in enumerate(zip(hits / objects, precision, strict=True)):
                places = np.searchsorted(recall, _RECALLS)
                result[row, :, number] = np.append(curve, 0.0)[places]
        return result

    def average_precision(self, images=None, thresholds=slice(None)):
        """The mean of `precisions`, which takes the same arguments."""
        precisions = self.precisions(images, thresholds)
        return float(np.nanmean(precisions)) if not np.isnan(precisions).all() else 0.0

    def mistakes(self, least):
        """How much is wrong in each image at an overlap of 0.5: boxes too many, and too few.

        Args:
            least: Boxes with a lower score are not counted.

        Returns:
            Integers `(images,)`.
        """
        wrong = np.zeros(self.num_images, int)
        kept = [rows[rows[:, 5] >= least] for rows in self.found]
        sure = Ratings(self.objects, kept, len(self._classes))
        for each in sure._classes:
            np.add.at(wrong, each.true_images, 1)
            np.add.at(wrong, each.images[each.right[0] & ~each.ignored[0]], -1)
            np.add.at(wrong, each.images[~each.right[0] & ~each.ignored[0]], 1)
        return wrong


def _of_class(rows):
    """`_OfClass` of pycocotools' evaluations `(image, evaluation)`."""
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
    """What pycocotools makes of every class and image, class by class."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # It says what it does.
        known, said = _coco(objects, num_classes, "iscrowd"), _coco(found, num_classes, "score")
        evaluation = COCOeval(known, said, "bbox")
        settings = evaluation.params
        settings.imgIds, settings.catIds = range(len(objects)), range(num_classes)
        settings.iouThrs, settings.maxDets = THRESHOLDS, [_MOST]
        settings.areaRng, settings.areaRngLbl = [[0, _HIGHEST_AREA]], ["all"]
        evaluation.evaluate()
    return evaluation.evalImgs


def _coco(images, num_classes, last):
    """Boxes of images, as pycocotools has them; `last` is what it calls a row's last number."""
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
    written = COCO()
    written.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number} for number in range(num_classes)],
        "annotations": annotations,
    }
    written.createIndex()
    return written


class Components:
    """Finds objects without a network: connected spots of light, or of dark, named by neighbours.

    A pixel belongs to a spot if it is lighter than a level between its image's darkest and lightest
    pixel. A spot's box, made square and small, is compared with those of known objects
    (scikit-learn's nearest neighbours); what most of them are is its class, and their share, nearer
    ones counting more, its score. Whether light or dark, and which level, is what does best on
    other known images.

    Args:
        batches: Pairs of images, floats `(n, height, width, channels)`, and known objects, left,
            top, right, bottom and class, or -1 where there is none, `(n, most, 5)`. No more are
            taken than will be compared.
        num_classes: Number of classes.
    """

    def __init__(self, batches, num_classes):
        from sklearn.neighbors import KNeighborsClassifier

        self.num_classes, self.sign, self.level = num_classes, 1, _LEVELS[0]
        crops, labels, areas = {1: [], -1: []}, [], []
        for images, objects in batches:
            for image, rows in zip(_grey(images), np.asarray(objects), strict=True):
                for *box, label in rows[rows[:, 4] >= 0]:
                    whole = _whole(box, image.shape)
                    for sign, known in crops.items():
                        known.append(_square(image if sign > 0 else 1 - image, whole))
                    labels.append(int(label))
                    areas.append((box[2] - box[0]) * (box[3] - box[1]))
            if len(labels) >= _KNOWN:
                break
        self.least = _DUST * min(areas)
        count = min(_NEIGHBOURS, len(labels))
        self.neighbours = {
            sign: KNeighborsClassifier(count, weights="distance", algorithm="brute").fit(
                known, labels
            )
            for sign, known in crops.items()
        }

    def tune(self, images, objects):
        """Choose level and sign by what is found in images with known objects.

        Args:
            images: Floats `(n, height, width, channels)`.
            objects: float `(n, 6)` for each of them.
        """
        choices = [(sign, level) for sign in (1, -1) for level in _LEVELS]
        scores = []
        for self.sign, self.level in choices:
            rated = Ratings(objects, self.detect(images), self.num_classes)
            scores.append(rated.average_precision())
        self.sign, self.level = choices[int(np.argmax(scores))]

    def detect(self, images):
        """What is found in images: float32 `(n, 6)` for each."""
        found, crops = [], []
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
            found.append(rows)
        if crops:
            neighbours = self.neighbours[self.sign]
            shares = neighbours.predict_proba(crops)
            ends = np.cumsum([len(rows) for rows in found])[:-1]
            for rows, each in zip(found, np.split(shares, ends), strict=True):
                rows[:, 4], rows[:, 5] = neighbours.classes_[each.argmax(1)], each.max(1)
        return found


def _grey(images):
    """Each image's brightness, `(n, height, width)`, from its darkest pixel to its lightest."""
    grey = np.asarray(images, "float32").mean(-1)
    low, high = (edge(grey, (1, 2), keepdims=True) for edge in (np.min, np.max))
    return (grey - low) / np.maximum(high - low, 1e-6)


def _whole(box, shape):
    """A box of whole pixels, at least one, around another."""
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    height, width = shape
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def _square(image, box):
    """The part of an image in a box, with its sides made equal and its lightest pixel 1."""
    left, top, right, bottom = box
    part = image[top:bottom, left:right]
    part = part / max(part.max(), 1e-6)
    missing = [max(part.shape) - side for side in part.shape]
    part = np.pad(part, [(n // 2, n - n // 2) for n in missing])
    return ndimage.zoom(part, _SIDE / len(part), order=1).ravel()
