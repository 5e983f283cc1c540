"""`bigmodels.Model` is a `keras.Model`: functional and subclassed forms, classes, files."""

import contextlib
import copy
import pickle
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels
from bigmodels.models import CNN


@keras.saving.register_keras_serializable(package="tests")
class Doubling(bigmodels.Model):
    """A user's model whose own method must work in the functional form."""

    def doubled(self, x):
        return 2 * self.predict(x, verbose=0)


def _functional(cls):
    inputs = keras.Input((4,))
    return cls(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.2)(inputs)))


@keras.saving.register_keras_serializable(package="tests")
class OfWidth(bigmodels.Model):
    """A functional model with its own constructor arguments."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((4,))
        super().__init__(inputs, keras.layers.Dense(width)(inputs), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width}


class Unregistered(bigmodels.Model):
    """Not registered; found by its module and name."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: _functional(bigmodels.Model),
        lambda: _functional(Doubling),
        lambda: _functional(Unregistered),
        lambda: OfWidth(2),
        lambda: CNN(2, (3,)),
    ],
    ids=["Model", "registered", "unregistered", "own arguments", "subclassed"],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_models_are_pickled_and_copied(make, compiled, rng):
    """With weights and, if compiled, the optimizer's state, so that they train on identically."""
    model = make()
    shape = (8, 28, 28, 1) if isinstance(model, CNN) else (8, 4)
    x, y = rng.uniform(size=shape).astype("float32"), rng.integers(0, 2, (8, 1))
    model(x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if compiled:
        model.compile("adam", loss)
        model.fit(x, y, verbose=0)
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for other in others:
        assert type(other) is type(model) and other is not model
        np.testing.assert_array_equal(other(x), model(x))
        assert other.compiled == compiled
        if compiled:
            for a, b in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
                np.testing.assert_array_equal(a, b)


def test_functional_models_are_cloned_as_their_class(rng):
    x = rng.normal(size=(2, 4)).astype("float32")
    for cls in (bigmodels.Model, Doubling, Unregistered):
        model = _functional(cls)
        clone = keras.models.clone_model(model)
        assert type(clone) is type(model)
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(clone(x), model(x))


def test_scikit_learn_wrappers_take_functional_models(rng):
    from sklearn.base import clone

    inputs = keras.Input((4,))
    model = Doubling(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=8).astype("float32")
    wrapped = keras.wrappers.SKLearnRegressor(model, fit_kwargs={"verbose": 0})
    fitted = clone(wrapped).fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict(x), fitted.predict(x), rtol=1e-6)
    assert isinstance(fitted.model_, Doubling)


@pytest.mark.parametrize("cls", [bigmodels.Model, Doubling])
def test_functional_models_keep_their_class_and_their_file(cls, tmp_path, rng):
    model = _functional(cls)
    assert isinstance(model, cls) and isinstance(model, keras.Model)
    model.compile("adam", "mse")
    x, y = rng.normal(size=(16, 4)).astype("float32"), np.zeros((16, 2), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, cls)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    if cls is Doubling:
        np.testing.assert_array_equal(loaded.doubled(x), 2 * model.predict(x, verbose=0))
    np.testing.assert_array_equal(
        keras.models.clone_model(model).count_params(), model.count_params()
    )


def test_functional_and_subclassed_models_live_together():
    """Plain Keras rewrites the base classes when the first functional model is created."""
    _functional(bigmodels.Model)
    assert CNN(3, (2,)).get_config()["num_classes"] == 3
    _functional(Doubling)

    class Subclassed(Doubling):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    assert Subclassed()(np.zeros((1, 3))).shape == (1, 1)


def test_upstream_still_needs_our_functional_class():
    """If this fails, Keras no longer rewrites base classes, and `_functional_class` can go."""

    class Plain(keras.Model):
        pass

    before = Plain.__bases__
    _functional(Plain)
    assert Plain.__bases__ != before


def test_keyword_form():
    inputs = keras.Input((4,))
    model = bigmodels.Model(inputs=inputs, outputs=keras.layers.Dense(2)(inputs), name="mine")
    assert model.name == "mine" and model.count_params() == 10


