"""Inpainting: filling holes in images with a GAN (article 2.1), after context encoders.

    bigmodels train --task=inpainting --seed=1 --workdir=runs/holes

A PSNR of 13.40 dB in the holes of 500 test digits (biharmonic inpainting: 9.33 dB) after 4.6 min,
beside other work on two cores of an AMD EPYC. More in notebooks/guide/results.md.

    bigmodels train --task=inpainting --dataset=photos --workdir=runs/photos
    bigmodels predict --workdir=runs/photos --input=photo.png --box=40,60,12,12 --output=whole.png

In training the holes of an image change with every epoch; in validation and test they are fixed.
"""

import dataclasses

import keras

from bigmodels.data import Augmentation, Holes
from bigmodels.data.images import augmentation_for
from bigmodels.models import ConvDiscriminator, Inpainter, InpaintingGAN
from bigmodels.tasks.images import load_images_for
from bigmodels.tasks.inpainting import evaluation
from bigmodels.tasks.inpainting.config import Inpainting
from bigmodels.tasks.inpainting.inference import InpaintingPredictor
from bigmodels.tasks.record import Task


def load_data(config):
    """Load images with holes, their masks, and the whole images, in [-1, 1]."""
    evaluation.check_installed()  # Fail before the training, not at its evaluation.
    mirrored = config.data.mirror and augmentation_for(config.dataset).horizontal_flip
    return load_images_for(
        config,
        augmentation=Augmentation(horizontal_flip=mirrored),
        scale=(-1.0, 1.0),
        holes=Holes(config.data.hole_share, config.data.holes),
    )


def build_model(config, data):
    """Build a generator, and a discriminator unless its weight is 0."""
    settings, shape = config.model, data.image_shape
    discriminator = None
    if settings.adversarial_weight:
        discriminator = ConvDiscriminator(shape, dropout_rate=settings.dropout_rate)
    generator = Inpainter(shape, settings.filters)
    return InpaintingGAN(generator, discriminator, settings.adversarial_weight)


def compile_model(model, config, steps):
    """Compile with an optimizer for each network."""
    model.compile(
        keras.optimizers.Adam(**dataclasses.asdict(config.d_optimizer)),
        config.optimizer.build(steps),
        config.model.reconstruction,
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Search the size, loss and learning rate of the generator, and the adversarial weight."""
    hp.Choice("model.filters", ["8,16,32,32", "16,32,64,64", "32,64,128,128"])
    hp.Choice("model.reconstruction", ["mean_squared_error", "mean_absolute_error"])
    hp.Float("model.adversarial_weight", 1e-3, 1e-1, sampling="log")
    hp.Float("optimizer.learning_rate", 2e-4, 5e-3, sampling="log")


TASK = Task(
    name="inpainting",
    summary="fill holes in images (GAN, after context encoders)",
    unit="images",
    config=Inpainting,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=InpaintingPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    objective="validation.psnr",
    metrics=evaluation.METRICS,
    predict_flags=("--input=photo.png", "--mask=hole.png", "--output=filled.png"),
)
