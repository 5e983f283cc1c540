"""Transformer language model (article 3.3 and 4.3; equations E5 and E6).

Kept from the article: the class name, the constructor's arguments and their order, the embedding
scaled by sqrt(embedding_dim) with the position encoding added, the layers `token_embedding`,
`position_encoding` and `dense`; `attention`, `feed_forward` and `dropout` live in each block.
Changed: a real embedding with a padding mask (T2, T7), a maximum length (T1), heads that share the
width (T4), the standard block with residuals and normalisation (T6), causal unless told otherwise
(T7), the encoding added to embeddings and not to ids (T8), logits out.

    tokens (batch, length), integers -> logits (batch, length, vocab_size)
"""

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import PositionalEncoding, TransformerBlock, generate, sample


@keras.saving.register_keras_serializable(package="bigmodels")
class Transformer(Model):
    """A stack of self-attention blocks over embedded tokens.

    Args:
        vocab_size: Number of token ids; id 0 is padding, hidden from every other position.
        embedding_dim: Width of the model; divisible by `num_heads`.
        num_heads: Attention heads a block.
        feed_forward_dim: Inner width of each block's feed-forward pair.
        dropout_rate: Share of units dropped after the embedding, in attention, after each half.
        num_layers: Number of blocks.
        max_length: Longest sequence the position encoding covers; a longer one is an error.
        causal: Whether a position sees only itself and earlier ones (a language model), or all.
        vocabulary: The characters behind ids 2, 3, ..., if the model is to read and write text.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: Token ids, `(batch, length)`.
        training: Whether dropout is on.

    Returns:
        Logits, `(batch, length, vocab_size)`; probabilities are `predict_proba` or a softmax.

    Raises:
        ValueError: if an argument is out of range.
    """

    gives_logits = True
    natural_input_shape = (None, None)

    def __init__(
        self,
        vocab_size,
        embedding_dim,
        num_heads,
        feed_forward_dim,
        dropout_rate,
        num_layers=1,
        max_length=512,
        causal=True,
        vocabulary=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocab_size < 2:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 2 (id 0 is padding)")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers!r}, expected a positive integer")
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.num_layers = num_layers
        self.max_length = max_length
        self.causal = causal
        self.vocabulary = None if vocabulary is None else "".join(vocabulary)
        self.supports_masking = True
        dtype = self.dtype_policy
        self.token_embedding = layers.Embedding(
            vocab_size, embedding_dim, mask_zero=True, dtype=dtype, name="token_embedding"
        )
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
                dtype=dtype,
                name=f"block{i}",
            )
            for i in range(1, num_layers + 1)
        ]
        self.norm = layers.LayerNormalization(dtype=dtype, name="norm")
        # Logits stay in full precision under a mixed policy.
        self.dense = layers.Dense(vocab_size, dtype=dtype.variable_dtype, name="dense")

    def build(self, input_shape):
        self.token_embedding.build(input_shape)
        embedded = (*input_shape, self.embedding_dim)
        self.position_encoding.build(embedded)
        self.dropout.build(embedded)
        for block in self.blocks:
            block.build(embedded)
        self.norm.build(embedded)
        self.dense.build(embedded)
        self.built = True

    def call(self, inputs, training=None):
        padding_mask = self.token_embedding.compute_mask(inputs)  # (batch, length)
        x = self.token_embedding(inputs)  # (batch, length, embedding_dim)
        x *= self.embedding_dim**0.5
        x += self.position_encoding(x)
        x = self.dropout(x, training=training)
        for block in self.blocks:
            x = block(x, padding_mask=padding_mask, training=training)
        return self.dense(self.norm(x))

    def compute_mask(self, inputs, mask=None):
        return self.token_embedding.compute_mask(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocab_size)

    def predict_proba(self, x, **kwargs):
        """Probabilities of the next token at every position; arguments as for `predict`."""
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def generate(self, prompt, length=200, temperature=1.0, seed=0):
        """Continue a prompt; each step sees the last `max_length` tokens.

        Args:
            prompt: A string, if the model has a vocabulary; or token ids `(batch, length)`.
            length: Number of tokens to add.
            temperature: 0 takes the most likely token, 1 samples the model's own distribution.
            seed: Integer; the same seed gives the same text.

        Returns:
            Prompt and continuation: a string for a string, else ids `(batch, prompt + length)`.

        Raises:
            ValueError: if an argument does not fit, or the model is not causal.
        """
        if not self.causal:
            raise ValueError("causal: False, but only a causal model can continue a text")
        return generate(self, prompt, length, temperature, seed)

    @tf.function(reduce_retracing=True)
    def continue_tokens(self, tokens, length, temperature, seed):
        """The compiled loop behind `generate`: ids `(batch, length)` that follow `tokens`."""
        batch, prompt_length = tf.shape(tokens)[0], tf.shape(tokens)[1]
        total = prompt_length + length
        window = tf.minimum(total, self.max_length)
        forbidden = 2 if self.vocabulary else 1
        # Positions not yet drawn hold padding; a causal model does not look at them.
        tokens = tf.concat([tokens, tf.zeros((batch, length), tokens.dtype)], axis=1)
        for i in tf.range(prompt_length, total):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(tokens, tf.TensorShape([None, None]))]
            )
            start = tf.maximum(i - window, 0)
            logits = self(tokens[:, start : start + window], training=False)
            last = tf.gather(logits, i - 1 - start, axis=1)  # (batch, vocab_size)
            drawn = sample(last, temperature, tf.stack([seed, i - prompt_length]), forbidden)
            here = tf.range(total) == i
            tokens = tf.where(here, drawn[:, None], tokens)
        return tokens[:, prompt_length:]

    def data_specs(self):
        tokens = checks.Spec(
            "int", (None,), 0, self.vocab_size - 1, f"Tokens are ids below {self.vocab_size}."
        )
        return tokens, tokens if self._sparse_loss() else checks.Spec()

    def get_config(self):
        config = super().get_config()
        config.update(
            vocab_size=self.vocab_size,
            embedding_dim=self.embedding_dim,
            num_heads=self.num_heads,
            feed_forward_dim=self.feed_forward_dim,
            dropout_rate=self.dropout_rate,
            num_layers=self.num_layers,
            max_length=self.max_length,
            causal=self.causal,
            vocabulary=self.vocabulary,
        )
        return config
