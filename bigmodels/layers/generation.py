"""Text generation with language models by sampling and beam search, in one graph.

A model provides two methods. `prefill(tokens, sizes, capacity)` processes prompts in one pass and
returns the logits of each next token and a cache. `decode_step()` returns a function `step(token,
slot, positions, cache)` that processes one more token of each sequence. A cache is any structure of
tensors whose first axis is the batch.

With XLA (on a GPU the launch of a kernel costs as much as its work) all shapes are static: tokens
and cache are allocated for the maximum length.
"""

import functools
import math
import operator
import types
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.accelerator import NOT_COMPILED, why_not_compiled
from bigmodels.distribute.upstream import is_op_determinism_enabled

# Minimum length for which `jit_compile="auto"` uses XLA on a GPU.
_LONG = 256

# The score of beams that do not count.
_NEVER = -1e9


class compiled:
    """Decorate a model's method as a `tf.function` that is retraced when the weights change.

    LoRA and quantisation add and replace weights; an earlier trace would use the old ones.

    Args:
        method: The method.
        jit_compile: Whether XLA compiles it, once for each set of shapes.

    Example:

    >>> class Doubler(keras.Model):
    ...     @compiled
    ...     def double(self, x):
    ...         return 2 * x
    >>> Doubler().double(tf.constant(3)).numpy()
    np.int32(6)
    """

    def __init__(self, method: Callable, jit_compile: bool = False):
        self.method, self.jit_compile = method, jit_compile
        functools.update_wrapper(self, method)

    def __get__(self, model, owner=None):
        if model is None:
            return self
        weights = model.weights
        name = f"_compiled_{self.method.__name__}_{'by_xla' if self.jit_compile else 'as_graph'}"
        saved = vars(model).get(name)
        if saved is None or not (
            len(saved.weights) == len(weights) and all(map(operator.is_, saved.weights, weights))
        ):
            function = tf.function(
                functools.partial(self.method, model),
                reduce_retracing=not self.jit_compile,
                jit_compile=self.jit_compile,
            )
            # Not a list or tuple: Keras would track its variables as weights of the model.
            saved = vars(model)[name] = types.SimpleNamespace(weights=weights, function=function)
        return saved.function


