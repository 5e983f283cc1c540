import keras
import numpy as np
import pytest

from bigmodels.models import CNN


def test_the_articles_network_has_its_size():
    model = CNN()
    model.build((None, 28, 28, 1))
    assert model.count_params() == 225_034
    names = ["conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2"]
    assert [layer.name for layer in model.layers if "dropout" not in layer.name] == names
    assert model.conv1.filters == 32 and model.conv2.filters == 64 and model.dense1.units == 128


def test_call_is_the_layers_in_order(rng):
    model = CNN()
    x = rng.uniform(size=(2, 28, 28, 1)).astype("float32")
    expected = model(x)
    y = x
    for name in ("conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2"):
        y = getattr(model, name)(y)
    np.testing.assert_allclose(expected, y, atol=1e-6)


def test_logits_and_probabilities(rng):
    model = CNN()
    x = rng.uniform(size=(5, 28, 28, 1)).astype("float32")
    logits = model.predict(x, verbose=0)
    assert np.abs(logits.sum(-1) - 1).max() > 1e-3  # Not already a softmax.
    probabilities = model.predict_proba(x, verbose=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"num_classes": 1}, None, "num_classes: 1"),
        ({"filters": ()}, None, "filters: ()"),
        ({"class_names": ["a"]}, None, "class_names: 1 names for num_classes=10"),
        ({}, (None, 28, 28), "needs a channel axis"),
        ({}, (None, None, None, 1), "expected (batch, height, width, channels)"),
        (
            {"filters": (4, 4, 4, 4)},
            (None, 28, 28, 1),
            "input_shape: (None, 28, 28, 1) is too small: nothing is left of it after conv4",
        ),
    ],
)
def test_errors_name_argument_and_value(arguments, shape, message):
    with pytest.raises(ValueError) as error:
        model = CNN(**arguments)
        model.build(shape)
    assert message in str(error.value)


def test_soft_labels_are_allowed_with_a_dense_loss(rng):
    model = CNN(3, (2,), dense_units=4)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    x = rng.uniform(size=(8, 8, 8, 1)).astype("float32")
    y = np.full((8, 3), 1 / 3, "float32")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])
    # Also after a `fit` for which the step was traced already.
    with pytest.raises(ValueError, match=r"y: shape .*1[\])], but the output has shape"):
        model.fit(x, y[:, :1], batch_size=8, verbose=0)


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()]
)
def test_a_loss_of_probabilities_is_refused_as_nothing_would_be_learnt(loss):
    model = CNN(3, filters=(2,), dense_units=4)
    model.compile("adam", loss)
    with pytest.raises(ValueError, match=r"use keras.losses.SparseCategoricalCrossentropy\(from_l"):
        model.fit(np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, int))
