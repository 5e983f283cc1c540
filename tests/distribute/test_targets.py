"""Keras' losses are recognised by identity; targets they would broadcast are refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses
from keras.src.losses.losses import LossFunctionWrapper

import bigmodels
from bigmodels.distribute import targets as target_checks
from bigmodels.models import CNN, RNN
from tests.distribute.test_exactness import _mirrored

N, T = 8, 5
X = np.random.default_rng(0).normal(size=(N, T, 3)).astype("float32")


def my_own_mean_squared_error(y, p):
    return tf.reduce_mean(tf.square(y - p), -1)


class Pinball(losses.MeanSquaredError):
    """A user's own computation in a subclass of a Keras loss."""

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
def test_keras_elementwise_losses_are_recognised_in_every_form(name):
    model = _model(lambda x: _flat(x, N), ELEMENTWISE[name])
    with pytest.raises(
        ValueError, match=r"y: shape \(\w+, 1\), but the output has shape \(\w+, 8\)"
    ):
        model.fit(X, X[:, 0, :1], verbose=0)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.thorough
def test_other_losses_are_left_alone(name):
    """A user's function that has the name of one of Keras."""
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
@pytest.mark.thorough
def test_targets_of_every_rank(name, unknown):
    """Only a last axis of size one may be missing, also if shapes are unknown while tracing."""
    shape, outputs, fits = RANKS[name]
    y = np.random.default_rng(1).normal(size=shape).astype("float32")
    data = tf.data.Dataset.from_tensors((X, y))
    if unknown and len(shape) > 1:
        # If the size of the last axis is unknown, Keras does not squeeze it either.
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
@pytest.mark.thorough
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
    for _ in range(2):  # The second time the losses are built already.
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


@pytest.mark.parametrize("loss", OF_PROBABILITIES, ids=range(len(OF_PROBABILITIES)))
def test_losses_of_probabilities_are_refused_for_logits(loss):
    model = CNN(3, (2,), dense_units=4)
    model.compile("sgd", loss)
    message = r"loss: '\w+' takes probabilities, but CNN outputs logits; use keras.losses.\w+\(f"
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            method(np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, "int32"), verbose=0)


class OfLogits(losses.CategoricalCrossentropy):
    """Its `call` may compute anything, so `from_logits` is ignored."""

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
    # The refused case: eight losses per row.
    assert loss.call(tf.constant(y)[:, None], tf.ones((N, 3)) / 3).shape == (N, N)


# Weights. Losses differ a lot from step to step, so that weights along time change the result.

CLASSES, ROW_WEIGHTS = 4, np.array([0, 1, 0.5, 2, 0, 1, 3, 0.25], "float32")
CLASS_WEIGHTS = {0: 0.0, 1: 2.0, 3: 0.5}  # Other classes have weight 1.
SQUARE = np.random.default_rng(2).normal(size=(N, N, 3)).astype("float32")
SQUARE_Y = np.random.default_rng(3).integers(0, CLASSES, (N, N))
MASKED = SQUARE.copy()
for _row, _length in enumerate([8, 3, 5, 1, 8, 2, 7, 4]):
    MASKED[_row, _length:] = 0


class OneBatch(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return self.parts


def _tagger(masked, loss=None, cls=bigmodels.Model, **arguments):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((N, 3))
    x = layers.Masking()(inputs) if masked else inputs
    sharp = keras.initializers.RandomNormal(stddev=2.0)
    model = cls(inputs, layers.Dense(CLASSES, kernel_initializer=sharp)(x))
    metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="ce")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True) if loss is None else loss
    metrics = [metric] if isinstance(loss, losses.SparseCategoricalCrossentropy) else None
    model.compile(keras.optimizers.SGD(0.0), loss, weighted_metrics=metrics, **arguments)
    return model


def _expected(x, weights, masked):
    """Loss and metric of the model, computed from their definition."""
    logits = _tagger(False).predict(x, verbose=0).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, SQUARE_Y[..., None], -1)[..., 0]
    mask = (x != 0).any(-1) if masked else np.ones((N, N), bool)
    weights = np.broadcast_to(weights, (N, N)) * mask
    return (nats * weights).sum() / mask.sum(), (nats * weights).sum() / weights.sum()


def _one(*parts):
    return tf.data.Dataset.from_tensors(parts)


