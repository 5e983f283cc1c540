"""The user's own images: a folder for each class."""

import os
import pathlib
import stat

import numpy as np
import tensorflow as tf

from bigmodels.data.image_header import check_image
from bigmodels.data.split import stratified_split

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_SPLITS = ("train", "validation", "test")
_MAX_IMAGE_BYTES = 1 << 30


def image_folder(directory, image_size=None, skip_bad_files=False):
    """Images in one folder per class.

    If the directory holds folders named train, validation and test, those are the splits (what is
    missing of validation and test is cut from train); otherwise its folders are the classes and
    the images are split 80/10/10, every class alike, the same way each time.

    Symbolic links to files, and a class that is a link to a folder, are followed, wherever they
    lead; links to folders further down are not. A link that leads nowhere or in a circle is an
    error like a file that is no image.

    Args:
        directory: Path.
        image_size: `(height, width)` to resize to; needed if the images differ in size.
        skip_bad_files: Whether to leave out files that cannot be read, instead of raising.

    Returns:
        `(splits, class_names, bad)`: the first two as from `embedded.digits`; what was left out,
        as a dict of paths and reasons.

    Raises:
        ValueError: naming the directory or file that does not fit: no classes, too few images, a
            file that is not an image, sizes that differ.
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"images: {str(root)!r} is not a directory")
    given = [name for name in _SPLITS if (root / name).is_dir()]
    class_root = root / "train" if "train" in given else root
    names = folders("images", class_root)
    if len(names) < 2:
        raise ValueError(
            f"images: {str(class_root)!r} has {len(names)} folders, expected one per class "
            "and at least two"
        )
    roots = {split: root / split for split in given} if "train" in given else {"train": root}
    files = {split: _list_images(where, names) for split, where in roots.items()}
    shapes, bad = _look_at(files, skip_bad_files)
    if bad:
        files = {split: _without(bad, *files[split], names) for split in files}
    missing = [split for split in _SPLITS if split not in files]
    if missing:
        paths, labels = files["train"]
        cut = _split(paths, labels, str(class_root))
        if "train" not in given:
            files = cut
        else:
            files |= {split: cut[split] for split in missing}
            moved = set().union(*(cut[split][0] for split in missing))
            pairs = [(p, y) for p, y in zip(paths, labels, strict=True) if p not in moved]
            files["train"] = tuple(zip(*pairs, strict=True))
    shape = _common_shape(shapes, image_size)

    def read(path, label):
        image = decode_image(tf.io.read_file(path), shape[-1])
        if image_size is not None:
            image = resize(image, image_size)
        return tf.ensure_shape(image, shape), label

    return (
        {
            split: tf.data.Dataset.from_tensor_slices(
                ([os.fsencode(p) for p in paths], np.asarray(labels, "int64"))
            ).map(read, num_parallel_calls=tf.data.AUTOTUNE)
            for split, (paths, labels) in files.items()
        },
        names,
        bad,
    )


def list_images(path):
    """An image file, or the files of a directory that are named like images.

    Raises:
        ValueError: if the path does not exist, or the directory holds none.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        raise ValueError(f"input: {str(path)!r} does not exist")
    if not path.is_dir():
        return [path]
    found = named_like("input", path, _IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"input: {str(path)!r} holds no image {_IMAGE_SUFFIXES}")
    return found


def read_image(path, channels, argument="input"):
    """One image file with as many channels as wanted, grey (1) or colour (3).

    Args:
        path: Path.
        channels: As for `decode_image`.
        argument: What messages begin with.

    Returns:
        uint8 tensor `(height, width, channels)`.

    Raises:
        ValueError: naming the file, and why it is not an image.
    """
    return _read_image(argument, path, lambda contents: decode_image(contents, channels))


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


def decode_images(contents, shape):
    """The pixels of encoded images, all at one size, also in a graph.

    Args:
        contents: Strings `(n,)`, each as for `decode_image`.
        shape: `(height, width, channels)`, the last as for `decode_image`.

    Returns:
        `(images, sizes)`: uint8 tensor `(n, height, width, channels)`; int32 tensor `(n, 2)`, the
        heights and widths that they had.

    Raises:
        tf.errors.InvalidArgumentError: if one is not an image.
    """

    def read(one):
        image = decode_image(one, shape[-1])
        return resize(image, shape[:2]), tf.shape(image)[:2]

    specs = tf.TensorSpec(shape, "uint8"), tf.TensorSpec((2,), "int32")
    return tf.map_fn(read, contents, fn_output_signature=specs)


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


