"""Multi-head attention with a key-value cache."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import kernels
from bigmodels.distribute.upstream import get_keras_mask, set_keras_mask
from bigmodels.layers import flash_attention, key_value_cache
from bigmodels.layers.dot_product_attention import dot_product_attention, sees_any

# Methods of `MultiHeadAttention` that a subclass may override; then Keras' implementation is used.
_HOOKS = (
    "_compute_attention",
    "_masked_softmax",
    "_compute_attention_mask",
    "_compute_causal_mask",
)


@keras.saving.register_keras_serializable(package="bigmodels")
class CachedAttention(layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with a key-value cache for token-by-token decoding.

    Arguments, weights and results are those of the Keras layer. It is faster: one matrix product
    projects queries, keys and values (in cross-attention, keys and values), where Keras has three
    `einsum` operations.

    See Vaswani et al. (2017), section 3.2, article 3.3.1, and `bigmodels.layers.key_value_cache`.

    Example:

    >>> attention = CachedAttention(num_heads=2, key_dim=4)
    >>> x = tf.zeros((1, 3, 8))
    >>> attention(x, x, use_causal_mask=True).shape
    TensorShape([1, 3, 8])
    >>> keys, values = attention.prefill(x, capacity=10)
    >>> keys.shape
    TensorShape([1, 2, 4, 10])
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
        """As for `keras.layers.MultiHeadAttention`."""
        masks = {
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
            "use_causal_mask": use_causal_mask,
        }
        supported = (key is None or key is value) and query.shape.rank == value.shape.rank == 3
        ours = supported and not return_attention_scores and self._unusual() is None
        if ours:
            # Like Keras, use the mask attached to the query, not the argument.
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
        for x in (query, value):  # As in Keras.
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
            # The kernel applies the causal mask itself.
            mask = masks | {"use_causal_mask": False}
            mask = self._compute_attention_mask(query, value, query_mask=query_mask, **mask)
            x = flash_attention.attention(q, k, v, use_causal_mask, mask)
            if self._dropout and seen is not None:
                x *= tf.cast(sees_any(seen), x.dtype)
        else:
            dropout_mask = None
            if dropped:
                dropout_mask = tf.ones((batch, heads, length, ops.shape(k)[2]), q.dtype)
                dropout_mask = self._dropout_layer(dropout_mask, training=True)
            x = dot_product_attention(q, k, v, seen, dropout_mask, mean_of_none=not self._dropout)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, heads * dim))
        kernel, bias = self.output_dense.kernel, self.output_dense.bias
        axes = kernel.shape[2:]  # More than one if `output_shape` has several sizes.
        x = ops.add(ops.matmul(x, ops.reshape(kernel, (heads * dim, -1))), ops.reshape(bias, (-1,)))
        x = ops.reshape(x, (batch, length, *axes))
        if query_mask is not None:
            set_keras_mask(x, query_mask)
        return x

    def describe_kernel(self, training: bool = True, jit_compile: bool = False) -> str:
        """Describe which implementation a call uses.

        Args:
            training: Whether the call is part of training. Dropout of attention weights rules out
                the fused kernel.
            jit_compile: Whether the call is compiled by XLA, see
                `bigmodels.layers.flash_attention`.

        Returns:
            The implementation, or "Keras' attention: " and the reason.
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
        """The configuration that only Keras' implementation supports, or None."""
        if unusual := self._without_steps():
            return unusual
        if not self._use_bias:
            return "use_bias=False"
        if self._flash_attention:
            return "flash_attention=True"
        if self.value_dim != self.key_dim:
            return f"value_dim={self.value_dim}"
        if self._activity_regularizer is not None:
            return "activity_regularizer"  # Applied by the dense layers.
        if self.built and self.attention_axes != (1,):
            return f"attention_axes={self.attention_axes}"
        for dense in self._denses if self.built else ():
            if not is_plain(dense):
                return f"{dense.name} is a {dense.dtype_policy.name} {type(dense).__name__}"
            if dense.compute_dtype != self.compute_dtype:
                return f"{dense.name} computes in {dense.compute_dtype}"
        return None

    def _without_steps(self):
        """The configuration that `decode_step` and `reader` do not support, or None."""
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
        """Project `(batch, length, width)` to parts, each `(batch, heads, length, key_dim)`."""
        batch, length, width = ops.shape(x)
        kernel, bias = self._projection(width, parts)
        x = ops.add(ops.matmul(ops.reshape(x, (-1, width)), kernel), bias)
        x = ops.reshape(x, (batch, length, len(parts), self.num_heads, self.key_dim))
        return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), len(parts))

    def _projection(self, width, parts):
        """The concatenated kernels `(width, units)` and biases of some parts.

        Those of the queries include the scale of the scores.
        """
        kernels, biases = [], []
        for part in parts:
            dense = getattr(self, f"{part}_dense")
            scale = self.key_dim**-0.5 if part == "query" else 1.0
            kernels.append(ops.reshape(dense.kernel, (width, -1)) * scale)
            bias = ops.zeros(kernels[-1].shape[1:]) if dense.bias is None else dense.bias
            biases.append(ops.reshape(bias, (-1,)) * scale)
        return ops.concatenate(kernels, 1), ops.concatenate(biases, 0)

    def prefill(self, x: Any, capacity: Any) -> key_value_cache.Cache:
        """Compute the cache of a sequence.

        Args:
            x: The sequence, as given to `call`, `(batch, length, embedding_dim)`.
            capacity: Number of tokens the cache has room for, at least `length`.

        Returns:
            `(keys, values)`: `(batch, heads, key_dim, capacity)` and `(batch, heads, capacity,
            key_dim)`.
        """
        return key_value_cache.padded(self.key_dense(x), self.value_dense(x), capacity)

    def decode_step(self, norm: layers.Layer) -> Callable:
        """Make a function that processes one more token.

        The weights are prepared once, outside of the decoding loop.

        Args:
            norm: The normalisation before the attention; the function includes it.

        Returns:
            A function `step(x, places, seen, cache, positions=None) -> (output, cache)`: `x` is the
            token's embedding `(batch, embedding_dim)`, `places` is from `key_value_cache.places`,
            `seen` is the attention mask `(batch, 1, capacity)`, and `cache` is from `prefill` or
            the last step and is overwritten. `positions` are ignored: the embeddings have them.

        Raises:
            ValueError: if the layer has a gate, a sliding window or overridden methods.
        """
        project = self._projector(norm, "query", "key", "value")
        look_up = self._look_up()

        def step(x, places, seen, cache, positions=None):
            query, key, value = project(x)
            keys, values = key_value_cache.written(cache, places, key, value)
            return look_up(query, seen, keys, values), (keys, values)

        return step

    def reader(self, norm: layers.Layer) -> Callable:
        """Make a function for cross-attention of one more token to a fixed sequence.

        Args:
            norm: As for `decode_step`.

        Returns:
            A function `read(x, seen, cache) -> output`: `x` and `seen` as for `decode_step`, and
            `cache` from `prefill` for the other sequence.

        Raises:
            ValueError: as for `decode_step`.
        """
        # If the other sequence is only padding, the output is zeros, as in `call`.
        project = self._projector(norm, "query")
        look_up = self._look_up(zeros_for_none=bool(self._dropout))

        def read(x, seen, cache):
            (query,) = project(x)
            return look_up(query, seen, *cache)

        return read

    def _projector(self, norm, *parts):
        """A function from `(batch, embedding_dim)` to `(batch, heads, dim)` of each part."""
        if unusual := self._without_steps():
            raise ValueError(
                f"{self.name}: {unusual}, which token-by-token decoding does not support"
            )
        denses = [getattr(self, f"{part}_dense") for part in parts]
        plain = all(map(is_plain, denses)) and self.value_dim == self.key_dim
        if not (plain and isinstance(norm, layers.LayerNormalization)):

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
        """A function of a query `(batch, heads, key_dim)`, the mask, keys and values."""
        combine = self._combiner()

        def look_up(query, seen, keys, values):
            scores = tf.matmul(query[:, :, None], keys)[:, :, 0]  # (batch, heads, capacity)
            weights = tf.nn.softmax(tf.where(seen, scores, scores.dtype.min))
            if zeros_for_none:
                weights = tf.where(seen, weights, 0)
            return combine(tf.matmul(weights[:, :, None], values))  # (batch, heads, 1, value_dim)

        return look_up

    def _combiner(self):
        """The output layer, as a function of the heads' outputs `(batch, heads, 1, value_dim)`."""
        dense = self.output_dense
        if not is_plain(dense):
            return lambda heads: dense(tf.transpose(heads, (0, 2, 1, 3)))[:, 0]
        units, axes = self.num_heads * self.value_dim, dense.kernel.shape[2:]
        kernel = tf.cast(tf.reshape(dense.kernel, (units, -1)), self.compute_dtype)
        bias = 0 if dense.bias is None else tf.cast(tf.reshape(dense.bias, [-1]), kernel.dtype)

        def combine(heads):
            outputs = tf.matmul(tf.reshape(heads, (-1, units)), kernel) + bias
            return outputs if len(axes) == 1 else tf.reshape(outputs, (-1, *axes))

        return combine


