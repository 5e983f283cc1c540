"""A trained image classifier in use."""

import tensorflow as tf

from bigmodels.data import files
from bigmodels.tasks.images import image_signatures
from bigmodels.tasks.record import Predictor


class ImagePredictor(Predictor):
    """Classes and probabilities of images, as pixels or as files."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.shape = tuple(model.get_build_config()["input_shape"][1:])
        self._names = tf.constant(model.class_names)

    def probabilities(self, images):
        """Of uint8 images of the model's own size, `(batch, classes)`."""
        logits = self.model(tf.cast(images, "float32") / 255, training=False)
        return {"probabilities": tf.nn.softmax(logits)}

    def classify(self, images):
        """The likeliest class of uint8 images of any size, and every class' probability."""
        small = files.resize(images, self.shape[:2])
        each = self.probabilities(tf.ensure_shape(small, (None, *self.shape)))["probabilities"]
        return {
            "class": tf.gather(self._names, tf.argmax(each, -1)),
            "probability": tf.reduce_max(each, -1),
            "probabilities": each,
            "class_names": tf.broadcast_to(self._names, tf.shape(each)),
        }

    def classify_bytes(self, image_bytes):
        """The same of image files."""
        return self.classify(files.decode_images(image_bytes, self.shape)[0])

    def predict(self, input=None):
        """Class and probability of image files.

        Args:
            input: An image file, or a directory, of whose files those named like images are taken.

        Yields:
            `{"file": ..., "class": ..., "probability": ...}`.

        Raises:
            ValueError: if there is nothing to read or a file is no image.
        """
        if not input:
            raise ValueError("input: give an image file, or a directory of them")
        classify = tf.function(self.classify, reduce_retracing=True)
        skips = self.config.data.skip_bad_files
        for file, image in files.read_images(input, self.shape[-1], skips):
            found = classify(image[None])
            yield {
                "file": str(file),
                "class": found["class"][0].numpy().decode(),
                "probability": float(found["probability"][0]),
            }

    def signatures(self):
        """Images in, as pixels or as files; classes and probabilities out."""
        return image_signatures(self.shape, self.classify, self.classify_bytes, self.probabilities)

    def metadata(self):
        return {"class_names": list(self.model.class_names)}
