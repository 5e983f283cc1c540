"""Self-attention that remembers what it has read."""

import keras
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable(package="bigmodels")
class CachedAttention(layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` of a sequence over itself, which can go on token by token.

    A cache holds the keys `(batch, heads, key_dim, capacity)` and the values `(batch, heads,
    capacity, key_dim)` of all tokens that were read. Keys lie that way round as the product with
    one query is the fastest then.

    What it computes is what `MultiHeadAttention` does, but for one product that gives queries, keys
    and values where Keras has three, and products of plain matrices where it has `einsum`.
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
        of_itself = query is value and (key is None or key is value) and query.shape.rank == 3
        if not of_itself or return_attention_scores or self._unusual():
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
        batch, length, width = ops.shape(query)
        kernel, bias = self._projection(width)
        x = ops.reshape(query, (-1, width))
        x = ops.reshape(ops.add(ops.matmul(x, kernel), bias), (batch, length, 3, heads, dim))
        # 3 x (batch, heads, length, dim)
        query, key, value = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), 3)
        if seen is not None:
            seen = tf.where(seen, tf.constant(0, x.dtype), x.dtype.min)[:, None]
        kept = None
        if training and self._dropout:
            kept = tf.ones((batch, heads, length, length), x.dtype)
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
        """Which implementation a call on a sequence itself takes.

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

    def _projection(self, width):
        """Kernel `(width, 3 * heads * key_dim)` and bias of queries, keys and values.

        The queries' hold the scale of the scores.
        """
        units = self.num_heads * self.key_dim
        parts = [self.query_dense, self.key_dense, self.value_dense]
        kernels = [ops.reshape(part.kernel, (width, units)) for part in parts]
        biases = [ops.reshape(part.bias, (units,)) for part in parts]
        scale = self.key_dim**-0.5
        kernels[0], biases[0] = kernels[0] * scale, biases[0] * scale
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
        width, heads, dim = norm.gamma.shape[0], self.num_heads, self.key_dim
        dtype = self.compute_dtype
        kernel, bias = folded(norm, *self._projection(width), dtype)
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
