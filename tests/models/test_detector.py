import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.losses import CenterPoints
from bigmodels.models import Detector
from tests.cocos import pictures


def tiny(**more):
    model = Detector(2, (4, 6, 8), 8, class_names=["tall", "wide"], **more)
    model.build((None, 16, 20, 3))
    return model


def batch(rng, count=32):
    pixels, objects = pictures(rng, count)
    rows = np.zeros((count, 3, 5), "float32")
    rows[..., 4] = -1
    for row, found in zip(rows, objects, strict=True):
        for i, (*box, label) in enumerate(found):
            row[i] = (*box, label == 7)
    return pixels / np.float32(255), rows


def by_hand(objects, outputs, stride=4, box_weight=1.0):
    """The loss of one image, cell by cell."""
    rows, columns, depth = outputs.shape
    classes = depth - 4
    target = np.zeros((rows, columns, classes))
    near = []
    real = [row for row in objects if row[4] >= 0]
    for left, top, right, bottom, label in real:
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) / stride
        extent = np.array([right - left, bottom - top]) / stride
        cell, spread = np.floor(middle), (1 + 0.3 * extent) / 6
        weight = np.zeros((rows, columns))
        for y in range(rows):
            for x in range(columns):
                weight[y, x] = np.exp(-(((np.array([x, y]) - cell) / spread) ** 2).sum() / 2)
        near.append((weight, middle, extent))
        target[..., int(label)] = np.maximum(target[..., int(label)], weight)
    probability = 1 / (1 + np.exp(-outputs[..., :classes]))
    missed = (1 - probability) ** 2 * -np.log(probability)
    invented = (1 - target) ** 4 * probability**2 * -np.log(1 - probability)
    loss = np.where(target == 1, missed, invented).sum() / max(len(real), 1)
    if not real:
        return loss
    errors = total = 0.0
    for y in range(rows):
        for x in range(columns):
            weight, middle, extent = max(
                ((w[y, x], m, e) for w, m, e in near), key=lambda item: item[0]
            )
            shift, size = outputs[y, x, classes : classes + 2], outputs[y, x, classes + 2 :]
            error = (np.abs(np.add(shift, [x, y]) - middle) / extent).sum()
            errors += weight * (error + np.abs(size - np.log(extent)).sum())
            total += weight
    return loss + box_weight * errors / total


def test_the_loss_is_what_it_says(rng):
    _, objects = batch(rng, 5)
    objects[3, :, 4] = -1  # Nothing is there.
    outputs = rng.normal(0, 1, (5, 4, 5, 6)).astype("float32")
    for weight in (1.0, 0.3):
        found = CenterPoints(4, weight, reduction="none")(objects, outputs)
        wanted = [by_hand(*pair, box_weight=weight) for pair in zip(objects, outputs, strict=True)]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    mean = CenterPoints(4)(objects, outputs)
    assert float(mean) == pytest.approx(
        np.mean(CenterPoints(4, reduction="none")(objects, outputs))
    )


def test_the_loss_of_an_image_does_not_depend_on_the_others_or_on_padding(rng):
    _, objects = batch(rng, 6)
    outputs = rng.normal(0, 1, (6, 4, 5, 6)).astype("float32")
    loss = CenterPoints(4, reduction="none")
    whole = loss(objects, outputs).numpy()
    np.testing.assert_allclose(loss(objects[2:3], outputs[2:3]), whole[2:3], rtol=1e-6)
    padded = np.pad(objects, ((0, 0), (0, 4), (0, 0)), constant_values=-1)
    np.testing.assert_allclose(loss(padded, outputs), whole, rtol=1e-6)


def test_the_gradient_is_finite_whatever_comes_out(rng):
    _, objects = batch(rng, 4)
    objects[0, 0] = 3, 3, 3, 3, 1  # A box of nothing.
    outputs = tf.constant(rng.normal(0, 300, (4, 4, 5, 6)), "float32")
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = CenterPoints(4)(objects, outputs)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, outputs)).all()


@pytest.mark.thorough
def test_a_class_that_there_is_not_is_refused(rng):
    x, y = batch(rng, 4)
    y[1, 0, 4] = 2
    model = tiny()
    model.compile("adam", CenterPoints())
    with pytest.raises(ValueError, match="y: expected class indices below 2"):
        model.fit(x, y, verbose=0)


