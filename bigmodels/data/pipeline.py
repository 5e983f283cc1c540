"""The last steps of every input pipeline: shuffle, batch, prepare, prefetch.

Every epoch has its own seed, derived from the user's seed and the number of the epoch. The order of
the elements and all other randomness of the epoch follow from it. A run that was killed can
therefore resume at any epoch and sees the same data as if it had not been interrupted.
"""

import itertools
import math
from collections.abc import Callable

import tensorflow as tf

from bigmodels.checks import untuned

# Largest shuffle buffer, in elements.
SHUFFLE_WINDOW = 200_000
# Batches in a pool that is sorted by length: a larger pool means less padding.
_POOL = 50
# Prefetch buffer, in batches. AUTOTUNE doubles its buffer each time it runs empty, up to half of
# the machine's memory, and it runs empty at the end of every epoch of a large set.
_AHEAD = 4


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
