"""What the tasks with images share in inference."""

import pathlib

import numpy as np
import tensorflow as tf

from bigmodels.tasks.record import Signature


def image_signatures(shape, any_size, encoded, own_size):
    """Signatures of a model for images, each named after its function.

    Args:
        shape: The model's `(height, width, channels)`.
        any_size: Function of images as pixels, uint8 `(batch, height, width, channels)`, of any
            size.
        encoded: Function of image files' bytes, strings `(batch,)`. It is left out where no image
            file has the model's channels.
        own_size: Function of pixels of the model's own size, which any runtime can hold.

    Returns:
        `{name: Signature}`.
    """
    height, width, channels = shape
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, *shape), "uint8")
    large = random.integers(0, 256, (2, height + 5, width + 3, channels), "uint8")
    each = [(any_size, tf.TensorSpec((None, None, None, channels), "uint8"), large, False)]
    if channels in (1, 3, 4):
        files = np.array([tf.io.encode_png(image).numpy() for image in large])
        each.append((encoded, tf.TensorSpec((None,), "string"), files, False))
    each.append((own_size, tf.TensorSpec((None, *shape), "uint8"), small, True))
    return {
        function.__name__: Signature(function, (spec,), (example,), portable)
        for function, spec, example, portable in each
    }


def png_path(output):
    """Where to write a picture.

    Args:
        output: What the user gave for `output`.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: if it is no `.png` in a directory that exists.
    """
    path = pathlib.Path(output)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ValueError(f"output: {str(output)!r}, expected a .png in an existing directory")
    return path
