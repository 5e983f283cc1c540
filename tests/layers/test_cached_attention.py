"""Our attention of a sequence over itself is Keras', value by value and gradient by gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import CachedAttention
from bigmodels.layers.cached_attention import _attention

SHAPE = (3, 7, 12)  # (batch, length, width)


def pair(rng, **kwargs):
    """Ours and Keras', with the same weights."""
    layers = [cls(3, 4, **kwargs) for cls in (CachedAttention, keras.layers.MultiHeadAttention)]
    for layer in layers:
        layer.build(SHAPE, SHAPE)
    values = [rng.normal(size=w.shape) for w in layers[0].trainable_weights]
    for layer in layers:
        for weight, value in zip(layer.trainable_weights, values, strict=True):
            weight.assign(value)
    return layers


def measured(layer, x, upstream, other=None, **kwargs):
    """The output, and the gradients of inputs and weights."""
    inputs = [tf.constant(x)] if other is None else [tf.constant(x), tf.constant(other)]

    @tf.function
    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs[0], inputs[-1], **kwargs)
            loss = tf.reduce_sum(y * upstream)
        return y, tape.gradient(loss, [*inputs, *layer.trainable_variables])

    return run(*inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "keys", "each"])
def test_equals_keras(rng, mask, causal):
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    seen = {
        None: None,
        "keys": np.arange(7)[None, None] < np.array([7, 3, 1])[:, None, None],
        "each": (rng.uniform(size=(3, 7, 7)) < 0.5) | np.eye(7, dtype=bool),
    }[mask]
    kwargs = {"attention_mask": seen, "use_causal_mask": causal}
    ours, theirs = (measured(layer, x, upstream, **kwargs) for layer in pair(rng))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_dropout_takes_the_same_weights_in_gradient_and_output(rng):
    """The output is linear in the values, so that its gradient tells which weights it was of."""
    layer = CachedAttention(1, 2, dropout=0.5, seed=1)
    shape = (1, 6, 2)
    layer.build(shape, shape)
    kernel = np.zeros((2, 1, 2), "float32")
    for part in (layer.query_dense, layer.key_dense):
        part.kernel.assign(kernel)  # Attention to all alike.
    for part, as_is in ((layer.value_dense, (2, 1, 2)), (layer.output_dense, (1, 2, 2))):
        part.kernel.assign(np.eye(2).reshape(as_is))
    x = tf.constant(rng.normal(size=shape), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = layer(x, x, training=True)
    jacobian = tape.jacobian(y, x, experimental_use_pfor=False).numpy()[0, :, 0, 0, :, 0]
    np.testing.assert_allclose(jacobian @ x[0].numpy(), y[0], rtol=1e-5, atol=1e-6)
    # Each weight is a sixth, doubled or dropped.
    assert set(np.round(jacobian.ravel() * 6, 4)) == {0.0, 2.0}


def test_gradient_goes_through_what_was_dropped(rng):
    """To queries and keys too, against automatic differentiation of the formula."""
    shape = (2, 3, 5, 4)  # (batch, heads, length, key_dim)
    sequences = [tf.constant(rng.normal(size=shape)) for _ in range(3)]
    upstream = rng.normal(size=shape)
    kept = 2.0 * (rng.uniform(size=(2, 3, 5, 5)) < 0.5)

    def plain(query, key, value, hidden, kept):
        return (tf.nn.softmax(query @ tf.linalg.matrix_transpose(key)) * kept) @ value

    found = []
    for attend in (_attention, plain):
        with tf.GradientTape() as tape:
            tape.watch(sequences)
            y = attend(*sequences, None, kept)
        found.append([y, *tape.gradient(y, sequences, upstream)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_dropout_is_off_outside_training(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    with_dropout, without = pair(rng, dropout=0.5)[0], pair(rng)[0]
    for a, b in zip(with_dropout.trainable_weights, without.trainable_weights, strict=True):
        a.assign(b)
    np.testing.assert_array_equal(with_dropout(x, x, training=False), without(x, x))


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [({"use_bias": False}, "use_bias=False"), ({"sliding_window": 2}, "sliding_window=2")],
)
def test_what_keras_does(rng, kwargs, why):
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    layers = pair(rng, **kwargs)
    assert layers[0].describe_kernel() == f"Keras' attention: {why}"
    ours, theirs = (measured(layer, x, upstream) for layer in layers)
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_of_two_sequences_it_is_keras(rng, masked):
    query, value, upstream = rng.normal(size=(3, *SHAPE)).astype("float32")
    value = value[:, :5]
    seen = np.arange(5)[None, None] < np.array([5, 3, 1])[:, None, None] if masked else None
    ours, theirs = (
        measured(layer, query, upstream, value, attention_mask=seen) for layer in pair(rng)
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    (_, weights), _ = (layer(query, value, return_attention_scores=True) for layer in pair(rng))
    assert weights.shape == (3, 3, 7, 5)


def test_says_what_it_does():
    layer = CachedAttention(2, 2)
    assert layer.describe_kernel() == "one product for queries, keys and values"
    assert layer.describe_kernel(jit_compile=True).endswith("by XLA")
