"""The cache of keys and values for token-by-token decoding.

It holds the keys `(batch, heads, key_dim, capacity)` and the values `(batch, heads, capacity,
key_dim)` of all processed tokens. With this layout of the keys, the product with a single query is
fastest.
"""

from typing import Any

import tensorflow as tf
from keras import ops

from bigmodels import kernels

Cache = tuple[tf.Tensor, tf.Tensor]


def padded(keys: tf.Tensor, values: tf.Tensor, capacity: Any) -> Cache:
    """Make the cache of a sequence.

    Args:
        keys: `(batch, length, heads, key_dim)`.
        values: `(batch, length, heads, key_dim)`.
        capacity: Number of tokens the cache has room for, at least `length`.

    Returns:
        `(keys, values)`: `(batch, heads, key_dim, capacity)` and `(batch, heads, capacity,
        key_dim)`.

    Example:

    >>> keys, values = padded(tf.zeros((1, 3, 2, 4)), tf.zeros((1, 3, 2, 4)), capacity=10)
    >>> keys.shape
    TensorShape([1, 2, 4, 10])
    """
    room = [[0, 0], [0, 0], [0, 0], [0, capacity - tf.shape(keys)[1]]]
    keys = tf.transpose(keys, (0, 2, 3, 1))  # (batch, heads, key_dim, length)
    values = tf.transpose(values, (0, 2, 3, 1))
    return tf.pad(keys, room), tf.transpose(tf.pad(values, room), (0, 1, 3, 2))


def places(cache: Cache, slot: Any) -> Any:
    """Compute where a step writes the token in the cache, the same for all layers of a model.

    Args:
        cache: The cache of one layer.
        slot: Number of columns written before, scalar.

    Returns:
        Row numbers in the flattened keys and values; in XLA, which updates slices in place
        itself, the slot.

    Example:

    >>> keys, values = places((tf.zeros((1, 1, 2, 5)), tf.zeros((1, 1, 5, 2))), slot=3)
    >>> keys.numpy(), values.numpy()
    (array([3, 8], dtype=int32), array([3], dtype=int32))
    """
    if kernels.in_xla():
        return slot
    batch, heads, dim, capacity = tf.unstack(tf.shape(cache[0]))
    return (
        tf.range(batch * heads * dim) * capacity + slot,  # Keys: rows of one number.
        tf.range(batch * heads) * capacity + slot,  # Values: rows of `key_dim` numbers.
    )


def written(cache: Cache, places: Any, key: tf.Tensor, value: tf.Tensor) -> Cache:
    """Write a token's key and value to the cache, in place.

    Copying the cache at each token would dominate the cost. Therefore only the next step may use a
    cache, and steps must not overlap.

    Args:
        cache: The cache, which is overwritten.
        places: From the function `places`.
        key: `(batch, heads, key_dim)`.
        value: `(batch, heads, key_dim)`.

    Returns:
        The cache.

    Example:

    >>> cache = tf.zeros((1, 1, 2, 3)), tf.zeros((1, 1, 3, 2))
    >>> keys, _ = written(cache, places(cache, 1), tf.ones((1, 1, 2)), tf.ones((1, 1, 2)))
    >>> keys.numpy()[0, 0]
    array([[0., 1., 0.],
           [0., 1., 0.]], dtype=float32)
    """
    keys, values = cache
    if kernels.in_xla():
        keys = ops.slice_update(keys, (0, 0, 0, places), key[..., None])
        values = ops.slice_update(values, (0, 0, places, 0), value[:, :, None])
        return keys, values
    return _updated(keys, places[0], key, 1), _updated(values, places[1], value, value.shape[-1])


def _updated(cache, rows, new, width):
    """Write `(batch, heads, dim)` to rows of one half of the cache."""
    flat, new = tf.reshape(cache, (-1, width)), tf.reshape(new, (-1, width))
    updated = tf.raw_ops.InplaceUpdate(x=flat, i=rows, v=new)
    updated = tf.reshape(updated, tf.shape(cache))
    updated.set_shape(cache.shape)
    return updated
