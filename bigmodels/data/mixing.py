"""Mixup, CutMix and label smoothing for image classification."""

import dataclasses

import tensorflow as tf

from bigmodels.fields import check_positive, check_settings, check_share, setting

KINDS = ("none", "mixup", "cutmix")


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mix pairs of images of a training batch, and their targets with them.

    The Keras layers of the same names have random state of their own. Here all random numbers
    follow from the seed of the batch, so that a killed run resumes with the same images.

    Args:
        kind: How to mix pairs of training images. `mixup` (Zhang et al., 2018) blends each image
            with another one, `cutmix` (Yun et al., 2019) pastes a rectangle of another one into it,
            `none` does neither.
        alpha: Parameter of the Beta distribution of the mixing ratio; larger values mix more. Small
            values leave most images nearly unchanged, 1 gives a uniform distribution.
        label_smoothing: Fraction of each label that is spread over all classes (Szegedy et al.,
            2016).

    Raises:
        ValueError: naming the argument, if its value is invalid.

    Example:

    >>> mixing = bigmodels.data.Mixing("mixup", alpha=0.2, label_smoothing=0.1)
    >>> images, targets = tf.zeros((2, 8, 8, 1)), tf.constant([[1.0, 0.0], [0.0, 1.0]])
    >>> images, targets = mixing(images, targets, seed=(0, 1))
    >>> images.shape, targets.shape
    (TensorShape([2, 8, 8, 1]), TensorShape([2, 2]))
    """

    kind: str = setting("none", "How to mix pairs of training images.", choices=KINDS)
    alpha: float = setting(
        0.2,
        "Parameter of the Beta distribution of the mixing ratio; larger values mix more.",
        check=check_positive,
    )
    label_smoothing: float = setting(
        0.0, "Fraction of each label that is spread over all classes.", check=check_share
    )

    def __post_init__(self):
        check_settings(self)

    @property
    def soft(self) -> bool:
        """Whether targets are distributions over the classes rather than class indices."""
        return self.kind != "none" or self.label_smoothing > 0

    def __call__(
        self, images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor | tuple[int, int]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mix a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            targets: Class probabilities, floats `(batch, classes)`.
            seed: Two integers; the same seed gives the same result.

        Returns:
            `(images, targets)` of the same shapes.
        """
        if self.kind == "none":
            return images, targets
        batch, height, width = tf.unstack(tf.shape(images)[:3])
        seeds = tf.random.split(seed, 4)
        other = tf.random.experimental.stateless_shuffle(tf.range(batch), seeds[0])
        # A beta variate is a / (a + b) for gamma variates a and b. With a small alpha these
        # underflow float32, their logarithms do not (Marsaglia and Tsang, 2000).
        parts = tf.math.log(tf.random.stateless_gamma((2, batch), seeds[1], self.alpha + 1))
        parts += tf.math.log1p(-tf.random.stateless_uniform((2, batch), seeds[3])) / self.alpha
        share = tf.sigmoid(parts[0] - parts[1])
        if self.kind == "mixup":
            weights = share[:, None, None, None]
        else:
            # A rectangle with an area of 1 - share around a random pixel, clipped at the border.
            centre = tf.random.stateless_uniform((2, batch), seeds[2])
            half = tf.sqrt(1 - share) / 2
            rows = _inside(centre[0], half, height)
            columns = _inside(centre[1], half, width)
            weights = 1 - rows[:, :, None, None] * columns[:, None, :, None]
            share = tf.reduce_mean(weights, (1, 2, 3))
        images = weights * images + (1 - weights) * tf.gather(images, other)
        share = share[:, None]
        return images, share * targets + (1 - share) * tf.gather(targets, other)

    def smoothed(self, targets: tf.Tensor) -> tf.Tensor:
        """Apply `label_smoothing` to targets `(batch, classes)`."""
        classes = tf.cast(tf.shape(targets)[-1], targets.dtype)
        return (1 - self.label_smoothing) * targets + self.label_smoothing / classes


def _inside(centre, half, size):
    """1.0 for pixels within `half` of the centre (both relative to `size`): `(batch, size)`."""
    positions = (tf.cast(tf.range(size), "float32") + 0.5) / tf.cast(size, "float32")
    return tf.cast(tf.abs(positions - centre[:, None]) < half[:, None], "float32")
