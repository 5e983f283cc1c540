"""The article's equations E1 to E8, corrected, against the layers the models really use.

Each equation is a few lines of NumPy that are the equation and nothing else; each layer is taken
out of a `bigmodels` model built with `dtype="float64"` and given random weights, biases included.

Tolerances. float64 carries 16 digits and no sum here has more than about a hundred terms, so an
equation and its layer differ by 1e-13 at most, through the order of summation and the libraries'
own `exp`; `EXACT` leaves three digits of room. A defect of the article shows up as 1e-2 or more.
Gradients are held to the same tolerance: the equation is differentiated by the complex step
f'(x) = Im f(x + ih) / h, which subtracts nothing and so, with h = 1e-30, loses no digit.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import PositionalEncoding
from bigmodels.models import CNN, GAN, RNN, Discriminator, Generator, Transformer

EXACT = {"rtol": 1e-10, "atol": 1e-10}
# What counts as "something else": far above every tolerance, far below the effect of a defect.
DIFFERENT = 1e-3


def with_random_weights(model, shape, rng):
    """Build, and leave no weight at zero or one, where a missing bias or scale would hide."""
    model.build(shape)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        positive = variable.path.endswith(("gamma", "moving_variance"))
        value = (
            rng.uniform(0.5, 2, variable.shape) if positive else rng.normal(0, 0.7, variable.shape)
        )
        variable.assign(value)
    return model


def numpy(tensor):
    result = keras.ops.convert_to_numpy(tensor)
    assert result.dtype == "float64", "the layer left float64, so the tolerance would mean nothing"
    return result


def distance(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def leaky_relu(x):
    # TensorFlow keeps the slope as a float32 attribute, whatever the precision of its input.
    return np.where(x > 0, x, np.float64(np.float32(0.2)) * x)


def gradients(function, arguments):
    """d function / d argument, for every array of a dict, by the complex step."""
    results = {}
    for name, value in arguments.items():
        results[name] = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            moved = value.astype("complex128")
            moved[place] += 1e-30j
            results[name][place] = function(**{**arguments, name: moved}).imag / 1e-30
    return results


# E1: convolution


def convolution(x, w, b):
    """y_ijm = b_m + sum_klc x_(i+k-1)(j+l-1)c w_klcm; from 0 instead of 1, i + k and j + l."""
    batch, height, width, _ = x.shape
    k, l, channels, filters = w.shape  # noqa: E741
    y = np.zeros((batch, height - k + 1, width - l + 1, filters))
    for n, i, j, m in np.ndindex(y.shape):
        y[n, i, j, m] = b[m] + sum(
            x[n, i + p, j + q, c] * w[p, q, c, m]
            for p in range(k)
            for q in range(l)
            for c in range(channels)
        )
    return y


@pytest.fixture
def cnn(rng):
    model = CNN(num_classes=4, filters=(3,), kernel_size=3, dense_units=5, dtype="float64")
    return with_random_weights(model, (None, 7, 8, 2), rng)


def test_e1_convolution(cnn, rng):
    x = rng.normal(size=(2, 7, 8, 2))
    expected = relu(convolution(x, *cnn.conv1.get_weights()))
    assert 0.1 < (expected > 0).mean() < 0.9  # The rectifier hides neither everything nor nothing.
    np.testing.assert_allclose(numpy(cnn.conv1(x)), expected, **EXACT)


def test_e1_as_printed_is_something_else(rng):
    # The printed x_(k-i+1)(l-j+1) leaves the image from i = 2 on (zero there, to be generous) and
    # its b_i belongs to a row, not to a filter; one channel, one filter, as it says.
    model = CNN(filters=(1,), kernel_size=3, dtype="float64")
    conv = with_random_weights(model, (None, 6, 6, 1), rng).conv1
    w, b = conv.get_weights()
    x = rng.normal(size=(6, 6))
    printed = np.full((4, 4), b[0])
    for i, j, k, l in np.ndindex(4, 4, 3, 3):  # noqa: E741
        if k - i >= 0 and l - j >= 0:
            printed[i, j] += x[k - i, l - j] * w[k, l, 0, 0]
    y = numpy(conv(x[None, :, :, None]))[0, :, :, 0]
    # Only the first output, where k - i + 1 = k, is the same.
    np.testing.assert_allclose(y[0, 0], relu(printed[0, 0]), **EXACT)
    assert distance(y, relu(printed)) > DIFFERENT


# E2: pooling


def pooling(x, f, s):
    """y_ij = max x_kl over is <= k < is + f and js <= l < js + f, in every channel."""
    batch, height, width, channels = x.shape
    y = np.zeros((batch, (height - f) // s + 1, (width - f) // s + 1, channels))
    for n, i, j, c in np.ndindex(y.shape):
        y[n, i, j, c] = max(
            x[n, k, l, c]
            for k in range(i * s, i * s + f)
            for l in range(j * s, j * s + f)  # noqa: E741
        )
    return y


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 7, 5, 2)], ids=["even", "odd"])
def test_e2_pooling(cnn, rng, shape):
    x = rng.normal(size=shape)
    np.testing.assert_allclose(numpy(cnn.pool1(x)), pooling(x, f=2, s=2), **EXACT)


def test_e2_as_printed_is_something_else(cnn):
    # The printed i <= k <= i + f takes three elements for f = 2, and moves on by one.
    x = np.array([1.0, 2.0, 9.0, 3.0, 4.0, 5.0])
    image = np.stack([x, x])[None, :, :, None]
    y = numpy(cnn.pool1(image))[0, 0, :, 0]
    printed = [max(x[i : i + 2 + 1]) for i in range(len(x) - 2)]
    assert y.tolist() == [2, 9, 5]
    assert printed == [9, 9, 9, 5]


# E3: dense


def dense(x, w, b):
    """y_nm = b_m + sum_i x_ni w_im."""
    y = np.zeros((len(x), len(b)))
    for n, m in np.ndindex(y.shape):
        y[n, m] = b[m] + sum(x[n, i] * w[i, m] for i in range(x.shape[1]))
    return y


def test_e3_dense(cnn, rng):
    hidden = rng.normal(size=(3, cnn.dense1.kernel.shape[0]))
    expected = relu(dense(hidden, *cnn.dense1.get_weights()))
    np.testing.assert_allclose(numpy(cnn.dense1(hidden)), expected, **EXACT)
    last = rng.normal(size=(3, cnn.dense2.kernel.shape[0]))
    expected = dense(last, *cnn.dense2.get_weights())
    np.testing.assert_allclose(numpy(cnn.dense2(last)), expected, **EXACT)


def test_e3_as_printed_is_something_else(cnn, rng):
    # The printed formula is right; the printed step 4 compares the sum with the bias instead.
    x = rng.normal(size=(3, cnn.dense2.kernel.shape[0]))
    w, b = cnn.dense2.get_weights()
    assert distance(numpy(cnn.dense2(x)), (x @ w > b).astype("float64")) > DIFFERENT


def test_e1_to_e3_make_the_whole_cnn(cnn, rng):
    x = rng.normal(size=(2, 7, 8, 2))
    pooled = pooling(relu(convolution(x, *cnn.conv1.get_weights())), f=2, s=2)
    hidden = relu(dense(pooled.reshape(2, -1), *cnn.dense1.get_weights()))
    np.testing.assert_allclose(numpy(cnn(x)), dense(hidden, *cnn.dense2.get_weights()), **EXACT)


# E4: LSTM


def lstm(x, w, u, b, h, c):
    """i, f, o = sigmoid(...), g = tanh(...); c_t = f c_(t-1) + i g; h_t = o tanh(c_t)."""
    outputs = []
    for x_t in np.moveaxis(x, 1, 0):
        # Keras stores the four gates' weights side by side, in the order i, f, g, o.
        i, f, g, o = np.split(x_t @ w + h @ u + b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1), h, c


@pytest.fixture
def rnn(rng):
    return with_random_weights(RNN(5, 2, 3, dtype="float64"), (None, None), rng)


@pytest.fixture
def lstm_arguments(rnn, rng):
    w, u, b = rnn.rnn.get_weights()
    x, h, c = (rng.normal(size=shape) for shape in ((2, 4, 2), (2, 3), (2, 3)))
    return {"x": x, "w": w, "u": u, "b": b, "h": h, "c": c}


def test_e4_lstm(rnn, lstm_arguments):
    a = lstm_arguments
    results = rnn.rnn(a["x"], initial_state=[tf.constant(a["h"]), tf.constant(a["c"])])
    for result, expected in zip(results, lstm(**a), strict=True):
        np.testing.assert_allclose(numpy(result), expected, **EXACT)


def test_e4_lstm_gradient(rnn, lstm_arguments, rng):
    a = lstm_arguments
    # Every output counts, with its own weight, so that no path through time can be left out.
    weights = [rng.normal(size=shape) for shape in ((2, 4, 3), (2, 3), (2, 3))]

    def loss(**arguments):
        return sum((r * y).sum() for r, y in zip(weights, lstm(**arguments), strict=True))

    x, h, c = (tf.constant(a[name]) for name in "xhc")
    with tf.GradientTape() as tape:
        tape.watch([x, h, c])
        results = rnn.rnn(x, initial_state=[h, c])
        total = sum(tf.reduce_sum(r * y) for r, y in zip(weights, results, strict=True))
    found = tape.gradient(total, [x, *rnn.rnn.trainable_variables, h, c])
    expected = gradients(loss, a)
    for (name, wanted), gradient in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(numpy(gradient), wanted, err_msg=name, **EXACT)


def test_e4_as_printed_is_something_else(rnn, lstm_arguments):
    a = lstm_arguments
    h = a["h"]
    for x_t in np.moveaxis(a["x"], 1, 0):
        i, f, g, _ = np.split(x_t @ a["w"] + h @ a["u"] + a["b"], 4, axis=-1)
        h = sigmoid(i) * np.tanh(g) + sigmoid(f) * h  # No cell state, and no use for the gate o.
    state = [tf.constant(a["h"]), tf.constant(a["c"])]
    assert distance(numpy(rnn.rnn(a["x"], initial_state=state)[1]), h) > DIFFERENT


def test_e4_the_two_states_are_different_things(rnn, lstm_arguments):
    a = lstm_arguments
    swapped = lstm(**{**a, "h": a["c"], "c": a["h"]})
    state = [tf.constant(a["h"]), tf.constant(a["c"])]
    assert distance(numpy(rnn.rnn(a["x"], initial_state=state)[0]), swapped[0]) > DIFFERENT


# E5: attention


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def attention_weights(q, k, mask):
    """E = softmax(Q K^T / sqrt(d_k)) over the keys; what is masked is minus infinity before it."""
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(k.shape[-1])
    return softmax(np.where(mask[:, None], scores, -np.inf))


def attention(x, wq, bq, wk, bk, wv, bv, wo, bo, mask):
    """A = E V in every head; the heads side by side, through the output weights."""
    q, k, v = (np.einsum("btd,dhk->bthk", x, w) + b for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    a = np.einsum("bhts,bshk->bthk", attention_weights(q, k, mask), v)
    return np.einsum("bthk,hkd->btd", a, wo) + bo


LENGTH, WIDTH = 4, 8
PADDING = np.array([[True] * 4, [True, True, False, False]])
MASKS = {
    "none": np.ones((2, LENGTH, LENGTH), bool),
    "causal": np.tril(np.ones((2, LENGTH, LENGTH), bool)),
    "padding": np.repeat(PADDING[:, None], LENGTH, axis=1),
}
MASKS["causal and padding"] = MASKS["causal"] & MASKS["padding"]


def call_attention(layer, x, kind, **kwargs):
    """Call the layer as `TransformerBlock` does."""
    return layer(
        query=x,
        value=x,
        key=x,
        attention_mask=PADDING[:, None] if "padding" in kind else None,
        use_causal_mask="causal" in kind,
        **kwargs,
    )


@pytest.fixture
def attention_layer(rng):
    # Keras takes 1 / sqrt(d_k) through float32; heads of width 4 make it 1/2, exact there too.
    model = Transformer(5, WIDTH, 2, 7, 0.0, max_length=LENGTH, dtype="float64")
    return with_random_weights(model, (None, None), rng).blocks[0].attention


def attention_arguments(layer, rng, width=WIDTH):
    names = ("wq", "bq", "wk", "bk", "wv", "bv", "wo", "bo")
    weights = dict(zip(names, layer.get_weights(), strict=True))
    return {"x": rng.normal(size=(2, LENGTH, width)), **weights}


@pytest.mark.parametrize("kind", MASKS)
def test_e5_attention(attention_layer, rng, kind):
    a = attention_arguments(attention_layer, rng)
    found = numpy(call_attention(attention_layer, tf.constant(a["x"]), kind))
    np.testing.assert_allclose(found, attention(**a, mask=MASKS[kind]), **EXACT)


def test_e5_scale_is_the_root_of_the_width_of_a_head(rng):
    # Heads of width 3 tell 1 / sqrt(d_k) from 2 / d_k; the price is the float32 of the scale.
    model = Transformer(5, 6, 2, 7, 0.0, max_length=LENGTH, dtype="float64")
    layer = with_random_weights(model, (None, None), rng).blocks[0].attention
    a = attention_arguments(layer, rng, width=6)
    found = numpy(call_attention(layer, tf.constant(a["x"]), "none"))
    np.testing.assert_allclose(found, attention(**a, mask=MASKS["none"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MASKS)
def test_e5_attention_gradient(attention_layer, rng, kind):
    a = attention_arguments(attention_layer, rng)
    weights = rng.normal(size=(2, LENGTH, WIDTH))
    x = tf.constant(a["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(weights * call_attention(attention_layer, x, kind))
    found = tape.gradient(total, [x, *attention_layer.trainable_variables])
    mask = MASKS[kind]
    expected = gradients(lambda **moved: (weights * attention(**moved, mask=mask)).sum(), a)
    for (name, wanted), gradient in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(numpy(gradient), wanted, err_msg=name, **EXACT)


@pytest.mark.parametrize("kind", MASKS)
def test_e5_softmax_is_over_the_keys_and_after_the_mask(attention_layer, rng, kind):
    x = tf.constant(rng.normal(size=(2, LENGTH, WIDTH)))
    _, weights = call_attention(attention_layer, x, kind, return_attention_scores=True)
    weights = numpy(weights)  # (batch, heads, queries, keys)
    np.testing.assert_allclose(weights.sum(-1), 1, **EXACT)
    hidden = np.broadcast_to(~MASKS[kind][:, None], weights.shape)
    assert not weights[hidden].any()  # Exactly zero, not merely small.
    assert weights[~hidden].all()
    # Over the queries, the other reading of the article's V^T E, they do not sum to one.
    assert distance(weights.sum(-2), 1) > DIFFERENT


def test_e5_as_printed_is_something_else(attention_layer, rng):
    a = attention_arguments(attention_layer, rng)
    found = numpy(call_attention(attention_layer, tf.constant(a["x"]), "causal"))
    q, k, v = (np.einsum("btd,dhk->bthk", a["x"], a["w" + n]) + a["b" + n] for n in "qkv")

    def output(per_head):  # (batch, time, heads, width of a head)
        return np.einsum("bthk,hkd->btd", per_head, a["wo"]) + a["bo"]

    # V^T E is (width, time): turned into rows for time it is E^T V, which mixes the queries.
    e = attention_weights(q, k, MASKS["causal"])
    assert distance(found, output(np.einsum("bhst,bshk->bthk", e, v))) > DIFFERENT
    # A mask after the softmax leaves weights that no longer sum to one.
    late = attention_weights(q, k, MASKS["none"]) * MASKS["causal"][:, None]
    assert distance(found, output(np.einsum("bhts,bshk->bthk", late, v))) > DIFFERENT


# E6: position encoding


def position_encoding(length, d):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d))."""
    table = np.zeros((length, d))
    for pos in range(length):
        for i in range((d + 1) // 2):
            table[pos, 2 * i] = np.sin(pos / 10000 ** (2 * i / d))
            if 2 * i + 1 < d:  # An odd width ends in a sine.
                table[pos, 2 * i + 1] = np.cos(pos / 10000 ** (2 * i / d))
    return table


@pytest.mark.parametrize("d", [1, 6, 7])
def test_e6_position_encoding(d):
    layer = PositionalEncoding(40, d, dtype="float64")
    found = numpy(layer(np.zeros((2, 40, d))))
    np.testing.assert_allclose(found, position_encoding(40, d)[None], **EXACT)
    np.testing.assert_array_equal(numpy(layer(np.zeros((2, 9, d)))), found[:, :9])


def test_e6_rounds_once_in_single_precision():
    found = keras.ops.convert_to_numpy(PositionalEncoding(512, 8)(np.zeros((1, 512, 8), "float32")))
    # Half a unit in the last place of numbers up to one; angles taken in float32 miss it.
    assert found.dtype == "float32"
    assert distance(found[0], position_encoding(512, 8)) <= 2.0**-24


def test_e6_as_printed_is_something_else():
    found = numpy(PositionalEncoding(512, 8, dtype="float64")(np.zeros((1, 512, 8))))[0]
    pos = np.arange(512) / 10000
    printed = np.sin(pos) ** 20 * np.cos(pos) ** 20  # One number for a whole position...
    assert printed.max() < 1e-25  # ...that float32 beside an embedding cannot even hold.
    assert distance(found, printed[:, None]) > DIFFERENT
    gaps = np.abs(found[:, None] - found[None]).max(-1) + 9 * np.eye(512)
    assert gaps.min() > DIFFERENT  # The corrected one tells any two positions apart.


# E5 and E6 in place: a whole Transformer


def layer_norm(x, gamma, beta):
    return gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) + beta


