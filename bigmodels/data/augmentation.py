"""Augmentation of images: random flips, shifts, rotations, zooms, crops and erased rectangles.

All randomness follows from a seed of the batch, see `bigmodels.data.pipeline`.
"""

import dataclasses
import math

import tensorflow as tf
from keras import ops

# Area of an erased rectangle, as a fraction of the image's, and its aspect ratio.
_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random flips, shifts, rotations and zooms of training images.

    A value of zero turns a transformation off. Evaluation data are never augmented.

    Args:
        horizontal_flip: Whether to mirror half of the images left to right.
        translation: Largest shift, as a fraction of height and width.
        rotation: Largest rotation, in degrees.
        zoom: Largest change of size, as a fraction.
        alternate_flip: Whether to mirror each image in every second epoch, instead of drawing which
            (Jordan, 2024, arXiv:2404.00498); only with `horizontal_flip`. Two epochs in a row then
            show every image both ways.
        crop_padding: Pixels by which images are padded with their reflection on each side, before
            they are cropped at random to their size.
        random_erasing: Probability that a random rectangle of an image, 2 to 33% of its area, is
            replaced by uniform noise (Zhong et al., 2017, arXiv:1708.04896).

    Example:

    >>> augmentation = bigmodels.data.Augmentation(horizontal_flip=True, rotation=10.0)
    >>> images = tf.ones((4, 8, 8, 3))
    >>> augmentation(images, seed=(0, 1)).shape
    TensorShape([4, 8, 8, 3])
    """

    horizontal_flip: bool = False
    translation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    alternate_flip: bool = False
    crop_padding: int = 0
    random_erasing: float = 0.0

    def __call__(
        self,
        images: tf.Tensor,
        seed: tf.Tensor | tuple[int, int],
        mirrored: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Augment a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            seed: Two integers; the same seed gives the same result.
            mirrored: Which images to mirror, booleans `(batch,)`, instead of drawing that; see
                `alternating`.

        Returns:
            Images of the same shape and dtype.
        """
        if mirrored is not None:
            images = tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        if self.crop_padding:
            images = _random_crop(images, self.crop_padding, seed)
        draw_mirrored = self.horizontal_flip and mirrored is None
        if draw_mirrored or self.translation or self.rotation or self.zoom:
            images = self._transformed(images, seed, draw_mirrored)
        if self.random_erasing:
            images = _erased(images, self.random_erasing, seed)
        return images

    def _transformed(self, images, seed, draw_mirrored):
        """Mirror, shift, rotate and zoom, in one interpolation."""
        batch = tf.shape(images)[0]
        height, width = float(images.shape[1]), float(images.shape[2])
        draws = tf.random.stateless_uniform((5, batch), seed, -1.0, 1.0)
        angle = draws[0] * (self.rotation * math.pi / 180)
        scale = 1 + draws[1] * self.zoom
        down, right = draws[2] * self.translation * height, draws[3] * self.translation * width
        mirror = tf.where((draws[4] > 0) & draw_mirrored, -1.0, 1.0)
        # Output pixel (x, y) is read from input pixel (a x + b y + c, d x + e y + f); the rotation
        # is about the centre of the image.
        a, b = mirror * scale * tf.cos(angle), -mirror * scale * tf.sin(angle)
        d, e = scale * tf.sin(angle), scale * tf.cos(angle)
        center_x, center_y = (width - 1) / 2, (height - 1) / 2
        c = center_x - a * center_x - b * center_y + right
        f = center_y - d * center_x - e * center_y + down
        zero = tf.zeros_like(a)
        transform = tf.stack([a, b, c, d, e, f, zero, zero], axis=1)  # (batch, 8)
        return ops.image.affine_transform(images, transform, "bilinear", "nearest")


def alternating(images: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    """Choose which images to mirror in an epoch, each in every second one.

    An image begins with either epoch by whether the sum of its pixels is odd. So the choice depends
    on no order and no worker, and a resumed run makes it again.

    Args:
        images: `(batch, height, width, channels)`, uint8.
        epoch: Number of the epoch, an integer.

    Returns:
        Booleans, `(batch,)`.

    Example:

    >>> images = tf.constant([[[[1], [4]]], [[[2], [4]]]], "uint8")
    >>> alternating(images, 0).numpy(), alternating(images, 1).numpy()
    (array([ True, False]), array([False,  True]))
    """
    sums = tf.reduce_sum(tf.cast(images, "int64"), axis=(1, 2, 3))
    return (sums + tf.cast(epoch, "int64")) % 2 == 1


def _random_crop(images, padding, seed):
    """Crop images at random that were padded with their reflection, back to their size."""
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    if padding >= min(height, width):
        raise ValueError(f"crop_padding: {padding}, expected less than the {height}x{width} pixels")
    around = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    images = tf.pad(images, around, "REFLECT")
    seed = tf.random.experimental.stateless_fold_in(seed, 1)  # Other numbers than for the rest.
    corners = tf.random.stateless_uniform((2, batch, 1), seed, 0, 2 * padding + 1, "int32")
    images = tf.gather(images, corners[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, corners[1] + tf.range(width), axis=2, batch_dims=1)


def _erased(images, probability, seed):
    """Replace a random rectangle of some images by uniform noise."""
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    seed = tf.random.experimental.stateless_fold_in(seed, 2)  # Other numbers than for the rest.
    chosen, area, aspect, top, left = tf.unstack(
        tf.random.stateless_uniform((5, batch, 1), seed, dtype=images.dtype)
    )
    small, large = _ERASED_AREA
    flat, tall = map(math.log, _ERASED_ASPECT)
    area = small + area * (large - small)
    aspect = tf.exp(flat + aspect * (tall - flat))
    # As fractions of height and width; a side that is too long is cut.
    tall, wide = tf.minimum(tf.sqrt(area * aspect), 1), tf.minimum(tf.sqrt(area / aspect), 1)
    top, left = top * (1 - tall), left * (1 - wide)
    rows = (tf.range(height, dtype=images.dtype) + 0.5) / height  # Centres of the pixels.
    columns = (tf.range(width, dtype=images.dtype) + 0.5) / width
    rows = (rows >= top) & (rows < top + tall)  # (batch, height)
    columns = (columns >= left) & (columns < left + wide)
    inside = rows[:, :, None] & columns[:, None] & (chosen < probability)[:, :, None]
    seed = tf.random.experimental.stateless_fold_in(seed, 3)
    noise = tf.random.stateless_uniform(tf.shape(images), seed, dtype=images.dtype)
    return tf.where(inside[..., None], noise, images)
