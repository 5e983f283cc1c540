import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import RotaryEmbedding


def test_values_by_hand():
    x = np.array([[[1, 0, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 1]]], "float32")[None]
    found = np.asarray(RotaryEmbedding(max_length=3, dim=4)(x))[0, :, 0]
    expected = [
        [1, 0, 0, 0],  # Position 0 is not rotated.
        [np.cos(1), 0, np.sin(1), 0],  # By an angle of 1.
        [0, -np.sin(0.02), 0, np.cos(0.02)],  # By an angle of 2 / 10000^(2/4).
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_the_product_with_complex_numbers_of_length_one(rng):
    x = rng.normal(size=(2, 7, 3, 10))
    found = np.asarray(RotaryEmbedding(9, 10, dtype="float64")(x))
    angles = np.arange(7)[:, None] / 10000 ** (np.arange(5) / 5)
    turned = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(found[..., :5] + 1j * found[..., 5:], turned, atol=1e-12)


def test_products_depend_on_the_distance_only(rng):
    layer = RotaryEmbedding(100, 8, dtype="float64")
    query, key = rng.normal(size=(2, 1, 1, 1, 8))
    products = [
        np.sum(layer(query, np.array([[p + 5]])) * layer(key, np.array([[p]])))
        for p in (0, 1, 17, 90)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    other = np.sum(layer(query, np.array([[6]])) * layer(key, np.array([[0]])))
    assert abs(other - products[0]) > 1e-3


def test_positions_of_each_row(rng):
    layer = RotaryEmbedding(20, 6)
    x = rng.normal(size=(2, 12, 3, 6)).astype("float32")
    whole = np.asarray(layer(x))
    positions = np.array([[3, 4], [10, 0]])
    rows = np.stack([x[0, 3:5], x[1, [10, 0]]])
    wanted = np.stack([whole[0, 3:5], whole[1, [10, 0]]])
    np.testing.assert_array_equal(layer(rows, positions), wanted)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_far_positions_apart(rng, policy):
    """Angles of half precision would be wrong by whole turns."""
    x = rng.normal(size=(1, 3000, 1, 8))
    found = RotaryEmbedding(3000, 8, dtype=policy)(x)
    assert found.dtype == policy.removeprefix("mixed_")
    exact = RotaryEmbedding(3000, 8, dtype="float64")(x)
    np.testing.assert_allclose(keras.ops.cast(found, "float64"), exact, atol=0.05)


def test_arguments_are_checked_and_kept():
    with pytest.raises(ValueError, match="dim: 5, expected an even number"):
        RotaryEmbedding(4, 5)
    with pytest.raises(ValueError, match="max_length: 0"):
        RotaryEmbedding(0, 4)
    with pytest.raises(ValueError, match="length 5 is longer than max_length=4"):
        RotaryEmbedding(4, 2)(np.zeros((1, 5, 1, 2)))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 1, 2))])
    def dynamic(x):
        return RotaryEmbedding(4, 2)(x)

    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than max_length=4"):
        dynamic(np.zeros((1, 5, 1, 2), "float32"))
    layer = RotaryEmbedding(7, 4, name="mine")
    again = RotaryEmbedding.from_config(layer.get_config())
    assert (again.max_length, again.dim, again.name) == (7, 4, "mine")
