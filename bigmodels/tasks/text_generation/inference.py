"""Inference with a language model."""

import numpy as np
import tensorflow as tf

from bigmodels.data import clean_text
from bigmodels.tasks.record import Predictor, Signature
from bigmodels.tokenizers import Vocabulary

# Beams of the exported beam search.
_NUM_BEAMS = 4


class TextPredictor(Predictor):
    """Continues prompts, and computes logits."""

    def generate(self, prompt, length, temperature, seed):
        """Prompts with sampled continuations."""
        return {"text": self.model.continue_strings(prompt, length, temperature, seed)}

    def generate_top(self, prompt, length, temperature, top_k, top_p, seed):
        """The same with top-k and top-p sampling."""
        texts = self.model.continue_strings(prompt, length, temperature, seed, top_k, top_p)
        return {"text": texts}

    def search(self, prompt, length, length_penalty):
        """Prompts with continuations from beam search."""
        return {"text": self.model.search_strings(prompt, length, _NUM_BEAMS, length_penalty)}

    def logits(self, tokens):
        """Logits of the next token at every position, `(batch, length, vocab_size)`."""
        return {"logits": self.model(tokens, training=False)}

    def predict(
        self,
        prompt=None,
        length=300,
        temperature=1.0,
        seed=0,
        top_k=None,
        top_p=None,
        stop="",
        num_beams=None,
        length_penalty=0.0,
    ):
        """Continue a prompt.

        Args:
            prompt: Text to continue.
            length: Maximum number of tokens to add; the end of a document ends the text earlier.
            temperature: Sampling temperature; 0 always takes the most likely token.
            seed: Seed of the sampling.
            top_k: As in `bigmodels.models.base.LanguageModel.generate`.
            top_p: As in `generate`.
            stop: As in `generate`.
            num_beams: As in `generate`.
            length_penalty: As in `generate`.

        Yields:
            One string.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        if not prompt:
            raise ValueError("prompt: give a text to continue")
        prompt = clean_text(prompt)
        if unknown := self.model.tokenizer.unknown(prompt):
            raise ValueError(
                f"prompt: {prompt!r} has characters that were not in the training text: {unknown}"
            )
        yield self.model.generate(
            prompt,
            length,
            temperature,
            seed,
            top_k=top_k,
            top_p=top_p,
            stop=stop,
            num_beams=num_beams,
            length_penalty=length_penalty,
        )

    def signatures(self):
        """From strings to strings, as `predict`; and from token IDs to logits."""
        model, context = self.model, self.config.data.length
        strings, integers, floats = (
            tf.TensorSpec((None,), dtype) for dtype in ("string", "int32", "float32")
        )
        characters = model.vocabulary or "The "
        prompts = np.array([characters[:3].encode(), characters[-1].encode()])
        lengths, seeds = np.int32([8, 5]), np.int32([1, 2])
        top_k, top_p = np.int32([3, 0]), np.float32([1, 0.9])
        ids = np.random.default_rng(0).integers(2, model.vocab_size, (1, context), "int32")
        signatures = {
            "generate": Signature(
                self.generate,
                (strings, integers, floats, integers),
                (prompts, lengths, np.float32([0.8, 0]), seeds),
            ),
            "generate_top": Signature(
                self.generate_top,
                (strings, integers, floats, integers, floats, integers),
                (prompts, lengths, np.float32([0.8, 1]), top_k, top_p, seeds),
            ),
            "logits": Signature(
                self.logits,
                (tf.TensorSpec((None, None), "int32"),),
                (ids,),
                portable=True,
                fixed_in_litert=True,
            ),
        }
        if model.context is None or model.context > 1:
            signatures["search"] = Signature(
                self.search,
                (strings, tf.TensorSpec((), "int32"), tf.TensorSpec((), "float32")),
                (prompts[1:], np.int32(min(5, context - 1)), np.float32(0.5)),
            )
        return signatures

    def metadata(self):
        """What each id stands for: `vocabulary`, or for bytes and subwords `token_bytes` in hex."""
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, Vocabulary):
            return {"vocabulary": [tokenizer.decode([i]) for i in range(len(tokenizer))]}
        token_bytes = [token.hex() for token in tokenizer.tokens]
        return {"tokenizer": tokenizer.get_config(), "token_bytes": token_bytes}
