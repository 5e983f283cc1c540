"""Keras' optimizers with a learning rate of its own for every group of variables."""

import re
from collections.abc import Mapping
from typing import Any

import keras


class LearningRateMultipliers:
    """Mixin for a `keras.optimizers.Optimizer`: multiply the learning rate of some variables.

    Decoupled weight decay is not multiplied; see `exclude_from_weight_decay` for that.

    Args:
        *args: As for the optimizer.
        learning_rate_multipliers: `{pattern: factor}`. The factor of the first regular expression
            that is found in a variable's path (`"model/layer/kernel"`) is used; 0 freezes it.
        **kwargs: As for the optimizer.

    Raises:
        ValueError: if a pattern is no regular expression, a factor is negative or not finite, or a
            pattern is found in no variable.
    """

    def __init__(
        self, *args: Any, learning_rate_multipliers: Mapping[str, float] | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.learning_rate_multipliers = dict(learning_rate_multipliers or {})
        for pattern, factor in self.learning_rate_multipliers.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"learning_rate_multipliers: {pattern!r} is no regular expression ({error})"
                ) from None
            if not 0 <= factor < float("inf"):
                raise ValueError(
                    f"learning_rate_multipliers: {pattern!r} has the factor {factor!r}, expected a "
                    "number that is not negative"
                )

    def build(self, variables):
        if self.built:
            return
        for pattern in self.learning_rate_multipliers:
            if not any(re.search(pattern, variable.path) for variable in variables):
                first = ", ".join(variable.path for variable in variables[:3])
                raise ValueError(
                    f"learning_rate_multipliers: {pattern!r} is found in no variable; the first "
                    f"are {first}"
                )
        # Of every variable, as an update is given TensorFlow's variables, which have no path.
        self._factors = [self._factor(variable.path) for variable in variables]
        super().build(variables)

    def _factor(self, path):
        patterns = self.learning_rate_multipliers.items()
        return next((factor for pattern, factor in patterns if re.search(pattern, path)), 1.0)

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        multipliers = dict(self.learning_rate_multipliers)
        return {**super().get_config(), "learning_rate_multipliers": multipliers}


@keras.saving.register_keras_serializable(package="bigmodels")
class SGD(LearningRateMultipliers, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with `learning_rate_multipliers`.

    Example:

    >>> optimizer = bigmodels.optimizers.SGD(0.1, learning_rate_multipliers={"bias": 2.0})
    >>> kernel = keras.Variable([1.0], name="kernel")
    >>> bias = keras.Variable([1.0], name="bias")
    >>> optimizer.apply([tf.ones(1), tf.ones(1)], [kernel, bias])
    >>> kernel.numpy().round(2), bias.numpy().round(2)
    (array([0.9], dtype=float32), array([0.8], dtype=float32))
    """


@keras.saving.register_keras_serializable(package="bigmodels")
class Adam(LearningRateMultipliers, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with `learning_rate_multipliers`.

    Example:

    >>> optimizer = bigmodels.optimizers.Adam(1e-3, learning_rate_multipliers={"embedding": 3.0})
    >>> optimizer.learning_rate_multipliers
    {'embedding': 3.0}
    """


@keras.saving.register_keras_serializable(package="bigmodels")
class AdamW(LearningRateMultipliers, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with `learning_rate_multipliers`.

    Example:

    >>> optimizer = bigmodels.optimizers.AdamW(1e-3, learning_rate_multipliers={"embedding": 3.0})
    >>> optimizer.learning_rate_multipliers
    {'embedding': 3.0}
    """
