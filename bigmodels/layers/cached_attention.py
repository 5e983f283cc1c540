"""Attention that remembers what it has read."""

import keras
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable(package="bigmodels")
class CachedAttention(layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` which can go on token by token.

    A cache holds the keys `(batch, heads, key_dim, capacity)` and the values `(batch, heads,
    capacity, key_dim)` of all tokens that were read. Keys lie that way round as the product with
    one query is the fastest then.

    What it computes is what `MultiHeadAttention` does, but for one product that gives queries, keys
    and values of a sequence over itself (keys and values of another sequence) where Keras has
    three, and products of plain matrices where it has `einsum`.
    """

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        """As `keras.layers.MultiHeadAttention`."""
        masks = {
            "query_mask": query_mask,
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
            "use_causal_mask": use_causal_mask,
        }
        of_one = (key is None or key is value) and query.shape.rank == value.shape.rank == 3
        if not of_one or return_attention_scores or self._unusual():
            return super().call(
                query,
                value,
                key,
                return_attention_scores=return_attention_scores,
                training=training,
                **masks,
            )
        seen = self._compute_attention_mask(query, value, **masks)
        heads, dim = self.num_heads, self.key_dim
        batch, length = ops.shape(query)[:2]
        if query is value:
            query, key, value = self._projected(query, "query", "key", "value")
        else:
            (query,) = self._projected(query, "query")
            key, value = self._projected(value, "key", "value")
        if seen is not None:
            seen = tf.where(seen, tf.constant(0, query.dtype), query.dtype.min)[:, None]
        kept = None
        if training and self._dropout:
            kept = tf.ones((batch, heads, length, ops.shape(key)[2]), query.dtype)
            kept = self._dropout_layer(kept, training=True)
        x = _attention(query, key, value, seen, kept)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, heads * dim))
        kernel = ops.reshape(self.output_dense.kernel, (heads * dim, -1))
        x = ops.add(ops.matmul(x, kernel), self.output_dense.bias)
        x = ops.reshape(x, (batch, length, kernel.shape[1]))
        if query_mask is not None:
            x._keras_mask = query_mask
        return x

    def describe_kernel(self, training=True, jit_compile=False):
        """Which implementation a call takes.

        Args:
            training: Whether the call is part of training; makes no difference.
            jit_compile: Whether it is compiled by XLA, which on a GPU fuses the softmax with what
                is around it; TensorFlow itself has no fused attention.

        Returns:
            What is computed how, or "Keras' attention: " and why.
        """
        if unusual := self._unusual():
            return f"Keras' attention: {unusual}"
        return "one product for queries, keys and values" + (", by XLA" if jit_compile else "")

    def _unusual(self):
        """What in the layer's configuration only Keras computes, or None."""
        if self._use_gate:
            return "use_gate=True"
        if self._sliding_window is not None:
            return f"sliding_window={self._sliding_window}"
        return None if self._use_bias else "use_bias=False"

    def _projected(self, x, *parts):
        """Parts of `(batch, length, width)`, each `(batch, heads, length, key_dim)`."""
        batch, length, width = ops.shape(x)
        kernel, bias = self._projection(width, parts)
        x = ops.add(ops.matmul(ops.reshape(x, (-1, width)), kernel), bias)
        x = ops.reshape(x, (batch, length, len(parts), self.num_heads, self.key_dim))
        return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), len(parts))

    def _projection(self, width, parts=("query", "key", "value")):
        """Kernel `(width, n * heads * key_dim)` and bias of n parts.

        The queries' hold the scale of the scores.
        """
        units = self.num_heads * self.key_dim
        kernels, biases = [], []
        for part in parts:
            dense = getattr(self, f"{part}_dense")
            scale = self.key_dim**-0.5 if part == "query" else 1.0
            kernels.append(ops.reshape(dense.kernel, (width, units)) * scale)
            biases.append(ops.reshape(dense.bias, (units,)) * scale)
        return ops.concatenate(kernels, 1), ops.concatenate(biases, 0)

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
        project = self._projector(norm, "query", "key", "value")
        look_up = self._look_up()

        def step(x, places, hidden, cache):
            keys, values = cache
            query, key, value = project(x)
            keys = _written(keys, key, places[0], 1)
            values = _written(values, value, places[1], self.key_dim)
            return look_up(query, hidden, keys, values), (keys, values)

        return step

    def reader(self, norm):
        """A function that looks one more token up in another sequence, which stays as it is.

        Args:
            norm: As for `stepper`.

        Returns:
            A function of `x` and `hidden` as `stepper` has them, and the cache that `start` gave
            for the other sequence.
        """
        project, look_up = self._projector(norm, "query"), self._look_up()

        def read(x, hidden, cache):
            (query,) = project(x)
            return look_up(query, hidden, *cache)

        return read

    def _projector(self, norm, *parts):
        """A function of `(batch, embedding_dim)` that gives `(batch, heads, key_dim)` of each."""
        kernel, bias = self._projection(norm.gamma.shape[0], parts)
        kernel, bias = folded(norm, kernel, bias, self.compute_dtype)
        shape = (-1, len(parts), self.num_heads, self.key_dim)

        def project(x):
            projected = tf.matmul(normalised(x, norm.epsilon), kernel) + bias
            return tf.unstack(tf.reshape(projected, shape), axis=1)

        return project

    def _look_up(self):
        """A function of a query `(batch, heads, key_dim)`, what is hidden, keys and values."""
        units = self.num_heads * self.key_dim
        kernel = tf.reshape(self.output_dense.kernel, (units, -1))
        kernel = tf.cast(kernel, self.compute_dtype)
        bias = tf.cast(self.output_dense.bias, self.compute_dtype)

        def look_up(query, hidden, keys, values):
            scores = tf.matmul(query[:, :, None], keys)[:, :, 0]  # (batch, heads, capacity)
            weights = tf.nn.softmax(scores + hidden)
            found = tf.matmul(weights[:, :, None], values)  # (batch, heads, 1, key_dim)
            return tf.matmul(tf.reshape(found, (-1, units)), kernel) + bias

        return look_up

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


def _attention(query, key, value, hidden, kept):
    """Values averaged by how well query and key agree, `(batch, heads, length, key_dim)`.

    Args:
        query: `(batch, heads, length, key_dim)`, with the scale in it; `key` and `value` likewise.
        hidden: Added to the scores, `(batch or 1, 1, length or 1, length)`, or `None`.
        kept: What the weights are multiplied with, `(batch, heads, length, length)`, or `None`.
    """

    @tf.custom_gradient
    def attend(query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)
        weights = tf.nn.softmax(scores if hidden is None else scores + hidden)
        used = weights if kept is None else weights * kept
        found = tf.matmul(used, value)

        def gradient(upstream):
            to_value = tf.matmul(used, upstream, transpose_a=True)
            to_weights = tf.matmul(upstream, value, transpose_b=True)
            if kept is not None:
                to_weights *= kept
            # What a softmax subtracts from each row's gradient, the mean of it by the weights, is
            # also this, of far fewer numbers (Dao et al., 2022, appendix B).
            mean = tf.reduce_sum(upstream * found, -1, keepdims=True)
            to_scores = (to_weights - mean) * weights
            to_query = tf.matmul(to_scores, key)
            return to_query, tf.matmul(to_scores, query, transpose_a=True), to_value

        return found, gradient

    return attend(query, key, value)


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
