"""Deep recurrent network for speech (article 1.1 and 2.3: "DRNN").

The article names it and prints no code. This is the usual architecture: log-mel features, stacked
bidirectional LSTMs (equation E4), and connectionist temporal classification (CTC; Graves et al.,
2006), whose loss is `keras.losses.CTC` or the faster `bigmodels.losses.CTC`.

    samples (batch, time), floats in [-1, 1] -> logits (batch, steps, vocab_size)

A recording ends with its last non-zero sample; zeros after it are padding and do not change the
result. Id 0 is CTC's blank. At padding steps the blank has probability 1, which adds nothing to the
loss and no character to the transcript, so that loss and decoder do not need the lengths.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import LSTM, LogMel, SpecAugment
from bigmodels.layers.log_mel import ceil_div, lengths_of
from bigmodels.tokenizers import Vocabulary

# The logit of all other characters at padding steps; its exp is 0.
_NEVER = -1e9


@keras.saving.register_keras_serializable(package="bigmodels")
class DRNN(Model):
    """Speech recogniser: log-mel features, bidirectional LSTMs, one dense layer, trained with CTC.

    Args:
        vocab_size: Number of character ids; id 0 is CTC's blank.
        rnn_units: Number of units of each LSTM; a layer has two, one per direction.
        num_layers: Number of bidirectional layers.
        dropout_rate: Fraction of units dropped before each layer and before `dense`.
        sample_rate: Sample rate of the recordings, in Hz.
        mel_bins: Number of mel bands.
        stack: Number of 10 ms frames that are concatenated to one LSTM step.
        time_masks: Number of time masks per recording in training; for this and the next three see
            `bigmodels.layers.SpecAugment`.
        frequency_masks: Number of frequency masks per recording in training.
        time_share: Maximum width of a time mask, as a fraction of the recording.
        frequency_share: Maximum width of a frequency mask, as a fraction of the bands.
        mean: Mean of each feature over the training data, `mel_bins` numbers; 0 when `None`.
        deviation: Standard deviation of each feature, `mel_bins` numbers; 1 when `None`.
        vocabulary: The characters of ids 2, 3, ..., needed to return text.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Samples `(batch, time)` in [-1, 1], shorter recordings padded with zeros.
        training: Whether to run in training mode (dropout, SpecAugment).

    Returns:
        Logits `(batch, steps, vocab_size)`, one step per `stack` frames, rounded up.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> model = DRNN(vocab_size=5, rnn_units=4, num_layers=1, vocabulary="abc")
    >>> samples = np.zeros((1, 800), "float32")  # 100 ms at 8 kHz
    >>> model(samples).shape
    TensorShape([1, 5, 5])
    """

    gives_logits = True
    default_input_shape = (None, None)

    def __init__(
        self,
        vocab_size: int,
        rnn_units: int = 128,
        num_layers: int = 2,
        dropout_rate: float = 0.0,
        sample_rate: int = 8000,
        mel_bins: int = 40,
        stack: int = 2,
        time_masks: int = 0,
        frequency_masks: int = 0,
        time_share: float = 0.15,
        frequency_share: float = 0.2,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        vocabulary: Iterable[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False  # Half precision would add noise to the samples.
        if vocab_size < 2:
            raise ValueError(f"vocab_size: {vocab_size!r}, expected at least 2 (id 0 is the blank)")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers!r}, expected a positive integer")
        if not 1 <= stack <= 10:
            raise ValueError(f"stack: {stack!r}, expected from 1 to 10")
        for name, value in {"mean": mean, "deviation": deviation}.items():
            if value is not None and len(value) != mel_bins:
                raise ValueError(f"{name}: {len(value)} numbers for mel_bins={mel_bins}")
        self.vocab_size = vocab_size
        self.rnn_units = rnn_units
        self.num_layers = num_layers
        self.dropout_rate = dropout_rate
        self.sample_rate = sample_rate
        self.mel_bins = mel_bins
        self.stack = stack
        self.time_masks = time_masks
        self.frequency_masks = frequency_masks
        self.time_share = time_share
        self.frequency_share = frequency_share
        self.mean = None if mean is None else tuple(map(float, mean))
        self.deviation = None if deviation is None else tuple(map(float, deviation))
        self.vocabulary = None if vocabulary is None else "".join(vocabulary)
        dtype = self.dtype_policy
        self.log_mel = LogMel(sample_rate, mel_bins, dtype=dtype, name="log_mel")
        self.spec_augment = SpecAugment(
            time_masks, frequency_masks, time_share, frequency_share, dtype=dtype,
            name="spec_augment",
        )  # fmt: skip
        for i in range(1, num_layers + 1):  # self.dropout1, self.rnn1, ...
            setattr(self, f"dropout{i}", layers.Dropout(dropout_rate, dtype=dtype, name=f"drop{i}"))
            lstm = LSTM(rnn_units, return_sequences=True, dtype=dtype, name="lstm")
            setattr(self, f"rnn{i}", layers.Bidirectional(lstm, dtype=dtype, name=f"rnn{i}"))
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        # Logits stay in full precision under a mixed policy.
        self.dense = layers.Dense(vocab_size, dtype=dtype.variable_dtype, name="dense")

    @property
    def step_length(self) -> int:
        """Number of samples per LSTM step."""
        return self.log_mel.hop * self.stack

    def build(self, input_shape):
        self.log_mel.build(input_shape)
        self.spec_augment.build((None, None, self.mel_bins))
        shape = (None, None, self.mel_bins * self.stack)
        for i in range(1, self.num_layers + 1):
            getattr(self, f"dropout{i}").build(shape)
            getattr(self, f"rnn{i}").build(shape)
            shape = (None, None, 2 * self.rnn_units)
        self.dropout.build(shape)
        self.dense.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        batch, time = ops.shape(inputs)[0], ops.shape(inputs)[1]
        steps = ceil_div(time, self.step_length)
        samples = tf.pad(inputs, [[0, 0], [0, steps * self.step_length - time]])
        lengths = lengths_of(inputs)
        x = self.log_mel(samples)  # (batch, steps * stack, mel_bins)
        if self.mean is not None:
            x = x - ops.cast(self.mean, x.dtype)
        if self.deviation is not None:
            x = x / ops.cast(self.deviation, x.dtype)
        frames = ceil_div(lengths, self.log_mel.hop)
        x = self.spec_augment(x, frames=frames, training=training)
        x = ops.reshape(x, (batch, steps, self.stack * self.mel_bins))
        mask = tf.sequence_mask(ceil_div(lengths, self.step_length), steps)  # (batch, steps)
        for i in range(1, self.num_layers + 1):
            x = getattr(self, f"dropout{i}")(x, training=training)
            x = getattr(self, f"rnn{i}")(x, mask=mask, training=training)
        logits = self.dense(self.dropout(x, training=training))
        blank = ops.cast([0.0] + [_NEVER] * (self.vocab_size - 1), logits.dtype)
        return ops.where(mask[..., None], logits, blank)

    def compute_output_shape(self, input_shape):
        batch, time = input_shape
        return batch, None if time is None else ceil_div(time, self.step_length), self.vocab_size

    def time_steps(self, input_shape):
        return ceil_div(input_shape[1], self.step_length)

    def transcribe(self, samples: Any, num_beams: int | None = None) -> list[str]:
        """Transcribe recordings.

        Args:
            samples: `(batch, time)`, or a list of recordings `(time,)`, in [-1, 1].
            num_beams: Use CTC beam search with this many beams; `None` decodes greedily.

        Returns:
            One string per recording.

        Raises:
            ValueError: if the model has no vocabulary, or an argument is invalid.
        """
        if num_beams is not None and not 1 <= num_beams <= 1000:
            raise ValueError(f"num_beams: {num_beams!r}, expected from 1 to 1000")
        if isinstance(samples, (list, tuple)):
            samples = tf.ragged.stack([tf.constant(row, "float32") for row in samples]).to_tensor()
        texts = self.decode_strings(self.hear(samples), num_beams)
        return [text.decode("utf-8") for text in texts.numpy()]

    def hear(self, samples: Any) -> tf.Tensor:
        """Compute logits as a call does, by a function that is traced once for all shapes.

        Args:
            samples: `(batch, time)` in [-1, 1].

        Returns:
            Logits `(batch, steps, vocab_size)`.
        """
        return self._compiled(tf.cast(samples, "float32"))

    @functools.cached_property
    def _compiled(self):
        spec = tf.TensorSpec((None, None), "float32")
        return tf.function(lambda samples: self(samples, training=False), input_signature=[spec])

    def transcribe_strings(self, samples: Any, num_beams: int | None = None) -> tf.Tensor:
        """`transcribe` as graph operations, for exported models.

        Args:
            samples: `(batch, time)` in [-1, 1].
            num_beams: As for `transcribe`.

        Returns:
            UTF-8 strings `(batch,)`.
        """
        return self.decode_strings(self(samples, training=False), num_beams)

    def decode_strings(self, logits: Any, num_beams: int | None = None) -> tf.Tensor:
        """Decode logits to transcripts, as graph operations.

        Args:
            logits: `(batch, steps, vocab_size)`.
            num_beams: As for `transcribe`.

        Returns:
            UTF-8 strings `(batch,)`.

        Raises:
            ValueError: if the model has no vocabulary.
        """
        if self.vocabulary is None:
            raise ValueError("vocabulary: None, expected the characters of the ids")
        batch, steps = tf.shape(logits)[0], tf.shape(logits)[1]
        search = {} if num_beams is None else {"beam_width": num_beams}
        decoded, _ = ops.ctc_decode(
            logits,
            tf.fill([batch], steps),
            strategy="beam_search" if search else "greedy",
            mask_index=0,
            **search,
        )
        ids = decoded[0]  # (batch, steps), padded with -1
        table = Vocabulary(self.vocabulary)
        characters = tf.constant(["", *(table.decode([i]) for i in range(len(table)))])
        return tf.strings.strip(tf.strings.reduce_join(tf.gather(characters, ids + 1), axis=-1))

    def data_specs(self):
        samples = checks.Spec(
            "float", (None,), -1, 1, "Samples are floats (batch, time); of 16 bits, x / 32768."
        )
        ids = checks.Spec("int", (None,), 0, self.vocab_size - 1, "0 pads shorter transcripts.")
        return samples, ids

    def get_config(self):
        config = super().get_config()
        config.update(
            vocab_size=self.vocab_size,
            rnn_units=self.rnn_units,
            num_layers=self.num_layers,
            dropout_rate=self.dropout_rate,
            sample_rate=self.sample_rate,
            mel_bins=self.mel_bins,
            stack=self.stack,
            time_masks=self.time_masks,
            frequency_masks=self.frequency_masks,
            time_share=self.time_share,
            frequency_share=self.frequency_share,
            mean=self.mean,
            deviation=self.deviation,
            vocabulary=self.vocabulary,
        )
        return config
