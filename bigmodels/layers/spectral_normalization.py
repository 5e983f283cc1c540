"""Spectral normalisation (Miyato et al., 2018)."""

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class SpectralNormalization(keras.layers.Wrapper):
    """Wrap a layer so that its kernel is divided by its largest singular value.

    `keras.layers.SpectralNormalization` overwrites the weights with the divided kernel in each
    call: the gradient does not include the division, and the real and generated images of one step
    see different weights. Here, as in the paper (Miyato et al., 2018), only the optimizer changes
    the weights, and the gradient includes the division. Replicas stay in sync, as the saved vector
    depends only on the weights.

    The singular value is estimated by power iteration: one iteration per call in training, starting
    from the saved vector. The kernel of a convolution is reshaped to a matrix `(height * width *
    channels, filters)`, as in the paper.

    Args:
        layer: A linear layer with a `kernel` whose last axis is the output axis, such as `Dense` or
            `Conv2D`. Its bias is not changed.
        **kwargs: Passed to `keras.layers.Wrapper`: `name`, `dtype`.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to update the estimate.

    Returns:
        As for the wrapped layer.

    Raises:
        ValueError: if the layer has an activation.

    Example:

    >>> layer = SpectralNormalization(keras.layers.Dense(3))
    >>> layer(np.zeros((2, 4), "float32"), training=True).shape
    TensorShape([2, 3])
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs):
        super().__init__(layer, **kwargs)
        if getattr(layer, "activation", None) not in (None, keras.activations.linear):
            raise ValueError(
                f"layer: {layer.name!r} has an activation, expected none: apply it afterwards"
            )

    def build(self, input_shape):
        super().build(input_shape)
        # The right singular vector, on the output side.
        self.vector = self.add_weight(
            shape=(self.layer.kernel.shape[-1],),
            initializer="random_normal",
            trainable=False,
            autocast=False,
            name="vector",
        )

    def singular_value(self, training: bool = False) -> tf.Tensor:
        """Estimate the largest singular value of the kernel by one power iteration.

        Args:
            training: Whether to save the singular vector for the next call.

        Returns:
            A scalar in the dtype of the weights.
        """
        kernel = ops.cast(self.layer.kernel, self.variable_dtype)
        kernel = ops.reshape(kernel, (-1, kernel.shape[-1]))  # (inputs, outputs)
        constant = ops.stop_gradient(kernel)
        left = ops.normalize(ops.matmul(constant, self.vector), axis=0)
        right = ops.normalize(ops.matmul(left, constant), axis=0)
        if training:
            self.vector.assign(right)
        value = ops.sum(left * ops.matmul(kernel, right))
        return ops.maximum(value, keras.config.epsilon())  # Zero for a kernel of zeros.

    def call(self, inputs, training=None):
        outputs = self.layer(inputs)
        scale = ops.cast(1 / self.singular_value(training), outputs.dtype)
        if self.layer.use_bias:
            return outputs * scale + ops.cast(self.layer.bias, outputs.dtype) * (1 - scale)
        return outputs * scale

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)