def _fits(seen, shape):
    """Whether a mask can be broadcast to scores of a shape."""
    if seen.shape.rank is None or not 2 <= seen.shape.rank <= 4:
        return False
    shapes = {2: shape[2:], 3: (shape[0], *shape[2:]), 4: shape}
    sizes = zip(seen.shape, shapes[seen.shape.rank], strict=True)
    return all(a in (1, b) or None in (a, b) for a, b in sizes)


def normalised(x: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Normalise rows to mean 0 and variance 1; see `folded` for scale and shift.

    Args:
        x: `(batch, width)`.
        epsilon: As for `keras.layers.LayerNormalization`.

    Returns:
        The same shape and dtype; computed in float32, as in Keras.

    Example:

    >>> normalised(tf.constant([[1.0, 3.0]]), 1e-6).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """
    y = tf.cast(x, "float32")
    y -= tf.reduce_mean(y, -1, keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(y * y, -1, keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


def folded(
    norm: layers.LayerNormalization, kernel: Any, bias: Any, dtype: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Fold the scale and shift of a layer normalisation into the dense layer after it.

    Args:
        norm: The layer normalisation.
        kernel: Kernel of the dense layer, `(width, units)`.
        bias: Bias of the dense layer, `(units,)`.
        dtype: dtype of the result.

    Returns:
        `(kernel, bias)`, to be applied to the output of `normalised`.

    Example:

    >>> norm = keras.layers.LayerNormalization()
    >>> norm.build((None, 2))
    >>> kernel, bias = folded(norm, tf.ones((2, 3)), tf.zeros(3), "float32")
    >>> kernel.shape, bias.shape
    (TensorShape([2, 3]), TensorShape([3]))
    """
    bias = bias + tf.linalg.matvec(kernel, norm.beta, transpose_a=True)
    return tf.cast(kernel * norm.gamma[:, None], dtype), tf.cast(bias, dtype)


def is_plain(dense: layers.Layer) -> bool:
    """Whether a dense layer only multiplies by its `kernel` (including LoRA) and adds its bias.

    Args:
        dense: The layer.

    Returns:
        `False` if it is quantised or of a subclass.

    Example:

    >>> is_plain(keras.layers.Dense(3))
    True
    """
    return type(dense) in (layers.Dense, layers.EinsumDense) and dense.quantization_mode is None


def dense_step(dense: Callable, norm: layers.Layer | None = None) -> Callable:
    """Make a function that applies a dense layer, with its weights prepared once.

    Args:
        dense: A `keras.layers.Dense`, or another layer or function.
        norm: The normalisation before it, or `None`.

    Returns:
        A function that computes `dense(norm(x))` of `(batch, width)`.

    Example:

    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 2))
    >>> dense_step(dense)(tf.ones((1, 2))).shape
    TensorShape([1, 3])
    """
    foldable = norm is None or isinstance(norm, layers.LayerNormalization)
    if not (is_plain(dense) and foldable) or dense.bias is None:
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
