"""Encoder-decoder Transformer for translation (article 2.1, 2.3 and 3.3; equations E5 and E6).

The article names machine translation as what the Transformer is for, but prints a decoder alone.
This is the whole of "Attention Is All You Need" (Vaswani et al., 2017), on the same blocks as
`Transformer`: normalised before each half (Xiong et al., 2020), one embedding for both languages
and for the output (section 3.4 there).

    {"source": (batch, source_length), "target": (batch, length)}, integers
        -> logits (batch, length, vocab_size)
"""

import functools

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import (
    CachedAttention,
    LayerNormalization,
    PositionalEncoding,
    TransformerBlock,
    generation,
)
from bigmodels.layers.cached_attention import normalised
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Subwords

_AT_ONCE = 64


@keras.saving.register_keras_serializable(package="bigmodels")
class Seq2SeqTransformer(Model):
    """Reads a source sequence, and predicts each token of a target from those before it.

    Args:
        vocab_size: Number of token ids, of both languages together; ids 0 to 3 are those of
            `bigmodels.tokenizers.Subwords`: padding, hidden from all, unknown, start and end.
        embedding_dim: Width of the model; divisible by `num_heads`.
        num_heads: Attention heads a block.
        feed_forward_dim: Inner width of each block's feed-forward pair.
        dropout_rate: Share of units dropped after the embedding, in attention, after each half.
        num_layers: Number of blocks in the encoder, and as many in the decoder.
        max_length: Longest sequence the position encoding covers; a longer one is an error.
        pieces: The pieces of text behind ids 4, 5, ..., if the model is to read and write text.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: `{"source": ..., "target": ...}`, token ids padded with 0 at their ends. Position
            `t` of the target is what is known when token `t + 1` is predicted: the first is the
            start.
        training: Whether dropout is on.

    Returns:
        Logits of the next target token, `(batch, length, vocab_size)`.

    Raises:
        ValueError: if an argument is out of range.
    """

    gives_logits = True
    default_input_shape = {"source": (None, None), "target": (None, None)}

    def __init__(
        self,
        vocab_size,
        embedding_dim,
        num_heads,
        feed_forward_dim,
        dropout_rate,
        num_layers=1,
        max_length=512,
        pieces=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocab_size < 5:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 5 (4 are special)")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers!r}, expected a positive integer")
        if pieces is not None and len(pieces) + 4 != vocab_size:
            raise ValueError(
                f"pieces: {len(pieces)} and 4 more ids are not vocab_size={vocab_size}"
            )
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

    def encode(self, source, training=False):
        """What the decoder looks at.

        Args:
            source: Token ids, `(batch, source_length)`.
            training: Whether dropout is on.

        Returns:
            `(context, mask)`: `(batch, source_length, embedding_dim)`, and true for real tokens.
        """
        mask = ops.not_equal(source, 0)
        x = self._embedded(source, training)
        for block in self.encoder_blocks:
            x = block(x, padding_mask=mask, training=training)
        return self.encoder_norm(x), mask

    def attention(self, source, target):
        """How much each target position looks at each of the source, in the last block.

        Args:
            source: Token ids, `(batch, source_length)`.
            target: Token ids, `(batch, length)`, as in `call`.

        Returns:
            Weights that add up to 1 over the source, the mean of all heads, `(batch, length,
            source_length)`.
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

    def translate(self, texts, num_beams=None, length_penalty=1.0, jit_compile="auto"):
        """Translate texts.

        Args:
            texts: A string or a list of strings.
            num_beams: Search for the likeliest translation, following so many at the same time;
                else each token is the likeliest one.
            length_penalty: Of the search: 0 rates by the sum of the log-probabilities, 1 nearly by
                their mean, see `bigmodels.layers.generation.beam_search`.
            jit_compile: As for `bigmodels.models.base.LanguageModel.generate`.

        Returns:
            A string for a string, a list for a list.

        Raises:
            ValueError: naming the argument that does not fit: a text that is empty or has more
                tokens than `max_length`.
        """
        if self.pieces is None:
            raise ValueError("texts: the model was made without pieces=")
        several = [texts] if isinstance(texts, str) else list(texts)
        for text in several:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"texts: {short_repr(text)}, expected a text that is not empty")
        if num_beams is not None and num_beams < 1:
            raise ValueError(f"num_beams: {num_beams!r}, expected a positive integer")
        if not several:
            return []
        subwords = Subwords(self.pieces)
        tokens = subwords.encode(several)
        sizes = tokens.row_lengths().numpy()
        if sizes.max() > self.max_length:
            raise ValueError(
                f"texts: {short_repr(several[sizes.argmax()])} has {sizes.max()} tokens, more "
                f"than max_length={self.max_length}"
            )
        found = [None] * len(several)
        penalty = tf.constant(length_penalty, "float32")

        def write(source, by_xla):
            if not by_xla:
                return self.translate_tokens(source, num_beams, penalty)
            room = min(generation.roomy(source.shape[1]), self.max_length)
            source = tf.pad(source, [[0, 0], [0, room - source.shape[1]]])
            return self.translate_tokens_by_xla(source, num_beams, penalty)

        # Those of a length together: the shorter ones need not wait.
        order = sizes.argsort(kind="stable")
        for rows in (order[i : i + _AT_ONCE] for i in range(0, len(order), _AT_ONCE)):
            source = tf.gather(tokens, rows).to_tensor()
            done = generation.by_xla_or_not(
                jit_compile, self.max_length - 1, functools.partial(write, source)
            )
            done = subwords.decode(done)
            for i, text in zip(rows, done.numpy(), strict=True):
                found[i] = text.decode()
        return found[0] if isinstance(texts, str) else found

    def translate_strings(self, texts, num_beams=None, length_penalty=1.0):
        """`translate` in a graph: UTF-8 strings `(batch,)` to strings `(batch,)`."""
        subwords = Subwords(self.pieces)
        tokens = subwords.encode(texts).to_tensor()
        return subwords.decode(self.translate_tokens(tokens, num_beams, length_penalty))

    @generation.compiled
    def translate_tokens(self, source, num_beams=None, length_penalty=1.0):
        """`translate` for token ids, compiled.

        Args:
            source: int32 `(batch, source_length)`, padded with 0 at their ends.
            num_beams: As for `translate`.
            length_penalty: As for `translate`.

        Returns:
            int32 `(batch, max_length - 1)`, with the end in it, and 0 after it.
        """
        batch, length = tf.shape(source)[0], self.max_length - 1
        decoding = _Decoding(self, source)
        start = tf.fill((batch, 1), Subwords.START)
        sizes, stop = tf.ones((batch,), "int32"), (Subwords.END,)
        if num_beams is not None:
            found, _ = generation.beam_search(
                decoding, start, sizes, tf.constant(length), num_beams, length_penalty, stop, length
            )
            return found[:, 0]
        # A row of padding alone has nothing to be translated.
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
    """What `bigmodels.layers.generation` asks of a model: the decoder, for some given sources."""

    num_reserved_ids = Subwords.END  # Padding, unknown and start are no part of a translation.

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
            # All rows begin at the same column, so that what was read is the same for all.
            seen = (tf.range(tf.shape(keys)[-1]) <= slot)[None, None]
            places = CachedAttention.places((keys,), slot)
            caches = list(caches)
            for i, step_of_block in enumerate(steps):
                x, caches[i] = step_of_block(x, places, seen, caches[i], seen_context)
            x = tf.cast(normalised(x, norm.epsilon), dtype) * gamma + beta
            return model.token_embedding(x, reverse=True), (seen_context, caches)

        return step
