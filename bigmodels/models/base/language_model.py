"""What the models share that give the next token's logits: to continue a prompt."""

import collections
import functools
import math

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import generation
from bigmodels.tokenizers.characters import Vocabulary

_STOPS = 32


class LanguageModel(Model):
    """Logits of the next token at every position, and text that follows from them.

    A subclass has `vocab_size`, `vocabulary` (characters behind ids 2, 3, ..., or `None`), and says
    how it reads: `prefill` and `decode_step`, see `bigmodels.layers.generation`.
    """

    gives_logits = True
    default_input_shape = (None, None)
    # The most tokens it can look at; `None` where there is no such limit.
    context = None

    @property
    def num_reserved_ids(self):
        """How many of the first ids are not drawn: padding, and the unknown character."""
        return 1 if self.vocabulary is None else 2

    def prefill(self, tokens, sizes, capacity):
        """Read prompts.

        Args:
            tokens: int32 `(batch, width)`, padded with 0 at their ends.
            sizes: Length of each, int32 `(batch,)`.
            capacity: How many tokens there will be at most, `width` included.

        Returns:
            `(logits, cache)`: of the token that follows each, `(batch, vocab_size)`.
        """
        raise NotImplementedError

    def decode_step(self):
        """How it reads one more token of each, with weights prepared for it once.

        Returns:
            A function `step(token, slot, positions, cache)` to `(logits, cache)`: `token` is int32
            `(batch,)`, `slot` how many columns were read before, scalar int32, `positions` how
            many tokens of its sequence each comes after, int32 `(batch,)`, and `cache` is from
            `prefill` or the last step; it may be overwritten.
        """
        raise NotImplementedError

    def predict_proba(self, x, **kwargs):
        """Probabilities of the next token at every position; arguments as for `predict`."""
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def generate(
        self,
        prompt,
        length=200,
        temperature=1.0,
        seed=0,
        *,
        top_k=None,
        top_p=None,
        stop=(),
        num_beams=None,
        length_penalty=0.0,
        jit_compile="auto",
    ):
        """Continue a prompt, or several of any lengths; each token at the same cost.

        Args:
            prompt: A string or a list of strings, if the model has a vocabulary; or token ids,
                `(batch, length)`, or a list of lists of them. A 0 at the end of a row is padding.
            length: Number of tokens to add, at most.
            temperature: 0 takes the most likely token, 1 samples the model's own distribution,
                infinity draws all tokens alike.
            seed: Integer of 32 bits; the same seed gives the same text, whatever other prompts
                there are. When a prompt comes again in a list, another text follows it.
            top_k: Draw from so many of the likeliest tokens alone.
            top_p: Draw from the fewest of the likeliest tokens that have this share together.
            stop: A string or a token id, or several, any of which ends a sequence; it is part of
                the result. Strings are of one character.
            num_beams: Search for the likeliest continuation, following so many at the same time,
                in place of drawing.
            length_penalty: Of the search: 0 rates by the sum of the log-probabilities, 1 nearly by
                their mean, see `bigmodels.layers.generation.beam_search`.
            jit_compile: Whether XLA compiles the whole writing to one program: the first text of a
                size then takes seconds longer, every other one is written faster. `"auto"` does so
                on a GPU, from 256 tokens on.

        Returns:
            Prompt and continuation: a string for a string and a list for a list; for an array
            int32 `(batch, prompt + length)`, with 0 where a sequence has ended.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        prompts, tokens, sizes = self._read_prompt(prompt)
        stop_ids = self._stop_ids(stop)
        _check(length, temperature, seed, top_k, top_p, num_beams, length_penalty)
        if not self.built:
            self.build(self.default_input_shape)
        if num_beams is None:
            drawn = tokens, sizes, length, temperature, seed, top_k, top_p, stop_ids
            write = functools.partial(self._continued, *drawn)
        else:
            self._check_room(tokens.shape[1] + length)
            searched = tokens, sizes, length, num_beams, length_penalty, stop_ids
            write = functools.partial(self._searched, *searched)
        new = generation.by_xla_or_not(jit_compile, length, write)
        new = ops.convert_to_numpy(new)
        if prompts is None:
            rows = np.pad(tokens, [(0, 0), (0, length)])
            for row, size, more in zip(rows, sizes, new, strict=True):
                row[size : size + length] = more
            return rows
        decode = Vocabulary(self.vocabulary).decode
        texts = [text + decode(more) for text, more in zip(prompts, new, strict=True)]
        return texts[0] if isinstance(prompt, str) else texts

    def _continued(self, tokens, sizes, length, temperature, seed, top_k, top_p, stop_ids, by_xla):
        """What `generate` draws, `(batch, length)`."""
        batch = len(tokens)
        repeats = _repeats(tokens)
        uniform = [
            tf.random.stateless_uniform((length,), (seed, i)) for i in range(max(repeats) + 1)
        ]
        uniform = tf.gather(tf.stack(uniform, axis=1), repeats, axis=1)
        write = self.continue_tokens
        if by_xla:
            write = self.continue_tokens_by_xla
            tokens, room = self._roomy(tokens, length)
            uniform = tf.pad(uniform, [[0, room - length], [0, 0]])

        def each(value, dtype):
            return None if value is None else tf.fill([batch], tf.constant(value, dtype))

        new = write(
            tokens,
            sizes,
            each(length, "int32"),
            uniform,
            each(temperature, "float32"),
            each(top_k, "int32"),
            each(top_p, "float32"),
            _filled(stop_ids),
        )
        return new[:, :length]

    def _searched(self, tokens, sizes, length, num_beams, length_penalty, stop_ids, by_xla):
        """What `generate` finds with `num_beams`, `(batch, length)`."""
        penalty = tf.constant(length_penalty, "float32")
        if not by_xla:
            stop_ids = _filled(stop_ids)
            found, _ = self.search_tokens(
                tokens, sizes, tf.constant(length), num_beams, penalty, stop_ids
            )
            return found[:, 0]
        tokens, room = self._roomy(tokens, length)
        stop_ids = tf.constant(stop_ids, "int32")
        found, _ = self.search_tokens_by_xla(
            tokens, sizes, tf.constant(length), num_beams, penalty, stop_ids, room
        )
        return found[:, 0, :length]

    def _roomy(self, tokens, length):
        """Prompts and a length, both rounded up as far as the context has room for it."""
        given = tokens.shape[1]
        width, room = generation.roomy(given), generation.roomy(length)
        if self.context is not None and given + length <= self.context:
            if given + room <= self.context:
                width = min(width, self.context - room)
            elif width + length <= self.context:
                room = self.context - width
            else:
                width, room = given, length
        return np.pad(tokens, [(0, 0), (0, width - given)]), room

    @generation.compiled
    def continue_tokens(
        self, tokens, sizes, counts, uniform, temperature, top_k=None, top_p=None, stop_ids=()
    ):
        """`bigmodels.layers.generation.continue_tokens`, compiled."""
        return generation.continue_tokens(
            self, tokens, sizes, counts, uniform, temperature, top_k, top_p, stop_ids
        )

    continue_tokens_by_xla = generation.compiled(continue_tokens.method, jit_compile=True)

    @generation.compiled
    def search_tokens(
        self, tokens, sizes, length, num_beams, length_penalty, stop_ids=(), most=None
    ):
        """`bigmodels.layers.generation.beam_search`, compiled."""
        return generation.beam_search(
            self, tokens, sizes, length, num_beams, length_penalty, stop_ids, most
        )

    search_tokens_by_xla = generation.compiled(search_tokens.method, jit_compile=True)

    def continue_strings(self, prompts, lengths, temperatures, seeds, top_k=None, top_p=None):
        """`generate` as a graph, for many prompts that know nothing of each other.

        Args:
            prompts: UTF-8 strings, `(batch,)`; none of them empty.
            lengths: Number of characters to add to each, int32 `(batch,)`.
            temperatures: Of each, float32 `(batch,)`.
            seeds: Of each, int32 `(batch,)`.
            top_k: Of each, int32 `(batch,)`, 0 for all; or `None`.
            top_p: Of each, float32 `(batch,)`, 1 for all; or `None`.

        Returns:
            Strings `(batch,)`: each prompt and its continuation, as `generate` gives it.

        Raises:
            tf.errors.InvalidArgumentError: naming the argument that does not fit.
        """
        tokens, sizes, letters = self._read_strings(
            prompts,
            [
                tf.debugging.assert_positive(lengths, "length: expected a positive integer"),
                tf.debugging.assert_non_negative(
                    temperatures, "temperature: expected zero or more"
                ),
            ],
        )
        longest = tf.reduce_max(lengths)

        def numbers(seed):
            return tf.random.stateless_uniform((longest,), tf.stack([seed, 0]))

        uniform = tf.map_fn(numbers, seeds, fn_output_signature="float32")
        new = self.continue_tokens(
            tokens, sizes, lengths, tf.transpose(uniform), temperatures, top_k, top_p
        )
        return tf.strings.join([prompts, tf.strings.reduce_join(tf.gather(letters, new), -1)])

    def search_strings(self, prompts, length, num_beams, length_penalty):
        """`generate` with `num_beams` as a graph.

        Args:
            prompts: UTF-8 strings, `(batch,)`; none of them empty.
            length: Number of characters to add, int32 scalar.
            num_beams: An `int`.
            length_penalty: float32 scalar.

        Returns:
            Strings `(batch,)`.
        """
        positive = tf.debugging.assert_positive(length, "length: expected a positive integer")
        tokens, sizes, letters = self._read_strings(prompts, [positive])
        if self.context is not None:
            fits = tf.debugging.assert_less_equal(
                tf.shape(tokens)[1] + length,
                self.context,
                f"length: prompt and continuation have more than {self.context} tokens",
            )
            with tf.control_dependencies([fits] if fits is not None else []):
                length = tf.identity(length)
        found, _ = self.search_tokens(tokens, sizes, length, num_beams, length_penalty)
        new = tf.strings.reduce_join(tf.gather(letters, found[:, 0]), -1)
        return tf.strings.join([prompts, new])

    def _read_prompt(self, prompt):
        """A prompt as `generate` takes it.

        Returns:
            `(prompts, tokens, sizes)`: the strings or `None`, int32 `(batch, width)` padded with
            0, int32 `(batch,)`.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if (
            isinstance(prompts, list | tuple)
            and prompts
            and all(isinstance(each, str) for each in prompts)
        ):
            if self.vocabulary is None:
                raise ValueError(
                    f"prompt: {prompt!r} is text, but the model was made without vocabulary=; "
                    "give token ids"
                )
            if "" in prompts:
                raise ValueError(f"prompt: {prompt!r} is empty, expected at least one character")
            rows = [Vocabulary(self.vocabulary).encode(text) for text in prompts]
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
                # Of many rows, whose check takes longer than this look, all are good.
                inside = row.dtype.kind in "iu" and row.min() >= 0 and row.max() < self.vocab_size
                if not inside:
                    checks.check_array("prompt", row, self._token_spec(()))
        tokens = np.zeros((len(rows), max(map(len, rows))), "int32")
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        sizes = tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(1)
        if not tokens.any(1).all():
            raise ValueError("prompt: a row holds nothing but padding, expected at least one token")
        return prompts, tokens, sizes.astype("int32")

    def _read_strings(self, prompts, conditions):
        """The same in a graph, for strings; with the character of every id."""
        vocabulary = Vocabulary(self.vocabulary)
        code_points = np.array([ord(character) for character in vocabulary.characters], "int32")
        # One place more, for whatever lies beyond.
        ids = np.full(code_points.max() + 2, Vocabulary.UNKNOWN, "int32")
        ids[code_points] = vocabulary.encode(vocabulary.characters)
        characters = tf.strings.unicode_decode(prompts, "UTF-8")
        sizes = tf.cast(characters.row_lengths(), "int32")
        message = "prompt: expected at least one character"
        conditions = [*conditions, tf.debugging.assert_positive(sizes, message)]
        # In a graph, else, what comes after may run before, and fail with an error of its own.
        with tf.control_dependencies([each for each in conditions if each is not None]):
            sizes = tf.identity(sizes)
        tokens = tf.gather(ids, tf.minimum(characters.to_tensor(), len(ids) - 1))
        inside = tf.sequence_mask(sizes, tf.shape(tokens)[1])
        letters = tf.constant([vocabulary.decode([i]) for i in range(len(vocabulary))])
        return tf.where(inside, tokens, 0), sizes, letters

    def _stop_ids(self, stop):
        """The ids of tokens that end a sequence, a list."""
        ids = []
        for each in [stop] if isinstance(stop, int | np.integer) else stop:
            if isinstance(each, str):
                if len(each) != 1 or each not in (self.vocabulary or ""):
                    raise ValueError(f"stop: {each!r} is no character of the model's vocabulary")
                (each,) = Vocabulary(self.vocabulary).encode(each)
            if not self.num_reserved_ids <= each < self.vocab_size:
                raise ValueError(f"stop: {each!r} is no token that the model could draw")
            ids.append(int(each))
        return ids

    def _check_room(self, needed):
        if self.context is not None and needed > self.context:
            raise ValueError(
                f"length: prompt and continuation have {needed} tokens, but a search goes no "
                f"further than the {self.context} that the model can look at"
            )

    def _token_spec(self, shape):
        hint = f"Tokens are ids below {self.vocab_size}."
        return checks.Spec("int", shape, 0, self.vocab_size - 1, hint)

    def data_specs(self):
        tokens = self._token_spec((None,))
        return tokens, tokens if self._sparse_loss() else checks.Spec()