def transformer(model, ids, mask, combine):
    """Embedding times sqrt(d), position encoding, one block, normalisation, logits."""
    (table,) = model.token_embedding.get_weights()
    d = table.shape[1]
    x = combine(table[ids] * np.sqrt(d), position_encoding(ids.shape[1], d))
    (block,) = model.blocks
    normalised = layer_norm(x, *block.attention_norm.get_weights())
    x = x + attention(normalised, *block.attention.get_weights(), mask=mask)
    normalised = layer_norm(x, *block.feed_forward_norm.get_weights())
    w, b = block.feed_forward.get_weights()
    inner = relu(normalised @ w + b)
    w, b = block.projection.get_weights()
    x = x + inner @ w + b
    w, b = model.dense.get_weights()
    return layer_norm(x, *model.norm.get_weights()) @ w + b


@pytest.mark.parametrize("causal", [True, False])
def test_e5_and_e6_make_the_whole_transformer(rng, causal):
    model = Transformer(5, WIDTH, 2, 7, 0.1, max_length=LENGTH, causal=causal, dtype="float64")
    with_random_weights(model, (None, None), rng)
    ids = np.where(PADDING, rng.integers(1, 5, PADDING.shape), 0)
    mask = MASKS["causal and padding" if causal else "padding"]
    found = numpy(model(ids, training=False))
    np.testing.assert_allclose(found, transformer(model, ids, mask, np.add), **EXACT)
    # The article multiplies the input with its encoding, and masks nothing.
    assert distance(found, transformer(model, ids, mask, np.multiply)) > DIFFERENT
    assert distance(found, transformer(model, ids, MASKS["none"], np.add)) > DIFFERENT


