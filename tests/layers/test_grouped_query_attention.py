"""Grouped queries, rotary positions, normalised queries and keys, a window: each by another way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import GroupedQueryAttention, key_value_cache

SHAPE = (3, 7, 12)  # (batch, length, width)
ALL = {
    "num_key_value_heads": 2,
    "rotary_length": 9,
    "query_key_norm": True,
    "sliding_window": 3,
}
# Right-padded rows of 7, 3 and 1 tokens, as `TransformerBlock` masks them.
REAL = np.arange(7)[None, None] < np.array([7, 3, 1])[:, None, None]


def made(rng, **kwargs):
    layer = GroupedQueryAttention(4, 6, **kwargs)
    layer.build(SHAPE, SHAPE)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) / 2)
    return layer


def measured(layer, x, upstream, **kwargs):
    """The output, and the gradients of the input and the weights."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, x, **kwargs)
        loss = tf.reduce_sum(y * upstream)
    return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]


def equal(ours, theirs, tolerance=1e-4):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_equals_keras(rng, heads, window):
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    ours = made(rng, num_key_value_heads=heads, sliding_window=window)
    theirs = keras.layers.GroupQueryAttention(6, 4, heads, sliding_window=window)
    theirs.build(SHAPE, SHAPE)
    theirs.set_weights(ours.get_weights())
    seen = REAL | np.eye(7, dtype=bool)  # Each query sees something.
    kwargs = {"attention_mask": seen, "use_causal_mask": True}
    equal(*(measured(layer, x, upstream, **kwargs) for layer in (ours, theirs)))


