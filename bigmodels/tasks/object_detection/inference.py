"""Inference with an object detector."""

import tensorflow as tf

from bigmodels.data import files
from bigmodels.reports import pages, plots
from bigmodels.tasks.images import image_signatures, png_path
from bigmodels.tasks.record import Predictor

# Default score threshold.
THRESHOLD = 0.3
_MOST_DRAWN = 24


class DetectionPredictor(Predictor):
    """Detects objects in images, given as pixels or as files."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.shape = tuple(model.get_build_config()["input_shape"][1:])
        self._names = tf.constant(model.class_names)

    def candidates(self, images):
        """Scores and boxes of all cells, for uint8 images of the model's own size."""
        scores, boxes = self.model.candidates(self._outputs(images))
        return {"scores": scores, "boxes": boxes}

    def detect(self, images):
        """The most likely objects in uint8 images of any size, by descending score."""
        small = files.resize(images, self.shape[:2])
        sizes = tf.tile(tf.shape(images)[None, 1:3], [tf.shape(images)[0], 1])
        return self._objects(tf.ensure_shape(small, (None, *self.shape)), sizes)

    def detect_bytes(self, image_bytes):
        """The same for encoded image files."""
        return self._objects(*files.decode_images(image_bytes, self.shape))

    def _outputs(self, images):
        return self.model(tf.cast(images, "float32") / 255, training=False)

    def _objects(self, images, sizes):
        """Objects in resized images, with boxes in pixels of the original `(height, width)`."""
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
        """Detect objects in image files.

        Args:
            input: An image file, or a directory of image files.
            threshold: Score threshold, from 0 to below 1.
            output: PNG file in which to draw the images with their boxes (the first 24 images).

        Yields:
            `{"file": ..., "boxes": ..., "classes": ..., "scores": ...}`, the latter three lists
            with an item per object, by descending score. A box is left, top, right, bottom in
            pixels of the image file.

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
            selected = (objects["scores"] >= threshold) & (objects["scores"] > 0)
            boxes, scores = objects["boxes"][selected], objects["scores"][selected]
            classes = [name.decode() for name in objects["classes"][selected]]
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
        """From images, as pixels or as files, to boxes, classes and scores."""
        return image_signatures(self.shape, self.detect, self.detect_bytes, self.candidates)

    def metadata(self):
        return {"class_names": list(self.model.class_names)}
