"""Image restoration: holes in images filled by a GAN (article 2.1), after context encoders.

    bigmodels-train --task=inpainting --workdir=runs/inpainting
    bigmodels-train --task=inpainting --dataset=photos --workdir=runs/photos
    bigmodels-predict --workdir=runs/photos --input=photo.png --box=40,60,12,12 --output=whole.png

In training every image gets another hole each time; in validation and test image number i always
has the same. All figures but the losses are of the hole alone. PSNR is that of the mean squared
error over the images' holes (a hole that is filled exactly has none of its own); SSIM the mean of
the map of similarities over the hole's pixels.
Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses
import math
import pathlib

import keras
import numpy as np
import tensorflow as tf
from scipy import ndimage

from bigmodels import extras
from bigmodels.checks import shown
from bigmodels.data import Augmentation, Holes, files, load_images
from bigmodels.data.images import augmentation_for
from bigmodels.data.notes import Notes
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.layers import HarmonicFill
from bigmodels.models import ConvDiscriminator, Inpainter, InpaintingGAN
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

_SCALE = (-1.0, 1.0)
_MOST_HOLES = 8
# Pixels around a hole whose mean is its surroundings'.
_RIM = 2
# Of a window for SSIM, where the image is large enough.
_SSIM_WINDOW = 7
_DRAWN = 8


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Both networks, and what the generator minimises.

    `filters` are the generator's; with `adversarial_weight=0` there is no discriminator, whose
    dropout is `dropout_rate`.
    """

    filters: tuple[int, ...] = (16, 32, 64, 64)
    reconstruction: str = "mean_squared_error"
    adversarial_weight: float = 0.01
    dropout_rate: float = 0.3

    def __post_init__(self):
        check_sizes(self, "filters")
        check_not_negative("model.adversarial_weight", self.adversarial_weight)
        losses = ("mean_squared_error", "mean_absolute_error")
        check_choice("model.reconstruction", self.reconstruction, losses)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read, and holes are cut.

    `image_size` (height, width) is what they are resized to; empty keeps them as they are.
    `skip_bad_files` leaves out files of `images:DIR` that cannot be read. `mirror` mirrors half the
    training images where the data set is known to survive it; turning and zooming would blur what
    is to be painted. `hole_share` is the least and largest share of the area that the `holes`
    rectangles of an image take together.
    """

    image_size: tuple[int, ...] = ()
    skip_bad_files: bool = False
    mirror: bool = True
    hole_share: tuple[float, ...] = (0.1, 0.25)
    holes: int = 1

    def __post_init__(self):
        check_image_size(self.image_size)
        share = self.hole_share
        if len(share) != 2 or not 0 < share[0] <= share[1] <= 0.5:
            raise ValueError(
                f"data.hole_share: {shown(share)}, expected LEAST,LARGEST, above 0 and up to 0.5"
            )
        if not 1 <= self.holes <= _MOST_HOLES:
            raise ValueError(f"data.holes: {shown(self.holes)}, expected 1 to {_MOST_HOLES}")


@dataclasses.dataclass(frozen=True)
class Adam:
    """The discriminator's optimizer, with DCGAN's low momentum."""

    learning_rate: float = 2e-4
    beta_1: float = 0.5

    def __post_init__(self):
        check_positive("d_optimizer.learning_rate", self.learning_rate)
        check_share("d_optimizer.beta_1", self.beta_1)


@dataclasses.dataclass(frozen=True)
class Inpainting(Config):
    """The recipe. `measured_images`: how many of validation and test PSNR and SSIM are of."""

    dataset: str = "digits"
    epochs: int = 20
    measured_images: int = 500
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(name="adam", learning_rate=2e-3)
    d_optimizer: Adam = Adam()

    def __post_init__(self):
        super().__post_init__()
        check_positive("measured_images", self.measured_images)


def load_data(config):
    """Images with a hole and its mask, and the whole images, in [-1, 1]."""
    _check_installed()
    mirrored = config.data.mirror and augmentation_for(config.dataset).horizontal_flip
    return load_images(
        config.dataset,
        config.batch_size,
        data_dir=config.data_dir,
        image_size=config.data.image_size or None,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=Augmentation(horizontal_flip=mirrored),
        scale=_SCALE,
        holes=Holes(config.data.hole_share, config.data.holes),
        seed=config.seed,
    )


def _check_installed():
    with extras.require_extra("task: inpainting", "inpainting"):
        import skimage  # noqa: F401


def build_model(config, data):
    """A built generator, and the discriminator if it has a weight."""
    weight, shape = config.model.adversarial_weight, data.image_shape
    judge = ConvDiscriminator(shape, dropout_rate=config.model.dropout_rate) if weight else None
    return InpaintingGAN(Inpainter(shape, config.model.filters), judge, weight)


def compile_model(model, config, steps):
    """An optimizer for each network."""
    model.compile(
        keras.optimizers.Adam(**dataclasses.asdict(config.d_optimizer)),
        config.optimizer.build(steps),
        config.model.reconstruction,
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """The generator's size and loss, how fast it learns, and what the discriminator counts."""
    return {
        "model.filters": hp.Choice("model.filters", ["8,16,32,32", "16,32,64,64", "32,64,128,128"]),
        "model.reconstruction": hp.Choice(
            "model.reconstruction", ["mean_squared_error", "mean_absolute_error"]
        ),
        "model.adversarial_weight": hp.Float(
            "model.adversarial_weight", 1e-3, 1e-1, sampling="log"
        ),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 2e-4, 5e-3, sampling="log"),
    }


