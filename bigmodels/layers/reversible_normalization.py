"""Reversible instance normalisation of series (Kim et al., 2022)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class ReversibleNormalization(keras.layers.Layer):
    """Takes from each window its own level and spread, and gives them back to a forecast of it.

    What a series was around in training need not be what it is around later; what is left after
    normalisation looks more alike.

    Args:
        epsilon: Added to a window's variance.
        **kwargs: As for every layer. Statistics are computed in the dtype of the weights.

    Call arguments:
        inputs: Windows, `(batch, length, variables)`.

    Returns:
        `(normalised, statistics)`: the windows, scaled and shifted by a learnt `gamma` and `beta`
        for each variable, and the pair of mean and standard deviation, `(batch, 1, variables)`.
    """

    def __init__(self, epsilon=1e-5, **kwargs):
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
        each = (input_shape[0], 1, input_shape[-1])
        return tuple(input_shape), (each, each)

    def reverse(self, outputs, statistics):
        """What `call` did, undone.

        Args:
            outputs: Forecasts in normalised units, `(batch, horizon, variables)`.
            statistics: Of the windows they belong to, from `call`.

        Returns:
            The same in the units of the windows.
        """
        mean, deviation = statistics
        # A gamma of zero has nothing to undo; the authors guard it in the same way.
        y = (outputs - self.beta) / (self.gamma + self.epsilon**2)
        return y * deviation + mean

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}