TOKEN_WEIGHTS = np.vectorize(lambda c: CLASS_WEIGHTS.get(c, 1.0))(SQUARE_Y)
ALL_WEIGHTS = np.random.default_rng(4).random((N, N)).astype("float32")
WEIGHED = {
    "rows": (ROW_WEIGHTS[:, None], lambda m, x, y: m.fit(x, y, sample_weight=ROW_WEIGHTS)),
    "rows, column": (
        ROW_WEIGHTS[:, None],
        lambda m, x, y: m.fit(x, y, sample_weight=ROW_WEIGHTS[:, None]),
    ),
    "rows, tf.data": (ROW_WEIGHTS[:, None], lambda m, x, y: m.fit(_one(x, y, ROW_WEIGHTS))),
    "rows, generator": (
        ROW_WEIGHTS[:, None],
        lambda m, x, y: m.fit(batch for batch in [(x, y, ROW_WEIGHTS)]),
    ),
    "rows, PyDataset": (ROW_WEIGHTS[:, None], lambda m, x, y: m.fit(OneBatch(x, y, ROW_WEIGHTS))),
    "rows, evaluate": (
        ROW_WEIGHTS[:, None],
        lambda m, x, y: m.evaluate(x, y, sample_weight=ROW_WEIGHTS, return_dict=True),
    ),
    "rows, validation": (
        ROW_WEIGHTS[:, None],
        lambda m, x, y: m.fit(x, y, validation_data=(x, y, ROW_WEIGHTS)),
    ),
    "rows, one batch": (
        ROW_WEIGHTS[:, None],
        lambda m, x, y: m.train_on_batch(x, y, ROW_WEIGHTS, return_dict=True),
    ),
    "elements": (ALL_WEIGHTS, lambda m, x, y: m.fit(x, y, sample_weight=ALL_WEIGHTS)),
    "elements, tf.data": (ALL_WEIGHTS, lambda m, x, y: m.fit(_one(x, y, ALL_WEIGHTS))),
    "classes": (TOKEN_WEIGHTS, lambda m, x, y: m.fit(x, y, class_weight=CLASS_WEIGHTS)),
    "classes, tf.data": (
        TOKEN_WEIGHTS,
        lambda m, x, y: m.fit(_one(x, y), class_weight=CLASS_WEIGHTS),
    ),
    "classes, PyDataset": (
        TOKEN_WEIGHTS,
        lambda m, x, y: m.fit(OneBatch(x, y), class_weight=CLASS_WEIGHTS),
    ),
    "classes, one batch": (
        TOKEN_WEIGHTS,
        lambda m, x, y: m.train_on_batch(x, y, class_weight=CLASS_WEIGHTS, return_dict=True),
    ),
}


QUICK = ("rows", "classes, tf.data")


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.thorough) for n in WEIGHED]
)
def test_weights_of_sequences(name, masked):
    """There are as many rows as steps, so weights along time have a valid shape."""
    weights, run = WEIGHED[name]
    x = MASKED if masked else SQUARE
    keras.config.disable_interactive_logging()
    try:
        logs = run(_tagger(masked), x, SQUARE_Y)
    finally:
        keras.config.enable_interactive_logging()
    logs = {key: np.ravel(value)[-1] for key, value in getattr(logs, "history", logs).items()}
    prefix = "val_" if "validation" in name else ""
    found = logs[f"{prefix}loss"], logs[f"{prefix}ce"]
    np.testing.assert_allclose(found, _expected(x, weights, masked), rtol=1e-4)


@pytest.mark.thorough
def test_weights_of_sequences_on_replicas():
    for weights, given in (
        (ROW_WEIGHTS[:, None], {"sample_weight": ROW_WEIGHTS}),
        (TOKEN_WEIGHTS, {"class_weight": CLASS_WEIGHTS}),
    ):
        with _mirrored(2).scope():
            model = _tagger(True)
        history = model.fit(MASKED, SQUARE_Y, **given, verbose=0).history
        expected = _expected(MASKED, weights, True)
        np.testing.assert_allclose([history["loss"][0], history["ce"][0]], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, p: tf.square(y[..., None] - p),  # (n, t, classes)
        lambda y, p: tf.reduce_mean(tf.square(y[..., None] - p), (1, 2)),  # (n,)
        losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
    ],
    ids=["a loss each value", "a loss each row", "divided by the weights"],
)
@pytest.mark.thorough
def test_row_weights_apply_to_all_loss_values_of_a_row(loss):
    given = _tagger(False, loss).evaluate(SQUARE, SQUARE_Y, sample_weight=ROW_WEIGHTS, verbose=0)
    alone = [
        np.ravel(_tagger(False, loss).evaluate(SQUARE[i : i + 1], SQUARE_Y[i : i + 1], verbose=0))[
            0
        ]
        for i in range(N)
    ]
    by = ROW_WEIGHTS.sum() if isinstance(loss, losses.Loss) else N
    np.testing.assert_allclose(np.ravel(given)[0], np.dot(alone, ROW_WEIGHTS) / by, rtol=1e-4)


