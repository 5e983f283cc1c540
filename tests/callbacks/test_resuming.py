"""The state that a resumed process gets from a killed one, and the cases that are refused.

The model is as small as possible; `test_backup_and_restore.py` covers optimizers, strategies and
precisions.
"""

import collections
import csv
import dataclasses
import datetime
import enum
import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import callbacks, layers

from bigmodels import distribute
from bigmodels.callbacks import BackupAndRestore
from bigmodels.callbacks.state import Kept, packed, unpacked
from bigmodels.distribute import repeatable
from bigmodels.distribute.variables import named_variables

ROWS, BATCH, EPOCHS = 10, 4, 4  # Three batches per epoch, the last of two rows.
KILLS = [(1, 0), (1, 2), (3, 1)]  # At the beginning of an epoch, and within it.


class _Killed(Exception):
    pass


class _KillAt(callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.where = epoch, batch

    def get_state(self):
        pass

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == self.where:
            raise _Killed


def _cases(cases, cheap):
    """The names of cases; those that are not `cheap` are for the thorough tests only."""
    mark = pytest.mark.thorough
    return [pytest.param(name, marks=[] if name in cheap else mark) for name in cases]


def _rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 3)).astype("float32"), rng.normal(size=(ROWS, 1))


def _model(optimizer="adam", **compile_arguments):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    model = distribute.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(inputs)))
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def _fit(directory, *others, kill=None, model=None, x=None, y=None, options=None, **arguments):
    model = model or _model()
    if x is None:
        x, y = _rows()
        arguments = {"batch_size": BATCH} | arguments
    backup = BackupAndRestore(
        directory, save_freq=1, delete_checkpoint=False, verbose=0, **options or {}
    )
    history = model.fit(
        x,
        y,
        callbacks=[*others, backup, *([_KillAt(*kill)] if kill else [])],
        **({"epochs": EPOCHS, "verbose": 0} | arguments),
    )
    return [w.numpy() for w in model.variables], history.epoch, history.history


def _through(directory, fit, kills=KILLS):
    """The result of a training that is killed several times, each time at another step."""
    for kill in kills:
        with pytest.raises(_Killed):
            fit(directory, kill)
    return fit(directory, None)


def _assert_same(found, wanted):
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[1:] == wanted[1:]


def _sequences(x, y):
    return {"a": x, "b": [x[:, :1]]}, y


def _frames(x, y):
    import pandas as pd

    return pd.DataFrame(x), pd.Series(y[:, 0])


WEIGHTS = np.linspace(0.5, 2, ROWS)
ARRAYS = {
    "as fit does by default": {},
    "within batches": {"shuffle": "batch"},
    "weighted rows": {"sample_weight": WEIGHTS},
    "a part for validation": {"validation_split": 0.1},
    "as many steps as batches": {"steps_per_epoch": 3, "batch_size": None},
    "tensors": {"make": lambda x, y: (tf.constant(x), tf.constant(y))},
    "frames": {"make": _frames},
    "classes": {"make": lambda x, y: (x, (y > 0).astype("int32")), "class_weight": {0: 1, 1: 3}},
}


@pytest.mark.parametrize("name", _cases(ARRAYS, ["as fit does by default"]))
def test_arrays_come_in_the_same_order_again(name, tmp_path):
    arguments = {"batch_size": BATCH} | ARRAYS[name]
    x, y = arguments.pop("make", lambda x, y: (x, y))(*_rows())

    def fit(directory, kill):
        return _fit(directory, kill=kill, x=x, y=y, **arguments)

    wanted = fit(tmp_path / "untouched", None)
    _assert_same(_through(tmp_path / "killed", fit, KILLS[1:]), wanted)


@pytest.mark.thorough
def test_nested_arrays_come_in_the_same_order_again(tmp_path):
    x, y = _sequences(*_rows())

    def fit(directory, kill):
        keras.utils.set_random_seed(3)
        inputs = {"a": keras.Input((3,), name="a"), "b": [keras.Input((1,), name="b")]}
        both = layers.Concatenate()([inputs["a"], *inputs["b"]])
        model = distribute.Model(inputs, layers.Dense(1)(both))
        model.compile("adam", "mse")
        return _fit(directory, kill=kill, model=model, x=x, y=y, batch_size=BATCH)

    wanted = fit(tmp_path / "untouched", None)
    _assert_same(_through(tmp_path / "killed", fit, KILLS[1:2]), wanted)


