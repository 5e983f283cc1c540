"""Private names of Keras and TensorFlow are used in one module, and checked on import."""

import ast
import configparser
import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers import compile_utils

import bigmodels
from bigmodels.callbacks import state
from bigmodels.distribute import Model, exact, resume, upstream
from bigmodels.distribute.resume import Resumable

PACKAGE = pathlib.Path(bigmodels.__file__).parent
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}
# Private names that are not of Keras or TensorFlow: those of keras-tuner, which setup.cfg pins to a
# minor version, those of Python, and those that we set on objects other than `self`.
OF_OTHERS = {"_compare", "_exit", "_ordered_ids", "_populate_next"}
OF_OURS = {"_column", "_header", "_wrap_apply"}
BATCH_NORM = keras.layers.BatchNormalization


def test_one_module_imports_private_names():
    private = ("keras.src", "tensorflow.python")
    found = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            elif isinstance(node, ast.Constant):  # The argument of `importlib.import_module`.
                names = [str(node.value)]
            if any(f"{name}.".startswith(f"{each}.") for name in names for each in private):
                found.add(path)
    assert found == {"distribute/upstream.py"}


def test_every_private_attribute_is_checked():
    ours, used = set(), {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Attribute):
                if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                    ours.add(node.attr)
                elif node.attr.startswith("_") and not node.attr.startswith("__"):
                    used.setdefault(node.attr, f"{path}:{node.lineno}")
    listed = {name for _, name, _ in (*upstream._CALLED, *upstream._REPLACED)}
    listed |= {name for _, names in upstream._ATTRIBUTES for name in names.split()}
    known = ours | listed | OF_OTHERS | OF_OURS
    assert {name: where for name, where in used.items() if name not in known} == {}


def test_the_supported_versions_are_those_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(PACKAGE.parent / "setup.cfg", encoding="utf-8")
    required = config["options"]["install_requires"].splitlines()
    assert [line for line in upstream.SUPPORTED.split(" and ") if line not in required] == []


def _sentence():
    with pytest.raises(ImportError) as caught:
        upstream.check()
    said = str(caught.value)
    assert "\n" not in said
    for part in (upstream.SUPPORTED, keras.__version__, tf.__version__):
        assert part in said
    return said


def test_a_missing_method_is_named(monkeypatch):
    monkeypatch.delattr(BATCH_NORM, "_moments")
    assert _sentence().endswith("BatchNormalization._moments is missing")


def test_a_changed_method_is_named(monkeypatch):
    monkeypatch.setattr(BATCH_NORM, "_moments", lambda self, inputs, mask, axes=None: None)
    assert "_moments takes (self, inputs, mask, axes), expected (self, inputs, mask)" in _sentence()


def test_a_method_that_keras_no_longer_calls_is_named(monkeypatch):
    monkeypatch.setattr(BATCH_NORM, "call", lambda self, inputs, training=None, mask=None: inputs)
    assert _sentence().endswith("BatchNormalization.call does not use _moments")


def test_more_optional_arguments_are_accepted(monkeypatch):
    def can_slice_array(x, more=None):
        return None

    monkeypatch.setattr(upstream.array_slicing, "can_slice_array", can_slice_array)
    upstream.check()


def test_a_missing_attribute_is_named(monkeypatch):
    class Renamed:
        def __init__(self):
            self.number_of_workers = 1

    monkeypatch.setattr(upstream, "_ATTRIBUTES", ((Renamed, "_num_workers"),))
    assert _sentence().endswith("Renamed._num_workers is missing")


def test_a_missing_import_is_named(monkeypatch):
    before = dict(vars(upstream))
    monkeypatch.delattr(compile_utils, "CompileMetrics")
    try:
        with pytest.raises(ImportError, match=r"keras >=3.*one is missing:.*'CompileMetrics'"):
            importlib.reload(upstream)
    finally:
        vars(upstream).update(before)


def test_callbacks_still_have_the_attributes_left_out_of_their_state():
    kinds = [each for each in vars(keras.callbacks).values() if isinstance(each, type)]
    for kind, names in state._OF_PROCESS.items():
        own = [each for each in kinds if issubclass(each, kind)]
        for name in names:
            assert any(upstream._assigns(each, name) for each in own), (kind, name)


# If one of these private names no longer worked, no error would show it.


@pytest.fixture(scope="module")
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def test_statistics_are_those_of_the_whole_batch(two_replicas, monkeypatch):
    seen, moments = [], exact._moments
    monkeypatch.setattr(exact, "_moments", lambda *args: seen.append(1) or moments(*args))
    with two_replicas.scope():
        inputs = keras.Input((1,))
        model = Model(inputs, BATCH_NORM(momentum=0.0, name="norm")(inputs))
        model.compile("sgd", "mse", run_eagerly=False)
    x = np.array([[1.0], [2.0], [6.0]], "float32")
    model.fit(x, np.zeros_like(x), batch_size=3, verbose=0)
    assert len(seen) >= 2
    norm = model.get_layer("norm")
    # With a momentum of 0 these are of the last batch, not of 1 and of 2 and 6 separately.
    np.testing.assert_allclose(norm.moving_mean, [3.0], rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, [14 / 3], rtol=1e-6)


def test_gradients_are_summed_before_they_are_clipped(two_replicas):
    with two_replicas.scope():
        inputs = keras.Input((1,))
        outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
        model = Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(1.0, clipnorm=1.0), "mse")
    # The gradient of the mean of (w x - y)^2 at w = 0 is -2/4 (3 + 3 - 2 - 3) = -0.5, which is not
    # clipped. Those of the replicas (-3 and 2.5) would be.
    x, y = np.ones((4, 1), "float32"), np.array([[3.0], [3.0], [-2.0], [-3.0]], "float32")
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.trainable_variables[0].numpy(), [[0.5]], rtol=1e-6)


def test_an_epoch_begins_at_the_given_step():
    strategy = tf.distribute.get_strategy()
    data = tf.data.Dataset.range(12).batch(3)
    iterator = upstream.TFEpochIterator(distribute_strategy=strategy, x=data)
    resumable = Resumable()
    resumable.position = 0, 2
    resume.epochs_from(iterator, resumable, strategy)
    first = [(begin, next(batches).numpy().tolist()) for begin, _, batches in iterator]
    assert first == [(2, [6, 7, 8]), (3, [9, 10, 11])]
    assert [begin for begin, _, _ in iterator] == [0, 1, 2, 3]