# E7 and E8: the dense networks of the GAN


def folded(dense, norm):
    """A dense layer with its batch normalisation folded in: why the layer needs no bias."""
    (w,) = dense.get_weights()
    gamma, beta, mean, variance = norm.get_weights()
    scale = gamma / np.sqrt(variance + 1e-3)
    return w * scale, beta - mean * scale


def network(model, x):
    """x_l = a(x_(l-1) W_l + b_l), one bias and one activation a layer; the last without a."""
    count = len(model.units)
    for i in range(1, count + 1):
        layer, norm = getattr(model, f"dense{i}"), getattr(model, f"batchnorm{i}", None)
        w, b = layer.get_weights() if norm is None else folded(layer, norm)
        x = leaky_relu(x @ w + b)
    w, b = getattr(model, f"dense{count + 1}").get_weights()
    return x @ w + b


@pytest.fixture
def generator(rng):
    model = Generator(latent_dim=3, image_shape=(2, 3, 1), units=(6, 5, 4), dtype="float64")
    return with_random_weights(model, (None, 3), rng)


@pytest.fixture
def discriminator(rng):
    model = Discriminator(image_shape=(2, 3, 1), units=(5, 4), dtype="float64")
    return with_random_weights(model, (None, 2, 3, 1), rng)


def biases(model):
    """For every dense layer: whether it has a bias, and whether batch normalisation follows."""
    for i in range(1, len(model.units) + 2):
        yield getattr(model, f"dense{i}").use_bias, hasattr(model, f"batchnorm{i}")