def _first(batches, count):
    """The first of a split's elements: inputs and images."""
    parts = zip(*batches.unbatch().take(count).as_numpy_iterator(), strict=True)
    return tuple(np.stack(part) for part in parts)


def _unit(images):
    """From [-1, 1] to [0, 1], in which everything is measured."""
    return (np.asarray(images, "float64") + 1) / 2


def _biharmonic(inputs):
    """Holes filled by scikit-image from the pixels around them, `(n, height, width, channels)`."""
    from skimage.restoration import inpaint_biharmonic

    return np.stack(
        [inpaint_biharmonic(_unit(x[..., :-1]), x[..., -1] > 0, channel_axis=-1) for x in inputs]
    )


def _surroundings(inputs):
    """Holes filled with the mean of the visible pixels next to them."""
    images, masks = _unit(inputs[..., :-1]), inputs[..., -1] > 0
    for image, mask in zip(images, masks, strict=True):
        image[mask] = image[ndimage.binary_dilation(mask, iterations=_RIM) & ~mask].mean(0)
    return images


def _scores(filled, images, masks):
    """Of each image's hole: mean squared error, SSIM, and the mean steepness of what fills it.

    Args:
        filled: Floats in [0, 1], `(n, height, width, channels)`.
        images: What is right.
        masks: Booleans `(n, height, width)`.

    Returns:
        Three arrays `(n,)`.
    """
    from skimage.metrics import structural_similarity

    side = min(_SSIM_WINDOW, *images.shape[1:3])
    rows = []
    for found, image, mask in zip(filled, images, masks, strict=True):
        _, similarity = structural_similarity(
            image, found, win_size=side - 1 + side % 2, channel_axis=-1, data_range=1.0, full=True
        )
        slopes = np.hypot(*np.gradient(found, axis=(0, 1)))
        rows.append(
            (np.square(found - image)[mask].mean(), similarity[mask].mean(), slopes[mask].mean())
        )
    return np.transpose(rows)


def _psnr(errors):
    """Decibels, from mean squared errors of values in [0, 1]."""
    return -10 * math.log10(max(np.mean(errors), 1e-10))


