"""Whitening of image patches (Coates and Ng, 2012; as a first layer: Page, 2018)."""

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="bigmodels")
class PatchWhitening(layers.Layer):
    """Convolution onto the principal components of patches, and onto their negatives.

    Each component has mean 0 and variance 1 over the patches of the images that `adapt` was called
    with, and components are uncorrelated. Both signs are kept, so that a following activation
    loses nothing. The weights are not trained.

    Args:
        patch_size: Height and width of a patch, in pixels.
        epsilon: Added to the variance of each component, relative to the mean variance of a pixel.
            It keeps components that are mostly noise small.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        images: `(batch, height, width, channels)`, floats.

    Returns:
        `(batch, height - patch_size + 1, width - patch_size + 1, 2 * patch_size**2 * channels)`.

    Example:

    >>> layer = PatchWhitening(2)
    >>> images = np.random.default_rng(0).uniform(size=(50, 8, 8, 3)).astype("float32")
    >>> layer.adapt(images)
    >>> whitened = layer(images)
    >>> whitened.shape
    TensorShape([50, 7, 7, 24])
    >>> round(float(keras.ops.std(whitened)), 2)
    1.0
    """

    def __init__(self, patch_size: int = 2, epsilon: float = 5e-4, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        patch = (self.patch_size, self.patch_size, channels)
        components = self.patch_size**2 * channels
        # Before `adapt`, an orthogonal map of pixels that are uniform in [0, 1].
        self.kernel = self.add_weight(
            shape=(*patch, components),
            initializer=keras.initializers.Orthogonal(12**0.5),
            trainable=False,
            name="kernel",
        )
        self.mean = self.add_weight(
            shape=patch,
            initializer=keras.initializers.Constant(0.5),
            trainable=False,
            autocast=False,
            name="mean",
        )

    def adapt(self, images: np.ndarray) -> None:
        """Set the weights from the principal components of all patches of some images.

        Args:
            images: `(images, height, width, channels)`, floats; training images without
                augmentation.
        """
        if not self.built:
            self.build(images.shape)
        size, channels = self.patch_size, images.shape[-1]
        total, products, count = 0.0, 0.0, 0
        for batch in np.array_split(images, -(-len(images) // 500)):  # Bounds the memory.
            patches = np.lib.stride_tricks.sliding_window_view(batch, (size, size), (1, 2))
            # (batch, rows, columns, channels, size, size) -> (patches, size * size * channels)
            patches = np.moveaxis(patches, 3, -1).reshape(-1, size * size * channels)
            patches = patches.astype("float64")
            total, products = total + patches.sum(0), products + patches.T @ patches
            count += len(patches)
        mean = total / count
        variances, components = np.linalg.eigh(products / count - np.outer(mean, mean))
        floor = self.epsilon * variances.mean() + np.finfo("float32").tiny
        kernel = components / np.sqrt(np.maximum(variances, 0) + floor)
        self.kernel.assign(kernel.reshape(self.kernel.shape))
        self.mean.assign(mean.reshape(self.mean.shape))

    def call(self, images):
        bias = ops.einsum("hwc,hwcf->f", self.mean, ops.cast(self.kernel, self.mean.dtype))
        whitened = ops.conv(images, self.kernel, padding="valid")
        whitened -= ops.cast(bias, whitened.dtype)
        return ops.concatenate([whitened, -whitened], -1)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        sizes = (None if n is None else n - self.patch_size + 1 for n in (height, width))
        return (batch, *sizes, 2 * self.patch_size**2 * channels)

    def get_config(self):
        return super().get_config() | {"patch_size": self.patch_size, "epsilon": self.epsilon}
