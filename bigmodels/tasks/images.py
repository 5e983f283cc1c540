"""What the tasks on images share: settings, the call of the loader, functions for inference."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bigmodels.data import ImageData, load_images
from bigmodels.fields import check_image_size, setting
from bigmodels.tasks.record import Signature
from bigmodels.tasks.settings import Config


@dataclasses.dataclass(frozen=True)
class ImageDataConfig:
    """How images are read."""

    image_size: tuple[int, ...] = setting(
        (),
        "HEIGHT,WIDTH in pixels to resize images to; empty: no resizing.",
        check=check_image_size,
    )
    skip_bad_files: bool = setting(
        False, "Skip files that cannot be read, with a note in the report, instead of stopping."
    )


def load_images_for(config: Config, **options: Any) -> ImageData:
    """Load the images that a config names, in the way that it says.

    Args:
        config: A `Config` whose `data` is an `ImageDataConfig`.
        **options: Other arguments of `bigmodels.data.load_images`, or values instead of the
            config's.

    Returns:
        An `ImageData`.

    Example:

    >>> config = bigmodels.tasks.get("image_generation").config()
    >>> load_images_for(config, scale=(-1.0, 1.0)).scale
    (-1.0, 1.0)
    """
    settings = {
        "batch_size": config.batch_size,
        "data_dir": config.data_dir,
        "image_size": config.data.image_size or None,
        "skip_bad_files": config.data.skip_bad_files,
        "seed": config.seed,
    }
    return load_images(config.dataset, **settings | options)


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
