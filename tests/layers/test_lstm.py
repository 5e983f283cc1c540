"""`bigmodels.layers.LSTM` against `keras.layers.LSTM` with the same weights."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import LSTM, lstm
from bigmodels.models import RNN

BATCH, LENGTH, FEATURES, UNITS = 4, 6, 3, 5

MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1]],
    "any": [[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1]],
}


def pair(rng, policy="float32", **kwargs):
    """Ours and Keras' with the same weights, none of them zero."""
    layers = []
    for kind in (LSTM, keras.layers.LSTM):
        layer = kind(UNITS, dtype=policy, seed=7, **kwargs)
        layer.build((BATCH, LENGTH, FEATURES))
        layers.append(layer)
    ours, theirs = layers
    assert [v.path.split("/")[1:] for v in ours.weights] == [
        v.path.split("/")[1:] for v in theirs.weights
    ]
    weights = [rng.normal(0, 0.5, v.shape) for v in ours.trainable_variables]
    for layer in layers:
        for variable, value in zip(layer.trainable_variables, weights, strict=True):
            variable.assign(value)
    return ours, theirs


def results(layer, x, mask=None, state=None, seed=0):
    """Outputs, then gradients of everything by a loss that weighs each number differently."""
    x = tf.convert_to_tensor(x)
    state = None if state is None else [tf.convert_to_tensor(s) for s in state]
    with tf.GradientTape() as tape:
        tape.watch([x, state or []])
        outputs = layer(x, mask=mask, initial_state=state, training=True)
        outputs = tf.nest.flatten(outputs)
        rng = np.random.default_rng(seed)
        loss = sum(tf.reduce_sum(y * tf.cast(rng.normal(size=y.shape), y.dtype)) for y in outputs)
    sources = [x, *(state or []), *(v.value for v in layer.trainable_variables)]
    return [*outputs, *tape.gradient(loss, sources)]


def assert_equal(ours, theirs, tolerance=2e-6):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        a, b = (np.asarray(tf.cast(value, tf.float64)) for value in (a, b))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def some(rng, *shape):
    return rng.normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("mask", "backwards", "sequences"), itertools.product(MASKS, (False, True), (False, True))
)
def test_equals_keras(rng, mask, backwards, sequences):
    """Outputs and all gradients: inputs, states, kernel, recurrent kernel, bias."""
    ours, theirs = pair(rng, go_backwards=backwards, return_sequences=sequences, return_state=True)
    assert ours.describe_kernel() == "fused CPU loop"
    x = some(rng, BATCH, LENGTH, FEATURES)
    mask = None if MASKS[mask] is None else np.array(MASKS[mask], bool)
    state = [some(rng, BATCH, UNITS), some(rng, BATCH, UNITS)]
    with_state = results(ours, x, mask, state)
    assert len(with_state) == 9 and all(np.any(value) for value in with_state)
    assert_equal(with_state, results(theirs, x, mask, state))
    assert_equal(results(ours, x, mask), results(theirs, x, mask))


@pytest.mark.parametrize("batch", [16, 17])
def test_a_divided_batch_equals_keras(rng, batch):
    """Halves go through loops of their own, as they do wherever the batch is dynamic."""
    ours, theirs = pair(rng, return_sequences=True, return_state=True)
    x = some(rng, batch, LENGTH, FEATURES)
    state = [some(rng, batch, UNITS), some(rng, batch, UNITS)]
    for mask in (None, rng.random((batch, LENGTH)) < 0.6):
        assert_equal(results(ours, x, mask, state), results(theirs, x, mask, state))


def test_the_fused_loop_is_what_these_tests_test(rng, monkeypatch):
    ours, _ = pair(rng)
    x = some(rng, BATCH, LENGTH, FEATURES)
    monkeypatch.setattr(keras.layers.LSTM, "inner_loop", None)
    results(ours, x)
    with pytest.raises(TypeError):
        ours(x)  # Not training.


