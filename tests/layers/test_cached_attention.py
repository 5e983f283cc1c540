"""Our attention of a sequence over itself is Keras', value by value and gradient by gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import CachedAttention, key_value_cache
from bigmodels.layers.dot_product_attention import dot_product_attention

SHAPE = (3, 7, 12)  # (batch, length, width)


def pair(rng, *, heads=3, classes=(CachedAttention, keras.layers.MultiHeadAttention), **kwargs):
    """Ours and Keras', with the same weights."""
    layers = [cls(heads, 4, **kwargs) for cls in classes]
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
    for attend in (dot_product_attention, plain):
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


class Doubled(CachedAttention):
    def _compute_attention(self, *args, **kwargs):
        output, scores = super()._compute_attention(*args, **kwargs)
        return 2 * output, scores


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ({"use_bias": False}, "use_bias=False"),
        ({"sliding_window": 2}, "sliding_window=2"),
        ({"use_gate": True}, "use_gate=True"),
        ({"value_dim": 6}, "value_dim=6"),
        ({"activity_regularizer": "l2"}, "activity_regularizer"),
    ],
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


def test_activity_regularizers_add_their_losses(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    losses = []
    for layer in pair(rng, activity_regularizer="l2"):
        layer(x, x)
        losses.append([float(loss) for loss in layer.losses])
    assert len(losses[0]) > 1  # Of each dense layer.
    np.testing.assert_allclose(*losses, rtol=1e-5)


def equal(ours, theirs, tolerance=1e-4):
    def check(a, b):
        a, b = (np.asarray(tf.cast(each, "float64")) for each in (a, b))
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))

    tf.nest.map_structure(check, ours, theirs)


@pytest.mark.parametrize("heads", [2, 7])  # As many as there are positions.
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "shape", [(7, 7), (1, 7), (3, 7, 7), (3, 7, 1), (1, 1, 7), (3, "heads", 7, 7), (1, 1, 7, 7)]
)
@pytest.mark.thorough
def test_masks_of_every_rank(rng, shape, heads, dropout):
    """Also of queries that may look at nothing: outputs, and no gradient through their scores."""
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    seen = rng.uniform(size=[heads if size == "heads" else size for size in shape]) < 0.5
    if shape[-2] > 1:
        seen[..., 2, :] = False
    found = []
    for layer in pair(rng, heads=heads, dropout=dropout, seed=3):
        found.append(measured(layer, x, upstream, attention_mask=seen, training=True))
    equal(*found)


@pytest.mark.parametrize("shape", [(7,), (2, 7, 7), (4, 7, 7), (3, 7, 7, 1), (1, 3, 3, 7, 7)])
def test_masks_that_do_not_fit_are_refused_as_by_keras(rng, shape):
    x = rng.normal(size=SHAPE).astype("float32")
    errors = []
    for layer in pair(rng, dropout=0.5):  # Else Keras broadcasts some.
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as error:
            layer(x, x, attention_mask=np.ones(shape, bool))
        errors.append(error.type)
    assert errors[0] is errors[1]


def test_a_query_that_may_look_at_nothing_has_no_gradient_through_its_scores(rng):
    x, y = (tf.constant(rng.normal(size=SHAPE), "float32") for _ in range(2))
    seen = np.ones((1, 7, 7), bool)
    seen[:, 2] = False
    layer, _ = pair(rng)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, y, attention_mask=seen)[:, 2] ** 2)
    assert loss > 0 and not np.any(tape.gradient(loss, x)[:, 2])


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16", "mixed_bfloat16"])
def test_queries_that_see_nothing_stay_finite_in_half_precision(rng, dtype):
    x = (0.3 * rng.normal(size=SHAPE)).astype("float32")
    layers = pair(rng, dtype=dtype)
    for layer in layers:  # Scores far below zero.
        layer.query_dense.bias.assign(np.full((3, 4), 6.0))
        layer.key_dense.bias.assign(np.full((3, 4), -6.0))
    seen = np.arange(7) >= np.array([0, 3, 7])[:, None]  # Padding on the left, and nothing else.
    kwargs = {"attention_mask": seen[:, None] & seen[..., None], "use_causal_mask": True}
    ours, theirs = (layer(x, x, **kwargs) for layer in layers)
    equal(ours, theirs, 0.05)


