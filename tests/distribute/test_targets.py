"""Keras' own losses are told by identity, and what they would broadcast is refused or fitted."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses
from keras.src.losses.losses import LossFunctionWrapper

import bigmodels
from bigmodels.models import CNN, RNN
from tests.distribute.test_exactness import _mirrored

N, T = 8, 5
X = np.random.default_rng(0).normal(size=(N, T, 3)).astype("float32")


def my_own_mean_squared_error(y, p):
    return tf.reduce_mean(tf.square(y - p), -1)


class Pinball(losses.MeanSquaredError):
    """A user's own arithmetic in a subclass of Keras'."""

    def call(self, y_true, y_pred):
        return tf.reduce_mean(tf.abs(y_true - y_pred), -1)


class ItsOwnCall(losses.MeanSquaredError):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return tf.reduce_mean(tf.square(y_true - y_pred))


def _flat(x, units, name=None):
    return layers.Dense(units, name=name)(layers.Flatten()(x))


def _model(outputs, loss, cls=bigmodels.Model, **arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((T, 3))
    model = cls(inputs, outputs(inputs))
    model.compile("sgd", loss, **arguments)
    return model


ELEMENTWISE = {
    "name": "mse",
    "name of the class": "MeanAbsoluteError",
    "function": losses.mean_absolute_error,
    "class": losses.LogCosh,
    "instance": losses.Huber(),
    "name of its own": losses.MeanSquaredError(name="pinball"),
    "another reduction": losses.MeanSquaredError(reduction="sum"),
    "partial": functools.partial(losses.huber, delta=2.0),
    "wrapped": LossFunctionWrapper(losses.mean_squared_error, name="mine"),
    "hinge": "squared_hinge",
    "probabilities": "kl_divergence",
    "positive": losses.Poisson(),
    "direction": losses.CosineSimilarity(),
    "logits": losses.BinaryFocalCrossentropy(from_logits=True),
    "overlap": losses.Dice(axis=(1,)),
    "in a list": ["mse"],
}
OTHERS = {
    "function": my_own_mean_squared_error,
    "lambda": lambda y, p: tf.reduce_mean(tf.abs(y - p), -1),
    "subclass": Pinball(),
    "subclass of Loss": ItsOwnCall(),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_keras_own_elementwise_losses_are_told_however_they_are_given(name):
    model = _model(lambda x: _flat(x, N), ELEMENTWISE[name])
    with pytest.raises(
        ValueError, match=r"y: shape \(\w+, 1\), but the output has shape \(\w+, 8\)"
    ):
        model.fit(X, X[:, 0, :1], verbose=0)


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_are_left_alone(name):
    """A function named like Keras' own is a function like any other."""
    y = X[:, 0, :1]
    plain, ours = (
        _model(lambda x: _flat(x, 3), OTHERS[name], cls).fit(X, y, shuffle=False, verbose=0)
        for cls in (keras.Model, bigmodels.Model)
    )
    assert ours.history == plain.history


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        losses.sparse_categorical_crossentropy,
        losses.SparseCategoricalCrossentropy(name="xent"),
        [losses.SparseCategoricalCrossentropy()],
        "crossentropy",
    ],
)
def test_class_numbers_may_be_a_column(loss):
    y = np.arange(N)[:, None] % 3
    plain, ours = (
        _model(lambda x: layers.Softmax()(_flat(x, 3)), loss, cls).evaluate(X, y, verbose=0)
        for cls in (keras.Model, bigmodels.Model)
    )
    assert ours == plain