@pytest.mark.parametrize(
    "kwargs",
    [
        {"use_bias": False},
        {"dropout": 0.4, "return_sequences": True},
        {"recurrent_dropout": 0.4},
        {"unroll": True},
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"implementation": 1},
        {"zero_output_for_mask": True},
        {"zero_output_for_mask": True, "return_sequences": True},
        {"use_cudnn": False},
        {"kernel_regularizer": "l2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", ["none", "any"])
def test_equals_keras_in_every_configuration(rng, kwargs, mask):
    ours, theirs = pair(rng, **kwargs)
    x = some(rng, BATCH, LENGTH, FEATURES)
    mask = None if MASKS[mask] is None else np.array(MASKS[mask], bool)
    assert_equal(results(ours, x, mask), results(theirs, x, mask))
    assert_equal([ours(x, mask=mask)], [theirs(x, mask=mask)])
    assert_equal(ours.losses, theirs.losses)


def test_dropout_drops_the_same_features_at_every_step(rng):
    ours, _ = pair(rng, dropout=0.5)
    d_x = np.asarray(results(ours, some(rng, BATCH, LENGTH, FEATURES))[1])
    dropped = d_x == 0
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], LENGTH, 1))


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_half_precision_equals_keras(rng, policy):
    ours, theirs = pair(rng, policy, return_sequences=True)
    x = some(rng, BATCH, LENGTH, FEATURES)
    assert ours.describe_kernel() == f"Keras' loop: computes in {ours.compute_dtype}"
    assert_equal(results(ours, x), results(theirs, x), 0)


