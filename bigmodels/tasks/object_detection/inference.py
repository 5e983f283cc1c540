"""A trained detector in use."""

import tensorflow as tf

from bigmodels.data import files
from bigmodels.reports import pages, plots
from bigmodels.tasks.images import image_signatures, png_path
from bigmodels.tasks.record import Predictor

# Least score of a box that counts, where nothing else is asked for.
THRESHOLD = 0.3
_MOST_DRAWN = 24


class DetectionPredictor(Predictor):
    """Boxes, classes and scores of what is in images, as pixels or as files."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.shape = tuple(model.get_build_config()["input_shape"][1:])
        self._names = tf.constant(model.class_names)

    def candidates(self, images):
        """What every cell says of uint8 images of the model's own size."""
        scores, boxes = self.model.candidates(self._outputs(images))
        return {"scores": scores, "boxes": boxes}

    def detect(self, images):
        """The likeliest objects in uint8 images of any size, by falling score."""
        small = files.resize(images, self.shape[:2])
        sizes = tf.tile(tf.shape(images)[None, 1:3], [tf.shape(images)[0], 1])
        return self._objects(tf.ensure_shape(small, (None, *self.shape)), sizes)

    def detect_bytes(self, image_bytes):
        """The same of image files."""
        return self._objects(*files.decode_images(image_bytes, self.shape))

    def _outputs(self, images):
        return self.model(tf.cast(images, "float32") / 255, training=False)

    def _objects(self, images, sizes):
        """Of images of the model's size, boxes in those that they had, (height, width) each."""
        objects = self.model.decode(self._outputs(images))
        height, width, _ = self.shape
        scale = tf.cast(tf.reverse(sizes, [-1]), "float32") / tf.constant(
            [width, height], "float32"
        )
        return {
            "boxes": objects["boxes"] * tf.tile(scale, [1, 2])[:, None],
            "scores": objects["scores"],
            "classes": tf.gather(self._names, objects["classes"]),
        }

    def predict(self, input=None, threshold=THRESHOLD, output=None):
        """What is where in image files.

        Args:
            input: An image file, or a directory, of whose files those named like images are taken.
            threshold: Least score of what counts.
            output: PNG file to draw the images into with their boxes, of many files the first 24.

        Yields:
            `{"file": ..., "boxes": ..., "classes": ..., "scores": ...}`, three lists with an item
            for each object, by falling score; a box is left, top, right, bottom in pixels of the
            file's image.

        Raises:
            ValueError: naming the argument or file that does not fit.
        """
        if not input:
            raise ValueError("input: give an image file, or a directory of them")
        path = png_path(output) if output else None
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold: {threshold!r}, expected from 0 to below 1")
        detect = tf.function(self.detect, reduce_retracing=True)
        drawn = []
        skips = self.config.data.skip_bad_files
        for file, image in files.read_images(input, self.shape[-1], skips):
            objects = {name: value[0].numpy() for name, value in detect(image[None]).items()}
            counts = (objects["scores"] >= threshold) & (objects["scores"] > 0)
            boxes, scores = objects["boxes"][counts], objects["scores"][counts]
            classes = [name.decode() for name in objects["classes"][counts]]
            if path and len(drawn) < _MOST_DRAWN:
                rows = [
                    (*box, f"{name} {score:.2f}")
                    for box, name, score in zip(boxes, classes, scores, strict=True)
                ]
                drawn.append((image.numpy() / 255, {"found": rows}))
            yield {
                "file": str(file),
                "boxes": [[round(float(side), 2) for side in box] for box in boxes],
                "classes": classes,
                "scores": [round(float(score), 4) for score in scores],
            }
        if drawn:
            images, boxes = zip(*drawn, strict=True)
            figure = plots.boxed_images(images, boxes, side=6 if len(drawn) == 1 else 2.4)
            pages.save_drawn(path.with_suffix(""), figure)

    def signatures(self):
        """Images in, as pixels or as files; boxes, classes and scores out."""
        return image_signatures(self.shape, self.detect, self.detect_bytes, self.candidates)

    def metadata(self):
        return {"class_names": list(self.model.class_names)}
