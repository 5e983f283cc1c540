"""How a language model goes on: one token after the other, drawn or searched for, in one graph.

A model is asked for two things. `prefill(tokens, sizes, capacity)` reads prompts in one pass, and
gives the logits of what follows each and a cache of what it has read. `decode_step()` gives a
function `step(token, slot, positions, cache)` that reads one more token of each, at a
cost that does not depend on how many there were. A cache is any structure of tensors whose first
axis is the batch.

Compiled by XLA (on a GPU one launch of a kernel costs as much as its work) every shape is fixed:
the tokens that are read and the cache have room for as many as there may be.
"""

import functools
import math
import operator
import types
import warnings

import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.accelerator import NOT_COMPILED, why_not_compiled
from bigmodels.distribute.upstream import is_op_determinism_enabled

# Tokens from which on `auto` has XLA compile a text for a GPU.
_LONG = 256

# The rating of what does not count.
_NEVER = -1e9


class compiled:
    """A model's method as a `tf.function`, made anew when the model's weights are other ones.

    LoRA and quantisation add and replace weights; what was traced before knows the old ones.

    Args:
        method: The method.
        jit_compile: Whether XLA compiles it, once for each set of shapes.
    """

    def __init__(self, method, jit_compile=False):
        self.method, self.jit_compile = method, jit_compile
        functools.update_wrapper(self, method)

    def __get__(self, model, owner=None):
        if model is None:
            return self
        weights = model.weights
        kept = f"_compiled_{self.method.__name__}_{'by_xla' if self.jit_compile else 'as_graph'}"
        known = vars(model).get(kept)
        if known is None or not (
            len(known.weights) == len(weights) and all(map(operator.is_, known.weights, weights))
        ):
            function = tf.function(
                functools.partial(self.method, model),
                reduce_retracing=not self.jit_compile,
                jit_compile=self.jit_compile,
            )
            # No list or tuple, whose variables would be taken for an attribute of the model.
            known = vars(model)[kept] = types.SimpleNamespace(weights=weights, function=function)
        return known.function