@pytest.mark.parametrize("names", [["query"], ["value"], ["key"], ["query", "value", "key"]])
@pytest.mark.parametrize("carried", [False, True])
def test_masks_of_the_sequences(rng, names, carried):
    """As arguments, of which Keras passes over the query's, and as what tensors carry."""
    x, y = rng.normal(size=(2, *SHAPE)).astype("float32")
    found = []
    for layer in pair(rng):
        given, kwargs = [tf.constant(x), tf.constant(y)], {}
        for name in names:
            mask = tf.constant(np.arange(7) < np.array([7, 3, 1])[:, None])
            if carried:
                given[name != "query"]._keras_mask = mask
            else:
                kwargs[f"{name}_mask"] = mask
        output = layer(*given, **kwargs)
        left = [getattr(each, "_keras_mask", None) for each in (*given, output)]
        found.append((output, [mask is None for mask in left]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("shape", [5, (5,), (1, 12), (3, 4), (2, 3, 2)])
def test_output_shapes_of_several_axes(rng, shape):
    x = rng.normal(size=SHAPE).astype("float32")
    ours, theirs = pair(rng, output_shape=shape)
    assert ours.describe_kernel() == "one product for queries, keys and values"
    np.testing.assert_allclose(ours(x, x), theirs(x, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["int8", "float8", "lora"])
@pytest.mark.thorough
def test_of_changed_dense_layers_it_is_keras(rng, mode):
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    found = []
    for layer in pair(rng):
        for dense in (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense):
            if mode == "lora":
                dense.enable_lora(2)
                for part in (dense.lora_kernel_a, dense.lora_kernel_b):
                    part.assign(np.random.default_rng(1).normal(size=part.shape))
            else:
                dense.quantize(mode)
        found.append(measured(layer, x, upstream) if mode == "lora" else layer(x, x))
        if mode != "lora" and type(layer) is CachedAttention:
            assert layer.describe_kernel().startswith("Keras' attention: query is a " + mode)
    equal(*found)


def test_a_subclass_computes_its_own_attention(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    ours, theirs = pair(rng, classes=(Doubled, keras.layers.MultiHeadAttention))
    assert ours.describe_kernel() == "Keras' attention: Doubled has its own _compute_attention"
    ours.output_dense.bias.assign(np.zeros(12))
    theirs.output_dense.bias.assign(np.zeros(12))
    np.testing.assert_allclose(ours(x, x), 2 * theirs(x, x), rtol=1e-5, atol=1e-5)
    norm = keras.layers.LayerNormalization()
    norm.build(SHAPE)
    for go_on in (ours.decode_step, ours.reader):
        with pytest.raises(ValueError, match="Doubled has its own _compute_attention"):
            go_on(norm)


def test_flash_attention_is_refused_as_by_keras(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    for layer in pair(rng, flash_attention=True):
        with pytest.raises(ValueError, match="Flash attention is not supported"):
            layer(x, x)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"value_dim": 6}, {"use_bias": False}, {"output_shape": (3, 4)}, {"dropout": 0.5}, "int8"],
    ids=str,
)
def test_token_by_token_it_is_what_a_call_gives(rng, kwargs):
    quantized = kwargs == "int8"
    layer, _ = pair(rng, **({} if quantized else kwargs))
    norm = keras.layers.LayerNormalization()
    norm.build(SHAPE)
    norm.gamma.assign(rng.uniform(size=12))
    if quantized:
        for dense in (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense):
            dense.quantize("int8")
    x = tf.constant(rng.normal(size=SHAPE), "float32")
    wanted = layer(norm(x), norm(x), use_causal_mask=True)

    @tf.function
    def write():
        cache, step, found = layer.prefill(norm(x)[:, :3], 7), layer.decode_step(norm), []
        for slot in range(3, 7):
            seen = (tf.range(7) <= slot)[None, None]
            y, cache = step(x[:, slot], key_value_cache.places(cache, slot), seen, cache)
            found.append(y)
        read = layer.reader(norm)(x[:, 6], tf.ones((1, 1, 7), bool), layer.prefill(norm(x), 7))
        return tf.stack(found, 1), read

    found, read = write()
    equal([found, read], [wanted[:, 3:], wanted[:, 6]])