def continue_tokens(
    model: Any,
    tokens: tf.Tensor,
    sizes: tf.Tensor,
    counts: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor,
    top_k: tf.Tensor | None = None,
    top_p: tf.Tensor | None = None,
    stop_ids: Any = (),
) -> tf.Tensor:
    """Generate continuations by sampling.

    When the model's context window is full, generation continues from the last half of its tokens,
    which is processed again.

    Args:
        model: Has `prefill`, `decode_step`, `context` (length of the context window in tokens, or
            `None`) and `num_reserved_ids` (number of leading ids that are never generated).
        tokens: Prompts, int32 `(batch, width)`, right-padded with 0.
        sizes: Length of each prompt, int32 `(batch,)`, at least 1.
        counts: Maximum number of tokens to add to each prompt, int32 `(batch,)`.
        uniform: Random numbers in [0, 1), float32 `(length, batch)`, one for each token.
        temperature: Temperature of each prompt, float32 `(batch,)`: 0 takes the most likely token,
            1 samples the model's own distribution, infinity samples uniformly.
        top_k: Number of most likely tokens to sample from, int32 `(batch,)`, 0 for all; or `None`.
        top_p: Sample from the smallest set of most likely tokens whose probabilities add up to at
            least this, float32 `(batch,)`; or `None`.
        stop_ids: Token ids that end a sequence, a tuple or int32 `(n,)`; -1 is ignored.

    Returns:
        int32 `(batch, length)`, padded with 0 after the end of a sequence.
    """
    width = _size(tokens, 1)
    length, batch = _size(uniform, 0), _size(uniform, 1)
    step = model.decode_step()
    context = width + length if model.context is None else model.context
    if fixed := kernels.in_xla():
        # The static width of a window: the prompt if all fits in, else the whole context.
        most = width if width + length <= context else context

    def choose(logits, t, ended, drawn):
        token = draw(logits, uniform[t], temperature, top_k, top_p, model.num_reserved_ids)
        token = tf.where(ended, 0, token)
        ended |= (t + 1 >= counts) | _is_any(token, stop_ids)
        return token, ended, tf.tensor_scatter_nd_update(drawn, [[t]], [token])

    def more(t, ended):
        return (t < length) & ~tf.reduce_all(ended)

    def one_window(t, begun, ended, drawn):
        total = sizes + t
        # Each row has its own window, so that its result does not depend on the rest of the batch.
        half = tf.maximum(context // 2, 1)
        begun = tf.where(total - begun > context, total - half, begun)
        begun = tf.where(t == 0, tf.maximum(total - context, 0), begun)
        begun = tf.where(ended, total - 1, begun)
        read_sizes = total - begun
        longest = tf.reduce_max(read_sizes)
        keep = most if fixed else longest
        read = _window(tokens, sizes, drawn, begun, total, keep)
        # Number of tokens until the window is full, and the size of the cache.
        room = tf.minimum(length - t, context - longest)
        capacity = keep + (min(length, context) if fixed else room)
        logits, cache = model.prefill(read, read_sizes, capacity)
        token, ended, drawn = choose(logits, t, ended, drawn)

        def one_token(t, slot, token, ended, drawn, cache):
            logits, cache = step(token, slot, read_sizes + slot - keep, cache)
            token, ended, drawn = choose(logits, t, ended, drawn)
            return t + 1, slot + 1, token, ended, drawn, cache

        # No parallel iterations, as the caches are updated in place.
        t, _, _, ended, drawn, _ = tf.while_loop(
            lambda t, slot, token, ended, *_: more(t, ended) & (slot < keep + room),
            one_token,
            (t + 1, keep, token, ended, drawn, cache),
            parallel_iterations=1,
        )
        return t, begun, ended, drawn

    state = tf.constant(0), tf.zeros_like(sizes), counts < 1, tf.zeros((length, batch), "int32")
    _, _, _, drawn = tf.while_loop(
        lambda t, begun, ended, _: more(t, ended), one_window, state, parallel_iterations=1
    )
    return tf.transpose(drawn)  # (batch, length)


def beam_search(
    model: Any,
    tokens: tf.Tensor,
    sizes: tf.Tensor,
    length: tf.Tensor,
    num_beams: int,
    length_penalty: Any = 0.0,
    stop_ids: Any = (),
    most: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Generate the most likely continuations by beam search.

    The score of a continuation of `n` tokens is the sum of its log-probabilities, divided by
    `((5 + n) / 6) ** length_penalty` (Wu et al., 2016, section 7).

    Args:
        model: As for `continue_tokens`; prompts and `length` must fit into its context window.
        tokens: As for `continue_tokens`.
        sizes: As for `continue_tokens`.
        length: Maximum number of tokens to add, scalar int32.
        num_beams: Number of beams, a Python `int`.
        length_penalty: 0 ranks by the sum, 1 roughly by the mean; a number or scalar float32.
        stop_ids: As for `continue_tokens`; they count as part of the sequence.
        most: Size of the result in tokens, a Python `int`, at least `length`; required by XLA.

    Returns:
        `(tokens, scores)`: int32 `(batch, num_beams, length or most)` in descending order of the
        score, padded with 0, and float32 `(batch, num_beams)`. Scores below -1e8 mean that there
        are fewer continuations than beams.
    """
    batch, width = _size(tokens, 0), _size(tokens, 1)
    most = length if most is None else most
    logits, cache = model.prefill(tokens, sizes, width + most)
    step = model.decode_step()
    vocab_size = _size(logits, -1)
    # Enough candidates that `num_beams` remain after those that end.
    stop_ids = tf.convert_to_tensor(stop_ids, "int32")
    if kernels.in_xla():
        stops = stop_ids.shape[0]
    else:
        stops = tf.reduce_sum(tf.cast(stop_ids >= 0, "int32"))
    wanted = num_beams * (1 + stops)

    def rows(beams):
        """Row numbers, in the flattened batch of all beams, of beams `(batch, num_beams)`."""
        return tf.reshape(tf.range(batch)[:, None] * num_beams + beams, [-1])

    def rated(scores, n):
        rating = scores / ((5.0 + tf.cast(n, "float32")) / 6.0) ** length_penalty
        return tf.where(scores > _NEVER / 2, rating, _NEVER)

    def best(ratings, *others):
        ratings, places = tf.math.top_k(ratings, num_beams)
        return ratings, *(tf.gather(other, places, batch_dims=1) for other in others)

    def extend(logits, t, scores, sequences, ended_ratings, ended_sequences):
        """Select the best candidates by logits `(batch * num_beams, vocab_size)`."""
        log_p = tf.nn.log_softmax(_allowed(tf.cast(logits, "float32"), model.num_reserved_ids))
        total = scores[:, :, None] + tf.reshape(log_p, (batch, num_beams, vocab_size))
        total = tf.reshape(total, (batch, num_beams * vocab_size))
        least = min if kernels.in_xla() else tf.minimum
        total, places = tf.math.top_k(total, least(wanted, num_beams * vocab_size))
        beams, token = places // vocab_size, places % vocab_size
        candidates = tf.gather(sequences, beams, batch_dims=1)
        here = tf.range(most) == t
        candidates = tf.where(here, token[:, :, None], candidates)  # (batch, wanted, length)
        ends = _is_any(token, stop_ids)
        ended_ratings, ended_sequences = best(
            tf.concat([ended_ratings, tf.where(ends, rated(total, t + 1), _NEVER)], 1),
            tf.concat([ended_sequences, candidates], 1),
        )
        scores, token, beams, sequences = best(
            tf.where(ends, _NEVER, total), token, beams, candidates
        )
        return token, beams, scores, sequences, ended_ratings, ended_sequences

    # All beams start out identical, so only the first one gets a valid score.
    logits, cache = (
        tf.nest.map_structure(lambda x: tf.repeat(x, num_beams, axis=0), part)
        for part in (logits, cache)
    )
    scores = tf.where(tf.range(num_beams) == 0, 0.0, tf.fill((batch, num_beams), _NEVER))
    sequences = tf.zeros((batch, num_beams, most), "int32")
    ended = tf.fill((batch, num_beams), _NEVER), sequences
    first = extend(logits, 0, scores, sequences, *ended)

    def one_step(t, cache, token, beams, scores, sequences, *ended):
        cache = tf.nest.map_structure(lambda x: tf.gather(x, rows(beams)), cache)
        slot = width + t - 1
        positions = tf.repeat(sizes, num_beams) + t - 1
        logits, cache = step(tf.reshape(token, [-1]), slot, positions, cache)
        return t + 1, cache, *extend(logits, t, scores, sequences, *ended)

    def is_running(t, cache, token, beams, scores, sequences, ended_ratings, _):
        # An upper bound on future scores: sums of log-probabilities only decrease, and the length
        # penalty is largest for the longest sequence.
        hope = rated(scores[:, 0], tf.where(length_penalty > 0, length, t))
        return (t < length) & tf.reduce_any(hope > ended_ratings[:, -1])

    state = (tf.constant(1), cache, *first)
    t, _, _, _, scores, sequences, ended_ratings, ended_sequences = tf.while_loop(
        is_running,
        one_step,
        state,
        # `tf.gather` loses the static number of rows.
        shape_invariants=tf.nest.map_structure(
            lambda x: tf.TensorShape([None, *x.shape[1:]]) if x.shape.rank else x.shape, state
        ),
        parallel_iterations=1,
    )
    # If the search stopped early, unfinished beams do not count.
    ratings = tf.where(t < length, _NEVER, rated(scores, length))
    ratings, sequences = best(
        tf.concat([ended_ratings, ratings], 1), tf.concat([ended_sequences, sequences], 1)
    )
    return sequences, ratings


def draw(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor,
    top_k: tf.Tensor | None = None,
    top_p: tf.Tensor | None = None,
    forbidden: int = 1,
) -> tf.Tensor:
    """Sample one token per row.

    Args:
        logits: `(batch, vocab_size)`.
        uniform: A random number in [0, 1) for each row, float32 `(batch,)`.
        temperature: As for `continue_tokens`.
        top_k: As for `continue_tokens`.
        top_p: As for `continue_tokens`.
        forbidden: Number of leading ids that are never sampled.

    Returns:
        int32 `(batch,)`.

    Example:

    >>> logits = tf.constant([[9.0, 1.0, 2.0]])  # id 0 is padding
    >>> draw(logits, tf.constant([0.5]), tf.constant([0.0])).numpy()
    array([2], dtype=int32)
    """
    logits = _allowed(tf.cast(logits, "float32"), forbidden)
    # Clipped to avoid NaN at zero, where the result is not used, and at infinity.
    p = tf.nn.softmax(logits / tf.clip_by_value(temperature, 1e-6, 1e30)[:, None])
    if top_k is not None or top_p is not None:
        p = tf.where(_likeliest(p, top_k, top_p), p, 0.0)
    # Inverse transform sampling: the first token whose cumulative probability exceeds the number.
    cumulative = tf.cumsum(p, axis=-1)
    exceeds = cumulative > uniform[:, None] * cumulative[:, -1:]
    drawn = tf.argmax(exceeds, -1, output_type=tf.int32)
    return tf.where(temperature > 0, drawn, tf.argmax(logits, -1, output_type=tf.int32))


def _likeliest(p, top_k, top_p):
    """The tokens to sample from, bool `(batch, vocab_size)`; ties go to the lowest ids."""
    descending = tf.sort(p, -1, "DESCENDING")
    count = tf.fill(tf.shape(p)[:1], tf.shape(p)[-1])
    if top_k is not None:
        count = tf.where(top_k > 0, tf.minimum(top_k, count), count)
    if top_p is not None:
        # Relative to the sum of the first `top_k` probabilities.
        among = tf.where(tf.range(tf.shape(p)[-1]) < count[:, None], descending, 0.0)
        before = tf.cumsum(among, axis=-1, exclusive=True)
        enough = top_p[:, None] * tf.reduce_sum(among, -1, keepdims=True)
        needed = tf.reduce_sum(tf.cast(before < enough, "int32"), -1)
        count = tf.minimum(count, tf.maximum(needed, 1))
    least = tf.gather(descending, count - 1, batch_dims=1)[:, None]
    more, equal = p > least, p == least
    room = count - tf.reduce_sum(tf.cast(more, "int32"), -1)
    return more | (equal & (tf.cumsum(tf.cast(equal, "int32"), -1) <= room[:, None]))


def _allowed(logits, forbidden):
    return tf.where(tf.range(tf.shape(logits)[-1]) >= forbidden, logits, -math.inf)


def is_by_xla(jit_compile: bool | str, length: int) -> bool:
    """Whether XLA compiles the decoding loop.

    Args:
        jit_compile: `True`, `False`, or `"auto"`: on a GPU, where the launch of a kernel costs as
            much as its work, for texts that are long enough to make up for the compilation. Not
            after `bigmodels.distribute.deterministic`.
        length: Maximum number of tokens to generate.

    Returns:
        Whether to use XLA.

    Raises:
        ValueError: if `jit_compile` is something else.

    Example:

    >>> is_by_xla(True, 10), is_by_xla("auto", 10)
    (True, False)
    """
    if jit_compile not in (True, False, "auto"):
        raise ValueError(f"jit_compile: {jit_compile!r}, expected True, False or 'auto'")
    if jit_compile == "auto":
        return kernels.has_gpu() and not is_op_determinism_enabled() and length >= _LONG
    return jit_compile


def by_xla_or_not(jit_compile: bool | str, length: int, write: Callable[[bool], Any]) -> Any:
    """Generate with XLA if `is_by_xla`; with `"auto"`, fall back if XLA cannot compile it.

    Args:
        jit_compile: As for `is_by_xla`.
        length: As for `is_by_xla`.
        write: The function that generates; its argument is whether to use XLA.

    Returns:
        The result of `write`.

    Example:

    >>> by_xla_or_not(False, 10, lambda by_xla: f"XLA: {by_xla}")
    'XLA: False'
    """
    by_xla = is_by_xla(jit_compile, length)
    try:
        return write(by_xla)
    except NOT_COMPILED as error:
        if not by_xla or jit_compile != "auto":
            raise
        warnings.warn(
            "jit_compile: auto, but XLA cannot compile this generation, which runs without it: "
            f"{why_not_compiled(error)}",
            stacklevel=3,
        )
        return write(False)


def roomy(size: int) -> int:
    """Round a size up to a power of two, so that few sizes are compiled.

    Args:
        size: A positive `int`.

    Returns:
        The next power of two, at least 32.

    Example:

    >>> roomy(33)
    64
    """
    return max(32, 1 << (size - 1).bit_length())


def _size(value, axis):
    """A tensor's size along an axis; in XLA an `int`, for static shapes."""
    return value.shape[axis] if kernels.in_xla() else tf.shape(value)[axis]


def _is_any(tokens, ids):
    return tf.reduce_any(tokens[..., None] == tf.convert_to_tensor(ids, "int32"), -1)


def _window(tokens, sizes, drawn, begun, total, width):
    """The tokens of each row from `begun` to `total`, counted over prompt and drawn ones.

    Returns:
        int32 `(batch, width)`, right-padded with 0.
    """
    everything = tf.concat([tokens, tf.transpose(drawn)], 1)
    places = begun[:, None] + tf.range(width)  # (batch, width)
    drawn_places = tf.shape(tokens)[1] + places - sizes[:, None]
    columns = tf.where(places < sizes[:, None], places, drawn_places)
    inside = places < total[:, None]
    window = tf.gather(everything, tf.where(inside, columns, 0), batch_dims=1)
    return tf.where(inside, window, 0)
