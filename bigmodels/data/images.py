"""Labelled images, from wherever they come."""

import dataclasses

import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.data import files, readers
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import (
    SHUFFLE_WINDOW,
    Augmentation,
    evaluation_batches,
    training_batches,
)
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.splits import Splits

# What each set's classes survive. Digits, letters and street signs do not survive a mirror, so what
# is not named here is shifted, turned and zoomed a little and never mirrored.
AUGMENTATIONS = {
    "fashion_mnist": Augmentation(horizontal_flip=True),
    "cifar10": Augmentation(horizontal_flip=True, translation=0.1),
    "cifar100": Augmentation(horizontal_flip=True, translation=0.1),
    "photos": Augmentation(horizontal_flip=True),
}
DEFAULT_AUGMENTATION = Augmentation(translation=0.07, rotation=8.0, zoom=0.08)

# Sets whose splits together are decoded no larger than this are kept in memory, filled by the check
# at load. Half of what a small laptop has to spare; larger ones are read anew each epoch.
_CACHE_BYTES = 1 << 30
# What the shuffle of a larger set may hold. It is filled at the beginning of each epoch, so more of
# it means a longer wait.
_WINDOW_BYTES = 256 << 20
# The check at load looks at so many images at once, but at no more bytes.
_CHECK_IMAGES, _CHECK_BYTES = 256, 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageData(Splits):
    """Images ready for `fit`.

    Attributes (and those of `Splits`):
        train: Shuffled, augmented batches; each iteration is another epoch.
        train_sample: As many training images as there are for validation, as evaluation sees them.
        sizes: Number of images of each split.
        image_shape: `(height, width, channels)`.
        class_names: One name a class, in the order of the labels.
        class_counts: Number of images of each class, `(classes,)`, for each split.
        scale: The range the pixels are scaled to, `(low, high)`.
        skipped: Names of the files that were left out, as they cannot be read.
    """

    image_shape: tuple
    class_names: list
    class_counts: dict
    scale: tuple
    skipped: tuple = ()


def load_images(
    name="digits",
    batch_size=64,
    *,
    data_dir=None,
    image_size=None,
    augmentation=None,
    scale=(0.0, 1.0),
    with_labels=True,
    mixing=None,
    balance_classes=False,
    holes=None,
    skip_bad_files=False,
    seed=0,
):
    """Load images by name, check them, split them, scale them once, batch them.

    Args:
        name: `digits` or `photos` (embedded), `images:DIR` (one folder per class), or a TFDS name.
        batch_size: The global batch.
        data_dir: Where TFDS finds prepared sets.
        image_size: `(height, width)` to resize to; needed if the images differ in size.
        augmentation: An `Augmentation` for training, or `None`.
        scale: Range the pixel values 0..255 are mapped to.
        with_labels: Whether batches are `(images, labels)`, or images alone.
        mixing: A `Mixing` for training, or `None`. Where it makes soft targets, the labels of all
            splits are float32 `(batch, classes)`; else they are integers `(batch,)`.
        balance_classes: Whether training batches have a third part, weights with which every class
            counts alike, however many images it has.
        holes: A `bigmodels.data.Holes`: batches are what it makes of the images then. It cuts other
            holes in every epoch of training; elsewhere an image always has the same.
        skip_bad_files: Whether files of `images:DIR` that cannot be read are left out, counted and
            named on stderr; else the first of them is an error.
        seed: Decides the order and the augmentation of training, nothing else.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: naming the argument, file or element that does not fit.
    """
    notes = Notes()
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    splits, class_names, bad = _source(name, data_dir, image_size, skip_bad_files, notes)

    def resized(elements):
        if image_size is None or tuple(elements.element_spec[0].shape[:2]) == tuple(image_size):
            return elements
        return elements.map(lambda x, y: (files.resize(x, image_size), y), tf.data.AUTOTUNE)

    splits = {split: resized(elements) for split, elements in splits.items()}
    shape = tuple(splits["train"].element_spec[0].shape)
    if None in shape:
        raise ValueError(
            f"dataset: the images of {name!r} differ in size {shape}; "
            "set data.image_size=HEIGHT,WIDTH"
        )
    count = sum(int(elements.cardinality()) for elements in splits.values())
    held = count * _element_bytes(splits["train"]) <= _CACHE_BYTES
    if held:
        splits = {split: elements.cache() for split, elements in splits.items()}
    class_counts = {
        split: _checked_counts(split, name, elements, len(class_names))
        for split, elements in splits.items()
    }
    sizes = {split: int(counts.sum()) for split, counts in class_counts.items()}
    low, high = scale
    soft = mixing is not None and mixing.soft
    # With them the mean weight of an image is 1.
    weights = sizes["train"] / (len(class_names) * np.maximum(class_counts["train"], 1))
    weights = tf.constant(weights, "float32")

    def prepare(batch, batch_seed):
        numbers = None
        if holes is not None and batch_seed is None:
            batch, numbers = batch
        images, labels = batch
        images = tf.cast(images, "float32") * ((high - low) / 255) + low
        if augmentation is not None and batch_seed is not None:
            images = augmentation(images, batch_seed)
        if holes is not None:
            return holes(images, batch_seed, numbers)
        if not with_labels:
            return images
        shares = tf.one_hot(labels, len(class_names)) if soft or balance_classes else None
        if batch_seed is None:
            return images, shares if soft else labels
        if soft:
            images, shares = mixing(images, shares, batch_seed)
            labels = mixing.smoothed(shares)
        if not balance_classes:
            return images, labels
        return images, labels, tf.linalg.matvec(shares, weights)

    def in_order(elements):
        if holes is not None:  # Which follow from each image's number; it stands last.
            elements = elements.enumerate().map(lambda number, element: (element, number))
        return evaluation_batches(elements, batch_size, prepare)

    elements, reading = splits["train"], {}
    if not held:
        elements, reading = _streamed(name, data_dir, elements, resized, batch_size)
    train, train_from = training_batches(
        elements, sizes["train"], batch_size, seed, prepare, **reading
    )
    return ImageData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order(splits["train"].take(sizes["validation"])),
        validation=in_order(splits["validation"]),
        test=in_order(splits["test"]),
        sizes=sizes,
        image_shape=shape,
        class_names=class_names,
        class_counts=class_counts,
        scale=(low, high),
        skipped=tuple(map(str, bad)),
        notes=notes,
    )