def test_each_epoch_has_its_own_order_from_the_seed():
    x = np.arange(ROWS)

    def order(seed, epoch, **arguments):
        arrays = repeatable.ShuffledArrays({"x": x, "batch_size": BATCH} | arguments, seed)
        return [list(batch.numpy()) for batch in arrays.of_epoch(epoch)]

    first = order(5, 0)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(sum(first, [])) == list(x) != sum(first, [])
    assert order(5, 0) == first and order(5, 1) != first and order(6, 0) != first
    assert [sorted(b) for b in order(5, 1, shuffle="batch")] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_without_shuffling_the_order_is_the_given_one(tmp_path):
    plain = _model()
    plain.fit(*_rows(), BATCH, EPOCHS, shuffle=False, verbose=0)
    found = _fit(tmp_path, shuffle=False)[0]
    for a, b in zip(found, plain.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def _amid_ones(rows):
    return np.pad(rows, ((0, 0), (900, 900)), constant_values=1.0)


DIGESTED = {
    "array": np.diag,
    "tensor": lambda v: tf.constant(np.diag(v)),
    # Longer than their `repr`, which is truncated.
    "sparse tensor": lambda v: tf.sparse.from_dense(_amid_ones(np.diag(v))),
    "of SciPy": lambda v: pytest.importorskip("scipy.sparse").csr_matrix(np.diag(v)),
    "ragged tensor": lambda v: tf.RaggedTensor.from_row_lengths(_amid_ones([v])[0], [901, 0, 902]),
    "objects": lambda v: np.array([f"{each}" for each in v], "object"),
}


@pytest.mark.parametrize("kind", DIGESTED)
def test_the_digest_of_every_kind_of_array_depends_on_its_values(kind):
    def content(values):
        arrays = {"x": DIGESTED[kind](values), "y": np.zeros(3), "batch_size": 2}
        return repeatable.description(arrays)["content"]

    assert content([1.0, 2.0, 0.0]) == content([1.0, 2.0, 0.0])
    assert len({content(v) for v in ([1.0, 2.0, 0.0], [1.0, 0.0, 2.0], [1.0, 2.5, 0.0])}) == 3


@pytest.mark.thorough
def test_without_a_seed_a_random_one_is_saved(tmp_path, monkeypatch):
    drawn = iter([7, 8, 9, 10])
    monkeypatch.setattr(repeatable, "new_seed", lambda: next(drawn))

    def fit(directory, kill):
        return _fit(directory, kill=kill)

    wanted = fit(tmp_path / "untouched", None)
    drawn = iter([7, 8, 9, 10])
    _assert_same(_through(tmp_path / "killed", fit, KILLS[1:]), wanted)


@pytest.mark.thorough
def test_over_replicas_arrays_come_in_the_same_order_again(tmp_path):
    def fit(directory, kill):
        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            model = _model(keras.optimizers.Adam())
        return _fit(directory, kill=kill, model=model)

    wanted = fit(tmp_path / "untouched", None)
    _assert_same(_through(tmp_path / "killed", fit, KILLS[1:2]), wanted)


# Callbacks


class _Curve(callbacks.Callback):
    """A typical user's callback, initialised in `on_train_begin` like those of Keras."""

    def on_train_begin(self, logs=None):
        self.losses, self.best, self.batches, self.begun = [], {}, 0, 0
        self.sums, self.seen = np.zeros(2, "float32"), collections.Counter()
        self.last = collections.deque(maxlen=2)

    def on_train_batch_begin(self, batch, logs=None):
        self.begun += 1

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self.last.append(batch)

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append((epoch, logs["loss"]))
        self.best[epoch] = {"loss": [logs["loss"], np.float32(logs["loss"])]}
        self.sums = self.sums + 1
        self.seen["epochs"] += 1

    def counted(self):
        return {n: v for n, v in vars(self).items() if n not in ("_model", "params", "model")}


class _Same(_Curve):
    def __init__(self):
        super().__init__()
        self.own = types.SimpleNamespace(epochs=0)  # Cannot be saved without `get_state`.

    def on_epoch_end(self, epoch, logs=None):
        self.own.epochs += 1

    def get_state(self):
        return {"own": self.own.epochs, "arrays": [np.arange(2)]}

    def set_state(self, state):
        self.own.epochs = state["own"]
        np.testing.assert_array_equal(state["arrays"][0], [0, 1])


@pytest.mark.thorough
def test_a_callback_s_counts_are_resumed(tmp_path):
    made = []

    def fit(directory, kill):
        made.append((_Curve(), _Same()))
        return _fit(directory, *made[-1], kill=kill)

    fit(tmp_path / "untouched", None)
    wanted = made[-1]
    _through(tmp_path / "killed", fit)
    found = made[-1]
    assert repr(found[0].counted()) == repr(wanted[0].counted())
    assert type(found[0].seen) is collections.Counter
    assert found[0].begun == found[0].batches == 3 * EPOCHS
    assert found[1].own.epochs == EPOCHS


def test_every_kind_of_value_comes_back():
    value = {
        "plain": [None, True, 1, 0.5, float("inf"), "a", b"\x00\xff"],
        "of NumPy": (np.float32(0.1), np.arange(3, dtype="int8"), np.array(1.5), np.bool_(True)),
        "of TensorFlow": [tf.constant(1.5), tf.constant([[1], [2]])],
        "many": [{3}, frozenset({4}), (5,), collections.deque([6, 7], 2), collections.deque()],
        (8, "key"): {9: {}, 1.0: []},
    }
    content, arrays = packed(value)
    found = unpacked(json.loads(json.dumps(content)), arrays)
    assert repr(found) == repr(value)
    assert found["of NumPy"][1] is not value["of NumPy"][1]
    for bad in ({"a": [object()]}, np.array([object()]), np.zeros(2, [("a", "f4")])):
        with pytest.raises(TypeError):
            packed(bad)


def test_changes_of_an_attribute_s_type_are_noticed():
    callback = callbacks.Callback()
    callback.same, callback.number, callback.array = np.array(np.nan), 1, np.zeros(2, "float32")
    kept = Kept(callback, None)
    callback.number, callback.array = 1.0, np.zeros(2)
    assert kept.state()["attributes"].keys() == {"number", "array"}


def test_an_attribute_saved_once_is_always_saved():
    """Also if its value is the initial one of this process, as the next may begin with another."""
    first, second = callbacks.Callback(), callbacks.Callback()
    first.place, second.place = 5, 6
    kept = Kept(first, None)
    first.place = 6
    state, kept = kept.state(), Kept(second, None)
    kept.put_back(state)
    assert kept.state()["attributes"] == {"place": 6}


def test_attributes_that_cannot_be_saved_are_named_before_training(tmp_path):
    class Own(callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.rows, self.path, self.data = iter(()), tmp_path, tf.data.Dataset.range(2)

        def on_train_begin(self, logs=None):
            self.metric = keras.metrics.Mean()

        def on_epoch_begin(self, epoch, logs=None):
            assert len(warned) == 2

    with pytest.warns(UserWarning, match=r"Own\.") as warned:
        _fit(tmp_path / "a", Own(), epochs=1)
    assert sorted(str(w.message).split(" cannot")[0] for w in warned) == [
        "Own.metric (Mean)",
        "Own.rows (tuple_iterator)",
    ]


def test_get_state_with_an_unsupported_value_is_named(tmp_path):
    class Own(callbacks.Callback):
        def get_state(self):
            return [object()]

        def set_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"get_state\(\) of Own returns a value of type obj"):
        _fit(tmp_path, Own())


def _ema():
    return keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5)


