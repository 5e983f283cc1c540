"""Image restoration with a generator and a discriminator (article 2.1).

Beyond the article, which names the application and prints no network for it; after the context
encoders of Pathak et al. (2016). Changed against them: holes begin as a smooth filling and the
generator learns what is to be added, the encoder's stages are added to the decoder's (their
bottleneck sees none), holes are anywhere, and the discriminator judges the whole image, not the
hole alone.

    images with a hole and its mask (batch, height, width, channels + 1) -> images without
"""

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model, all_sum, share
from bigmodels.layers import HarmonicFill
from bigmodels.models.base import check_image_shape

_NEARLY = 0.999  # Of 1 there is no arctanh.


@keras.saving.register_keras_serializable(package="bigmodels")
class Inpainter(Model):
    """A convolutional encoder and decoder with connections between their stages of one size.

    They learn what is to be added to a smooth filling of the hole, `bigmodels.layers.HarmonicFill`,
    at first nothing: where an image is smooth, there is nothing to learn.

    Args:
        image_shape: Shape of the images, `(height, width, channels)`; any size.
        filters: Filters of each stage; from one to the next height and width are halved.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: `(batch, height, width, channels + 1)`: images in [-1, 1], and last a mask, 1 in the
            hole and 0 elsewhere. What is in the hole is not looked at.

    Returns:
        Painted images in [-1, 1], `(batch, height, width, channels)`; what lies outside of the hole
        is painted too.

    Raises:
        ValueError: if `image_shape` is not three positive sizes or there are no filters.
    """

    def __init__(self, image_shape=(28, 28, 1), filters=(32, 64, 128, 128), **kwargs):
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
        # The first stage keeps the size. On the way back `up` enlarges, `merge` looks at the sum.
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
            # Of an odd size the half was rounded up.
            x = getattr(self, f"up{i}")(x)[:, : stage.shape[1], : stage.shape[2]]
            x = ops.leaky_relu(getattr(self, f"merge{i}")(ops.leaky_relu(x) + stage))
        # Added before the tanh: what is to be quite black or white can be, and nothing is beyond.
        filled = _NEARLY * filled
        arctanh = (ops.log(1 + filled) - ops.log(1 - filled)) / 2  # LiteRT and ONNX lack it.
        return ops.tanh(arctanh + self.paint(x))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.image_shape[-1])

    def get_config(self):
        config = super().get_config()
        config.update(image_shape=self.image_shape, filters=self.filters)
        return config


@keras.saving.register_keras_serializable(package="bigmodels")
class InpaintingGAN(Model):
    """A generator that fills holes, trained to come close and to pass for real.

    `fit` takes images with a hole and its mask as inputs, the whole images as targets, both in
    [-1, 1]. It logs as `loss` the reconstruction alone, of each image the mean over its hole, by
    which runs of any `adversarial_weight` can be compared; and, with a discriminator, `d_loss` and
    `g_loss`, what the generator is told by it. Calling the model, or `predict`, fills holes: every
    pixel outside of them comes out as it went in.

    Args:
        generator: Images with a hole and its mask to painted images; see `Inpainter`.
        discriminator: Images to one logit; `None` trains by the reconstruction alone.
        adversarial_weight: What the generator minimises is the reconstruction and so many times
            `g_loss`.
        **kwargs: As for every `keras.Model`.

    Attributes:
        generator, discriminator: The networks.
        d_optimizer, g_optimizer: Their optimizers, once compiled.

    Raises:
        ValueError: if the discriminator does not judge what the generator makes, or there is one
            and no weight, or the other way round.
    """

    steps_add_up = True  # Losses are shares, gradients go to `apply`.

    def __init__(self, generator, discriminator=None, adversarial_weight=0.0, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False  # In half precision pixels would not come out as they went in.
        if not adversarial_weight >= 0 or bool(adversarial_weight) != bool(discriminator):
            what = "none" if discriminator is None else "one"
            raise ValueError(
                f"adversarial_weight: {adversarial_weight!r}, expected a positive number with a "
                f"discriminator and 0 without; there is {what}"
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
                    f"discriminator: judges images {wanted}, but the generator makes "
                    f"{self.image_shape}"
                )
            if not self.discriminator.built:
                self.discriminator.build((None, *self.image_shape))
        self.built = True

    def compile(
        self,
        d_optimizer=None,
        g_optimizer=None,
        reconstruction_loss="mean_squared_error",
        adversarial_loss=None,
        **kwargs,
    ):
        """Set what trains the networks.

        Args:
            d_optimizer: The discriminator's optimizer; Adam(2e-4, beta_1=0.5) when left out.
            g_optimizer: The generator's optimizer; Adam(1e-3) when left out.
            reconstruction_loss: Loss of (images, filled images), computed pixel by pixel.
            adversarial_loss: Loss of (labels, logits), 1 for real and 0 for filled; binary
                cross-entropy on logits when left out.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as for every Keras model.

        Raises:
            ValueError: if an optimizer averages weights (`use_ema`), which Keras ends with all
                weights of a model in one optimizer.
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
        # Keras wraps the one optimizer it knows for float16; the other is wrapped the same way.
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
    def metrics(self):
        """The running means that `fit` and `evaluate` log and reset."""
        return self.trackers

    def call(self, inputs, training=None):
        painted = self.generator(inputs, training=training)
        images, mask = inputs[..., :-1], inputs[..., -1:]
        return ops.where(mask > 0, painted, ops.cast(images, painted.dtype))

    def compute_output_shape(self, input_shape):
        return self.generator.compute_output_shape(input_shape)

    def _each_loss(self, inputs, images, training):
        filled = self(inputs, training=training)
        mask = ops.cast(inputs[..., -1], filled.dtype)  # (batch, height, width)
        # With it the mean over all pixels is that over the hole, for every image.
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

    def train_step(self, data):  # Two optimizers, one pass: Keras' own step knows one loss.
        inputs, images, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            losses = self._each_loss(inputs, images, training=True)
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
        return self._log(images, self._each_loss(inputs, images, training=False))

    def _log(self, images, losses):
        # Weighted by the batch's size, so that a ragged last batch counts for what it is.
        for tracker, loss in zip(self.trackers, all_sum(list(losses)), strict=True):
            tracker.update_state(loss, sample_weight=tf.shape(images)[0])
        return self.get_metrics_result()

    def data_specs(self):
        height, width, channels = self.image_shape
        hint = "Images are scaled to [-1, 1]: x / 127.5 - 1."
        return (
            checks.Spec("float", (height, width, channels + 1), -1, 1, f"{hint} The mask is last."),
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
