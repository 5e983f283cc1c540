import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import losses
from bigmodels.models import GAN, ConvDiscriminator, ConvGenerator, Discriminator, Generator


def tiny(seed=1, discriminator=None, **options):
    discriminator = discriminator or Discriminator((8, 8, 1), units=(8,))
    return GAN(Generator(5, (8, 8, 1), units=(8, 6)), discriminator, seed=seed, **options)


def images(rng, count=32):
    return rng.uniform(-1, 1, (count, 8, 8, 1)).astype("float32")


def test_the_articles_sizes():
    gan = GAN(Generator(), Discriminator())
    widths = [layer.units for layer in gan.generator.layers if hasattr(layer, "units")]
    assert widths == [4096, 2048, 1024, 512, 256, 1024, 128, 64, 32, 16, 100, 784]
    widths = [layer.units for layer in gan.discriminator.layers if hasattr(layer, "units")]
    assert widths == [1024, 512, 256, 128, 64, 32, 1]
    assert gan.latent_dim == 100 and gan.image_shape == (28, 28, 1)


@pytest.mark.thorough
def test_auto_is_xla_on_one_cpu_for_large_dense_networks_alone():
    dense = GAN(Generator(), Discriminator())
    for given in ({}, {"jit_compile": "auto"}, {"jit_compile": True}):
        dense.compile(**given)
        assert dense.jit_compile is True
    for given in ({"jit_compile": False}, {"run_eagerly": True}):
        dense.compile(**given)
        assert dense.jit_compile is False
    for other in (tiny(), GAN(ConvGenerator(), ConvDiscriminator())):
        other.compile()
        assert other.jit_compile is False
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        divided = GAN(Generator(), Discriminator())
    divided.compile()
    assert divided.jit_compile is False


def test_default_compile_works_and_brings_two_adams_only(rng):
    gan = tiny()
    gan.compile()
    assert isinstance(gan.d_optimizer, keras.optimizers.Adam)
    assert isinstance(gan.g_optimizer, keras.optimizers.Adam)
    assert gan.optimizer is gan.g_optimizer is not gan.d_optimizer
    history = gan.fit(images(rng), epochs=2, batch_size=8, verbose=0).history
    assert {"d_loss", "g_loss"} <= history.keys()
    assert int(gan.d_optimizer.iterations) == int(gan.g_optimizer.iterations) == 8


def test_each_step_moves_both_networks_each_by_its_own_loss(rng):
    """With one optimizer frozen, only the other network moves."""
    for frozen in ("d", "g"):
        gan = tiny()
        rates = {"d": 0.0 if frozen == "d" else 1e-2, "g": 0.0 if frozen == "g" else 1e-2}
        gan.compile(keras.optimizers.SGD(rates["d"]), keras.optimizers.SGD(rates["g"]))
        before = {
            "d": [v.numpy() for v in gan.discriminator.trainable_variables],
            "g": [v.numpy() for v in gan.generator.trainable_variables],
        }
        gan.fit(images(rng), batch_size=8, verbose=0)
        after = {
            "d": [v.numpy() for v in gan.discriminator.trainable_variables],
            "g": [v.numpy() for v in gan.generator.trainable_variables],
        }
        for name in ("d", "g"):
            moved = any(not np.array_equal(*p) for p in zip(before[name], after[name], strict=True))
            assert moved == (name != frozen)


def test_losses_are_the_papers(rng):
    """Against NumPy: D sees real as 1 and generated as 0; G wants its images taken for real."""
    gan = tiny()
    gan.compile()
    x = images(rng, 16)
    logs = gan.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    noise = keras.random.normal((16, 5), seed=keras.random.SeedGenerator(1))
    fake = np.asarray(gan.discriminator(gan.generator(noise)), "float64")
    real = np.asarray(gan.discriminator(x), "float64")
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    np.testing.assert_allclose(
        logs["d_loss"], softplus(-real).mean() + softplus(fake).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(logs["g_loss"], softplus(-fake).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["d_loss"] + logs["g_loss"], rtol=1e-5)


def test_hinge_losses_are_the_paper_s(rng):
    """Lim and Ye (2017), 5: the generator's is the logit itself, however large."""
    gan = tiny()
    gan.compile(loss_fn=keras.losses.Hinge(), g_loss_fn=losses.Wasserstein())
    gan.discriminator.dense2.kernel.assign(gan.discriminator.dense2.kernel * 3)
    x = images(rng, 16)
    logs = gan.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    noise = keras.random.normal((16, 5), seed=keras.random.SeedGenerator(1))
    fake, real = (np.asarray(gan.discriminator(y)) for y in (gan.generator(noise), x))
    d_loss = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    np.testing.assert_allclose(logs["d_loss"], d_loss, rtol=1e-5)
    np.testing.assert_allclose(logs["g_loss"], -fake.mean(), rtol=1e-5)
    assert (np.abs(np.concatenate([real, fake])) > 1).any()


def after_one_step(x, r1, **options):
    """The discriminator's weights before and after a step of SGD."""
    keras.utils.set_random_seed(3)
    gan = tiny(discriminator=Discriminator((8, 8, 1), dtype="float64", **options), r1=r1)
    gan.compile(keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01))
    before = [v.numpy() for v in gan.discriminator.trainable_variables]
    gan.train_on_batch(x)
    return gan, before, [v.numpy() for v in gan.discriminator.trainable_variables]


