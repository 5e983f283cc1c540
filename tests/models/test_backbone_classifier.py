"""What is its own: weights from a file, and what is trained of the backbone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.models import BackboneClassifier
from tests.conftest import striped_images


def _model(**kwargs):
    model = BackboneClassifier(3, (32, 32, 1), "MobileNet", 0.25, **kwargs)
    model.build((None, 32, 32, 1))
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A backbone's weights as Keras writes them, none of them as initialised."""
    backbone = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    random = np.random.default_rng(1)
    backbone.set_weights([w + random.uniform(0, 0.1, w.shape) for w in backbone.get_weights()])
    path = tmp_path_factory.mktemp("backbone") / "mine.weights.h5"
    backbone.save_weights(path)
    return path, backbone


@pytest.mark.thorough
def test_features_are_those_of_the_application_itself(weights, rng):
    path, backbone = weights
    model = _model()
    model.load_backbone(path)
    images = striped_images(rng, 4, 32)[0]
    coloured = np.repeat(images, 3, -1) * 255
    maps = backbone.predict(keras.applications.mobilenet.preprocess_input(coloured), verbose=0)
    features = model.backbone(model.preprocessing(images))
    np.testing.assert_allclose(features, maps.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_a_frozen_backbone_stays_as_it_is(weights, rng, trained):
    model = _model(train_backbone=trained)
    model.load_backbone(weights[0])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.backbone.get_weights()
    head = np.array(model.dense.kernel)
    model.fit(*striped_images(rng, 16, 32), batch_size=16, verbose=0)
    kept = [np.array_equal(a, b) for a, b in zip(before, model.backbone.get_weights(), strict=True)]
    assert all(kept) != trained
    assert not np.array_equal(head, model.dense.kernel)
    # Its batch normalisation keeps what it was pretrained with, even where weights are trained.
    statistics = [v for v in model.backbone.non_trainable_variables if "moving" in v.path]
    assert len(statistics) == 54
    names = [v.path for v in model.backbone.weights]
    assert all(kept[names.index(v.path)] for v in statistics)


def test_weights_that_do_not_fit_are_named(weights, tmp_path):
    (tmp_path / "text.weights.h5").write_text("no HDF5")
    wide = BackboneClassifier(3, (32, 32, 3), "MobileNet", 0.5)
    for file in ("/nowhere.weights.h5", tmp_path / "text.weights.h5", tmp_path):
        with pytest.raises(ValueError, match=f"weights: '{file}', expected weights of MobileNet: "):
            _model().load_backbone(file)
    with pytest.raises(ValueError, match="expected weights of MobileNet: "):
        wide.load_backbone(weights[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (3, (28, 28, 1)),
            r"image_shape: \(28, 28, 1\) is not supported by MobileNetV2: .* at least 32x32",
        ),
        ((3, (32, 32, 2)), "expected 1 or 3 channels"),
        ((3, (32, 32, 3), "MobileNetV5"), "application: 'MobileNetV5' is not one of ConvNeXtBase"),
        ((3, (32, 32, 3), "ResNet50", 0.5), "alpha: 0.5, expected 1: ResNet50 has no width"),
        ((1, (32, 32, 3)), "num_classes: 1, expected at least 2"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        BackboneClassifier(*arguments)


def test_another_size_of_images_is_refused():
    with pytest.raises(ValueError, match=r"expected \(None, 32, 32, 1\)"):
        BackboneClassifier(3, (32, 32, 1), "MobileNet", 0.25).build((None, 40, 32, 1))


@pytest.mark.slow
def test_two_devices_differ_from_one_by_rounding_alone(rng):
    """In float64: 27 batch normalisations magnify what float32 rounds a thousandfold."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        images, labels = striped_images(rng, 44, 32)
        rows = tf.data.Dataset.from_tensor_slices((images.astype("float64"), labels)).batch(16)
        found = []
        for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
            reduce = tf.distribute.ReductionToOneDevice()
            keras.utils.set_random_seed(1)
            with tf.distribute.MirroredStrategy(devices, reduce).scope():
                model = _model(train_backbone=True, batch_statistics=True, dropout_rate=0.0)
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                model.compile(keras.optimizers.SGD(0.01), loss)
            model.fit(rows, verbose=0)
            found.append(model.get_weights())
        for one, two in zip(*found, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-9)
    finally:
        keras.config.set_floatx(floatx)
