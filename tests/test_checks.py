"""Bad input, from memory and from a stream, is refused by name before it is trained on."""

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
from keras import layers

import bigmodels
from bigmodels import checks
from bigmodels.models import CNN, RNN, Seq2SeqTransformer, Transformer

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
    # The bad element is in the second batch of a stream, after the first has been trained on. With
    # arrays nothing is trained at all.
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


def test_elements_beyond_the_first_chunk_have_the_right_index():
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
    """Autotuning can keep `fit` from returning, so it is on only if the options ask for it."""
    dataset = tf.data.Dataset.from_tensors(np.zeros((2, 3), "float32"))
    if asked is not None:
        options = tf.data.Options()
        options.autotune.enabled = asked
        dataset = dataset.with_options(options)
    for specs in (checks.Spec(), None):
        guarded = checks.guard(dataset, "x", specs)
        assert guarded.options().autotune.enabled is bool(asked)


def test_the_checks_of_a_pipeline_are_traced_once(monkeypatch):
    """Tracing in every `fit` took a twentieth of its time. Shapes loaded from files are lists."""
    traced = []
    monkeypatch.setattr(checks, "_good", lambda *args: traced.append(1) or tf.ones((2, 5), "bool"))
    batches = tf.data.Dataset.from_tensors(tf.zeros((2, 5)))
    for name in ("traced", "traced", "another"):
        checks.guard(batches, name, checks.Spec("float", [5], -3.0, 5.0))
    assert len(traced) == 4  # For each name: one for the check, one for the message.


X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = X[:, :1].copy()
NAN_X, NAN_Y, NAN_WEIGHTS = _with(X, (5, 1), np.nan), _with(Y, 5, np.nan), _with(X[:, 0], 5, np.nan)


class Batches(keras.utils.PyDataset):
    """Batches of two rows, in order."""

    def __init__(self, *parts, **kwargs):
        super().__init__(**kwargs)
        self.parts, self.asked, self.begun, self.ended = parts, [], 0, 0

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.asked.append(i)
        return keras.tree.map_structure(lambda part: part[2 * i : 2 * i + 2], self.parts)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def _generator(*parts):
    batches = Batches(*parts)
    return (batches[i] for i in range(len(batches)))


def _stream(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(2)


STREAMS = {"tf.data": _stream, "generator": _generator, "PyDataset": Batches}


def _linear(cls=bigmodels.Model, sparse=False):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), sparse=sparse)
    model = cls(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model


NESTS = {
    "dict": lambda a, b: {"a": a, "b": b},
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dict of a list": lambda a, b: {"a": [a], "b": b},
}
PLACES = {
    "dict": ("['a']", ", a"),
    "list": ("[0]", ", 0"),
    "tuple": ("[0]", ", 0"),
    "dict of a list": ("['a'][0]", ", a, 0"),
}


def _nested(nest):
    inputs = NESTS[nest](keras.Input((3,), name="a"), keras.Input((3,), name="b"))
    model = bigmodels.Model(inputs, layers.Dense(1)(layers.Add()(keras.tree.flatten(inputs))))
    model.compile("sgd", "mse")
    return model


RAN_OUT = pytest.mark.filterwarnings("ignore:Your input ran out of data")


@RAN_OUT  # Keras warns about every generator.
@pytest.mark.parametrize(
    ("nest", "kind"),
    [
        ("dict", "arrays"),
        ("list", "arrays"),
        ("dict of a list", "arrays"),
        ("tuple", "tf.data"),
        ("dict", "generator"),
        ("tuple", "PyDataset"),
    ],
)
def test_nested_inputs(nest, kind):
    good, bad = NESTS[nest](X, X), NESTS[nest](NAN_X, X)
    in_memory, streamed = PLACES[nest]
    name = f"x{in_memory}: " if kind == "arrays" else f"x (inputs{streamed}): batch 2, "
    message = f"{name}element {5 if kind == 'arrays' else 1} holds nan, expected finite values."
    give = (lambda x, y: (x, y)) if kind == "arrays" else lambda x, y: (STREAMS[kind](x, y),)
    model = _nested(nest)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        model.fit(*give(bad, Y), shuffle=False, verbose=0)
    assert str(error.value) == message
    if kind == "arrays":
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isfinite(model.get_weights()[0]).all()
    assert np.isfinite(model.fit(*give(good, Y), verbose=0).history["loss"]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ((NAN_X, Y), "inputs"),
        ((X, NAN_Y), "targets"),
        ((X, Y, NAN_WEIGHTS), "sample weights"),
    ],
    ids=["x", "y", "sample_weight"],
)
def test_every_part_of_a_stream(kind, parts, where):
    message = rf"x \({where}\): batch 2, element 1 holds nan"
    with pytest.raises(ValueError, match=message):
        _linear().fit(STREAMS[kind](*parts), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=message):
        _linear().evaluate(STREAMS[kind](*parts), verbose=0)
    message = message.replace("x", "validation_data", 1)
    for data in (STREAMS[kind](*parts), parts):
        if data is parts:
            message = r"validation_data\[\d\]: element 5 holds nan"
        with pytest.raises(ValueError, match=message):
            _linear().fit(X, Y, validation_data=data, verbose=0)
    if where == "inputs":
        with pytest.raises(ValueError, match=r"x( \(inputs\))?: batch 2, element 1 holds nan"):
            _linear().predict(STREAMS[kind](parts[0]), verbose=0)


