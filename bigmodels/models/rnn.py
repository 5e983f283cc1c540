"""Recurrent network, an LSTM (article 3.2 and 4.2; equation E4).

Unchanged from the article: the class name, the constructor's arguments and their order, the layers
`embedding`, `rnn` and `dense`.
Changed: sequences of any length (R1); the LSTM's three results become an output and the state pair
`(h, c)` (R2); the width of `dense` is the vocabulary size, not the batch size (R3); the state is
optional, so that `fit` works (R4); without a state the output is the logits alone (R5).

    tokens (batch, length), integers -> logits (batch, length, vocab_size)
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels.layers import LSTM
from bigmodels.layers.cached_attention import dense_step
from bigmodels.models.base import LanguageModel


@keras.saving.register_keras_serializable(package="bigmodels")
class RNN(LanguageModel):
    """LSTM language model: an embedding, one LSTM and a dense layer over the vocabulary.

    After section 4.2 of the article.

    Args:
        vocab_size: Number of token ids; id 0 is padding.
        embedding_dim: Width of the embedding.
        rnn_units: Number of LSTM units.
        batch_size: Default batch size of `get_initial_state`; training and generation accept any
            batch size. (In the article it is the width of the output.)
        dropout_rate: Fraction of units dropped between the LSTM and `dense`.
        mask_zero: Whether the LSTM skips padding, wherever it is in a sequence. `False` is faster
            and gives the same result for text without padding.
        vocabulary: The characters of ids 2, 3, ..., needed to generate text from strings.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Token ids `(batch, length)`, integers.
        state: Initial state, the pair `(h, c)`, each `(batch, rnn_units)`; or `None` for zeros.
        training: Whether to run in training mode (dropout).

    Returns:
        Logits `(batch, length, vocab_size)`; with `state`, `(logits, (h, c))`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> model = RNN(vocab_size=5, embedding_dim=4, rnn_units=8, vocabulary="abc")
    >>> model(np.array([[2, 3, 4]])).shape
    TensorShape([1, 3, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        rnn_units: int,
        batch_size: int | None = None,
        dropout_rate: float = 0.0,
        mask_zero: bool = True,
        vocabulary: Iterable[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocab_size < 2:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 2 (id 0 is padding)")
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.rnn_units = rnn_units
        self.batch_size = batch_size
        self.dropout_rate = dropout_rate
        self.mask_zero = mask_zero
        self.vocabulary = None if vocabulary is None else "".join(vocabulary)
        self.supports_masking = True
        dtype = self.dtype_policy
        self.embedding = layers.Embedding(
            vocab_size, embedding_dim, mask_zero=mask_zero, dtype=dtype, name="embedding"
        )
        self.rnn = LSTM(
            rnn_units, return_sequences=True, return_state=True, dtype=dtype, name="rnn"
        )
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        self.dense = layers.Dense(vocab_size, dtype=dtype, name="dense")

    def build(self, input_shape):
        self.embedding.build(input_shape)
        embedded = (*input_shape, self.embedding_dim)
        self.rnn.build(embedded)
        self.dropout.build((*input_shape, self.rnn_units))
        self.dense.build((*input_shape, self.rnn_units))
        self.built = True

    def call(self, inputs, state=None, training=None):
        x = self.embedding(inputs)
        mask = self.embedding.compute_mask(inputs)
        output, h, c = self.rnn(
            x, initial_state=None if state is None else list(state), mask=mask, training=training
        )
        logits = self.dense(self.dropout(output, training=training))
        # Logits are returned in full precision under a mixed policy.
        logits = ops.cast(logits, self.variable_dtype)
        return logits if state is None else (logits, (h, c))

    def compute_mask(self, inputs, mask=None):
        return self.embedding.compute_mask(inputs)

    def compute_output_shape(self, input_shape, state_shape=None):
        logits = (*input_shape, self.vocab_size)
        if state_shape is None:
            return logits
        state = (input_shape[0], self.rnn_units)
        return logits, (state, state)

    def get_initial_state(self, batch_size: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """The state before the first token.

        Args:
            batch_size: Number of sequences; defaults to the constructor's `batch_size`, or 1.

        Returns:
            The pair `(h, c)` of zeros, each `(batch_size, rnn_units)`.
        """
        if batch_size is None:
            batch_size = 1 if self.batch_size is None else self.batch_size
        shape = (batch_size, self.rnn_units)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def prefill(self, tokens: tf.Tensor, sizes: tf.Tensor, capacity: Any) -> tuple[tf.Tensor, Any]:
        mask = tokens != 0 if self.mask_zero else tf.sequence_mask(sizes, tf.shape(tokens)[1])
        output, h, c = self.rnn(self.embedding(tokens), mask=mask, training=False)
        last = tf.gather(output, sizes - 1, batch_dims=1)  # (batch, rnn_units)
        return ops.cast(self.dense(last), self.variable_dtype), (h, c)

    def decode_step(self) -> Callable:
        cell, dtype = self.rnn.cell, self.compute_dtype
        kernel = tf.cast(tf.concat([cell.kernel, cell.recurrent_kernel], 0), dtype)
        bias = tf.cast(cell.bias, dtype)
        logits_of = dense_step(self.dense)

        def step(token, slot, positions, cache):
            h, c = cache
            gates = tf.matmul(tf.concat([self.embedding(token), h], 1), kernel) + bias
            i, f, new, o = tf.split(gates, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(new)
            h = tf.sigmoid(o) * tf.tanh(c)
            return tf.cast(logits_of(h), self.variable_dtype), (h, c)

        return step

    def get_config(self):
        config = super().get_config()
        config.update(
            vocab_size=self.vocab_size,
            embedding_dim=self.embedding_dim,
            rnn_units=self.rnn_units,
            batch_size=self.batch_size,
            dropout_rate=self.dropout_rate,
            mask_zero=self.mask_zero,
            vocabulary=self.vocabulary,
        )
        return config
