"""Rotary position embedding."""

from typing import Any

import keras
from keras import ops

from bigmodels.layers.positional_encoding import PositionalEncoding


@keras.saving.register_keras_serializable(package="bigmodels")
class RotaryEmbedding(keras.layers.Layer):
    """Rotary position embedding of queries and keys (Su et al., 2021, section 3.2).

    At position `p`, features `i` and `i + dim / 2` are rotated by the angle `p / 10000^(2i/dim)`.
    The product of a rotated query and a rotated key depends on their distance only, not on where
    they are. The sines and cosines are those of `PositionalEncoding`.

    Args:
        max_length: Number of positions; a longer input is an error.
        dim: Width of a query or key, an even number.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: Queries or keys `(batch, length, heads, dim)`.
        positions: Their positions, integers `(batch, length)`; 0, 1, 2, ... by default.

    Returns:
        `(batch, length, heads, dim)`.

    Raises:
        ValueError: if `dim` is odd, an argument is not positive, or an input of known length is
            too long.
        tf.errors.InvalidArgumentError: if the length is known only at run time and is too long.

    Example:

    >>> x = np.ones((1, 3, 1, 2), "float32")
    >>> RotaryEmbedding(max_length=10, dim=2)(x).numpy()[0, :, 0].round(2)
    array([[ 1.  ,  1.  ],
           [-0.3 ,  1.38],
           [-1.33,  0.49]], dtype=float32)
    """

    def __init__(self, max_length: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        if dim % 2:
            raise ValueError(f"dim: {dim!r}, expected an even number")
        self.max_length = max_length
        self.dim = dim
        self.encoding = PositionalEncoding(max_length, dim, dtype=self.dtype_policy)
        self.built = True

    def call(self, inputs, positions: Any = None):
        if positions is None:
            angles = self.encoding(inputs)
        else:
            angles = self.encoding.at(positions)
        sine, cosine = angles[..., None, 0::2], angles[..., None, 1::2]  # (batch, length, 1, dim/2)
        x, y = ops.split(inputs, 2, axis=-1)  # (batch, length, heads, dim / 2)
        return ops.concatenate([x * cosine - y * sine, y * cosine + x * sine], axis=-1)

    def compute_output_shape(self, input_shape, positions_shape=None):
        return input_shape

    def get_config(self):
        return super().get_config() | {"max_length": self.max_length, "dim": self.dim}
