"""Image inpainting with a generator and a discriminator (article 2.1).

The article names the application and prints no network for it. This one is after the context
encoders of Pathak et al. (2016). Changed: the generator learns a correction to a smooth filling of
the hole, there are skip connections from encoder to decoder, holes may be anywhere, and the
discriminator sees the whole image instead of the hole alone.

    images with a hole and its mask (batch, height, width, channels + 1) -> images without
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model, all_sum, share
from bigmodels.layers import HarmonicFill
from bigmodels.models.base import check_image_shape

_NEARLY = 0.999  # arctanh is infinite at 1.


@keras.saving.register_keras_serializable(package="bigmodels")
class Inpainter(Model):
    """Convolutional encoder-decoder with skip connections that paints holes in images.

    It predicts a correction to a smooth filling of the hole, `bigmodels.layers.HarmonicFill`, which
    is zero before training.

    Args:
        image_shape: `(height, width, channels)` of the images; any size.
        filters: Filters of each stage; each stage after the first halves height and width.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: `(batch, height, width, channels + 1)`: images in [-1, 1], and in the last channel a
            mask, 1 in the hole and 0 elsewhere. Pixels in the hole are ignored.

    Returns:
        Images in [-1, 1], `(batch, height, width, channels)`; pixels outside of the hole are
        predicted too.

    Raises:
        ValueError: if `image_shape` does not consist of three positive sizes or `filters` is empty.

    Example:

    >>> inpainter = Inpainter(image_shape=(8, 8, 1), filters=(4, 8))
    >>> inpainter(np.zeros((2, 8, 8, 2), "float32")).shape
    TensorShape([2, 8, 8, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        filters: Sequence[int] = (32, 64, 128, 128),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False  # Pixels stay in full precision under a mixed policy.
        self.image_shape = check_image_shape(image_shape)
        self.filters = tuple(filters)
        if not self.filters:
            raise ValueError(f"filters: {filters!r}, expected one number or more")
        height, width, channels = self.image_shape
        self.default_input_shape = (None, height, width, channels + 1)
        dtype = self.dtype_policy

        self.fill = HarmonicFill(dtype=dtype, name="fill")
        options = {"padding": "same", "kernel_initializer": "he_normal", "dtype": dtype}
        # The first stage keeps the size. In the decoder, `up` upsamples and `merge` convolves the
        # sum with the encoder's stage.
        for i, count in enumerate(self.filters, start=1):  # self.down1, self.down2, ...
            size, stride = (5, 1) if i == 1 else (3, 2)
            down = layers.Conv2D(count, size, stride, name=f"down{i}", **options)
            setattr(self, f"down{i}", down)
        self.middle = layers.Conv2D(self.filters[-1], 3, name="middle", **options)
        for i, count in enumerate(self.filters[:-1], start=1):  # self.up1, self.merge1, ...
            up = layers.Conv2DTranspose(count, 4, 2, name=f"up{i}", **options)
            setattr(self, f"up{i}", up)
            setattr(self, f"merge{i}", layers.Conv2D(count, 3, name=f"merge{i}", **options))
        self.paint = layers.Conv2D(
            channels,
            3,
            padding="same",
            kernel_initializer="zeros",
            dtype=dtype.variable_dtype,
            name="paint",
        )

    def build(self, input_shape):
        shape = tuple(input_shape)
        if shape[1:] != self.default_input_shape[1:]:
            raise ValueError(
                f"input_shape: {shape}, expected {self.default_input_shape}: images and a mask"
            )
        self.fill.build(shape)
        stages = []
        for i in range(1, len(self.filters) + 1):
            down = getattr(self, f"down{i}")
            down.build(shape)
            shape = down.compute_output_shape(shape)
            stages.append(shape)
        self.middle.build(shape)
        for i in range(len(self.filters) - 1, 0, -1):
            getattr(self, f"up{i}").build(stages[i])
            getattr(self, f"merge{i}").build(stages[i - 1])
        self.paint.build(stages[0])
        self.built = True

    def call(self, inputs):
        filled = self.fill(inputs)
        x = ops.concatenate([filled, ops.cast(inputs[..., -1:], filled.dtype)], -1)
        stages = []
        for i in range(1, len(self.filters) + 1):
            x = ops.leaky_relu(getattr(self, f"down{i}")(x))
            stages.append(x)  # (batch, height / 2**(i-1), width / 2**(i-1), filters), rounded up
        x = ops.leaky_relu(self.middle(x))
        for i in range(len(self.filters) - 1, 0, -1):
            stage = stages[i - 1]
            # Half of an odd size was rounded up.
            x = getattr(self, f"up{i}")(x)[:, : stage.shape[1], : stage.shape[2]]
            x = ops.leaky_relu(getattr(self, f"merge{i}")(ops.leaky_relu(x) + stage))
        # The correction is added before the tanh, so that the result stays within [-1, 1]. The
        # arctanh is written out, as LiteRT and ONNX have none.
        filled = _NEARLY * filled
        arctanh = (ops.log(1 + filled) - ops.log(1 - filled)) / 2
        return ops.tanh(arctanh + self.paint(x))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.image_shape[-1])

    def get_config(self):
        config = super().get_config()
        config.update(image_shape=self.image_shape, filters=self.filters)
        return config


@keras.saving.register_keras_serializable(package="bigmodels")
class InpaintingGAN(Model):
    """An inpainting generator trained with a reconstruction loss and, optionally, a discriminator.

    `fit` takes images with a hole and its mask as inputs and the complete images as targets, both
    in [-1, 1]. `loss` in its logs is the reconstruction loss alone, averaged over the hole of each
    image, so that it is comparable between values of `adversarial_weight`. With a discriminator
    `d_loss` and `g_loss` are logged too. Calling the model, and `predict`, fill the holes and leave
    all other pixels unchanged.

    Args:
        generator: Model from images with a hole and its mask to painted images, see `Inpainter`.
        discriminator: Model from images to one logit; `None` trains with the reconstruction loss
            alone.
        adversarial_weight: The generator minimises the reconstruction loss plus this times
            `g_loss`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Attributes:
        generator, discriminator: The networks.
        d_optimizer, g_optimizer: Their optimizers, once compiled.

    Raises:
        ValueError: if the discriminator takes images of another shape, or only one of
            `discriminator` and `adversarial_weight` is given.

    Example:

    >>> model = InpaintingGAN(Inpainter(image_shape=(8, 8, 1), filters=(4, 8)))
    >>> image = np.full((1, 8, 8, 1), 0.5, "float32")
    >>> mask = np.zeros_like(image)
    >>> mask[:, 2:4, 2:4] = 1
    >>> filled = model(np.concatenate([image * (1 - mask), mask], axis=-1))
    >>> np.allclose(filled, 0.5, atol=0.01)
    True
    """

    # Losses are scaled by `share`, gradients go to `apply`.
    supports_replicas = True

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model | None = None,
        adversarial_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False  # Half precision would change the pixels outside of the hole.
        if not adversarial_weight >= 0 or bool(adversarial_weight) != bool(discriminator):
            given = "none" if discriminator is None else "one"
            raise ValueError(
                f"adversarial_weight: {adversarial_weight!r}, expected a positive number with a "
                f"discriminator and 0 without; there is {given}"
            )
        self.generator = generator
        self.discriminator = discriminator
        self.adversarial_weight = adversarial_weight
        self.image_shape = tuple(generator.image_shape)
        height, width, channels = self.image_shape
        self.default_input_shape = (None, height, width, channels + 1)
        trackers = ("loss", "d_loss", "g_loss") if discriminator else ("loss",)
        self.trackers = [keras.metrics.Mean(name=name) for name in trackers]
        self.build(self.default_input_shape)

    def build(self, input_shape):
        if not self.generator.built:
            self.generator.build(input_shape)
        if self.discriminator is not None:
            wanted = tuple(getattr(self.discriminator, "image_shape", self.image_shape))
            if wanted != self.image_shape:
                raise ValueError(
                    f"discriminator: takes images {wanted}, but the generator makes "
                    f"{self.image_shape}"
                )
            if not self.discriminator.built:
                self.discriminator.build((None, *self.image_shape))
        self.built = True

    def compile(
        self,
        d_optimizer: keras.optimizers.Optimizer | str | None = None,
        g_optimizer: keras.optimizers.Optimizer | str | None = None,
        reconstruction_loss: Any = "mean_squared_error",
        adversarial_loss: Any = None,
        **kwargs,
    ) -> None:
        """Configure the training of the networks.

        Args:
            d_optimizer: The discriminator's optimizer; defaults to `Adam(2e-4, beta_1=0.5)`.
            g_optimizer: The generator's optimizer; defaults to `Adam(1e-3)`.
            reconstruction_loss: Loss of (images, filled images), computed for each pixel.
            adversarial_loss: Loss of (labels, logits) with label 1 for real and 0 for filled
                images; defaults to binary cross-entropy on logits.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as for `keras.Model`.

        Raises:
            ValueError: if an optimizer has `use_ema=True`, which Keras supports only for one
                optimizer with all weights of a model.
        """
        g_optimizer = keras.optimizers.get(g_optimizer or keras.optimizers.Adam(1e-3))
        if self.discriminator is None:
            d_optimizer = None
        else:
            d_optimizer = keras.optimizers.get(
                d_optimizer or keras.optimizers.Adam(2e-4, beta_1=0.5)
            )
        for name, optimizer in (("d_optimizer", d_optimizer), ("g_optimizer", g_optimizer)):
            if getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False):
                raise ValueError(f"{name}: use_ema=True is not supported for one of two optimizers")
        # For float16, Keras wraps the optimizer it gets for loss scaling; wrap the other one too.
        super().compile(optimizer=g_optimizer, **kwargs)
        self.g_optimizer = self.optimizer
        scaled = isinstance(self.g_optimizer, keras.optimizers.LossScaleOptimizer)
        if d_optimizer and scaled:
            if not isinstance(d_optimizer, keras.optimizers.LossScaleOptimizer):
                d_optimizer = keras.optimizers.LossScaleOptimizer(d_optimizer, name="d_loss_scale")
        self.d_optimizer = d_optimizer
        self.reconstruction_loss = keras.losses.get(reconstruction_loss)
        self.adversarial_loss = keras.losses.get(
            adversarial_loss or keras.losses.BinaryCrossentropy(from_logits=True)
        )
        self.g_optimizer.build(self.generator.trainable_variables)
        if d_optimizer:
            d_optimizer.build(self.discriminator.trainable_variables)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        names = ("d_optimizer", "g_optimizer", "reconstruction_loss", "adversarial_loss")
        return {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean losses that `fit` and `evaluate` log and reset."""
        return self.trackers

    def call(self, inputs, training=None):
        painted = self.generator(inputs, training=training)
        images, mask = inputs[..., :-1], inputs[..., -1:]
        return ops.where(mask > 0, painted, ops.cast(images, painted.dtype))

    def compute_output_shape(self, input_shape):
        return self.generator.compute_output_shape(input_shape)

    def _all_losses(self, inputs, images, training):
        filled = self(inputs, training=training)
        mask = ops.cast(inputs[..., -1], filled.dtype)  # (batch, height, width)
        # With these weights the mean over all pixels is the mean over the hole, for every image.
        weight = ops.divide_no_nan(mask, ops.mean(mask, axis=(1, 2), keepdims=True))
        reconstruction = share(self.reconstruction_loss, images, filled, weight, every_row=True)
        if self.discriminator is None:
            return (reconstruction,)
        real_logits = self.discriminator(images, training=training)
        fake_logits = self.discriminator(filled, training=training)
        real, fake = ops.ones_like(real_logits), ops.zeros_like(fake_logits)

        def loss(labels, logits):
            return share(self.adversarial_loss, labels, logits, every_row=True)

        d_loss = loss(real, real_logits) + loss(fake, fake_logits)
        return reconstruction, d_loss, loss(real, fake_logits)

    def train_step(self, data):  # Keras' own step supports one loss and one optimizer.
        inputs, images, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            losses = self._all_losses(inputs, images, training=True)
            total = losses[0]
            if self.discriminator is not None:
                total = total + self.adversarial_weight * losses[2]
                d_scaled = self.d_optimizer.scale_loss(losses[1])
            g_scaled = self.g_optimizer.scale_loss(total)
        g_variables = self.generator.trainable_variables
        g_gradients = tape.gradient(g_scaled, g_variables)
        if self.discriminator is not None:
            d_variables = self.discriminator.trainable_variables
            self.d_optimizer.apply(tape.gradient(d_scaled, d_variables), d_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        return self._log(images, losses)

    def test_step(self, data):
        inputs, images, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self._log(images, self._all_losses(inputs, images, training=False))

    def _log(self, images, losses):
        # Weighted by the batch size, as the last batch may be smaller.
        for tracker, loss in zip(self.trackers, all_sum(list(losses)), strict=True):
            tracker.update_state(loss, sample_weight=tf.shape(images)[0])
        return self.get_metrics_result()

    def data_specs(self):
        height, width, channels = self.image_shape
        hint = "Images are scaled to [-1, 1]: x / 127.5 - 1."
        return (
            checks.Spec(
                "float",
                (height, width, channels + 1),
                -1,
                1,
                f"{hint} The mask is the last channel.",
            ),
            checks.Spec("float", self.image_shape, -1, 1, hint),
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            generator=keras.saving.serialize_keras_object(self.generator),
            discriminator=keras.saving.serialize_keras_object(self.discriminator),
            adversarial_weight=self.adversarial_weight,
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("generator", "discriminator"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