def test_sample_weights_in_memory():
    for method in (_linear().fit, _linear().evaluate):
        with pytest.raises(ValueError, match="sample_weight: element 5 holds nan"):
            method(X, Y, sample_weight=NAN_WEIGHTS, verbose=0)
    with pytest.raises(ValueError, match="class_weight: class 1 has weight nan"):
        _linear().fit(X, Y, class_weight={0: 1.0, 1: np.nan}, verbose=0)


def _ragged(values):
    lengths = [1, 2, 1, 2, 1, 2, 1, 2]
    return tf.RaggedTensor.from_row_lengths(values, lengths)


KINDS = {
    "DataFrame": pd.DataFrame,
    "DataFrame with an index": lambda x: pd.DataFrame(x, [f"r{i}" for i in range(8)], list("abc")),
    "csr_matrix": scipy.sparse.csr_matrix,
    "coo_array": scipy.sparse.coo_array,
    "SparseTensor": tf.sparse.from_dense,
    "Tensor": tf.constant,
    "Variable": tf.Variable,
    "keras.Variable": keras.Variable,
    "float64": lambda x: x.astype("float64"),
    "float16": lambda x: x.astype("float16"),
    "matrix": np.asmatrix,
    "masked array without a mask": np.ma.masked_array,
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array(kind):
    """Training equals that of Keras, except that NaN is refused."""
    give = KINDS[kind]
    sparse = "Sparse" in kind or "_" in kind
    plain, ours = (
        _linear(cls, sparse).fit(give(X), Y, shuffle=False, verbose=0).history
        for cls in (keras.Model, bigmodels.Model)
    )
    assert ours == plain
    model = _linear(sparse=sparse)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"^x: element 5 holds nan"):
            method(give(NAN_X), Y, verbose=0)
    with pytest.raises(ValueError, match=r"^x: element 5 holds nan"):
        model.predict(give(NAN_X), verbose=0)
    assert model.predict(give(X), verbose=0).shape == (8, 1)


def test_a_frame_names_the_row_and_the_column():
    frame = KINDS["DataFrame with an index"](NAN_X)
    message = r"x: element 5 holds nan \(row 'r5', column 'b'\), expected finite values"
    with pytest.raises(ValueError, match=message):
        _linear().fit(frame, Y, verbose=0)
    with pytest.raises(ValueError, match=r"y: element 5 holds nan \(row 5\)"):
        _linear().fit(X, pd.Series(NAN_Y[:, 0]), verbose=0)
    frame = pd.DataFrame(np.arange(24).reshape(8, 3)).astype("Int64")
    frame.iloc[4, 2] = pd.NA
    with pytest.raises(ValueError, match=r"x: element 4 holds <NA> \(row 4, column 2\)"):
        _linear().fit(frame, Y, verbose=0)


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "tf.data"])
def test_ragged_tensors(stream):
    def fit(cls, values):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None, 2))
        model = cls(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(inputs)))
        model.compile("sgd", "mse")
        data = (_stream(_ragged(values), Y),) if stream else (_ragged(values), Y)
        return model.fit(*data, shuffle=False, verbose=0).history

    values = np.random.default_rng(1).normal(size=(12, 2)).astype("float32")
    assert fit(bigmodels.Model, values) == fit(keras.Model, values)
    message = "x (inputs): batch 2, element 0" if stream else "x: element 4"
    with pytest.raises(ValueError) as error:
        fit(bigmodels.Model, _with(values, (6, 1), np.inf))  # The only row of element 4.
    assert str(error.value).startswith(f"{message} holds inf")


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "tf.data"])
def test_sparse_tensors_count_rows_not_stored_values(stream):
    x = tf.sparse.from_dense(_with(np.eye(8, 3, dtype="float32"), (6, 2), np.nan))
    data = (_stream(x, Y),) if stream else (x, Y)
    message = "batch 3, element 0 holds nan" if stream else "x: element 6 holds nan"
    with pytest.raises(ValueError, match=message):
        _linear(sparse=True).fit(*data, verbose=0)


