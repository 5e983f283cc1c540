import keras
import numpy as np
import pytest

from bigmodels.layers.activations import ACTIVATIONS, relu_squared, swiglu


def test_values_by_hand():
    np.testing.assert_array_equal(relu_squared(np.float32([-3, 0, 0.5, 4])), [0, 0, 0.25, 16])
    x = np.array([[-1.0, 2.0, 5.0, -3.0]])  # Two gates, and what they let through.
    sigmoid = 1 / (1 + np.exp(-x[:, :2]))
    np.testing.assert_allclose(swiglu(x), x[:, :2] * sigmoid * x[:, 2:], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_a_dense_layer_with_one_is_saved(name):
    activation, inputs_each = ACTIVATIONS[name]
    dense = keras.layers.Dense(6 * inputs_each, activation=activation)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    assert dense(x).shape == (4, 6)
    again = keras.layers.deserialize(keras.layers.serialize(dense))
    again.set_weights(dense.get_weights())
    np.testing.assert_array_equal(again(x), dense(x))
