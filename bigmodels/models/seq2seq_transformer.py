"""Encoder-decoder Transformer for translation (article 2.1, 2.3 and 3.3; equations E5 and E6).

The article names machine translation as an application of the Transformer, but prints only a
decoder. This is the full encoder-decoder of "Attention Is All You Need" (Vaswani et al., 2017),
built from the blocks of `Transformer`: pre-layer normalisation (Xiong et al., 2020), and one
embedding shared by both languages and the output layer (section 3.4 of the paper).

    {"source": (batch, source_length), "target": (batch, length)}, integers
        -> logits (batch, length, vocab_size)
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import (
    LayerNormalization,
    PositionalEncoding,
    TransformerBlock,
    generation,
    key_value_cache,
)
from bigmodels.layers.cached_attention import normalised
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Subwords

# Number of texts that `translate` processes at once.
_AT_ONCE = 64


@keras.saving.register_keras_serializable(package="bigmodels")
class Seq2SeqTransformer(Model):
    """Encoder-decoder Transformer for translation (Vaswani et al., 2017; article 3.3).

    Args:
        vocab_size: Number of token ids, shared by both languages; ids 0 to 3 are those of
            `bigmodels.tokenizers.Subwords`: padding, unknown, start and end.
        embedding_dim: Width of the model; divisible by `num_heads`.
        num_heads: Number of attention heads per block.
        feed_forward_dim: Inner width of each block's feed-forward network.
        dropout_rate: Fraction of units dropped after the embedding, after attention and after the
            feed-forward network, and of attention weights.
        num_layers: Number of blocks in the encoder and in the decoder.
        max_length: Longest sequence, in tokens; a longer input is an error.
        pieces: The subwords of ids 4, 5, ..., needed to translate strings.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: `{"source": ..., "target": ...}`, token ids `(batch, source_length)` and `(batch,
            length)`, right-padded with 0. The target is the decoder's input: it begins with the
            start token.
        training: Whether to run in training mode (dropout).

    Returns:
        Logits of the next target token, `(batch, length, vocab_size)`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> model = Seq2SeqTransformer(
    ...     vocab_size=8, embedding_dim=8, num_heads=2, feed_forward_dim=16, dropout_rate=0.1
    ... )
    >>> model({"source": np.array([[4, 5, 6]]), "target": np.array([[2, 7]])}).shape
    TensorShape([1, 2, 8])
    """

    gives_logits = True
    default_input_shape = {"source": (None, None), "target": (None, None)}

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        num_heads: int,
        feed_forward_dim: int,
        dropout_rate: float,
        num_layers: int = 1,
        max_length: int = 512,
        pieces: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocab_size < 5:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 5 (4 are reserved)")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers!r}, expected a positive integer")
        if pieces is not None and len(pieces) + 4 != vocab_size:
            raise ValueError(f"pieces: {len(pieces)}, expected vocab_size - 4 = {vocab_size - 4}")
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.num_layers = num_layers
        self.max_length = max_length
        self.pieces = None if pieces is None else list(pieces)
        self.supports_masking = True
        dtype = self.dtype_policy
        self.token_embedding = layers.ReversibleEmbedding(
            vocab_size,
            embedding_dim,
            # Logits stay in full precision under a mixed policy.
            reverse_dtype=dtype.variable_dtype,
            dtype=dtype,
            name="token_embedding",
        )
        self.position_encoding = PositionalEncoding(
            max_length, embedding_dim, dtype=dtype, name="position_encoding"
        )
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        sizes = (embedding_dim, num_heads, feed_forward_dim, dropout_rate)
        numbers = range(1, num_layers + 1)
        self.encoder_blocks = [
            TransformerBlock(*sizes, causal=False, dtype=dtype, name=f"encoder_block{i}")
            for i in numbers
        ]
        self.encoder_norm = LayerNormalization(dtype=dtype, name="encoder_norm")
        self.decoder_blocks = [
            TransformerBlock(*sizes, cross_attention=True, dtype=dtype, name=f"decoder_block{i}")
            for i in numbers
        ]
        self.decoder_norm = LayerNormalization(dtype=dtype, name="decoder_norm")

    def build(self, input_shape):
        embedded = (*input_shape["source"], self.embedding_dim)
        self.token_embedding.build(input_shape["source"])
        self.position_encoding.build(embedded)
        self.dropout.build(embedded)
        for part in (*self.encoder_blocks, self.encoder_norm):
            part.build(embedded)
        for part in (*self.decoder_blocks, self.decoder_norm):
            part.build(embedded)
        self.built = True

    def call(self, inputs, training=None):
        context, context_mask = self.encode(inputs["source"], training=training)
        target = inputs["target"]
        x = self._embedded(target, training)  # (batch, length, embedding_dim)
        for block in self.decoder_blocks:
            x = block(
                x,
                padding_mask=ops.not_equal(target, 0),
                context=context,
                context_mask=context_mask,
                training=training,
            )
        x = ops.reshape(self.decoder_norm(x), (-1, self.embedding_dim))
        logits = self.token_embedding(x, reverse=True)
        return ops.reshape(logits, (*ops.shape(target), self.vocab_size))

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs["target"], 0)

    def compute_output_shape(self, input_shape):
        return (*input_shape["target"], self.vocab_size)

    def encode(self, source: Any, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the encoder.

        Args:
            source: Token ids `(batch, source_length)`.
            training: Whether to run in training mode (dropout).

        Returns:
            `(context, mask)`: the encoder's output `(batch, source_length, embedding_dim)`, and the
            padding mask `(batch, source_length)`, true for real tokens.
        """
        mask = ops.not_equal(source, 0)
        x = self._embedded(source, training)
        for block in self.encoder_blocks:
            x = block(x, padding_mask=mask, training=training)
        return self.encoder_norm(x), mask

    def attention(self, source: Any, target: Any) -> tf.Tensor:
        """Compute the cross-attention weights of the last block, averaged over the heads.

        Args:
            source: Token ids `(batch, source_length)`.
            target: Token ids `(batch, length)`, as in `call`.

        Returns:
            Weights `(batch, length, source_length)` that sum to 1 over the source.
        """
        context, mask = self.encode(source)
        x = self._embedded(target, training=False)
        *first, last = self.decoder_blocks
        for block in first:
            x = block(x, context=context, context_mask=mask, training=False)
        y = last.attention_norm(x)
        x += last.attention(query=y, value=y, use_causal_mask=True)
        _, weights = last.look_up(x, context, mask, return_attention_scores=True)
        return ops.mean(weights, axis=1)

    def translate(
        self,
        texts: str | Sequence[str],
        num_beams: int | None = None,
        length_penalty: float = 1.0,
        jit_compile: bool | str = "auto",
    ) -> str | list[str]:
        """Translate texts.

        Args:
            texts: A string or a list of strings.
            num_beams: Use beam search with this many beams; `None` decodes greedily.
            length_penalty: For beam search: 0 ranks by the sum of the log-probabilities, 1 roughly
                by their mean, see `bigmodels.layers.generation.beam_search`.
            jit_compile: As for `bigmodels.models.base.LanguageModel.generate`.

        Returns:
            A string for a string, a list for a list.

        Raises:
            ValueError: naming the argument that is invalid, for example a text that is empty or has
                more than `max_length` tokens.
        """
        if self.pieces is None:
            raise ValueError("texts: the model was made without pieces=")
        sources = [texts] if isinstance(texts, str) else list(texts)
        for text in sources:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"texts: {short_repr(text)}, expected a non-empty string")
        if num_beams is not None and num_beams < 1:
            raise ValueError(f"num_beams: {num_beams!r}, expected a positive integer")
        if not sources:
            return []
        subwords = Subwords(self.pieces)
        tokens = subwords.encode(sources)
        sizes = tokens.row_lengths().numpy()
        if sizes.max() > self.max_length:
            raise ValueError(
                f"texts: {short_repr(sources[sizes.argmax()])} has {sizes.max()} tokens, more "
                f"than max_length={self.max_length}"
            )
        translations = [None] * len(sources)
        penalty = tf.constant(length_penalty, "float32")

        def translate_batch(source, by_xla):
            if not by_xla:
                return self.translate_tokens(source, num_beams, penalty)
            room = min(generation.roomy(source.shape[1]), self.max_length)
            source = tf.pad(source, [[0, 0], [0, room - source.shape[1]]])
            return self.translate_tokens_by_xla(source, num_beams, penalty)

        # Texts of similar length are batched together, to save padding and steps.
        order = sizes.argsort(kind="stable")
        for rows in (order[i : i + _AT_ONCE] for i in range(0, len(order), _AT_ONCE)):
            source = tf.gather(tokens, rows).to_tensor()
            ids = generation.by_xla_or_not(
                jit_compile, self.max_length - 1, functools.partial(translate_batch, source)
            )
            for i, text in zip(rows, subwords.decode(ids).numpy(), strict=True):
                translations[i] = text.decode()
        return translations[0] if isinstance(texts, str) else translations

    def translate_strings(
        self, texts: Any, num_beams: int | None = None, length_penalty: Any = 1.0
    ) -> tf.Tensor:
        """`translate` as graph operations, for exported models.

        Args:
            texts: UTF-8 strings `(batch,)`.
            num_beams: As for `translate`.
            length_penalty: As for `translate`.

        Returns:
            UTF-8 strings `(batch,)`.
        """
        subwords = Subwords(self.pieces)
        tokens = subwords.encode(texts).to_tensor()
        return subwords.decode(self.translate_tokens(tokens, num_beams, length_penalty))

    @generation.compiled
    def translate_tokens(
        self, source: tf.Tensor, num_beams: int | None = None, length_penalty: Any = 1.0
    ) -> tf.Tensor:
        """`translate` for token ids, compiled.

        Args:
            source: int32 `(batch, source_length)`, right-padded with 0.
            num_beams: As for `translate`.
            length_penalty: As for `translate`.

        Returns:
            int32 `(batch, max_length - 1)`, including the end token, padded with 0.
        """
        batch, length = tf.shape(source)[0], self.max_length - 1
        decoding = _Decoding(self, source)
        start = tf.fill((batch, 1), Subwords.START)
        sizes, stop = tf.ones((batch,), "int32"), (Subwords.END,)
        if num_beams is not None:
            beams, _ = generation.beam_search(
                decoding, start, sizes, tf.constant(length), num_beams, length_penalty, stop, length
            )
            return beams[:, 0]
        # Rows that contain only padding are not translated.
        counts = tf.where(tf.reduce_any(source != 0, 1), length, 0)
        uniform, temperature = tf.zeros((length, batch)), tf.zeros((batch,))
        return generation.continue_tokens(
            decoding, start, sizes, counts, uniform, temperature, stop_ids=stop
        )

    translate_tokens_by_xla = generation.compiled(translate_tokens.method, jit_compile=True)

    def _embedded(self, tokens, training):
        x = self.token_embedding(tokens) * self.embedding_dim**0.5
        return self.dropout(x + self.position_encoding(x), training=training)

    def data_specs(self):
        hint = f"Tokens are ids below {self.vocab_size}."
        tokens = checks.Spec("int", (None,), 0, self.vocab_size - 1, hint)
        inputs = {"source": tokens, "target": tokens}
        return inputs, tokens if self._sparse_loss() else checks.Spec()

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
            pieces=self.pieces,
        )
        return config


