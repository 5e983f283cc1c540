"""Bad input is refused by name, from memory and from a stream, before it is trained on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels
from bigmodels import checks
from bigmodels.models import CNN, RNN

GOOD_X = np.linspace(0, 1, 40 * 8 * 8).reshape(40, 8, 8, 1).astype("float32")
GOOD_Y = np.arange(40) % 3


def _with(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD_IMAGES = {
    "nan": (_with(GOOD_X, 33, np.nan), GOOD_Y, r"element (33|1) holds nan"),
    "infinity": (_with(GOOD_X, 33, -np.inf), GOOD_Y, r"element (33|1) holds -inf"),
    "uint8": ((GOOD_X * 255).astype("uint8"), GOOD_Y, "dtype uint8, expected float"),
    "unscaled": (GOOD_X * 255, GOOD_Y, r"expected finite values from -16 to 16.*x / 255"),
    "rank": (GOOD_X[..., 0], GOOD_Y, r"shape \((40|None), 8, 8\), expected"),
    "channels": (np.repeat(GOOD_X, 3, -1), GOOD_Y, r"shape .*8, 8, 3\), expected"),
    "label too large": (GOOD_X, _with(GOOD_Y, 35, 3), r"element (35|3) holds 3, .*from 0 to 2"),
    "label negative": (GOOD_X, _with(GOOD_Y, 2, -1), r"element 2 holds -1"),
    "float labels": (GOOD_X, GOOD_Y.astype("float32"), "dtype float32, expected int"),
    "wide labels": (GOOD_X, np.zeros((40, 3), "int64"), r"shape .*3\), expected"),
    "empty": (GOOD_X[:0], GOOD_Y[:0], "the data set is empty"),
}


def _cnn():
    model = CNN(3, (2,), dense_units=4)
    model.build((None, 8, 8, 1))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "tf.data"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images(name, stream):
    x, y, message = BAD_IMAGES[name]
    model = _cnn()
    before = [v.numpy() for v in model.trainable_variables]
    # One batch first sees elements 0..31: the bad element of the second must not be trained on,
    # and from arrays nothing is trained at all.
    data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(32),) if stream else (x, y)
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0)
    if not stream:
        for a, b in zip(before, model.trainable_variables, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        model.evaluate(*data, verbose=0)
    with pytest.raises(ValueError, match=message):
        good = (GOOD_X, GOOD_Y)
        model.fit(*good, validation_data=data[0] if stream else data, verbose=0)


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "tf.data"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (12, r"element 3 holds 12, expected finite values from 0 to 11"),
        (-1, r"element 3 holds -1"),
    ],
)
def test_tokens(value, message, stream):
    model = RNN(12, 4, 4)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = np.ones((8, 5), "int32")
    bad = _with(tokens, (3, 2), value)
    for pair in ((bad, tokens), (tokens, bad)):
        data = (tf.data.Dataset.from_tensor_slices(pair).batch(8),) if stream else pair
        with pytest.raises(ValueError, match=message):
            model.fit(*data, verbose=0)
    with pytest.raises(ValueError, match="dtype float32, expected int"):
        model.fit(tokens.astype("float32"), tokens, verbose=0)


def test_predict_refuses_too():
    model = _cnn()
    with pytest.raises(ValueError, match="x: element 33 holds nan"):
        model.predict(BAD_IMAGES["nan"][0], verbose=0)
    nothing = tf.data.Dataset.from_tensor_slices(GOOD_X).filter(lambda x: False).batch(4)
    with pytest.raises(ValueError, match="x: the data set is empty"):
        model.predict(nothing, verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_empty_sets_of_unknown_length():
    nothing = tf.data.Dataset.from_tensor_slices((GOOD_X, GOOD_Y)).filter(lambda x, y: False)
    for method in ("fit", "evaluate"):
        with pytest.raises(ValueError, match="x: the data set is empty"):
            getattr(_cnn(), method)(nothing.batch(4), verbose=0)


def test_more_steps_than_batches():
    data = tf.data.Dataset.from_tensor_slices((GOOD_X, GOOD_Y)).batch(8)
    with pytest.raises(ValueError, match="steps_per_epoch: 6, but x has 5 batches"):
        _cnn().fit(data, steps_per_epoch=6, verbose=0)
    assert _cnn().fit(data.repeat(), steps_per_epoch=6, verbose=0).epoch == [0]


def test_targets_that_would_be_broadcast():
    inputs = keras.Input((4,))
    model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x = np.zeros((8, 4), "float32")
    with pytest.raises(ValueError, match=r"y: shape \(.*3\), but the output has shape"):
        model.fit(x, np.zeros((8, 3), "float32"), verbose=0)
    assert model.fit(x, np.zeros(8, "float32"), verbose=0).epoch == [0]


def test_a_users_own_model_refuses_nan():
    inputs = keras.Input((4,))
    model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, y = np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
    with pytest.raises(ValueError, match="y: element 5 holds inf"):
        model.fit(x, _with(y, 5, np.inf), verbose=0)
    with pytest.raises(ValueError, match="x: element 6 holds nan"):
        model.fit(_with(x, 6, np.nan), y, verbose=0)


def test_elements_beyond_the_first_chunk_are_counted_right():
    x = np.zeros(10_000, "float32")
    x[9_000] = np.nan
    with pytest.raises(ValueError, match="x: element 9000 holds nan"):
        checks.check_array("x", x, checks.Spec())


def test_good_input_passes_unchanged():
    data = tf.data.Dataset.from_tensor_slices((GOOD_X, GOOD_Y)).batch(16)
    guarded = checks.guard(data, "x", _cnn().data_specs())
    assert guarded.cardinality() == data.cardinality()
    for a, b in zip(data, guarded, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("asked", [None, True, False])
def test_pipelines_are_tuned_only_if_asked(asked):
    """What tunes them may keep `fit` from returning; whoever wants it says so."""
    dataset = tf.data.Dataset.from_tensors(np.zeros((2, 3), "float32"))
    if asked is not None:
        options = tf.data.Options()
        options.autotune.enabled = asked
        dataset = dataset.with_options(options)
    for specs in (checks.Spec(), None):
        guarded = checks.guard(dataset, "x", specs)
        assert guarded.options().autotune.enabled is bool(asked)


def test_what_looks_at_a_pipeline_is_traced_once(monkeypatch):
    """Tracing it in each `fit` anew was a twentieth of one; shapes may be lists, as files have."""
    traced = []
    monkeypatch.setattr(checks, "_good", lambda *args: traced.append(1) or tf.ones((2, 5), "bool"))
    batches = tf.data.Dataset.from_tensors(tf.zeros((2, 5)))
    for name in ("traced", "traced", "another"):
        checks.guard(batches, name, checks.Spec("float", [5], -3.0, 5.0))
    assert len(traced) == 4  # For each name: of the whole, and of what is wrong in it.
