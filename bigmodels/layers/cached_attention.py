"""Self-attention that remembers what it has read."""

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable(package="bigmodels")
class CachedAttention(layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` of a sequence over itself, which can go on token by token.

    A cache holds the keys `(batch, heads, key_dim, capacity)` and the values `(batch, heads,
    capacity, key_dim)` of all tokens that were read. Keys lie that way round as the product with
    one query is the fastest then.
    """

    def start(self, x, capacity):
        """The cache of a sequence.

        Args:
            x: What `call` was given, `(batch, length, embedding_dim)`.
            capacity: How many tokens the cache is to hold, at least `length`.

        Returns:
            `(keys, values)`.
        """
        room = [[0, 0], [0, 0], [0, 0], [0, capacity - tf.shape(x)[1]]]
        keys = tf.transpose(self.key_dense(x), (0, 2, 3, 1))  # (batch, heads, key_dim, length)
        values = tf.transpose(self.value_dense(x), (0, 2, 3, 1))
        return tf.pad(keys, room), tf.transpose(tf.pad(values, room), (0, 1, 3, 2))

    def stepper(self, norm):
        """A function that reads one more token, its weights gathered once and for all.

        Args:
            norm: The `keras.layers.LayerNormalization` before the attention; it becomes part of the
                function.

        Returns:
            A function of `x` `(batch, embedding_dim)`, `places` from `self.places`, `hidden`
            `(batch, 1, capacity)`, which is added to the scores (0 for what is looked at, very
            little for what is not), and a cache from `start` or from the last step, which is
            overwritten. It gives what `call` does for that token, and the cache with it.
        """
        width, heads, dim = norm.gamma.shape[0], self.num_heads, self.key_dim
        dtype = self.compute_dtype
        parts = [self.query_dense, self.key_dense, self.value_dense]
        kernels = [tf.reshape(part.kernel, (width, heads * dim)) for part in parts]
        biases = [tf.reshape(part.bias, [heads * dim]) for part in parts]
        kernels[0], biases[0] = kernels[0] * dim**-0.5, biases[0] * dim**-0.5
        kernel, bias = folded(norm, tf.concat(kernels, 1), tf.concat(biases, 0), dtype)
        output_kernel = tf.cast(tf.reshape(self.output_dense.kernel, (heads * dim, width)), dtype)
        output_bias = tf.cast(self.output_dense.bias, dtype)

        def step(x, places, hidden, cache):
            keys, values = cache
            projected = tf.matmul(normalised(x, norm.epsilon), kernel) + bias
            query, key, value = tf.unstack(tf.reshape(projected, (-1, 3, heads, dim)), axis=1)
            keys = _written(keys, key, places[0], 1)
            values = _written(values, value, places[1], dim)
            scores = tf.matmul(query[:, :, None], keys)[:, :, 0]  # (batch, heads, capacity)
            weights = tf.nn.softmax(scores + hidden)
            found = tf.matmul(weights[:, :, None], values)  # (batch, heads, 1, key_dim)
            found = tf.reshape(found, (-1, heads * dim))
            return tf.matmul(found, output_kernel) + output_bias, (keys, values)

        return step

    @staticmethod
    def places(cache, slot):
        """Where in the caches of a step the token goes, the same for all of a model's attentions.

        Args:
            cache: One of them.
            slot: How many columns were read before, scalar.

        Returns:
            Row numbers of the flattened keys and values.
        """
        batch, heads, dim, capacity = tf.unstack(tf.shape(cache[0]))
        return (
            tf.range(batch * heads * dim) * capacity + slot,  # Rows of one number,
            tf.range(batch * heads) * capacity + slot,  # and of `key_dim`.
        )


def _written(cache, new, rows, width):
    """A cache with `(batch, heads, key_dim)` in its rows, of a width; the old one is no more.

    A copy of everything at each token would cost more than all else. Nothing but the next step may
    hold a cache, therefore, and steps may not overlap.
    """
    flat, new = tf.reshape(cache, (-1, width)), tf.reshape(new, (-1, width))
    written = tf.raw_ops.InplaceUpdate(x=flat, i=rows, v=new)
    written = tf.reshape(written, tf.shape(cache))
    written.set_shape(cache.shape)
    return written


def normalised(x, epsilon):
    """Rows of mean zero and variance one; the rest of a layer normalisation is in `folded`.

    Args:
        x: `(batch, width)`.
        epsilon: As of `keras.layers.LayerNormalization`.

    Returns:
        The same shape and dtype; reckoned in float32, as Keras does.
    """
    y = tf.cast(x, "float32")
    y -= tf.reduce_mean(y, -1, keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(y * y, -1, keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


def folded(norm, kernel, bias, dtype):
    """A dense layer after a layer normalisation, with the latter's scale and shift in it.

    Args:
        norm: The `keras.layers.LayerNormalization`.
        kernel: `(width, units)`.
        bias: `(units,)`.
        dtype: Of the result.

    Returns:
        `(kernel, bias)`, to be applied to what is `normalised` only.
    """
    bias = bias + tf.linalg.matvec(kernel, norm.beta, transpose_a=True)
    return tf.cast(kernel * norm.gamma[:, None], dtype), tf.cast(bias, dtype)
