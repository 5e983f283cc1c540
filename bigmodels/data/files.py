"""The user's own files: a folder of images by class, a text file."""

import pathlib

import numpy as np
import tensorflow as tf

from bigmodels.data.embedded import stratified_split

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_SPLITS = ("train", "validation", "test")


def image_folder(directory, image_size=None):
    """Images in one folder per class.

    If the directory holds folders named train, validation and test, those are the splits (what is
    missing of validation and test is cut from train); otherwise its folders are the classes and
    the images are split 80/10/10, every class alike, the same way each time.

    Args:
        directory: Path.
        image_size: `(height, width)` to resize to; needed if the images differ in size.

    Returns:
        `(splits, class_names)` as from `embedded.digits`.

    Raises:
        ValueError: naming the directory or file that does not fit: no classes, too few images, a
            file that is not an image, sizes that differ.
    """
    root = pathlib.Path(directory)
    if not root.is_dir():
        raise ValueError(f"images: {str(root)!r} is not a directory")
    given = [name for name in _SPLITS if (root / name).is_dir()]
    class_root = root / "train" if "train" in given else root
    names = sorted(p.name for p in class_root.iterdir() if p.is_dir())
    if len(names) < 2:
        raise ValueError(
            f"images: {str(class_root)!r} has {len(names)} folders, expected one per class "
            "and at least two"
        )
    if "train" in given:
        files = {split: _list_images(root / split, names) for split in given}
        missing = [split for split in _SPLITS if split not in given]
        if missing:
            paths, labels = files["train"]
            cut = _split(paths, labels, str(class_root))
            for split in missing:
                files[split] = cut[split]
            moved = set().union(*(cut[split][0] for split in missing))
            pairs = [(p, y) for p, y in zip(paths, labels, strict=True) if p not in moved]
            files["train"] = tuple(zip(*pairs, strict=True))
    else:
        files = _split(*_list_images(root, names), str(root))
    shape = _common_shape(files, image_size)

    def read(path, label):
        image = tf.io.decode_image(tf.io.read_file(path), shape[-1], expand_animations=False)
        if image_size is not None:
            image = resize(image, image_size)
        return tf.ensure_shape(image, shape), label

    return {
        split: tf.data.Dataset.from_tensor_slices(
            ([str(p) for p in paths], np.asarray(labels, "int64"))
        ).map(read, num_parallel_calls=tf.data.AUTOTUNE)
        for split, (paths, labels) in files.items()
    }, names


def list_images(path):
    """An image file, or the files of a directory that are named like images.

    Raises:
        ValueError: if the path does not exist, or the directory holds none.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"input: {str(path)!r} does not exist")
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"input: {str(path)!r} holds no image {_IMAGE_SUFFIXES}")
    return found


def read_image(path, channels):
    """One image file with as many channels as wanted, grey (1) or colour (3).

    Returns:
        uint8 tensor `(height, width, channels)`.

    Raises:
        ValueError: naming the file if it is not an image.
    """
    try:
        return decode_image(path.read_bytes(), channels)
    except (OSError, tf.errors.InvalidArgumentError):
        raise ValueError(f"input: {str(path)!r} is not an image that can be read") from None


def decode_image(contents, channels):
    """The pixels of an encoded image, also in a graph.

    Args:
        contents: PNG, JPEG, BMP or GIF (the first frame), a scalar string.
        channels: How many are wanted: 1 for grey, 3 for colour. Transparency is dropped.

    Returns:
        uint8 tensor `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: if it is not an image.
    """
    image = tf.io.decode_image(contents, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))

    def grey():
        return tf.ensure_shape(image[..., :1], (None, None, 1))

    def colour():
        return tf.ensure_shape(image[..., :3], (None, None, 3))

    is_grey = tf.shape(image)[-1] < 3
    if channels == 1:
        return tf.cond(is_grey, grey, lambda: tf.image.rgb_to_grayscale(colour()))
    return tf.cond(is_grey, lambda: tf.image.grayscale_to_rgb(grey()), colour)


def resize(image, size):
    """An image at another size, the same way for training and prediction.

    Args:
        image: uint8 tensor `(height, width, channels)`, or a batch of them.
        size: `(height, width)`.

    Returns:
        uint8 tensor.
    """
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def _list_images(root, names):
    paths, labels = [], []
    for folder in sorted(p.name for p in root.iterdir() if p.is_dir()):
        if folder not in names:
            raise ValueError(f"images: {str(root / folder)!r} is no class of the training images")
    for label, name in enumerate(names):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"images: {str(root / name)!r} holds no image {_IMAGE_SUFFIXES}")
        paths += found
        labels += [label] * len(found)
    return tuple(paths), tuple(labels)


def _split(paths, labels, where):
    counts = np.bincount(labels)
    if counts.min() < 10:
        raise ValueError(
            f"images: {where!r} has a class with {counts.min()} images; at least 10 are needed to "
            "split off validation and test"
        )
    return {
        split: (tuple(paths[i] for i in rows), tuple(labels[i] for i in rows))
        for split, rows in stratified_split(labels).items()
    }


def _common_shape(files, image_size):
    """Decode every file once: the shape they share, or an error that names the first misfit."""
    paths = sorted({path for split_paths, _ in files.values() for path in split_paths})
    first, shape, colour = paths[0], None, False
    for path in paths:
        try:
            image = tf.io.decode_image(path.read_bytes(), expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            reason = error.message.rpartition("}} ")[2].partition(" [Op")[0]
            raise ValueError(f"images: {str(path)!r} cannot be decoded: {reason}") from None
        colour = colour or image.shape[-1] >= 3
        if image_size is None and shape is not None and image.shape[:2] != shape:
            raise ValueError(
                f"images: {str(path)!r} is {tuple(image.shape[:2])} pixels but {str(first)!r} is "
                f"{tuple(shape)}; set data.image_size=HEIGHT,WIDTH to resize them"
            )
        shape = shape or image.shape[:2]
    size = tuple(image_size) if image_size is not None else tuple(shape)
    return (*size, 3 if colour else 1)


def text_file(path):
    """A text file in UTF-8.

    Args:
        path: Path.

    Returns:
        A string.

    Raises:
        ValueError: naming the file, and the line if it is not UTF-8 or holds a NUL byte.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"text: {str(path)!r} is not a file")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"text: {str(path)!r}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"text: {str(path)!r}, line {line}: NUL character")
    if not text.strip():
        raise ValueError(f"text: {str(path)!r} is empty")
    return text
