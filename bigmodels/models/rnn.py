"""Recurrent network, an LSTM (article 3.2 and 4.2; equation E4).

Kept from the article: the class name, the constructor's arguments and their order, the layers
`embedding`, `rnn` and `dense`.
Changed: any length (R1); the LSTM's three results become an output and the state pair `(h, c)`
(R2); `dense` is as wide as the vocabulary, not the batch (R3); the state is optional, so that
`fit` can train (R4); logits alone come out unless a state goes in (R5).

    tokens (batch, length), integers -> logits (batch, length, vocab_size)
"""

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import LSTM, generate, sample


@keras.saving.register_keras_serializable(package="bigmodels")
class RNN(Model):
    """Embedding, one LSTM, one dense layer over the vocabulary.

    Args:
        vocab_size: Number of token ids; id 0 is padding.
        embedding_dim: Width of the embedding.
        rnn_units: Width of the LSTM.
        batch_size: How many sequences `get_initial_state` makes a state for when it is not told;
            training and generation take any batch. (The article made it the output's width.)
        dropout_rate: Share of units dropped between the LSTM and `dense`.
        mask_zero: Whether the LSTM skips padding, so that it may stand anywhere. `False` is
            faster, and right for text that has no padding.
        vocabulary: The characters behind ids 2, 3, ..., if the model is to read and write text.
        **kwargs: As for every `keras.Model`.

    Call arguments:
        inputs: Token ids, `(batch, length)`.
        state: `None`, or the pair `(h, c)`, each `(batch, rnn_units)`, to go on from.
        training: Whether dropout is on.

    Returns:
        Logits `(batch, length, vocab_size)`; with a state, `(logits, (h, c))`.

    Raises:
        ValueError: if an argument is out of range.
    """

    gives_logits = True
    natural_input_shape = (None, None)

    def __init__(
        self,
        vocab_size,
        embedding_dim,
        rnn_units,
        batch_size=None,
        dropout_rate=0.0,
        mask_zero=True,
        vocabulary=None,
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
        # Logits stay in full precision under a mixed policy.
        self.dense = layers.Dense(vocab_size, dtype=dtype.variable_dtype, name="dense")

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
        return logits if state is None else (logits, (h, c))

    def compute_mask(self, inputs, mask=None):
        return self.embedding.compute_mask(inputs)

    def compute_output_shape(self, input_shape, state_shape=None):
        logits = (*input_shape, self.vocab_size)
        if state_shape is None:
            return logits
        state = (input_shape[0], self.rnn_units)
        return logits, (state, state)

    def get_initial_state(self, batch_size=None):
        """The state before the first token.

        Args:
            batch_size: Number of sequences; the constructor's, or 1, when left out.

        Returns:
            The pair `(h, c)` of zeros, each `(batch_size, rnn_units)`.
        """
        if batch_size is None:
            batch_size = 1 if self.batch_size is None else self.batch_size
        shape = (batch_size, self.rnn_units)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def predict_proba(self, x, **kwargs):
        """Probabilities of the next token at every position; arguments as for `predict`."""
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def generate(self, prompt, length=200, temperature=1.0, seed=0):
        """Continue a prompt, one token at a time, each step at the same cost.

        Args:
            prompt: A string, if the model has a vocabulary; or token ids `(batch, length)`.
            length: Number of tokens to add.
            temperature: 0 takes the most likely token, 1 samples the model's own distribution.
            seed: Integer; the same seed gives the same text.

        Returns:
            Prompt and continuation: a string for a string, else ids `(batch, prompt + length)`.

        Raises:
            ValueError: if the prompt is empty or needs a vocabulary the model does not have.
        """
        return generate(self, prompt, length, temperature, seed)

    @tf.function(reduce_retracing=True)
    def continue_tokens(self, tokens, length, temperature, seed):
        """The compiled loop behind `generate`: ids `(batch, length)` that follow `tokens`."""
        state = self.get_initial_state(tf.shape(tokens)[0])
        logits, state = self(tokens, state=state, training=False)
        forbidden = 2 if self.vocabulary else 1
        drawn = tf.TensorArray("int32", size=length)
        next_logits = logits[:, -1]
        for i in tf.range(length):
            token = sample(next_logits, temperature, tf.stack([seed, i]), forbidden)
            drawn = drawn.write(i, token)
            logits, state = self(token[:, None], state=state, training=False)
            next_logits = logits[:, 0]
        return tf.transpose(drawn.stack())  # (batch, length)

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
            rnn_units=self.rnn_units,
            batch_size=self.batch_size,
            dropout_rate=self.dropout_rate,
            mask_zero=self.mask_zero,
            vocabulary=self.vocabulary,
        )
        return config