def test_a_group_is_one_head_of_keys_and_values_repeated(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    grouped, whole = made(rng, num_key_value_heads=2), made(rng)
    for name in ("query", "key", "value", "output"):
        from_dense, to_dense = (getattr(each, f"{name}_dense") for each in (grouped, whole))
        for weight, other in zip(to_dense.weights, from_dense.weights, strict=True):
            axis = len(weight.shape) - 2
            repeats = 2 if name in ("key", "value") else 1
            weight.assign(np.repeat(other, repeats, axis))
    np.testing.assert_allclose(grouped(x, x), whole(x, x), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_a_window_is_a_banded_mask(rng, window, causal):
    x = rng.normal(size=SHAPE).astype("float32")
    narrow, wide = made(rng, sliding_window=window), made(rng)
    wide.set_weights(narrow.get_weights())
    band = np.zeros((1, 7, 7), bool)
    for i in range(7):
        for j in range(7):
            band[0, i, j] = i - window < j < i + window and (j <= i or not causal)
    found = narrow(x, x, use_causal_mask=causal)
    np.testing.assert_allclose(found, wide(x, x, attention_mask=band), atol=1e-5)


def test_positions_are_relative(rng):
    """What stands before a sequence, and is masked, changes nothing."""
    x = rng.normal(size=SHAPE).astype("float32")
    layer = made(rng, rotary_length=9, num_key_value_heads=2)
    shifted = np.concatenate([rng.normal(size=(3, 2, 12)).astype("float32"), x], 1)
    real = (np.arange(9) >= 2)[None, None]
    found = layer(shifted, shifted, attention_mask=real, use_causal_mask=True)[:, 2:]
    np.testing.assert_allclose(found, layer(x, x, use_causal_mask=True), atol=1e-4)


def test_without_positions_the_order_does_not_matter_and_with_them_it_does(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    for length, same in ((None, True), (7, False)):
        layer = made(rng, rotary_length=length)
        a, b = layer(x, x), layer(x[:, ::-1], x[:, ::-1])[:, ::-1]
        assert np.allclose(a, b, atol=1e-4) == same


def test_normalised_queries_and_keys_have_no_length(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    layer = made(rng, query_key_norm=True)
    before = layer(x, x)
    for dense, factor in ((layer.query_dense, 7.0), (layer.key_dense, 0.5)):
        for weight in dense.weights:
            weight.assign(weight * factor)
    np.testing.assert_allclose(layer(x, x), before, atol=1e-4)
    layer.query_norm.scale.assign(np.ones(6))
    norm = layer.query_norm(np.float32([[[[3, 4, 0, 0, 0, 0]]]]))[0, 0, 0]
    np.testing.assert_allclose(norm, np.array([3, 4, 0, 0, 0, 0]) / np.sqrt(25 / 6), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in ALL.items()), ALL])
@pytest.mark.thorough
def test_token_by_token_it_is_what_a_call_gives(rng, options):
    layer = made(rng, **options)
    norm = keras.layers.RMSNormalization()
    norm.build(SHAPE)
    norm.scale.assign(rng.uniform(size=12))
    x = tf.constant(rng.normal(size=SHAPE), "float32")
    wanted = layer(norm(x), norm(x), use_causal_mask=True)

    def write():
        cache, step, found = layer.prefill(norm(x)[:, :3], 7), layer.decode_step(norm), []
        for slot in range(3, 7):
            seen = (tf.range(7) <= slot) & (tf.range(7) > slot - (layer.sliding_window or 7))
            places, positions = key_value_cache.places(cache, slot), tf.fill((3,), slot)
            y, cache = step(x[:, slot], places, seen[None, None], cache, positions)
            found.append(y)
        return tf.stack(found, 1)

    for jit_compile in (False, True):
        found = tf.function(write, jit_compile=jit_compile)()
        np.testing.assert_allclose(found, wanted[:, 3:], atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_query_that_sees_nothing_gets_zeros_and_has_no_gradient(rng, dropout):
    x, upstream = rng.normal(size=(2, *SHAPE)).astype("float32")
    layer = made(rng, dropout=dropout, **ALL)
    layer.output_dense.bias.assign(np.zeros(12))
    padded_in_front = np.arange(7)[None, None] >= np.array([2, 0, 5])[:, None, None]
    kwargs = {"attention_mask": padded_in_front, "use_causal_mask": True, "training": True}
    y, *gradients = measured(layer, x, upstream, **kwargs)
    assert not np.any(y[0, :2]) and not np.any(y[2, :5]) and np.all(np.any(y[1], -1))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not np.any(gradients[0][2, :5])


@pytest.mark.thorough
def test_dropout_is_of_training_only(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    layer, without = made(rng, dropout=0.5), made(rng)
    without.set_weights([w for w in layer.get_weights() if w.dtype == "float32"])
    np.testing.assert_array_equal(layer(x, x, training=False), without(x, x))
    samples = np.stack([layer(x, x, training=True) for _ in range(400)])
    assert samples.std(0).min() > 0.1
    standard_errors = (samples.mean(0) - without(x, x)) / (samples.std(0) / 20)
    assert np.abs(standard_errors).max() < 5


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(rng, dtype):
    x = rng.normal(size=SHAPE).astype("float32")
    layer, half = made(rng, **ALL), made(rng, dtype=dtype, **ALL)
    half.set_weights(layer.get_weights())
    kwargs = {"attention_mask": REAL, "use_causal_mask": True}
    found, wanted = half(x, x, **kwargs), layer(x, x, **kwargs)
    assert found.dtype == dtype.removeprefix("mixed_")
    equal([keras.ops.cast(found, "float32")], [wanted], 0.05)


def test_says_what_it_does():
    layer = GroupedQueryAttention(4, 2)
    assert layer.describe_kernel() == "grouped queries"
    assert layer.describe_kernel(jit_compile=True).endswith("by XLA")


def test_arguments_are_checked_and_kept():
    for name, value in (("num_key_value_heads", 3), ("num_key_value_heads", 0)):
        with pytest.raises(ValueError, match=f"{name}: {value}, expected a divisor of num_heads=4"):
            GroupedQueryAttention(4, 6, **{name: value})
    with pytest.raises(ValueError, match="sliding_window: 0, expected a positive integer"):
        GroupedQueryAttention(4, 6, sliding_window=0)
    with pytest.raises(ValueError, match="key_dim: 3, expected an even number"):
        GroupedQueryAttention(4, 3, rotary_length=5)
    config = GroupedQueryAttention(4, 6, dropout=0.1, **ALL).get_config()
    assert config.items() >= (ALL | {"num_heads": 4, "key_dim": 6, "dropout": 0.1}).items()
    assert GroupedQueryAttention.from_config(config).get_config() == config