class Counting(bigmodels.models.CNN):
    """Counts how often its call is traced."""

    calls = 0

    def call(self, inputs, training=None):
        type(self).calls += 1
        return super().call(inputs, training)


SCE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _images(rng, count=10):
    return rng.uniform(size=(count, 8, 8, 1)).astype("float32"), np.arange(count) % 3


@pytest.mark.parametrize("streamed", [False, True])
def test_a_step_is_traced_once(rng, streamed):
    """A variable created within the step would cause a second trace."""
    model = Counting(3, (2,))
    model.compile("adam", SCE)
    x, y = _images(rng)
    data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),) if streamed else (x, y)
    Counting.calls = 0
    model.fit(*data, verbose=0)
    assert Counting.calls == 1 and model.optimizer.iterations == (3 if streamed else 1)


def _varying(lengths):
    data = tf.data.Dataset.from_generator(
        lambda: ((np.ones((2, n), "int32"),) * 2 for n in lengths),
        output_signature=(tf.TensorSpec((2, None), "int32"),) * 2,
    )
    return data.apply(tf.data.experimental.assert_cardinality(len(lengths)))


@pytest.mark.parametrize(("asked", "stays"), [("auto", False), (True, True)])
@pytest.mark.thorough
def test_auto_leaves_xla_out_where_shapes_vary(asked, stays, monkeypatch):
    """XLA would compile every shape separately."""
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
    model = bigmodels.models.RNN(5, 4, 4)
    model.compile("adam", SCE, jit_compile=asked)
    x = np.ones((4, 6), "int32")
    model.fit(x, x, verbose=0)
    assert model.jit_compile is True
    model.fit(_varying([3, 4]), verbose=0)
    assert model.jit_compile is stays


@pytest.mark.parametrize("scope", [False, True])
def test_auto_is_xla_on_one_gpu_also_under_one_device_strategy(scope, monkeypatch):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    kinds = [types.SimpleNamespace(device_type="GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: kinds)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    with strategy.scope() if scope else contextlib.nullcontext():
        model = bigmodels.models.RNN(5, 4, 4)
        model.compile("adam", SCE)
        assert model.jit_compile is True
        plain = keras.Sequential([keras.layers.Dense(1)])
        plain.compile("adam", "mse")
        assert plain.jit_compile is not scope  # A plain Keras model.


def test_steps_that_know_their_shapes_train_the_same(rng, monkeypatch):
    x, y = _images(rng)
    results = []
    for knows in (False, True):
        shapes = []
        keras.utils.set_random_seed(0)
        monkeypatch.setattr(bigmodels.Model, "_wants_shapes", lambda self, knows=knows: knows)
        model = Counting(3, (2,))
        monkeypatch.setattr(
            Counting, "call",
            lambda self, inputs, training=None, shapes=shapes: (
                shapes.append(inputs.shape[0]), bigmodels.models.CNN.call(self, inputs, training)
            )[1],
        )  # fmt: skip
        model.compile("adam", SCE)
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
        results.append((history, model.get_weights()))
        assert shapes == ([4, None] if knows else [None])
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("asked", ["auto", True])
def test_a_step_that_xla_cannot_compile_runs_without_it(asked, rng, monkeypatch):
    """Unless the user asked for XLA."""
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
    monkeypatch.setattr(bigmodels.Model, "_wants_shapes", lambda self: self.jit_compile)
    make, failed = keras.Model._make_function, []

    def failing(self, step):
        if not self.jit_compile:
            return make(self, step)

        def fail(batches):
            failed.append(len(list(batches)))
            raise tf.errors.InternalError(None, None, "Autotuner could not compile\nmore")

        return fail

    monkeypatch.setattr(keras.Model, "_make_function", failing)
    x, y = _images(rng)
    model = CNN(3, (2,))
    model.compile("sgd", SCE, jit_compile=asked)
    if asked is True:
        with pytest.raises(tf.errors.InternalError):
            model.fit(x, y, verbose=0)
        return
    with pytest.warns(UserWarning, match="which runs without it: Autotuner could not compile$"):
        history = model.fit(x, y, batch_size=5, epochs=2, verbose=0).history
    assert failed == [1] and model.jit_compile is False and len(history["loss"]) == 2
    assert model.optimizer.iterations == 4
