"""Activations of feed-forward networks that Keras does not have."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
def relu_squared(x: Any) -> Any:
    """Square of the rectified input (So et al., 2021).

    Args:
        x: A tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.

    Example:

    >>> relu_squared(np.array([-2.0, 0.5, 3.0], "float32")).numpy()
    array([0.  , 0.25, 9.  ], dtype=float32)
    """
    return ops.square(ops.relu(x))


@keras.saving.register_keras_serializable(package="bigmodels")
def swiglu(x: Any) -> Any:
    """Gated unit: the second half of the features times SiLU of the first (Shazeer, 2020).

    Args:
        x: `(..., 2 * units)`.

    Returns:
        `(..., units)`.

    Example:

    >>> swiglu(np.array([[0.0, 2.0, 3.0, 4.0]], "float32")).numpy().round(2)
    array([[0.  , 7.05]], dtype=float32)
    """
    gate, value = ops.split(x, 2, axis=-1)
    return ops.silu(gate) * value


# By name: the activation, and how many features it needs for one of its output.
ACTIVATIONS: dict[str, tuple[str | Callable, int]] = {
    "relu": ("relu", 1),
    "relu_squared": (relu_squared, 1),
    "swiglu": (swiglu, 2),
}