KERAS = {
    "CSVLogger": lambda d: callbacks.CSVLogger(d / "log.csv"),
    "CSVLogger, append": lambda d: callbacks.CSVLogger(d / "log.csv", append=True),
    "EarlyStopping": lambda d: callbacks.EarlyStopping(
        "loss", min_delta=1.0, patience=9, restore_best_weights=True
    ),
    "History": lambda d: callbacks.History(),
    "LambdaCallback": lambda d: callbacks.LambdaCallback(on_epoch_end=lambda *_: None, n=3),
    "LearningRateScheduler": lambda d: callbacks.LearningRateScheduler(lambda e, rate: rate / 2),
    "ModelCheckpoint": lambda d: callbacks.ModelCheckpoint(
        d / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=2
    ),
    "ModelCheckpoint, best": lambda d: callbacks.ModelCheckpoint(
        d / "{epoch}.keras", "loss", save_best_only=True
    ),
    "ProgbarLogger": lambda d: callbacks.ProgbarLogger(),
    "ReduceLROnPlateau": lambda d: callbacks.ReduceLROnPlateau("loss", 0.5, 0, min_delta=1.0),
    "SwapEMAWeights": lambda d: callbacks.SwapEMAWeights(),
    "SwapEMAWeights, epochs": lambda d: callbacks.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": lambda d: callbacks.TensorBoard(d / "logs", update_freq=2),
    "TerminateOnNaN": lambda d: callbacks.TerminateOnNaN(),
}
_NOT_HERE = {"Callback", "CallbackList", "BackupAndRestore", "RemoteMonitor", "OrbaxCheckpoint"}


