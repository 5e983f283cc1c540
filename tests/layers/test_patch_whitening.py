"""Whitened patches of the images that the layer has seen are uncorrelated, with variance one."""

import keras
import numpy as np
import pytest

from bigmodels.layers import PatchWhitening


def smooth_images(rng, count=40, size=10, channels=2):
    """Neighbouring pixels and channels are correlated, as in photos."""
    images = rng.normal(size=(count, size + 2, size + 2, channels))
    images = images[:, 1:-1] + images[:, :-2] + images[:, 2:]
    images = images[:, :, 1:-1] + images[:, :, :-2] + images[:, :, 2:]
    return (0.5 + 0.05 * (images + 0.7 * images[..., ::-1])).astype("float32")


def whitened_rows(layer, images):
    """`(patches, components)` of the first half of the outputs, and of the second."""
    rows = keras.ops.convert_to_numpy(layer(images)).astype("float64")
    return np.split(rows.reshape(-1, rows.shape[-1]), 2, axis=-1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_covariance_of_the_patches_becomes_the_identity(rng, size):
    images, number = smooth_images(rng), 2 * size**2
    layer = PatchWhitening(size, epsilon=0.0)
    layer.adapt(images)
    assert layer(images).shape == (40, 11 - size, 11 - size, 2 * number)
    assert layer.compute_output_shape((None, 10, 10, 2)) == (None, *layer(images).shape[1:])
    rows, negatives = whitened_rows(layer, images)
    np.testing.assert_array_equal(negatives, -rows)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.eye(number), atol=1e-3)


def test_one_component_by_hand():
    """A pixel of a grey image: 0, 1, 1, 1, 1 has mean 0.8 and variance 0.16."""
    layer = PatchWhitening(1, epsilon=0.0)
    images = np.float32([0, 1, 1, 1, 1]).reshape(5, 1, 1, 1)
    layer.adapt(images)
    output = keras.ops.convert_to_numpy(layer(images)).reshape(5, 2)
    np.testing.assert_allclose(np.abs(output[:, 0]), [2, 0.5, 0.5, 0.5, 0.5], rtol=1e-5)


def test_epsilon_keeps_noise_small(rng):
    """A component with a hundredth of the variance, and an epsilon as large as that."""
    images = rng.normal(size=(500, 4, 4, 2)).astype("float32")
    images[..., 1] *= 0.1
    epsilon = np.square(images).mean((0, 1, 2)).min() / np.square(images).mean()
    layer = PatchWhitening(1, epsilon)
    layer.adapt(images)
    rows, _ = whitened_rows(layer, images)
    np.testing.assert_allclose(np.sort(rows.var(0)), [0.5, 0.99], atol=0.01)


def test_constant_pixels_stay_finite():
    layer = PatchWhitening(2)
    layer.adapt(np.full((3, 5, 5, 1), 0.25, "float32"))
    np.testing.assert_allclose(layer(np.full((1, 5, 5, 1), 0.25, "float32")), 0, atol=1e-3)


def test_weights_are_not_trained_and_are_saved(rng, tmp_path):
    images = smooth_images(rng)
    model = keras.Sequential([keras.Input(images.shape[1:]), PatchWhitening(2)])
    assert not model.trainable_weights
    model.layers[0].adapt(images)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))