def measure(model, data, config, measured):
    """PSNR and SSIM in the holes, beside what simpler ways make of the same holes.

    Returns:
        Under "validation" and "test": `psnr` (dB), `ssim`, and `sharpness`, the mean steepness of
        brightness in the filled holes, as a share of the true one. Under "test" also `psnr_...` and
        `ssim_...` of four other fillings: `biharmonic`, scikit-image's; `harmonic`, what the
        generator begins with; `surroundings`, the mean of the pixels up to two from the hole;
        `training_mean`, the mean training image; and `psnr_over_...`, `ssim_over_...`, how much
        higher ours are, image by image. And the first holes of the test split, filled by the model
        and by scikit-image, see `_grid`.
    """
    metrics = {}
    for split in ("validation", "test"):
        inputs, images = _first(getattr(data, split), config.measured_images)
        masks, images = inputs[..., -1] > 0, _unit(images)
        rows, unit = np.arange(len(images)), f"{split} images"
        keys = intervals.keys(inputs)

        def scores(filled, images=images, masks=masks):
            return _scores(np.where(masks[..., None], filled, images), images, masks)

        painted = model.predict(inputs, verbose=0)
        errors, similarity, slopes = scores(_unit(painted))
        _, _, true_slopes = scores(images)

        def sharpness(drawn, slopes=slopes, true=true_slopes):
            return slopes[drawn].mean() / max(true[drawn].mean(), 1e-10)

        metrics[split] = {
            "psnr": Observations(errors, unit, statistic=_psnr),
            "ssim": Observations(similarity, unit, keys=keys),
            "sharpness": Observations(rows, unit, statistic=sharpness),
        }
        if split == "validation":
            continue
        _, of_training = _first(data.train_sample, config.measured_images)
        others = {
            "biharmonic": _biharmonic(inputs),
            "harmonic": _unit(HarmonicFill()(inputs)),
            "surroundings": _surroundings(inputs),
            "training_mean": _unit(of_training).mean(0),
        }
        for name, filled in others.items():
            theirs, their_similarity, _ = scores(filled)

            def over(drawn, ours=errors, theirs=theirs):
                return _psnr(ours[drawn]) - _psnr(theirs[drawn])

            metrics[split] |= {
                f"psnr_{name}": Observations(theirs, unit, statistic=_psnr),
                f"psnr_over_{name}": Observations(rows, unit, statistic=over),
                f"ssim_{name}": Observations(their_similarity, unit),
                f"ssim_over_{name}": Observations(similarity - their_similarity, unit),
            }
    first = {  # Of the last split, the test.
        "hole": inputs[..., :-1],
        "filled": painted,
        "biharmonic": 2 * others["biharmonic"] - 1,
        "true": 2 * images - 1,
    }
    return metrics, {title: pictures[:_DRAWN] for title, pictures in first.items()}


