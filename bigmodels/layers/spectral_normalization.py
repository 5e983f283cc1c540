"""Spectral normalisation (Miyato et al., 2018)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class SpectralNormalization(keras.layers.Wrapper):
    """A layer whose kernel is divided by its largest singular value, so that it stretches nothing.

    `keras.layers.SpectralNormalization` writes the divided kernel over the weights in each call:
    no gradient goes through the division, and the real and the made images of one step are judged
    by different weights. Here, as in the paper, the weights are the optimizer's alone and the
    gradient knows of the division; replicas stay alike, as what is kept follows from the weights.

    The singular value is found by the power method: one round in each call in training, from where
    the last one has ended. The kernel of a convolution counts as a matrix of
    `(height * width * channels, filters)`, as there.

    Args:
        layer: One that is linear but for its bias, and has a `kernel` whose last axis is its
            outputs': `Dense`, `Conv2D`. The bias stays as it is.
        **kwargs: As for every layer.

    Raises:
        ValueError: if the layer has an activation.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        if getattr(layer, "activation", None) not in (None, keras.activations.linear):
            raise ValueError(f"layer: {layer.name!r} has an activation, which comes after dividing")

    def build(self, input_shape):
        super().build(input_shape)
        # The singular vector on the side of the outputs.
        self.vector = self.add_weight(
            shape=(self.layer.kernel.shape[-1],),
            initializer="random_normal",
            trainable=False,
            autocast=False,
            name="vector",
        )

    def singular_value(self, training=False):
        """The largest singular value of the kernel, as far as the power method has come.

        Args:
            training: Whether what is found is kept for the next time.

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
        return ops.maximum(value, keras.config.epsilon())  # A kernel of zeros has none.

    def call(self, inputs, training=None):
        outputs = self.layer(inputs)
        scale = ops.cast(1 / self.singular_value(training), outputs.dtype)
        if self.layer.use_bias:
            return outputs * scale + ops.cast(self.layer.bias, outputs.dtype) * (1 - scale)
        return outputs * scale

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)
