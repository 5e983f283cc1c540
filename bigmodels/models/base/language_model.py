"""The base class of language models: next-token logits and text generation."""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import generation
from bigmodels.tokenizers import Tokenizer, Vocabulary, from_config

# Stop ids are padded to a multiple of this, so that their number causes no retracing.
_STOPS = 32


class LanguageModel(Model):
    """A model that gives next-token logits at every position, and generates text with them.

    A subclass sets `vocab_size` and `vocabulary` (the characters of ids 2, 3, ..., or `None`),
    passes its `**kwargs` on, and implements `prefill` and `decode_step`, see
    `bigmodels.layers.generation`.

    Args:
        tokenizer: A `bigmodels.tokenizers.Tokenizer`, or its config, needed to generate text from
            strings; by default a `Vocabulary` of the characters in `vocabulary`, if there are any.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Example:

    >>> from bigmodels.tokenizers import Bytes
    >>> model = bigmodels.models.RNN(258, embedding_dim=2, rnn_units=3, tokenizer=Bytes())
    >>> model.generate("naïve", length=5).startswith("naïve")
    True
    """

    gives_logits = True
    default_input_shape = (None, None)
    # Length of the context window in tokens; `None` means unlimited.
    context = None
    vocabulary = None

    def __init__(self, *args, tokenizer: Tokenizer | dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._tokenizer = from_config(tokenizer) if isinstance(tokenizer, dict) else tokenizer

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that reads prompts and writes text, or `None`."""
        if self._tokenizer is None and self.vocabulary is not None:
            return Vocabulary(self.vocabulary)
        return self._tokenizer

    @property
    def num_reserved_ids(self) -> int:
        """Number of leading ids that are never generated: padding and the unknown character."""
        return 1 if self.tokenizer is None else self.tokenizer.NUM_RESERVED_IDS

    def prefill(self, tokens: tf.Tensor, sizes: tf.Tensor, capacity: Any) -> tuple[tf.Tensor, Any]:
        """Process prompts and fill the cache.

        Args:
            tokens: int32 `(batch, width)`, right-padded with 0.
            sizes: Length of each prompt, int32 `(batch,)`.
            capacity: Number of tokens the cache has room for, including `width`.

        Returns:
            `(logits, cache)`: the logits of each prompt's next token, `(batch, vocab_size)`.
        """
        raise NotImplementedError

    def decode_step(self) -> Callable:
        """Make a function that processes one more token of each sequence.

        The weights are prepared once, outside of the decoding loop.

        Returns:
            A function `step(token, slot, positions, cache) -> (logits, cache)`. `token` is int32
            `(batch,)`. `slot` is the number of columns processed before, scalar int32. `positions`
            is each token's position in its sequence, int32 `(batch,)`. `cache` comes from `prefill`
            or the last step and may be overwritten.
        """
        raise NotImplementedError

    def predict_proba(self, x: Any, **kwargs) -> np.ndarray:
        """Predict next-token probabilities at every position.

        Args:
            x: Token ids `(batch, length)`, or a dataset of them, as for `predict`.
            **kwargs: Passed to `predict`.

        Returns:
            float32 array `(batch, length, vocab_size)`; the last axis sums to one.
        """
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def generate(
        self,
        prompt: Any,
        length: int = 200,
        temperature: float = 1.0,
        seed: int = 0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: Any = (),
        num_beams: int | None = None,
        length_penalty: float = 0.0,
        jit_compile: bool | str = "auto",
    ) -> str | list[str] | np.ndarray:
        """Continue one or more prompts, by sampling or beam search with a key-value cache.

        Args:
            prompt: A string or a list of strings, if the model has a tokenizer; or token ids,
                `(batch, length)` or a list of lists. Zeros at the end of a row are padding.
            length: Maximum number of tokens to add. If the tokenizer has a token for the end of a
                document, that token ends a sequence earlier.
            temperature: 0 takes the most likely token, 1 samples the model's own distribution,
                infinity samples all tokens uniformly.
            seed: 32-bit integer; the same seed gives the same text, independent of the other
                prompts in the batch. Repeated prompts in a list get different continuations.
            top_k: Sample from this many of the most likely tokens only.
            top_p: Nucleus sampling: sample from the smallest set of most likely tokens whose
                probabilities add up to at least this.
            stop: A string of one token (of characters: one character) or a token id, or several of
                them, that end a sequence; the stop token is included in the result.
            num_beams: Use beam search with this many beams instead of sampling.
            length_penalty: For beam search: 0 ranks by the sum of the log-probabilities, 1 roughly
                by their mean, see `bigmodels.layers.generation.beam_search`.
            jit_compile: Whether XLA compiles the decoding loop: the first call for a size then
                takes seconds longer, later calls are faster. `"auto"` compiles on a GPU from
                256 tokens on.

        Returns:
            Prompt and continuation: a string for a string, a list for a list of strings; for token
            ids int32 `(batch, prompt + length)`, padded with 0 after the end of a sequence.

        Raises:
            ValueError: naming the argument that is invalid.

        Example:

        >>> model = bigmodels.models.RNN(vocab_size=4, embedding_dim=2, rnn_units=3)
        >>> model.generate([[1, 2, 3], [2]], length=5).shape
        (2, 8)
        """
        prompts, tokens, sizes = self._read_prompt(prompt)
        stop_ids = self._stop_ids(stop)
        _check(length, temperature, seed, top_k, top_p, num_beams, length_penalty)
        if not self.built:
            self.build(self.default_input_shape)
        if num_beams is None:
            args = tokens, sizes, length, temperature, seed, top_k, top_p, stop_ids
            continue_prompts = functools.partial(self._sample, *args)
        else:
            self._check_room(tokens.shape[1] + length)
            args = tokens, sizes, length, num_beams, length_penalty, stop_ids
            continue_prompts = functools.partial(self._search, *args)
        new = generation.by_xla_or_not(jit_compile, length, continue_prompts)
        new = ops.convert_to_numpy(new)
        if prompts is None:
            rows = np.pad(tokens, [(0, 0), (0, length)])
            for row, size, continuation in zip(rows, sizes, new, strict=True):
                row[size : size + length] = continuation
            return rows
        decode = self.tokenizer.decode
        texts = [text + decode(ids) for text, ids in zip(prompts, new, strict=True)]
        return texts[0] if isinstance(prompt, str) else texts

    def _sample(self, tokens, sizes, length, temperature, seed, top_k, top_p, stop_ids, by_xla):
        """Continuations by sampling, `(batch, length)`."""
        batch = len(tokens)
        repeats = _repeats(tokens)
        uniform = [
            tf.random.stateless_uniform((length,), (seed, i)) for i in range(max(repeats) + 1)
        ]
        uniform = tf.gather(tf.stack(uniform, axis=1), repeats, axis=1)
        continue_tokens = self.continue_tokens
        if by_xla:
            continue_tokens = self.continue_tokens_by_xla
            tokens, room = self._bucketed(tokens, length)
            uniform = tf.pad(uniform, [[0, room - length], [0, 0]])

        def per_row(value, dtype):
            return None if value is None else tf.fill([batch], tf.constant(value, dtype))

        new = continue_tokens(
            tokens,
            sizes,
            per_row(length, "int32"),
            uniform,
            per_row(temperature, "float32"),
            per_row(top_k, "int32"),
            per_row(top_p, "float32"),
            _padded_stop_ids(stop_ids),
        )
        return new[:, :length]

    def _search(self, tokens, sizes, length, num_beams, length_penalty, stop_ids, by_xla):
        """Continuations by beam search, `(batch, length)`."""
        penalty = tf.constant(length_penalty, "float32")
        if not by_xla:
            stop_ids = _padded_stop_ids(stop_ids)
            beams, _ = self.search_tokens(
                tokens, sizes, tf.constant(length), num_beams, penalty, stop_ids
            )
            return beams[:, 0]
        tokens, room = self._bucketed(tokens, length)
        stop_ids = tf.constant(stop_ids, "int32")
        beams, _ = self.search_tokens_by_xla(
            tokens, sizes, tf.constant(length), num_beams, penalty, stop_ids, room
        )
        return beams[:, 0, :length]

    def _bucketed(self, tokens, length):
        """Round the prompts' width and the length up, as far as the context has room for it."""
        prompt_width = tokens.shape[1]
        width, room = generation.roomy(prompt_width), generation.roomy(length)
        if self.context is not None and prompt_width + length <= self.context:
            if prompt_width + room <= self.context:
                width = min(width, self.context - room)
            elif width + length <= self.context:
                room = self.context - width
            else:
                width, room = prompt_width, length
        return np.pad(tokens, [(0, 0), (0, width - prompt_width)]), room

    @generation.compiled
    def continue_tokens(
        self,
        tokens: tf.Tensor,
        sizes: tf.Tensor,
        counts: tf.Tensor,
        uniform: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor | None = None,
        top_p: tf.Tensor | None = None,
        stop_ids: Any = (),
    ) -> tf.Tensor:
        """`bigmodels.layers.generation.continue_tokens` of this model, compiled."""
        return generation.continue_tokens(
            self, tokens, sizes, counts, uniform, temperature, top_k, top_p, stop_ids
        )

    continue_tokens_by_xla = generation.compiled(continue_tokens.method, jit_compile=True)

    @generation.compiled
    def search_tokens(
        self,
        tokens: tf.Tensor,
        sizes: tf.Tensor,
        length: tf.Tensor,
        num_beams: int,
        length_penalty: Any,
        stop_ids: Any = (),
        most: int | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`bigmodels.layers.generation.beam_search` of this model, compiled."""
        return generation.beam_search(
            self, tokens, sizes, length, num_beams, length_penalty, stop_ids, most
        )

    search_tokens_by_xla = generation.compiled(search_tokens.method, jit_compile=True)

    def continue_strings(
        self,
        prompts: tf.Tensor,
        lengths: tf.Tensor,
        temperatures: tf.Tensor,
        seeds: tf.Tensor,
        top_k: tf.Tensor | None = None,
        top_p: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`generate` as graph operations, for exported models; every prompt has its own settings.

        Args:
            prompts: UTF-8 strings, `(batch,)`; none of them empty.
            lengths: Maximum number of tokens to add to each prompt, int32 `(batch,)`.
            temperatures: Temperature of each prompt, float32 `(batch,)`.
            seeds: Seed of each prompt, int32 `(batch,)`.
            top_k: `top_k` of each prompt, int32 `(batch,)`, 0 for all tokens; or `None`.
            top_p: `top_p` of each prompt, float32 `(batch,)`, 1 for all tokens; or `None`.

        Returns:
            Strings `(batch,)`: each prompt with its continuation, as from `generate`.

        Raises:
            tf.errors.InvalidArgumentError: naming the argument that is invalid.
        """
        tokens, sizes = self._read_strings(
            prompts,
            [
                tf.debugging.assert_positive(lengths, "length: expected a positive integer"),
                tf.debugging.assert_non_negative(
                    temperatures, "temperature: expected zero or more"
                ),
            ],
        )
        longest = tf.reduce_max(lengths)

        def draw_uniform(seed):
            return tf.random.stateless_uniform((longest,), tf.stack([seed, 0]))

        uniform = tf.map_fn(draw_uniform, seeds, fn_output_signature="float32")
        new = self.continue_tokens(
            tokens,
            sizes,
            lengths,
            tf.transpose(uniform),
            temperatures,
            top_k,
            top_p,
            self._stop_ids(()),
        )
        return tf.strings.join([prompts, self.tokenizer.decode_strings(new)])

    def search_strings(
        self, prompts: tf.Tensor, length: tf.Tensor, num_beams: int, length_penalty: tf.Tensor
    ) -> tf.Tensor:
        """`generate` with `num_beams` as graph operations, for exported models.

        Args:
            prompts: UTF-8 strings, `(batch,)`; none of them empty.
            length: Maximum number of tokens to add, scalar int32.
            num_beams: Number of beams, a Python `int`.
            length_penalty: As for `generate`, scalar float32.

        Returns:
            Strings `(batch,)`: each prompt with its continuation.
        """
        positive = tf.debugging.assert_positive(length, "length: expected a positive integer")
        tokens, sizes = self._read_strings(prompts, [positive])
        if self.context is not None:
            fits = tf.debugging.assert_less_equal(
                tf.shape(tokens)[1] + length,
                self.context,
                f"length: prompt and continuation have more than {self.context} tokens",
            )
            with tf.control_dependencies([fits] if fits is not None else []):
                length = tf.identity(length)
        beams, _ = self.search_tokens(
            tokens, sizes, length, num_beams, length_penalty, self._stop_ids(())
        )
        return tf.strings.join([prompts, self.tokenizer.decode_strings(beams[:, 0])])

    def _read_prompt(self, prompt):
        """Convert the prompts of `generate` to padded token ids.

        Returns:
            `(prompts, tokens, sizes)`: the strings or `None`, int32 `(batch, width)` padded with
            0, int32 `(batch,)`.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if (
            isinstance(prompts, list | tuple)
            and prompts
            and all(isinstance(text, str) for text in prompts)
        ):
            if self.tokenizer is None:
                raise ValueError(
                    f"prompt: {prompt!r} is text, but the model was made without vocabulary= or "
                    "tokenizer=; give token ids"
                )
            if "" in prompts:
                raise ValueError(f"prompt: {prompt!r} is empty, expected at least one character")
            encode = self.tokenizer.encode
            rows = [encode(text) for text in prompts]
        else:
            prompts = None
            try:
                rows = [np.asarray(row) for row in prompt]
            except TypeError:
                rows = []
            if not rows or not all(row.ndim == 1 and len(row) for row in rows):
                raise ValueError(
                    f"prompt: {str(prompt)[:60]}, expected text, or token ids (batch, length)"
                )
            for row in rows:
                # A quick test; `check_array` is slower and only needed for its error message.
                valid = row.dtype.kind in "iu" and row.min() >= 0 and row.max() < self.vocab_size
                if not valid:
                    checks.check_array("prompt", row, self._token_spec(()))
        tokens = np.zeros((len(rows), max(map(len, rows))), "int32")
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        sizes = tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(1)
        if not tokens.any(1).all():
            raise ValueError("prompt: a row contains only padding, expected at least one token")
        return prompts, tokens, sizes.astype("int32")

    def _read_strings(self, prompts, conditions):
        """`_read_prompt` in a graph, for strings: `(tokens, sizes)`."""
        ids = self.tokenizer.encode_strings(prompts)
        sizes = tf.cast(ids.row_lengths(), "int32")
        message = "prompt: expected at least one character"
        conditions = [*conditions, tf.debugging.assert_positive(sizes, message)]
        # Without the dependency, later operations may run first and fail with their own error.
        with tf.control_dependencies([check for check in conditions if check is not None]):
            sizes = tf.identity(sizes)
            tokens = tf.identity(ids.to_tensor())
        return tokens, sizes

    def _stop_ids(self, stop):
        """The ids of tokens that end a sequence, a list; with that of the end of a document."""
        end = None if self.tokenizer is None else self.tokenizer.END
        ids = [] if end is None else [end]
        for token in [stop] if isinstance(stop, int | np.integer) else stop:
            if isinstance(token, str):
                token = self._stop_id(token)
            if not self.num_reserved_ids <= token < self.vocab_size:
                raise ValueError(
                    f"stop: {token!r}, expected a token id from {self.num_reserved_ids} to "
                    f"{self.vocab_size - 1}"
                )
            ids.append(int(token))
        return ids

    def _stop_id(self, text):
        tokenizer = self.tokenizer
        unit = "token" if tokenizer is None else tokenizer.UNIT
        if tokenizer is None or tokenizer.unknown(text) or len(tokenizer.encode(text)) != 1:
            raise ValueError(f"stop: {text!r}, expected a {unit} of the model's vocabulary")
        return int(tokenizer.encode(text)[0])

    def _check_room(self, needed):
        if self.context is not None and needed > self.context:
            raise ValueError(
                f"length: prompt and continuation have {needed} tokens, expected at most "
                f"{self.context}, the model's context window, with num_beams"
            )

    def get_config(self):
        own = {} if self._tokenizer is None else {"tokenizer": self._tokenizer.get_config()}
        return super().get_config() | own

    def _token_spec(self, shape):
        hint = f"Tokens are ids below {self.vocab_size}."
        return checks.Spec("int", shape, 0, self.vocab_size - 1, hint)

    def data_specs(self):
        tokens = self._token_spec((None,))
        return tokens, tokens if self._sparse_loss() else checks.Spec()


def _padded_stop_ids(ids):
    """Stop ids padded with -1 to a common size, so that their number causes no retracing."""
    width = max(1, math.ceil(len(ids) / _STOPS)) * _STOPS
    return tf.constant(ids + [-1] * (width - len(ids)), "int32")


def _repeats(rows):
    """For each row, the number of identical rows before it, a list."""
    counts = collections.Counter()
    repeats = []
    for row in rows:
        repeats.append(counts[row.tobytes()])
        counts[row.tobytes()] += 1
    return repeats


def _check(length, temperature, seed, top_k, top_p, num_beams, length_penalty):
    """Raise a `ValueError` for invalid arguments of `generate`."""
    for name, value in (("length", length), ("top_k", top_k), ("num_beams", num_beams)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: {value!r}, expected a positive integer")
    if not temperature >= 0:
        raise ValueError(f"temperature: {temperature!r}, expected zero or more")
    if not -(2**31) <= seed < 2**31:
        raise ValueError(f"seed: {seed!r}, expected a 32-bit integer")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: {top_p!r}, expected a number above 0, at most 1")
    for name, value in (("top_k", top_k), ("top_p", top_p)):
        if num_beams is not None and value is not None:
            raise ValueError(f"{name}: {value!r}, expected None: num_beams does not sample")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty: {length_penalty!r}, expected a finite number")
    if length_penalty and num_beams is None:
        raise ValueError(f"length_penalty: {length_penalty!r}, expected 0 without num_beams")
