"""Our layer normalisation is Keras', value by value and gradient by gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import LayerNormalization


def gradients(layer, x, upstream):
    """The output, and the gradients of input, scale and shift, from a graph."""

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        return y, tape.gradient(loss, [x, *layer.trainable_variables])

    return run, run(tf.constant(x))


def pair(x, rng, **kwargs):
    layers = [cls(**kwargs) for cls in (LayerNormalization, keras.layers.LayerNormalization)]
    for layer in layers:
        layer.build(x.shape)
    values = [rng.normal(size=w.shape) for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(values)
    return layers


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5), (2, 1, 2, 8)])
def test_equals_keras(rng, shape):
    x = rng.normal(2, 3, shape).astype("float32")
    upstream = rng.normal(size=shape).astype("float32")
    ours, theirs = (gradients(layer, x, upstream)[1] for layer in pair(x, rng, epsilon=1e-2))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_is_that_of_the_formula(rng):
    """Against central differences, in float64."""
    x, upstream = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    layer = LayerNormalization(dtype="float64")
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=5), rng.normal(size=5)])
    with tf.GradientTape() as tape:
        v = tf.constant(x)
        tape.watch(v)
        loss = tf.reduce_sum(layer(v) * upstream)
    found = tape.gradient(loss, v).numpy()
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        up, down = (np.sum(np.asarray(layer(x + s)) * upstream) for s in (step, -step))
        assert found[place] == pytest.approx((up - down) / 2e-6, abs=1e-7)


@pytest.mark.parametrize(("policy", "bits"), [("mixed_bfloat16", 7), ("mixed_float16", 10)])
def test_half_precision_is_reckoned_in_float32(rng, policy, bits):
    """Rounded at the beginning and the end alone: a mean of 300 would else swallow the rest."""
    ours, _ = pair(np.ones((2, 4, 64)), rng, dtype=policy)
    x = tf.cast(rng.normal(300, 1, (2, 4, 64)), ours.compute_dtype)
    gamma, beta = (np.asarray(w, "float64") for w in ours.weights)
    exact = np.asarray(tf.cast(x, tf.float64))
    exact = exact - exact.mean(-1, keepdims=True)
    exact *= gamma / np.sqrt((exact**2).mean(-1, keepdims=True) + ours.epsilon)
    found = np.asarray(tf.cast(ours(x), tf.float64))
    np.testing.assert_allclose(found, exact + beta, rtol=2.0**-bits, atol=1e-4)


@pytest.mark.parametrize(
    "kwargs",
    [{"axis": (1, 2)}, {"axis": 1}, {"scale": False}, {"center": False}],
)
def test_what_keras_does(rng, kwargs):
    x = rng.normal(size=(2, 3, 4)).astype("float32")
    ours, theirs = (gradients(layer, x, x)[1] for layer in pair(x, rng, **kwargs))
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


def test_the_fast_way_is_taken(rng):
    """The gradient by hand sums scale and shift in an operation that the automatic one lacks."""
    x = np.ones((2, 3, 4), "float32")
    for layer, by_hand in zip(pair(x, rng), (True, False), strict=True):
        run, _ = gradients(layer, x, x)
        graph = run.get_concrete_function(tf.TensorSpec(x.shape)).graph
        assert ("BiasAddGrad" in {op.type for op in graph.get_operations()}) is by_hand
