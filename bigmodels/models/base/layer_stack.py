"""A model that is its layers, one after the other."""

from keras import layers

from bigmodels.distribute import Model
from bigmodels.layers.spectral_normalization import SpectralNormalization

# Layers that do something else in training.
_WITH_MODES = layers.Dropout | layers.BatchNormalization | SpectralNormalization


class LayerStack(Model):
    """What the models share that are a plain stack: a subclass names its layers in order.

    Unlike `keras.Sequential` the layers stay attributes under the article's names.
    """

    def layers_in_order(self):
        """The layers, first to last.

        Returns:
            A list of `keras.layers.Layer`.
        """
        raise NotImplementedError

    def build(self, input_shape):
        shape = tuple(input_shape)
        for layer in self.layers_in_order():
            try:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
                nothing_left = any(size is not None and size < 1 for size in shape)
            except ValueError:
                nothing_left = True  # A convolution says so itself, in other words.
            if nothing_left:
                raise ValueError(
                    f"input_shape: {tuple(input_shape)} is too small: nothing is left of it after "
                    f"{layer.name}"
                )
        self.built = True

    def call(self, inputs, training=None):
        return self._through(self.layers_in_order(), inputs, training)

    def features(self, inputs, training=None):
        """What the last layer is given.

        Args:
            inputs: As for the model.
            training: As for the model.

        Returns:
            The last layer's inputs.
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


def check_image_shape(image_shape):
    """An image's shape as a tuple.

    Args:
        image_shape: `(height, width, channels)`.

    Returns:
        The tuple.

    Raises:
        ValueError: if it is not three positive sizes.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape: {image_shape!r}, expected (height, width, channels)")
    return tuple(image_shape)
