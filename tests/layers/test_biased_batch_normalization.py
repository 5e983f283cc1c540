"""The fused kernel against Keras' own layer, and the learning rate of the bias."""

import keras
import numpy as np
import pytest

from bigmodels.layers import BiasedBatchNormalization


@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (24, 3)])  # The second is not fused.
def test_equals_keras_layer(rng, shape):
    x = rng.normal(2, 3, size=shape).astype("float32")
    layer = BiasedBatchNormalization(2.0, momentum=0.7)
    expected = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-4, scale=False)
    for other in (layer, expected):
        other.build(shape)
    layer.bias.assign([1, -2, 3])
    expected.beta.assign([2, -4, 6])
    for training in (True, True, False):
        np.testing.assert_allclose(
            layer(x, training=training), expected(x, training=training), atol=1e-5
        )
        np.testing.assert_allclose(layer.moving_mean, expected.moving_mean, rtol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, expected.moving_variance, rtol=1e-5)


def test_gradients_equal_those_of_keras_layer(rng):
    x = rng.normal(2, 3, size=(6, 4, 5, 3)).astype("float32")
    target = rng.normal(size=x.shape).astype("float32")
    steps = []
    for make in (
        lambda: BiasedBatchNormalization(1.0),
        lambda: keras.layers.BatchNormalization(scale=False, epsilon=1e-4),
    ):
        keras.utils.set_random_seed(1)
        conv, norm = keras.layers.Conv2D(3, 1), make()
        model = keras.Sequential([keras.Input(x.shape[1:]), conv, norm])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(x, target)
        steps.append(keras.ops.convert_to_numpy(conv.kernel))
    np.testing.assert_allclose(*steps, atol=1e-5)


def test_the_bias_moves_faster_under_sgd(rng):
    """With a factor of 3, nine times as fast as the plain bias of Keras' layer."""
    x = rng.normal(size=(16, 4)).astype("float32")
    moved = []
    for layer in (BiasedBatchNormalization(3.0), keras.layers.BatchNormalization(scale=False)):
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.train_on_batch(x, np.add(x, [1, 2, 3, 4]))
        moved.append(3 * layer.bias if hasattr(layer, "bias") else layer.beta)
    np.testing.assert_allclose(moved[0], 9 * moved[1], rtol=1e-3)
    assert np.abs(moved[1]).min() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision(rng, policy):
    x = rng.normal(size=(8, 4, 4, 3)).astype("float32")
    expected = BiasedBatchNormalization(dtype="float32")(x, training=True)
    output = BiasedBatchNormalization(dtype=policy)(x, training=True)
    assert output.dtype == keras.DTypePolicy(policy).compute_dtype
    np.testing.assert_allclose(keras.ops.cast(output, "float32"), expected, atol=0.03)