def continue_tokens(
    model, tokens, sizes, counts, uniform, temperature, top_k=None, top_p=None, stop_ids=()
):
    """Draw what follows.

    When as many tokens were read as a model's `context` holds, it goes on from the last half of
    them, which is read anew.

    Args:
        model: Has `prefill`, `decode_step`, `context` (the most tokens it can look at, or `None`)
            and `num_reserved_ids` (how many of the first ids are never drawn: padding, unknown).
        tokens: Prompts, int32 `(batch, width)`, padded with 0 at their ends.
        sizes: Length of each, int32 `(batch,)`, one at least.
        counts: How many tokens follow each at most, int32 `(batch,)`.
        uniform: Numbers from [0, 1) that decide the draws, `(length, batch)`.
        temperature: Of each, float32 `(batch,)`: 0 takes the most likely token, 1 samples the
            model's own distribution, infinity draws all tokens alike.
        top_k: How many of the most likely tokens are drawn from, int32 `(batch,)`, 0 for all; or
            `None`.
        top_p: The least share that the most likely tokens drawn from make up, float32 `(batch,)`;
            or `None`.
        stop_ids: Token ids that end a sequence, a tuple or int32 `(n,)`; -1 is none.

    Returns:
        int32 `(batch, length)`; after a sequence's end there is padding.
    """
    width = _size(tokens, 1)
    length, batch = _size(uniform, 0), _size(uniform, 1)
    step = model.decode_step()
    context = width + length if model.context is None else model.context
    if fixed := kernels.in_xla():
        # One window holds everything, or each is as wide as any may become.
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
        # Each row's window is its own: who else is in the batch makes no difference.
        half = tf.maximum(context // 2, 1)
        begun = tf.where(total - begun > context, total - half, begun)
        begun = tf.where(t == 0, tf.maximum(total - context, 0), begun)
        begun = tf.where(ended, total - 1, begun)
        read_sizes = total - begun
        longest = tf.reduce_max(read_sizes)
        keep = most if fixed else longest
        read = _window(tokens, sizes, drawn, begun, total, keep)
        # How many tokens can follow until the window is full, and how many the cache is made for.
        room = tf.minimum(length - t, context - longest)
        capacity = keep + (min(length, context) if fixed else room)
        logits, cache = model.prefill(read, read_sizes, capacity)
        token, ended, drawn = choose(logits, t, ended, drawn)

        def one_token(t, slot, token, ended, drawn, cache):
            logits, cache = step(token, slot, read_sizes + slot - keep, cache)
            token, ended, drawn = choose(logits, t, ended, drawn)
            return t + 1, slot + 1, token, ended, drawn, cache

        # One after the other: the caches are written in place.
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
    model, tokens, sizes, length, num_beams, length_penalty=0.0, stop_ids=(), most=None
):
    """Look for the likeliest continuations.

    A continuation of `n` tokens is rated by the sum of its log-probabilities over
    `((5 + n) / 6) ** length_penalty` (Wu et al., 2016, section 7).

    Args:
        model: As for `continue_tokens`; prompts and `length` must fit into its context.
        tokens: As for `continue_tokens`.
        sizes: As for `continue_tokens`.
        length: How many tokens follow at most, scalar int32.
        num_beams: How many are followed at the same time, an `int`.
        length_penalty: 0 rates by the sum, 1 nearly by the mean; a number or float32 scalar.
        stop_ids: As for `continue_tokens`; they count as part of the sequence.
        most: How many tokens there is room for, an `int`, at least `length`; XLA needs it.

    Returns:
        `(tokens, ratings)`: int32 `(batch, num_beams, length or most)`, the best first, padded, and
        float32 `(batch, num_beams)`. If there are fewer, the last ones have a rating below -1e8.
    """
    batch, width = _size(tokens, 0), _size(tokens, 1)
    most = length if most is None else most
    logits, cache = model.prefill(tokens, sizes, width + most)
    step = model.decode_step()
    vocab_size = _size(logits, -1)
    # What may end makes room for what goes on.
    stop_ids = tf.convert_to_tensor(stop_ids, "int32")
    if kernels.in_xla():
        stops = stop_ids.shape[0]
    else:
        stops = tf.reduce_sum(tf.cast(stop_ids >= 0, "int32"))
    wanted = num_beams * (1 + stops)

    def rows(beams):
        """Row numbers of beams `(batch, num_beams)` where all beams are rows."""
        return tf.reshape(tf.range(batch)[:, None] * num_beams + beams, [-1])

    def rated(scores, n):
        rating = scores / ((5.0 + tf.cast(n, "float32")) / 6.0) ** length_penalty
        return tf.where(scores > _NEVER / 2, rating, _NEVER)

    def best(ratings, *others):
        ratings, places = tf.math.top_k(ratings, num_beams)
        return ratings, *(tf.gather(other, places, batch_dims=1) for other in others)

    def extend(logits, t, scores, found, ended_ratings, ended_found):
        """The best candidates from logits `(batch * num_beams, vocab_size)`."""
        log_p = tf.nn.log_softmax(_allowed(tf.cast(logits, "float32"), model.num_reserved_ids))
        total = scores[:, :, None] + tf.reshape(log_p, (batch, num_beams, vocab_size))
        total = tf.reshape(total, (batch, num_beams * vocab_size))
        least = min if kernels.in_xla() else tf.minimum
        total, places = tf.math.top_k(total, least(wanted, num_beams * vocab_size))
        beams, token = places // vocab_size, places % vocab_size
        candidates = tf.gather(found, beams, batch_dims=1)
        here = tf.range(most) == t
        candidates = tf.where(here, token[:, :, None], candidates)  # (batch, wanted, length)
        ends = _is_any(token, stop_ids)
        ended_ratings, ended_found = best(
            tf.concat([ended_ratings, tf.where(ends, rated(total, t + 1), _NEVER)], 1),
            tf.concat([ended_found, candidates], 1),
        )
        scores, token, beams, found = best(tf.where(ends, _NEVER, total), token, beams, candidates)
        return token, beams, scores, found, ended_ratings, ended_found

    # All beams begin as the same one, of which the first alone counts.
    logits, cache = (
        tf.nest.map_structure(lambda x: tf.repeat(x, num_beams, axis=0), part)
        for part in (logits, cache)
    )
    scores = tf.where(tf.range(num_beams) == 0, 0.0, tf.fill((batch, num_beams), _NEVER))
    found = tf.zeros((batch, num_beams, most), "int32")
    ended = tf.fill((batch, num_beams), _NEVER), found
    first = extend(logits, 0, scores, found, *ended)

    def one_step(t, cache, token, beams, scores, found, *ended):
        cache = tf.nest.map_structure(lambda x: tf.gather(x, rows(beams)), cache)
        slot = width + t - 1
        positions = tf.repeat(sizes, num_beams) + t - 1
        logits, cache = step(tf.reshape(token, [-1]), slot, positions, cache)
        return t + 1, cache, *extend(logits, t, scores, found, *ended)

    def goes_on(t, cache, token, beams, scores, found, ended_ratings, _):
        # Log-probabilities only add up to less, and the longest sequence divides them by the most.
        hope = rated(scores[:, 0], tf.where(length_penalty > 0, length, t))
        return (t < length) & tf.reduce_any(hope > ended_ratings[:, -1])

    state = (tf.constant(1), cache, *first)
    t, _, _, _, scores, found, ended_ratings, ended_found = tf.while_loop(
        goes_on,
        one_step,
        state,
        # What is gathered is no longer known to have as many rows as before.
        shape_invariants=tf.nest.map_structure(
            lambda x: tf.TensorShape([None, *x.shape[1:]]) if x.shape.rank else x.shape, state
        ),
        parallel_iterations=1,
    )
    # What was cut short by having been beaten is not to count.
    ratings = tf.where(t < length, _NEVER, rated(scores, length))
    ratings, found = best(
        tf.concat([ended_ratings, ratings], 1), tf.concat([ended_found, found], 1)
    )
    return found, ratings