def test_weights_of_images_and_of_several_outputs():
    """Also if only one output is a sequence, and the same weights apply to all outputs."""
    x = np.random.default_rng(6).normal(size=(N, N, N, 2)).astype("float32")
    y = {"map": x[..., 0], "row": x[:, 0, 0, :1]}

    def model(cls=bigmodels.Model):
        keras.utils.set_random_seed(7)
        inputs = keras.Input((N, N, 2))
        row = layers.Dense(1, name="row")(layers.GlobalAveragePooling2D()(inputs))
        model = cls(inputs, {"map": layers.Dense(1, name="map")(inputs), "row": row})
        model.compile("sgd", {"map": "mse", "row": "mae"})
        return model

    predicted = model().predict(x, verbose=0)
    per_map = np.square(predicted["map"][..., 0] - y["map"]).mean((1, 2))
    per_row = np.abs(predicted["row"] - y["row"])[:, 0]
    expected = ((per_map + per_row) * ROW_WEIGHTS).mean()
    each = {"map": ROW_WEIGHTS, "row": ROW_WEIGHTS}
    for data, weights in (
        ((x, y), ROW_WEIGHTS),
        ((x, y), each),
        ((_one(x, y, ROW_WEIGHTS),), None),
    ):
        found = model().evaluate(*data, sample_weight=weights, verbose=0)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def _fit_with_a_loss_around(cls, weights=None):
    """A loss of two outputs together and one of the second output alone; both are sequences."""

    def together(y, output):
        return keras.ops.square(y[0] - output[0]) + keras.ops.square(y[1] - output[1])

    keras.utils.set_random_seed(8)
    inputs = keras.Input((3, 1))
    a, b = layers.Dense(1)(inputs), layers.Dense(1)(inputs)
    model = cls(inputs, {"a": [a, b]})
    model.compile("sgd", {"a": [together, [None, "mse"]]})
    x, y = np.ones((N, 3, 1), "float32"), np.zeros((N, 3, 1))
    return model.fit(x, {"a": [y, y]}, sample_weight=weights, verbose=0).history["loss"]


def test_a_loss_of_nested_outputs_is_left_to_keras():
    expected = _fit_with_a_loss_around(keras.Model)
    np.testing.assert_allclose(_fit_with_a_loss_around(bigmodels.Model), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"sample_weight: .* the losses at \['a'\] and \['a', 1\]"):
        _fit_with_a_loss_around(bigmodels.Model, ROW_WEIGHTS)


def test_weights_that_keras_takes_are_left_to_it():
    """A column of row weights, a scalar loss, and a loss that applies weights itself."""
    flat = np.square(_model(lambda x: _flat(x, N), "mse").predict(X, verbose=0)).mean(-1)
    targets, column = np.zeros((N, N)), ROW_WEIGHTS[:, None]
    found = _model(lambda x: _flat(x, N), "mse").evaluate(X, targets, N, 0, sample_weight=column)
    np.testing.assert_allclose(found, (flat * ROW_WEIGHTS).mean(), rtol=1e-5)

    def one_number(y, output):
        return keras.ops.mean(keras.ops.square(y - output))

    model = _model(lambda x: _flat(x, N), one_number)
    found = model.evaluate(X, targets, N, 0, sample_weight=ROW_WEIGHTS)
    np.testing.assert_allclose(found, (flat.mean() * ROW_WEIGHTS).mean(), rtol=1e-5)

    class Own(losses.Loss):
        def __call__(self, y, output, sample_weight=None):
            assert sample_weight.shape[1:] == (5,)
            return keras.ops.mean(sample_weight) + 0 * keras.ops.mean(output)

    weights = np.full((N, 5), 3, "float32")
    found = _model(lambda x: _flat(x, N), Own()).evaluate(X, targets, N, 0, sample_weight=weights)
    assert found == 3


def test_weights_that_fit_nothing_are_refused():
    model = _model(lambda x: _flat(x, N), "mse")  # One loss per row.
    with pytest.raises(
        ValueError, match=r"sample_weight: shape \(\w+, 8\), .*but the loss has shape"
    ):
        model.fit(X, np.zeros((N, N)), sample_weight=np.ones((N, N)), verbose=0)
    with pytest.raises(
        ValueError, match=r"sample_weight: shape \(\w+, 3\), .*but the loss has shape"
    ):
        _tagger(False).fit(SQUARE, SQUARE_Y, sample_weight=np.ones((N, 3)), verbose=0)


