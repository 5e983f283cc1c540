"""Text from a language model: the prompt's way in, the draw of one token, the text's way out."""

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.layers.vocabulary import Vocabulary


def generate(model, prompt, length, temperature, seed):
    """Continue a prompt with a model's compiled loop.

    Args:
        model: Has `vocabulary` (characters or `None`) and `continue_tokens(tokens, length,
            temperature, seed)`.
        prompt: A string, or token ids `(batch, length)`.
        length: Number of tokens to add.
        temperature: 0 takes the most likely token, 1 samples the model's own distribution.
        seed: Integer; the same seed gives the same tokens.

    Returns:
        Prompt and continuation: a string for a string, else ids `(batch, prompt + length)`.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if length < 1:
        raise ValueError(f"length: {length!r}, expected a positive integer")
    if temperature < 0:
        raise ValueError(f"temperature: {temperature!r}, expected zero or more")
    if isinstance(prompt, str):
        if model.vocabulary is None:
            raise ValueError(
                f"prompt: {prompt!r} is text, but the model was made without vocabulary=; "
                "give token ids"
            )
        if not prompt:
            raise ValueError("prompt: '' is empty, expected at least one character")
        vocabulary = Vocabulary(model.vocabulary)
        ids = generate(model, vocabulary.encode(prompt)[None], length, temperature, seed)
        return prompt + vocabulary.decode(ids[0, len(prompt) :])
    tokens = ops.convert_to_tensor(prompt, "int32")
    if len(tokens.shape) != 2 or not all(tokens.shape):
        raise ValueError(f"prompt: shape {tuple(tokens.shape)}, expected (batch, length)")
    new = model.continue_tokens(
        tokens, tf.constant(length), tf.constant(temperature, "float32"), tf.constant(seed)
    )
    return ops.convert_to_numpy(ops.concatenate([tokens, new], axis=1))


def generate_strings(model, prompts, lengths, temperatures, seeds):
    """`generate` as a graph, for many prompts that know nothing of each other.

    Args:
        model: As for `generate`, with a vocabulary.
        prompts: UTF-8 strings, `(batch,)`; none of them empty.
        lengths: Number of characters to add to each, int32 `(batch,)`.
        temperatures: Of each, float32 `(batch,)`.
        seeds: Of each, int32 `(batch,)`.

    Returns:
        Strings `(batch,)`: each prompt and its continuation, as `generate` gives it.

    Raises:
        tf.errors.InvalidArgumentError: naming the argument that does not fit.
    """
    vocabulary = Vocabulary(model.vocabulary)
    code_points = np.array([ord(character) for character in vocabulary.characters], "int32")
    # One place more, for whatever lies beyond.
    ids = np.full(code_points.max() + 2, Vocabulary.UNKNOWN, "int32")
    ids[code_points] = 2 + np.arange(len(code_points))

    def continued(row):
        prompt, length, temperature, seed = row
        characters = tf.strings.unicode_decode(prompt, "UTF-8")
        checks = [
            tf.debugging.assert_positive(length, "length: expected a positive integer"),
            tf.debugging.assert_non_negative(temperature, "temperature: expected zero or more"),
            tf.debugging.assert_positive(
                tf.size(characters), "prompt: expected at least one character"
            ),
        ]
        # In a graph, else, what comes after may run before, and fail with an error of its own.
        with tf.control_dependencies([check for check in checks if check is not None]):
            characters = tf.identity(characters)
        tokens = tf.gather(ids, tf.minimum(characters, len(ids) - 1))
        (new,) = tf.unstack(model.continue_tokens(tokens[None], length, temperature, seed), num=1)
        # Neither padding nor the unknown token is ever drawn.
        drawn = tf.strings.unicode_encode(tf.gather(code_points, new - 2), "UTF-8")
        return tf.strings.join([prompt, drawn])

    rows = (prompts, lengths, temperatures, seeds)
    return tf.map_fn(continued, rows, fn_output_signature="string")


def sample(logits, temperature, seed, forbidden=1):
    """Draw one token per row, the same for the same seed.

    Args:
        logits: `(batch, vocab_size)`.
        temperature: Scalar; 0 takes the most likely token, 1 samples the model's distribution.
        seed: Two integers.
        forbidden: The first so many ids are never drawn (1: padding; 2: the unknown token too).

    Returns:
        int32 `(batch,)`.
    """
    logits = tf.cast(logits, "float32")
    allowed = tf.range(tf.shape(logits)[-1]) >= forbidden
    logits = tf.where(allowed, logits, logits.dtype.min)
    # Dividing by zero is never looked at, but must not make NaN either.
    scaled = logits / tf.maximum(tf.cast(temperature, "float32"), 1e-6)
    drawn = tf.random.stateless_categorical(scaled, 1, seed, dtype="int32")[:, 0]
    return tf.where(temperature > 0, drawn, tf.argmax(logits, -1, output_type=tf.int32))