def folders(argument, root):
    """The names of a directory's folders, in order, each of which must lead somewhere.

    Args:
        argument: What a message begins with.
        root: Path.

    Returns:
        A list of strings.

    Raises:
        ValueError: naming what cannot be listed, the link that leads nowhere or back, or the name
            that is not UTF-8.
    """
    try:
        paths = sorted(root.iterdir())
    except OSError as error:
        raise ValueError(f"{argument}: {str(root)!r} cannot be listed: {error.strerror}") from None
    names = []
    for path in paths:
        where = f"{argument}: {str(path)!r}"
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{where} is a link that leads nowhere or in a circle")
        if not path.is_dir():
            continue
        if root.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{where} is a link back to what it lies in")
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}: the folder's name is not UTF-8") from None
        names.append(path.name)
    return names


def named_like(argument, folder, suffixes):
    """What has one of these suffixes, in a folder and below it, in order; folders too.

    Args:
        argument: What a message begins with.
        folder: Path.
        suffixes: In lower case, with their dots.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: naming the folder that cannot be listed.
    """

    def fail(error):
        raise ValueError(f"{argument}: {error.filename!r} cannot be listed: {error.strerror}")

    return sorted(
        pathlib.Path(where, name)
        for where, folders, names in os.walk(folder, onerror=fail)
        for name in (*folders, *names)
        if pathlib.Path(name).suffix.lower() in suffixes
    )


def _list_images(root, names):
    paths, labels = [], []
    for folder in folders("images", root):
        if folder not in names:
            raise ValueError(f"images: {str(root / folder)!r} is no class of the training images")
    for label, name in enumerate(names):
        found = named_like("images", root / name, _IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"images: {str(root / name)!r} holds no image {_IMAGE_SUFFIXES}")
        paths += found
        labels += [label] * len(found)
    return tuple(paths), tuple(labels)


def _without(bad, paths, labels, names):
    """Paths and labels without the bad files; of each class one must be left."""
    good = [(p, y) for p, y in zip(paths, labels, strict=True) if p not in bad]
    for label in set(labels) - {y for _, y in good}:
        path = paths[labels.index(label)]
        raise ValueError(
            f"images: of class {names[label]!r} no image is left, all {labels.count(label)} files "
            f"are bad; {str(path)!r}, for one, {bad[path]}"
        )
    return tuple(zip(*good, strict=True))


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


def _look_at(files, skip_bad_files):
    """Decode every file once.

    Returns:
        `(shapes, bad)`: the shape of each image by path, and the reason of each file that is none.

    Raises:
        ValueError: naming the first that is none, unless they are to be skipped.
    """
    shapes, bad = {}, {}
    for path in sorted({path for paths, _ in files.values() for path in paths}):
        try:
            shapes[path] = _read_image("images", path, _decode).shape
        except ValueError as error:
            if not skip_bad_files:
                raise
            bad[path] = str(error).removeprefix(f"images: {str(path)!r} ")
    return shapes, bad


def _decode(contents):
    return tf.io.decode_image(contents, expand_animations=False)


def _read_image(argument, path, decode):
    """What `decode` makes of a file's bytes, if they are a whole image of a bearable size."""
    try:
        # A link is followed. To open a pipe or a device could take for ever.
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise ValueError(f"cannot be read: it is {kind}")
        if found.st_size > _MAX_IMAGE_BYTES:
            raise ValueError(f"cannot be read: it has more than {_MAX_IMAGE_BYTES:,} bytes")
        contents = path.read_bytes()
        try:
            check_image(contents)
            return decode(contents)
        except tf.errors.OpError as error:
            reason = error.message.rpartition("}} ")[2].partition(" [Op")[0]
            raise ValueError(f"cannot be decoded: {reason}") from None
        except ValueError as error:
            raise ValueError(f"cannot be decoded: {error}") from None
    except OSError as error:
        link = "a symbolic link: " if path.is_symlink() else ""
        reason = f"cannot be read: {link}{error.strerror}"
    except ValueError as error:
        reason = " ".join(str(error).split())
    raise ValueError(f"{argument}: {str(path)!r} {reason}")


def _common_shape(shapes, image_size):
    """The shape that images share, or an error that names the first misfit."""
    (first, (*size, _)), *_ = shapes.items()
    for path, shape in shapes.items():
        if image_size is None and list(shape[:2]) != size:
            raise ValueError(
                f"images: {str(path)!r} is {tuple(shape[:2])} pixels but {str(first)!r} is "
                f"{tuple(size)}; set data.image_size=HEIGHT,WIDTH to resize them"
            )
    colour = any(shape[-1] >= 3 for shape in shapes.values())
    return (*(image_size or size), 3 if colour else 1)