def _filled(ids):
    """Ids as `generation` takes them, filled up with -1: no number of them is traced anew."""
    width = max(1, math.ceil(len(ids) / _STOPS)) * _STOPS
    return tf.constant(ids + [-1] * (width - len(ids)), "int32")


def _repeats(rows):
    """For each row how many before it are the same, a list."""
    counts = collections.Counter()
    found = []
    for row in rows:
        found.append(counts[row.tobytes()])
        counts[row.tobytes()] += 1
    return found


def _check(length, temperature, seed, top_k, top_p, num_beams, length_penalty):
    """Refuse what `generate` cannot take."""
    for name, value in (("length", length), ("top_k", top_k), ("num_beams", num_beams)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: {value!r}, expected a positive integer")
    if not temperature >= 0:
        raise ValueError(f"temperature: {temperature!r}, expected zero or more")
    if not -(2**31) <= seed < 2**31:
        raise ValueError(f"seed: {seed!r}, expected an integer of 32 bits")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: {top_p!r}, expected a share above 0, at most 1")
    for name, value in (("top_k", top_k), ("top_p", top_p)):
        if num_beams is not None and value is not None:
            raise ValueError(f"{name}: {value!r}, but a search with num_beams draws nothing")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty: {length_penalty!r}, expected a finite number")
    if length_penalty and num_beams is None:
        raise ValueError(f"length_penalty: {length_penalty!r}, but without num_beams none is rated")
