"""Inference with a translation model."""

import numpy as np
import tensorflow as tf

from bigmodels.data import clean_text
from bigmodels.data.cleaning import note_unknown
from bigmodels.data.notes import Notes
from bigmodels.data.readers.text_files import given_path, text_file
from bigmodels.tasks.record import Predictor, Signature

# Beams of the evaluated and exported beam search.
NUM_BEAMS = 4


class TranslationPredictor(Predictor):
    """Translates texts, and computes logits."""

    def translate(self, text):
        """Translations by greedy search."""
        return {"translation": self.model.translate_strings(text)}

    def search(self, text, length_penalty):
        """Translations by beam search."""
        return {"translation": self.model.translate_strings(text, NUM_BEAMS, length_penalty)}

    def logits(self, source, target):
        """Logits of the next target token at every position, `(batch, length, vocab_size)`."""
        return {"logits": self.model({"source": source, "target": target}, training=False)}

    def predict(self, prompt=None, input=None, num_beams=None, length_penalty=1.0):
        """Translate a text, or the lines of a file.

        Args:
            prompt: A text to translate.
            input: A text file whose lines to translate, with the encoding of the training data.
            num_beams: As in `bigmodels.models.Seq2SeqTransformer.translate`.
            length_penalty: As in `translate`.

        Yields:
            One string per text.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        if (prompt is None) == (input is None):
            raise ValueError("prompt: give a text to translate, or as input a file, one per line")
        notes, texts = Notes(), [prompt]
        if input is not None:
            text = text_file(given_path(str(input)), "input", self.config.data.encoding, notes)
            lines = clean_text(text).removesuffix("\n").split("\n")
            texts = [line for line in lines if line.strip()]
            empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
            notes.leave_out("input", "empty lines", empty)
        texts = [clean_text(text) for text in texts]
        argument = "prompt" if input is None else "input"
        note_unknown(notes, argument, "", "".join(self.model.pieces), "".join(texts))
        yield from self.model.translate(texts, num_beams, length_penalty)

    def signatures(self):
        """From strings to strings, as `predict`; and from token IDs to logits."""
        strings, tokens = tf.TensorSpec((None,), "string"), tf.TensorSpec((None, None), "int32")
        texts = np.array([piece.encode() for piece in self.model.pieces[:2]])
        random = np.random.default_rng(0)
        # The second of each is padded.
        source, target = (
            random.integers(4, self.model.vocab_size, (2, size), "int32") for size in (6, 5)
        )
        source[1, 3:] = target[1, 4:] = 0
        return {
            "translate": Signature(self.translate, (strings,), (texts,)),
            "search": Signature(
                self.search, (strings, tf.TensorSpec((), "float32")), (texts, np.float32(1.0))
            ),
            "logits": Signature(
                self.logits, (tokens, tokens), (source, target), portable=True, fixed_in_litert=True
            ),
        }

    def metadata(self):
        return {"pieces": ["", "\N{REPLACEMENT CHARACTER}", "", "", *self.model.pieces]}