@pytest.mark.parametrize("network_class", [Generator, Discriminator])
def test_e7_e8_a_bias_exactly_where_no_batch_normalisation_follows(network_class):
    found = list(biases(network_class()))  # With the article's widths.
    assert all(bias != norm for bias, norm in found)
    assert any(norm for _, norm in found)
    assert found[-1] == (True, False)


def test_e7_generator(generator, rng):
    z = rng.normal(size=(5, 3))
    expected = np.tanh(network(generator, z)).reshape(5, 2, 3, 1)
    np.testing.assert_allclose(numpy(generator(z, training=False)), expected, **EXACT)


def test_e7_as_printed_is_something_else(rng):
    # One hidden layer is enough to see it: W_2 (a(W_1 z) + b_1) + b_2, the bias outside the
    # activation, and no tanh at the end, where the article's own sample has one.
    model = Generator(latent_dim=3, image_shape=(2, 3, 1), units=(4,), dtype="float64")
    with_random_weights(model, (None, 3), rng)
    z = rng.normal(size=(50, 3))
    (w1, b1), (w2, b2) = model.dense1.get_weights(), model.dense2.get_weights()
    found = numpy(model(z, training=False)).reshape(50, 6)
    np.testing.assert_allclose(found, np.tanh(leaky_relu(z @ w1 + b1) @ w2 + b2), **EXACT)
    printed = (leaky_relu(z @ w1) + b1) @ w2 + b2
    assert distance(found, np.tanh(printed)) > DIFFERENT
    assert np.abs(printed).max() > 1 >= np.abs(found).max()


