import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.models import ConvDiscriminator, Inpainter, InpaintingGAN

SHAPE = (9, 7, 2)  # Odd sizes are halved rounding up.


def tiny(weight=0.5):
    judge = ConvDiscriminator(SHAPE, filters=(3, 4), dropout_rate=0.0) if weight else None
    return InpaintingGAN(Inpainter(SHAPE, filters=(4, 5, 6)), judge, weight)


def pairs(rng, count=16):
    images = rng.uniform(-1, 1, (count, *SHAPE)).astype("float32")
    mask = np.zeros((count, *SHAPE[:2], 1), "float32")
    for i, hole in enumerate(mask):
        hole[i % 4 : i % 4 + 2 + i % 5, 2:5] = 1
    return np.concatenate([images * (1 - mask), mask], -1), images


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_pixels_outside_of_the_hole_come_out_as_they_went_in(rng, policy):
    keras.config.set_dtype_policy(policy)
    inputs, images = pairs(rng)
    filled, hole = tiny().predict(inputs, verbose=0), inputs[..., -1] > 0
    assert filled.dtype == np.float32 and filled.shape == images.shape
    np.testing.assert_array_equal(filled[~hole], images[~hole])
    assert np.abs(filled[hole]).max() < 1 and (filled[hole] != 0).all()


def test_what_is_in_the_hole_is_not_looked_at(rng):
    inputs, images = pairs(rng)
    model = tiny()
    spoilt = np.concatenate([images, inputs[..., -1:]], -1)
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), model.predict(spoilt, verbose=0)
    )


def test_losses_are_of_the_hole_alone_each_image_alike(rng):
    """Against NumPy, with holes of several sizes and a ragged last batch."""
    model, (inputs, images) = tiny(), pairs(rng, 14)
    model.compile()
    logs = model.evaluate(inputs, images, batch_size=8, verbose=0, return_dict=True)
    filled = model.predict(inputs, verbose=0).astype("float64")
    each = [
        np.square(f - i)[x[..., -1] > 0].mean()
        for f, i, x in zip(filled, images, inputs, strict=True)
    ]
    np.testing.assert_allclose(logs["loss"], np.mean(each), rtol=1e-5)
    real, fake = (np.asarray(model.discriminator(x), "float64") for x in (images, filled))
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    np.testing.assert_allclose(
        logs["d_loss"], softplus(-real).mean() + softplus(fake).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(logs["g_loss"], softplus(-fake).mean(), rtol=1e-5)


def test_an_image_without_a_hole_costs_nothing(rng):
    model, (inputs, images) = tiny(0.0), pairs(rng, 8)
    inputs[:4, ..., -1] = 0
    model.compile()
    some = model.evaluate(inputs, images, verbose=0, return_dict=True)["loss"]
    others = model.evaluate(inputs[4:], images[4:], verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(some, others / 2, rtol=1e-5)


def weights_of(model):
    return {
        "d": [v.numpy() for v in model.discriminator.trainable_variables],
        "g": [v.numpy() for v in model.generator.trainable_variables],
    }


@pytest.mark.parametrize("frozen", ["d", "g"])
@pytest.mark.thorough
def test_each_step_moves_both_networks_each_by_its_own_optimizer(rng, frozen):
    model, (inputs, images) = tiny(), pairs(rng)
    rates = {"d": 1e-2, "g": 1e-2} | {frozen: 0.0}
    model.compile(keras.optimizers.SGD(rates["d"]), keras.optimizers.SGD(rates["g"]))
    before = weights_of(model)
    model.fit(inputs, images, batch_size=8, verbose=0)
    after = weights_of(model)
    for name in ("d", "g"):
        moved = any(not np.array_equal(*p) for p in zip(before[name], after[name], strict=True))
        assert moved == (name != frozen)


@pytest.mark.thorough
def test_a_step_follows_the_reconstruction_and_so_many_times_the_other(rng):
    """The generator's gradient, against one taken by hand before either network has moved."""
    model, (inputs, images) = tiny(0.7), pairs(rng, 8)
    with tf.GradientTape() as tape:
        filled = model(inputs)
        mask = inputs[..., -1]
        each = tf.reduce_mean(tf.square(filled - images), -1) * mask
        near = tf.reduce_mean(tf.reduce_sum(each, (1, 2)) / tf.reduce_sum(mask, (1, 2)))
        real = tf.reduce_mean(tf.math.softplus(-model.discriminator(filled)))
        total = near + 0.7 * real
    gradients = tape.gradient(total, model.generator.trainable_variables)
    before = weights_of(model)["g"]
    model.compile(keras.optimizers.SGD(0.3), keras.optimizers.SGD(0.1))
    model.fit(inputs, images, batch_size=8, verbose=0)
    for old, new, gradient in zip(before, weights_of(model)["g"], gradients, strict=True):
        np.testing.assert_allclose(old - new, 0.1 * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.thorough
def test_without_a_discriminator_there_is_one_loss_and_one_optimizer(rng):
    model, (inputs, images) = tiny(0.0), pairs(rng)
    model.compile(reconstruction_loss="mean_absolute_error")
    history = model.fit(inputs, images, epochs=30, batch_size=8, verbose=0).history
    assert history.keys() == {"loss"} and history["loss"][-1] < history["loss"][0]
    assert model.d_optimizer is None and model.optimizer is model.g_optimizer
    again = InpaintingGAN.from_config(model.get_config())
    assert again.discriminator is None and again.adversarial_weight == 0


def test_float16_scales_both_losses():
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny()
    model.compile()
    for optimizer in (model.d_optimizer, model.g_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Inpainter((8, 8)), "image_shape: (8, 8)"),
        (lambda: Inpainter(filters=()), "filters: ()"),
        (lambda: Inpainter(SHAPE).build((None, 9, 7, 2)), "input_shape: (None, 9, 7, 2), expected"),
        (
            lambda: InpaintingGAN(Inpainter(SHAPE), ConvDiscriminator((8, 8, 1)), 0.1),
            "discriminator: takes images (8, 8, 1), but the generator makes (9, 7, 2)",
        ),
        (lambda: InpaintingGAN(Inpainter(SHAPE), None, 0.1), "adversarial_weight: 0.1"),
        (lambda: InpaintingGAN(Inpainter(SHAPE), ConvDiscriminator(SHAPE)), "there is one"),
        (lambda: tiny().compile(g_optimizer=keras.optimizers.Adam(use_ema=True)), "g_optimizer:"),
        (lambda: tiny().compile(keras.optimizers.Adam(use_ema=True)), "d_optimizer: use_ema=True"),
    ],
)
def test_errors_name_argument_and_value(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_images_in_the_wrong_range_are_refused(rng):
    model, (inputs, images) = tiny(), pairs(rng)
    model.compile()
    with pytest.raises(ValueError, match=r"x: element 0 holds .* from -1 to 1\. Images are scaled"):
        model.fit(inputs * 300, images, verbose=0)
    with pytest.raises(ValueError, match="y: element 0 holds"):
        model.fit(inputs, images * 300, verbose=0)
    with pytest.raises(ValueError, match="x: shape"):
        model.predict(images, verbose=0)
