"""The user's own image files: which are read, and how."""

import io
import os
import pathlib
import stat
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from bigmodels.data import exif
from bigmodels.data.image_header import check_image
from bigmodels.data.notes import Notes

# What is left out as `data.skip_bad_files` asks for.
BAD_FILES = "bad files"
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pnm", ".ppm", ".pgm", ".pbm"),
)
# What systems and programs leave in folders, beside names that begin with a dot.
_JUNK = {
    *("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__"),
    *("lost+found", "system volume information"),
}
_MAX_IMAGE_BYTES = 1 << 30
_OPAQUE = 255
# TensorFlow writes the frames of such a file behind the memory that it has for one.
_ANIMATED_WEBP = r"(?s)RIFF\C{4}WEBP\C*ANMF\C*"
# TIFF, PNM, GIF, animated WebP, and PNG of grey or colours of which one stands for transparency.
_FOR_PILLOW = (
    r"(?s)(?:II\*\x00|MM\x00\*|P[1-6]\s|GIF8|RIFF\C{4}WEBP\C*ANMF|"
    r"\CPNG\r\n\x1a\n\C{4}IHDR\C{9}[\x00\x02]\C*tRNS)\C*"
)
# What an `ImageReader` says of files that it has read.
_REMARKS = (
    "with transparent parts, laid on {}",
    "with several frames, of which the first is read",
    "of 16 bits a channel, of which the upper 8 are read",
)


def list_images(path, notes=None):
    """An image file, or the files of a directory that are named like images.

    Args:
        path: Path.
        notes: A `bigmodels.data.notes.Notes`, to which it says which files it leaves out.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: if the path does not exist, or the directory holds none.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        raise ValueError(f"input: {str(path)!r} does not exist")
    if not path.is_dir():
        return [path]
    tally = Listing()
    found = tally.images_below("input", path)
    tally.tell("input", notes or Notes())
    if not found:
        raise ValueError(f"input: {str(path)!r} holds no image {IMAGE_SUFFIXES}")
    return found


def is_junk(name):
    """Whether a file or folder is a system's or a program's own."""
    return name.startswith(".") or name.lower() in _JUNK


class Listing:
    """Lists folders, and counts what in them is not used."""

    def __init__(self):
        self.junk, self.others, self.links = [], [], []

    def folders(self, where):
        """The names of a folder's folders that may mean something."""
        names = folders("images", where)
        self.junk += [where / name for name in names if is_junk(name)]
        return [name for name in names if not is_junk(name)]

    def images_in(self, where):
        """The images that lie in a folder itself."""
        paths = sorted(path for path in where.iterdir() if not path.is_dir())
        return [path for path in paths if self._is_image(path)]

    def images_below(self, argument, folder):
        """The images in a folder and below it, in order."""

        def fail(error):
            raise ValueError(f"{argument}: {error.filename!r} cannot be listed: {error.strerror}")

        found = []
        for where, inner, names in os.walk(folder, onerror=fail):
            where = pathlib.Path(where)
            self.junk += [where / name for name in inner if is_junk(name)]
            inner[:] = [name for name in inner if not is_junk(name)]
            named = [where / name for name in inner if _named_like_image(name)]
            self.links += [
                path for name in inner if (path := where / name).is_symlink() and path not in named
            ]
            found += named + [path for name in names if self._is_image(path := where / name)]
        return sorted(found)

    def _is_image(self, path):
        if is_junk(path.name):
            self.junk.append(path)
        elif _named_like_image(path.name):
            return True
        else:
            self.others.append(path)
        return False

    def tell(self, argument, notes):
        """Say what was not used."""
        for what, paths in (
            ("hidden and system files or folders", self.junk),
            ("files that are not read as images", self.others),
            ("links to folders in class folders", self.links),
        ):
            notes.leave_out(argument, what, [*dict.fromkeys(paths)])


def _named_like_image(name):
    return pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES


