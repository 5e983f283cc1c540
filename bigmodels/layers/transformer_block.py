"""The Transformer block (article 3.3 and 4.3; errata T4 to T7)."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels.layers.activations import ACTIVATIONS
from bigmodels.layers.cached_attention import CachedAttention, dense_step
from bigmodels.layers.grouped_query_attention import GroupedQueryAttention
from bigmodels.layers.layer_normalization import LayerNormalization
from bigmodels.messages import check_choice

NORMALIZATIONS = {"layer_norm": LayerNormalization, "rms_norm": layers.RMSNormalization}


@keras.saving.register_keras_serializable(package="bigmodels")
class TransformerBlock(layers.Layer):
    """Transformer block: self-attention and a feed-forward network, with pre-layer normalisation.

    The article's sample has neither residuals nor normalisation and leaves the sequence
    `feed_forward_dim` wide. This is the standard block (Vaswani et al., 2017) with the
    normalisation before each sublayer (Xiong et al., 2020), which is less sensitive to the
    learning-rate warm-up.

    Args:
        embedding_dim: Width of input and output; divisible by `num_heads`.
        num_heads: Number of attention heads.
        feed_forward_dim: Inner width of the feed-forward network.
        dropout_rate: Fraction of units dropped after each sublayer, and of attention weights.
        causal: Whether a position attends only to itself and earlier ones.
        cross_attention: Whether to add a cross-attention sublayer between self-attention and
            feed-forward network, as in a decoder (Vaswani et al., 2017, section 3.2.3).
        normalization: `"layer_norm"`, or `"rms_norm"` (Zhang and Sennrich, 2019).
        activation: Activation of the feed-forward network: `"relu"`, `"relu_squared"` or
            `"swiglu"`, see `bigmodels.layers.activations`. The gate of SwiGLU adds half as many
            weights again.
        rotary_length: Longest sequence, in tokens, for rotary positions in self-attention, or
            `None`. For this and the following see `bigmodels.layers.GroupedQueryAttention`.
        num_key_value_heads: Number of heads of keys and of values in self-attention.
        query_key_norm: Whether self-attention normalises queries and keys.
        sliding_window: Number of tokens that a token attends to in self-attention, or `None`;
            `decode_step` leaves it to the mask it is given.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: `(batch, length, embedding_dim)`.
        padding_mask: `(batch, length)`, true for real tokens; no position attends to the others.
        context: For `cross_attention`, the encoder's output `(batch, context_length,
            embedding_dim)`.
        context_mask: Padding mask of the context, `(batch, context_length)`.
        training: Whether to run in training mode (dropout).

    Returns:
        `(batch, length, embedding_dim)`.

    Raises:
        ValueError: if `embedding_dim` is not divisible by `num_heads`, or another argument is out
            of range.

    Example:

    >>> block = TransformerBlock(embedding_dim=8, num_heads=2, feed_forward_dim=16)
    >>> block(np.zeros((2, 3, 8), "float32")).shape
    TensorShape([2, 3, 8])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        feed_forward_dim: int,
        dropout_rate: float = 0.0,
        causal: bool = True,
        cross_attention: bool = False,
        normalization: str = "layer_norm",
        activation: str = "relu",
        rotary_length: int | None = None,
        num_key_value_heads: int | None = None,
        query_key_norm: bool = False,
        sliding_window: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if embedding_dim % num_heads:
            raise ValueError(
                f"embedding_dim: {embedding_dim} is not divisible by num_heads={num_heads}"
            )
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_choice("activation", activation, ACTIVATIONS)
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.causal = causal
        self.cross_attention = cross_attention
        self.normalization = normalization
        self.activation = activation
        self.rotary_length = rotary_length
        self.num_key_value_heads = num_key_value_heads
        self.query_key_norm = query_key_norm
        self.sliding_window = sliding_window
        dtype = self.dtype_policy
        norm = NORMALIZATIONS[normalization]
        heads = {"num_heads": num_heads, "key_dim": embedding_dim // num_heads}
        heads |= {"dropout": dropout_rate, "dtype": dtype}
        options = {
            "rotary_length": rotary_length,
            "num_key_value_heads": num_key_value_heads,
            "query_key_norm": query_key_norm,
            "sliding_window": sliding_window,
        }
        # Without any of them `CachedAttention` computes the same, and faster.
        if all(option is None or option is False for option in options.values()):
            attention = CachedAttention
        else:
            attention = functools.partial(GroupedQueryAttention, **options)
        self.attention_norm = norm(dtype=dtype, name="attention_norm")
        self.attention = attention(**heads, name="attention")
        if cross_attention:
            self.context_norm = norm(dtype=dtype, name="context_norm")
            self.context_attention = CachedAttention(**heads, name="context_attention")
        self.feed_forward_norm = norm(dtype=dtype, name="feed_forward_norm")
        function, inputs_each = ACTIVATIONS[activation]
        self.feed_forward = layers.Dense(
            inputs_each * feed_forward_dim, activation=function, dtype=dtype, name="feed_forward"
        )
        self.projection = layers.Dense(embedding_dim, dtype=dtype, name="projection")
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")

    def build(self, input_shape):
        self.attention_norm.build(input_shape)
        self.attention.build(input_shape, input_shape)
        if self.cross_attention:
            self.context_norm.build(input_shape)
            self.context_attention.build(input_shape, input_shape)
        self.feed_forward_norm.build(input_shape)
        self.feed_forward.build(input_shape)
        self.projection.build((*input_shape[:-1], self.feed_forward_dim))
        self.built = True

    def call(self, inputs, padding_mask=None, context=None, context_mask=None, training=None):
        if padding_mask is not None:
            padding_mask = padding_mask[:, None, :]  # (batch, 1, length): masks the keys
        x = self.attention_norm(inputs)
        x = self.attention(
            query=x,
            value=x,
            key=x,
            attention_mask=padding_mask,
            use_causal_mask=self.causal,
            training=training,
        )
        x = inputs + self.dropout(x, training=training)
        if self.cross_attention:
            y = self.look_up(x, context, context_mask, training=training)
            x += self.dropout(y, training=training)
        y = self.feed_forward_norm(x)
        # On a matrix (batch * length, embedding_dim), TensorFlow fuses product, bias and
        # activation.
        y = ops.reshape(y, (-1, self.embedding_dim))
        y = ops.reshape(self.projection(self.feed_forward(y)), ops.shape(x))
        return x + self.dropout(y, training=training)

    def look_up(
        self,
        x: Any,
        context: Any,
        context_mask: Any,
        training: bool | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Apply the cross-attention, with its normalisation.

        Args:
            x: `(batch, length, embedding_dim)`.
            context: As for `call`.
            context_mask: As for `call`.
            training: As for `call`.
            return_attention_scores: Whether to return the attention weights too.

        Returns:
            `(batch, length, embedding_dim)`; with `return_attention_scores`, a pair of it and the
            weights `(batch, heads, length, context_length)`.
        """
        if context_mask is not None:
            context_mask = context_mask[:, None, :]  # (batch, 1, context_length): masks the keys
        return self.context_attention(
            query=self.context_norm(x),
            value=context,
            attention_mask=context_mask,
            training=training,
            return_attention_scores=return_attention_scores,
        )

    def prefill(
        self,
        inputs: Any,
        padding_mask: Any,
        capacity: Any,
        context: Any = None,
        context_mask: Any = None,
    ) -> tuple[tf.Tensor, Any]:
        """Process a prompt and fill the cache for `decode_step`.

        Args:
            inputs: `(batch, length, embedding_dim)`.
            padding_mask: As for `call`.
            capacity: Number of tokens the cache has room for.
            context: As for `call`.
            context_mask: As for `call`.

        Returns:
            `(output, cache)`; the output is that of `call`.
        """
        cache = self.attention.prefill(self.attention_norm(inputs), capacity)
        if self.cross_attention:
            cache = cache, self.context_attention.prefill(context, tf.shape(context)[1])
        output = self(
            inputs,
            padding_mask=padding_mask,
            context=context,
            context_mask=context_mask,
            training=False,
        )
        return output, cache

    def decode_step(self) -> Callable:
        """Make a function that processes one more token, see `CachedAttention.decode_step`.

        Returns:
            A function `step(x, places, seen, cache, positions, seen_context=None) -> (output,
            cache)`. `positions` are those of the tokens in their sequences, integers `(batch,)`.
            `seen_context` is the context's padding mask for `cross_attention`, `(batch, 1,
            context_length)`.
        """
        attend = self.attention.decode_step(self.attention_norm)
        if self.cross_attention:
            look_up = self.context_attention.reader(self.context_norm)
        feed_forward = dense_step(self.feed_forward, self.feed_forward_norm)
        projection = dense_step(self.projection)

        def step(x, places, seen, cache, positions, seen_context=None):
            if self.cross_attention:
                cache, context = cache
            y, cache = attend(x, places, seen, cache, positions)
            x += y
            if self.cross_attention:
                x += look_up(x, seen_context, context)
                cache = cache, context
            return x + projection(feed_forward(x)), cache

        return step

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("embedding_dim", "num_heads", "feed_forward_dim", "dropout_rate", "causal")
        names += ("cross_attention", "normalization", "activation", "rotary_length")
        names += ("num_key_value_heads", "query_key_norm", "sliding_window")
        return super().get_config() | {name: getattr(self, name) for name in names}
