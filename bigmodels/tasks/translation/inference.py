"""A trained model for translation in use."""

import numpy as np
import tensorflow as tf

from bigmodels.data import clean_text
from bigmodels.data.notes import Notes
from bigmodels.data.readers.text_files import given_path, text_file
from bigmodels.data.text import note_unknown
from bigmodels.tasks.record import Predictor, Signature

# Of the search that is measured and exported.
NUM_BEAMS = 4


class TranslationPredictor(Predictor):
    """Translations of texts, and the logits behind them."""

    def translate(self, text):
        """Translations of which each token is the likeliest."""
        return {"translation": self.model.translate_strings(text)}

    def search(self, text, length_penalty):
        """The likeliest translations that a search finds."""
        return {"translation": self.model.translate_strings(text, NUM_BEAMS, length_penalty)}

    def logits(self, source, target):
        """Of the next target token at every position, `(batch, length, vocab_size)`."""
        return {"logits": self.model({"source": source, "target": target}, training=False)}

    def predict(self, prompt=None, input=None, num_beams=None, length_penalty=1.0):
        """Translations.

        Args:
            prompt: A text to translate.
            input: A text file of which each line is to be translated, written as the training data
                is.
            num_beams: As for `bigmodels.models.Seq2SeqTransformer.translate`.
            length_penalty: As there.

        Yields:
            A string for each text.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        if (prompt is None) == (input is None):
            raise ValueError("prompt: give a text to translate, or input, a file with one a line")
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
        """Strings in, strings out, as from `predict`; and token ids in, logits out."""
        strings, tokens = tf.TensorSpec((None,), "string"), tf.TensorSpec((None, None), "int32")
        texts = np.array([piece.encode() for piece in self.model.pieces[:2]])
        random = np.random.default_rng(0)
        # Padded, as a batch of several is.
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