def test_every_callback_of_keras_is_covered():
    """`RemoteMonitor` has no state, and needs a server; Orbax is not installed."""
    known = {name for name in dir(callbacks) if not name.startswith("_")}
    assert known == {name.partition(",")[0] for name in KERAS} | _NOT_HERE


@pytest.mark.parametrize("name", _cases(KERAS, ["CSVLogger"]))
@pytest.mark.thorough
def test_keras_callbacks_are_resumed(name, tmp_path):
    made = []

    def fit(directory, kill):
        directory.mkdir(exist_ok=True)
        made.append(KERAS[name](directory))
        model = _model(_ema())
        arguments = {"validation_split": 0.1, "shuffle": True}
        return _fit(directory / "backup", made[-1], kill=kill, model=model, **arguments)

    wanted = fit(tmp_path / "untouched", None)
    begun = made[-1]
    _assert_same(_through(tmp_path / "killed", fit), wanted)
    assert _plain(made[-1]) == _plain(begun)
    files = [
        sorted(p.name for p in (tmp_path / d).iterdir() if p.suffix in (".csv", ".keras", ".h5"))
        for d in ("untouched", "killed")
    ]
    assert files[0] == files[1]
    if "CSV" in name:
        read = [
            list(csv.reader((tmp_path / d / "log.csv").open())) for d in ("untouched", "killed")
        ]
        assert read[0] == read[1] and [row[0] for row in read[0]] == ["epoch", *"0123"]


_OF_PROCESS = ("append_header", "_batch_start_time", "_should_write_train_graph")


def _plain(callback):
    return {
        name: repr(value)
        for name, value in vars(callback).items()
        if isinstance(value, int | float | list) and name not in _OF_PROCESS
    }