def test_e8_discriminator(discriminator, generator, rng):
    real = rng.uniform(-1, 1, (4, 2, 3, 1))
    made = numpy(generator(rng.normal(size=(4, 3)), training=False))
    for images in (real, made):  # It judges both, and images alone: no noise comes in.
        logits = numpy(discriminator(images, training=False))
        expected = network(discriminator, images.reshape(4, -1))
        np.testing.assert_allclose(logits, expected, **EXACT)
        probabilities = numpy(keras.ops.sigmoid(discriminator(images, training=False)))
        np.testing.assert_allclose(probabilities, sigmoid(expected), **EXACT)
    assert discriminator.dense1.kernel.shape[0] == 2 * 3 * 1


def test_e8_as_printed_is_something_else(discriminator, rng):
    # The printed D(x) ends in W_2 h + b_2 and is called a classification: it is no probability.
    images = rng.uniform(-1, 1, (50, 2, 3, 1))
    printed = network(discriminator, images.reshape(50, -1))
    assert printed.min() < 0 or printed.max() > 1
    probabilities = numpy(keras.ops.sigmoid(discriminator(images, training=False)))
    assert ((0 < probabilities) & (probabilities < 1)).all()
    assert distance(probabilities, printed) > DIFFERENT


def test_e8_losses_set_real_against_generated(generator, discriminator, rng):
    gan = GAN(generator, discriminator, seed=3)
    gan.compile()
    real = rng.uniform(-1, 1, (4, 2, 3, 1))
    same_draw = keras.random.SeedGenerator(3)
    z = keras.ops.convert_to_numpy(keras.random.normal((4, 3), seed=same_draw)).astype("float64")
    logs = gan.test_step(tf.constant(real))
    on_real = network(discriminator, real.reshape(4, -1))
    on_made = network(discriminator, np.tanh(network(generator, z)))
    # -log D(x) - log(1 - D(G(z))) and -log D(G(z)), with D the sigmoid of the logit.
    d_loss = (-np.log(sigmoid(on_real)) - np.log(1 - sigmoid(on_made))).mean()
    g_loss = -np.log(sigmoid(on_made)).mean()
    # Keras computes losses and their means in float32, whatever the networks' precision.
    np.testing.assert_allclose(float(logs["d_loss"]), d_loss, rtol=1e-5)
    np.testing.assert_allclose(float(logs["g_loss"]), g_loss, rtol=1e-5)
