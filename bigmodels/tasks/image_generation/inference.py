"""Inference with a GAN."""

import numpy as np
import tensorflow as tf

from bigmodels.reports import plots
from bigmodels.tasks.images import png_path
from bigmodels.tasks.record import Predictor, Signature


class GeneratorPredictor(Predictor):
    """Generates images from a seed or from noise."""

    def from_noise(self, noise):
        """Images from noise `(batch, latent_dim)`, as pixels."""
        pixels = (self.model(noise, training=False) + 1) * 127.5
        return {"images": tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), "uint8")}

    def generate(self, count, seed):
        """`count` images, as pixels and as files; the same as from `predict` for a seed."""
        # The same noise as in `GAN.generate`.
        noise = tf.random.stateless_normal((count, self.model.latent_dim), tf.stack([seed, 0]))
        images = self.from_noise(noise)["images"]
        return {"images": images, "png_bytes": tf.io.encode_png(images)}

    def predict(self, count=16, seed=0, output="samples.png"):
        """Generate images, and save them as a grid.

        Args:
            count: Number of images.
            seed: Seed of the noise.
            output: PNG file to write.

        Yields:
            `{"file": ..., "images": ...}`.

        Raises:
            ValueError: if `count` is not positive, or `output` is not a PNG file in an existing
                directory.
        """
        if count < 1:
            raise ValueError(f"count: {count!r}, expected a positive integer")
        path = png_path(output)
        # In batches, of any number and for any seed.
        images = self.model.generate(count, seed=seed)
        plots.image_grid(images, scale=(-1.0, 1.0)).savefig(path, dpi=150)
        yield {"file": str(output), "images": count}

    def signatures(self):
        """From a count and a seed, or from noise, to images."""
        number = tf.TensorSpec((), "int32")
        points = tf.TensorSpec((None, self.model.latent_dim))
        noise = np.random.default_rng(0).normal(size=(2, self.model.latent_dim)).astype("float32")
        return {
            "generate": Signature(self.generate, (number, number), (np.int32(2), np.int32(0))),
            "from_noise": Signature(self.from_noise, (points,), (noise,), portable=True),
        }
