"""Inference with an image classifier."""

import tensorflow as tf

from bigmodels.data import files
from bigmodels.tasks.images import image_signatures
from bigmodels.tasks.record import Predictor


class ImagePredictor(Predictor):
    """Predicts the classes of images, given as pixels or as files."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.shape = tuple(model.get_build_config()["input_shape"][1:])
        self._names = tf.constant(model.class_names)

    def probabilities(self, images):
        """Probabilities `(batch, classes)` of uint8 images of the model's own size."""
        logits = self.model(tf.cast(images, "float32") / 255, training=False)
        return {"probabilities": tf.nn.softmax(logits)}

    def classify(self, images):
        """The most likely class of uint8 images of any size, and all probabilities."""
        small = tf.ensure_shape(files.resize(images, self.shape[:2]), (None, *self.shape))
        probabilities = self.probabilities(small)["probabilities"]
        return {
            "class": tf.gather(self._names, tf.argmax(probabilities, -1)),
            "probability": tf.reduce_max(probabilities, -1),
            "probabilities": probabilities,
            "class_names": tf.broadcast_to(self._names, tf.shape(probabilities)),
        }

    def classify_bytes(self, image_bytes):
        """The same for encoded image files."""
        return self.classify(files.decode_images(image_bytes, self.shape)[0])

    def predict(self, input=None):
        """Classify image files.

        Args:
            input: An image file, or a directory of image files.

        Yields:
            `{"file": ..., "class": ..., "probability": ...}`.

        Raises:
            ValueError: if there is no input or a file cannot be read.
        """
        if not input:
            raise ValueError("input: give an image file, or a directory of them")
        classify = tf.function(self.classify, reduce_retracing=True)
        skips = self.config.data.skip_bad_files
        for file, image in files.read_images(input, self.shape[-1], skips):
            prediction = classify(image[None])
            yield {
                "file": str(file),
                "class": prediction["class"][0].numpy().decode(),
                "probability": float(prediction["probability"][0]),
            }

    def signatures(self):
        """From images, as pixels or as files, to classes and probabilities."""
        return image_signatures(self.shape, self.classify, self.classify_bytes, self.probabilities)

    def metadata(self):
        return {"class_names": list(self.model.class_names)}