def test_r1_of_a_linear_discriminator_is_half_the_square_of_its_weights(rng):
    """Of which the gradient is gamma times the weights, whatever the images."""
    x = images(rng, 4)
    _, before, plain = after_one_step(x, 0.0, units=(), normalization="none")
    _, _, penalised = after_one_step(x, 2.5, units=(), normalization="none")
    np.testing.assert_allclose(penalised[0] - plain[0], -0.01 * 2.5 * before[0], atol=1e-8)
    np.testing.assert_array_equal(penalised[1], plain[1])  # No pixel comes to the bias.


@pytest.mark.parametrize("normalization", ["none", "spectral"])
@pytest.mark.thorough
def test_r1_is_the_mean_over_images_each_taken_alone(rng, normalization):
    x = images(rng, 6)
    options = {"units": (7, 5), "normalization": normalization}
    gan, before, plain = after_one_step(x, 0.0, **options)
    _, _, penalised = after_one_step(x, 4.0, **options)
    judge = gan.discriminator
    for variable, value in zip(judge.trainable_variables, before, strict=True):
        variable.assign(value)
    if normalization == "spectral":  # Where the step's first call has begun.
        keras.utils.set_random_seed(3)
        again = tiny(discriminator=Discriminator((8, 8, 1), dtype="float64", **options))
        vectors = again.discriminator.non_trainable_variables
        for variable, value in zip(judge.non_trainable_variables, vectors, strict=True):
            variable.assign(value)
    with tf.GradientTape() as outer:
        squares = []
        for image in tf.constant(x, "float64")[:, None]:
            with tf.GradientTape() as inner:
                inner.watch(image)
                logit = judge(image, training=False)
            squares.append(tf.reduce_sum(inner.gradient(logit, image) ** 2))
        penalty = 4.0 / 2 * tf.reduce_mean(squares)
    gradients = outer.gradient(penalty, judge.trainable_variables)
    for a, b, gradient in zip(penalised, plain, gradients, strict=True):
        expected = 0 if gradient is None else -0.01 * gradient
        np.testing.assert_allclose(a - b, expected, atol=1e-8)
    assert max(np.abs(a - b).max() for a, b in zip(penalised, plain, strict=True)) > 1e-4


def test_the_average_is_of_the_generators_that_were(rng):
    gan = tiny(ema_momentum=0.25)
    gan.compile(*(keras.optimizers.Adam(1e-2) for _ in range(2)))
    made = [v.numpy() for v in gan.generator.weights]
    expected = made
    for step in range(1, 7):
        gan.train_on_batch(images(rng, 8))
        made = [v.numpy() for v in gan.generator.weights]
        kept = min(0.25, (1 + step) / (10 + step))
        expected = [kept * a + (1 - kept) * b for a, b in zip(expected, made, strict=True)]
    for a, b, c in zip(gan.averaged_generator.weights, expected, made, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert not np.array_equal(a, c)


def test_the_average_makes_the_images_and_the_losses_are_the_generator_s(rng, tmp_path):
    gan = tiny(ema_momentum=0.9)
    gan.compile(*(keras.optimizers.Adam(1e-2) for _ in range(2)))
    x = images(rng, 16)
    gan.fit(x, batch_size=4, verbose=0)
    noise = rng.normal(size=(3, 5)).astype("float32")
    made = gan.predict(noise, verbose=0)
    np.testing.assert_allclose(made, gan.averaged_generator(noise), atol=1e-6)
    np.testing.assert_allclose(gan(noise), made, atol=1e-6)
    assert np.abs(made - gan.generator(noise)).max() > 1e-3
    gan.averaged_generator.set_weights([0 * v for v in gan.averaged_generator.get_weights()])
    seen = keras.random.normal((16, 5), seed=keras.random.SeedGenerator(1))
    logit = gan.discriminator(gan.generator(seen))
    logs = gan.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["g_loss"], np.log1p(np.exp(-logit)).mean(), rtol=1e-5)
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    assert again.ema_momentum == 0.9
    np.testing.assert_array_equal(again.predict(noise, verbose=0), 0)
    np.testing.assert_array_equal(again.generator(noise), gan.generator(noise))


