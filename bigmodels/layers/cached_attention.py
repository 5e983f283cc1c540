"""Attention that remembers what it has read."""

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import kernels
from bigmodels.distribute.upstream import get_keras_mask, set_keras_mask
from bigmodels.layers import flash_attention

# Methods of `MultiHeadAttention` that a subclass may have its own of: its attention is Keras' then.
_HOOKS = (
    "_compute_attention",
    "_masked_softmax",
    "_compute_attention_mask",
    "_compute_causal_mask",
)


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
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
            "use_causal_mask": use_causal_mask,
        }
        of_one = (key is None or key is value) and query.shape.rank == value.shape.rank == 3
        ours = of_one and not return_attention_scores and self._unusual() is None
        if ours:
            # Keras takes the mask that came with the query, never the argument.
            query_mask = get_keras_mask(query)
            seen = self._compute_attention_mask(query, value, query_mask=query_mask, **masks)
            scores = (query.shape[0], self.num_heads, query.shape[1], value.shape[1])
            ours = seen is None or _fits(seen, scores)
        if not ours:
            return super().call(
                query,
                value,
                key,
                query_mask=query_mask,
                return_attention_scores=return_attention_scores,
                training=training,
                **masks,
            )
        for x in (query, value):  # As Keras does.
            set_keras_mask(x, None)
        heads, dim = self.num_heads, self.key_dim
        batch, length = ops.shape(query)[:2]
        if query is value:
            q, k, v = self._projected(query, "query", "key", "value")
        else:
            (q,) = self._projected(query, "query")
            k, v = self._projected(value, "key", "value")
        dropped = training and self._dropout
        if not dropped and flash_attention.obstacle(q, k, seen) is None:
            # The kernel knows itself what comes later.
            hidden = masks | {"use_causal_mask": False}
            hidden = self._compute_attention_mask(query, value, query_mask=query_mask, **hidden)
            x = flash_attention.attention(q, k, v, use_causal_mask, hidden)
            if self._dropout and seen is not None:
                x *= tf.cast(_sees_any(seen), x.dtype)
        else:
            kept = None
            if dropped:
                kept = tf.ones((batch, heads, length, ops.shape(k)[2]), q.dtype)
                kept = self._dropout_layer(kept, training=True)
            x = _attention(q, k, v, seen, kept, mean_of_none=not self._dropout)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, heads * dim))
        kernel, bias = self.output_dense.kernel, self.output_dense.bias
        axes = kernel.shape[2:]  # One, but for an `output_shape` of several.
        x = ops.add(ops.matmul(x, ops.reshape(kernel, (heads * dim, -1))), ops.reshape(bias, (-1,)))
        x = ops.reshape(x, (batch, length, *axes))
        if query_mask is not None:
            set_keras_mask(x, query_mask)
        return x

    def describe_kernel(self, training=True, jit_compile=False):
        """Which implementation a call takes.

        Args:
            training: Whether the call is part of training, where dropout of weights, if any,
                rules out the fused kernel.
            jit_compile: Whether it is compiled by XLA, see `bigmodels.layers.flash_attention`.

        Returns:
            What is computed how, or "Keras' attention: " and why.
        """
        if unusual := self._unusual():
            return f"Keras' attention: {unusual}"
        kernel = "one product for queries, keys and values"
        if not jit_compile:
            return kernel
        half = tf.as_dtype(self.compute_dtype).size == 2
        if half and kernels.compute_capability() >= (8, 0) and not (training and self._dropout):
            return f"{kernel}, cuDNN's fused attention where shapes are known"
        return f"{kernel}, by XLA"

    def _unusual(self):
        """What in the layer's configuration only Keras computes, or None."""
        if unusual := self._without_steps():
            return unusual
        if not self._use_bias:
            return "use_bias=False"
        if self._flash_attention:
            return "flash_attention=True"
        if self.value_dim != self.key_dim:
            return f"value_dim={self.value_dim}"
        if self._activity_regularizer is not None:
            return "activity_regularizer"  # Is called by the dense layers.
        if self.built and self.attention_axes != (1,):
            return f"attention_axes={self.attention_axes}"
        for dense in self._denses if self.built else ():
            if not is_plain(dense):
                return f"{dense.name} is a {dense.dtype_policy.name} {type(dense).__name__}"
            if dense.compute_dtype != self.compute_dtype:
                return f"{dense.name} computes in {dense.compute_dtype}"
        return None

    def _without_steps(self):
        """What in the layer's configuration `decode_step` and `reader` cannot do, or None."""
        if self._use_gate:
            return "use_gate=True"
        if self._sliding_window is not None:
            return f"sliding_window={self._sliding_window}"
        for name in _HOOKS:
            own = getattr(getattr(self, name), "__func__", None)
            if own is not getattr(layers.MultiHeadAttention, name):
                return f"{type(self).__name__} has its own {name}"
        return None

    @property
    def _denses(self):
        return self.query_dense, self.key_dense, self.value_dense, self.output_dense

    def _projected(self, x, *parts):
        """Parts of `(batch, length, width)`, each `(batch, heads, length, key_dim)`."""
        batch, length, width = ops.shape(x)
        kernel, bias = self._projection(width, parts)
        x = ops.add(ops.matmul(ops.reshape(x, (-1, width)), kernel), bias)
        x = ops.reshape(x, (batch, length, len(parts), self.num_heads, self.key_dim))
        return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), len(parts))

    def _projection(self, width, parts):
        """Kernel `(width, units)` and bias of some parts beside each other.

        The queries' hold the scale of the scores.
        """
        kernels, biases = [], []
        for part in parts:
            dense = getattr(self, f"{part}_dense")
            scale = self.key_dim**-0.5 if part == "query" else 1.0
            kernels.append(ops.reshape(dense.kernel, (width, -1)) * scale)
            bias = ops.zeros(kernels[-1].shape[1:]) if dense.bias is None else dense.bias
            biases.append(ops.reshape(bias, (-1,)) * scale)
        return ops.concatenate(kernels, 1), ops.concatenate(biases, 0)

    def prefill(self, x, capacity):
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

    def decode_step(self, norm):
        """A function that reads one more token, its weights gathered once and for all.

        Args:
            norm: The `keras.layers.LayerNormalization` before the attention; it becomes part of the
                function.

        Returns:
            A function of `x` `(batch, embedding_dim)`, `places` from `self.places`, `seen` `(batch,
            1, capacity)`, true for what is looked at, and a cache from `prefill` or from the last
            step, which is overwritten. It gives what `call` does for that token, and the cache
            with it.

        Raises:
            ValueError: if the layer computes something else than attention to all that was read:
                a gate, a sliding window, a method of a subclass.
        """
        project = self._projector(norm, "query", "key", "value")
        look_up = self._look_up()

        def step(x, places, seen, cache):
            keys, values = cache
            query, key, value = project(x)
            if kernels.in_xla():
                keys = ops.slice_update(keys, (0, 0, 0, places), key[..., None])
                values = ops.slice_update(values, (0, 0, places, 0), value[:, :, None])
            else:
                keys = _written(keys, key, places[0], 1)
                values = _written(values, value, places[1], self.value_dim)
            return look_up(query, seen, keys, values), (keys, values)

        return step

    def reader(self, norm):
        """A function that looks one more token up in another sequence, which stays as it is.

        Args:
            norm: As for `decode_step`.

        Returns:
            A function of `x` and `seen` as `decode_step` has them, and the cache that `prefill`
            gave for the other sequence.

        Raises:
            ValueError: As `decode_step`.
        """
        # Of a sequence of padding alone a query sees nothing: zeros, as in `call`.
        project = self._projector(norm, "query")
        look_up = self._look_up(zeros_for_none=bool(self._dropout))

        def read(x, seen, cache):
            (query,) = project(x)
            return look_up(query, seen, *cache)

        return read

    def _projector(self, norm, *parts):
        """A function of `(batch, embedding_dim)` that gives `(batch, heads, dim)` of each part."""
        if unusual := self._without_steps():
            raise ValueError(f"{self.name}: {unusual}, with which it cannot go on token by token")
        denses = [getattr(self, f"{part}_dense") for part in parts]
        if not all(map(is_plain, denses)) or self.value_dim != self.key_dim:

            def project_each(x):
                x = norm(x)[:, None]
                projected = [dense(x)[:, 0] for dense in denses]  # Each (batch, heads, dim).
                return [projected[0] * self.key_dim**-0.5, *projected[1:]]

            return project_each
        kernel, bias = self._projection(norm.gamma.shape[0], parts)
        kernel, bias = folded(norm, kernel, bias, self.compute_dtype)
        shape = (-1, len(parts), self.num_heads, self.key_dim)

        def project(x):
            projected = tf.matmul(normalised(x, norm.epsilon), kernel) + bias
            return tf.unstack(tf.reshape(projected, shape), axis=1)

        return project

    def _look_up(self, zeros_for_none=False):
        """A function of a query `(batch, heads, key_dim)`, what is seen, keys and values."""
        combine = self._combiner()

        def look_up(query, seen, keys, values):
            scores = tf.matmul(query[:, :, None], keys)[:, :, 0]  # (batch, heads, capacity)
            weights = tf.nn.softmax(tf.where(seen, scores, scores.dtype.min))
            if zeros_for_none:
                weights = tf.where(seen, weights, 0)
            return combine(tf.matmul(weights[:, :, None], values))  # (batch, heads, 1, value_dim)

        return look_up

    def _combiner(self):
        """A function of what the heads found, `(batch, heads, 1, value_dim)`."""
        dense = self.output_dense
        if not is_plain(dense):
            return lambda found: dense(tf.transpose(found, (0, 2, 1, 3)))[:, 0]
        units, axes = self.num_heads * self.value_dim, dense.kernel.shape[2:]
        kernel = tf.cast(tf.reshape(dense.kernel, (units, -1)), self.compute_dtype)
        bias = 0 if dense.bias is None else tf.cast(tf.reshape(dense.bias, [-1]), kernel.dtype)

        def combine(found):
            found = tf.matmul(tf.reshape(found, (-1, units)), kernel) + bias
            return found if len(axes) == 1 else tf.reshape(found, (-1, *axes))

        return combine

    @staticmethod
    def places(cache, slot):
        """Where in the caches of a step the token goes, the same for all of a model's attentions.

        Args:
            cache: One of them.
            slot: How many columns were read before, scalar.

        Returns:
            Row numbers of the flattened keys and values; in XLA, which writes a slice in place
            itself, the slot.
        """
        if kernels.in_xla():
            return slot
        batch, heads, dim, capacity = tf.unstack(tf.shape(cache[0]))
        return (
            tf.range(batch * heads * dim) * capacity + slot,  # Rows of one number,
            tf.range(batch * heads) * capacity + slot,  # and of `key_dim`.
        )