def augmentation_for(name, **kinds):
    """The augmentation a set is known to survive, with what the user sets otherwise.

    Args:
        name: The data set.
        **kinds: As for `Augmentation`; `None` leaves a kind to the data set.

    Returns:
        An `Augmentation`.
    """
    usual = AUGMENTATIONS.get(name.split(":")[0], DEFAULT_AUGMENTATION)
    return dataclasses.replace(usual, **{k: v for k, v in kinds.items() if v is not None})


def _source(name, data_dir, image_size, skip_bad_files, notes):
    if name in embedded.IMAGES:
        return *embedded.IMAGES[name](), {}
    if files := readers.find("images", name):
        source, where = files
        options = {"image_size": image_size, "skip_bad_files": skip_bad_files, "notes": notes}
        return source.read(where, **options)
    if embedded.is_known(name):
        raise readers.refusal("images", name, "images")
    return *tfds.image_dataset(name, data_dir, notes), {}


def _element_bytes(elements):
    """What one decoded element takes in memory."""
    return sum(spec.shape.num_elements() * spec.dtype.size for spec in elements.element_spec)


def _streamed(name, data_dir, elements, resized, batch_size):
    """What `training_batches` is to shuffle where the images do not stay in memory.

    Args:
        name: The data set.
        data_dir: Where TFDS finds prepared sets.
        elements: Its training images.
        resized: Function from images as TFDS gives them to those of the wanted size.
        batch_size: The least that the shuffle holds.

    Returns:
        `(elements, keyword arguments)` for `training_batches`.
    """
    if name in embedded.IMAGES or readers.find("images", name):
        # Each image can be had by its number, so that the numbers are shuffled, not the images.
        numbers = tf.data.Dataset.range(elements.cardinality())
        return numbers, {"read": lambda number: tf.data.experimental.at(elements, number)}
    mixed = tfds.mixed_images(name, data_dir)
    window = max(batch_size, min(SHUFFLE_WINDOW, _WINDOW_BYTES // _element_bytes(elements)))
    return lambda epoch_seed: resized(mixed(epoch_seed)), {"window": window}


def _checked_counts(split, name, elements, num_classes):
    """Number of elements of each class, after one streaming look at every one of them."""
    images = checks.Spec("int", None)
    labels = checks.Spec("int", (), 0, num_classes - 1, f"There are {num_classes} classes.")
    at_once = max(1, min(_CHECK_IMAGES, _CHECK_BYTES // _element_bytes(elements)))
    batches = elements.batch(at_once)
    batches = checks.guard(batches, f"dataset {name!r}, {split}", (images, labels))
    counts = np.zeros(num_classes, "int64")
    with checks.readable_errors():
        for _, batch_labels in batches:
            counts += np.bincount(batch_labels, minlength=num_classes)
    if not counts.any():
        raise ValueError(f"dataset: {name!r} has no image for {split}")
    return counts