def perfect(objects, rows=4, columns=5, classes=2, stride=4):
    """What the network would have to say for the objects to be found exactly."""
    outputs = np.zeros((len(objects), rows, columns, classes + 4), "float32")
    outputs[..., :classes] = -20
    for output, found in zip(outputs, objects, strict=True):
        for i, (left, top, right, bottom, label) in enumerate(found[found[:, 4] >= 0]):
            middle = np.array([(left + right) / 2, (top + bottom) / 2]) / stride
            x, y = np.floor(middle).astype(int)
            output[y, x, int(label)] = 5 - i
            # What neighbours say of the same object is not wanted.
            for near in range(max(x - 1, 0), min(x + 2, columns)):
                output[y, near, int(label)] = max(output[y, near, int(label)], 2.0)
            output[y, x, classes:] = [
                *(middle - [x, y]), *np.log([(right - left) / stride, (bottom - top) / stride])
            ]  # fmt: skip
    return outputs


def test_objects_are_read_off_their_peaks(rng):
    _, objects = batch(rng, 20)
    found = tiny().decode(tf.constant(perfect(objects)), max_detections=7)
    assert found["boxes"].shape == (20, 7, 4) and found["classes"].dtype == tf.int32
    scores = found["scores"].numpy()
    assert (np.diff(scores) <= 0).all()
    for i, rows in enumerate(objects):
        real = rows[rows[:, 4] >= 0]
        sure = scores[i] > 0.9
        assert sure.sum() == len(real) and (scores[i, ~sure] < 0.5).all()
        np.testing.assert_allclose(found["boxes"][i][: len(real)], real[:, :4], atol=1e-4)
        np.testing.assert_array_equal(found["classes"][i][: len(real)], real[:, 4])


def test_boxes_end_with_the_image():
    model, outputs = tiny(), np.zeros((1, 4, 5, 6), "float32")
    outputs[..., 4:] = 50  # Beyond what an exponential can hold in some precisions.
    boxes = model.decode(tf.constant(outputs), max_detections=1000)["boxes"].numpy()
    assert boxes.shape == (1, 4 * 5 * 2, 4)
    assert (boxes >= 0).all() and (boxes <= [20, 16, 20, 16]).all()


@pytest.mark.thorough
def test_it_learns_and_detects_in_arrays_and_data_sets_alike(rng):
    model = tiny()
    model.compile(keras.optimizers.Adam(1e-2), CenterPoints())
    x, y = batch(rng, 256)
    model.fit(x, y, epochs=25, batch_size=32, verbose=0)
    images, objects = batch(rng, 20)
    found = model.detect(images, verbose=0)
    right = 0
    for each, rows in zip(found, objects, strict=True):
        assert (np.diff(each["scores"]) <= 0).all() and (each["scores"] >= 0.3).all()
        for box, label in zip(each["boxes"], each["classes"], strict=True):
            near = np.abs(rows[:, :4] - box).max(1) < 2
            right += bool((near & (rows[:, 4] == label)).any())
    assert right >= 0.8 * (objects[..., 4] >= 0).sum()
    of_set = model.detect(tf.data.Dataset.from_tensor_slices(images).batch(7), verbose=0)
    for a, b in zip(found, of_set, strict=True):
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1e-3)
    assert sum(len(each["scores"]) for each in model.detect(images, 0.0, verbose=0)) > right


@pytest.mark.parametrize("size", [(4, 4), (17, 23), (30, 9)])
def test_odd_sizes_are_rounded_up(rng, size):
    model = Detector(3, (2, 3, 4, 5, 6))
    images = rng.uniform(0, 1, (2, *size, 1)).astype("float32")
    model.build((None, *size, 1))
    assert model.predict(images, verbose=0).shape == (2, -(-size[0] // 4), -(-size[1] // 4), 7)
    assert model.compute_output_shape((2, *size, 1)) == model(images).shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Detector(0), "num_classes: 0"),
        (lambda: Detector(2, class_names=["a"]), "class_names: 1 names for num_classes=2"),
        (lambda: Detector(2, (4, 4)), "filters: (4, 4), expected three numbers or more"),
        (lambda: Detector(2).build((None, 64, 64)), "input_shape: (None, 64, 64), expected"),
        (lambda: Detector(2).build((None, 3, 64, 1)), "is too small"),
        (lambda: tiny().detect(np.zeros((1, 16, 20, 3)), 1.0), "threshold: 1.0, expected from 0"),
        (lambda: tiny().detect(np.zeros((1, 16, 20, 3)) + 99), "x: element 0 holds 99"),
        (lambda: tiny().detect(np.zeros((1, 16, 16, 3))), "x: shape"),
    ],
)
def test_errors_name_argument_and_value(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
