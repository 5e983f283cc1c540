"""Image generation with the GAN (article 2.1 and 4.4).

    bigmodels-train --task=image_generation --workdir=runs/gan
    bigmodels-train --task=image_generation --set model.kind=dense --workdir=runs/dense_gan
    bigmodels-predict --workdir=runs/gan --count=64 --output=digits.png

`kind=conv` is a small DCGAN, `kind=dense` the article's own networks, corrected.
Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

from bigmodels.data import load_images
from bigmodels.data.images import augmentation_for
from bigmodels.evaluation.judge import JUDGES_BATCH, Judge
from bigmodels.losses import Wasserstein
from bigmodels.models import GAN, ConvDiscriminator, ConvGenerator, Discriminator, Generator
from bigmodels.reports import plots
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_choice,
    check_image_size,
    check_not_negative,
    check_positive,
    check_share,
    check_sizes,
)

# What both networks go by: the discriminator's loss, and the generator's.
LOSSES = {
    "cross_entropy": (None, None),  # The GAN's own.
    "hinge": (keras.losses.Hinge(), Wasserstein()),
}
# The learning rate of each kind, where none is asked for.
RATES = {"conv": 1e-3, "dense": 2e-4}
# Of training images to find the nearest in.
_MOST_LOOKED_AT = 10_000


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """What either pair can be told.

    `normalization`, of the discriminator: none, batch or spectral. `loss`: cross_entropy or hinge.
    `r1` and `ema_momentum`: see `bigmodels.models.GAN`.
    """

    kind: str = ""
    latent_dim: int = 100
    normalization: str = "none"
    loss: str = "cross_entropy"
    r1: float = 0.0
    ema_momentum: float = 0.0

    def __post_init__(self):
        check_sizes(self, "latent_dim")
        check_choice("model.normalization", self.normalization, ("none", "batch", "spectral"))
        check_choice("model.loss", self.loss, tuple(LOSSES))
        check_not_negative("model.r1", self.r1)
        check_share("model.ema_momentum", self.ema_momentum)


@dataclasses.dataclass(frozen=True)
class ConvConfig(PairConfig):
    """The convolutional pair; its images are an average's. `dropout_rate`: the discriminator's."""

    kind: str = "conv"
    ema_momentum: float = 0.999
    dropout_rate: float = 0.3


@dataclasses.dataclass(frozen=True)
class DenseConfig(PairConfig):
    """The article's dense pair."""

    kind: str = "dense"
    normalization: str = "batch"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    `image_size` (height, width) is what they are resized to; empty keeps them as they are.
    `skip_bad_files` leaves out files of `images:DIR` that cannot be read.
    """

    image_size: tuple[int, ...] = ()
    skip_bad_files: bool = False

    def __post_init__(self):
        check_image_size(self.image_size)


@dataclasses.dataclass(frozen=True)
class AdamPair:
    """Both networks' Adam, with DCGAN's low momentum.

    `learning_rate`: DCGAN's 2e-4 for the dense pair; 1e-3 for the convolutional one, as the average
    that makes its images evens out what such steps jump about.
    """

    learning_rate: float | None = None
    beta_1: float = 0.5

    def __post_init__(self):
        if self.learning_rate is not None:
            check_positive("optimizer.learning_rate", self.learning_rate)
        check_share("optimizer.beta_1", self.beta_1)


@dataclasses.dataclass(frozen=True)
class ImageGeneration(Config):
    """The recipe. `judge_steps`: training steps of the CNN that rates the samples."""

    dataset: str = "digits"
    epochs: int = 60
    judge_steps: int = 600
    model: ConvConfig | DenseConfig = ConvConfig()
    data: DataConfig = DataConfig()
    optimizer: AdamPair = AdamPair()

    def __post_init__(self):
        super().__post_init__()
        check_positive("judge_steps", self.judge_steps)


def _load(config, scale, with_labels, augmentation=None):
    return load_images(
        config.dataset,
        config.batch_size,
        data_dir=config.data_dir,
        image_size=config.data.image_size or None,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=augmentation,
        scale=scale,
        with_labels=with_labels,
        seed=config.seed,
    )


def load_data(config):
    """Images in [-1, 1], without labels."""
    return _load(config, (-1.0, 1.0), with_labels=False)


def build_model(config, data):
    """A built pair of networks."""
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
    """An Adam for each network, and their losses."""
    adam = dataclasses.asdict(config.optimizer)
    adam["learning_rate"] = adam["learning_rate"] or RATES[config.model.kind]
    pair = [keras.optimizers.Adam(**adam) for _ in range(2)]
    model.compile(*pair, *LOSSES[config.model.loss], jit_compile=config.keras_jit_compile)


def search_space(hp):
    """What the balance of the two networks hangs on, for either kind."""
    return {
        "batch_size": hp.Choice("batch_size", [32, 64, 128]),
        "model.latent_dim": hp.Choice("model.latent_dim", [32, 64, 100, 128]),
        "model.normalization": hp.Choice("model.normalization", ["none", "spectral"]),
        "model.loss": hp.Choice("model.loss", list(LOSSES)),
        "model.r1": hp.Choice("model.r1", [0.0, 0.1, 1.0, 10.0]),
        "model.ema_momentum": hp.Choice("model.ema_momentum", [0.0, 0.99, 0.999]),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 5e-5, 3e-3, sampling="log"),
        "optimizer.beta_1": hp.Choice("optimizer.beta_1", [0.0, 0.5, 0.9]),
    }


def _judge(config):
    """Of samples, by what it learnt from the same images with their labels."""
    config = dataclasses.replace(config, batch_size=JUDGES_BATCH)
    augmentation = augmentation_for(config.dataset)
    real = _load(config, (0.0, 1.0), with_labels=True, augmentation=augmentation)
    return Judge(
        real,
        Optimizer(learning_rate=2e-3).build(config.judge_steps),
        config.judge_steps,
        config.seed,
    )


def measure(model, data, config, measured):
    """What a separately trained CNN makes of samples, beside real images it has not seen either.

    Returns:
        Under "validation" and "test" the metrics of `Judge.rate`, for other noise each; under
        "test" also those of `Judge.rate_real`. See `bigmodels.evaluation.judge`.
    """
    judge = _judge(config)

    def rate(split, seed):
        return judge.rate((model.generate(judge.count, seed=seed) + 1) / 2, split)

    return {
        "validation": rate("validation", config.seed + 1),
        "test": rate("test", config.seed) | judge.rate_real(),
    }, None


def examples(data):
    """Some of the images to imitate."""
    images = np.concatenate(list(data.train_sample.take(2).as_numpy_iterator()))[:32]
    return {"Training images": plots.image_grid(images, scale=data.scale)}


def sample(model, data, config):
    """The same 32 points of noise, every time."""
    return plots.image_grid(model.generate(32, seed=config.seed), scale=data.scale)


def _nearest(images, batches):
    """Of all images in batches the one nearest to each, pixel by pixel."""
    wanted = images.reshape(len(images), -1)
    nearest, least = np.zeros_like(images), np.full(len(images), np.inf)
    for batch in batches.as_numpy_iterator():
        rows = batch.reshape(len(batch), -1)
        distances = np.square(rows).sum(1) - 2 * wanted @ rows.T  # Less what all have in common.
        found, place = distances.min(1), distances.argmin(1)
        nearest[found < least] = batch[place[found < least]]
        least = np.minimum(least, found)
    return nearest


def draw(model, data, config, found):
    """Samples, the training images nearest to some of them, and real images."""
    real = tf.concat(list(data.test.take(2)), 0)[:32]
    made = model.generate(64, seed=config.seed)
    some = data.train.take(-(-_MOST_LOOKED_AT // config.batch_size))
    nearest = _nearest(made[:16], some)
    pairs = np.concatenate([made[:8], nearest[:8], made[8:16], nearest[8:]])
    count = min(int(some.cardinality()) * config.batch_size, data.sizes["train"])
    pictures = {
        "Generated images": made,
        f"Generated images, and below each the nearest of {count:,} training images": pairs,
        "Real images (test)": real,
    }
    return {title: plots.image_grid(images, scale=data.scale) for title, images in pictures.items()}


def settled(model, data, config):
    """The rate that suits the pair of networks."""
    rate = config.optimizer.learning_rate or RATES[config.model.kind]
    return {"optimizer.learning_rate": rate}


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }


def predict(model, config, count=16, seed=0, output="samples.png"):
    """A picture of generated images.

    Args:
        model: A trained GAN.
        config: Its config.
        count: How many images.
        seed: Same seed, same images.
        output: PNG file to write.

    Yields:
        `{"file": ..., "images": ...}`.

    Raises:
        ValueError: if `count` is not positive or `output` is no PNG file in a directory.
    """
    if count < 1:
        raise ValueError(f"count: {count!r}, expected a positive integer")
    path = pathlib.Path(output)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ValueError(f"output: {str(output)!r}, expected a .png in an existing directory")
    figure = plots.image_grid(model.generate(count, seed=seed), scale=(-1.0, 1.0))
    figure.savefig(output, dpi=150)
    yield {"file": str(output), "images": count}


def serving(model, config):
    """A count or noise in, images out; a seed's images are those of `predict`."""

    def from_noise(noise):
        pixels = (model(noise, training=False) + 1) * 127.5
        return {"images": tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), "uint8")}

    def generate(count, seed):
        shape = (count, model.latent_dim)
        images = from_noise(tf.random.stateless_normal(shape, tf.stack([seed, 0])))["images"]
        return {"images": images, "png_bytes": tf.io.encode_png(images)}

    number, some_noise = tf.TensorSpec((), "int32"), tf.TensorSpec((None, model.latent_dim))
    noise = np.random.default_rng(0).normal(size=(2, model.latent_dim)).astype("float32")
    return {
        "generate": Signature(generate, (number, number), (np.int32(2), np.int32(0))),
        "from_noise": Signature(from_noise, (some_noise,), (noise,), portable=True),
    }, {}


TASK = Task(
    name="image_generation",
    summary="new images from noise (GAN)",
    unit="images",
    config=ImageGeneration,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    settled=settled,
    predict=predict,
    predict_flags=("--count=64", "--output=samples.png"),
    serving=serving,
    overfits=False,
    objective="validation.frechet_distance",
    examples=examples,
    # The losses measure two networks by each other: neither way is better.
    metrics={
        "frechet_distance": Metric("", "min"),
        "precision": Metric("%", "max"),
        "recall": Metric("%", "max"),
        "density": Metric("", "max"),
        "coverage": Metric("%", "max"),
        "frechet_distance_real": Metric(""),
        "precision_real": Metric("%"),
        "recall_real": Metric("%"),
        "density_real": Metric(""),
        "coverage_real": Metric("%"),
        "classes_covered": Metric("%", "max"),
        "mean_confidence": Metric("%", "max"),
        "judge_score": Metric("", "max"),
        "real_confidence": Metric("%"),
        "judge_accuracy": Metric("%"),
        "loss": Metric("nats"),
        "d_loss": Metric("nats"),
        "g_loss": Metric("nats"),
    },
)
