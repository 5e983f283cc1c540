"""Layer normalisation with a hand-written gradient."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="bigmodels")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` with a faster gradient (Ba et al., 2016).

    Arguments, weights and results are those of the Keras layer. Automatic differentiation makes
    about twenty passes over the input; the hand-written gradient makes half as many. Normalisation
    over several axes, without scale or offset, or by the root mean square falls back to Keras.

    Example:

    >>> LayerNormalization()(np.array([[1.0, 3.0]])).numpy().round(2)
    array([[-1.,  1.]], dtype=float32)
    """

    def call(self, inputs):
        """As for `keras.layers.LayerNormalization`."""
        last_axis = self.axis in (-1, [-1], [inputs.shape.rank - 1])
        if not last_axis or self.rms_scaling or self.gamma is None or self.beta is None:
            return super().call(inputs)
        wide = tf.cast(inputs, tf.float32) if inputs.dtype.size < 4 else inputs
        gamma, beta = (tf.cast(v, wide.dtype) for v in (self.gamma, self.beta))
        outputs = _normalised(wide, gamma, beta, self.epsilon)
        return tf.cast(outputs, self.compute_dtype)


def _normalised(x, gamma, beta, epsilon):
    """Normalise rows to mean 0 and variance 1, then scale and shift them."""
    width = x.shape[-1]

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)
        unit = centred * scale

        def gradient(upstream):
            weighted = upstream * unit
            along = tf.linalg.matvec(weighted, gamma / width)[..., None]
            mean = tf.linalg.matvec(upstream, gamma / width)[..., None]
            to_x = (upstream * gamma - mean - unit * along) * scale
            to_gamma = tf.raw_ops.BiasAddGrad(out_backprop=weighted)
            return to_x, to_gamma, tf.raw_ops.BiasAddGrad(out_backprop=upstream)

        return unit * gamma + beta, gradient

    return normalise(x, gamma, beta)
