"""The Transformer's repeated block (article 3.3 and 4.3; errata T4 to T7)."""

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels.layers.cached_attention import CachedAttention, folded, normalised
from bigmodels.layers.layer_normalization import LayerNormalization


@keras.saving.register_keras_serializable(package="bigmodels")
class TransformerBlock(layers.Layer):
    """Self-attention and a feed-forward pair, each with layer normalisation and a residual.

    The article's sample has neither residual nor normalisation and leaves the sequence
    `feed_forward_dim` wide. This is the standard block in its pre-normalised form
    (Xiong et al., 2020), which trains without a delicate warm-up.

    Args:
        embedding_dim: Width of the sequence, in and out; divisible by `num_heads`.
        num_heads: Number of attention heads.
        feed_forward_dim: Width between the two feed-forward layers.
        dropout_rate: Share of units dropped after each half and of attention weights.
        causal: Whether a position may only look at itself and earlier ones.
        **kwargs: As for every `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, embedding_dim)`.
        padding_mask: `(batch, length)`, true for real tokens; hidden from all others.
        training: Whether dropout is on.

    Returns:
        `(batch, length, embedding_dim)`.

    Raises:
        ValueError: if `embedding_dim` is not divisible by `num_heads`.
    """

    def __init__(
        self, embedding_dim, num_heads, feed_forward_dim, dropout_rate=0.0, causal=True, **kwargs
    ):
        super().__init__(**kwargs)
        if embedding_dim % num_heads:
            raise ValueError(
                f"embedding_dim: {embedding_dim} is not divisible by num_heads={num_heads}"
            )
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.causal = causal
        dtype = self.dtype_policy
        self.attention_norm = LayerNormalization(dtype=dtype, name="attention_norm")
        self.attention = CachedAttention(
            num_heads,
            key_dim=embedding_dim // num_heads,
            dropout=dropout_rate,
            dtype=dtype,
            name="attention",
        )
        self.feed_forward_norm = LayerNormalization(dtype=dtype, name="feed_forward_norm")
        self.feed_forward = layers.Dense(
            feed_forward_dim, activation="relu", dtype=dtype, name="feed_forward"
        )
        self.projection = layers.Dense(embedding_dim, dtype=dtype, name="projection")
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")

    def build(self, input_shape):
        self.attention_norm.build(input_shape)
        self.attention.build(input_shape, input_shape)
        self.feed_forward_norm.build(input_shape)
        self.feed_forward.build(input_shape)
        self.projection.build((*input_shape[:-1], self.feed_forward_dim))
        self.built = True

    def call(self, inputs, padding_mask=None, training=None):
        if padding_mask is not None:
            padding_mask = padding_mask[:, None, :]  # (batch, 1, length): over the keys
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
        y = self.feed_forward_norm(x)
        # As one matrix, (batch * length, embedding_dim), TensorFlow adds bias and activation
        # within the product.
        y = ops.reshape(y, (-1, self.embedding_dim))
        y = ops.reshape(self.projection(self.feed_forward(y)), ops.shape(x))
        return x + self.dropout(y, training=training)

    def start(self, inputs, padding_mask, capacity):
        """What `call` gives, with a cache to go on from token by token.

        Args:
            inputs: `(batch, length, embedding_dim)`.
            padding_mask: As for `call`.
            capacity: As for `CachedAttention.start`.

        Returns:
            `(output, cache)`.
        """
        cache = self.attention.start(self.attention_norm(inputs), capacity)
        return self(inputs, padding_mask=padding_mask, training=False), cache

    def stepper(self):
        """A function that reads one more token, see `CachedAttention.stepper`."""
        attend = self.attention.stepper(self.attention_norm)
        dtype = self.compute_dtype
        kernel, bias = folded(
            self.feed_forward_norm, self.feed_forward.kernel, self.feed_forward.bias, dtype
        )
        projection = tf.cast(self.projection.kernel, dtype)
        projection_bias = tf.cast(self.projection.bias, dtype)

        def step(x, places, hidden, cache):
            y, cache = attend(x, places, hidden, cache)
            x += y
            y = tf.matmul(normalised(x, self.feed_forward_norm.epsilon), kernel) + bias
            return x + tf.matmul(tf.nn.relu(y), projection) + projection_bias, cache

        return step

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            embedding_dim=self.embedding_dim,
            num_heads=self.num_heads,
            feed_forward_dim=self.feed_forward_dim,
            dropout_rate=self.dropout_rate,
            causal=self.causal,
        )
        return config
