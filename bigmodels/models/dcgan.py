"""A convolutional pair for the GAN, after DCGAN (Radford et al., 2016).

Beyond the article, whose own networks are dense (`gan.py`); the same arguments where they mean the
same, so that either pair goes into `GAN`.

    noise (batch, latent_dim) -> images (batch, height, width, channels) in [-1, 1] -> logit
"""

import math

import keras
from keras import layers

from bigmodels.layers import SpectralNormalization
from bigmodels.models.base import LayerStack, check_image_shape


@keras.saving.register_keras_serializable(package="bigmodels")
class ConvGenerator(LayerStack):
    """A convolutional generator after DCGAN (Radford et al., 2016).

    Args:
        latent_dim: Width of the noise.
        image_shape: Shape of the image made; height and width divisible by 4.
        filters: Filters before the first and second enlargement.
        **kwargs: As for every `keras.Model`.

    Call arguments and returns: as for `Generator`.

    Raises:
        ValueError: if `image_shape` does not fit.
    """

    def __init__(self, latent_dim=100, image_shape=(28, 28, 1), filters=(128, 64), **kwargs):
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
    """A convolutional discriminator after DCGAN, by default with dropout for batch normalisation.

    Args:
        image_shape: Shape of the images judged.
        filters: Filters of the two convolutions, each halving height and width.
        dropout_rate: Share of units dropped after each convolution.
        normalization: `"none"`; `"batch"`, after the second convolution as in DCGAN; or
            `"spectral"`, of every layer's weights (Miyato et al., 2018).
        **kwargs: As for every `keras.Model`.

    Call arguments and returns: as for `Discriminator`.

    Raises:
        ValueError: if `image_shape` does not fit or `normalization` is unknown.
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        filters=(64, 128),
        dropout_rate=0.3,
        normalization="none",
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
        in_batch = normalization == "batch"

        def normal(layer):
            if normalization != "spectral":
                return layer
            return SpectralNormalization(layer, dtype=layer.dtype_policy, name=layer.name)

        self.conv1 = normal(layers.Conv2D(self.filters[0], 4, 2, "same", dtype=dtype, name="conv1"))
        self.leakyrelu1 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu1")
        self.dropout1 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout1")
        conv2 = layers.Conv2D(
            self.filters[1], 4, 2, "same", use_bias=not in_batch, dtype=dtype, name="conv2"
        )
        self.conv2 = normal(conv2)
        if in_batch:
            norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="batchnorm2")
            self.batchnorm2 = norm
        self.leakyrelu2 = layers.LeakyReLU(0.2, dtype=dtype, name="leakyrelu2")
        self.dropout2 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout2")
        self.flatten = layers.Flatten(dtype=dtype, name="flatten")
        # The logit stays in full precision under a mixed policy.
        self.dense1 = normal(layers.Dense(1, dtype=dtype.variable_dtype, name="dense1"))

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
