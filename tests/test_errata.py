"""Every row of `notebooks/errata.md`, C1 to G4: the defect is gone, and would be noticed.

A test named `..._article_...` runs the article's own construct, in its least form, against the
installed Keras and shows that it does what the errata says. If one of those fails after an
upgrade of Keras, the errata has to be rewritten, not the package.
"""

import ast
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bigmodels.data import load_images
from bigmodels.data.splits import stratified_split
from bigmodels.layers import PositionalEncoding, TransformerBlock
from bigmodels.models import CNN, GAN, RNN, Discriminator, Generator, Transformer

SPARSE = keras.losses.SparseCategoricalCrossentropy


def spy_on(monkeypatch, layer):
    """The list into which every later call of the layer puts its arguments."""
    calls, call = [], layer.call

    def spy(*args, **kwargs):
        calls.append((args, kwargs))
        return call(*args, **kwargs)

    monkeypatch.setattr(layer, "call", spy)
    return calls


class OneLayer(keras.Model):
    """A subclassed model in the article's manner: no build, a call that uses one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


# C1: shapes


def test_c1_shapes_are_known_before_fit():
    model = CNN()
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    text = "".join(lines)
    assert model.built and model.count_params() == 225_034
    assert "225,034" in text and "(None, 5, 5, 64)" in text
    assert "?" not in text and "unbuilt" not in text


def test_c1_article_input_shape_is_ignored():
    with pytest.warns(UserWarning, match="Do not pass an `input_shape`"):
        conv = layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1))
    model = OneLayer(conv)
    assert not model.built and not conv.built
    with pytest.raises(ValueError, match="isn't built"):
        model.count_params()
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    assert "0 (unbuilt)" in "".join(lines)


# C2: logits

ONE = np.ones((1, 1), "float32")
WRONG = np.array([1])  # The label of a class the saturated models below think impossible.


class Saturated(keras.Model):
    """Logits (100, 0) from one weight each; a softmax inside, as in the article, or not."""

    def __init__(self, activation, dtype):
        super().__init__()
        self.dense = layers.Dense(2, activation, use_bias=False, dtype=dtype)
        self.dense.build((None, 1))
        self.dense.kernel.assign([[100.0, 0.0]])

    def call(self, inputs):
        return self.dense(inputs)


def one_step(model, loss):
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
    (value,) = model.fit(ONE, WRONG, verbose=0).history["loss"]
    return value


def test_c2_output_is_logits(rng):
    model = CNN(num_classes=4, filters=(2,), dense_units=8)
    images = rng.random((5, 8, 8, 1), "float32") * 16
    logits = model.predict(images, verbose=0)
    assert (logits < 0).any() and not np.allclose(logits.sum(-1), 1)
    probabilities = model.predict_proba(images, verbose=0)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_c2_a_sure_and_wrong_cnn_still_learns(dtype):
    model = CNN(num_classes=2, filters=(1,), kernel_size=1, dense_units=1, dtype=dtype)
    model.build((None, 2, 2, 1))
    for layer, kernel in ((model.conv1, 1.0), (model.dense1, 1.0), (model.dense2, [[100.0, 0.0]])):
        layer.set_weights([np.broadcast_to(kernel, layer.kernel.shape), layer.bias])
    model.compile(keras.optimizers.SGD(1.0), SPARSE(from_logits=True), jit_compile=False)
    (loss,) = model.fit(np.ones((1, 2, 2, 1), "float32"), WRONG, verbose=0).history["loss"]
    assert loss == pytest.approx(100)
    np.testing.assert_allclose(model.dense2.bias, [-1, 1], atol=1e-6)


def test_c2_article_softmax_is_rescued_only_where_keras_finds_it():
    # In float32 Keras recognises its own softmax and goes back to the logits behind it...
    model = Saturated("softmax", "float32")
    assert one_step(model, "sparse_categorical_crossentropy") == pytest.approx(100)
    np.testing.assert_allclose(model.dense.kernel, [[99, 1]])
    # ...but a probability that was cast, or computed elsewhere, is clipped at 1e-7.
    clipped = -math.log(1e-7)
    model = Saturated("softmax", "mixed_bfloat16")
    assert one_step(model, "sparse_categorical_crossentropy") == pytest.approx(clipped, rel=1e-4)
    np.testing.assert_array_equal(model.dense.kernel, [[100, 0]])  # No gradient at all.
    loss = keras.losses.sparse_categorical_crossentropy(WRONG, np.array([[1.0, 0.0]], "float32"))
    assert float(loss[0]) == pytest.approx(clipped, rel=1e-4)


# C3: data


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", 250)


def test_c3_images_are_scaled_once_and_have_a_channel_axis(digits):
    images, labels = next(iter(digits.train))
    assert images.shape == (250, 28, 28, 1) and images.dtype == "float32"
    assert labels.dtype.is_integer
    for split in (digits.train, digits.validation, digits.test):
        images = np.concatenate([x for x, _ in split.take(2)])
        assert images.min() == 0 and images.max() == 1
        assert images.mean() > 0.05  # Divided by 255 a second time it would be 0.0005.


def test_c3_validation_and_test_are_held_out(digits):
    assert digits.sizes == {"train": 4000, "validation": 500, "test": 500}
    rows = stratified_split(np.repeat(np.arange(10), 500))
    everything = np.concatenate(list(rows.values()))
    assert len(everything) == len(set(everything)) == 5000


def test_c3_data_in_the_wrong_form_is_refused(rng):
    model = CNN(filters=(2,), dense_units=8)
    model.compile("adam", SPARSE(from_logits=True))
    labels = np.zeros(4, int)
    pixels = rng.integers(0, 256, (4, 8, 8, 1))
    with pytest.raises(ValueError, match="scaled once"):
        model.fit(pixels.astype("uint8"), labels, verbose=0)
    with pytest.raises(ValueError, match="scaled once"):
        model.fit(pixels.astype("float32"), labels, verbose=0)
    with pytest.raises(ValueError, match="shape"):
        model.fit(pixels[..., 0] / 255, labels, verbose=0)


def test_c3_article_has_no_data():
    with pytest.raises(NameError, match="x_train"):
        exec("model.fit(x_train, y_train, epochs=10, batch_size=64)", {"model": OneLayer(None)})
    # The arrays one would naturally supply have no channel axis.
    with pytest.raises(ValueError, match="expected min_ndim=4, found ndim=3"):
        layers.Conv2D(2, 3)(np.zeros((4, 28, 28), "float32"))
    # With one, pixels as they are stored are refused, and floats up to 255 are not.
    pixels = np.full((4, 28, 28, 1), 255, "uint8")
    with pytest.raises((TypeError, ValueError), match="uint8"):
        layers.Conv2D(2, 3)(pixels)
    assert layers.Conv2D(2, 3)(pixels.astype("float32")).shape == (4, 26, 26, 2)


# R1: any length


def test_r1_any_length():
    model = RNN(7, 4, 5)
    for length in (1, 6, 9):
        assert model(np.ones((2, length), int)).shape == (2, length, 7)


def test_r1_article_input_length_is_ignored():
    with pytest.warns(UserWarning, match="`input_length` is deprecated"):
        embedding = layers.Embedding(7, 4, input_length=6)
    assert embedding(np.ones((2, 9), int)).shape == (2, 9, 4)
    with pytest.raises(NameError, match="max_length"):
        exec("Embedding(7, 4, input_length=max_length)", {"Embedding": layers.Embedding})


# R2: the state is a pair


def test_r2_the_state_is_the_pair_h_c(rng):
    model = RNN(7, 4, 5)
    tokens = rng.integers(1, 7, (2, 6))
    logits, state = model(tokens, state=model.get_initial_state(2))
    h, c = state
    assert logits.shape == (2, 6, 7) and h.shape == c.shape == (2, 5)
    _, last_h, last_c = model.rnn(model.embedding(tokens))
    np.testing.assert_allclose(h, last_h, atol=1e-6)
    np.testing.assert_allclose(c, last_c, atol=1e-6)
    assert np.abs(h - c).max() > 1e-3


def test_r2_article_lstm_returns_three_values():
    lstm = layers.LSTM(5, return_sequences=True, return_state=True)
    assert [tuple(value.shape) for value in lstm(np.zeros((2, 6, 4)))] == [
        (2, 6, 5),
        (2, 5),
        (2, 5),
    ]
    with pytest.raises(ValueError, match="too many values to unpack"):
        _output, _state = lstm(np.zeros((2, 6, 4)))


# R3: the width of the output


def test_r3_the_output_is_as_wide_as_the_vocabulary():
    model = RNN(7, 4, 5, 3)  # The article's four arguments, in its order.
    assert model(np.ones((2, 6), int)).shape == (2, 6, 7)
    assert model.dense.units == 7


def test_r3_batch_size_keeps_its_place_and_means_a_default():
    names = list(inspect.signature(RNN).parameters)[:4]
    assert names == ["vocab_size", "embedding_dim", "rnn_units", "batch_size"]
    model = RNN(7, 4, 5, 3)
    assert [tuple(part.shape) for part in model.get_initial_state()] == [(3, 5), (3, 5)]
    assert model.get_initial_state(2)[0].shape == (2, 5)
    assert RNN(7, 4, 5).get_initial_state()[0].shape == (1, 5)


def test_r3_article_output_cannot_name_every_token():
    vocab_size, batch_size = 10, 8
    probabilities = layers.Dense(batch_size, activation="softmax")(np.zeros((2, 6, 5)))
    assert probabilities.shape[-1] == batch_size < vocab_size


# R4: the state is optional


def test_r4_fit_needs_no_state(rng):
    model = RNN(7, 4, 5)
    model.compile("adam", SPARSE(from_logits=True))
    tokens = rng.integers(1, 7, (4, 6))
    assert math.isfinite(model.fit(tokens, tokens, verbose=0).history["loss"][0])


def test_r4_step_by_step_is_the_whole(rng):
    model = RNN(7, 4, 5, dtype="float64")
    tokens = rng.integers(1, 7, (2, 6))
    whole = model(tokens)
    state, steps = model.get_initial_state(2), []
    for t in range(6):
        logits, state = model(tokens[:, t : t + 1], state=state)
        steps.append(logits)
    # The same arithmetic in float64, cut at other places.
    np.testing.assert_allclose(keras.ops.concatenate(steps, 1), whole, rtol=1e-10, atol=1e-10)
    # And the state is used: starting anew at every step is something else.
    assert np.abs(model(tokens[:, 5:]) - whole[:, 5:]).max() > 1e-3


def test_r4_article_fit_cannot_supply_a_state():
    class NeedsState(keras.Model):
        def call(self, inputs, state):
            return inputs, state

    model = NeedsState()
    model.compile("adam", "mse")
    with pytest.raises(TypeError, match="missing a required argument: 'state'"):
        model.fit(np.zeros((2, 3)), np.zeros((2, 3)), verbose=0)


# R5: the loss


@pytest.mark.parametrize("family", ["rnn", pytest.param("transformer", marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_r5_integer_targets_meet_logits(rng, family):
    # The Transformer's sample has the same loss and the same fault.
    model = RNN(7, 4, 16) if family == "rnn" else Transformer(7, 8, 2, 16, 0.0)
    tokens = rng.integers(1, 7, (4, 6))
    assert tf.is_tensor(model(tokens))  # One output for one loss, not a tuple.
    logits = keras.ops.convert_to_numpy(model(tokens))
    chosen = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    cross_entropy = (np.log(np.exp(logits).sum(-1)) - chosen).mean()
    model.compile(keras.optimizers.Adam(0.03), SPARSE(from_logits=True), jit_compile=False)
    # One batch an epoch: each loss is the one before that epoch's update.
    losses = model.fit(tokens, tokens, epochs=30, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(cross_entropy, rel=1e-5)
    assert losses[-1] < losses[0] / 2
    np.testing.assert_allclose(model.predict_proba(tokens, verbose=0).sum(-1), 1, rtol=1e-5)


def test_r5_article_loss_fits_neither_targets_nor_output():
    tokens = np.ones((2, 6), int)
    model = OneLayer(layers.Embedding(7, 7))
    model.compile("adam", "categorical_crossentropy")
    with pytest.raises(ValueError, match="must have the same rank"):
        model.fit(tokens, tokens, verbose=0)

    class Tuple(OneLayer):
        def call(self, inputs):
            x = self.layer(inputs)
            return x, x[:, -1]

    model = Tuple(layers.Embedding(7, 7))
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(KeyError, match="can't be found in either the model's output"):
        model.fit(tokens, tokens, verbose=0)


# T1: names and the longest sequence


def test_t1_a_longest_length_with_a_clear_error_past_it():
    model = Transformer(7, 8, 2, 16, 0.0, max_length=5)
    assert model(np.ones((2, 5), int)).shape == (2, 5, 7)
    with pytest.raises(ValueError, match="length 6 is longer than max_length=5"):
        model(np.ones((2, 6), int))

    @tf.function(input_signature=[tf.TensorSpec((None, None), "int32")])
    def unknown_length(tokens):
        return model(tokens)

    assert unknown_length(np.ones((2, 5), "int32")).shape == (2, 5, 7)
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than max_length=5"):
        unknown_length(np.ones((2, 6), "int32"))
    assert "max_length" in inspect.signature(Transformer).parameters


def test_t1_the_names_exist():
    model = Transformer(7, 8, 2, 16, 0.1)
    assert isinstance(model.position_encoding, PositionalEncoding)
    assert model.position_encoding.max_length == model.max_length
    assert isinstance(model.dropout, layers.Dropout) and model.dropout.rate == 0.1


def test_t1_article_names_are_undefined():
    imported = {}
    exec("from tensorflow.keras.layers import MultiHeadAttention, Dense", imported)
    for name in ("PositionalEncoding", "Dropout", "max_length"):
        with pytest.raises(NameError, match=name):
            eval(name, imported)
    assert not hasattr(layers, "PositionalEncoding")  # Nor does Keras have one to import.


# T2: a real embedding


def test_t2_tokens_are_embedded_and_padding_is_masked():
    model = Transformer(7, 8, 2, 16, 0.0)
    model.build((None, None))
    embedded = model.token_embedding(np.array([[3, 5, 3, 0]]))
    assert embedded.shape == (1, 4, 8)
    np.testing.assert_array_equal(embedded[0, 0], embedded[0, 2])
    table = keras.ops.convert_to_numpy(model.token_embedding.embeddings)
    np.testing.assert_array_equal(embedded[0], table[[3, 5, 3, 0]])
    # A dense layer would make the vector of token 5 a multiple of token 3's.
    assert np.linalg.matrix_rank(table[[3, 5]]) == 2
    assert model.compute_mask(np.array([[3, 5, 0]])).numpy().tolist() == [[True, True, False]]


def test_t2_article_dense_is_no_embedding():
    with pytest.raises(ValueError, match="Unrecognized keyword arguments passed to Dense"):
        layers.Dense(4, input_length=6)
    # Even without the argument the sequence would be gone: ids are taken for features.
    assert layers.Dense(4)(np.ones((2, 6), "float32")).shape == (2, 4)


# T3: attributes


def test_t3_every_argument_is_an_attribute():
    model = Transformer(7, 8, 2, 16, 0.1)
    names = ("vocab_size", "embedding_dim", "num_heads", "feed_forward_dim", "dropout_rate")
    assert list(inspect.signature(Transformer).parameters)[:5] == list(names)
    assert [getattr(model, name) for name in names] == [7, 8, 2, 16, 0.1]
    assert {name: model.get_config()[name] for name in names} == dict(
        zip(names, [7, 8, 2, 16, 0.1], strict=True)
    )


def test_t3_article_attribute_is_never_set():
    class Unset(keras.Model):
        def call(self, inputs):
            return inputs * tf.math.sqrt(tf.cast(self.embedding_dim, tf.float32))

    with pytest.raises(AttributeError, match="no attribute 'embedding_dim'"):
        Unset()(np.ones((1, 2), "float32"))


# T4: heads


def test_t4_heads_share_the_width_and_dropout_is_dropout(rng):
    attention = Transformer(7, 8, 2, 16, 0.5).blocks[0].attention
    config = attention.get_config()
    assert (config["num_heads"], config["key_dim"], config["value_dim"]) == (2, 4, 4)
    assert config["dropout"] == 0.5
    x = rng.normal(size=(1, 6, 8)).astype("float32")
    still, shaken = (attention(x, x, training=training) for training in (False, True))
    assert np.abs(still - shaken).max() > 1e-3
    with pytest.raises(ValueError, match="not divisible by num_heads=3"):
        Transformer(7, 8, 3, 16, 0.0)


def test_t4_article_third_argument_is_value_dim():
    assert list(inspect.signature(layers.MultiHeadAttention).parameters)[2] == "value_dim"
    with pytest.raises(ValueError, match=r"value_dim=0\.1"):
        layers.MultiHeadAttention(2, 4, 0.1)


# T5: the call of the attention


def test_t5_attention_is_to_the_sequence_itself(monkeypatch):
    model = Transformer(7, 8, 2, 16, 0.0)
    model.build((None, None))
    calls = spy_on(monkeypatch, model.blocks[0].attention)
    normalised = spy_on(monkeypatch, model.blocks[0].attention_norm)
    model(np.array([[3, 5, 4]]))
    ((args, kwargs),) = calls
    assert not args  # By name: Keras' order is query, value, key.
    assert kwargs["query"] is kwargs["value"] is kwargs["key"]
    (((x,), _),) = normalised
    np.testing.assert_allclose(kwargs["query"], model.blocks[0].attention_norm(x), atol=1e-6)


def test_t5_article_names_are_unknown():
    x = np.ones((1, 3, 4), "float32")
    with pytest.raises(TypeError, match="missing a required argument: 'query'"):
        layers.MultiHeadAttention(2, 4)(v=x, k=x, q=x)


# T6: the block


@pytest.fixture
def block(rng):
    block = TransformerBlock(8, 2, 16, dtype="float64")
    block.build((None, None, 8))
    for variable in block.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return block


def silence(*parts):
    for layer in parts:
        layer.set_weights([np.zeros(weight.shape) for weight in layer.get_weights()])


def test_t6_both_halves_have_a_residual(block, rng):
    x = rng.normal(size=(2, 5, 8))
    assert np.abs(block(x) - x).max() > 0.1
    silence(block.attention, block.projection)
    np.testing.assert_array_equal(block(x), x)  # What is left is the input, untouched.


@pytest.mark.parametrize("half", ["attention", "feed forward"])
def test_t6_both_halves_are_normalised(block, rng, half):
    silence(*([block.projection] if half == "attention" else [block.attention]))
    x = 100 * rng.normal(size=(2, 5, 8))
    # Layer normalisation takes the scale out; its epsilon, 1e-3 of a variance of 1e4, remains.
    np.testing.assert_allclose(block(9 * x) - 9 * x, block(x) - x, rtol=1e-4, atol=1e-4)
    assert np.abs(block(x) - x).max() > 0.1


def test_t6_the_width_comes_back(block, rng):
    assert block(rng.normal(size=(2, 5, 8))).shape == (2, 5, 8)
    assert block.feed_forward.units == 16 and block.projection.units == 8
    assert Transformer(7, 8, 2, 16, 0.0, num_layers=3)(np.ones((2, 5), int)).shape == (2, 5, 7)


def test_t6_article_block_cannot_be_stacked():
    x = np.ones((2, 5, 4), "float32")
    wide = layers.Dense(8)(layers.MultiHeadAttention(2, 4)(x, x))
    assert wide.shape == (2, 5, 8)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        _ = x + wide  # No residual could be added.


# T7: masks

VOCAB, LENGTH, BATCH = 8, 6, 32


def loss_on_fresh_noise(model, target_shift, rng):
    """Mean loss on 50 batches of fresh random tokens, after training on 120 others.

    Every row is drawn anew and used once, so nothing can be memorised; each batch's loss is taken
    before the batch is learnt from.
    """
    model.compile(keras.optimizers.Adam(0.01), SPARSE(from_logits=True), jit_compile=False)
    for batches in (120, 50):
        tokens = rng.integers(1, VOCAB, (batches * BATCH, LENGTH + 1))
        targets = tokens[:, target_shift : target_shift + LENGTH]
        history = model.fit(tokens[:, :LENGTH], targets, batch_size=BATCH, shuffle=False, verbose=0)
    return history.history["loss"][0]


# No predictor that does not see the answer has an expected loss below the entropy (Gibbs). The
# mean is over 9600 tokens whose losses spread by about 0.1: its standard error is 0.001, and the
# threshold ten of them below the entropy.
ENTROPY = math.log(VOCAB - 1)  # Id 0 is padding and never drawn.


@pytest.mark.parametrize("family", ["rnn", "transformer"])
def test_t7_a_causal_model_cannot_foresee_noise(rng, family):
    if family == "rnn":
        model = RNN(VOCAB, 16, 16)
    else:
        model = Transformer(VOCAB, 16, 2, 32, 0.0, max_length=LENGTH)
    loss = loss_on_fresh_noise(model, 1, rng)
    assert ENTROPY - 0.01 < loss < ENTROPY + 0.1


@pytest.mark.parametrize("family", ["rnn", "transformer"])
@pytest.mark.thorough
def test_t7_the_leak_test_can_fail(rng, family):
    # The same training, but the answer can be seen: by a Transformer that is not causal (only the
    # last position has nothing to look up), by an LSTM that is asked for its own input.
    if family == "rnn":
        loss = loss_on_fresh_noise(RNN(VOCAB, 16, 16), 0, rng)
    else:
        model = Transformer(VOCAB, 16, 2, 32, 0.0, max_length=LENGTH, causal=False)
        loss = loss_on_fresh_noise(model, 1, rng)
    assert loss < ENTROPY / 2


def text_model(family, **kwargs):
    """Two layers where there are layers, so that nothing passes through the second either."""
    if family == "rnn":
        model = RNN(VOCAB, 8, 6, dtype="float64")
    else:
        model = Transformer(VOCAB, 8, 2, 16, 0.0, num_layers=2, dtype="float64", **kwargs)
    model.build((None, None))
    return model


@pytest.mark.parametrize("family", ["rnn", "transformer"])
def test_t7_no_logit_depends_on_a_later_token(rng, family):
    model = text_model(family)
    tokens = rng.integers(1, VOCAB, (2, LENGTH))
    logits = model(tokens)
    for t in range(1, LENGTH):
        changed = tokens.copy()
        changed[:, t:] = changed[:, t:] % (VOCAB - 1) + 1  # Another id, and never padding.
        moved = model(changed)
        np.testing.assert_allclose(moved[:, :t], logits[:, :t], rtol=1e-10, atol=1e-10)
        assert np.abs(moved[:, t:] - logits[:, t:]).min(-1).max() > 1e-6


def test_t7_a_model_that_is_not_causal_does_look_ahead(rng):
    model = text_model("transformer", causal=False)
    tokens = rng.integers(1, VOCAB, (2, LENGTH))
    changed = tokens.copy()
    changed[:, -1] = changed[:, -1] % (VOCAB - 1) + 1
    assert np.abs(model(changed)[:, 0] - model(tokens)[:, 0]).max() > 1e-6


MASKED = [("rnn", {}), ("transformer", {}), ("transformer", {"causal": False})]
MASKED_IDS = ["rnn", "causal", "not causal"]


@pytest.mark.parametrize(("family", "kwargs"), MASKED, ids=MASKED_IDS)
def test_t7_appended_padding_changes_nothing(rng, family, kwargs):
    model = text_model(family, **kwargs)
    tokens = rng.integers(1, VOCAB, (2, LENGTH))
    padded = np.pad(tokens, ((0, 0), (0, 3)))
    np.testing.assert_allclose(model(padded)[:, :LENGTH], model(tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("family", "kwargs"), MASKED, ids=MASKED_IDS)
@pytest.mark.parametrize("where", [slice(0, 2), slice(2, 4), slice(4, 6)])
def test_t7_what_stands_behind_padding_changes_nothing(rng, family, kwargs, where):
    model = text_model(family, **kwargs)
    tokens = rng.integers(1, VOCAB, (2, LENGTH))
    tokens[:, where] = 0
    before = model(tokens)
    embedding = model.embedding if family == "rnn" else model.token_embedding
    table = keras.ops.convert_to_numpy(embedding.embeddings).copy()
    table[0] += rng.normal(size=table.shape[1])
    embedding.embeddings.assign(table)
    after = model(tokens)
    real = tokens != 0
    np.testing.assert_allclose(after[real], before[real], rtol=1e-10, atol=1e-10)
    assert np.isfinite(after).all()  # Also where a position sees nothing but padding.


def test_t7_article_attention_sees_the_answer(rng):
    x = rng.normal(size=(1, LENGTH, 8)).astype("float32")
    changed = x.copy()
    changed[:, -1] += 1
    attention = layers.MultiHeadAttention(2, 4)
    first, second = (attention(value, value)[:, 0] for value in (x, changed))
    assert np.abs(first - second).max() > 1e-6


# T8: where the encoding goes


def test_t8_the_encoding_is_added_to_scaled_embeddings(monkeypatch, rng):
    model = Transformer(VOCAB, 8, 2, 16, 0.0, dtype="float64")
    model.build((None, None))
    given = spy_on(monkeypatch, model.position_encoding)
    received = spy_on(monkeypatch, model.blocks[0])
    tokens = rng.integers(1, VOCAB, (2, LENGTH))
    model(tokens)
    (((embeddings,), _),) = given
    scaled = model.token_embedding(tokens) * 8**0.5
    assert embeddings.shape == (2, LENGTH, 8)  # Embeddings, not ids.
    np.testing.assert_allclose(embeddings, scaled, rtol=1e-10, atol=1e-10)
    (((block_input,), _),) = received
    expected = scaled + model.position_encoding(embeddings)
    np.testing.assert_allclose(block_input, expected, rtol=1e-10, atol=1e-10)


def test_t8_article_encoding_is_given_ids():
    # The article leaves its layer undefined; the usual one returns its input with the table added.
    def usual_encoding(inputs):
        table = PositionalEncoding(5, 4)(np.zeros((1, 5, 4)))[:, : inputs.shape[1]]
        return keras.ops.cast(inputs, "float32") + table

    x = layers.Embedding(7, 4)(np.ones((1, 5), int))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        _ = x + usual_encoding(np.ones((1, 5), int))
    # Where the length happens to be the width, the ids themselves end up in the sum, unnoticed.
    low, high = (usual_encoding(np.full((1, 4), token)) for token in (1, 6))
    np.testing.assert_allclose(high - low, np.full((1, 4, 4), 5.0), rtol=1e-6)


def test_t_article_call_needs_training():
    # Not a numbered row: `call(self, inputs, training)` has no default, so that only `fit` and
    # its kin, which supply it, can call the article's model.
    class NeedsTraining(keras.Model):
        def call(self, inputs, training):
            return inputs

    with pytest.raises(TypeError, match="missing a required argument: 'training'"):
        NeedsTraining()(np.ones((1, 2)))
    assert Transformer(7, 8, 2, 16, 0.0)(np.ones((1, 2), int)).shape == (1, 2, 7)


# G1: the generator

ARTICLE_GENERATOR = [4096, 2048, 1024, 512, 256, 1024, 128, 64, 32, 16, 100, 784]
ARTICLE_DISCRIMINATOR = [1024, 512, 256, 128, 64, 32, 1]


def dense_layers(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Dense)]


def activations_between_dense(model):
    """For every dense layer: how many non-linearities come before the next one."""
    counts = []
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            counts.append(int(layer.activation is not keras.activations.linear))
        elif isinstance(layer, layers.LeakyReLU):
            counts[-1] += 1
    return counts


def test_g1_the_generator_makes_an_image(rng):
    model = Generator()
    assert [layer.units for layer in dense_layers(model)] == ARTICLE_GENERATOR
    assert [layer.name for layer in dense_layers(model)] == [f"dense{i}" for i in range(1, 13)]
    assert activations_between_dense(model) == [1] * 12
    assert model.compute_output_shape((None, 100)) == (None, 28, 28, 1)
    small = Generator(5, (6, 4, 3), (8, 7))
    images = small(50 * rng.normal(size=(4, 5)).astype("float32"))
    assert images.shape == (4, 6, 4, 3)
    assert np.abs(images).max() <= 1 and np.min(images) < -0.5 and np.max(images) > 0.5


def test_g1_article_generator_makes_one_number():
    # Its last three layers; nothing reshapes what comes out.
    tail = [layers.Dense(784, activation="tanh", use_bias=False), layers.LeakyReLU()]
    tail.append(layers.Dense(1, activation="tanh", use_bias=False))
    x = np.ones((4, 100), "float32")
    for layer in tail:
        x = layer(x)
    assert x.shape == (4, 1)


def test_g1_article_block_has_two_activations():
    x = np.linspace(-2, 2, 9, dtype="float32")[:, None]
    dense = layers.Dense(1, activation="relu", use_bias=False, kernel_initializer="ones")
    y = layers.LeakyReLU()(layers.BatchNormalization()(dense(x), training=True))
    # All that was below zero is one value before the LeakyReLU sees it: its slope is never used.
    assert len(set(y.numpy()[:5, 0].tolist())) == 1


# G2: the discriminator


def test_g2_the_discriminator_gives_one_logit_an_image(rng):
    model = Discriminator()
    assert [layer.units for layer in dense_layers(model)] == ARTICLE_DISCRIMINATOR
    assert activations_between_dense(model) == [1] * 6 + [0]
    assert [layer.use_bias for layer in dense_layers(model)] == [False] * 6 + [True]
    assert model.compute_output_shape((None, 28, 28, 1)) == (None, 1)
    small = Discriminator((6, 4, 3), (8, 7))
    images = rng.uniform(-1, 1, (20, 6, 4, 3)).astype("float32")
    logits = small(images)
    assert logits.shape == (20, 1)
    assert np.min(logits) < 0  # A sigmoid has no such values.
    # Every pixel is looked at, not the last axis alone.
    for place in np.ndindex(6, 4, 3):
        changed = images[:1].copy()
        changed[(0, *place)] += 1
        assert np.abs(small(changed) - logits[:1]).max() > 0


def test_g2_article_discriminator_judges_pixels():
    hidden = layers.Dense(8, activation="relu", use_bias=False)
    last = layers.Dense(1, activation="sigmoid", use_bias=False)
    images = np.ones((4, 28, 28, 1), "float32")
    assert last(hidden(images)).shape == (4, 28, 28, 1)
    assert hidden.kernel.shape == (1, 8)  # One pixel at a time.


# G3: the two networks against each other


def small_gan():
    gan = GAN(Generator(3, (4, 4, 1), (8, 6)), Discriminator((4, 4, 1), (8, 6)), seed=1)
    return gan, np.random.default_rng(2).uniform(-1, 1, (8, 4, 4, 1)).astype("float32")


def values(model):
    return [value.numpy().copy() for value in model.trainable_variables]


def moved(before, model):
    return [not np.array_equal(a, b) for a, b in zip(before, values(model), strict=True)]


def test_g3_gan_is_compiled_with_two_optimizers():
    assert list(inspect.signature(GAN).parameters)[:2] == ["generator", "discriminator"]
    arguments = list(inspect.signature(GAN.compile).parameters)[1:4]
    assert arguments == ["d_optimizer", "g_optimizer", "loss_fn"]
    gan, _ = small_gan()
    d, g = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.2)
    gan.compile(d, g, keras.losses.BinaryCrossentropy(from_logits=True))
    assert gan.d_optimizer is d and gan.g_optimizer is g


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_g3_each_optimizer_moves_its_own_network(still):
    gan, images = small_gan()
    rates = (0.0, 0.1) if still == "discriminator" else (0.1, 0.0)
    gan.compile(*(keras.optimizers.SGD(rate) for rate in rates), run_eagerly=True)
    networks = {"generator": gan.generator, "discriminator": gan.discriminator}
    before = {name: values(network) for name, network in networks.items()}
    gan.train_step(tf.constant(images))
    for name, network in networks.items():
        changed = moved(before[name], network)
        assert not any(changed) if name == still else all(changed)


@pytest.mark.parametrize("learner", ["generator", "discriminator"])
def test_g3_each_network_lowers_its_own_loss(learner):
    gan, images = small_gan()
    rates = (0.0, 0.03) if learner == "generator" else (0.03, 0.0)
    gan.compile(*(keras.optimizers.Adam(rate) for rate in rates))
    draw = keras.ops.copy(gan.seed_generator.state)
    losses = []
    for _ in range(8):
        gan.reset_metrics()
        gan.seed_generator.state.assign(draw)  # The same noise again: only learning changes a loss.
        losses.append([float(value) for value in gan.train_step(tf.constant(images)).values()])
    d_rise, g_rise, _ = np.subtract(losses[-1], losses[0])
    assert (g_rise if learner == "generator" else d_rise) < -0.01


def test_g3_article_text_ends_in_the_middle():
    cut = "discriminator.compile(optimizer='adam', loss"
    with pytest.raises(SyntaxError, match="was never closed"):
        ast.parse(cut)


def test_g3_article_loss_cannot_meet_a_tanh():
    # The generator, compiled alone, sends its tanh into a loss of probabilities: every negative
    # output is clipped to the same 1e-7, with no gradient.
    outputs = tf.Variable([[-0.9], [-0.1]])
    with tf.GradientTape() as tape:
        loss = keras.losses.binary_crossentropy(tf.ones((2, 1)), outputs)
    np.testing.assert_allclose(loss, -math.log(1e-7), rtol=1e-4)
    np.testing.assert_array_equal(tape.gradient(loss, outputs), [[0], [0]])


# G4: noise and the range of images


def test_g4_the_noise_has_a_stated_width():
    generator = Generator(units=(8,))
    assert (
        generator.latent_dim == 100 and GAN(generator, Discriminator(units=(8,))).latent_dim == 100
    )
    gan, _ = small_gan()
    assert gan.generate(2, seed=0).shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match="shape"):
        gan.predict(np.zeros((2, 7), "float32"), verbose=0)


def test_g4_images_are_in_the_range_of_tanh(digits):
    gan, images = small_gan()
    gan.compile()
    with pytest.raises(ValueError, match=r"scaled to \[-1, 1\]"):
        gan.fit((images + 1) * 127.5, verbose=0)
    data = load_images("digits", 500, scale=(-1.0, 1.0), with_labels=False)
    real = next(iter(data.test))
    assert (np.min(real), np.max(real)) == (-1, 1)
    labelled, _ = next(iter(digits.test))
    np.testing.assert_allclose(real[:250], 2 * labelled - 1, atol=1e-6)


def test_g4_article_takes_any_noise():
    for width in (7, 100):
        dense = layers.Dense(4, activation="relu", use_bias=False)
        assert dense(np.ones((2, width), "float32")).shape == (2, 4)
