"""Training images mixed with one another, and targets that are not quite sure."""

import dataclasses

import tensorflow as tf

KINDS = ("none", "mixup", "cutmix")


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How the images of a training batch are mixed in pairs, and their classes with them.

    Keras has layers of the same names, whose random numbers are a state of their own; here they
    follow from the batch's seed, so that a killed run goes on with the same images.

    Args:
        kind: `mixup` (Zhang et al., 2018) fades another image in, `cutmix` (Yun et al., 2019)
            pastes a rectangle of it, `none` does neither.
        alpha: The share of the one image is drawn from Beta(alpha, alpha): small ones leave most
            images nearly alone, 1 makes all shares alike.
        label_smoothing: Share of every target that is spread over all classes (Szegedy et al.,
            2016).
    """

    kind: str = "none"
    alpha: float = 0.2
    label_smoothing: float = 0.0

    @property
    def soft(self):
        """Whether targets are shares of all classes; else they are class numbers."""
        return self.kind != "none" or self.label_smoothing > 0

    def __call__(self, images, targets, seed):
        """Mix a batch.

        Args:
            images: Floats, `(batch, height, width, channels)`.
            targets: Shares of the classes, `(batch, classes)`.
            seed: Two integers; the same seed mixes the same way.

        Returns:
            `(images, targets)` of the same shapes.
        """
        if self.kind == "none":
            return images, targets
        batch, height, width = tf.unstack(tf.shape(images)[:3])
        seeds = tf.random.split(seed, 4)
        other = tf.random.experimental.stateless_shuffle(tf.range(batch), seeds[0])
        # Of two gamma variates, the share of the first is a beta variate. Those of a small alpha
        # are too small for float32; their logarithms are not (Marsaglia and Tsang, 2000).
        parts = tf.math.log(tf.random.stateless_gamma((2, batch), seeds[1], self.alpha + 1))
        parts += tf.math.log1p(-tf.random.stateless_uniform((2, batch), seeds[3])) / self.alpha
        share = tf.sigmoid(parts[0] - parts[1])
        if self.kind == "mixup":
            kept = share[:, None, None, None]
        else:
            # A rectangle of the other's share, around any pixel; what lies outside is cut off.
            centre = tf.random.stateless_uniform((2, batch), seeds[2])
            half = tf.sqrt(1 - share) / 2
            rows = _inside(centre[0], half, height)
            columns = _inside(centre[1], half, width)
            kept = 1 - rows[:, :, None, None] * columns[:, None, :, None]
            share = tf.reduce_mean(kept, (1, 2, 3))
        images = kept * images + (1 - kept) * tf.gather(images, other)
        share = share[:, None]
        return images, share * targets + (1 - share) * tf.gather(targets, other)

    def smoothed(self, targets):
        """Targets `(batch, classes)` with `label_smoothing`."""
        classes = tf.cast(tf.shape(targets)[-1], targets.dtype)
        return (1 - self.label_smoothing) * targets + self.label_smoothing / classes


def _inside(centre, half, size):
    """1.0 for pixels no further than `half` from the centre, both as shares: `(batch, size)`."""
    places = (tf.cast(tf.range(size), "float32") + 0.5) / tf.cast(size, "float32")
    return tf.cast(tf.abs(places - centre[:, None]) < half[:, None], "float32")
