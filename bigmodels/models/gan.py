"""Generative adversarial network (article 3.4 and 4.4; equations E7 and E8).

Kept from the article: the class names, the dense layers' names and widths (`dense1` to `dense12`
of the generator, `dense1` to `dense7` of the discriminator), which have batch normalisation.
Changed: one activation a block (G1, G2); the generator ends in as many values as the image has,
`tanh`, reshaped (G1); the discriminator flattens its image and gives a logit (G2); the networks
train against each other in `GAN` (G3); the noise has a stated width and images are in [-1, 1]
(G4). A layer has a bias exactly where no batch normalisation follows. Beyond the article, all off
by default: what keeps the training of a GAN steady.

    noise (batch, latent_dim) -> images (batch, height, width, channels) in [-1, 1] -> logit
"""

import math

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks, kernels
from bigmodels.distribute import Model, SharedSeedGenerator, all_sum, of_batch, row_by_row, share
from bigmodels.layers import SpectralNormalization
from bigmodels.models.base import LayerStack, check_image_shape

# The article's widths, in its order: a ladder down, up to 1024, down to a waist of 16, and out.
# Its last two, Dense(784) and Dense(1), become the one output layer.
GENERATOR_UNITS = (4096, 2048, 1024, 512, 256, 1024, 128, 64, 32, 16, 100)
DISCRIMINATOR_UNITS = (1024, 512, 256, 128, 64, 32)


