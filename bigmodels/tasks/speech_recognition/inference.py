"""Inference with a speech recognition model."""

import numpy as np
import tensorflow as tf

from bigmodels.data.notes import Notes
from bigmodels.data.readers.audio_files import list_recordings
from bigmodels.data.readers.recordings import note_remarks, read_audio, resampled
from bigmodels.data.readers.text_files import given_path
from bigmodels.tasks.record import Predictor, Signature
from bigmodels.tokenizers import Vocabulary

# Beams of the evaluated and exported beam search.
NUM_BEAMS = 16


class SpeechPredictor(Predictor):
    """Transcribes recordings, and computes log-probabilities."""

    def transcribe(self, samples, length):
        """Transcripts by greedy decoding of samples `(batch, time)`, floats in [-1, 1]."""
        return {"transcript": self.model.transcribe_strings(_silenced(samples, length))}

    def transcribe_int16(self, samples, length):
        """The same for 16-bit samples."""
        return self.transcribe(tf.cast(samples, "float32") / 32768, length)

    def search(self, samples, length):
        """Transcripts by beam search."""
        texts = self.model.transcribe_strings(_silenced(samples, length), NUM_BEAMS)
        return {"transcript": texts}

    def log_probabilities(self, samples):
        """Log-probabilities of the characters at every step, `(batch, steps, vocab_size)`."""
        return {"log_probabilities": tf.nn.log_softmax(self.model(samples, training=False))}

    def predict(self, input=None, num_beams=None):
        """Transcribe recordings.

        Args:
            input: A recording, or a directory of recordings.
            num_beams: As in `bigmodels.models.DRNN.transcribe`.

        Yields:
            `{"file": ..., "transcript": ..., "seconds": ...}`.

        Raises:
            ValueError: if there is no input or a file cannot be read.
        """
        if not input:
            raise ValueError("input: give a recording, or a directory of them")
        notes, sample_rate = Notes(), self.model.sample_rate
        for file in list_recordings(given_path(str(input)), notes=notes):
            remarks = {}
            samples, rate = read_audio(file, "input", remarks)
            note_remarks(notes, "input", remarks)
            if rate != sample_rate:
                notes.say(
                    f"input: {str(file)!r} has a sample rate of {rate:,} Hz and is resampled to "
                    f"the model's {sample_rate:,} Hz."
                )
            seconds = len(samples) / rate
            samples = resampled(samples, rate, sample_rate) / np.float32(32768)
            (text,) = self.model.transcribe(samples[None], num_beams)
            yield {"file": str(file), "transcript": text, "seconds": round(seconds, 3)}

    def signatures(self):
        """From samples at the model's sample rate to transcripts, as `predict`."""
        integers = tf.TensorSpec((None,), "int32")
        floats, samples_int16 = (tf.TensorSpec((None, None), t) for t in ("float32", "int16"))
        time = self.model.sample_rate // 2
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, time)).astype("float32")
        noise_int16 = (noise * 32767).astype("int16")
        lengths = np.int32([time, time // 2])
        return {
            "transcribe": Signature(self.transcribe, (floats, integers), (noise, lengths)),
            "transcribe_int16": Signature(
                self.transcribe_int16, (samples_int16, integers), (noise_int16, lengths)
            ),
            "search": Signature(self.search, (floats, integers), (noise, lengths)),
            "log_probabilities": Signature(
                self.log_probabilities,
                (floats,),
                (noise[:1],),
                portable=True,
                fixed_in_litert=True,
            ),
        }

    def metadata(self):
        vocabulary = Vocabulary(self.model.vocabulary)
        characters = [vocabulary.decode([i]) for i in range(len(vocabulary))]
        return {"sample_rate": self.model.sample_rate, "vocabulary": characters}


def _silenced(samples, length):
    """Set the samples after the end of each recording to zero."""
    return tf.where(tf.sequence_mask(length, tf.shape(samples)[1]), samples, 0.0)