def _fits(seen, shape):
    """Whether a mask can be laid over scores of a shape, which stay as they are."""
    if seen.shape.rank is None or not 2 <= seen.shape.rank <= 4:
        return False
    shapes = {2: shape[2:], 3: (shape[0], *shape[2:]), 4: shape}
    sizes = zip(seen.shape, shapes[seen.shape.rank], strict=True)
    return all(a in (1, b) or None in (a, b) for a, b in sizes)


def _attention(query, key, value, seen, kept, mean_of_none=True):
    """Values averaged by how well query and key agree, `(batch, heads, length, key_dim)`.

    Args:
        query: `(batch, heads, length, key_dim)`, with the scale in it; `key` and `value` likewise.
        seen: Which keys each query may look at, bool `(length, length)`, `(batch, length, length)`
            or `(batch, heads, length, length)`, axes of 1 where it is the same for all; or `None`.
        kept: What the weights are multiplied with, `(batch, heads, length, length)`, or `None`.
        mean_of_none: Whether a query that may look at nothing gets the mean of all values, as in
            Keras' layers without dropout, or zeros, as in those with it.
    """
    if seen is not None:
        sees = tf.cast(_sees_any(seen), query.dtype)
        while seen.shape.rank < 4:
            seen = seen[..., None, :, :]

    @tf.custom_gradient
    def attend(query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)
        if seen is not None:
            scores = tf.where(seen, scores, scores.dtype.min)
        weights = tf.nn.softmax(scores)
        used = weights if kept is None else weights * kept
        found = tf.matmul(used, value)
        if not (seen is None or mean_of_none):
            found *= sees

        def gradient(upstream):
            # Scores of a query that may look at nothing were replaced, every one of them.
            through_scores = upstream if seen is None else upstream * sees
            to_value = upstream if mean_of_none else through_scores
            to_value = tf.matmul(used, to_value, transpose_a=True)
            to_weights = tf.matmul(through_scores, value, transpose_b=True)
            if kept is not None:
                to_weights *= kept
            # What a softmax subtracts from each row's gradient, the mean of it by the weights, is
            # also this, of far fewer numbers (Dao et al., 2022, appendix B).
            mean = tf.reduce_sum(through_scores * found, -1, keepdims=True)
            to_scores = (to_weights - mean) * weights
            to_query = tf.matmul(to_scores, key)
            return to_query, tf.matmul(to_scores, query, transpose_a=True), to_value

        return found, gradient

    return attend(query, key, value)


