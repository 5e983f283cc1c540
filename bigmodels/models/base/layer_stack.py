"""The base class of models that apply their layers one after the other."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import layers

from bigmodels.distribute import Model
from bigmodels.layers.spectral_normalization import SpectralNormalization

# Layers that behave differently in training.
_WITH_MODES = layers.Dropout | layers.BatchNormalization | SpectralNormalization


class LayerStack(Model):
    """A sequential model whose layers are attributes; a subclass lists them in order.

    Unlike in `keras.Sequential`, the layers keep the article's attribute names.

    Example:

    >>> class Net(LayerStack):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.dense1 = keras.layers.Dense(8, activation="relu")
    ...         self.dense2 = keras.layers.Dense(2)
    ...
    ...     def layers_in_order(self):
    ...         return [self.dense1, self.dense2]
    >>> Net()(np.zeros((4, 3), "float32")).shape
    TensorShape([4, 2])
    """

    def layers_in_order(self) -> list[layers.Layer]:
        """The layers, first to last."""
        raise NotImplementedError

    def build(self, input_shape):
        shape = tuple(input_shape)
        for layer in self.layers_in_order():
            try:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
                nothing_left = any(size is not None and size < 1 for size in shape)
            except ValueError:
                nothing_left = True  # A convolution raises its own, less helpful error.
            if nothing_left:
                raise ValueError(
                    f"input_shape: {tuple(input_shape)} is too small: nothing is left of it after "
                    f"{layer.name}"
                )
        self.built = True

    def call(self, inputs, training=None):
        return self._through(self.layers_in_order(), inputs, training)

    def features(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Compute the input of the last layer.

        Args:
            inputs: As for calling the model.
            training: As for calling the model.

        Returns:
            The output of the last layer but one.
        """
        return self._through(self.layers_in_order()[:-1], inputs, training)

    def _through(self, some_layers, x, training):
        for layer in some_layers:
            x = layer(x, training=training) if isinstance(layer, _WITH_MODES) else layer(x)
        return x

    def compute_output_shape(self, input_shape):
        shape = tuple(input_shape)
        for layer in self.layers_in_order():
            shape = layer.compute_output_shape(shape)
        return shape


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Validate an image shape.

    Args:
        image_shape: `(height, width, channels)`.

    Returns:
        The shape as a tuple.

    Raises:
        ValueError: if it does not consist of three positive sizes.

    Example:

    >>> check_image_shape([28, 28, 1])
    (28, 28, 1)
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape: {image_shape!r}, expected (height, width, channels)")
    return tuple(image_shape)
