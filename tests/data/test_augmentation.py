"""Augmentation of images."""

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import Augmentation
from bigmodels.data.augmentation import alternating


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


def test_erasing_replaces_a_rectangle_by_noise(rng):
    images = 2 + rng.uniform(size=(400, 32, 40, 3)).astype("float32")
    output = Augmentation(random_erasing=0.5)(images, [1, 2]).numpy()
    erased = (output != images).any(-1)
    shares = []
    for pixels, image in zip(erased, output, strict=True):
        rows, columns = pixels.any(1), pixels.any(0)
        assert (pixels == rows[:, None] & columns).all()  # A rectangle,
        assert all((np.diff(np.flatnonzero(side)) == 1).all() for side in (rows, columns))
        assert image[pixels].size == 0 or 0 <= image[pixels].min() <= image[pixels].max() < 1
        shares.append(pixels.mean())
    shares = np.array([share for share in shares if share])
    assert 160 < len(shares) < 240  # of half of the images,
    assert 0.01 < shares.min() < 0.04 and 0.28 < shares.max() < 0.36  # of 2 to 33%.
    again = Augmentation(random_erasing=0.5)(images, [1, 2]).numpy()
    assert (again == output).all()
    assert (Augmentation(random_erasing=0.5)(images, [1, 3]).numpy() != output).any()
