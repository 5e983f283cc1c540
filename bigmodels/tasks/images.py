"""Functions for inference that the tasks on images share."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bigmodels.tasks.record import Signature


def image_signatures(
    shape: tuple[int, int, int], any_size: Callable, encoded: Callable, own_size: Callable
) -> dict[str, Signature]:
    """Signatures of a model for images, named after their functions.

    Args:
        shape: `(height, width, channels)` of the model.
        any_size: Function of uint8 images `(batch, height, width, channels)` of any size.
        encoded: Function of encoded images, strings `(batch,)`. It is omitted if no image format
            has the model's number of channels.
        own_size: Function of uint8 images of the model's own size, for all formats of export.

    Returns:
        `{name: Signature}`.

    Example:

    >>> def mean(images):
    ...     return {"mean": tf.reduce_mean(tf.cast(images, "float32"), (1, 2, 3))}
    >>> list(image_signatures((8, 8, 1), mean, mean, mean))
    ['mean']
    """
    height, width, channels = shape
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2, *shape), "uint8")
    large = random.integers(0, 256, (2, height + 5, width + 3, channels), "uint8")
    rows = [(any_size, tf.TensorSpec((None, None, None, channels), "uint8"), large, False)]
    if channels in (1, 3, 4):
        files = np.array([tf.io.encode_png(image).numpy() for image in large])
        rows.append((encoded, tf.TensorSpec((None,), "string"), files, False))
    rows.append((own_size, tf.TensorSpec((None, *shape), "uint8"), small, True))
    return {
        function.__name__: Signature(function, (spec,), (example,), portable)
        for function, spec, example, portable in rows
    }


def png_path(output: str | os.PathLike) -> pathlib.Path:
    """Check the path of an image to write.

    Args:
        output: The option `output` of a task's `predict`.

    Returns:
        The path.

    Raises:
        ValueError: if it is not a `.png` in an existing directory.

    Example:

    >>> png_path("samples.png").name
    'samples.png'
    """
    path = pathlib.Path(output)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ValueError(f"output: {str(output)!r}, expected a .png in an existing directory")
    return path