class ImageReader:
    """Reads image files one by one, and tallies what is left out and what may surprise.

    Args:
        argument: What messages begin with.
        channels: As for `decode_image`; `None` for as many as the file has, 1 or 3.
        skip_bad_files: Whether to leave out files that cannot be read, instead of raising.
        background: As for `decode_image`, 255 or 0.

    Attributes:
        bad: `{path: reason}` of the files that were left out.
    """

    def __init__(self, argument, channels=None, skip_bad_files=False, background=255):
        self.bad, self._seen = {}, {what: [] for what in _REMARKS}
        self._argument, self._channels, self._skips = argument, channels, skip_bad_files
        self._background = background

    def read(self, path):
        """One image.

        Args:
            path: A `pathlib.Path`.

        Returns:
            uint8 tensor `(height, width, channels)`; `None` for a file that was left out.

        Raises:
            ValueError: naming the file, and why it is not an image.
        """
        try:
            image, header = _read_image(self._argument, path)
        except ValueError as error:
            if not self._skips:
                raise
            self.bad[path] = str(error).removeprefix(f"{self._argument}: {str(path)!r} ")
            return None
        has_alpha = image.shape[-1] % 2 == 0 and self._channels != 4
        seen = (
            has_alpha and bool(tf.reduce_any(image[..., -1] < _OPAQUE)),
            header.frames > 1,
            header.bits > 8,
        )
        for paths, is_seen in zip(self._seen.values(), seen, strict=True):
            if is_seen:
                paths.append(path)
        channels = self._channels or (3 if image.shape[-1] >= 3 else 1)
        return _with_channels(image, channels, self._background)

    def refuse(self, path, reason):
        """Leave out a file for a reason that its user alone knows, or raise.

        Args:
            path: Path.
            reason: What follows its name.

        Raises:
            ValueError: if bad files are not to be left out.
        """
        if not self._skips:
            raise ValueError(f"{self._argument}: {str(path)!r} {reason}")
        self.bad[path] = reason

    def tell(self, notes):
        """Say what was left out, and what was read in another way than it may seem.

        Args:
            notes: A `bigmodels.data.notes.Notes`.
        """
        notes.leave_out(self._argument, BAD_FILES, self.bad)
        for what, paths in self._seen.items():
            if paths:
                count = "1 image" if len(paths) == 1 else f"{len(paths):,} images"
                what = what.format("white" if self._background else "black")
                notes.say(f"{self._argument}: {count} {what}; the first is {str(paths[0])!r}.")


def read_images(path, channels, skip_bad_files=False):
    """The images of a file or a directory one by one; what is left out is said on stderr.

    Args:
        path: Path.
        channels: As for `decode_image`.
        skip_bad_files: Whether to leave out files of a directory that cannot be read.

    Yields:
        `(path, image)`, the image as from `read_image`.

    Raises:
        ValueError: naming the path that does not exist or is no image.
    """
    notes = Notes()
    reader = ImageReader("input", channels, skip_bad_files and os.path.isdir(path))
    for file in list_images(path, notes):
        if (image := reader.read(file)) is not None:
            yield file, image
    reader.tell(notes)


def orientation(path):
    """The EXIF orientation of an image file, 1 to 8."""
    return int(exif.orientation(tf.io.read_file(os.fsencode(path))))


def read_image(path, channels, argument="input"):
    """One image file with as many channels as wanted.

    Args:
        path: Path.
        channels: As for `decode_image`.
        argument: What messages begin with.

    Returns:
        uint8 tensor `(height, width, channels)`, upright as its EXIF orientation says.

    Raises:
        ValueError: naming the file, and why it is not an image.
    """
    return ImageReader(argument, channels).read(pathlib.Path(path))


def decode_image(contents, channels, background=255):
    """The pixels of an encoded image, upright as its EXIF orientation says; also in a graph.

    Args:
        contents: PNG, JPEG, BMP, WebP without animation, or GIF (of which the first frame), a
            scalar string. What TensorFlow cannot read, `readable` turns into such.
        channels: How many are wanted: 1 for grey, 3 for colour, 4 for colour and opacity. For 1 and
            3, what is transparent is laid on the background.
        background: Its brightness, 255 for white.

    Returns:
        uint8 tensor `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: if it is not an image.
    """
    return _with_channels(_decode(contents), channels, background)