SEQUENCE = layers.Dense(1, name="s")
RANKS = {
    "(n,) (n, 1)": ((N,), lambda x: _flat(x, 1), True),
    "(n, 1) (n, 1)": ((N, 1), lambda x: _flat(x, 1), True),
    "(n, t) (n, t, 1)": ((N, T), SEQUENCE, True),
    "(n, t, 1) (n, t)": ((N, T, 1), lambda x: _flat(x, T), True),
    "(n,) (n, t, 1)": ((N,), SEQUENCE, False),
    "(n, 1) (n, t, 1)": ((N, 1), SEQUENCE, False),
    "(n, 1, 1) (n, t, 1)": ((N, 1, 1), SEQUENCE, False),
    "(n, t) (n, t, 3)": ((N, T), layers.Dense(3), False),
    "(n,) (n, n)": ((N,), lambda x: _flat(x, N), False),
    "(n, 1) (n, 2, 2, 3)": ((N, 1), lambda x: layers.Reshape((2, 2, 3))(_flat(x, 12)), False),
    "(n, 2) (n,)": ((N, 2), lambda x: layers.Reshape(())(_flat(x, 1)), False),
}


@pytest.mark.parametrize("unknown", [False, True], ids=["shape known", "shape unknown"])
@pytest.mark.parametrize("name", RANKS)
def test_targets_of_every_rank(name, unknown):
    """Only a last axis of one may be missing, whether shapes are known while tracing or not."""
    shape, outputs, fits = RANKS[name]
    y = np.random.default_rng(1).normal(size=shape).astype("float32")
    data = tf.data.Dataset.from_tensors((X, y))
    if unknown and len(shape) > 1:
        # Of a last axis that is not known, Keras does not know that it is one, either.
        known = [None] * (len(shape) - 1) + [shape[-1] if shape[-1] == 1 else None]
        data = data.map(lambda x, y: (x, tf.ensure_shape(tf.py_function(lambda v: v, [y], y.dtype),
                                                         known)))  # fmt: skip
    model = _model(outputs, "mse")
    if not fits:
        with pytest.raises(ValueError, match=r"^y: shape .*, but the output has shape "):
            model.evaluate(data, verbose=0)
        return
    reference = _model(outputs, "mse", keras.Model).evaluate(data, verbose=0)
    assert model.evaluate(data, verbose=0) == reference
    error = model.predict(X, verbose=0).reshape(N, -1) - y.reshape(N, -1)
    np.testing.assert_allclose(reference, np.mean(error**2), rtol=1e-5)


def _two(x):
    return {"a": _flat(x, 4), "b": _flat(x, 1)}


