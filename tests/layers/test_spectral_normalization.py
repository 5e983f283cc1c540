"""The largest singular value, against NumPy's, and what it does to a layer and its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bigmodels.layers import SpectralNormalization

LAYERS = {
    "dense": (lambda **k: layers.Dense(5, name="d", **k), (4, 7)),
    "conv": (lambda **k: layers.Conv2D(5, 3, 2, "same", name="c", **k), (4, 6, 6, 2)),
}


def largest(kernel):
    kernel = np.asarray(kernel, "float64")
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


@pytest.fixture(params=sorted(LAYERS))
def trained(request, rng):
    """`(layer, inputs)`, after as many rounds as it takes for the value to be exact."""
    make, shape = LAYERS[request.param]
    layer = SpectralNormalization(make(bias_initializer="random_normal"))
    x = rng.normal(size=shape).astype("float32")
    for _ in range(150):
        layer(x, training=True)
    return layer, x


def test_it_finds_the_largest_singular_value(trained):
    layer, _ = trained
    assert float(layer.singular_value()) == pytest.approx(largest(layer.layer.kernel), rel=1e-5)


def test_the_kernel_is_divided_and_the_bias_is_not(trained):
    layer, x = trained
    inner, found = layer.layer, np.asarray(layer(x, training=False))
    kernel = np.asarray(inner.kernel)
    inner.kernel.assign(kernel / largest(kernel))
    np.testing.assert_allclose(found, inner(x), atol=1e-5)
    assert found.shape == layer.compute_output_shape(x.shape)


def test_the_gradient_knows_of_the_division(trained, rng):
    """Against TensorFlow's own gradient through a singular value decomposition."""
    layer, x = trained
    kernel, weight = layer.layer.kernel.value, rng.normal(size=layer(x).shape).astype("float32")
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_sum(layer(x, training=True) * weight)
        matrix = tf.reshape(kernel, (-1, 5))
        divided = kernel / tf.linalg.svd(matrix, compute_uv=False)[0]
        product = x @ divided if len(x.shape) == 2 else tf.nn.conv2d(x, divided, 2, "SAME")
        theirs = tf.reduce_sum((product + layer.layer.bias.value) * weight)
    found, expected = tape.gradient(ours, kernel), tape.gradient(theirs, kernel)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # A longer kernel changes nothing, so there is no gradient along it.
    assert abs(float(tf.reduce_sum(found * kernel))) < 1e-4 < float(tf.norm(found))


def test_only_training_goes_on_and_nothing_touches_the_weights(rng):
    layer = SpectralNormalization(layers.Dense(3))
    x = rng.normal(size=(2, 4)).astype("float32")
    layer.build(x.shape)
    kernel, vector = layer.layer.kernel.numpy(), layer.vector.numpy()
    layer(x, training=False)
    np.testing.assert_array_equal(layer.vector, vector)
    layer(x, training=True)
    assert not np.array_equal(layer.vector, vector)
    np.testing.assert_array_equal(layer.layer.kernel, kernel)
    assert [v.path for v in layer.trainable_variables] == [v.path for v in layer.layer.variables]


def test_a_kernel_of_zeros_stays_finite():
    layer = SpectralNormalization(layers.Dense(3, kernel_initializer="zeros"))
    np.testing.assert_array_equal(layer(np.ones((2, 4), "float32"), training=True), 0)
    np.testing.assert_array_equal(layer(np.ones((2, 4), "float32"), training=True), 0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_the_vector_in_full(policy, rng):
    layer = SpectralNormalization(layers.Dense(3, dtype=policy), dtype=policy)
    outputs = layer(rng.normal(size=(2, 4)).astype("float32"), training=True)
    assert outputs.dtype == policy.removeprefix("mixed_") and layer.vector.dtype == "float32"
    assert np.isfinite(np.asarray(keras.ops.cast(outputs, "float32"))).all()


def test_config_survives_and_an_activation_is_refused():
    layer = SpectralNormalization(layers.Dense(3, use_bias=False), name="mine")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.name == "mine" and again.layer.units == 3 and not again.layer.use_bias
    with pytest.raises(ValueError, match="layer: 'd' has an activation"):
        SpectralNormalization(layers.Dense(3, activation="relu", name="d"))
