"""Labelled images, from wherever they come."""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.data import embedded, files, tfds
from bigmodels.data.pipeline import Augmentation, evaluation_batches, training_batches

# What each set's classes survive. Digits, letters and street signs do not survive a mirror, so what
# is not named here is shifted, turned and zoomed a little and never mirrored.
AUGMENTATIONS = {
    "fashion_mnist": Augmentation(horizontal_flip=True),
    "cifar10": Augmentation(horizontal_flip=True, translation=0.1),
    "cifar100": Augmentation(horizontal_flip=True, translation=0.1),
}
DEFAULT_AUGMENTATION = Augmentation(translation=0.07, rotation=8.0, zoom=0.08)

# Decoded sets up to this size are kept in memory after the first epoch.
_CACHE_BYTES = 4 << 30
# Of bad files that are left out.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images ready for `fit`.

    Attributes:
        name: What was loaded.
        train: Shuffled, augmented batches; each iteration is another epoch.
        train_from: Function from an epoch's number to the endless stream of epochs from there on,
            the same every time: for `fit(data.train_from(0), steps_per_epoch=...)`.
        train_sample: As many training images as there are for validation, as evaluation sees them.
        validation: Batches in order.
        test: Batches in order.
        sizes: Number of images of each split.
        image_shape: `(height, width, channels)`.
        class_names: One name a class, in the order of the labels.
        class_counts: Number of images of each class, `(classes,)`, for each split.
        scale: The range the pixels are scaled to, `(low, high)`.
        skipped: Names of the files that were left out, as they cannot be read.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable
    train_sample: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    sizes: dict
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
    skip_bad_files=False,
    seed=0,
):
    """Load images by name, check them, split them, scale them once, batch them.

    Args:
        name: `digits` (embedded), `images:DIR` (one folder per class), or a TFDS name.
        batch_size: The global batch.
        data_dir: Where TFDS finds prepared sets.
        image_size: `(height, width)` to resize to; needed if the images differ in size.
        augmentation: An `Augmentation` for training, or `None`.
        scale: Range the pixel values 0..255 are mapped to.
        with_labels: Whether batches are `(images, labels)`, or images alone.
        skip_bad_files: Whether files of `images:DIR` that cannot be read are left out, counted and
            named on stderr; else the first of them is an error.
        seed: Decides the order and the augmentation of training, nothing else.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: naming the argument, file or element that does not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    splits, class_names, bad = _source(name, data_dir, image_size, skip_bad_files)
    if bad:
        print(_left_out(bad), file=sys.stderr)
    shape = tuple(splits["train"].element_spec[0].shape)
    if image_size is not None and shape[:2] != tuple(image_size):

        def resized(image, label):
            return files.resize(image, image_size), label

        splits = {split: s.map(resized, tf.data.AUTOTUNE) for split, s in splits.items()}
        shape = tuple(splits["train"].element_spec[0].shape)
    if None in shape:
        raise ValueError(
            f"dataset: the images of {name!r} differ in size {shape}; "
            "set data.image_size=HEIGHT,WIDTH"
        )
    if sum(int(e.cardinality()) for e in splits.values()) * int(np.prod(shape)) <= _CACHE_BYTES:
        splits = {split: elements.cache() for split, elements in splits.items()}
    class_counts = {
        split: _checked_counts(split, name, elements, len(class_names))
        for split, elements in splits.items()
    }
    sizes = {split: int(counts.sum()) for split, counts in class_counts.items()}
    low, high = scale

    def prepare(batch, batch_seed):
        images, labels = batch
        images = tf.cast(images, "float32") * ((high - low) / 255) + low
        if augmentation is not None and batch_seed is not None:
            images = augmentation(images, batch_seed)
        return (images, labels) if with_labels else images

    sample = splits["train"].take(sizes["validation"])
    train, train_from = training_batches(splits["train"], sizes["train"], batch_size, seed, prepare)
    return ImageData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=evaluation_batches(sample, batch_size, prepare),
        validation=evaluation_batches(splits["validation"], batch_size, prepare),
        test=evaluation_batches(splits["test"], batch_size, prepare),
        sizes=sizes,
        image_shape=shape,
        class_names=class_names,
        class_counts=class_counts,
        scale=(low, high),
        skipped=tuple(map(str, bad)),
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


def _left_out(bad):
    """One line on the files that were skipped."""
    named = [f"{str(path)!r} {reason}" for path, reason in [*bad.items()][:_NAMED]]
    more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"images: left out {len(bad)} bad files: {'; '.join(named)}{more}."


def _source(name, data_dir, image_size, skip_bad_files):
    kind, _, where = name.partition(":")
    if name in embedded.IMAGES:
        return *embedded.IMAGES[name](), {}
    if kind == "images":
        return files.image_folder(where, image_size, skip_bad_files)
    if kind in ("text", "pairs", "audio", "csv", "tub") or name in embedded.TEXTS:
        raise ValueError(f"dataset: {name!r} is not images; give images:DIR or a name")
    return *tfds.image_dataset(name, data_dir), {}


def _checked_counts(split, name, elements, num_classes):
    """Number of elements of each class, after one streaming look at every one of them."""
    images = checks.Spec("int", None)
    labels = checks.Spec("int", (), 0, num_classes - 1, f"There are {num_classes} classes.")
    batches = checks.guard(elements.batch(256), f"dataset {name!r}, {split}", (images, labels))
    counts = np.zeros(num_classes, "int64")
    with checks.readable_errors():
        for _, batch_labels in batches:
            counts += np.bincount(batch_labels, minlength=num_classes)
    if not counts.any():
        raise ValueError(f"dataset: {name!r} has no image for {split}")
    return counts
