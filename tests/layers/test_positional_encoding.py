import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import PositionalEncoding


@pytest.mark.parametrize("dim", [1, 6, 7])
def test_values_and_shape(dim):
    encoding = np.asarray(PositionalEncoding(50, dim, dtype="float64")(np.zeros((2, 9, dim))))
    assert encoding.shape == (1, 9, dim)
    for position in range(9):
        for i in range(dim):
            angle = position / 10000 ** (2 * (i // 2) / dim)
            expected = np.sin(angle) if i % 2 == 0 else np.cos(angle)
            np.testing.assert_allclose(encoding[0, position, i], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("policy", "numpy_dtype"), [("float16", "float16"), ("mixed_bfloat16", ml_dtypes.bfloat16)]
)
def test_half_precision_rounds_only_at_the_end(policy, numpy_dtype):
    """Far positions stay apart: each value is the exact one, rounded."""
    layer = PositionalEncoding(3000, 8, dtype=policy)
    encoding = keras.ops.convert_to_numpy(layer(np.zeros((1, 3000, 8))))
    exact = np.asarray(PositionalEncoding(3000, 8, dtype="float64")(np.zeros((1, 3000, 8))))
    np.testing.assert_array_equal(encoding, exact.astype(numpy_dtype))


def test_too_long_is_a_clear_error_also_at_run_time():
    layer = PositionalEncoding(4, 2)
    with pytest.raises(ValueError, match="length 5 is longer than max_length=4"):
        layer(np.zeros((1, 5, 2)))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 2))])
    def dynamic(x):
        return layer(x)

    assert dynamic(np.zeros((1, 4, 2), "float32")).shape == (1, 4, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than max_length=4"):
        dynamic(np.zeros((1, 5, 2), "float32"))


def test_arguments_are_checked_and_kept():
    with pytest.raises(ValueError, match="max_length: 0"):
        PositionalEncoding(0, 4)
    with pytest.raises(ValueError, match="embedding_dim: 0"):
        PositionalEncoding(4, 0)
    layer = PositionalEncoding(7, 3, name="mine")
    again = PositionalEncoding.from_config(layer.get_config())
    assert (again.max_length, again.embedding_dim, again.name) == (7, 3, "mine")
