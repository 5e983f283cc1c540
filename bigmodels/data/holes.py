"""Rectangular holes in images, for training a model to fill them (inpainting)."""

import dataclasses
import math

import tensorflow as tf

from bigmodels.messages import short_repr

# Largest number of holes per image.
MAX_HOLES = 8
# The height of a hole is between 1/2 and 2 times that of a hole with the image's aspect ratio.
_STRETCH = 2.0
# First half of the seed of an image's fixed holes; the second half is the image's number.
_FIXED_SEED = 0


def check_share_of_holes(name: str, value: tuple[float, float]) -> None:
    """Raise a `ValueError` unless a tuple is a smallest and a largest share that holes can cover.

    Args:
        name: Name of the argument or setting.
        value: Its value.

    Example:

    >>> check_share_of_holes("data.hole_share", (0.1, 0.25))
    """
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 0.5:
        raise ValueError(
            f"{name}: {short_repr(value)}, expected SMALLEST,LARGEST, above 0 and up to 0.5"
        )


def check_number_of_holes(name: str, value: int) -> None:
    """Raise a `ValueError` unless a number of holes is from 1 to `MAX_HOLES`.

    Args:
        name: Name of the argument or setting.
        value: Its value.

    Example:

    >>> check_number_of_holes("data.holes", 2)
    """
    if not 1 <= value <= MAX_HOLES:
        raise ValueError(f"{name}: {short_repr(value)}, expected 1 to {MAX_HOLES}")


@dataclasses.dataclass(frozen=True)
class Holes:
    """Cut random rectangles out of images.

    Args:
        share: Smallest and largest fraction of the image's area that its holes cover together, at
            most 0.5.
        count: Number of holes per image, at most `MAX_HOLES`; they may overlap.

    Raises:
        ValueError: naming the argument, if its value is invalid.

    Example:

    >>> holes = bigmodels.data.Holes(share=(0.25, 0.25))
    >>> inputs, targets = holes(tf.ones((2, 8, 8, 3)), seed=(0, 1))
    >>> inputs.shape, targets.shape
    (TensorShape([2, 8, 8, 4]), TensorShape([2, 8, 8, 3]))
    """

    share: tuple[float, float] = (0.1, 0.25)
    count: int = 1

    def __post_init__(self):
        check_share_of_holes("share", self.share)
        check_number_of_holes("count", self.count)

    def __call__(
        self,
        images: tf.Tensor,
        seed: tf.Tensor | tuple[int, int] | None = None,
        numbers: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Cut holes into a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            seed: Two integers; the same seed cuts the same holes.
            numbers: Integers `(batch,)`, used if there is no seed. The holes of an image then
                depend on its number alone.

        Returns:
            `(inputs, images)`. The inputs are the images with zeros in the holes, and a mask as an
            additional last channel: 1 in the holes, 0 elsewhere.
        """
        draws = (tf.shape(images)[0], self.count, 4)
        if seed is not None:
            # `fold_in`, as augmentation has drawn its numbers from the seed itself.
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
    """Which positions are in `[begin, begin + length)`: `(batch, count, size)`."""
    positions = tf.range(size, dtype=begin.dtype)
    return (positions >= begin[..., None]) & (positions < (begin + length)[..., None])
