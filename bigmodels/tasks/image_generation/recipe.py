"""Image generation with the GAN (article 2.1 and 4.4).

    bigmodels train --task=image_generation --seed=1 --workdir=runs/gan

A Fréchet distance of 0.143 from the test digits (other real digits: 0.013) after 9.9 min, on one
core of an AMD EPYC. More in notebooks/guide/results.md.

    bigmodels train --task=image_generation --set model.kind=dense --workdir=runs/dense_gan
    bigmodels predict --workdir=runs/gan --count=64 --output=digits.png

`kind=conv` is a small DCGAN, `kind=dense` the article's own networks, corrected.
"""

import keras

from bigmodels.models import GAN, ConvDiscriminator, ConvGenerator, Discriminator, Generator
from bigmodels.tasks.image_generation import evaluation
from bigmodels.tasks.image_generation.config import LOSSES, RATES, ImageGeneration
from bigmodels.tasks.image_generation.inference import GeneratorPredictor
from bigmodels.tasks.images import load_images_for
from bigmodels.tasks.record import Task


def load_data(config):
    """Load images in [-1, 1], without labels."""
    return load_images_for(config, scale=(-1.0, 1.0), with_labels=False)


def build_model(config, data):
    """Build a GAN."""
    latent_dim, shape = config.model.latent_dim, data.image_shape
    options = {"normalization": config.model.normalization}
    if config.model.kind == "conv":
        options["dropout_rate"] = config.model.dropout_rate
        networks = ConvGenerator(latent_dim, shape), ConvDiscriminator(shape, **options)
    else:
        networks = Generator(latent_dim, shape), Discriminator(shape, **options)
    return GAN(
        *networks, seed=config.seed, r1=config.model.r1, ema_momentum=config.model.ema_momentum
    )


def compile_model(model, config, steps):
    """Compile with an Adam optimizer and a loss for each network."""
    rate, beta_1 = _learning_rate(config), config.optimizer.beta_1
    pair = [keras.optimizers.Adam(rate, beta_1=beta_1) for _ in range(2)]
    model.compile(*pair, *LOSSES[config.model.loss], jit_compile=config.keras_jit_compile)


def _learning_rate(config):
    return config.optimizer.learning_rate or RATES[config.model.kind]


def search_space(hp):
    """Search the settings that affect the balance of the two networks, for either kind."""
    hp.Choice("batch_size", [32, 64, 128])
    hp.Choice("model.latent_dim", [32, 64, 100, 128])
    hp.Choice("model.normalization", ["none", "spectral"])
    hp.Choice("model.loss", list(LOSSES))
    hp.Choice("model.r1", [0.0, 0.1, 1.0, 10.0])
    hp.Choice("model.ema_momentum", [0.0, 0.99, 0.999])
    hp.Float("optimizer.learning_rate", 5e-5, 3e-3, sampling="log")
    hp.Choice("optimizer.beta_1", [0.0, 0.5, 0.9])


def settled(model, data, config):
    """The default learning rate of the kind of GAN."""
    return {"optimizer.learning_rate": _learning_rate(config)}


TASK = Task(
    name="image_generation",
    summary="generate images (GAN)",
    unit="images",
    config=ImageGeneration,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=GeneratorPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    settled=settled,
    overfits=False,
    objective="validation.frechet_distance",
    metrics=evaluation.METRICS,
    predict_flags=("--count=64", "--output=samples.png"),
)
