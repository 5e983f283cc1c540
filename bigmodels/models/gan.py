"""Generative adversarial network (article 3.4 and 4.4; equations E7 and E8).

Unchanged from the article: the class names, the names and widths of the dense layers (`dense1` to
`dense12` of the generator, `dense1` to `dense7` of the discriminator), and which of them have batch
normalisation.
Changed: one activation per block (G1, G2); the generator's output layer has one unit per pixel and
channel, `tanh`, and is reshaped (G1); the discriminator flattens its input and returns a logit
(G2); `GAN` trains the networks against each other (G3); the dimension of the noise is an argument
and images are in [-1, 1] (G4). Layers have a bias exactly where no batch normalisation follows.
Added, all off by default: techniques that stabilise the training of a GAN.

    noise (batch, latent_dim) -> images (batch, height, width, channels) in [-1, 1] -> logit
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks, kernels
from bigmodels.distribute import Model, SharedSeedGenerator, all_sum, of_batch, row_by_row, share
from bigmodels.layers import SpectralNormalization
from bigmodels.models.base import LayerStack, check_image_shape

# The widths of the article's hidden layers, in its order. Its last two layers, Dense(784) and
# Dense(1), are replaced by one output layer.
GENERATOR_UNITS = (4096, 2048, 1024, 512, 256, 1024, 128, 64, 32, 16, 100)
DISCRIMINATOR_UNITS = (1024, 512, 256, 128, 64, 32)


@keras.saving.register_keras_serializable(package="bigmodels")
class Generator(LayerStack):
    """The article's dense generator (section 4.4), corrected.

    Args:
        latent_dim: Dimension of the noise vector.
        image_shape: `(height, width, channels)` of the generated images.
        units: Widths of the hidden layers.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Noise `(batch, latent_dim)`.
        training: Whether batch normalisation uses the statistics of the batch.

    Returns:
        Images in [-1, 1], `(batch, height, width, channels)`.

    Raises:
        ValueError: if `image_shape` does not consist of three positive sizes.

    Example:

    >>> generator = Generator(latent_dim=4, image_shape=(8, 8, 1), units=(16, 16))
    >>> generator(np.zeros((2, 4), "float32")).shape
    TensorShape([2, 8, 8, 1])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: Sequence[int] = (28, 28, 1),
        units: Iterable[int] = GENERATOR_UNITS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        self.image_shape = check_image_shape(image_shape)
        self.units = tuple(units)
        self.default_input_shape = (None, latent_dim)
        dtype = self.dtype_policy
        # As in the article, the last hidden layer (100 wide) has no batch normalisation.
        for i, width in enumerate(self.units, start=1):  # self.dense1, self.batchnorm1, ...
            normalised = i < len(self.units)
            dense = layers.Dense(width, use_bias=not normalised, dtype=dtype, name=f"dense{i}")
            setattr(self, f"dense{i}", dense)
            if normalised:
                norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"batchnorm{i}")
                setattr(self, f"batchnorm{i}", norm)
            setattr(self, f"leakyrelu{i}", layers.LeakyReLU(0.2, dtype=dtype, name=f"leakyrelu{i}"))
        last = f"dense{len(self.units) + 1}"
        # Pixels stay in full precision under a mixed policy.
        pixels = layers.Dense(
            math.prod(self.image_shape), activation="tanh", dtype=dtype.variable_dtype, name=last
        )
        setattr(self, last, pixels)
        self.reshape = layers.Reshape(self.image_shape, dtype=dtype.variable_dtype, name="reshape")

    def layers_in_order(self):
        count = len(self.units)
        names = [
            f"{kind}{i}"
            for i in range(1, count + 1)
            for kind in ("dense", "batchnorm", "leakyrelu")
            if kind != "batchnorm" or i < count
        ]
        return [getattr(self, name) for name in [*names, f"dense{count + 1}", "reshape"]]

    def get_config(self):
        config = super().get_config()
        config.update(latent_dim=self.latent_dim, image_shape=self.image_shape, units=self.units)
        return config