def _sees_any(seen):
    """Of every query whether it may look at anything, bool `(batch, heads, length, 1)`."""
    seen = tf.reduce_any(seen, -1, keepdims=True)
    while seen.shape.rank < 4:
        seen = seen[..., None, :, :]
    return seen


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


def is_plain(dense):
    """Whether a dense layer is a product with its `kernel` (LoRA's included), and no more.

    Args:
        dense: A `keras.layers.Layer`.

    Returns:
        False if it is quantised, or a class of someone's own.
    """
    return type(dense) in (layers.Dense, layers.EinsumDense) and dense.quantization_mode is None


def dense_step(dense, norm=None):
    """A dense layer as a function whose weights are gathered once and for all.

    Args:
        dense: A `keras.layers.Dense`.
        norm: The `keras.layers.LayerNormalization` before it, if any.

    Returns:
        A function of `(batch, width)` that gives `dense(norm(x))`.
    """
    if not is_plain(dense) or dense.bias is None:
        return dense if norm is None else lambda x: dense(norm(x))
    dtype = dense.compute_dtype
    if norm is None:
        kernel, bias = tf.cast(dense.kernel, dtype), tf.cast(dense.bias, dtype)
    else:
        kernel, bias = folded(norm, dense.kernel, dense.bias, dtype)

    def step(x):
        x = x if norm is None else normalised(x, norm.epsilon)
        return dense.activation(tf.matmul(tf.cast(x, dtype), kernel) + bias)

    return step
