"""Transformer language model (article 3.3 and 4.3; equations E5 and E6).

Unchanged from the article: the class name, the constructor's arguments and their order, the
embedding scaled by sqrt(embedding_dim), the layers `token_embedding`, `position_encoding` and
`dense`; `attention`, `feed_forward` and `dropout` are in each block.
Changed: an embedding layer with a padding mask (T2, T7), a maximum length (T1), heads of width
embedding_dim / num_heads (T4), residuals and layer normalisation (T6), a causal mask by default
(T7), the position encoding added to the embeddings, not the ids (T8), logits as output.

    tokens (batch, length), integers -> logits (batch, length, vocab_size)

The keyword arguments from `position` on are what language models have added since. All of them are
off by default.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from bigmodels.layers import (
    PositionalEncoding,
    TransformerBlock,
    key_value_cache,
)
from bigmodels.layers.cached_attention import dense_step
from bigmodels.layers.transformer_block import NORMALIZATIONS
from bigmodels.messages import check_choice
from bigmodels.models.base import LanguageModel


@keras.saving.register_keras_serializable(package="bigmodels")
class Transformer(LanguageModel):
    """Decoder-only Transformer language model: a stack of self-attention blocks.

    After section 4.3 of the article, and "Attention Is All You Need" (Vaswani et al., 2017).

    Args:
        vocab_size: Number of token ids; id 0 is padding, which no other position attends to.
        embedding_dim: Width of the model; divisible by `num_heads`.
        num_heads: Number of attention heads per block.
        feed_forward_dim: Inner width of each block's feed-forward network.
        dropout_rate: Fraction of units dropped after the embedding, after attention and after the
            feed-forward network, and of attention weights.
        num_layers: Number of blocks.
        max_length: Longest sequence, in tokens; a longer input is an error.
        causal: Whether a position attends only to itself and earlier ones, or to all.
        vocabulary: The characters of ids 2, 3, ..., needed to generate text from strings.
        position: How a token's position is told: `"sinusoidal"`, added to the embeddings; or
            `"rotary"`, by rotating queries and keys (Su et al., 2021), which needs heads of even
            width.
        normalization: `"layer_norm"`, or `"rms_norm"` (Zhang and Sennrich, 2019).
        activation: Activation of the feed-forward networks: `"relu"`, `"relu_squared"` (So et al.,
            2021), or `"swiglu"` (Shazeer, 2020), whose gate adds half as many weights again:
            with two thirds of `feed_forward_dim` their number stays the same.
        query_key_norm: Whether to normalise queries and keys (Henry et al., 2020).
        num_key_value_heads: Number of heads of keys and of values, shared by the `num_heads` heads
            of queries (Ainslie et al., 2023); by default as many.
        sliding_window: Number of tokens that a token attends to, itself included and counted back
            from it (Beltagy et al., 2020); without `causal`, as many ahead. `None` for all.
        tie_embeddings: Whether the output layer uses the weights of the token embedding (Press and
            Wolf, 2017), without a bias.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Token ids `(batch, length)`, integers.
        training: Whether to run in training mode (dropout).

    Returns:
        Logits `(batch, length, vocab_size)`; use `predict_proba` or a softmax for probabilities.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> model = Transformer(
    ...     vocab_size=5, embedding_dim=8, num_heads=2, feed_forward_dim=16, dropout_rate=0.1
    ... )
    >>> model(np.array([[2, 3, 4]])).shape
    TensorShape([1, 3, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        num_heads: int,
        feed_forward_dim: int,
        dropout_rate: float,
        num_layers: int = 1,
        max_length: int = 512,
        causal: bool = True,
        vocabulary: Iterable[str] | None = None,
        *,
        position: str = "sinusoidal",
        normalization: str = "layer_norm",
        activation: str = "relu",
        query_key_norm: bool = False,
        num_key_value_heads: int | None = None,
        sliding_window: int | None = None,
        tie_embeddings: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocab_size < 2:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 2 (id 0 is padding)")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers!r}, expected a positive integer")
        check_choice("position", position, ("sinusoidal", "rotary"))
        if position == "rotary" and embedding_dim // num_heads % 2:
            raise ValueError(
                f"position: 'rotary', but heads of width embedding_dim / num_heads = "
                f"{embedding_dim // num_heads} are not even"
            )
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.num_layers = num_layers
        self.max_length = max_length
        self.causal = causal
        self.vocabulary = None if vocabulary is None else "".join(vocabulary)
        self.position = position
        self.normalization = normalization
        self.activation = activation
        self.query_key_norm = query_key_norm
        self.num_key_value_heads = num_key_value_heads
        self.sliding_window = sliding_window
        self.tie_embeddings = tie_embeddings
        self.supports_masking = True
        dtype = self.dtype_policy
        if tie_embeddings:
            embedding = functools.partial(
                layers.ReversibleEmbedding, reverse_dtype=dtype.variable_dtype
            )
        else:
            embedding = functools.partial(layers.Embedding, mask_zero=True)
        self.token_embedding = embedding(
            vocab_size, embedding_dim, dtype=dtype, name="token_embedding"
        )
        if position == "sinusoidal":
            self.position_encoding = PositionalEncoding(
                max_length, embedding_dim, dtype=dtype, name="position_encoding"
            )
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        self.blocks = [
            TransformerBlock(
                embedding_dim,
                num_heads,
                feed_forward_dim,
                dropout_rate,
                causal,
                normalization=normalization,
                activation=activation,
                rotary_length=max_length if position == "rotary" else None,
                num_key_value_heads=num_key_value_heads,
                query_key_norm=query_key_norm,
                sliding_window=sliding_window,
                dtype=dtype,
                name=f"block{i}",
            )
            for i in range(1, num_layers + 1)
        ]
        self.norm = NORMALIZATIONS[normalization](dtype=dtype, name="norm")
        if not tie_embeddings:
            self.dense = layers.Dense(vocab_size, dtype=dtype, name="dense")

    def build(self, input_shape):
        self.token_embedding.build(input_shape)
        embedded = (*input_shape, self.embedding_dim)
        if self.position == "sinusoidal":
            self.position_encoding.build(embedded)
        self.dropout.build(embedded)
        for block in self.blocks:
            block.build(embedded)
        self.norm.build(embedded)
        if not self.tie_embeddings:
            self.dense.build(embedded)
        self.built = True

    def call(self, inputs, training=None):
        padding_mask = ops.not_equal(inputs, 0)  # (batch, length)
        x = self.dropout(self._embedded(inputs), training=training)
        for block in self.blocks:
            x = block(x, padding_mask=padding_mask, training=training)
        x = ops.reshape(self.norm(x), (-1, self.embedding_dim))
        logits = ops.reshape(self._output_layer(x), (*ops.shape(inputs), self.vocab_size))
        # Logits are returned in full precision under a mixed policy.
        return ops.cast(logits, self.variable_dtype)

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocab_size)

    def generate(self, *args, **kwargs) -> str | list[str] | np.ndarray:
        """Continue one or more prompts, see `bigmodels.models.base.LanguageModel.generate`.

        When a text reaches `max_length` tokens, generation continues from the last half of them.

        Args:
            *args: As for `LanguageModel.generate`.
            **kwargs: As for `LanguageModel.generate`.

        Returns:
            Prompt and continuation.

        Raises:
            ValueError: if an argument is invalid, or the model is not causal.
        """
        if not self.causal:
            raise ValueError("causal: False, expected True to generate text")
        return super().generate(*args, **kwargs)

    @property
    def context(self) -> int:
        """Length of the context window in tokens."""
        return self.max_length

    def prefill(self, tokens: tf.Tensor, sizes: tf.Tensor, capacity: Any) -> tuple[tf.Tensor, Any]:
        mask = tokens != 0
        width = tf.shape(tokens)[1]
        x = self._embedded(tokens)
        caches = []
        for block in self.blocks:
            x, cache = block.prefill(x, mask, capacity)
            caches.append(cache)
        last = tf.gather(x, sizes - 1, batch_dims=1)  # (batch, embedding_dim)
        real = tf.concat([mask, tf.ones((tf.shape(tokens)[0], capacity - width), "bool")], axis=1)
        # New tokens follow the widest prompt in the cache, but their own prompt in the sequence.
        slots = tf.range(capacity)
        key_positions = tf.where(slots < width, slots, slots - (width - sizes)[:, None])
        logits = ops.cast(self._output_layer(self.norm(last)), self.variable_dtype)
        return logits, (real, key_positions, caches)

    def decode_step(self) -> Callable:
        steps = [block.decode_step() for block in self.blocks]
        logits_of = dense_step(self._output_layer, self.norm)

        def step(token, slot, positions, cache):
            # `real`: which slots are not padding, now or later; `key_positions`: of each slot.
            real, key_positions, caches = cache
            x = self._embedded(token, positions)
            seen = real & (tf.range(tf.shape(real)[1]) <= slot)
            if self.sliding_window is not None:
                seen &= key_positions > positions[:, None] - self.sliding_window
            places = key_value_cache.places(caches[0], slot)
            caches = list(caches)
            for i, step_of_block in enumerate(steps):
                x, caches[i] = step_of_block(x, places, seen[:, None], caches[i], positions)
            return tf.cast(logits_of(x), self.variable_dtype), (real, key_positions, caches)

        return step

    @property
    def _output_layer(self):
        if self.tie_embeddings:
            return functools.partial(self.token_embedding, reverse=True)
        return self.dense

    def _embedded(self, tokens, positions=None):
        x = self.token_embedding(tokens) * self.embedding_dim**0.5
        if self.position == "rotary":  # The blocks tell positions apart.
            return x
        encoding = self.position_encoding
        return x + (encoding(x) if positions is None else encoding.at(positions))

    def get_config(self):
        names = ("vocab_size", "embedding_dim", "num_heads", "feed_forward_dim", "dropout_rate")
        names += ("num_layers", "max_length", "causal", "vocabulary", "position", "normalization")
        names += ("activation", "query_key_norm", "num_key_value_heads", "sliding_window")
        names += ("tie_embeddings",)
        return super().get_config() | {name: getattr(self, name) for name in names}
