"""Sinusoidal position encoding (article 3.3.2, equation E6 of the errata)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class PositionalEncoding(keras.layers.Layer):
    """Sinusoidal position encoding, to be added to the embeddings of a Transformer.

    `PE(pos, 2i) = sin(pos / 10000^(2i/d))` and `PE(pos, 2i+1) = cos(pos / 10000^(2i/d))`, after
    "Attention Is All You Need" (Vaswani et al., 2017), section 3.5. The article (section 3.3.2)
    instead prints a product of powers of sine and cosine, multiplied with the input.

    The table is computed in float64 and then cast to the compute dtype: in half precision the
    angles of neighbouring positions would coincide.

    Args:
        max_length: Number of positions; a longer input is an error.
        embedding_dim: Width of the encoding, even or odd.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: Embeddings `(batch, length, embedding_dim)`; only their shape is used.

    Returns:
        `(1, length, embedding_dim)` in the compute dtype.

    Raises:
        ValueError: if an argument is not positive, or an input of known length is too long.
        tf.errors.InvalidArgumentError: if the length is known only at run time and is too long.

    Example:

    >>> PositionalEncoding(max_length=10, embedding_dim=4)(np.zeros((1, 2, 4))).numpy()[0].round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.84, 0.54, 0.01, 1.  ]], dtype=float32)
    """

    def __init__(self, max_length: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("max_length", max_length), ("embedding_dim", embedding_dim)):
            if value < 1:
                raise ValueError(f"{name}: {value!r}, expected a positive integer")
        self.max_length = max_length
        self.embedding_dim = embedding_dim
        positions = np.arange(max_length)[:, np.newaxis]
        pairs = np.arange(embedding_dim) // 2
        angles = positions / 10000.0 ** (2 * pairs / embedding_dim)
        is_sine = np.arange(embedding_dim) % 2 == 0
        self._table = np.where(is_sine, np.sin(angles), np.cos(angles))
        self.built = True

    def call(self, inputs):
        length = inputs.shape[1]
        if length is None:
            length = ops.shape(inputs)[1]
            message = f"inputs: longer than max_length={self.max_length}"
            with tf.control_dependencies(
                [tf.debugging.assert_less_equal(length, self.max_length, message=message)]
            ):
                length = tf.identity(length)
        elif length > self.max_length:
            raise ValueError(f"inputs: length {length} is longer than max_length={self.max_length}")
        table = ops.convert_to_tensor(self._table, self.compute_dtype)
        return table[np.newaxis, :length]  # (1, length, embedding_dim)

    def at(self, positions: Any) -> tf.Tensor:
        """Look up the encoding of single positions.

        Args:
            positions: Integers below `max_length`, of any shape.

        Returns:
            `(..., embedding_dim)` in the compute dtype.
        """
        return tf.gather(ops.convert_to_tensor(self._table, self.compute_dtype), positions)

    def compute_output_shape(self, input_shape):
        return (1, input_shape[1], self.embedding_dim)

    def get_config(self):
        config = super().get_config()
        config.update(max_length=self.max_length, embedding_dim=self.embedding_dim)
        return config
