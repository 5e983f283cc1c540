"""Reversible instance normalisation of time series (Kim et al., 2022)."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class ReversibleNormalization(keras.layers.Layer):
    """Reversible instance normalisation (RevIN) of time-series windows (Kim et al., 2022).

    Each window is normalised with its own mean and standard deviation, which `reverse` restores in
    the forecast. This makes a model robust to a shift of the distribution between training and use.
    Statistics are computed in the dtype of the weights.

    Args:
        epsilon: Added to a window's variance, for numerical stability.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: Windows `(batch, length, variables)`.

    Returns:
        `(normalised, statistics)`: the normalised windows, scaled and shifted by a learnt `gamma`
        and `beta` for each variable, and the pair of mean and standard deviation, each `(batch, 1,
        variables)`.

    Example:

    >>> layer = ReversibleNormalization()
    >>> window = np.array([[[1.0], [2.0], [3.0]]])
    >>> normalised, statistics = layer(window)
    >>> layer.reverse(normalised, statistics).numpy().ravel().round(3)
    array([1., 2., 3.], dtype=float32)
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", autocast=False, name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", autocast=False, name="beta")
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, self.variable_dtype)
        mean, variance = ops.moments(x, 1, keepdims=True)
        deviation = ops.sqrt(variance + self.epsilon)
        return (x - mean) / deviation * self.gamma + self.beta, (mean, deviation)

    def compute_output_shape(self, input_shape):
        statistic = (input_shape[0], 1, input_shape[-1])
        return tuple(input_shape), (statistic, statistic)

    def reverse(self, outputs: Any, statistics: tuple[Any, Any]) -> tf.Tensor:
        """Undo the normalisation.

        Args:
            outputs: Normalised forecasts `(batch, horizon, variables)`.
            statistics: The statistics of their windows, from the call.

        Returns:
            The forecasts in the units of the windows, `(batch, horizon, variables)`.
        """
        mean, deviation = statistics
        # Avoids a division by zero, in the same way as the authors' code.
        y = (outputs - self.beta) / (self.gamma + self.epsilon**2)
        return y * deviation + mean

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}
