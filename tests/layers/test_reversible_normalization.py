import keras
import numpy as np
import pytest

from bigmodels.layers import ReversibleNormalization


def test_windows_are_normalised_each_by_its_own(rng):
    layer = ReversibleNormalization()
    x = rng.normal(size=(4, 50, 3)) * [1, 10, 100] + [0, -50, 7000]
    normalised, (mean, deviation) = layer(x.astype("float32"))
    np.testing.assert_allclose(np.mean(normalised, 1), 0, atol=1e-3)
    np.testing.assert_allclose(np.std(normalised, 1), 1, atol=1e-3)
    np.testing.assert_allclose(mean[:, 0], x.mean(1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(deviation[:, 0], x.std(1), rtol=1e-3)


def test_it_is_undone(rng):
    layer = ReversibleNormalization()
    x = rng.normal(size=(2, 9, 2)).astype("float32") * 3 + 4
    layer.build(x.shape)
    layer.gamma.assign([2.0, -0.5])
    layer.beta.assign([1.0, 3.0])
    normalised, statistics = layer(x)
    np.testing.assert_allclose(layer.reverse(normalised, statistics), x, rtol=1e-5)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalised, expected * [2.0, -0.5] + [1.0, 3.0], atol=1e-4)


def test_a_window_that_never_changes_stays_finite():
    layer = ReversibleNormalization()
    normalised, statistics = layer(np.full((1, 5, 1), 3.0, "float32"))
    np.testing.assert_allclose(normalised, 0, atol=1e-6)
    np.testing.assert_allclose(layer.reverse(normalised, statistics), 3.0, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_does_not_reach_the_statistics(policy):
    layer = ReversibleNormalization(dtype=policy)
    x = np.array([[[1000.0], [1000.25], [1000.5]]], "float32")
    normalised, (mean, _) = layer(x)
    assert normalised.dtype == mean.dtype == "float32"
    np.testing.assert_allclose(mean, 1000.25)


def test_config_survives():
    layer = ReversibleNormalization(epsilon=0.1, name="mine")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.epsilon == 0.1 and again.name == "mine"
    assert layer.compute_output_shape((None, 5, 2)) == ((None, 5, 2), ((None, 1, 2),) * 2)
