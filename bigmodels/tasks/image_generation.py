"""Image generation with the GAN (article 2.1 and 4.4).

    bigmodels-train --task=image_generation --workdir=runs/gan
    bigmodels-train --task=image_generation --set model.kind=dense --workdir=runs/dense_gan
    bigmodels-predict --workdir=runs/gan --count=64 --output=digits.png

`kind=conv` is a small DCGAN, `kind=dense` the article's own networks, corrected.
Measured figures, with seed, machine and time, are in the README.
"""

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

from bigmodels import kernels, plots
from bigmodels.data import load_images
from bigmodels.data.images import augmentation_for
from bigmodels.intervals import Observations
from bigmodels.models import CNN, GAN, ConvDiscriminator, ConvGenerator, Discriminator, Generator
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_image_size,
    check_positive,
    check_share,
    check_sizes,
    each_prediction,
)


@dataclasses.dataclass(frozen=True)
class ConvConfig:
    """The convolutional pair."""

    kind: str = "conv"
    latent_dim: int = 100

    def __post_init__(self):
        check_sizes(self, "latent_dim")


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """The article's dense pair."""

    kind: str = "dense"
    latent_dim: int = 100

    def __post_init__(self):
        check_sizes(self, "latent_dim")


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
    """Both networks' Adam, with DCGAN's low momentum."""

    learning_rate: float = 2e-4
    beta_1: float = 0.5

    def __post_init__(self):
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
    if config.model.kind == "conv":
        networks = ConvGenerator(latent_dim, shape), ConvDiscriminator(shape)
    else:
        networks = Generator(latent_dim, shape), Discriminator(shape)
    return GAN(*networks, seed=config.seed)


def compile_model(model, config, steps):
    """An Adam for each network."""
    pair = [keras.optimizers.Adam(**dataclasses.asdict(config.optimizer)) for _ in range(2)]
    jit_compile = config.keras_jit_compile
    if jit_compile == "auto" and config.model.kind == "dense" and kernels.on_one_cpu():
        jit_compile = True  # Half as fast again (`tools/bench options`); no other model gains.
    model.compile(*pair, jit_compile=jit_compile)


def search_space(hp):
    """What the balance of the two networks hangs on, for either kind."""
    return {
        "batch_size": hp.Choice("batch_size", [32, 64, 128]),
        "model.latent_dim": hp.Choice("model.latent_dim", [32, 64, 100, 128]),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 5e-5, 1e-3, sampling="log"),
        "optimizer.beta_1": hp.Choice("optimizer.beta_1", [0.0, 0.5, 0.9]),
    }


def measure(model, data, config, measured):
    """What a separately trained CNN makes of 1000 samples.

    Returns:
        Under "validation" and "test", for other noise each: `classes_covered`, the share of classes
        that at least one sample in a hundred (a tenth of an even share) falls into;
        `mean_confidence`, the CNN's mean highest probability; `judge_score`, which rises with both,
        from 1 to the number of classes: the inception score with the CNN for its network. Under
        "test" also `judge_accuracy`, the CNN's accuracy on the real images, and `real_confidence`,
        its mean confidence there.
    """
    augmentation = augmentation_for(config.dataset)
    real = _load(config, (0.0, 1.0), with_labels=True, augmentation=augmentation)
    classes = len(real.class_names)
    judge = CNN(classes, dropout_rate=0.4, batch_normalization=True)
    judge.compile(
        Optimizer(learning_rate=2e-3).build(config.judge_steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    judge.fit(real.train_from(0), steps_per_epoch=config.judge_steps, verbose=0)

    rated_real = judge.predict_proba(real.test.map(lambda x, y: x), verbose=0)
    _, correct = each_prediction(judge, real.test)

    # Without keys: each run has samples, and a judge, of its own.
    def rate(seed):
        rated = judge.predict_proba((model.generate(1000, seed=seed) + 1) / 2, verbose=0)

        def covered(predicted):
            shares = np.bincount(predicted, minlength=classes) / len(predicted)
            return (shares >= 0.1 / classes).mean()

        def score(drawn):
            chosen = rated[drawn]  # (samples, classes)
            surprise = chosen * (np.log(chosen + 1e-12) - np.log(chosen.mean(0) + 1e-12))
            return np.exp(surprise.sum(-1).mean())

        return {
            "classes_covered": Observations(rated.argmax(-1), "samples", statistic=covered),
            "mean_confidence": Observations(rated.max(-1), "samples"),
            "judge_score": Observations(np.arange(len(rated)), "samples", statistic=score),
        }

    return {
        "validation": rate(config.seed + 1),
        "test": rate(config.seed)
        | {
            "judge_accuracy": Observations(correct, "test images"),
            "real_confidence": Observations(rated_real.max(-1), "test images"),
        },
    }


def examples(data):
    """Some of the images to imitate."""
    images = np.concatenate(list(data.train_sample.take(2).as_numpy_iterator()))[:32]
    return {"Training images": plots.image_grid(images, scale=data.scale)}


def sample(model, data, config):
    """The same 32 points of noise, every time."""
    return plots.image_grid(model.generate(32, seed=config.seed), scale=data.scale)


def draw(model, data, config):
    """Samples beside real images."""
    real = tf.concat(list(data.test.take(2)), 0)[:32]
    return {
        "Generated images": plots.image_grid(
            model.generate(64, seed=config.seed), scale=data.scale
        ),
        "Real images (test)": plots.image_grid(real, scale=data.scale),
    }


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    lines = {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }
    if data.skipped:
        lines["left out"] = f"{len(data.skipped)} files that cannot be read"
    return lines


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
    predict=predict,
    serving=serving,
    overfits=False,
    objective="validation.judge_score",
    examples=examples,
    # The losses measure two networks by each other: neither way is better.
    metrics={
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
