"""Inference with a steering model."""

import os

import tensorflow as tf

from bigmodels.data import files
from bigmodels.data.notes import Notes
from bigmodels.data.readers.tub import MANIFEST, read_tub
from bigmodels.tasks.images import image_signatures
from bigmodels.tasks.record import Predictor


class SteeringPredictor(Predictor):
    """Predicts steering angles for frames, given as pixels or as files."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.shape = tuple(model.get_build_config()["input_shape"][1:])

    def angle(self, frames):
        """Angles `(batch,)` from -1 to 1 for uint8 frames of the model's own size."""
        return {"angle": self.model(tf.cast(frames, "float32"), training=False)[:, 0]}

    def steer(self, frames):
        """The same for uint8 frames of any size."""
        frames = files.resize(frames, self.shape[:2])
        return self.angle(tf.ensure_shape(frames, (None, *self.shape)))

    def steer_bytes(self, frame_bytes):
        """The same for encoded image files."""
        return self.steer(files.decode_images(frame_bytes, self.shape)[0])

    def predict(self, input=None):
        """Predict steering angles for image files.

        Args:
            input: An image file, a directory of image files, or a Donkeycar tub.

        Yields:
            `{"file": ..., "angle": ...}`, and for frames of a tub `user_angle`, the driver's angle.

        Raises:
            ValueError: if there is no input or a file cannot be read.
        """
        if not input:
            raise ValueError("input: give an image file, a directory of them, or a tub")
        notes, tub, skips = Notes(), None, self.config.data.skip_bad_files
        if os.path.exists(os.path.join(input, MANIFEST)):
            tub = read_tub(input, "input", notes, skips)
        paths = tub.paths if tub else files.list_images(input, notes)
        reader = files.ImageReader("input", self.shape[-1], skips and os.path.isdir(input))
        angle = tf.function(self.angle, reduce_retracing=True)

        size = self.config.batch_size
        for begin in range(0, len(paths), size):
            rows = range(begin, min(begin + size, len(paths)))
            images = {i: image for i in rows if (image := reader.read(paths[i])) is not None}
            if not images:
                continue
            frames = tf.stack([files.resize(image, self.shape[:2]) for image in images.values()])
            for i, steering in zip(images, angle(frames)["angle"].numpy(), strict=True):
                row = {"file": str(paths[i]), "angle": float(steering)}
                yield row | ({"user_angle": tub.angles[i]} if tub else {})
        reader.tell(notes)

    def signatures(self):
        """From frames, as pixels or as files, to angles."""
        return image_signatures(self.shape, self.steer, self.steer_bytes, self.angle)
