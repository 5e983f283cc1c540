"""`bigmodels.Model` is a `keras.Model` in every respect."""

import keras
import numpy as np
import pytest

import bigmodels
from bigmodels.models import CNN


@keras.saving.register_keras_serializable(package="tests")
class Doubling(bigmodels.Model):
    """A user's model whose own method must survive the functional form."""

    def doubled(self, x):
        return 2 * self.predict(x, verbose=0)


def _functional(cls):
    inputs = keras.Input((4,))
    return cls(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.2)(inputs)))


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
    """Plain Keras rewrites the base classes at the first functional model."""
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
    """When Keras stops rewriting base classes, `_functional_class` can go."""

    class Plain(keras.Model):
        pass

    before = Plain.__bases__
    _functional(Plain)
    assert Plain.__bases__ != before


def test_keyword_form():
    inputs = keras.Input((4,))
    model = bigmodels.Model(inputs=inputs, outputs=keras.layers.Dense(2)(inputs), name="mine")
    assert model.name == "mine" and model.count_params() == 10