def test_conv_discriminator_normalises_as_it_is_told():
    kinds = {
        kind: {type(layer).__name__ for layer in ConvDiscriminator(normalization=kind).layers}
        for kind in ("none", "batch", "spectral")
    }
    assert not {"BatchNormalization", "SpectralNormalization"} & kinds["none"]
    assert "BatchNormalization" in kinds["batch"]
    assert not {"Conv2D", "Dense"} & kinds["spectral"]


def test_a_ragged_last_batch_weighs_what_it_is(rng):
    gan = tiny()
    gan.compile()
    x = images(rng, 12)
    logs = gan.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    parts = []
    seed = keras.random.SeedGenerator(1)
    for part in (x[:8], x[8:]):
        noise = keras.random.normal((len(part), 5), seed=seed)
        fake = np.asarray(gan.discriminator(gan.generator(noise)), "float64")
        parts.append(np.log1p(np.exp(-fake)).mean())
    np.testing.assert_allclose(logs["g_loss"], (8 * parts[0] + 4 * parts[1]) / 12, rtol=1e-5)


def test_generate_is_seeded_and_in_range():
    gan = tiny()
    a = gan.generate(6, seed=3)
    assert a.shape == (6, 8, 8, 1) and np.abs(a).max() <= 1
    np.testing.assert_array_equal(a, gan.generate(6, seed=3))
    assert not np.array_equal(a, gan.generate(6, seed=4))


@pytest.mark.thorough
def test_training_is_reproducible_from_the_seed(rng):
    x = images(rng)

    def weights():
        keras.utils.set_random_seed(2)
        gan = tiny(seed=2)
        gan.compile()
        gan.fit(x, epochs=2, batch_size=8, shuffle=False, verbose=0)
        return [v.numpy() for v in gan.trainable_variables]

    for a, b in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_float16_scales_both_losses():
    keras.config.set_dtype_policy("mixed_float16")
    gan = tiny()
    gan.compile()
    for optimizer in (gan.d_optimizer, gan.g_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def test_labelled_images_are_taken_as_they_come(rng):
    gan = tiny()
    gan.compile()
    pairs = tf.data.Dataset.from_tensor_slices((images(rng), np.zeros(32, "int64"))).batch(8)
    assert np.isfinite(gan.fit(pairs, verbose=0).history["d_loss"][0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Generator(image_shape=(28, 28)), "image_shape: (28, 28)"),
        (lambda: ConvGenerator(image_shape=(30, 28, 1)), "divisible by 4"),
        (
            lambda: GAN(Generator(5, (8, 8, 1), (4,)), ConvDiscriminator((12, 12, 1))),
            "takes images (12, 12, 1), but the generator makes (8, 8, 1)",
        ),
        (lambda: GAN(Discriminator(), Discriminator()), "has no attribute latent_dim"),
        (lambda: tiny().generate(0), "n: 0"),
        (lambda: tiny(r1=-1), "r1: -1, expected zero or more"),
        (lambda: tiny(r1=1.0), "'batchnorm1' of the discriminator normalises over the batch"),
        (lambda: tiny(ema_momentum=1.0), "ema_momentum: 1.0, expected a number"),
        (lambda: Discriminator(normalization="layer"), "normalization: 'layer', expected 'none'"),
        (lambda: ConvDiscriminator(normalization=None), "normalization: None, expected 'none'"),
    ],
)
def test_errors_name_argument_and_value(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_images_in_the_wrong_range_are_refused(rng):
    gan = tiny()
    gan.compile()
    with pytest.raises(ValueError, match=r"x: element 0 holds .* from -1 to 1\. Images are scaled"):
        gan.fit(images(rng) * 3, verbose=0)
    with pytest.raises(ValueError, match="x: shape"):
        gan.predict(np.zeros((2, 6), "float32"), verbose=0)


@pytest.mark.parametrize("name", ["d_optimizer", "g_optimizer"])
def test_averaged_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: use_ema=True is not supported"):
        GAN(Generator(units=(4,)), Discriminator(units=(4,))).compile(
            **{name: keras.optimizers.Adam(use_ema=True)}
        )