@keras.saving.register_keras_serializable(package="bigmodels")
class Discriminator(LayerStack):
    """The article's dense discriminator (section 4.4), corrected.

    Args:
        image_shape: `(height, width, channels)` of the images.
        units: Widths of the hidden layers.
        normalization: `"batch"` for batch normalisation after every hidden layer; `"spectral"` for
            spectral normalisation of all weights instead (Miyato et al., 2018); or `"none"`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images in [-1, 1], `(batch, height, width, channels)`.
        training: Whether batch normalisation uses the statistics of the batch.

    Returns:
        Logits `(batch, 1)`: positive for "real"; `keras.ops.sigmoid` gives probabilities.

    Raises:
        ValueError: if `image_shape` does not consist of three positive sizes, or `normalization` is
            unknown.

    Example:

    >>> discriminator = Discriminator(image_shape=(8, 8, 1), units=(16, 16))
    >>> discriminator(np.zeros((2, 8, 8, 1), "float32")).shape
    TensorShape([2, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        units: Iterable[int] = DISCRIMINATOR_UNITS,
        normalization: str = "batch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if normalization not in ("none", "batch", "spectral"):
            raise ValueError(
                f"normalization: {normalization!r}, expected 'none', 'batch' or 'spectral'"
            )
        self.image_shape = check_image_shape(image_shape)
        self.units = tuple(units)
        self.normalization = normalization
        self.default_input_shape = (None, *self.image_shape)
        dtype = self.dtype_policy
        self.flatten = layers.Flatten(dtype=dtype, name="flatten")
        batch_norm = normalization == "batch"

        def normalized(layer):
            if normalization != "spectral":
                return layer
            return SpectralNormalization(layer, dtype=layer.dtype_policy, name=layer.name)

        for i, width in enumerate(self.units, start=1):  # self.dense1, self.batchnorm1, ...
            dense = layers.Dense(width, use_bias=not batch_norm, dtype=dtype, name=f"dense{i}")
            setattr(self, f"dense{i}", normalized(dense))
            if batch_norm:
                norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"batchnorm{i}")
                setattr(self, f"batchnorm{i}", norm)
            setattr(self, f"leakyrelu{i}", layers.LeakyReLU(0.2, dtype=dtype, name=f"leakyrelu{i}"))
        last = f"dense{len(self.units) + 1}"
        # The logit stays in full precision under a mixed policy.
        setattr(self, last, normalized(layers.Dense(1, dtype=dtype.variable_dtype, name=last)))

    def layers_in_order(self):
        count = len(self.units)
        norm = ("batchnorm",) if self.normalization == "batch" else ()
        names = [
            f"{kind}{i}" for i in range(1, count + 1) for kind in ("dense", *norm, "leakyrelu")
        ]
        return [getattr(self, name) for name in ["flatten", *names, f"dense{count + 1}"]]

    def get_config(self):
        config = super().get_config()
        config.update(
            image_shape=self.image_shape, units=self.units, normalization=self.normalization
        )
        return config


@keras.saving.register_keras_serializable(package="bigmodels")
class GAN(Model):
    """A generator and a discriminator trained against each other (article 4.4).

    `fit` takes real images in [-1, 1] (targets, if any, are ignored) and logs `d_loss`, `g_loss`
    and their sum as `loss`, without the R1 penalty. Calling the model, and `predict`, map noise to
    images.

    Args:
        generator: Model from noise to images; has an attribute `latent_dim`.
        discriminator: Model from images to one logit.
        seed: Integer seed of the training noise; `None` for a random one.
        r1: Weight (gamma) of the R1 gradient penalty on real images (Mescheder et al., 2018); 0
            turns it off. It cannot be combined with batch normalisation in the discriminator, where
            a logit depends on the whole batch.
        ema_momentum: Momentum of an exponential moving average of the generator's weights (Yazıcı
            et al., 2019), for example 0.999. Outside of training the averaged generator makes the
            images. 0 turns it off.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Attributes:
        generator, discriminator: The networks.
        averaged_generator: The generator with averaged weights, or `None`.
        d_optimizer, g_optimizer: Their optimizers, once compiled.
        latent_dim: Dimension of the noise vector.

    Raises:
        ValueError: if the generator has no `latent_dim`, its images do not fit the discriminator,
            a number is out of range, or `r1` is combined with batch normalisation.

    Example:

    >>> gan = GAN(
    ...     Generator(latent_dim=4, image_shape=(8, 8, 1), units=(16,)),
    ...     Discriminator(image_shape=(8, 8, 1), units=(16,)),
    ... )
    >>> gan.compile()
    >>> gan.generate(2, seed=0).shape
    (2, 8, 8, 1)
    """

    # Losses are scaled by `share`, gradients go to `apply`, noise is drawn for the global batch.
    supports_replicas = True

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        seed: int | None = None,
        r1: float = 0.0,
        ema_momentum: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(generator, "latent_dim"):
            raise ValueError(f"generator: {generator.name!r} has no attribute latent_dim")
        if not 0 <= r1 < math.inf:
            raise ValueError(f"r1: {r1!r}, expected zero or more")
        if not 0 <= ema_momentum < 1:
            raise ValueError(f"ema_momentum: {ema_momentum!r}, expected a number in [0, 1)")
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = generator.latent_dim
        self.seed = seed
        self.r1 = r1
        self.ema_momentum = ema_momentum
        self.averaged_generator = None
        self.seed_generator = SharedSeedGenerator(seed)
        self.evaluation_seed_generator = SharedSeedGenerator(0 if seed is None else seed)
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")
        self.loss_tracker = keras.metrics.Mean(name="loss")
        # All shapes are known here. Building now lets `compile` build the optimizers, so that they
        # are saved and restored completely.
        self.build((None, self.latent_dim))

    def build(self, input_shape):
        if not self.generator.built:
            self.generator.build(input_shape)
        image_shape = self.generator.compute_output_shape(input_shape)
        if not self.discriminator.built:
            self.discriminator.build(image_shape)
        wanted = getattr(self.discriminator, "image_shape", image_shape[1:])
        if tuple(wanted) != tuple(image_shape[1:]):
            raise ValueError(
                f"discriminator: takes images {tuple(wanted)}, but the generator makes "
                f"{tuple(image_shape[1:])}"
            )
        self.image_shape = tuple(image_shape[1:])
        norms = [
            layer.name
            for layer in self.discriminator._flatten_layers()
            if isinstance(layer, layers.BatchNormalization)
        ]
        if self.r1 and norms:
            raise ValueError(
                f"r1: {self.r1}, expected 0, as {norms[0]!r} of the discriminator normalises over "
                "the batch; use another normalization"
            )
        if self.ema_momentum and self.averaged_generator is None:
            self.averaged_generator = self._copy_of_generator(input_shape)
        self.built = True

    def _copy_of_generator(self, input_shape):
        config = self.generator.get_config()
        copy = type(self.generator).from_config(config | {"name": f"averaged_{config['name']}"})
        copy.trainable = False
        copy.build(input_shape)
        copy.set_weights(self.generator.get_weights())
        return copy

    def compile(
        self,
        d_optimizer: keras.optimizers.Optimizer | str | None = None,
        g_optimizer: keras.optimizers.Optimizer | str | None = None,
        loss_fn: Any = None,
        g_loss_fn: Any = None,
        **kwargs,
    ) -> None:
        """Configure the training of both networks.

        Args:
            d_optimizer: The discriminator's optimizer; defaults to `Adam(2e-4, beta_1=0.5)`, as in
                DCGAN.
            g_optimizer: The generator's optimizer; the same default.
            loss_fn: Loss of (labels, logits) with label 1 for real and 0 for generated images;
                defaults to binary cross-entropy on logits.
            g_loss_fn: Loss of the generator, whose images are labelled 1; defaults to `loss_fn`.
                For the hinge loss (Lim and Ye, 2017), pass `keras.losses.Hinge()` as `loss_fn` and
                `bigmodels.losses.Wasserstein()` as `g_loss_fn`.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as for `keras.Model`. The
                default `jit_compile="auto"` uses XLA on a single CPU too, if the networks are large
                and all dense, like the article's.

        Raises:
            ValueError: if an optimizer has `use_ema=True`, which Keras supports only for one
                optimizer with all weights of a model.
        """
        d_optimizer = keras.optimizers.get(d_optimizer or _dcgan_adam())
        g_optimizer = keras.optimizers.get(g_optimizer or _dcgan_adam())
        for name, optimizer in (("d_optimizer", d_optimizer), ("g_optimizer", g_optimizer)):
            if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
                raise ValueError(f"{name}: use_ema=True is not supported for one of two optimizers")
        auto = kwargs.get("jit_compile", "auto") == "auto" and not kwargs.get("run_eagerly")
        if auto and self._gains_by_xla():
            kwargs["jit_compile"] = True
        # For float16, Keras wraps the optimizer it gets for loss scaling; wrap the other one too.
        super().compile(optimizer=g_optimizer, **kwargs)
        self.g_optimizer = self.optimizer
        scaled = isinstance(self.g_optimizer, keras.optimizers.LossScaleOptimizer)
        if scaled and not isinstance(d_optimizer, keras.optimizers.LossScaleOptimizer):
            d_optimizer = keras.optimizers.LossScaleOptimizer(d_optimizer, name="d_loss_scale")
        self.d_optimizer = d_optimizer
        self.loss_fn = keras.losses.get(
            loss_fn or keras.losses.BinaryCrossentropy(from_logits=True)
        )
        self.g_loss_fn = keras.losses.get(g_loss_fn or self.loss_fn)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)

    def _gains_by_xla(self):
        """Whether XLA speeds up a step on one CPU enough to make up for its compilation.

        The article's networks train 1.5 times as fast (`tools/bench options`), as the element-wise
        operations are fused. Convolutions get slower, and small networks gain too little.
        """
        dense = all(len(weight.shape) <= 2 for weight in self.weights)
        on_one_cpu = kernels.on_one_cpu(self.distribute_strategy)
        return dense and self.count_params() >= 1e6 and on_one_cpu

    def get_compile_config(self):
        if not self.compiled:
            return {}
        serialize = keras.saving.serialize_keras_object
        return {
            "d_optimizer": serialize(self.d_optimizer),
            "g_optimizer": serialize(self.g_optimizer),
            "loss_fn": serialize(self.loss_fn),
            "g_loss_fn": serialize(self.g_loss_fn),
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The three mean losses that `fit` and `evaluate` log and reset."""
        return [self.d_loss_tracker, self.g_loss_tracker, self.loss_tracker]

    def call(self, inputs, training=None):
        use_average = self.averaged_generator is not None and not training
        network = self.averaged_generator if use_average else self.generator
        return network(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.generator.compute_output_shape(input_shape)

    def _adversarial_losses(self, images, training):
        """The losses of the two networks, and the R1 penalty."""
        seed = self.seed_generator if training else self.evaluation_seed_generator
        noise = of_batch(
            lambda rows: keras.random.normal((rows, self.latent_dim), seed=seed),
            tf.shape(images)[0],
        )
        fakes = self.generator(noise, training=training)
        if training and self.r1:
            real_logits, penalty = self._logits_and_penalty(images)
        else:
            real_logits, penalty = self.discriminator(images, training=training), 0.0
        fake_logits = self.discriminator(fakes, training=training)
        real, fake = ops.ones_like(real_logits), ops.zeros_like(fake_logits)

        def loss(loss_fn, labels, logits):
            return share(loss_fn, labels, logits, every_row=True)

        d_loss = loss(self.loss_fn, real, real_logits) + loss(self.loss_fn, fake, fake_logits)
        # The non-saturating generator loss (Goodfellow et al., 2014, section 3).
        g_loss = loss(self.g_loss_fn, real, fake_logits)
        return d_loss, g_loss, penalty

    def _logits_and_penalty(self, images):
        """Logits of real images, and R1: half their mean squared gradient norm times `r1`."""
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = self.discriminator(images, training=True)
        gradient = ops.cast(tape.gradient(logits, images), logits.dtype)
        squares = ops.sum(ops.square(gradient), axis=range(1, len(images.shape)))  # (batch,)
        return logits, self.r1 / 2 * share(_second, squares, squares, every_row=True)

    def train_step(self, data):  # Keras' own step supports one loss and one optimizer.
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            d_loss, g_loss, penalty = self._adversarial_losses(images, training=True)
            d_scaled = self.d_optimizer.scale_loss(d_loss + penalty)
            g_scaled = self.g_optimizer.scale_loss(g_loss)
        d_variables = self.discriminator.trainable_variables
        g_variables = self.generator.trainable_variables
        d_gradients = tape.gradient(d_scaled, d_variables)
        g_gradients = tape.gradient(g_scaled, g_variables)
        self.d_optimizer.apply(d_gradients, d_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        if self.averaged_generator is not None:
            self._average()
        return self._log(images, d_loss, g_loss)

    def _average(self):
        # A smaller momentum in the first steps, so that the initial weights are soon forgotten.
        steps = ops.cast(self.g_optimizer.iterations, "float32")
        new = 1 - ops.minimum(self.ema_momentum, (1 + steps) / (10 + steps))
        # Includes the statistics of batch normalisation, which must match the weights.
        pairs = zip(self.averaged_generator.weights, self.generator.weights, strict=True)
        for average, weight in pairs:
            difference = weight.value - average.value
            average.assign_add(difference * ops.cast(new, weight.dtype))

    def evaluate(self, x: Any = None, y: Any = None, *args, **kwargs) -> Any:
        """`keras.Model.evaluate` on real images, with the same noise in every call.

        Args:
            x: Images in [-1, 1], `(batch, height, width, channels)`, or a dataset of them.
            y: Ignored.
            *args: As for `keras.Model.evaluate`.
            **kwargs: As for `keras.Model.evaluate`.

        Returns:
            The losses, as from `keras.Model.evaluate`.
        """
        self.evaluation_seed_generator.state.assign([0 if self.seed is None else self.seed, 0])
        return super().evaluate(x, y, *args, **kwargs)

    def test_step(self, data):
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        d_loss, g_loss, _ = self._adversarial_losses(images, training=False)
        return self._log(images, d_loss, g_loss)

    def _log(self, images, d_loss, g_loss):
        # Weighted by the batch size, as the last batch may be smaller.
        weight = tf.shape(images)[0]
        d_loss, g_loss = all_sum([d_loss, g_loss])
        self.d_loss_tracker.update_state(d_loss, sample_weight=weight)
        self.g_loss_tracker.update_state(g_loss, sample_weight=weight)
        self.loss_tracker.update_state(d_loss + g_loss, sample_weight=weight)
        return self.get_metrics_result()

    def generate(self, n: int = 1, seed: int | None = None) -> np.ndarray:
        """Generate images.

        Args:
            n: Number of images.
            seed: Integer; the same seed gives the same images. `None` for a random one.

        Returns:
            float32 array in [-1, 1], `(n, height, width, channels)`.

        Raises:
            ValueError: if `n` is not positive.
        """
        if n < 1:
            raise ValueError(f"n: {n!r}, expected a positive integer")
        noise = ops.convert_to_numpy(keras.random.normal((n, self.latent_dim), seed=seed))
        return self.predict(noise, verbose=0)

    def data_specs(self):
        images = checks.Spec(
            "float", self.image_shape, -1, 1, "Images are scaled to [-1, 1]: x / 127.5 - 1."
        )
        return images, None

    def predict_spec(self):
        return checks.Spec("float", (self.latent_dim,))

    def get_config(self):
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        config.update(
            generator=serialize(self.generator),
            discriminator=serialize(self.discriminator),
            seed=self.seed,
            r1=self.r1,
            ema_momentum=self.ema_momentum,
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("generator", "discriminator"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


@row_by_row
def _second(_, values):
    return values


def _dcgan_adam():
    return keras.optimizers.Adam(2e-4, beta_1=0.5)
