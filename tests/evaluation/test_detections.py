"""The rating of boxes against pycocotools' own, and what is found without a network."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from bigmodels.evaluation import detections
from bigmodels.evaluation.detections import Components, Ratings
from tests.cocos import pictures


def scene(rng, images=30, classes=4):
    """Objects, some of them crowds, and boxes that are near some of them."""
    objects, found = [], []
    for _ in range(images):
        rows = []
        for _ in range(rng.integers(0, 5)):
            left, top, width, height = (
                rng.uniform(0, 40),
                rng.uniform(0, 40),
                *rng.uniform(5, 20, 2),
            )
            label, crowd = rng.integers(classes - 1), rng.random() < 0.1
            rows.append((left, top, left + width, top + height, label, crowd))
        objects.append(np.array(rows, "float32").reshape(-1, 6))
        boxes = [(*(row[:4] + rng.normal(0, 1.5, 4)), row[4], rng.random()) for row in objects[-1]]
        boxes += [(*row[:4], rng.integers(classes), rng.random() / 2) for row in objects[-1][:1]]
        # Many have the same score: the order of the images decides then.
        boxes = [(*box[:5], round(box[5], 1)) for box in boxes if rng.random() < 0.8]
        found.append(np.array(boxes, "float32").reshape(-1, 6))
    return objects, found


def of_pycocotools(objects, found, classes):
    with contextlib.redirect_stdout(io.StringIO()):
        known = detections._coco(objects, classes, "iscrowd")
        evaluation = COCOeval(known, detections._coco(found, classes, "score"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_average_precision_is_that_of_pycocotools(rng):
    objects, found = scene(rng)
    theirs = of_pycocotools(objects, found, 4)
    rated = Ratings(objects, found, 4)
    assert 0.2 < theirs.stats[0] < 0.9 and theirs.stats[1] > theirs.stats[0]
    assert rated.average_precision() == pytest.approx(theirs.stats[0], abs=1e-12)
    assert rated.average_precision(thresholds=slice(1)) == pytest.approx(theirs.stats[1], abs=1e-12)
    precisions = theirs.eval["precision"][:, :, :, 0, 2]
    ours = np.nan_to_num(rated.precisions(), nan=-1)
    np.testing.assert_allclose(ours, precisions, atol=1e-12)
    assert np.isnan(rated.precisions()[..., 3]).all()  # A class of which there is no object.


def test_some_images_some_of_them_twice_are_rated_as_if_there_were_no_others(rng):
    objects, found = scene(rng)
    # Without ties: pycocotools counts the boxes of an image that comes twice one by one.
    found = [np.column_stack([rows[:, :5], rng.random(len(rows))]) for rows in found]
    rated = Ratings(objects, found, 4)
    chosen = rng.integers(0, 30, 30)
    theirs = of_pycocotools([objects[i] for i in chosen], [found[i] for i in chosen], 4)
    assert rated.average_precision(chosen) == pytest.approx(theirs.stats[0], abs=2e-3)
    once = np.unique(chosen)
    theirs = of_pycocotools([objects[i] for i in once], [found[i] for i in once], 4)
    assert rated.average_precision(once) == pytest.approx(theirs.stats[0], abs=1e-12)


def test_by_hand():
    objects = [np.float32([[0, 0, 10, 10, 0, 0], [20, 20, 30, 30, 1, 0]]), np.zeros((0, 6))]
    found = [
        np.float32([[0, 0, 10, 7.8, 0, 0.9], [20, 20, 30, 30, 0, 0.8]]),
        np.float32([[5, 5, 9, 9, 1, 0.7]]),
    ]
    rated = Ratings(objects, found, 2)
    # Class 0 is found first, at an overlap of 0.78; class 1 never.
    assert rated.average_precision(thresholds=slice(1)) == pytest.approx(0.5)
    assert rated.average_precision() == pytest.approx(0.5 * 6 / 10)
    np.testing.assert_array_equal(rated.mistakes(0.3), [2, 1])
    np.testing.assert_array_equal(rated.mistakes(0.85), [1, 0])


def test_a_crowd_is_no_mistake_to_find_and_none_to_miss():
    crowd = np.float32([[0, 0, 40, 40, 0, 1], [50, 50, 60, 60, 0, 0]])
    inside = np.float32([[5, 5, 10, 10, 0, 0.9], [20, 5, 30, 10, 0, 0.8], [50, 50, 60, 60, 0, 0.5]])
    rated = Ratings([crowd], [inside], 1)
    assert rated.average_precision() == 1 and rated.mistakes(0.1).sum() == 0
    assert Ratings([crowd], [inside[:2]], 1).average_precision() == 0


def test_nothing_found_is_worth_nothing():
    objects = [np.float32([[0, 0, 10, 10, 0, 0]])] * 3
    assert Ratings(objects, [np.zeros((0, 6))] * 3, 2).average_precision() == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_components_find_what_stands_apart(rng, sign):
    pixels, written = pictures(rng, 60)
    images = pixels / np.float32(255) if sign > 0 else 1 - pixels / np.float32(255)
    objects = [np.float32([[*box, label == 7, 0] for *box, label in rows]) for rows in written]
    known, others, test = (slice(0, 30), slice(30, 40), slice(40, 60))
    batches = [
        (images[i : i + 1], np.pad(objects[i][None, :, :5], ((0, 0), (0, 2), (0, 0)),
                                   constant_values=-1))
        for i in range(30)
    ]  # fmt: skip
    components = Components(iter(batches[known]), 2)
    components.tune(images[others], objects[others])
    assert components.sign == sign
    found = components.detect(images[test])
    assert Ratings(objects[test], found, 2).average_precision() > 0.9
    assert components.detect(np.zeros((1, 16, 20, 3)))[0].shape == (0, 6)


def test_parts_are_made_square_and_light():
    image = np.zeros((10, 12), "float32")
    image[2:6, 3:5] = 0.25
    part = detections._square(image, (3, 2, 5, 6)).reshape(16, 16)
    assert (part[:, 6:10] == 1).all() and (part[:, [0, -1]] == 0).all()
    assert (detections._square(image, (8, 2, 10, 6)) == 0).all()
    assert detections._whole((-3.0, 2.5, 4.2, 99.0), (10, 12)) == (0, 2, 5, 10)
    assert detections._whole((12.0, 10.0, 12.0, 10.0), (10, 12)) == (11, 9, 12, 10)