HOSTILE = {
    "masked": (np.ma.masked_array(X, X > 1), r"x: element \d is masked \(\d values in all\)"),
    "object": (X.astype(object), r"x: dtype object \(values of float\), expected numbers"),
    "None": (_with(X.astype(object), (2, 2), None), r"dtype object \(values of NoneType, float\)"),
    "flags beside numbers": (
        pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2] > 0}),
        r"x: dtype object \(values of bool, float\)",
    ),
    "dates": (np.zeros((8, 3), "datetime64[D]"), r"x: dtype datetime64\[D\], expected numbers"),
    "complex": (_with(X, (5, 1), np.nan).astype("complex64"), r"x: element 5 holds \(nan,"),
    "beyond float32": (
        _with(X.astype("float64"), (5, 1), 1e39),
        r"x: element 5 holds inf, .*float32",
    ),
    "no rows": ({"a": X, "b": X[:0]}, r"x\['b'\]: the data set is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_arrays_that_tensorflow_misreads_are_refused(name):
    x, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        _linear().fit(x, Y, verbose=0)


@pytest.mark.thorough
def test_words_pass():
    layer = layers.StringLookup(vocabulary=["a", "b"])
    inputs = keras.Input((), dtype="string")
    model = bigmodels.Model(inputs, layers.Embedding(3, 1)(layer(inputs)))
    model.compile("sgd", "mse")
    words = np.array(["a", "b", "c", "a"], dtype=object)
    assert np.isfinite(model.fit(words, np.ones((4, 1)), verbose=0).history["loss"]).all()


def test_as_many_batches_are_drawn_as_keras_draws():
    drawn = []
    for cls in (keras.Model, bigmodels.Model):
        numbers = []

        def batches(numbers=numbers):
            for i in range(1000):
                numbers.append(i)
                yield X, Y

        data = batches()
        history = _linear(cls).fit(data, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
        # TensorFlow may prefetch more.
        drawn.append((history.history, numbers[:6], len(numbers) < 50))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_py_dataset_is_used_as_keras_uses_it(workers):
    found = []
    for cls in (keras.Model, bigmodels.Model):
        data, validation = Batches(X, Y, workers=workers), Batches(X, Y)
        history = _linear(cls).fit(data, validation_data=validation, epochs=2, verbose=0)
        epochs = data.begun, data.ended
        found.append((history.history, sorted(data.asked), epochs, validation.asked))
    assert found[0] == found[1]


@RAN_OUT
def test_generators_train_as_in_keras():
    found = []
    for cls in (keras.Model, bigmodels.Model):
        model = _linear(cls)
        history = model.fit(_generator(X, Y, X[:, 0]), shuffle=False, verbose=0).history
        predicted = model.predict(_generator(X), verbose=0)
        found.append((history, model.evaluate(_generator(X, Y), verbose=0), predicted.tolist()))
    assert found[0] == found[1]


@RAN_OUT
@pytest.mark.parametrize(
    "kind",
    [
        "generator",
        *(pytest.param(k, marks=pytest.mark.thorough) for k in ("arrays", "tf.data", "PyDataset")),
    ],
)
@pytest.mark.thorough
def test_a_model_of_a_dict_trains_on_every_kind(kind):
    model = Seq2SeqTransformer(12, 4, 1, 4, 0.0, max_length=8)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids = np.ones((8, 5), "int32")
    give = (lambda *data: data) if kind == "arrays" else lambda *data: (STREAMS[kind](*data),)
    good = {"source": ids, "target": ids}
    assert np.isfinite(model.fit(*give(good, ids), verbose=0).history["loss"]).all()
    assert np.isfinite(model.evaluate(*give(good, ids), verbose=0))
    assert model.predict(*give(good), verbose=0).shape == (8, 5, 12)
    with pytest.raises(ValueError, match=r"source.*holds 12, expected finite values from 0 to 11"):
        model.fit(*give({"source": _with(ids, (5, 0), 12), "target": ids}, ids), verbose=0)
    with pytest.raises(ValueError, match=r"expected a dict of \['source', 'target'\]"):
        model.fit(*give({"source": ids}, ids), verbose=0)


@pytest.mark.parametrize(
    ("dtype", "spec", "good", "bad"),
    [
        ("uint8", checks.Spec("int", None, 0, 299), 255, None),
        ("uint8", checks.Spec("int", None, -5, 256), 0, None),
        ("uint8", checks.Spec("int", None, 0, 254.5), 254, 255),
        ("uint8", checks.Spec("int", None, 300, 400), None, 255),
        ("int8", checks.Spec("int", None, 0, 199), 127, -1),
        ("int8", checks.Spec("int", None, -200, -150), None, -128),
        ("uint64", checks.Spec("int", None, 0, 2**63), 2**63, 2**63 + 1),
        ("int64", checks.Spec("int", None, -(2**60), 2**60), -(2**60), -(2**60) - 1),
        ("int32", checks.Spec("int", None, 0, 2**40), 2**31 - 1, -1),
        ("float16", checks.Spec("float", None, 0, 70000), 65504, np.inf),
        ("float16", checks.Spec("float", None, 0, 70000), 0, np.nan),
        ("float16", checks.Spec("float", None, -1, 2051), 2050, 2052),
        ("float32", checks.Spec("float", None, 0, 2**24 + 1), 2**24, 2**24 + 2),
        ("float32", checks.Spec("float", None, None, 1e39), 3e38, np.inf),
        ("float32", checks.Spec("float", None, -np.inf, 1), -3e38, -np.inf),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "tf.data"])
def test_limits_outside_the_dtype_s_range(dtype, spec, good, bad, stream):
    def check(value):
        array = np.full((2, 3), value, dtype)
        if not stream:
            return checks.check_array("x", array, spec)
        with checks.readable_errors():
            return list(checks.guard(tf.data.Dataset.from_tensors(array), "x", spec))

    if good is not None:
        check(good)
    if bad is not None:
        with pytest.raises(ValueError, match=r"x: (batch 0, )?element 0 holds"):
            check(bad)


@pytest.mark.thorough
def test_narrow_tokens_and_labels_train():
    tokens = np.random.default_rng(0).integers(1, 256, (8, 7))
    model = Transformer(300, 8, 2, 8, 0.0, max_length=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    found = [
        model.fit(tokens[:, :-1].astype(dtype), tokens[:, 1:].astype(dtype), verbose=0).history
        for dtype in ("int32", "uint8")
    ]
    np.testing.assert_allclose(found[0]["loss"], found[1]["loss"], rtol=1e-6)
    model = CNN(200, (2,), dense_units=4)
    model.compile("sgd", loss)
    labels = np.arange(8, dtype="int8") + 100
    model.fit(np.zeros((8, 8, 8, 1), "float32"), labels, verbose=0)


def test_batches_are_not_checked_on_the_gpu(monkeypatch):
    """A `tf.function` in a pipeline would run on the GPU, in between the steps."""
    monkeypatch.setattr(tf, "function", None)
    data = tf.data.Dataset.from_tensors((GOOD_X, GOOD_Y))
    checks.guard(data, "x", (checks.Spec("float"), checks.Spec("int", (), 0, 2)))


def test_checks_of_a_data_set_are_traced_once():
    data = tf.data.Dataset.from_tensors((GOOD_X, GOOD_Y))
    labels = checks.Spec("int", (), 0, 2), checks.Spec("int", (), 0, 3)
    guarded = [
        checks.guard(data, "x", (checks.Spec("float"), spec)) for spec in (*labels, labels[0])
    ]
    assert guarded[0] is guarded[2] is not guarded[1]


def test_an_empty_part_does_not_hide_a_fault_in_another():
    empty = tf.RaggedTensor.from_row_lengths(tf.zeros([0], "int32"), [0, 0])
    data = tf.data.Dataset.from_tensors((empty, tf.constant([1, 7])))
    guarded = checks.guard(
        data, "x", (checks.Spec("int", None, 1, 5), checks.Spec("int", (), 0, 5))
    )
    with pytest.raises(ValueError, match=r"targets\): batch 0, element 1 holds 7"):
        with checks.readable_errors():
            next(iter(guarded))