def _with_channels(image, channels, background):
    """An image of 1 to 4 channels as one of 1, 3 or 4."""
    is_grey = tf.shape(image)[-1] < 3
    has_alpha = tf.shape(image)[-1] % 2 == 0
    if channels == 4:
        image = tf.cond(has_alpha, lambda: image, lambda: _with_alpha(image))
        wanted = tf.cond(is_grey, lambda: tf.gather(image, [0, 0, 0, 1], axis=-1), lambda: image)
        return tf.ensure_shape(wanted, (None, None, 4))
    image = tf.cond(has_alpha, lambda: _laid(image, background), lambda: image)

    def grey():
        return tf.ensure_shape(image, (None, None, 1))

    def colour():
        return tf.ensure_shape(image, (None, None, 3))

    if channels == 1:
        return tf.cond(is_grey, grey, lambda: tf.image.rgb_to_grayscale(colour()))
    return tf.cond(is_grey, lambda: tf.image.grayscale_to_rgb(grey()), colour)


def _decode(contents):
    """An image as it is stored, turned upright, `(height, width, 1 to 4)`."""
    animated = tf.strings.regex_full_match(contents, _ANIMATED_WEBP)
    image = tf.io.decode_image(tf.where(animated, "", contents), expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))
    # Of a BMP the fourth byte means nothing.
    is_bmp = tf.strings.regex_full_match(contents, r"(?s)BM\C*")
    image = tf.cond(is_bmp, lambda: image[..., :3], lambda: image)
    return exif.upright(image, exif.orientation(contents))


def _with_alpha(image):
    return tf.concat([image, tf.fill(tf.shape(image[..., :1]), tf.constant(_OPAQUE, "uint8"))], -1)


def _laid(image, background):
    """An image whose last channel is its opacity, laid on grey of a brightness."""
    pixels = tf.cast(image, "float32")
    opacity = pixels[..., -1:] / 255
    pixels = pixels[..., :-1] * opacity + background * (1 - opacity)
    return tf.cast(tf.round(pixels), "uint8")


def readable(contents):
    """The bytes of an image file as TensorFlow can decode them, also in a graph.

    TIFF, PNM, GIF and images with a colour that stands for transparency become PNG by Pillow;
    others stay as they are.

    Args:
        contents: The bytes of a file, a scalar string.

    Returns:
        Scalar string.
    """
    return tf.cond(
        tf.strings.regex_full_match(contents, _FOR_PILLOW),
        lambda: tf.ensure_shape(tf.numpy_function(_as_png, [contents], "string"), ()),
        lambda: tf.identity(contents),
    )


def read_file(path, channels):
    """The image in a file that was looked at before, in a graph.

    Args:
        path: Scalar string.
        channels: As for `decode_image`.

    Returns:
        uint8 tensor `(height, width, channels)`.
    """
    return decode_image(readable(tf.io.read_file(path)), channels)


def _as_png(contents):
    """An image that Pillow reads as the bytes of a PNG, upright."""
    try:
        return _reencoded(contents)
    except ValueError:
        raise
    except Exception as error:  # A damaged file may raise anything.
        raise ValueError(f"it is damaged: {error}") from None


def _reencoded(contents):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of tags that are damaged, and of large images.
        with Image.open(io.BytesIO(contents)) as image:
            image.load()
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels are of 32 bits (mode {image.mode}), not 8 or 16")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # The upper eight, as TensorFlow does.
                image = Image.fromarray((np.asarray(image, "uint16") >> 8).astype("uint8"))
            grey = image.mode in ("1", "L", "LA")
            if image.has_transparency_data:
                image = image.convert("LA" if grey else "RGBA")
            else:
                image = image.convert("L" if grey else "RGB")
            image.info.clear()  # It is upright now.
            written = io.BytesIO()
            image.save(written, "PNG", compress_level=1)
    return written.getvalue()


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


def _read_image(argument, path):
    """The image in a file as it is stored, but upright, and its `Header`."""
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
            header = check_image(contents)
            if tf.strings.regex_full_match(contents, _FOR_PILLOW):
                contents = _as_png(contents)
            return _decode(contents), header
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