@pytest.mark.thorough
def test_csv_rows_after_the_last_checkpoint_are_not_doubled(tmp_path):
    """The process ends after an epoch's row is written and before its checkpoint is."""

    class End(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise _Killed

    for append in (False, True):
        directory = tmp_path / str(append)
        directory.mkdir()
        (directory / "log.csv").write_text("epoch,loss,val_loss\n-1,0,0\n" if append else "")

        def logger(directory=directory, append=append):
            return callbacks.CSVLogger(directory / "log.csv", append=append)

        with pytest.raises(_Killed):
            _fit(directory / "b", logger(), End())
        _fit(directory / "b", logger())
        rows = [row[0] for row in csv.reader((directory / "log.csv").open())]
        assert rows == ["epoch", *(["-1"] if append else []), *"0123"]


@pytest.mark.parametrize("ended", ["at its end", "before"])
@pytest.mark.thorough
def test_a_training_stopped_early_is_not_continued(ended, tmp_path):
    def stop():
        return callbacks.EarlyStopping("loss", min_delta=1e9, restore_best_weights=True)

    class End(callbacks.Callback):
        """Ends the process right after the last checkpoint."""

        def on_train_end(self, logs=None):
            raise _Killed

    wanted = _fit(tmp_path / "untouched", stop())
    assert wanted[1] == [0, 1]
    if ended == "before":
        with pytest.raises(_Killed):
            _fit(tmp_path / "killed", End(), stop())
    else:
        _fit(tmp_path / "killed", stop())
    _assert_same(_fit(tmp_path / "killed", stop()), wanted)


def test_a_finished_training_returns_its_history_and_can_be_extended(tmp_path):
    wanted = _fit(tmp_path / "untouched")
    _fit(tmp_path / "b", epochs=2)
    again = _fit(tmp_path / "b", epochs=2)
    assert again[1] == [0, 1] and again[2]["loss"] == wanted[2]["loss"][:2]
    _assert_same(_fit(tmp_path / "b"), wanted)


def test_initial_epoch_counts(tmp_path):
    def fit(directory, kill):
        keras.utils.set_random_seed(0)  # Determines the order of the data set too.
        return _fit(directory, kill=kill, x=_dataset(), initial_epoch=2)

    wanted = fit(tmp_path / "untouched", None)
    keras.utils.set_random_seed(0)
    dataset, model = _dataset(), _model()
    history = model.fit(dataset, epochs=3, initial_epoch=2, verbose=0)
    # The data begin with their first pass.
    assert wanted[1] == [2, 3] and wanted[2]["loss"][:1] == history.history["loss"]
    _assert_same(_through(tmp_path / "killed", fit, [(3, 1)]), wanted)
    with pytest.raises(ValueError, match=r"initial_epoch: 9, but .* a checkpoint after epoch 4"):
        _fit(tmp_path / "killed", x=_dataset(), initial_epoch=9, epochs=10)


@pytest.mark.thorough
def test_a_signal_that_is_only_noted_ends_no_epoch(tmp_path):
    """Keras still calls `on_epoch_end`; the checkpoint within the epoch stays the last one."""
    import signal

    class Send(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _fit(tmp_path, Send())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert max(p.name for p in tmp_path.glob("0*.npz")) == "000000-00000001.npz"
    _assert_same(_fit(tmp_path), _fit(tmp_path / "untouched"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (lambda b: [b, callbacks.BackupAndRestore("x")], "keras.callbacks.BackupAndRestore and"),
        (lambda b: callbacks.CallbackList([b]), "callbacks: a CallbackList; give"),
        (lambda b: [b, BackupAndRestore("x")], "callbacks: 2 of them decide where to begin"),
    ],
)
def test_callbacks_that_cannot_be_combined(others, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _model().fit(*_rows(), verbose=0, callbacks=others(BackupAndRestore(tmp_path)))


# Stateful data sets


def _with_layer():
    noise = layers.GaussianNoise(0.5, seed=3)
    return _dataset().map(lambda x, y: (noise(x, training=True), y))


def _with_generator():
    random = tf.random.Generator.from_seed(5)
    return _dataset().map(lambda x, y: (x + random.normal(tf.shape(x)), y))


def _with_operation():
    return _dataset().map(lambda x, y: (x + tf.random.normal(tf.shape(x), seed=4), y))


def _from_python(seed=3):
    random = np.random.default_rng(seed)

    def rows():
        for x, y in zip(*_rows(), strict=True):
            yield x + random.normal(size=3), y

    spec = (tf.TensorSpec((3,)), tf.TensorSpec((1,)))
    return tf.data.Dataset.from_generator(rows, output_signature=spec).batch(BATCH)


def _py_function():
    random = np.random.default_rng(3)

    def noisy(x):
        return tf.cast(x.numpy() + random.normal(size=x.shape), "float32")

    def one(x, y):
        return tf.ensure_shape(tf.py_function(noisy, [x], "float32"), x.shape), y

    return _dataset().map(one)


def _dataset():
    return tf.data.Dataset.from_tensor_slices(_rows()).shuffle(ROWS, seed=5).batch(BATCH)


STATES = {
    "a Keras layer": (_with_layer, [(1, 0), (1, 2)]),
    "a tf.random.Generator": (_with_generator, [(1, 0), (1, 2)]),
    "a random operation": (_with_operation, [(1, 0), (1, 2)]),
    "from_generator": (_from_python, [(1, 0), (2, 0)]),
    "py_function": (_py_function, [(1, 0), (1, 2)]),
    "endless": (lambda: _with_layer().repeat(), [(1, 0), (1, 1)]),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", _cases(STATES, ["a Keras layer"]))
@pytest.mark.thorough
def test_stateful_data_are_resumed(name, tmp_path):
    make, kills = STATES[name]

    def fit(directory, kill):
        model = _model()
        steps = {"steps_per_epoch": 2} if name == "endless" else {}
        return _fit(directory, kill=kill, model=model, x=make(), **steps)

    wanted = fit(tmp_path / "untouched", None)
    _assert_same(_through(tmp_path / "killed", fit, kills), wanted)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_stateful_data_with_another_initial_state_are_refused(tmp_path):
    with pytest.raises(_Killed):
        _fit(tmp_path, x=_from_python(1), kill=(1, 1))
    with pytest.raises(ValueError, match="x: yields other batches than before"):
        _fit(tmp_path, x=_from_python(2))


def test_stateful_validation_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"validation_data: is stateful \(Assign"):
        _fit(tmp_path, x=_dataset(), validation_data=_with_layer())


def test_validation_data_without_a_fixed_order_are_refused(tmp_path):
    tf.random.set_seed(None)
    data = tf.data.Dataset.from_tensor_slices(_rows()).shuffle(ROWS).batch(BATCH)
    with pytest.raises(ValueError, match="validation_data: shuffle without a seed"):
        _fit(tmp_path, x=_dataset(), validation_data=data)


def test_draws_without_a_seed_are_refused(tmp_path):
    def unseeded():
        return _dataset().map(lambda x, y: (x + tf.random.uniform(tf.shape(x)), y))

    tf.random.set_seed(1)
    seeded = unseeded()
    keras.src.backend.common.global_state.clear_session()
    tf.compat.v1.set_random_seed(None)
    with pytest.raises(ValueError, match="x: RandomUniform without a seed draws other numbers"):
        _fit(tmp_path, x=unseeded(), model=_unseeded_model())
    _fit(tmp_path, x=seeded)


def _unseeded_model():
    inputs = keras.Input((3,))
    model = distribute.Model(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model


# Refused cases


def _killed_at_once(directory, **arguments):
    with pytest.raises(_Killed):
        _fit(directory, kill=(1, 1), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 5}, "batch_size: 5, and it was 4 when"),
        ({"x": _rows()[0][:9], "y": _rows()[1][:9], "batch_size": 4}, r"x: elements of .*\[9, 3"),
        ({"x": _rows()[0] + 1, "y": _rows()[1], "batch_size": 4}, "x: other data than before"),
        ({"x": _rows()[0], "y": -_rows()[1], "batch_size": 4}, "x: other data than before"),
        ({"sample_weight": WEIGHTS}, "x: elements of"),
        ({"shuffle": False}, "shuffle: False, and it was True"),
    ],
)
def test_other_arrays_are_refused(change, message, tmp_path):
    _killed_at_once(tmp_path)
    with pytest.raises(ValueError, match=message):
        _fit(tmp_path, **change)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda x, y: (x, y, 5), "batch_size: 5, and it was 4 when"),
        (lambda x, y: (x[:4], y[:4], 4), "x: 1 batches per epoch, and it was 3"),
        (lambda x, y: (x.astype("float64"), y, 4), "x: elements of"),
        (lambda x, y: (x + 1, y, 4), "x: other data than before"),
    ],
)
def test_another_data_set_is_refused(other, message, tmp_path):
    def data(x, y, size):
        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(ROWS, seed=5).batch(size)

    _killed_at_once(tmp_path, x=data(*_rows(), 4))
    with pytest.raises(ValueError, match=message):
        _fit(tmp_path, x=data(*other(*_rows())))


