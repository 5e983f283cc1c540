"""Text from a language model: the prompt's way in, the draw of one token, the text's way out."""

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
