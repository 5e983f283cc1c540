import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import Augmentation
from bigmodels.data.pipeline import alternating, evaluation_batches, training_batches


def _batches(seed, size=23):
    return training_batches(
        tf.data.Dataset.range(size), size, 5, seed, lambda batch, batch_seed: (batch, batch_seed)
    )


def _ids(seed, epochs=1, size=23):
    data, _ = _batches(seed, size)
    rows = [row for _ in range(epochs) for row in data.as_numpy_iterator()]
    return [ids.tolist() for ids, _ in rows], [tuple(seed) for _, seed in rows]


def test_every_epoch_holds_every_element_once_in_another_order():
    batches, _ = _ids(1, epochs=3)
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3] * 3
    epochs = [sum(batches[i : i + 5], []) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_follows_from_the_seed_alone():
    assert _ids(1, epochs=2) == _ids(1, epochs=2)
    assert _ids(1) != _ids(2)


def _stream(data, batches):
    rows = list(data.take(batches).as_numpy_iterator())
    return [(ids.tolist(), tuple(seed)) for ids, seed in rows]


def test_the_stream_is_a_function_of_the_epochs_number():
    """What a run sees, killed and continued or not, however often it is iterated."""
    _, train_from = _batches(1)
    whole = train_from(0)
    first_time = _stream(whole, 20)
    assert _stream(whole, 20) == first_time
    batches, seeds = _ids(1, epochs=4)
    assert list(zip(batches, seeds, strict=True)) == first_time  # As iterating `train` does.
    for first in (1, 2):
        assert _stream(_batches(1)[1](first), 20 - 5 * first) == first_time[5 * first :]
    epochs = [sum((ids for ids, _ in first_time[i : i + 5]), []) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({seed for _, seed in first_time}) == 20


@pytest.mark.parametrize("global_seed", [0, 7])
def test_order_does_not_follow_from_tensorflows_own_seed(global_seed):
    expected = _ids(1), _stream(_batches(1)[1](0), 5)
    tf.random.set_seed(global_seed)
    assert (_ids(1), _stream(_batches(1)[1](0), 5)) == expected


def test_no_two_batches_share_a_seed():
    _, seeds = _ids(1, epochs=3)
    assert len(set(seeds)) == 15


def test_prepare_may_ask_for_the_epochs_number():
    train, train_from = training_batches(
        tf.data.Dataset.range(7), 7, 3, 1, lambda _, seed, epoch: epoch, with_epoch=True
    )
    assert [int(x) for _ in range(2) for x in train] == [0, 0, 0, 1, 1, 1]
    assert [int(x) for x in train_from(4).take(4)] == [4, 4, 4, 5]


def test_length_is_known():
    data, _ = _batches(0)
    assert int(data.cardinality()) == 5


def test_evaluation_is_in_order():
    data = evaluation_batches(tf.data.Dataset.range(7), 3, lambda batch, seed: batch)
    assert [b.tolist() for b in data.as_numpy_iterator()] == [[0, 1, 2], [3, 4, 5], [6]]


def _picture(rng, count=1):
    return tf.constant(rng.uniform(size=(count, 8, 8, 1)).astype("float32"))


def test_no_augmentation_is_the_identity(rng):
    images = _picture(rng, 4)
    assert Augmentation()(images, [1, 2]) is images


def test_flip_is_exact_for_about_half(rng):
    images = _picture(rng, 200)
    flipped = Augmentation(horizontal_flip=True)(images, [1, 2]).numpy()
    mirrored = images.numpy()[:, :, ::-1]
    is_same = np.isclose(flipped, images, atol=1e-5).all((1, 2, 3))
    is_mirror = np.isclose(flipped, mirrored, atol=1e-5).all((1, 2, 3))
    assert (is_same ^ is_mirror).all()
    assert 70 < is_mirror.sum() < 130


def test_alternating_shows_each_image_once_each_way_in_two_epochs(rng):
    images = rng.integers(0, 256, (200, 6, 5, 3), "uint8")
    first, second, third = (alternating(tf.constant(images), epoch).numpy() for epoch in range(3))
    assert (first ^ second).all() and (first == third).all()
    assert 70 < first.sum() < 130
    order = rng.permutation(200)  # Whatever the order and the batch.
    np.testing.assert_array_equal(alternating(tf.constant(images[order[:7]]), 0), first[order[:7]])


def test_given_images_are_mirrored_and_no_others(rng):
    images = _picture(rng, 6)
    mirrored = np.array([True, False, False, True, True, False])
    output = Augmentation(horizontal_flip=True, alternate_flip=True)(images, [1, 2], mirrored)
    expected = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(output, expected)


def test_random_crops_of_the_reflection():
    """Every crop is one of 25, in whole pixels, and all of them occur."""
    image = np.arange(48, dtype="float32").reshape(1, 6, 8, 1)
    padded = np.pad(image[0], [(2, 2), (2, 2), (0, 0)], mode="reflect")
    crops = [padded[i : i + 6, j : j + 8].tolist() for i in range(5) for j in range(5)]
    images = tf.constant(image.repeat(400, 0))
    output = Augmentation(crop_padding=2)(images, [1, 2]).numpy()
    numbers = [crops.index(crop.tolist()) for crop in output]
    assert set(numbers) == set(range(25))
    with pytest.raises(ValueError, match="crop_padding: 6, expected less than the 6x8 pixels"):
        Augmentation(crop_padding=6)(images, [1, 2])


def test_translation_moves_by_at_most_its_share():
    image = np.zeros((100, 9, 9, 1), "float32")
    image[:, 4, 4] = 1
    moved = Augmentation(translation=2 / 9)(tf.constant(image), [3, 4]).numpy()[..., 0]
    grid = np.arange(9)
    row = (moved.sum(2) * grid).sum(1) / moved.sum((1, 2))
    column = (moved.sum(1) * grid).sum(1) / moved.sum((1, 2))
    for centre in (row, column):
        assert np.abs(centre - 4).max() <= 2.01 and np.ptp(centre) > 2


def test_rotation_keeps_the_middle_and_turns_the_rest():
    image = np.zeros((50, 9, 9, 1), "float32")
    image[:, 4, :] = 1  # A horizontal bar.
    turned = Augmentation(rotation=30)(tf.constant(image), [3, 4]).numpy()[..., 0]
    np.testing.assert_allclose(turned[:, 4, 4], 1, atol=1e-4)
    # At most 30 degrees: 3 pixels from the middle the bar leaves its row by at most 3 tan 30.
    assert turned[:, 1, 7].max() < 1 and np.ptp(turned[:, 3, 7]) > 0.3


def test_augmentation_is_seeded_and_differs_between_images(rng):
    image = _picture(rng)
    images = tf.repeat(image, 6, axis=0)
    vary = Augmentation(translation=0.2, rotation=10, zoom=0.1)
    a = vary(images, [1, 2]).numpy()
    np.testing.assert_array_equal(a, vary(images, [1, 2]).numpy())
    assert not np.array_equal(a, vary(images, [1, 3]).numpy())
    assert not np.array_equal(a[0], a[1])
    assert a.shape == images.shape and a.min() >= 0 and a.max() <= 1


@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_any_size(size):
    batches, _ = _ids(0, size=size)
    assert sorted(sum(batches, [])) == list(range(size))