def _change(directory, change):
    checkpoints = BackupAndRestore(directory).checkpoints
    arrays, about = checkpoints.unpack(checkpoints.newest())
    change(about)
    checkpoints.save(about["epoch"], about["step"], arrays, about)


@pytest.mark.parametrize("name", ["bigmodels", "keras", "tensorflow"])
def test_other_versions_are_refused(name, tmp_path):
    _killed_at_once(tmp_path)
    _change(tmp_path, lambda about: about["versions"].update({name: "0.0.1"}))
    with pytest.raises(ValueError, match=f"were written by {name} 0.0.1, and this is"):
        _fit(tmp_path)


def test_other_metrics_are_refused(tmp_path):
    _killed_at_once(tmp_path, model=_model(metrics=["mae"]))
    with pytest.raises(ValueError, match=r"metrics: loss, but .* with loss, compile_metrics"):
        _fit(tmp_path)


def test_callbacks_that_are_missing_are_named(tmp_path, capsys):
    with pytest.raises(_Killed):
        _fit(tmp_path, _Curve(), kill=(1, 1))
    _model().fit(*_rows(), BATCH, 2, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    said = "No longer among the callbacks, so their state is dropped: _Curve, _KillAt.\n"
    assert said in capsys.readouterr().err


def test_checkpoints_in_the_previous_format_are_refused(tmp_path):
    _killed_at_once(tmp_path)
    _change(tmp_path, lambda about: about.pop("format"))
    with pytest.raises(ValueError, match="in the format of another version of bigmodels"):
        _fit(tmp_path)


class Named(distribute.Model):
    def __init__(self, *names, units=2, dtype=None):
        super().__init__()
        for name in names:
            setattr(self, name, layers.Dense(units, use_bias=False, dtype=dtype))

    def call(self, inputs):
        return self.first(inputs) - 2 * self.second(inputs)


def _named(*names, **arguments):
    keras.utils.set_random_seed(3)
    model = Named(*names, **arguments)
    model.compile("adam", "mse")
    return model


def test_layers_assigned_in_another_order_get_their_own_weights(tmp_path):
    x, y = _rows()
    data = {"x": x, "y": np.concatenate([y, y], 1), "batch_size": BATCH, "shuffle": False}

    def fit(directory, kill, names):
        model = _named(*names)
        model(np.zeros((1, 3), "float32"))
        model.first.kernel.assign(tf.ones((3, 2)))
        model.second.kernel.assign(tf.zeros((3, 2)))
        _fit(directory, kill=kill, model=model, **data)
        return model

    wanted = fit(tmp_path / "untouched", None, ("first", "second"))
    with pytest.raises(_Killed):
        fit(tmp_path / "killed", (1, 1), ("first", "second"))
    found = fit(tmp_path / "killed", None, ("second", "first"))
    for name in ("first", "second"):
        kernels = [getattr(model, name).kernel for model in (found, wanted)]
        np.testing.assert_array_equal(*kernels)
        moments = [
            named_variables(model)[f"optimizer/{name}/kernel/velocity"] for model in (found, wanted)
        ]
        np.testing.assert_array_equal(*moments)


@pytest.mark.parametrize(
    ("names", "changed", "message"),
    [
        (("first", "second", "third"), {}, "another model: no third/kernel and 2 more"),
        (("first",), {}, "another model: unexpected second/kernel and 2 more"),
        (
            ("first", "second"),
            {"units": 1},
            r"first/kernel is float32\[3, 2\] there and float32\[3, 1\] here",
        ),
        (
            ("first", "second"),
            {"dtype": "bfloat16"},
            r"first/kernel is float32\[3, 2\] there and bfloat16\[3, 2\] here",
        ),
    ],
)
def test_another_architecture_is_refused_by_name(names, changed, message, tmp_path):
    def model(names, **changed):
        made = _named(*names, **changed)
        for name in names:
            getattr(made, name).build((None, 3))
        made.optimizer.build(made.trainable_variables)
        return made

    x, y = _rows()
    data = {"x": x, "y": np.concatenate([y, y], 1), "batch_size": BATCH}
    _killed_at_once(tmp_path, model=model(("first", "second")), **data)
    backup = BackupAndRestore(tmp_path, verbose=0)
    other = model(names, **changed)
    backup.find_position(other)
    with pytest.raises(ValueError, match=message):
        backup.restore(other)


class Kinds(layers.Layer):
    """A variable of each dtype, one of them twice under one name, and one Keras does not know."""

    def build(self, shape):
        kinds = ("bool", "int8", "uint8", "int64", "float16", "bfloat16", "float64", "uint32")
        self.kinds = [
            self.add_weight(shape=(2,), dtype=kind, initializer="zeros", trainable=False, name="v")
            for kind in kinds
        ]
        self.count = tf.Variable(0)
        self.random = tf.random.Generator.from_seed(1)

    def call(self, inputs):
        for variable in self.kinds:
            if variable.dtype == "bool":
                variable.assign(~variable.value)
            else:
                variable.assign(variable + tf.cast(1, variable.dtype))
        self.count.assign_add(1)
        return inputs + tf.cast(self.random.normal(tf.shape(inputs)), inputs.dtype) * 0.1


@pytest.mark.parametrize("policy", _cases(["float32", "bfloat16", "float16"], ["bfloat16"]))
@pytest.mark.thorough
def test_every_dtype_and_every_kind_of_variable_is_resumed(policy, tmp_path):
    def fit(directory, kill):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(3)
        inputs = keras.Input((3,))
        model = distribute.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(Kinds()(inputs))))
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
        _fit(directory, kill=kill, model=model)
        return {n: np.array(v) for n, v in named_variables(model).items()}

    wanted = fit(tmp_path / "untouched", None)
    found = _through(tmp_path / "killed", fit, KILLS[1:2])
    assert found.keys() == wanted.keys()
    assert {"kinds_0/kinds/0", "kinds_0/count", "kinds_0/random/state"} <= found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype


# Each part of a training runs in a fork of a process that has imported TensorFlow.
PROCESSES = """
import json, os, signal, sys
import keras, numpy as np
import bigmodels
from bigmodels.callbacks import BackupAndRestore

class KillAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.where, self.now = [epoch, batch], None
    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
    def on_train_batch_begin(self, batch, logs=None):
        if [self.now, batch] == self.where:
            os.kill(os.getpid(), signal.SIGKILL)

def part(directory, where):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype("float32"), rng.normal(size=(10, 1))
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    model = bigmodels.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.2)(inputs)))
    model.compile("adam", "mse")
    h = model.fit(
        x, y, 4, 3, verbose=0,
        callbacks=[BackupAndRestore(directory, 1, verbose=0), KillAt(*where)],
    )
    found = [w.numpy().tolist() for w in model.variables] + [h.epoch, h.history["loss"]]
    print(json.dumps(found), flush=True)

for directory, where in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        part(directory, where)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.thorough
def test_a_plain_fit_killed_within_an_epoch(tmp_path):
    parts = [("a", (9, 9)), ("b", (0, 2)), ("b", (1, 1)), ("b", (9, 9))]
    parts = [(str(tmp_path / directory), where) for directory, where in parts]
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, json.dumps(parts)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    untouched, whole, *killed, gone_on, end = done.stdout.split("\n")[:-1]
    assert (whole, killed, end) == ("0", ["-9", "-9"], "0")
    assert gone_on == untouched


class _Phase(enum.Enum):
    FIRST, SECOND = range(2)


@dataclasses.dataclass
class _Counts:
    phase: _Phase = _Phase.FIRST
    steps: list = dataclasses.field(default_factory=list)
    until: datetime.datetime | None = None


class _Keeps(callbacks.Callback):
    of_all = []

    def __init__(self, outer):
        super().__init__()
        self.outer, self.counts, self.path, self.times = outer, _Counts(), None, [datetime.date.max]
        self.a = self.b = np.zeros(1)

    def on_train_batch_end(self, batch, logs=None):
        self.outer.append(batch)
        self.of_all.append(batch)
        self.counts.steps.append(batch)
        self.a = self.a + 1
        if len(self.outer) == 1:
            self.counts.phase, self.path = _Phase.SECOND, pathlib.Path("first")
            self.counts.until = datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=1)


def test_dates_paths_dataclasses_and_shared_lists(tmp_path):
    def training(*more):
        _Keeps.of_all.clear()
        outer = []
        keeps = _Keeps(outer)
        keep = BackupAndRestore(tmp_path, save_freq=1, delete_checkpoint=False, verbose=0)
        try:
            _unseeded_model().fit(
                *_rows(), batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[keeps, *more, keep]
            )
        except _Killed:
            return None
        return outer, keeps

    training(_KillAt(1, 1))
    outer, keeps = training()
    steps = [0, 1, 2] * EPOCHS
    assert outer == keeps.outer == keeps.of_all == keeps.counts.steps == steps
    assert keeps.counts.phase is _Phase.SECOND and keeps.path == pathlib.Path("first")
    assert keeps.counts.until == datetime.datetime(2020, 1, 1, 1)
    assert keeps.a == len(steps) and keeps.b == 0


class _Noise(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def test_a_layer_with_a_hidden_random_state_is_refused(tmp_path):
    inputs = keras.Input((3,))
    model = distribute.Model(inputs, layers.Dense(1)(_Noise()(inputs)))
    model.compile("sgd", "mse")
    model.fit(*_rows(), verbose=0)
    with pytest.raises(ValueError, match="the model uses RandomStandardNormal"):
        model.fit(*_rows(), verbose=0, callbacks=[BackupAndRestore(tmp_path, verbose=0)])


def test_an_order_that_differs_from_run_to_run_is_refused(tmp_path):
    options = tf.data.Options()
    options.deterministic = False
    in_parallel = {"num_parallel_calls": 2, "deterministic": False}
    rows = tf.data.Dataset.from_tensor_slices(_rows())
    for dataset in (
        rows.batch(BATCH).with_options(options),
        rows.map(lambda *row: row, **in_parallel).batch(BATCH),
        rows.batch(BATCH, **in_parallel),
    ):
        with pytest.raises(ValueError, match="deterministic=False"):
            _unseeded_model().fit(dataset, callbacks=[BackupAndRestore(tmp_path, verbose=0)])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # From Keras, for unknown lengths.
def test_the_order_within_a_function_of_the_data_is_checked(tmp_path):
    rows = tf.data.Dataset.from_tensor_slices(_rows())

    def shuffled(seed=None):
        return tf.data.Dataset.range(2).flat_map(lambda _: rows.shuffle(ROWS, seed)).batch(BATCH)

    def in_parallel(_):
        return rows.map(lambda *row: row, num_parallel_calls=2, deterministic=False)

    tf.random.set_seed(None)
    backup = BackupAndRestore(tmp_path, verbose=0)
    with pytest.raises(ValueError, match="x: shuffle in a function of the data set has ano"):
        _unseeded_model().fit(shuffled(), callbacks=[backup])
    with pytest.raises(ValueError, match="x: parallelmap in a function"):
        _unseeded_model().fit(tf.data.Dataset.range(2).flat_map(in_parallel), callbacks=[backup])
    _unseeded_model().fit(shuffled(5), verbose=0, callbacks=[backup])
