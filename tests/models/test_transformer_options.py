"""The Transformer's options: each, and all together; without them it is what it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.models import Transformer
from tests.tiny import MODERN

OPTIONS = {
    **{f"{name}={value}": {name: value} for name, value in MODERN.items()},
    "activation=relu_squared": {"activation": "relu_squared"},
    "all": MODERN,
}


def made(options, **kwargs):
    model = Transformer(12, 8, 4, 16, 0.0, num_layers=2, max_length=24, **options, **kwargs)
    model.build((None, None))
    for i, weight in enumerate(model.trainable_weights):  # No bias of zero, no scale of one.
        weight.assign_add(0.2 * keras.random.normal(weight.shape, seed=i))
    return model


@pytest.fixture(params=sorted(OPTIONS))
def options(request):
    return OPTIONS[request.param]


@pytest.mark.thorough
def test_greedy_generation_is_the_argmax_of_the_whole_model(options):
    """Of prompts of several lengths at once, and of each alone, longer than the window."""
    model = made(options)
    prompts = [[3, 4, 5, 9, 9, 2], [7], [2, 9, 4]]
    generated = model.generate(prompts, length=12, temperature=0)
    for row, prompt in zip(generated, prompts, strict=True):
        tokens = list(prompt)
        for _ in range(12):
            logits = np.array(model(np.array([tokens])))[0, -1]
            tokens.append(1 + int(logits[1:].argmax()))
        np.testing.assert_array_equal(row[: len(tokens)], tokens)
        assert not row[len(tokens) :].any()


@pytest.mark.thorough
def test_by_xla_it_generates_the_same():
    model = made(MODERN)
    prompts = [[3, 4, 5, 9, 9, 2], [7], [2, 9, 4]]
    np.testing.assert_array_equal(
        model.generate(prompts, length=12, temperature=0, jit_compile=True),
        model.generate(prompts, length=12, temperature=0, jit_compile=False),
    )


@pytest.mark.thorough
def test_saved_and_loaded_it_is_the_same(options, rng, tmp_path):
    model = made(options)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    tokens = rng.integers(1, 12, (3, 9))
    np.testing.assert_array_equal(again(tokens), model(tokens))
    assert again.get_config() == model.get_config()


def test_each_option_changes_what_it_says(options):
    """The number of parameters, by hand; and for some only the numbers."""
    wide, inner = 8, 16
    attention = 4 * (wide * wide + wide)
    feed_forward = 2 * wide * inner + inner + wide
    norms, heads = 2 * 2 * wide, 0
    if options.get("num_key_value_heads"):
        attention -= 2 * (wide * wide + wide) // 2
    if options.get("query_key_norm"):
        heads = 2 * 2  # A scale for queries and one for keys, of the width of a head.
    if options.get("activation") == "swiglu":
        feed_forward += wide * inner + inner
    if options.get("normalization") == "rms_norm":
        norms //= 2
    outside = 12 * wide + norms // 2
    outside += 0 if options.get("tie_embeddings") else 12 * wide + 12
    model = made(options)
    assert model.count_params() == outside + 2 * (attention + feed_forward + norms + heads)


def test_a_token_reaches_as_far_as_the_windows_of_all_layers(rng):
    """Each of two layers that see 4 tokens carries what a token says 3 further."""
    model = made({"sliding_window": 4})
    tokens = rng.integers(1, 12, (1, 12))
    changed = tokens.copy()
    changed[0, 0] = tokens[0, 0] % 11 + 1
    moved = np.abs(model(tokens) - model(changed))[0].max(-1) > 1e-6
    np.testing.assert_array_equal(moved, np.arange(12) <= 6)


def test_tied_weights_are_one_variable_with_both_gradients(rng):
    model = made({"tie_embeddings": True}, dtype="float64")
    tokens = rng.integers(1, 12, (2, 5))
    paths = [weight.path for weight in model.weights if 12 in weight.shape]
    assert len(paths) == 1 and paths[0].endswith("token_embedding/embeddings")
    assert not hasattr(model, "dense")
    embeddings = model.token_embedding.embeddings
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tokens)[:, :, 3])
    gradient = tf.convert_to_tensor(tape.gradient(loss, embeddings)).numpy()
    value, shift = embeddings.numpy(), np.zeros((12, 8))
    for row, column in ((3, 0), (tokens[0, 0], 2)):
        shift[:] = 0
        shift[row, column] = 1e-6
        embeddings.assign(value + shift)
        more = float(tf.reduce_sum(model(tokens)[:, :, 3]))
        embeddings.assign(value - shift)
        less = float(tf.reduce_sum(model(tokens)[:, :, 3]))
        np.testing.assert_allclose(gradient[row, column], (more - less) / 2e-6, rtol=1e-4)
        embeddings.assign(value)


def test_rms_normalisation_by_hand():
    model = made({"normalization": "rms_norm"})
    model.norm.scale.assign(np.arange(8))
    x = np.float32([[3, 4, 0, 0, 0, 0, 0, 5]])
    expected = x * np.arange(8) / np.sqrt(50 / 8)
    np.testing.assert_allclose(model.norm(x), expected, rtol=1e-5)
    for block in model.blocks:
        norms = (block.attention_norm, block.feed_forward_norm)
        assert all(isinstance(norm, keras.layers.RMSNormalization) for norm in norms)


def test_older_configurations_still_load():
    """Those that know of no options, with all their weights in the same order."""
    model = made({})
    config = {name: value for name, value in model.get_config().items() if name not in MODERN}
    again = Transformer.from_config(config)
    again.build((None, None))
    again.set_weights(model.get_weights())
    tokens = np.array([[3, 4, 5]])
    np.testing.assert_array_equal(again(tokens), model(tokens))
    assert [weight.path.partition("/")[2] for weight in model.weights][:6] == [
        "token_embedding/embeddings",
        "block1/attention_norm/gamma",
        "block1/attention_norm/beta",
        "block1/attention/query/kernel",
        "block1/attention/query/bias",
        "block1/attention/key/kernel",
    ]
