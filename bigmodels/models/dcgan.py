"""Convolutional generator and discriminator for `GAN`, after DCGAN (Radford et al., 2016).

The article's own networks are dense, see `gan.py`. Arguments that both pairs have are named alike.

    noise (batch, latent_dim) -> images (batch, height, width, channels) in [-1, 1] -> logit
"""

import math
from collections.abc import Iterable, Sequence

import keras
from keras import layers

from bigmodels.layers import SpectralNormalization
from bigmodels.models.base import LayerStack, check_image_shape


@keras.saving.register_keras_serializable(package="bigmodels")
class ConvGenerator(LayerStack):
    """Convolutional generator after DCGAN (Radford et al., 2016).

    Args:
        latent_dim: Dimension of the noise vector.
        image_shape: `(height, width, channels)` of the generated images; height and width must be
            divisible by 4.
        filters: Filters before the first and before the second transposed convolution.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Noise `(batch, latent_dim)`.
        training: Whether batch normalisation uses the statistics of the batch.

    Returns:
        Images in [-1, 1], `(batch, height, width, channels)`.

    Raises:
        ValueError: if `image_shape` is invalid.

    Example:

    >>> generator = ConvGenerator(latent_dim=4, image_shape=(8, 8, 1), filters=(8, 4))
    >>> generator(np.zeros((2, 4), "float32")).shape
    TensorShape([2, 8, 8, 1])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: Sequence[int] = (28, 28, 1),
        filters: Iterable[int] = (128, 64),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        self.image_shape = check_image_shape(image_shape)
        self.filters = tuple(filters)
        self.default_input_shape = (None, latent_dim)
        height, width, channels = self.image_shape
        if height % 4 or width % 4:
            raise ValueError(
                f"image_shape: {self.image_shape}, height and width must be divisible by 4"
            )
        dtype = self.dtype_policy
        start = (height // 4, width // 4, self.filters[0])
        self.dense1 = layers.Dense(math.prod(start), use_bias=False, dtype=dtype, name="dense1")
        self.reshape = layers.Reshape(start, dtype=dtype, name="reshape")
        self.batchnorm1 = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="batchnorm1")
        self.leakyrelu1 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu1")
        self.conv1 = layers.Conv2DTranspose(
            self.filters[1], 4, 2, "same", use_bias=False, dtype=dtype, name="conv1"
        )
        self.batchnorm2 = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="batchnorm2")
        self.leakyrelu2 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu2")
        # Pixels stay in full precision under a mixed policy.
        self.conv2 = layers.Conv2DTranspose(
            channels,
            4,
            2,
            "same",
            activation="tanh",
            dtype=dtype.variable_dtype,
            name="conv2",
        )

    def layers_in_order(self):
        return [
            self.dense1, self.reshape, self.batchnorm1, self.leakyrelu1,
            self.conv1, self.batchnorm2, self.leakyrelu2, self.conv2,
        ]  # fmt: skip

    def get_config(self):
        config = super().get_config()
        config.update(
            latent_dim=self.latent_dim, image_shape=self.image_shape, filters=self.filters
        )
        return config


@keras.saving.register_keras_serializable(package="bigmodels")
class ConvDiscriminator(LayerStack):
    """Convolutional discriminator after DCGAN (Radford et al., 2016).

    By default it has dropout instead of batch normalisation.

    Args:
        image_shape: `(height, width, channels)` of the images.
        filters: Filters of the two convolutions, each of stride 2.
        dropout_rate: Fraction of units dropped after each convolution.
        normalization: `"none"`; `"batch"` for batch normalisation after the second convolution, as
            in DCGAN; or `"spectral"` for spectral normalisation of all weights (Miyato et al.,
            2018).
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images in [-1, 1], `(batch, height, width, channels)`.
        training: Whether to run in training mode (dropout, batch statistics).

    Returns:
        Logits `(batch, 1)`: positive for "real"; `keras.ops.sigmoid` gives probabilities.

    Raises:
        ValueError: if `image_shape` is invalid or `normalization` is unknown.

    Example:

    >>> discriminator = ConvDiscriminator(image_shape=(8, 8, 1), filters=(4, 8))
    >>> discriminator(np.zeros((2, 8, 8, 1), "float32")).shape
    TensorShape([2, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        filters: Iterable[int] = (64, 128),
        dropout_rate: float = 0.3,
        normalization: str = "none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if normalization not in ("none", "batch", "spectral"):
            raise ValueError(
                f"normalization: {normalization!r}, expected 'none', 'batch' or 'spectral'"
            )
        self.image_shape = check_image_shape(image_shape)
        self.filters = tuple(filters)
        self.dropout_rate = dropout_rate
        self.normalization = normalization
        self.default_input_shape = (None, *self.image_shape)
        dtype = self.dtype_policy
        batch_norm = normalization == "batch"

        def normalized(layer):
            if normalization != "spectral":
                return layer
            return SpectralNormalization(layer, dtype=layer.dtype_policy, name=layer.name)

        conv1 = layers.Conv2D(self.filters[0], 4, 2, "same", dtype=dtype, name="conv1")
        self.conv1 = normalized(conv1)
        self.leakyrelu1 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu1")
        self.dropout1 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout1")
        conv2 = layers.Conv2D(
            self.filters[1], 4, 2, "same", use_bias=not batch_norm, dtype=dtype, name="conv2"
        )
        self.conv2 = normalized(conv2)
        if batch_norm:
            norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="batchnorm2")
            self.batchnorm2 = norm
        self.leakyrelu2 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu2")
        self.dropout2 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout2")
        self.flatten = layers.Flatten(dtype=dtype, name="flatten")
        # The logit stays in full precision under a mixed policy.
        self.dense1 = normalized(layers.Dense(1, dtype=dtype.variable_dtype, name="dense1"))

    def layers_in_order(self):
        norm = [self.batchnorm2] if self.normalization == "batch" else []
        return [
            self.conv1, self.leakyrelu1, self.dropout1, self.conv2, *norm, self.leakyrelu2,
            self.dropout2, self.flatten, self.dense1,
        ]  # fmt: skip

    def get_config(self):
        config = super().get_config()
        config.update(
            image_shape=self.image_shape,
            filters=self.filters,
            dropout_rate=self.dropout_rate,
            normalization=self.normalization,
        )
        return config
