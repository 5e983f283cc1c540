import keras
import numpy as np
import pytest

from bigmodels.models import ResidualCNN
from bigmodels.models.residual_cnn import IdentityInitializer
from tests.conftest import striped_images


def small(**kwargs):
    return ResidualCNN(3, (8, 8), **kwargs)


@pytest.mark.parametrize("filters", [2, 3, 5])
def test_a_convolution_starts_as_the_identity(rng, filters):
    conv = keras.layers.Conv2D(
        filters, 3, padding="same", use_bias=False, kernel_initializer=IdentityInitializer(1)
    )
    x = rng.normal(size=(2, 5, 6, 3)).astype("float32")
    y = keras.ops.convert_to_numpy(conv(x))
    same = min(3, filters)
    np.testing.assert_allclose(y[..., :same], x[..., :same], atol=1e-6)
    if filters > 3:  # Uniform with a variance of 1 / (3 * 27).
        kernel = keras.ops.convert_to_numpy(conv.kernel)[..., 3:]
        assert np.abs(kernel).max() <= 27**-0.5
        assert kernel.var() == pytest.approx(1 / 81, rel=0.3)


def test_inference_averages_over_views(rng):
    x = rng.uniform(size=(4, 12, 12, 1)).astype("float32")
    model = small(mirror=True, shift=1)
    model.build((None, 12, 12, 1))
    plain = small()
    plain.build((None, 12, 12, 1))
    plain.set_weights(model.get_weights())

    def both_ways(images):
        return (plain(images) + plain(images[:, :, ::-1])) / 2

    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    shifted = (both_ways(padded[:, :12, :12]) + both_ways(padded[:, 2:, 2:])) / 2
    np.testing.assert_allclose(model(x), (both_ways(x) + shifted) / 2, atol=1e-6)
    assert np.abs(model(x) - plain(x)).max() > 1e-4
    model.mirror = False
    shifted = (plain(padded[:, :12, :12]) + plain(padded[:, 2:, 2:])) / 2
    np.testing.assert_allclose(model(x), (plain(x) + shifted) / 2, atol=1e-6)


def test_training_sees_the_image_alone(rng):
    x = rng.uniform(size=(8, 12, 12, 1)).astype("float32")
    model, plain = small(mirror=True, shift=1), small()
    for other in (model, plain):
        other.build((None, 12, 12, 1))
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(model(x, training=True), plain(x, training=True))


def test_learns_from_whitened_images(rng):
    model = small(mirror=False, shift=1)
    x, y = striped_images(rng, 96)
    model.adapt(x)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=32, epochs=10, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9


def test_whitening_is_saved_with_the_model(rng, tmp_path):
    x = rng.uniform(size=(20, 12, 12, 3)).astype("float32") ** 2
    model = small(class_names=["a", "b", "c"])
    before = model(x)
    model.adapt(x)
    assert np.abs(model(x) - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"num_classes": 1}, None, "num_classes: 1"),
        ({"filters": ()}, None, "filters: ()"),
        ({"shift": -1}, None, "shift: -1"),
        ({"class_names": ["a"]}, None, "class_names: 1 names for num_classes=10"),
        ({}, (None, 32, 32), "needs a channel axis"),
        ({}, (None, None, None, 3), "expected (batch, height, width, channels)"),
        ({}, (None, 8, 8, 3), "input_shape: (None, 8, 8, 3) is too small"),
    ],
)
def test_errors_name_argument_and_value(arguments, shape, message):
    with pytest.raises(ValueError) as error:
        model = ResidualCNN(**arguments)
        model.build(shape)
    assert message in str(error.value)