@keras.saving.register_keras_serializable(package="bigmodels")
class Generator(LayerStack):
    """The article's dense generator, corrected.

    Args:
        latent_dim: Width of the noise.
        image_shape: Shape of the image made, `(height, width, channels)`.
        units: Widths of the hidden layers.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: Noise, `(batch, latent_dim)`.
        training: Whether batch normalisation uses the batch's statistics.

    Returns:
        Images in [-1, 1], `(batch, height, width, channels)`.

    Raises:
        ValueError: if `image_shape` is not three positive sizes.
    """

    def __init__(self, latent_dim=100, image_shape=(28, 28, 1), units=GENERATOR_UNITS, **kwargs):
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
    """The article's dense discriminator, corrected.

    Args:
        image_shape: Shape of the images judged, `(height, width, channels)`.
        units: Widths of the hidden layers.
        normalization: `"batch"`, after every hidden layer; `"spectral"`, of every layer's weights
            instead (Miyato et al., 2018); or `"none"`.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: Images in [-1, 1], `(batch, height, width, channels)`.
        training: Whether batch normalisation uses the batch's statistics.

    Returns:
        Logits `(batch, 1)`: above zero for "real"; `keras.ops.sigmoid` gives the probability.

    Raises:
        ValueError: if `image_shape` is not three positive sizes, or `normalization` is unknown.
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        units=DISCRIMINATOR_UNITS,
        normalization="batch",
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
        in_batch = normalization == "batch"

        def normal(layer):
            if normalization != "spectral":
                return layer
            return SpectralNormalization(layer, dtype=layer.dtype_policy, name=layer.name)

        for i, width in enumerate(self.units, start=1):  # self.dense1, self.batchnorm1, ...
            dense = layers.Dense(width, use_bias=not in_batch, dtype=dtype, name=f"dense{i}")
            setattr(self, f"dense{i}", normal(dense))
            if in_batch:
                norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"batchnorm{i}")
                setattr(self, f"batchnorm{i}", norm)
            setattr(self, f"leakyrelu{i}", layers.LeakyReLU(0.2, dtype=dtype, name=f"leakyrelu{i}"))
        last = f"dense{len(self.units) + 1}"
        # The logit stays in full precision under a mixed policy.
        setattr(self, last, normal(layers.Dense(1, dtype=dtype.variable_dtype, name=last)))

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
    """A generator and a discriminator trained against each other.

    `fit` takes real images in [-1, 1] (targets, if any, are ignored) and logs `d_loss`, `g_loss`
    and their sum as `loss`, all without the penalty. Calling the model, or `predict`, turns noise
    into images.

    Args:
        generator: Noise to images; has `latent_dim`.
        discriminator: Images to one logit.
        seed: Integer behind the noise of training, or `None` for a fresh one each time.
        r1: Weight of half the mean squared length of the logit's gradient by the pixels of a real
            image, which the discriminator is to keep small (Mescheder et al., 2018, R1, its gamma);
            0 leaves it out. Not beside batch normalisation, where a logit is of the whole batch.
        ema_momentum: How much of it an exponential moving average of the generator keeps at each
            step (Yazıcı et al., 2019), for example 0.999; it makes the images then, in training
            only the generator itself does. 0 keeps none.
        **kwargs: As for every `keras.Model`.

    Attributes:
        generator, discriminator: The networks.
        averaged_generator: The average, a network of the same kind; `None` without.
        d_optimizer, g_optimizer: Their optimizers, once compiled.
        latent_dim: Width of the noise.

    Raises:
        ValueError: if the generator has no `latent_dim`, or its images do not fit the
            discriminator, or a number is out of range, or there is a penalty beside batch
            normalisation.
    """

    steps_add_up = True  # Losses are shares, gradients go to `apply`, noise is the whole batch's.

    def __init__(self, generator, discriminator, seed=None, r1=0.0, ema_momentum=0.0, **kwargs):
        super().__init__(**kwargs)
        if not hasattr(generator, "latent_dim"):
            raise ValueError(f"generator: {generator.name!r} has no attribute latent_dim")
        if not 0 <= r1 < math.inf:
            raise ValueError(f"r1: {r1!r}, expected a number from 0 on")
        if not 0 <= ema_momentum < 1:
            raise ValueError(f"ema_momentum: {ema_momentum!r}, expected a share from 0 to below 1")
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
        # Both shapes are known here, so the optimizers can be built by `compile`, and are then
        # saved and restored whole.
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
                f"discriminator: judges images {tuple(wanted)}, but the generator makes "
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
                f"r1: {self.r1}, but {norms[0]!r} of the discriminator normalises over the batch; "
                "use another normalization"
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

    def compile(self, d_optimizer=None, g_optimizer=None, loss_fn=None, g_loss_fn=None, **kwargs):
        """Set what trains the two networks.

        Args:
            d_optimizer: The discriminator's optimizer; Adam(2e-4, beta_1=0.5), after DCGAN, when
                left out.
            g_optimizer: The generator's optimizer; the same when left out.
            loss_fn: Loss of (labels, logits), 1 for real and 0 for generated; binary cross-entropy
                on logits when left out.
            g_loss_fn: The generator's, of logits of its images labelled 1; the same when left out.
                The hinge loss (Lim and Ye, 2017) is `keras.losses.Hinge()` with
                `bigmodels.losses.Wasserstein()` here.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as for every Keras model;
                but `jit_compile="auto"`, which is the default, is XLA on one CPU too where the
                networks are dense and large, as the article's are.

        Raises:
            ValueError: if an optimizer averages weights (`use_ema`), which Keras ends with all
                weights of a model in one optimizer.
        """
        d_optimizer = keras.optimizers.get(d_optimizer or _dcgan_adam())
        g_optimizer = keras.optimizers.get(g_optimizer or _dcgan_adam())
        for name, optimizer in (("d_optimizer", d_optimizer), ("g_optimizer", g_optimizer)):
            if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
                raise ValueError(f"{name}: use_ema=True is not supported for one of two optimizers")
        auto = kwargs.get("jit_compile", "auto") == "auto" and not kwargs.get("run_eagerly")
        if auto and self._gains_by_xla():
            kwargs["jit_compile"] = True
        # Keras wraps the one optimizer it knows for float16; the other is wrapped the same way.
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
        """Whether a step on one CPU is worth the seconds that XLA takes to compile it.

        Of the article's networks it is half as fast again (`tools/bench options`), by what lies
        between their products; convolutions lose by it, and small networks cannot earn it back.
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
    def metrics(self):
        """The three running means that `fit` and `evaluate` log and reset."""
        return [self.d_loss_tracker, self.g_loss_tracker, self.loss_tracker]

    def call(self, inputs, training=None):
        averaged = self.averaged_generator is not None and not training
        network = self.averaged_generator if averaged else self.generator
        return network(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.generator.compute_output_shape(input_shape)

    def _adversarial_losses(self, images, training):
        """The losses of the two networks, and the penalty."""
        seed = self.seed_generator if training else self.evaluation_seed_generator
        noise = of_batch(
            lambda rows: keras.random.normal((rows, self.latent_dim), seed=seed),
            tf.shape(images)[0],
        )
        fakes = self.generator(noise, training=training)
        if training and self.r1:
            real_logits, penalty = self._penalised(images)
        else:
            real_logits, penalty = self.discriminator(images, training=training), 0.0
        fake_logits = self.discriminator(fakes, training=training)
        real, fake = ops.ones_like(real_logits), ops.zeros_like(fake_logits)

        def loss(loss_fn, labels, logits):
            return share(loss_fn, labels, logits, every_row=True)

        d_loss = loss(self.loss_fn, real, real_logits) + loss(self.loss_fn, fake, fake_logits)
        # The generator wants its images taken for real (Goodfellow et al., 2014, section 3).
        g_loss = loss(self.g_loss_fn, real, fake_logits)
        return d_loss, g_loss, penalty

    def _penalised(self, images):
        """Logits of real images, and R1: by how much a change of their pixels would change them."""
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = self.discriminator(images, training=True)
        gradient = ops.cast(tape.gradient(logits, images), logits.dtype)
        squares = ops.sum(ops.square(gradient), axis=range(1, len(images.shape)))  # (batch,)
        return logits, self.r1 / 2 * share(_second, squares, squares, every_row=True)

    def train_step(self, data):  # Two optimizers, one pass: Keras' own step knows one loss.
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
        # At first of the last few steps alone, so that the initial weights are soon forgotten.
        steps = ops.cast(self.g_optimizer.iterations, "float32")
        new = 1 - ops.minimum(self.ema_momentum, (1 + steps) / (10 + steps))
        # Batch normalisation's statistics too: they belong to the weights they were taken with.
        pairs = zip(self.averaged_generator.weights, self.generator.weights, strict=True)
        for average, weight in pairs:
            difference = weight.value - average.value
            average.assign_add(difference * ops.cast(new, weight.dtype))

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate` on images, with the same noise every time."""
        self.evaluation_seed_generator.state.assign([0 if self.seed is None else self.seed, 0])
        return super().evaluate(x, y, *args, **kwargs)

    def test_step(self, data):
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        d_loss, g_loss, _ = self._adversarial_losses(images, training=False)
        return self._log(images, d_loss, g_loss)

    def _log(self, images, d_loss, g_loss):
        # Weighted by the batch's size, so that a ragged last batch counts for what it is.
        weight = tf.shape(images)[0]
        d_loss, g_loss = all_sum([d_loss, g_loss])
        self.d_loss_tracker.update_state(d_loss, sample_weight=weight)
        self.g_loss_tracker.update_state(g_loss, sample_weight=weight)
        self.loss_tracker.update_state(d_loss + g_loss, sample_weight=weight)
        return self.get_metrics_result()

    def generate(self, n=1, seed=None):
        """Make images.

        Args:
            n: How many.
            seed: Integer; the same seed gives the same images. `None` draws a fresh one.

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
def _second(_, each):
    return each


def _dcgan_adam():
    return keras.optimizers.Adam(2e-4, beta_1=0.5)