ONE_HOT = np.eye(CLASSES, dtype="float32")[SQUARE_Y]
BITS = (SQUARE_Y > 1).astype("float32")
TARGETS = {
    "one-hot sequences": (ONE_HOT, "categorical_crossentropy", CLASSES, TOKEN_WEIGHTS),
    "a column of steps": (SQUARE_Y[..., None], None, CLASSES, TOKEN_WEIGHTS),
    "bits with an axis": (BITS[..., None], "binary_crossentropy", 1, np.where(BITS > 0, 2.0, 0.0)),
}


class Tagger(bigmodels.Model):
    """Not built before training, with unknown shapes."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)


@pytest.mark.thorough
@pytest.mark.parametrize("functional", [True, False], ids=["functional", "subclassed"])
@pytest.mark.parametrize("name", TARGETS)
def test_class_weights_of_other_sequences(name, functional):
    y, loss, units, weights = TARGETS[name]
    if loss is None:
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        loss = losses.get("".join(part.capitalize() for part in loss.split("_")))
        loss._fn_kwargs["from_logits"] = True

    def model():
        keras.utils.set_random_seed(5)
        inputs = keras.Input((N, 3))
        made = bigmodels.Model(inputs, layers.Dense(units)(inputs)) if functional else Tagger(units)
        made.compile(keras.optimizers.SGD(0.0), loss)
        return made

    expected = model().fit(SQUARE, y, sample_weight=weights, shuffle=False, verbose=0).history
    for data in ((SQUARE, y), (_one(SQUARE, y),)):
        found = model().fit(*data, class_weight=CLASS_WEIGHTS, verbose=0).history
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights_of_rows_are_keras_own(one_hot):
    labels = np.arange(N) % CLASSES
    y = np.eye(CLASSES)[labels] if one_hot else labels
    loss = losses.CategoricalCrossentropy if one_hot else losses.SparseCategoricalCrossentropy
    found = []
    for cls in (keras.Model, bigmodels.Model):
        for data in ((X, y), (_one(X, y),)):
            model = _model(lambda x: _flat(x, CLASSES), loss(from_logits=True), cls)
            arguments = {"validation_split": 0.25} if len(data) == 2 else {}
            history = model.fit(*data, class_weight=CLASS_WEIGHTS, shuffle=False, verbose=0,
                                **arguments).history  # fmt: skip
            found.append(history)
    assert found[:2] == found[2:]


def test_class_weights_that_cannot_be_applied_are_refused():
    model = bigmodels.Model(i := keras.Input((N, 3)), layers.Dense(1)(i))
    model.compile("sgd", losses.BinaryCrossentropy(from_logits=True))
    # Keras takes the mean over the steps here, so single steps have no loss to weight.
    with pytest.raises(ValueError, match=r"which may come from class_weight, but the loss has sh"):
        model.fit(SQUARE, BITS, class_weight=CLASS_WEIGHTS, verbose=0)
    with pytest.raises(ValueError, match="class_weight: the batches of x have sample weights"):
        _tagger(False).fit(_one(SQUARE, SQUARE_Y, ROW_WEIGHTS), class_weight={0: 1.0}, verbose=0)
    with pytest.raises(ValueError, match=r"`class_weight` is not supported for Python generator"):
        batches = (batch for batch in [(SQUARE, SQUARE_Y)])
        _tagger(False).fit(batches, class_weight={0: 1.0}, verbose=0)
    with pytest.raises(ValueError, match=r"cannot .*`class_weight` and `sample_weight`"):
        weights = {"class_weight": {0: 1.0}, "sample_weight": ROW_WEIGHTS}
        _tagger(False).fit(SQUARE, SQUARE_Y, **weights, verbose=0)


def test_class_weights_of_nearly_integer_or_missing_classes():
    given = {0: 2.0, 1: 3.0}
    weights = target_checks.class_weights(np.float32([0.9999999, 2, 0, 7]), given, True)
    np.testing.assert_array_equal(weights, [3, 1, 2, 1])


def test_a_class_weight_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="class_weight: class 1 has weight nan"):
        _tagger(False).fit(SQUARE, SQUARE_Y, class_weight={0: 1.0, 1: np.nan}, verbose=0)