def _grid(columns, repeat=1):
    """Pictures in rows, each `{title: (n, height, width, channels)}` in [-1, 1]."""
    titles = list(columns)
    pictures = [picture for row in zip(*columns.values(), strict=True) for picture in row]
    return plots.image_grid(pictures, titles * (len(pictures) // len(titles)),
                            repeat * len(titles), _SCALE)  # fmt: skip


def examples(data):
    """Some training images with their holes."""
    inputs, images = _first(data.train_sample, 15)
    return {
        "Training images": _grid({"with a hole": inputs[..., :-1], "whole": images}, repeat=3),
    }


def sample(model, data, config):
    """The same holes of validation, every time."""
    inputs, images = _first(data.validation, _DRAWN)
    filled = model.predict(inputs, verbose=0)
    return _grid({"hole": inputs[..., :-1], "filled": filled, "true": images}, repeat=2)


def draw(model, data, config, found):
    """Holes of the test split, filled by the model and by scikit-image."""
    return {"Filled holes (test)": _grid(found)}


def describe(data):
    """The data in a few lines."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }


def predict(model, config, input=None, mask=None, box=None, output="filled.png"):
    """A hole in an image file filled; every pixel outside of it stays as it is.

    The model sees a part of the image around the hole, at least as large as those it was trained on
    and twice as high and wide as the hole, resized to them.

    Args:
        model: A trained `InpaintingGAN`.
        config: Its config.
        input: An image file.
        mask: An image file of the same size, light where there is a hole.
        box: Instead of a mask: the hole as `TOP,LEFT,HEIGHT,WIDTH`, in pixels.
        output: PNG file to write.

    Yields:
        `{"file": ..., "pixels": ...}`, the number of pixels filled.

    Raises:
        ValueError: naming the argument or file that does not fit.
    """
    if not input:
        raise ValueError("input: give an image file")
    path = pathlib.Path(output)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ValueError(f"output: {str(output)!r}, expected a .png in an existing directory")
    size, channels = model.image_shape[:2], model.image_shape[-1]
    notes, reader = Notes(), files.ImageReader("input", channels)
    image = reader.read(pathlib.Path(input)).numpy()
    reader.tell(notes)
    hole = _hole(image.shape[:2], mask, box, notes)
    window = _window(hole, size)
    part = tf.cast(files.resize(image[window], size), "float32") / 127.5 - 1
    # All that a pixel of the hole has a share in.
    small = files.resize(hole[window][..., None] * np.uint8(255), size) > 0
    inputs = tf.concat([tf.where(small, 0.0, part), tf.cast(small, "float32")], -1)
    (filled,) = np.round((model.predict(inputs[None], verbose=0) + 1) * 127.5)
    filled = files.resize(filled, hole[window].shape).numpy()
    image[hole] = filled[hole[window]]
    path.write_bytes(tf.io.encode_png(image).numpy())
    yield {"file": str(output), "pixels": int(hole.sum())}


def _hole(size, mask, box, notes=None):
    """Where to fill, booleans of the image's size, from one of two arguments."""
    if bool(mask) == bool(box):
        raise ValueError("mask: give an image file as mask, or box as TOP,LEFT,HEIGHT,WIDTH")
    if mask:
        # What of a mask is transparent was not painted.
        reader = files.ImageReader("mask", 1, background=0)
        hole = reader.read(pathlib.Path(mask)).numpy()[..., 0] > 127
        reader.tell(notes or Notes())
        if hole.shape != size:
            raise ValueError(f"mask: {str(mask)!r} is {hole.shape} pixels but the image is {size}")
        if not hole.any() or hole.all():
            what = "no light pixel" if not hole.any() else "nothing but light pixels"
            raise ValueError(f"mask: {str(mask)!r} has {what}")
        return hole
    try:
        top, left, height, width = map(int, str(box).split(","))
    except ValueError:
        raise ValueError(f"box: {shown(box)}, expected TOP,LEFT,HEIGHT,WIDTH in pixels") from None
    inside = min(top, left) >= 0 and min(height, width) >= 1
    if not inside or top + height > size[0] or left + width > size[1] or (height, width) == size:
        raise ValueError(f"box: {shown(box)}, expected a part of the image's {size[0]} x {size[1]}")
    hole = np.zeros(size, "bool")
    hole[top : top + height, left : left + width] = True
    return hole


def _window(hole, size):
    """Slices of the part of an image that the model is to see, shaped like its own images."""
    places = [np.flatnonzero(hole.any(axis)) for axis in (1, 0)]
    spans = [(int(found[0]), int(found[-1]) + 1) for found in places]
    scale = max(1.0, *(2 * (end - begin) / n for (begin, end), n in zip(spans, size, strict=True)))
    window = []
    for (begin, end), n, whole in zip(spans, size, hole.shape, strict=True):
        length = min(whole, math.ceil(scale * n))
        first = min(max(0, (begin + end - length) // 2), whole - length)
        window.append(slice(first, first + length))
    return tuple(window)


def serving(model, config):
    """Images and masks in, images out, of the model's own size."""
    height, width, channels = model.image_shape

    def fill(images, masks):
        # As floats: LiteRT does not compare bytes.
        pixels, hole = tf.cast(images, "float32"), tf.cast(masks, "float32") > 0
        inputs = tf.concat([tf.where(hole, 0.0, pixels / 127.5 - 1), tf.cast(hole, "float32")], -1)
        painted = tf.round((model.generator(inputs, training=False) + 1) * 127.5)
        return {"filled": tf.cast(tf.where(hole, painted, pixels), "uint8")}

    images = tf.TensorSpec((None, height, width, channels), "uint8")
    masks = tf.TensorSpec((None, height, width, 1), "uint8")
    random = np.random.default_rng(0)
    some = random.integers(0, 256, (2, height, width, channels), "uint8")
    some_masks = np.zeros((2, height, width, 1), "uint8")
    some_masks[:, : height // 2, : width // 2] = 1
    return {"fill": Signature(fill, (images, masks), (some, some_masks), portable=True)}, {}


def _metrics():
    others = ("biharmonic", "harmonic", "surroundings", "training_mean")
    return {
        "psnr": Metric("dB", "max"),
        "ssim": Metric("", "max"),
        "sharpness": Metric("%"),
        "loss": Metric("", "min"),
        "d_loss": Metric("nats"),
        "g_loss": Metric("nats"),
        **{f"psnr_{name}": Metric("dB") for name in others},
        **{f"psnr_over_{name}": Metric("dB", "max") for name in others},
        **{f"ssim_{name}": Metric() for name in others},
        **{f"ssim_over_{name}": Metric("", "max") for name in others},
    }


TASK = Task(
    name="inpainting",
    summary="holes in images filled (GAN, after context encoders)",
    unit="images",
    config=Inpainting,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    predict=predict,
    predict_flags=("--input=photo.png", "--mask=hole.png", "--output=filled.png"),
    serving=serving,
    objective="validation.psnr",
    examples=examples,
    metrics=_metrics(),
)
