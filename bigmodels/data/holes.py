"""Rectangles cut out of images, for a model to fill."""

import dataclasses
import math

import tensorflow as tf

# A hole's height is from half to twice what it would be if it were shaped as the image is.
_STRETCH = 2.0
# What a hole follows from that is the same every time; beside it stands the image's number.
_FIXED_SEED = 0


@dataclasses.dataclass(frozen=True)
class Holes:
    """How holes are cut.

    Args:
        share: Least and largest share of the image's area that an image's holes take together.
        count: Rectangles an image; they may overlap.
    """

    share: tuple[float, float] = (0.1, 0.25)
    count: int = 1

    def __call__(self, images, seed=None, numbers=None):
        """Cut holes into a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            seed: Two integers; the same seed cuts the same holes.
            numbers: Without a seed: integers `(batch,)`, the images' own; a hole follows from its
                image's number alone.

        Returns:
            `(inputs, images)`. The inputs are the images with zeros in the hole, and one more
            channel, the mask: 1 in the hole, 0 elsewhere.
        """
        draws = (tf.shape(images)[0], self.count, 4)
        if seed is not None:
            # Not the numbers that an augmentation has drawn from the same seed.
            draws = tf.random.stateless_uniform(draws, tf.random.fold_in(seed, 1))
        else:
            draws = tf.map_fn(
                lambda number: tf.random.stateless_uniform(
                    draws[1:], tf.stack([tf.constant(_FIXED_SEED, number.dtype), number])
                ),
                numbers,
                fn_output_signature=tf.TensorSpec(draws[1:], "float32"),
            )
        mask = tf.cast(self._masks(draws, *images.shape[1:3])[..., None], images.dtype)
        return tf.concat([images * (1 - mask), mask], -1), images

    def _masks(self, draws, height, width):
        """Booleans `(batch, height, width)` from uniform numbers `(batch, count, 4)`."""
        share, stretch, down, right = tf.unstack(draws, axis=-1)  # (batch, count) each
        low, high = self.share
        area = (low + share * (high - low)) / self.count * height * width
        stretch = tf.exp((2 * stretch - 1) * math.log(_STRETCH))
        tall = tf.clip_by_value(tf.round(tf.sqrt(area * stretch * height / width)), 1, height)
        wide = tf.clip_by_value(tf.round(area / tall), 1, width)
        rows = _between(tf.floor(down * (height - tall + 1)), tall, height)
        columns = _between(tf.floor(right * (width - wide + 1)), wide, width)
        return tf.reduce_any(rows[..., :, None] & columns[..., None, :], 1)


def _between(begin, length, size):
    """Whether each of so many places is in a stretch, `(batch, count, size)`."""
    places = tf.range(size, dtype=begin.dtype)
    return (places >= begin[..., None]) & (places < (begin + length)[..., None])