def draw(logits, uniform, temperature, top_k=None, top_p=None, forbidden=1):
    """Draw one token per row; each row by a number of its own.

    Args:
        logits: `(batch, vocab_size)`.
        uniform: Numbers from [0, 1), `(batch,)`.
        temperature: As for `continue_tokens`.
        top_k: As for `continue_tokens`.
        top_p: As for `continue_tokens`.
        forbidden: The first so many ids are never drawn.

    Returns:
        int32 `(batch,)`.
    """
    logits = _allowed(tf.cast(logits, "float32"), forbidden)
    # Dividing by zero is never looked at, but must not make NaN either; nor must infinity.
    p = tf.nn.softmax(logits / tf.clip_by_value(temperature, 1e-6, 1e30)[:, None])
    if top_k is not None or top_p is not None:
        p = tf.where(_likeliest(p, top_k, top_p), p, 0.0)
    # The first token up to which the probabilities add up to more.
    up_to = tf.cumsum(p, axis=-1)
    drawn = tf.argmax(up_to > uniform[:, None] * up_to[:, -1:], -1, output_type=tf.int32)
    return tf.where(temperature > 0, drawn, tf.argmax(logits, -1, output_type=tf.int32))


def _likeliest(p, top_k, top_p):
    """Which tokens are drawn from, bool `(batch, vocab_size)`; of equal ones the first."""
    falling = tf.sort(p, -1, "DESCENDING")
    count = tf.fill(tf.shape(p)[:1], tf.shape(p)[-1])
    if top_k is not None:
        count = tf.where(top_k > 0, tf.minimum(top_k, count), count)
    if top_p is not None:
        # Of those that are among the first `top_k`.
        among = tf.where(tf.range(tf.shape(p)[-1]) < count[:, None], falling, 0.0)
        before = tf.cumsum(among, axis=-1, exclusive=True)
        enough = top_p[:, None] * tf.reduce_sum(among, -1, keepdims=True)
        needed = tf.reduce_sum(tf.cast(before < enough, "int32"), -1)
        count = tf.minimum(count, tf.maximum(needed, 1))
    least = tf.gather(falling, count - 1, batch_dims=1)[:, None]
    more, equal = p > least, p == least
    room = count - tf.reduce_sum(tf.cast(more, "int32"), -1)
    return more | (equal & (tf.cumsum(tf.cast(equal, "int32"), -1) <= room[:, None]))


def _allowed(logits, forbidden):
    return tf.where(tf.range(tf.shape(logits)[-1]) >= forbidden, logits, -math.inf)


def is_by_xla(jit_compile, length):
    """Whether XLA compiles the writing.

    Args:
        jit_compile: `True`, `False`, or `"auto"`: on a GPU, where to begin a kernel costs as much
            as its work, and a text is tens of thousands of them. A short one is done before it is
            compiled. Nor is it where `bigmodels.distribute.deterministic` was called.
        length: How many tokens are written at most.

    Returns:
        A boolean.

    Raises:
        ValueError: if it is something else.
    """
    if jit_compile not in (True, False, "auto"):
        raise ValueError(f"jit_compile: {jit_compile!r}, expected True, False or 'auto'")
    if jit_compile == "auto":
        return kernels.has_gpu() and not is_op_determinism_enabled() and length >= _LONG
    return jit_compile


def by_xla_or_not(jit_compile, length, write):
    """Write by XLA where `is_by_xla` says so; if `auto` said so and it cannot, without.

    Args:
        jit_compile: As for `is_by_xla`.
        length: As for `is_by_xla`.
        write: A function of whether it is to be by XLA.

    Returns:
        What `write` gives.
    """
    by_xla = is_by_xla(jit_compile, length)
    try:
        return write(by_xla)
    except NOT_COMPILED as error:
        if not by_xla or jit_compile != "auto":
            raise
        warnings.warn(
            "jit_compile: auto, but XLA cannot compile this writing, which runs without it: "
            f"{why_not_compiled(error)}",
            stacklevel=3,
        )
        return write(False)


def roomy(size):
    """A size that few others are rounded up to, so that few programs are compiled.

    Args:
        size: A positive `int`.

    Returns:
        The next power of two, 32 at least.
    """
    return max(32, 1 << (size - 1).bit_length())


def _size(value, axis):
    """A tensor's size along an axis: in XLA an `int`, as shapes that follow from it are fixed."""
    return value.shape[axis] if kernels.in_xla() else tf.shape(value)[axis]


def _is_any(tokens, ids):
    return tf.reduce_any(tokens[..., None] == tf.convert_to_tensor(ids, "int32"), -1)


def _window(tokens, sizes, drawn, begun, total, width):
    """The tokens of each row, prompt and drawn ones together, from one place to another.

    Returns:
        int32 `(batch, width)`, padded with 0.
    """
    everything = tf.concat([tokens, tf.transpose(drawn)], 1)
    places = begun[:, None] + tf.range(width)  # (batch, width)
    drawn_places = tf.shape(tokens)[1] + places - sizes[:, None]
    columns = tf.where(places < sizes[:, None], places, drawn_places)
    inside = places < total[:, None]
    found = tf.gather(everything, tf.where(inside, columns, 0), batch_dims=1)
    return tf.where(inside, found, 0)
