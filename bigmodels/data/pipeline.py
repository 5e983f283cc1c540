"""The last steps of every input pipeline: shuffle, batch, prepare, prefetch.

Every epoch has its own seed, derived from the user's seed and the number of the epoch. The order of
the elements and all other randomness of the epoch follow from it. A run that was killed can
therefore resume at any epoch and sees the same data as if it had not been interrupted.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import tensorflow as tf
from keras import ops

from bigmodels.checks import untuned

# Largest shuffle buffer, in elements.
SHUFFLE_WINDOW = 200_000
# Batches in a pool that is sorted by length: a larger pool means less padding.
_POOL = 50
# Prefetch buffer, in batches. AUTOTUNE doubles its buffer each time it runs empty, up to half of
# the machine's memory, and it runs empty at the end of every epoch of a large set.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random flips, shifts, rotations and zooms of training images.

    A value of zero turns a transformation off. Evaluation data are never augmented.

    Args:
        horizontal_flip: Whether to mirror half of the images left to right.
        translation: Largest shift, as a fraction of height and width.
        rotation: Largest rotation, in degrees.
        zoom: Largest change of size, as a fraction.
        alternate_flip: Whether to mirror each image in every second epoch, instead of drawing which
            (Jordan, 2024, arXiv:2404.00498); only with `horizontal_flip`. Two epochs in a row then
            show every image both ways.
        crop_padding: Pixels by which images are padded with their reflection on each side, before
            they are cropped at random to their size.

    Example:

    >>> augmentation = bigmodels.data.Augmentation(horizontal_flip=True, rotation=10.0)
    >>> images = tf.ones((4, 8, 8, 3))
    >>> augmentation(images, seed=(0, 1)).shape
    TensorShape([4, 8, 8, 3])
    """

    horizontal_flip: bool = False
    translation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    alternate_flip: bool = False
    crop_padding: int = 0

    def __call__(
        self,
        images: tf.Tensor,
        seed: tf.Tensor | tuple[int, int],
        mirrored: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Augment a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            seed: Two integers; the same seed gives the same result.
            mirrored: Which images to mirror, booleans `(batch,)`, instead of drawing that; see
                `alternating`.

        Returns:
            Images of the same shape and dtype.
        """
        if mirrored is not None:
            images = tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        if self.crop_padding:
            images = _random_crop(images, self.crop_padding, seed)
        draw_mirrored = self.horizontal_flip and mirrored is None
        if not (draw_mirrored or self.translation or self.rotation or self.zoom):
            return images
        batch = tf.shape(images)[0]
        height, width = float(images.shape[1]), float(images.shape[2])
        draws = tf.random.stateless_uniform((5, batch), seed, -1.0, 1.0)
        angle = draws[0] * (self.rotation * math.pi / 180)
        scale = 1 + draws[1] * self.zoom
        down, right = draws[2] * self.translation * height, draws[3] * self.translation * width
        mirror = tf.where((draws[4] > 0) & draw_mirrored, -1.0, 1.0)
        # Output pixel (x, y) is read from input pixel (a x + b y + c, d x + e y + f); the rotation
        # is about the centre of the image.
        a, b = mirror * scale * tf.cos(angle), -mirror * scale * tf.sin(angle)
        d, e = scale * tf.sin(angle), scale * tf.cos(angle)
        center_x, center_y = (width - 1) / 2, (height - 1) / 2
        c = center_x - a * center_x - b * center_y + right
        f = center_y - d * center_x - e * center_y + down
        zero = tf.zeros_like(a)
        transform = tf.stack([a, b, c, d, e, f, zero, zero], axis=1)  # (batch, 8)
        return ops.image.affine_transform(images, transform, "bilinear", "nearest")


def alternating(images: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    """Choose which images to mirror in an epoch, each in every second one.

    An image begins with either epoch by whether the sum of its pixels is odd. So the choice depends
    on no order and no worker, and a resumed run makes it again.

    Args:
        images: `(batch, height, width, channels)`, uint8.
        epoch: Number of the epoch, an integer.

    Returns:
        Booleans, `(batch,)`.

    Example:

    >>> images = tf.constant([[[[1], [4]]], [[[2], [4]]]], "uint8")
    >>> alternating(images, 0).numpy(), alternating(images, 1).numpy()
    (array([ True, False]), array([False,  True]))
    """
    sums = tf.reduce_sum(tf.cast(images, "int64"), axis=(1, 2, 3))
    return (sums + tf.cast(epoch, "int64")) % 2 == 1


def _random_crop(images, padding, seed):
    """Crop images at random that were padded with their reflection, back to their size."""
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    if padding >= min(height, width):
        raise ValueError(f"crop_padding: {padding}, expected less than the {height}x{width} pixels")
    around = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    images = tf.pad(images, around, "REFLECT")
    seed = tf.random.experimental.stateless_fold_in(seed, 1)  # Other numbers than for the rest.
    corners = tf.random.stateless_uniform((2, batch, 1), seed, 0, 2 * padding + 1, "int32")
    images = tf.gather(images, corners[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, corners[1] + tf.range(width), axis=2, batch_dims=1)


def training_batches(
    elements: tf.data.Dataset | Callable,
    size: int,
    batch_size: int,
    seed: int,
    prepare: Callable,
    *,
    read: Callable | None = None,
    window: int | None = None,
    alike: Callable | None = None,
    with_epoch: bool = False,
) -> tuple[tf.data.Dataset, Callable[[int], tf.data.Dataset]]:
    """Shuffle, batch and prepare training data, differently in every epoch.

    Args:
        elements: Data set of single elements, or a function that maps the seed of an epoch (scalar
            int64) to one.
        size: Number of elements in an epoch.
        batch_size: Global batch size.
        seed: The user's seed.
        prepare: Function that maps `(batch, seed)` to the inputs of the model. `seed` is two
            integers, different for every batch of every epoch.
        read: Function that loads an element after shuffling, for elements that are only paths or
            indices. By default the elements are batched as they are.
        window: Size of the shuffle buffer, in elements; `SHUFFLE_WINDOW` by default.
        alike: Function that maps a batch of elements to one sort key each, for example their
            length. The elements of fifty batches at a time are sorted by it, so that a batch needs
            little padding, and the batches are then shuffled.
        with_epoch: Whether `prepare` takes the number of the epoch as a third argument.

    Returns:
        `(train, train_from)`. `train` is a `tf.data.Dataset` of known length; each iteration over
        it is a new epoch. `train_from` maps the number of an epoch (the first is 0) to the endless
        stream of batches from that epoch on, which is the same each time.

    Example:

    >>> elements = tf.data.Dataset.range(4)
    >>> train, train_from = training_batches(elements, 4, 2, 0, lambda batch, seed: batch)
    >>> len(train)
    2
    >>> sorted(int(x) for batch in train for x in batch)
    [0, 1, 2, 3]
    """

    def epoch(epoch_number):
        epoch_seed = seed_of(epoch_number)
        of_epoch = [epoch_number] if with_epoch else []
        # `shuffle` combines its own seed with the graph's. Fixing the latter makes the order
        # independent of `tf.random.set_seed` (0 even makes a tensor seed fail).
        tf.compat.v1.get_default_graph().seed = 1
        order = elements(epoch_seed) if callable(elements) else elements
        order = order.shuffle(min(size, window or SHUFFLE_WINDOW), seed=epoch_seed)
        if read is not None:
            order = order.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        if alike is not None:
            order = order.batch(batch_size * _POOL)
            order = order.map(lambda pool: tf.gather(pool, tf.argsort(alike(pool), stable=True)))
            order = order.unbatch().batch(batch_size).shuffle(_POOL, seed=epoch_seed)
        else:
            order = order.batch(batch_size)
        numbered = order.enumerate()
        return numbered.map(
            lambda number, batch: prepare(batch, tf.stack([epoch_seed, number]), *of_epoch),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def seed_of(number):
        return tf.random.stateless_uniform((), [seed, number], maxval=2**31, dtype=tf.int64)

    def train_from(first):
        # Without state, because Keras makes several iterators during one `fit`.
        numbers = tf.data.Dataset.range(first, tf.int64.max)
        return untuned(numbers.flat_map(epoch).prefetch(_AHEAD))

    # Counted in Python: a variable made in the scope of a strategy would be mirrored.
    numbers = itertools.count()
    next_number = tf.data.Dataset.from_generator(
        lambda: iter([next(numbers)]), output_signature=tf.TensorSpec((), tf.int64)
    )
    length = tf.data.experimental.assert_cardinality(math.ceil(size / batch_size))
    return untuned(next_number.flat_map(epoch).apply(length).prefetch(_AHEAD)), train_from


def evaluation_batches(
    elements: tf.data.Dataset, batch_size: int, prepare: Callable
) -> tf.data.Dataset:
    """Batch and prepare data in order, without shuffling or augmentation.

    Args:
        elements: Data set of single elements.
        batch_size: Global batch size.
        prepare: Function that maps `(batch, None)` to the inputs of the model.

    Returns:
        A `tf.data.Dataset`.

    Example:

    >>> batches = evaluation_batches(tf.data.Dataset.range(3), 2, lambda batch, seed: batch)
    >>> [batch.tolist() for batch in batches.as_numpy_iterator()]
    [[0, 1], [2]]
    """
    batches = elements.batch(batch_size)
    batches = batches.map(lambda *batch: prepare(_unwrap(batch), None), tf.data.AUTOTUNE)
    return untuned(batches.prefetch(_AHEAD))


def _unwrap(batch):
    return batch[0] if len(batch) == 1 else batch
