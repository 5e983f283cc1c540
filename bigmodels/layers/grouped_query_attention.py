"""Grouped-query attention with rotary positions and a key-value cache."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import kernels
from bigmodels.layers import flash_attention, key_value_cache
from bigmodels.layers.dot_product_attention import dot_product_attention, sees_any
from bigmodels.layers.rotary_embedding import RotaryEmbedding


@keras.saving.register_keras_serializable(package="bigmodels")
class GroupedQueryAttention(layers.Layer):
    """Attention whose heads share keys and values in groups (Ainslie et al., 2023).

    It has the options of today's language models that `CachedAttention` lacks, each of them off by
    default: fewer heads of keys and values, which makes the cache smaller; rotary positions (Su et
    al., 2021); normalised queries and keys (Henry et al., 2020), here by their root mean square
    with a learned scale and before the rotation; a sliding window (Beltagy et al., 2020). Names of
    weights are those of `keras.layers.MultiHeadAttention`.

    A query that attends to nothing, as all keys in its reach are padding, gets zeros.

    Args:
        num_heads: Number of heads of queries.
        key_dim: Width of a head; even with rotary positions.
        num_key_value_heads: Number of heads of keys and of values, which divides `num_heads`; by
            default as many.
        rotary_length: Longest sequence, in tokens, for rotary positions; `None` for no positions.
        query_key_norm: Whether to normalise queries and keys, head by head.
        sliding_window: Number of tokens that a token attends to, itself included and counted back
            from it; without a causal mask, as many ahead. `None` for all.
        dropout: Fraction of the attention weights to drop.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        query: `(batch, length, embedding_dim)`.
        value: `(batch, value_length, embedding_dim)`; for self-attention, the same as `query`.
        key: As `value`, which it is by default.
        attention_mask: bool `(batch, length, value_length)`, true where a query attends to a key;
            sizes of 1 are repeated.
        use_causal_mask: Whether a query attends only to keys at its position and before.
        training: Whether to run in training mode (dropout).

    Returns:
        `(batch, length, embedding_dim)`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> attention = GroupedQueryAttention(
    ...     num_heads=4, key_dim=2, num_key_value_heads=2, rotary_length=10
    ... )
    >>> x = tf.zeros((1, 3, 8))
    >>> attention(x, x, use_causal_mask=True).shape
    TensorShape([1, 3, 8])
    >>> keys, values = attention.prefill(x, capacity=10)
    >>> keys.shape
    TensorShape([1, 2, 2, 10])
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        num_key_value_heads: int | None = None,
        rotary_length: int | None = None,
        query_key_norm: bool = False,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        groups = num_heads if num_key_value_heads is None else num_key_value_heads
        if groups < 1 or num_heads % groups:
            raise ValueError(
                f"num_key_value_heads: {num_key_value_heads!r}, expected a divisor of "
                f"num_heads={num_heads}"
            )
        if sliding_window is not None and sliding_window < 1:
            raise ValueError(f"sliding_window: {sliding_window!r}, expected a positive integer")
        if rotary_length is not None and key_dim % 2:
            raise ValueError(f"key_dim: {key_dim!r}, expected an even number for rotary positions")
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.num_key_value_heads = groups
        self.rotary_length = rotary_length
        self.query_key_norm = query_key_norm
        self.sliding_window = sliding_window
        self.dropout = dropout
        dtype = self.dtype_policy
        self.query_dense, self.key_dense, self.value_dense = (
            layers.EinsumDense(
                "abc,cde->abde", (None, heads, key_dim), bias_axes="de", dtype=dtype, name=name
            )
            for name, heads in (("query", num_heads), ("key", groups), ("value", groups))
        )
        norm = layers.RMSNormalization if query_key_norm else layers.Identity
        self.query_norm = norm(dtype=dtype, name="query_norm")
        self.key_norm = norm(dtype=dtype, name="key_norm")
        self.rotary = (
            None
            if rotary_length is None
            else RotaryEmbedding(rotary_length, key_dim, dtype=dtype, name="rotary")
        )
        self.dropout_layer = layers.Dropout(dropout, dtype=dtype, name="dropout")

    def build(self, query_shape, value_shape, key_shape=None):
        self.query_dense.build(query_shape)
        self.key_dense.build(key_shape or value_shape)
        self.value_dense.build(value_shape)
        heads = (*query_shape[:2], self.num_heads, self.key_dim)
        self.query_norm.build(heads)
        self.key_norm.build(heads)
        self.output_dense = layers.EinsumDense(
            "abcd,cde->abe",
            (None, query_shape[-1]),
            bias_axes="e",
            dtype=self.dtype_policy,
            name="attention_output",
        )
        self.output_dense.build(heads)
        self.built = True

    def call(
        self,
        query,
        value,
        key=None,
        attention_mask=None,
        use_causal_mask=False,
        training=None,
    ):
        q = self._queries(query)
        k, v = self._shared(self._keys(value if key is None else key), self.value_dense(value))
        q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))
        batch, heads, length, _ = ops.shape(q)  # (batch, heads, length, key_dim)
        value_length = ops.shape(k)[2]
        distance = ops.arange(length)[:, None] - ops.arange(value_length)
        near = None if self.sliding_window is None else ops.abs(distance) < self.sliding_window
        mask = _both(attention_mask, near)
        seen = _both(mask, distance >= 0) if use_causal_mask else mask
        if training and self.dropout:
            factors = ops.ones((batch, heads, length, value_length), q.dtype)
            factors = self.dropout_layer(factors, training=True)
            x = dot_product_attention(q, k, v, seen, factors, mean_of_none=False)
        elif flash_attention.obstacle(q, k, mask) is None:
            # The kernel applies the causal mask itself.
            x = flash_attention.attention(q, k, v, use_causal_mask, mask)
            x = x if seen is None else x * ops.cast(sees_any(seen), x.dtype)
        else:
            x = dot_product_attention(q, k, v, seen, mean_of_none=False)
        return self.output_dense(ops.transpose(x, (0, 2, 1, 3)))

    def describe_kernel(self, training: bool = True, jit_compile: bool = False) -> str:
        """Describe which implementation a call uses, see `CachedAttention.describe_kernel`.

        Args:
            training: Whether the call is part of training.
            jit_compile: Whether the call is compiled by XLA.

        Returns:
            The implementation.
        """
        kernel = "grouped queries"
        if not jit_compile:
            return kernel
        half = tf.as_dtype(self.compute_dtype).size == 2
        if half and kernels.compute_capability() >= (8, 0) and not (training and self.dropout):
            return f"{kernel}, cuDNN's fused attention where shapes are known"
        return f"{kernel}, by XLA"

    def prefill(self, x: Any, capacity: Any) -> key_value_cache.Cache:
        """Compute the cache of a sequence, see `CachedAttention.prefill`.

        Args:
            x: The sequence, as given to `call`, `(batch, length, embedding_dim)`.
            capacity: Number of tokens the cache has room for, at least `length`.

        Returns:
            `(keys, values)`, with `num_key_value_heads` heads.
        """
        return key_value_cache.padded(self._keys(x), self.value_dense(x), capacity)

    def decode_step(self, norm: layers.Layer) -> Callable:
        """Make a function that processes one more token, see `CachedAttention.decode_step`.

        Args:
            norm: The normalisation before the attention; the function includes it.

        Returns:
            A function `step(x, places, seen, cache, positions) -> (output, cache)`. `positions`
            are those of the tokens in their sequences, integers `(batch,)`. A sliding window is
            left to `seen`, as only the model knows which positions the cache holds.
        """
        groups = (self.num_key_value_heads, self.num_heads // self.num_key_value_heads)

        def step(x, places, seen, cache, positions):
            x, positions = norm(x)[:, None], positions[:, None]
            key, value = self._keys(x, positions)[:, 0], self.value_dense(x)[:, 0]
            keys, values = key_value_cache.written(cache, places, key, value)
            query = ops.reshape(self._queries(x, positions), (-1, *groups, self.key_dim))
            scores = tf.matmul(query, keys)  # (batch, key_value_heads, group, capacity)
            weights = tf.nn.softmax(tf.where(seen[:, None], scores, scores.dtype.min))
            heads = tf.matmul(weights, values)  # (batch, key_value_heads, group, key_dim)
            heads = ops.reshape(heads, (-1, 1, self.num_heads, self.key_dim))
            return self.output_dense(heads)[:, 0], (keys, values)

        return step

    def _queries(self, x, positions=None):
        """Queries `(batch, length, heads, key_dim)`, which include the scale of the scores."""
        x = self.query_norm(self.query_dense(x))
        return self._rotated(x, positions) * self.key_dim**-0.5

    def _keys(self, x, positions=None):
        """Keys `(batch, length, key_value_heads, key_dim)`."""
        return self._rotated(self.key_norm(self.key_dense(x)), positions)

    def _rotated(self, x, positions):
        return x if self.rotary is None else self.rotary(x, positions)

    def _shared(self, *parts):
        """Repeat each head of keys or values for the queries that share it."""
        batch, length = ops.shape(parts[0])[:2]
        repeats = (1, 1, 1, self.num_heads // self.num_key_value_heads, 1)
        shape = (batch, length, self.num_heads, self.key_dim)
        return [ops.reshape(ops.tile(x[:, :, :, None], repeats), shape) for x in parts]

    def compute_output_shape(self, query_shape, value_shape=None, key_shape=None):
        return query_shape

    def get_config(self):
        names = ("num_heads", "key_dim", "num_key_value_heads", "rotary_length")
        names += ("query_key_norm", "sliding_window", "dropout")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _both(mask, other):
    """Masks joined; `None` masks nothing."""
    if mask is None or other is None:
        return other if mask is None else mask
    return ops.logical_and(mask, other)
