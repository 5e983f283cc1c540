"""The single ending of every pipeline: shuffle, batch, prepare, prefetch.

An epoch is a function of one number: the order of its elements, and whatever else is random in it,
come from that epoch's seed, and the seeds from the user's. So a killed run can go on with any
epoch, and sees what it would have seen.
"""

import dataclasses
import itertools
import math

import tensorflow as tf
from keras import ops

# Beyond this many elements the shuffle keeps a window, not the whole set.
SHUFFLE_WINDOW = 200_000
# Among how many batches elements that are alike find each other: more leave less to chance.
_POOL = 50
# Batches made ahead. tf.data's own choice doubles whenever it was too small once, up to half of
# the machine's memory: an epoch of a large set that ends and begins anew drains it every time.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied; zero turns a kind off. Evaluation never uses it.

    Args:
        horizontal_flip: Whether half the images are mirrored left to right.
        translation: Largest shift, as a share of height and width.
        rotation: Largest turn, in degrees.
        zoom: Largest change of size, as a share.
    """

    horizontal_flip: bool = False
    translation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0

    def __call__(self, images, seed):
        """Vary a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            seed: Two integers; the same seed varies the same way.

        Returns:
            Images of the same shape and dtype.
        """
        if not (self.horizontal_flip or self.translation or self.rotation or self.zoom):
            return images
        batch = tf.shape(images)[0]
        height, width = float(images.shape[1]), float(images.shape[2])
        draws = tf.random.stateless_uniform((5, batch), seed, -1.0, 1.0)
        angle = draws[0] * (self.rotation * math.pi / 180)
        scale = 1 + draws[1] * self.zoom
        down, right = draws[2] * self.translation * height, draws[3] * self.translation * width
        mirror = tf.where((draws[4] > 0) & self.horizontal_flip, -1.0, 1.0)
        # Output pixel (x, y) is read from input pixel (a x + b y + c, d x + e y + f); the turn is
        # about the middle of the image.
        a, b = mirror * scale * tf.cos(angle), -mirror * scale * tf.sin(angle)
        d, e = scale * tf.sin(angle), scale * tf.cos(angle)
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        c = middle_x - a * middle_x - b * middle_y + right
        f = middle_y - d * middle_x - e * middle_y + down
        zero = tf.zeros_like(a)
        transform = tf.stack([a, b, c, d, e, f, zero, zero], axis=1)  # (batch, 8)
        return ops.image.affine_transform(images, transform, "bilinear", "nearest")


def training_batches(
    elements, size, batch_size, seed, prepare, *, read=None, window=None, alike=None
):
    """Endlessly varied epochs of shuffled batches.

    Args:
        elements: Data set of single elements; or a function from the epoch's seed (scalar int64)
            to one.
        size: Number of elements in an epoch.
        batch_size: The global batch.
        seed: The user's seed.
        prepare: Function of (batch, seed) to what the model takes; `seed` is two integers,
            different for every batch of every epoch.
        read: Function from an element in its turn to what is batched, for elements that only say
            where the data lies; without it, the elements themselves.
        window: Among how many elements the next one is drawn, at most; `SHUFFLE_WINDOW` when left
            out.
        alike: Function from a batch of elements to a number for each, their length for instance:
            the elements of fifty batches at a time are put in this order, so that those of a batch
            need little padding, and the batches then mixed.

    Returns:
        `(train, train_from)`: a `tf.data.Dataset` of known length, each iteration over which is
        another epoch, for a notebook; and a function from the number of an epoch (the first is 0)
        to the endless stream of epochs from there on, which is the same every time.
    """

    def epoch(epoch_seed):
        # `shuffle` mixes the graph's seed with its own. The order is to follow from the epoch's
        # alone, whatever `tf.random.set_seed` was given (0 even makes a tensor seed fail).
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
            lambda number, batch: prepare(batch, tf.stack([epoch_seed, number])),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def seed_of(number):
        return tf.random.stateless_uniform((), [seed, number], maxval=2**31, dtype=tf.int64)

    def train_from(first):
        # A function of the epoch's number alone: Keras makes several iterators for one `fit`.
        numbers = tf.data.Dataset.range(first, tf.int64.max)
        return numbers.flat_map(lambda number: epoch(seed_of(number))).prefetch(_AHEAD)

    # Counted outside TensorFlow: a variable made in the scope of a strategy would be mirrored.
    numbers = itertools.count()
    another = tf.data.Dataset.from_generator(
        lambda: iter([next(numbers)]), output_signature=tf.TensorSpec((), tf.int64)
    ).map(seed_of)
    length = tf.data.experimental.assert_cardinality(math.ceil(size / batch_size))
    return another.flat_map(epoch).apply(length).prefetch(_AHEAD), train_from


def evaluation_batches(elements, batch_size, prepare):
    """Batches in order, without anything random.

    Args:
        elements: Data set of single elements.
        batch_size: The global batch.
        prepare: Function of (batch, `None`) to what the model takes.

    Returns:
        A `tf.data.Dataset`.
    """
    batches = elements.batch(batch_size)
    batches = batches.map(lambda *batch: prepare(_unwrap(batch), None), tf.data.AUTOTUNE)
    return batches.prefetch(_AHEAD)


def _unwrap(batch):
    return batch[0] if len(batch) == 1 else batch