NESTED = {
    "one loss for all": (_two, "mse", lambda a, b: {"a": a, "b": b}, "y['a']"),
    "dict": (_two, {"a": "mse", "b": "mae"}, lambda a, b: {"a": a, "b": b}, "y['a']"),
    "list": (lambda x: [*_two(x).values()], ["mse", "mae"], lambda a, b: [a, b], "y[0]"),
    "dict of dicts": (
        lambda x: {"p": {"a": _flat(x, 4)}, "q": {"b": _flat(x, 1)}},
        {"p": {"a": losses.MeanSquaredError()}, "q": {"b": "mae"}},
        lambda a, b: {"p": {"a": a}, "q": {"b": b}},
        "y['p']['a']",
    ),
    "named outputs": (
        lambda x: [_flat(x, 4, "a"), _flat(x, 1, "b")],
        {"a": "mse", "b": "mae"},
        lambda a, b: {"a": a, "b": b},
        "y[0]",
    ),
    "one of two": (
        lambda x: [_flat(x, 4, "a"), _flat(x, 1, "b")],
        ["mse", None],
        lambda a, b: [a, b],
        "y[0]",
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_targets_of_every_output(name):
    outputs, loss, pack, where = NESTED[name]
    narrow, wide = X[:, 0, :1], np.ones((N, 4), "float32")
    found = []
    for cls in (keras.Model, bigmodels.Model):
        model = _model(outputs, loss, cls)
        found.append(model.evaluate(X, pack(wide, narrow), verbose=0))
    assert found[0] == found[1]
    model = _model(outputs, loss)
    for method in (model.evaluate, model.fit):
        with pytest.raises(ValueError) as error:
            method(X, pack(narrow, narrow), verbose=0)
        assert f"{where}: shape (None, 1), but the output has shape (None, 4)" in str(error.value)


def test_eager_steps_are_checked_too():
    model = _model(SEQUENCE, "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"y: shape \(\w+, 1\), but the output"):
        model.fit(X, X[:, 0, :1], verbose=0)


def test_replicas_refuse_the_same():
    with _mirrored(2).scope():
        model = _model(lambda x: [_flat(x, 4), SEQUENCE(x)], ["mse", "mse"])
    ones = np.ones((N, 4), "float32")
    for _ in range(2):  # Also when the losses are built.
        with pytest.raises(ValueError, match=r"y\[1\]: shape \(.*1\), but the output has shape"):
            model.fit(X, [ones, X[:, 0, :1]], verbose=0)
    assert model.fit(X, [ones, X[..., 0]], verbose=0).epoch == [0]


OF_PROBABILITIES = [
    "categorical_crossentropy",
    "SparseCategoricalCrossentropy",
    "crossentropy",
    "kl_divergence",
    losses.sparse_categorical_crossentropy,
    losses.categorical_focal_crossentropy,
    functools.partial(losses.binary_crossentropy, label_smoothing=0.1),
    losses.BinaryCrossentropy,
    losses.CategoricalCrossentropy(name="mine"),
    losses.BinaryFocalCrossentropy(),
    losses.CategoricalGeneralizedCrossEntropy(),
    bigmodels.losses.SparseCategoricalCrossentropy(name="mine"),
    [losses.SparseCategoricalCrossentropy(name="mine")],
    {"logits": "sparse_categorical_crossentropy"},
]


@pytest.mark.parametrize("loss", OF_PROBABILITIES, ids=str)
def test_losses_of_probabilities_are_refused_for_logits(loss):
    model = CNN(3, (2,), dense_units=4)
    model.compile("sgd", loss)
    message = r"loss: '\w+' takes probabilities, but CNN gives logits; use keras.losses.\w+\(from_"
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            method(np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, "int32"), verbose=0)


class OfLogits(losses.CategoricalCrossentropy):
    """Its `call` may do anything: it says nothing of `from_logits`."""

    def call(self, y_true, y_pred):
        return tf.nn.softmax_cross_entropy_with_logits(y_true, y_pred)


def my_crossentropy(y_true, y_pred):
    return tf.nn.softmax_cross_entropy_with_logits(y_true, y_pred)


@pytest.mark.parametrize(
    "loss",
    [
        my_crossentropy,
        OfLogits(),
        losses.CategoricalCrossentropy(from_logits=True, name="categorical_crossentropy"),
        functools.partial(losses.categorical_crossentropy, from_logits=True),
    ],
)
def test_losses_of_logits_are_not(loss):
    model = CNN(3, (2,), dense_units=4)
    model.compile("sgd", loss)
    x, y = np.zeros((4, 8, 8, 1), "float32"), np.eye(4, 3, dtype="float32")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    "loss",
    [
        losses.SparseCategoricalCrossentropy(from_logits=True, name="ce"),
        [bigmodels.losses.SparseCategoricalCrossentropy(from_logits=True)],
        functools.partial(losses.sparse_categorical_crossentropy, from_logits=True),
    ],
)
def test_labels_are_checked_whatever_the_loss_is_called(loss):
    model = RNN(4, 4, 4)
    model.compile("sgd", loss)
    tokens = np.ones((N, T), "int32")
    with pytest.raises(ValueError, match="y: element 0 holds 5, expected finite values from 0"):
        model.fit(tokens, tokens + 4, verbose=0)


def test_generalised_cross_entropy_of_a_column_is_broadcast():
    loss = losses.CategoricalGeneralizedCrossEntropy()
    y = np.arange(N) % 3
    assert _model(lambda x: layers.Softmax()(_flat(x, 3)), loss).evaluate(X, y, verbose=0) > 0
    model = _model(lambda x: layers.Softmax()(_flat(x, 3)), loss)
    with pytest.raises(
        ValueError, match=r"y: shape \(\w+, 1\), but the output has shape \(\w+, 3\)"
    ):
        model.evaluate(X, y[:, None], verbose=0)
    # What is refused: eight losses a row.
    assert loss.call(tf.constant(y)[:, None], tf.ones((N, 3)) / 3).shape == (N, N)
