"""Load labelled images: embedded sets, folders of image files, or TFDS."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.data import files, readers
from bigmodels.data.augmentation import Augmentation, alternating
from bigmodels.data.holes import Holes
from bigmodels.data.mixing import Mixing
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import (
    SHUFFLE_WINDOW,
    evaluation_batches,
    training_batches,
)
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.splits import Splits, class_sample

# Augmentations that keep the labels of a set valid. A mirrored digit, letter or street sign means
# something else, so sets that are not listed are shifted, rotated and zoomed a little, not flipped.
AUGMENTATIONS = {
    "fashion_mnist": Augmentation(horizontal_flip=True),
    "cifar10": Augmentation(horizontal_flip=True, translation=0.1),
    "cifar100": Augmentation(horizontal_flip=True, translation=0.1),
    "photos": Augmentation(horizontal_flip=True),
}
DEFAULT_AUGMENTATION = Augmentation(translation=0.07, rotation=8.0, zoom=0.08)

# Sets up to this size (decoded, all splits) are cached in memory while they are checked. It is half
# of the free memory of a small laptop. Larger sets are read again in every epoch.
_CACHE_BYTES = 1 << 30
# Size limit of the shuffle buffer for larger sets. The buffer is filled at the start of each epoch,
# so a larger one delays the first batch.
_WINDOW_BYTES = 256 << 20
# Batch size of the check at load, in images and in bytes; the smaller limit applies.
_CHECK_IMAGES, _CHECK_BYTES = 256, 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageData(Splits):
    """Images ready for `fit`, as returned by `load_images`.

    Attributes (in addition to those of `Splits`):
        train: Shuffled, augmented batches of `(images, labels)`: float32 `(batch, height, width,
            channels)` and int64 `(batch,)`. Each iteration is a new epoch.
        train_sample: Training images without augmentation, as many as there are for validation.
        sizes: Number of images in each split.
        image_shape: `(height, width, channels)`.
        class_names: One name per class, in label order.
        class_counts: Number of images per class in each split, `{split: (classes,)}`.
        scale: The range of the pixel values, `(low, high)`.
        skipped: Paths of the files that were left out because they cannot be read.

    Example:

    >>> data = bigmodels.data.load_images("digits")
    >>> data.image_shape, data.scale, len(data.class_names)
    ((28, 28, 1), (0.0, 1.0), 10)
    >>> data.class_counts["test"].tolist()
    [50, 50, 50, 50, 50, 50, 50, 50, 50, 50]
    """

    image_shape: tuple[int, int, int]
    class_names: list[str]
    class_counts: dict[str, np.ndarray]
    scale: tuple[float, float]
    skipped: tuple[str, ...] = ()


def load_images(
    name: str = "digits",
    batch_size: int = 64,
    *,
    data_dir: str | None = None,
    image_size: tuple[int, int] | None = None,
    augmentation: Augmentation | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    with_labels: bool = True,
    mixing: Mixing | None = None,
    balance_classes: bool = False,
    holes: Holes | None = None,
    skip_bad_files: bool = False,
    validation_percent: int | None = None,
    images_per_class: int | None = None,
    grayscale_to_rgb: bool = False,
    seed: int = 0,
) -> ImageData:
    """Load images by name: check, split, scale and batch them.

    Args:
        name: `digits` or `photos` (embedded), `images:DIR` (one folder per class), or a TFDS name.
        batch_size: Global batch size, in images.
        data_dir: Directory in which TFDS keeps prepared sets.
        image_size: `(height, width)` in pixels to resize to; required if the images differ in size.
        augmentation: An `Augmentation` for training, or `None`.
        scale: Range to which the pixel values 0..255 are mapped.
        with_labels: Whether batches are `(images, labels)`, or images alone.
        mixing: A `Mixing` for training, or `None`. If it makes soft targets, the labels of all
            splits are float32 `(batch, classes)`; otherwise they are integers `(batch,)`.
        balance_classes: Whether training batches have sample weights as a third part. With them,
            all classes have the same total weight, whatever their number of images.
        holes: A `Holes` for inpainting, or `None`. Batches are then `(inputs, images)` as it
            returns them. Training images get new holes in every epoch; other images always get
            the same ones.
        skip_bad_files: Whether to leave out unreadable files of `images:DIR`, with a note on
            stderr. Otherwise the first one is an error.
        validation_percent: Percentage of the training images that is held out if a set of TFDS has
            no split for validation; 10 by default. Other sets have fixed splits.
        images_per_class: Number of training images of each class, chosen at random; all by default.
            Validation and test keep all of theirs.
        grayscale_to_rgb: Whether images of one channel get three alike.
        seed: Seed of the order, the augmentation and `images_per_class`; the splits do not depend
            on it.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: if an argument, a file or an element of the set is invalid; the message names
            it.

    Example:

    >>> data = bigmodels.data.load_images("digits", batch_size=64)
    >>> data.sizes
    {'train': 4000, 'validation': 500, 'test': 500}
    >>> images, labels = next(iter(data.train))
    >>> images.shape, labels.shape
    (TensorShape([64, 28, 28, 1]), TensorShape([64]))
    """
    notes = Notes()
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    options = {"image_size": image_size, "skip_bad_files": skip_bad_files, "notes": notes}
    splits, class_names, bad = _source(name, data_dir, options, validation_percent)

    def resized(elements):
        if image_size is None or tuple(elements.element_spec[0].shape[:2]) == tuple(image_size):
            return elements
        return elements.map(lambda x, y: (files.resize(x, image_size), y), tf.data.AUTOTUNE)

    def in_colour(elements):
        if not grayscale_to_rgb or elements.element_spec[0].shape[-1] != 1:
            return elements
        return elements.map(lambda x, y: (tf.image.grayscale_to_rgb(x), y), tf.data.AUTOTUNE)

    def of_one_shape(elements):
        return in_colour(resized(elements))

    splits = {split: of_one_shape(elements) for split, elements in splits.items()}
    shape = tuple(splits["train"].element_spec[0].shape)
    if None in shape:
        raise ValueError(
            f"dataset: the images of {name!r} differ in size {shape}; "
            "set data.image_size=HEIGHT,WIDTH"
        )
    count = sum(int(elements.cardinality()) for elements in splits.values())
    in_memory = count * _element_bytes(splits["train"]) <= _CACHE_BYTES
    if in_memory:
        splits = {split: elements.cache() for split, elements in splits.items()}
    labels = {
        split: _checked_labels(split, name, elements, len(class_names))
        for split, elements in splits.items()
    }
    if images_per_class is not None:
        rows = class_sample(labels["train"], images_per_class, class_names, seed)
        notes.say(
            f"data.images_per_class: {len(rows):,} of {len(labels['train']):,} training images are "
            f"used, {images_per_class:,} of each class, chosen by seed {seed}."
        )
        splits["train"], labels["train"] = _rows(splits["train"], rows), labels["train"][rows]
    class_counts = {
        split: np.bincount(found, minlength=len(class_names)) for split, found in labels.items()
    }
    sizes = {split: int(counts.sum()) for split, counts in class_counts.items()}
    low, high = scale
    soft = mixing is not None and mixing.soft
    # Scaled so that the mean weight of a training image is 1.
    weights = sizes["train"] / (len(class_names) * np.maximum(class_counts["train"], 1))
    weights = tf.constant(weights, "float32")

    alternates = bool(augmentation and augmentation.horizontal_flip and augmentation.alternate_flip)

    def prepare(batch, batch_seed, epoch=None):
        numbers = None
        if holes is not None and batch_seed is None:
            batch, numbers = batch
        images, labels = batch
        mirrored = None
        if alternates and batch_seed is not None:
            mirrored = alternating(images, epoch)
        images = tf.cast(images, "float32") * ((high - low) / 255) + low
        if augmentation is not None and batch_seed is not None:
            images = augmentation(images, batch_seed, mirrored)
        if holes is not None:
            return holes(images, batch_seed, numbers)
        if not with_labels:
            return images
        one_hot = tf.one_hot(labels, len(class_names)) if soft or balance_classes else None
        if batch_seed is None:
            return images, one_hot if soft else labels
        if soft:
            images, one_hot = mixing(images, one_hot, batch_seed)
            labels = mixing.smoothed(one_hot)
        if not balance_classes:
            return images, labels
        return images, labels, tf.linalg.matvec(one_hot, weights)

    def in_order(elements):
        if holes is not None:  # They depend on the image's number, which `prepare` expects last.
            elements = elements.enumerate().map(lambda number, element: (element, number))
        return evaluation_batches(elements, batch_size, prepare)

    elements, options = splits["train"], {}
    if not in_memory and images_per_class is None:
        mixed = functools.partial(tfds.mixed_images, name, data_dir, validation_percent)
        elements, options = _streamed(name, mixed, elements, of_one_shape, batch_size)
    train, train_from = training_batches(
        elements, sizes["train"], batch_size, seed, prepare, with_epoch=alternates, **options
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


def augmentation_for(name: str, **kinds: bool | float | None) -> Augmentation:
    """Return the default augmentation of a data set, with the user's values put in.

    Args:
        name: Name of the data set, as for `load_images`.
        **kinds: Arguments of `Augmentation`; `None` selects the default of the data set.

    Returns:
        An `Augmentation`.

    Example:

    >>> augmentation_for("fashion_mnist", rotation=5.0).rotation
    5.0
    """
    usual = AUGMENTATIONS.get(name.split(":")[0], DEFAULT_AUGMENTATION)
    return dataclasses.replace(usual, **{k: v for k, v in kinds.items() if v is not None})


def _source(name, data_dir, options, validation_percent):
    if name in embedded.IMAGES:
        return *embedded.IMAGES[name](), {}
    if files := readers.find("images", name):
        source, where = files
        return source.read(where, **options)
    if embedded.is_known(name):
        raise readers.refusal("images", name, "images")
    return *tfds.image_dataset(name, data_dir, options["notes"], validation_percent), {}


def _element_bytes(elements):
    """Size of one decoded element, in bytes."""
    return sum(spec.shape.num_elements() * spec.dtype.size for spec in elements.element_spec)


def _streamed(name, mixed_images, elements, of_one_shape, batch_size):
    """Arguments of `training_batches` for a set that is not cached in memory.

    Args:
        name: Name of the data set.
        mixed_images: Function that reads it from TFDS as `tfds.mixed_images` does.
        elements: Its training images.
        of_one_shape: Function that converts a data set from TFDS to the shape of `elements`.
        batch_size: Smallest size of the shuffle buffer.

    Returns:
        `(elements, keyword arguments)` for `training_batches`.
    """
    if name in embedded.IMAGES or readers.find("images", name):
        # These sets allow random access, so the indices are shuffled rather than the images.
        numbers = tf.data.Dataset.range(elements.cardinality())
        return numbers, {"read": lambda number: tf.data.experimental.at(elements, number)}
    mixed = mixed_images()
    window = max(batch_size, min(SHUFFLE_WINDOW, _WINDOW_BYTES // _element_bytes(elements)))
    return lambda epoch_seed: of_one_shape(mixed(epoch_seed)), {"window": window}


def _rows(elements, rows):
    """Some elements of a data set, kept in memory."""
    chosen = np.zeros(int(elements.cardinality()), bool)
    chosen[rows] = True
    chosen = tf.constant(chosen)
    kept = elements.enumerate().filter(lambda row, _: chosen[row]).map(lambda _, element: element)
    return kept.apply(tf.data.experimental.assert_cardinality(len(rows))).cache()


def _checked_labels(split, name, elements, num_classes):
    """Check every element in one pass, and return the labels."""
    images = checks.Spec("int", None)
    labels = checks.Spec("int", (), 0, num_classes - 1, f"There are {num_classes} classes.")
    batch_size = max(1, min(_CHECK_IMAGES, _CHECK_BYTES // _element_bytes(elements)))
    batches = elements.batch(batch_size)
    batches = checks.guard(batches, f"dataset {name!r}, {split}", (images, labels))
    with checks.readable_errors():
        found = [batch_labels.numpy() for _, batch_labels in batches]
    if not found:
        raise ValueError(f"dataset: {name!r} has no image for {split}")
    return np.concatenate(found)