def test_gradients_are_those_of_float64(rng):
    """Against central differences of Keras' loop in float64, a weight or input at a time."""
    ours, _ = pair(rng, return_sequences=True)
    exact = keras.layers.LSTM(UNITS, return_sequences=True, dtype="float64")
    exact.build((BATCH, LENGTH, FEATURES))
    x = some(rng, BATCH, LENGTH, FEATURES)
    mask = np.array(MASKS["any"], bool)
    scale = np.random.default_rng(0).normal(size=(BATCH, LENGTH, UNITS))
    values = [x, *ours.get_weights()]
    gradients = results(ours, x, mask)[1:]

    def loss(values):
        exact.set_weights(values[1:])
        return float(np.sum(scale * np.asarray(exact(values[0], mask=mask))))

    for number, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        for flat in rng.choice(value.size, 4, replace=False):
            index = np.unravel_index(flat, value.shape)
            ends = []
            for step in (1e-5, -1e-5):
                moved = [np.array(v, "float64") for v in values]
                moved[number][index] += step
                ends.append(loss(moved))
            expected = (ends[0] - ends[1]) / 2e-5
            assert float(gradient[index]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_stateful_goes_on_where_it_was(rng):
    ours, theirs = pair(rng, stateful=True, return_sequences=True)
    for _ in range(3):
        x = some(rng, BATCH, LENGTH, FEATURES)
        assert_equal(results(ours, x), results(theirs, x))
        assert_equal(ours.states, theirs.states)
    ours.reset_state()
    theirs.reset_state()
    assert_equal(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("shape", [(None, LENGTH), (BATCH, None), (None, None)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.thorough
def test_dynamic_shapes(rng, shape, masked):
    """One trace takes any batch and any length, down to one."""
    ours, theirs = pair(rng, return_sequences=True, return_state=True)

    @tf.function(
        input_signature=[
            tf.TensorSpec((*shape, FEATURES)),
            tf.TensorSpec(shape, tf.bool),
            tf.TensorSpec((shape[0], UNITS)),
        ]
    )
    def step(x, mask, h):
        with tf.GradientTape() as tape:
            tape.watch([x, h])
            y, *_ = ours(x, mask=mask if masked else None, initial_state=[h, h], training=True)
            loss = tf.reduce_sum(y**2)
        return [y, *tape.gradient(loss, [x, h, *(v.value for v in ours.trainable_variables)])]

    for batch, length in ((BATCH, LENGTH), (1, LENGTH), (BATCH, 1), (7, 2)):
        if shape[0] not in (None, batch) or shape[1] not in (None, length):
            continue
        x, h = some(rng, batch, length, FEATURES), some(rng, batch, UNITS)
        mask = rng.random((batch, length)) < 0.7
        with tf.GradientTape() as tape:
            watched = [tf.convert_to_tensor(x), tf.convert_to_tensor(h)]
            tape.watch(watched)
            y, *_ = theirs(
                watched[0],
                mask=mask if masked else None,
                initial_state=[watched[1]] * 2,
                training=True,
            )
            loss = tf.reduce_sum(y**2)
        expected = tape.gradient(loss, watched + [v.value for v in theirs.trainable_variables])
        assert_equal(step(x, mask, h), [y, *expected])


def by_xla(layer, *args):
    """`results`, compiled by XLA."""
    return tf.function(lambda: results(layer, *args), jit_compile=True, autograph=False)()


@pytest.mark.parametrize(("length", "at_once"), [(3, 1), (6, 2), (5, 2), (3, 10)])
@pytest.mark.parametrize(
    ("kwargs", "masked"),
    [
        ({}, False),
        ({"return_sequences": True}, True),
        ({"go_backwards": True, "return_sequences": True}, True),
        ({"use_bias": False, "zero_output_for_mask": True, "return_sequences": True}, True),
    ],
    ids=["last", "masked", "backwards", "zeros"],
)
@pytest.mark.thorough
def test_by_xla_it_equals_keras(rng, kwargs, masked, length, at_once, monkeypatch):
    """In rounds of one step and of several, and with steps that are left over."""
    monkeypatch.setattr(lstm, "_steps_in_a_round", lambda length: at_once)
    ours, theirs = pair(rng, return_state=True, **kwargs)
    assert ours.describe_kernel(jit_compile=True) == "loop for XLA"
    x = some(rng, BATCH, length, FEATURES)
    mask = rng.random((BATCH, length)) < 0.6 if masked else None
    state = [some(rng, BATCH, UNITS), some(rng, BATCH, UNITS)]
    assert_equal(by_xla(ours, x, mask, state), results(theirs, x, mask, state))
    inference = tf.function(lambda: ours(x, mask=mask, initial_state=state), jit_compile=True)()
    assert_equal(inference, theirs(x, mask=mask, initial_state=state))


@pytest.mark.parametrize(
    ("gpu", "length", "rounds"),
    [(0, 100, 1), (1, 100, 10), (1, 256, 8), (1, 7, 7), (1, 13, 10)],
)
def test_steps_in_a_round(monkeypatch, gpu, length, rounds):
    monkeypatch.setattr(lstm.kernels, "has_gpu", lambda: bool(gpu))
    assert lstm._steps_in_a_round(length) == rounds


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.thorough
def test_half_precision_by_xla_is_near_float32(rng, policy):
    ours, _ = pair(np.random.default_rng(3), policy, return_sequences=True)
    _, whole = pair(np.random.default_rng(3), return_sequences=True)
    x = some(rng, BATCH, 20, FEATURES)
    assert_equal(by_xla(ours, x), results(whole, x), 2e-3 if "float16" == policy[6:] else 2e-2)


@pytest.mark.thorough
def test_in_xla_what_is_unusual_goes_to_keras_loop(rng):
    for kwargs in ({"activation": "relu"}, {"dtype": "float64"}, {"implementation": 1}):
        kwargs = dict(kwargs)
        policy = kwargs.pop("dtype", "float32")
        ours, theirs = pair(rng, policy, **kwargs)
        assert ours.describe_kernel(jit_compile=True).startswith("Keras' loop: ")
        x = some(rng, BATCH, LENGTH, FEATURES)
        assert_equal(by_xla(ours, x), results(theirs, x))


@pytest.mark.parametrize("pfor", [True, False])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.thorough
def test_jacobians_are_those_of_keras(rng, graph, pfor):
    ours, theirs = pair(rng)
    x = tf.convert_to_tensor(some(rng, 2, 3, FEATURES))

    def jacobian(x, layer):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.jacobian(y, x, experimental_use_pfor=pfor)

    run = tf.function(jacobian) if graph else jacobian
    assert_equal([run(x, ours)], [run(x, theirs)])


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers_are_taken_as_by_keras(rng, dtype):
    ours, theirs = pair(rng)
    x = rng.integers(0, 3, (BATCH, LENGTH, FEATURES)).astype(dtype)
    for training in (True, False):
        assert_equal([ours(x, training=training)], [theirs(x, training=training)])


def test_second_derivatives_are_refused(rng):
    """Rather than wrong."""
    ours, _ = pair(rng)
    x = tf.convert_to_tensor(some(rng, BATCH, LENGTH, FEATURES))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(ours(x, training=True))
        penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    with pytest.raises(LookupError, match="no second derivative"):
        outer.gradient(penalty, x)


@pytest.mark.parametrize(
    ("kwargs", "training", "sentence"),
    [
        ({}, True, "fused CPU loop"),
        ({"dropout": 0.2, "use_bias": False}, True, "fused CPU loop"),
        ({}, False, "Keras' loop: not training"),
        ({"recurrent_dropout": 0.2}, True, "Keras' loop: recurrent_dropout=0.2"),
        ({"activation": "relu"}, True, "Keras' loop: activation=relu"),
        ({"activation": None}, True, "Keras' loop: activation=linear"),
        ({"recurrent_activation": "relu"}, True, "Keras' loop: recurrent_activation=relu"),
        ({"unroll": True}, True, "Keras' loop: unroll=True"),
        ({"use_cudnn": True}, True, "Keras' loop: use_cudnn=True"),
        ({"implementation": 1}, True, "Keras' loop: implementation=1"),
        ({"dtype": "float64"}, True, "Keras' loop: computes in float64"),
    ],
)
def test_kernel_sentence(kwargs, training, sentence):
    assert LSTM(2, **kwargs).describe_kernel(training) == sentence


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({}, "cuDNN"),
        ({"dtype": "mixed_float16", "dropout": 0.2}, "cuDNN"),
        ({"use_bias": False}, "Keras' loop: use_bias=False"),
        ({"use_cudnn": False}, "Keras' loop: use_cudnn=False"),
        ({"unroll": True}, "Keras' loop: unroll=True"),
    ],
)
def test_a_gpu_is_left_to_keras(rng, monkeypatch, kwargs, sentence):
    layer = LSTM(2, **kwargs)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    given = []
    monkeypatch.setattr(keras.layers.LSTM, "inner_loop", lambda *args: given.append(args) or args)
    assert layer.describe_kernel() == layer.describe_kernel(False) == sentence
    layer.inner_loop("x", "states", None, training=True)
    assert given == [(layer, "x", "states", None, True)]


def test_use_cudnn_true_is_still_an_error_without_a_gpu(rng):
    with pytest.raises(ValueError, match="use_cudnn=True"):
        LSTM(UNITS, use_cudnn=True)(some(rng, 2, 3, 4), training=True)


def test_config_and_weights_are_those_of_keras(rng, tmp_path):
    ours, theirs = pair(rng, return_sequences=True, dropout=0.1, kernel_regularizer="l2")
    config = ours.get_config()
    assert {**config, "name": 0} == {**theirs.get_config(), "name": 0}
    assert LSTM.from_config(config).get_config() == config
    models = []
    for layer in (ours, theirs):
        model = keras.Sequential([keras.Input((None, FEATURES)), layer])
        models.append(model)
    x = some(rng, 2, LENGTH, FEATURES)
    models[0].save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(loaded.layers[0]) is LSTM
    assert_equal([loaded(x)], [models[0](x)], 0)
    models[1].save_weights(tmp_path / "theirs.weights.h5")
    for variable in ours.trainable_variables:
        variable.assign(tf.zeros(variable.shape))
    models[0].load_weights(tmp_path / "theirs.weights.h5")
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_initial_weights_are_those_of_keras():
    weights = []
    for kind in (LSTM, keras.layers.LSTM):
        keras.utils.set_random_seed(3)
        layer = kind(UNITS)
        layer.build((None, None, FEATURES))
        weights.append(layer.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(weights[0][2][UNITS : 2 * UNITS], 1)  # unit_forget_bias.


def stack(kind):
    """A masked stack of two, one of them bidirectional."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, FEATURES, mask_zero=True)(inputs)
    x = keras.layers.Bidirectional(kind(UNITS, return_sequences=True))(x)
    x = kind(UNITS)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.thorough
def test_bidirectional_and_stacked_train_as_keras_does(rng):
    """With the gradients of two batches accumulated before each update."""
    tokens = rng.integers(0, 9, (8, LENGTH))
    targets = some(rng, 8, 2)
    models = [stack(LSTM), stack(keras.layers.LSTM)]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        model.compile(optimizer, "mse")
    losses = [
        model.fit(tokens, targets, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
        for model in models
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert_equal(models[0].get_weights(), models[1].get_weights(), 1e-5)


@pytest.mark.thorough
def test_two_replicas_train_as_one_device_does(rng):
    tokens = rng.integers(1, 9, (8, LENGTH))
    weights = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        keras.utils.set_random_seed(5)
        with tf.distribute.MirroredStrategy(devices).scope():
            model = RNN(9, FEATURES, UNITS)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.5), loss)
        assert model.rnn.describe_kernel() == "fused CPU loop"
        model.fit(tokens, tokens, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert_equal(*weights, 1e-5)
