import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import BoxAugmentation, load_detection
from bigmodels.data.readers.canvas import canvases
from bigmodels.data.readers.embedded import digit_canvas, digits


@pytest.fixture(scope="module")
def made():
    """The embedded set, which takes two seconds to make."""
    return digit_canvas()


def _shared(box, other):
    sides = np.minimum(box[2:4], other[2:4]) - np.maximum(box[:2], other[:2])
    areas = [np.prod(b[2:4] - b[:2]) for b in (box, other)]
    return np.prod(np.maximum(sides, 0)) / min(areas)


@pytest.mark.thorough
def test_canvases_hold_digits_in_their_boxes(made):
    splits, names = made
    assert names == [str(i) for i in range(10)]
    pixels, objects = splits["test"]
    assert pixels.shape == (len(objects), 64, 64, 1) and pixels.dtype == np.uint8
    assert {len(rows) for rows in objects} == {1, 2, 3, 4, 5}
    inside, outside = [], []
    for image, rows in zip(pixels[..., 0], objects, strict=True):
        assert (rows[:, :2] >= 0).all() and (rows[:, 2:4] <= 64).all()
        sides = rows[:, 2:4] - rows[:, :2]
        assert sides.min() >= 3 and 12 <= sides.max(1).min() and sides.max() <= 30
        free = np.ones((64, 64), "bool")
        for i, row in enumerate(rows):
            left, top, right, bottom = row[:4].astype(int)
            free[top:bottom, left:right] = False
            inside.append(image[top:bottom, left:right].max())
            assert all(_shared(row, other) <= 0.1 for other in rows[:i])
        outside.append(image[free].max())
    # Digits are light on what is around them, though not on every canvas as much.
    assert min(inside) > 120 and np.median(outside) < 110


