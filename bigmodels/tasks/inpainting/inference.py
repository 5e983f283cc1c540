"""Inference with an inpainting model."""

import math
import pathlib

import numpy as np
import tensorflow as tf

from bigmodels.data import files
from bigmodels.data.notes import Notes
from bigmodels.messages import short_repr
from bigmodels.tasks.images import png_path
from bigmodels.tasks.record import Predictor, Signature


class InpaintingPredictor(Predictor):
    """Fills holes in images."""

    def fill(self, images, masks):
        """Fill uint8 images of the model's own size where their masks are not zero."""
        # As floats, because LiteRT does not compare bytes.
        pixels, hole = tf.cast(images, "float32"), tf.cast(masks, "float32") > 0
        inputs = tf.concat([tf.where(hole, 0.0, pixels / 127.5 - 1), tf.cast(hole, "float32")], -1)
        painted = tf.round((self.model.generator(inputs, training=False) + 1) * 127.5)
        return {"filled": tf.cast(tf.where(hole, painted, pixels), "uint8")}

    def predict(self, input=None, mask=None, box=None, output="filled.png"):
        """Fill a hole in an image file; all other pixels stay as they are.

        The input of the model is a window around the hole, resized to the model's image size. The
        window is at least that large, and at least twice as high and wide as the hole.

        Args:
            input: An image file.
            mask: An image file of the same size, light in the hole.
            box: The hole as `TOP,LEFT,HEIGHT,WIDTH` in pixels, instead of a mask.
            output: PNG file to write.

        Yields:
            `{"file": ..., "pixels": ...}`, with the number of filled pixels.

        Raises:
            ValueError: naming the argument or file that does not fit.
        """
        if not input:
            raise ValueError("input: give an image file")
        path = png_path(output)
        size, channels = self.model.image_shape[:2], self.model.image_shape[-1]
        notes, reader = Notes(), files.ImageReader("input", channels)
        image = reader.read(pathlib.Path(input)).numpy()
        reader.tell(notes)
        hole = _hole(image.shape[:2], mask, box, notes)
        window = _window(hole, size)
        part = files.resize(image[window], size)
        # Every resized pixel that the hole contributes to is part of the small hole.
        small = files.resize(hole[window][..., None] * np.uint8(255), size)
        filled = self.fill(part[None], small[None])["filled"][0]
        filled = files.resize(filled, hole[window].shape).numpy()
        image[hole] = filled[hole[window]]
        path.write_bytes(tf.io.encode_png(image).numpy())
        yield {"file": str(output), "pixels": int(hole.sum())}

    def signatures(self):
        """From images and masks to filled images, all of the model's own size."""
        height, width, channels = self.model.image_shape
        images = tf.TensorSpec((None, height, width, channels), "uint8")
        masks = tf.TensorSpec((None, height, width, 1), "uint8")
        random = np.random.default_rng(0)
        some_images = random.integers(0, 256, (2, height, width, channels), "uint8")
        some_masks = np.zeros((2, height, width, 1), "uint8")
        some_masks[:, : height // 2, : width // 2] = 1
        example = some_images, some_masks
        return {"fill": Signature(self.fill, (images, masks), example, portable=True)}


def _hole(size, mask, box, notes=None):
    """The hole as booleans `(height, width)`, from either a mask or a box."""
    if bool(mask) == bool(box):
        raise ValueError("mask: give an image file as mask, or box as TOP,LEFT,HEIGHT,WIDTH")
    return _hole_of_mask(size, mask, notes or Notes()) if mask else _hole_of_box(size, box)


def _hole_of_mask(size, mask, notes):
    # Transparent pixels of a mask count as dark.
    reader = files.ImageReader("mask", 1, background=0)
    hole = reader.read(pathlib.Path(mask)).numpy()[..., 0] > 127
    reader.tell(notes)
    if hole.shape != size:
        raise ValueError(f"mask: {str(mask)!r} is {hole.shape} pixels but the image is {size}")
    if not hole.any():
        raise ValueError(f"mask: {str(mask)!r} has no light pixel")
    if hole.all():
        raise ValueError(f"mask: {str(mask)!r} has only light pixels")
    return hole


def _hole_of_box(size, box):
    try:
        top, left, height, width = map(int, str(box).split(","))
    except ValueError:
        raise ValueError(
            f"box: {short_repr(box)}, expected TOP,LEFT,HEIGHT,WIDTH in pixels"
        ) from None
    inside = min(top, left) >= 0 and min(height, width) >= 1
    if not inside or top + height > size[0] or left + width > size[1] or (height, width) == size:
        raise ValueError(
            f"box: {short_repr(box)}, expected a part of the image's {size[0]} x {size[1]}"
        )
    hole = np.zeros(size, "bool")
    hole[top : top + height, left : left + width] = True
    return hole


def _window(hole, size):
    """Slices of the window around a hole that the model gets, with its aspect ratio."""
    places = [np.flatnonzero(hole.any(axis)) for axis in (1, 0)]
    spans = [(int(inside[0]), int(inside[-1]) + 1) for inside in places]
    scale = max(1.0, *(2 * (end - begin) / n for (begin, end), n in zip(spans, size, strict=True)))
    window = []
    for (begin, end), n, whole in zip(spans, size, hole.shape, strict=True):
        length = min(whole, math.ceil(scale * n))
        first = min(max(0, (begin + end - length) // 2), whole - length)
        window.append(slice(first, first + length))
    return tuple(window)