class _Decoding:
    """The decoder for given sources, with the interface that `generation` expects of a model."""

    num_reserved_ids = Subwords.END  # Padding, unknown and start are never generated.

    def __init__(self, model, source):
        self.model, self.source = model, source
        self.context = model.max_length

    def prefill(self, tokens, sizes, capacity):
        model = self.model
        context, context_mask = model.encode(self.source)
        x = model._embedded(tokens, training=False)
        caches = []
        for block in model.decoder_blocks:
            x, cache = block.prefill(x, tokens != 0, capacity, context, context_mask)
            caches.append(cache)
        last = tf.gather(x, sizes - 1, batch_dims=1)  # (batch, embedding_dim)
        logits = model.token_embedding(model.decoder_norm(last), reverse=True)
        return logits, (context_mask[:, None], caches)

    def decode_step(self):
        model = self.model
        steps = [block.decode_step() for block in model.decoder_blocks]
        norm, dtype = model.decoder_norm, model.variable_dtype
        gamma, beta = (tf.cast(v, dtype) for v in (norm.gamma, norm.beta))

        def step(token, slot, positions, cache):
            seen_context, caches = cache
            x = model.token_embedding(token) * model.embedding_dim**0.5
            x += model.position_encoding.at(positions)
            (keys, _), _ = caches[0]
            # All rows begin at the same column, so one mask is enough for all.
            seen = (tf.range(tf.shape(keys)[-1]) <= slot)[None, None]
            places = key_value_cache.places((keys,), slot)
            caches = list(caches)
            for i, step_of_block in enumerate(steps):
                x, caches[i] = step_of_block(x, places, seen, caches[i], positions, seen_context)
            x = tf.cast(normalised(x, norm.epsilon), dtype) * gamma + beta
            return model.token_embedding(x, reverse=True), (seen_context, caches)

        return step
