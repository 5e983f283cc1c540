"""Scaled dot-product attention (Vaswani et al., 2017) with a hand-written gradient."""

import tensorflow as tf


def dot_product_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    seen: tf.Tensor | None = None,
    dropout_mask: tf.Tensor | None = None,
    mean_of_none: bool = True,
) -> tf.Tensor:
    """Scaled dot-product attention, `(batch, heads, length, key_dim)`.

    Args:
        query: `(batch, heads, length, key_dim)`, already scaled.
        key: `(batch, heads, length, key_dim)`.
        value: `(batch, heads, length, key_dim)`.
        seen: Attention mask, bool, broadcastable to `(length, length)`, `(batch, length, length)`
            or `(batch, heads, length, length)`; or `None`.
        dropout_mask: Factors of the weights, `(batch, heads, length, length)`, or `None`.
        mean_of_none: Whether a query whose keys are all masked gets the mean of all values, as in
            Keras' layers without dropout, or zeros, as in those with it.

    Returns:
        `(batch, heads, length, key_dim)`.

    Example:

    >>> x = tf.constant([[[[0.0, 1.0], [2.0, 3.0]]]])
    >>> dot_product_attention(tf.zeros((1, 1, 1, 2)), x, x).numpy()[0, 0]
    array([[1., 2.]], dtype=float32)
    """
    if seen is not None:
        sees = tf.cast(sees_any(seen), query.dtype)
        while seen.shape.rank < 4:
            seen = seen[..., None, :, :]

    @tf.custom_gradient
    def attend(query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)
        if seen is not None:
            scores = tf.where(seen, scores, scores.dtype.min)
        weights = tf.nn.softmax(scores)
        dropped = weights if dropout_mask is None else weights * dropout_mask
        outputs = tf.matmul(dropped, value)
        if not (seen is None or mean_of_none):
            outputs *= sees

        def gradient(upstream):
            # All scores of a query without unmasked keys were replaced: they have no gradient.
            through_scores = upstream if seen is None else upstream * sees
            to_value = upstream if mean_of_none else through_scores
            to_value = tf.matmul(dropped, to_value, transpose_a=True)
            to_weights = tf.matmul(through_scores, value, transpose_b=True)
            if dropout_mask is not None:
                to_weights *= dropout_mask
            # The gradient of the softmax needs the weighted mean of each row of `to_weights`. This
            # equals it and is far cheaper (Dao et al., 2022, appendix B).
            mean = tf.reduce_sum(through_scores * outputs, -1, keepdims=True)
            to_scores = (to_weights - mean) * weights
            to_query = tf.matmul(to_scores, key)
            return to_query, tf.matmul(to_scores, query, transpose_a=True), to_value

        return outputs, gradient

    return attend(query, key, value)


def sees_any(seen: tf.Tensor) -> tf.Tensor:
    """Whether each query has an unmasked key.

    Args:
        seen: Attention mask, as for `dot_product_attention`.

    Returns:
        bool `(batch, heads, length, 1)`, with axes of 1 where the mask has none.

    Example:

    >>> sees_any(tf.constant([[True, False], [False, False]])).numpy()[0, 0]
    array([[ True],
           [False]])
    """
    seen = tf.reduce_any(seen, -1, keepdims=True)
    while seen.shape.rank < 4:
        seen = seen[..., None, :, :]
    return seen