def test_canvases_of_a_split_are_of_its_digits_alone_each_as_often(made):
    """Where digits are numbered, so that what lies on a canvas can be told."""
    splits, _ = digits()
    counts = {split: len(elements) for split, elements in splits.items()}
    labels = {
        split: np.concatenate([rows[:, 4] for rows in objects]).astype(int)
        for split, (_, objects) in made[0].items()
    }
    for split, rounds in (("train", 3), ("validation", 1), ("test", 1)):
        assert (np.bincount(labels[split]) == rounds * counts[split] // 10).all()
    numbered = np.zeros((9, 28, 28, 1), "uint8")
    numbered[:, 4:24, 8:20] = 255
    _, objects = canvases(numbered, np.arange(9), 4, 0)
    assert (np.bincount(np.concatenate(objects)[:, 4].astype(int)) == 4).all()


def test_canvases_are_the_same_every_time_and_others_with_another_seed():
    some = next(digits()[0]["test"].batch(40).as_numpy_iterator())
    (a, rows_a), (b, rows_b), (c, _) = (canvases(*some, 1, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.concatenate(rows_a), np.concatenate(rows_b))
    assert a.shape != c.shape or not np.array_equal(a, c)


@pytest.fixture
def data(made, monkeypatch):
    monkeypatch.setattr("bigmodels.data.readers.embedded.OBJECTS", {"digit_canvas": lambda: made})
    return load_detection(augmentation=BoxAugmentation(translation=0.1, zoom=0.2), seed=1)


def test_batches_are_images_and_padded_objects(data):
    assert data.image_shape == (64, 64, 1) and data.sizes["train"] > 4000
    for split in ("train_sample", "validation", "test"):
        for images, objects in getattr(data, split):
            assert images.dtype == tf.float32 and 0 <= images.numpy().min() <= 1
            assert images.numpy().max() <= 1 and objects.shape[1:] == (5, 5)
    dense = np.concatenate([y for _, y in data.test])
    for row, known in zip(dense, data.objects["test"], strict=True):
        np.testing.assert_array_equal(row[: len(known)], known[:, :5])
        assert (row[len(known) :] == [0, 0, 0, 0, -1]).all()


def test_an_epoch_is_a_function_of_its_number(data):
    def epoch(number, count=3):
        return [(x.numpy(), y.numpy()) for x, y in data.train_from(number).take(count)]

    first, again, second = epoch(0), epoch(0), epoch(1)
    for (x, y), (other_x, other_y) in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)
    assert not np.array_equal(first[0][1], second[0][1])
    steps = int(data.train.cardinality())
    (later,) = data.train_from(0).skip(steps).take(1)
    np.testing.assert_array_equal(later[1], second[0][1])


def _boxes_of_light(images):
    """The box of what is light in each picture."""
    found = []
    for image in images[..., 0]:
        rows, columns = (np.flatnonzero((image > 0.5).any(axis)) for axis in (1, 0))
        found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.array(found)


@pytest.mark.parametrize(
    "kinds",
    [
        {"horizontal_flip": True},
        {"translation": 0.2},
        {"zoom": 0.3},
        {"horizontal_flip": True, "translation": 0.2, "zoom": 0.3, "brightness": 0.2},
    ],
    ids=" ".join,
)
def test_boxes_go_where_their_pixels_go(rng, kinds):
    images, objects = np.zeros((200, 40, 50, 1), "float32"), np.zeros((200, 2, 5), "float32")
    objects[:, 1, 4] = -1
    for image, rows in zip(images, objects, strict=True):
        left, top = rng.integers(12, 24), rng.integers(12, 20)
        rows[0] = left, top, left + rng.integers(3, 14), top + rng.integers(3, 8), 7
        image[top : int(rows[0, 3]), left : int(rows[0, 2])] = 1
    found, boxes = BoxAugmentation(**kinds)(images, objects, (3, 4))
    boxes = boxes.numpy()
    assert (boxes[:, 0, 4] == 7).all() and (boxes[:, 1] == [0, 0, 0, 0, -1]).all()
    np.testing.assert_allclose(_boxes_of_light(found.numpy()), boxes[:, 0, :4], atol=1.01)
    assert np.abs(boxes[:, 0, :4] - objects[:, 0, :4]).max() > 3
    same = BoxAugmentation(**kinds)(images, objects, (3, 4))
    np.testing.assert_array_equal(found, same[0])
    np.testing.assert_array_equal(boxes, same[1])


def test_objects_that_leave_the_picture_are_gone_and_others_are_cut():
    images = np.zeros((500, 20, 20, 1), "float32")
    objects = np.tile(np.float32([[0, 6, 10, 14, 2]]), (500, 1, 1))
    _, boxes = BoxAugmentation(translation=0.5)(images, objects, (1, 2))
    boxes = boxes.numpy()[:, 0]
    gone = boxes[:, 4] < 0
    assert (boxes[gone] == [0, 0, 0, 0, -1]).all() and 0.05 < gone.mean() < 0.5
    kept = boxes[~gone]
    assert (kept[:, :4] >= 0).all() and (kept[:, :4] <= 20).all()
    shares = (kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1]) / 80
    assert 0.3 <= shares.min() < 0.4 and (shares[kept[:, 0] > 0] <= 1.0001).all()


def test_nothing_is_varied_unless_asked():
    images, objects = np.ones((2, 4, 4, 1), "float32"), np.zeros((2, 1, 5), "float32")
    same = BoxAugmentation()(images, objects, (0, 0))
    assert same[0] is images and same[1] is objects


def test_canvases_are_resized_with_their_boxes(made, monkeypatch):
    few = {split: (pixels[:20], rows[:20]) for split, (pixels, rows) in made[0].items()}
    monkeypatch.setattr(
        "bigmodels.data.readers.embedded.OBJECTS", {"digit_canvas": lambda: (few, made[1])}
    )
    data = load_detection(image_size=(32, 96))
    assert data.image_shape == (32, 96, 1)
    for new, old in zip(data.objects["test"], few["test"][1], strict=True):
        np.testing.assert_allclose(new, old * [1.5, 0.5, 1.5, 0.5, 1, 1])
