"""Find, read, decode and resize the user's image files."""

import io
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from bigmodels.data import exif
from bigmodels.data.image_header import check_image
from bigmodels.data.notes import Notes

# Name in notes for files that are left out because of `data.skip_bad_files`.
BAD_FILES = "bad files"
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pnm", ".ppm", ".pgm", ".pbm"),
)
# Files and folders that operating systems and programs create, besides hidden ones.
_JUNK = {
    *("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__"),
    *("lost+found", "system volume information"),
}
_MAX_IMAGE_BYTES = 1 << 30
_OPAQUE = 255
# TensorFlow overruns its buffer when it decodes these as one frame.
_ANIMATED_WEBP = r"(?s)RIFF\C{4}WEBP\C*ANMF\C*"
# TIFF, PNM, GIF, animated WebP, and grey or RGB PNG with one transparent colour.
_FOR_PILLOW = (
    r"(?s)(?:II\*\x00|MM\x00\*|P[1-6]\s|GIF8|RIFF\C{4}WEBP\C*ANMF|"
    r"\CPNG\r\n\x1a\n\C{4}IHDR\C{9}[\x00\x02]\C*tRNS)\C*"
)
# Notes of an `ImageReader` about files that it has read.
_REMARKS = (
    "with transparent parts, blended with {}",
    "with several frames, of which the first is read",
    "with 16 bits per channel, of which the upper 8 are read",
)


def list_images(path: str | os.PathLike, notes: Notes | None = None) -> list[pathlib.Path]:
    """List an image file, or the image files in and below a directory.

    Args:
        path: File or directory.
        notes: A `Notes` for the files that are left out; by default a new one.

    Returns:
        A list of `pathlib.Path`, sorted.

    Raises:
        ValueError: if the path does not exist, or the directory contains no image files.

    Example:

    >>> import pathlib
    >>> pathlib.Path("images").mkdir()
    >>> for name in ("b.png", "a.png", "readme.txt"):
    ...     pathlib.Path("images", name).touch()
    >>> [path.name for path in list_images("images")]
    ['a.png', 'b.png']
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
        raise ValueError(f"input: {str(path)!r} contains no image {IMAGE_SUFFIXES}")
    return found


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or created by a system or a program for itself.

    Args:
        name: Its name without the path.

    Returns:
        A bool.

    Example:

    >>> [is_junk(name) for name in (".DS_Store", "Thumbs.db", "cat.png")]
    [True, True, False]
    """
    return name.startswith(".") or name.lower() in _JUNK


class Listing:
    """Lists folders and images, and records the files that are not used."""

    def __init__(self):
        self.junk, self.others, self.links = [], [], []

    def folders(self, where: pathlib.Path) -> list[str]:
        """List the names of a folder's folders, without hidden and system ones."""
        names = folders("images", where)
        self.junk += [where / name for name in names if is_junk(name)]
        return [name for name in names if not is_junk(name)]

    def images_in(self, where: pathlib.Path) -> list[pathlib.Path]:
        """List the images directly in a folder."""
        paths = sorted(path for path in where.iterdir() if not path.is_dir())
        return [path for path in paths if self._is_image(path)]

    def images_below(self, argument: str, folder: pathlib.Path) -> list[pathlib.Path]:
        """List the images in a folder and below it, sorted."""

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

    def tell(self, argument: str, notes: Notes) -> None:
        """Add notes about the files and folders that were not used."""
        for what, paths in (
            ("hidden and system files or folders", self.junk),
            ("files that are not read as images", self.others),
            ("links to folders in class folders", self.links),
        ):
            notes.leave_out(argument, what, [*dict.fromkeys(paths)])


def _named_like_image(name):
    return pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES


class ImageReader:
    """Reads image files one by one, and records what is left out or converted.

    Args:
        argument: Beginning of messages, for example `"images"`.
        channels: As for `decode_image`; `None` for 1 or 3, as the file has.
        skip_bad_files: Whether to leave out unreadable files instead of raising an error.
        background: As for `decode_image`, 255 or 0.

    Attributes:
        bad: `{path: reason}` of the files that were left out.

    Example:

    >>> import pathlib
    >>> keras.utils.save_img("grey.png", np.zeros((4, 6, 1)), scale=False)
    >>> ImageReader("images", channels=3).read(pathlib.Path("grey.png")).shape
    TensorShape([4, 6, 3])
    """

    def __init__(
        self,
        argument: str,
        channels: int | None = None,
        skip_bad_files: bool = False,
        background: int = 255,
    ):
        self.bad, self._seen = {}, {what: [] for what in _REMARKS}
        self._argument, self._channels, self._skips = argument, channels, skip_bad_files
        self._background = background

    def read(self, path: pathlib.Path) -> tf.Tensor | None:
        """Read an image.

        Args:
            path: A `pathlib.Path`.

        Returns:
            uint8 tensor `(height, width, channels)`, or `None` if the file was left out.

        Raises:
            ValueError: if the file cannot be read; the message has its path and the reason.
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

    def refuse(self, path: pathlib.Path, reason: str) -> None:
        """Leave out a file for a reason that the caller found, or raise an error.

        Args:
            path: Path of the file.
            reason: What the message says after the path.

        Raises:
            ValueError: if bad files are not skipped.
        """
        if not self._skips:
            raise ValueError(f"{self._argument}: {str(path)!r} {reason}")
        self.bad[path] = reason

    def tell(self, notes: Notes) -> None:
        """Add notes about files that were left out or converted.

        Args:
            notes: A `Notes`.
        """
        notes.leave_out(self._argument, BAD_FILES, self.bad)
        for what, paths in self._seen.items():
            if paths:
                count = "1 image" if len(paths) == 1 else f"{len(paths):,} images"
                what = what.format("white" if self._background else "black")
                notes.say(f"{self._argument}: {count} {what}; the first is {str(paths[0])!r}.")


def read_images(
    path: str | os.PathLike, channels: int, skip_bad_files: bool = False
) -> Iterator[tuple[pathlib.Path, tf.Tensor]]:
    """Read the images of a file or a directory one by one, with notes on stderr.

    Args:
        path: File or directory.
        channels: As for `decode_image`.
        skip_bad_files: Whether to leave out unreadable files of a directory.

    Yields:
        `(path, image)`, the image as from `read_image`.

    Raises:
        ValueError: if a path does not exist or is not an image; the message names it.

    Example:

    >>> keras.utils.save_img("dark.png", np.zeros((4, 6, 3)), scale=False)
    >>> [(path.name, image.shape) for path, image in read_images("dark.png", channels=3)]
    [('dark.png', TensorShape([4, 6, 3]))]
    """
    notes = Notes()
    reader = ImageReader("input", channels, skip_bad_files and os.path.isdir(path))
    for file in list_images(path, notes):
        if (image := reader.read(file)) is not None:
            yield file, image
    reader.tell(notes)


def orientation(path: str | os.PathLike) -> int:
    """Read the EXIF orientation of an image file.

    Args:
        path: Path of the file.

    Returns:
        An integer from 1 (upright) to 8.

    Example:

    >>> keras.utils.save_img("upright.png", np.zeros((4, 6, 3)), scale=False)
    >>> orientation("upright.png")
    1
    """
    return int(exif.orientation(tf.io.read_file(os.fsencode(path))))


def read_image(path: str | os.PathLike, channels: int, argument: str = "input") -> tf.Tensor:
    """Read an image file with a given number of channels.

    Args:
        path: Path of the file.
        channels: As for `decode_image`.
        argument: Beginning of messages.

    Returns:
        uint8 tensor `(height, width, channels)`, upright according to the EXIF orientation.

    Raises:
        ValueError: if the file cannot be read; the message has its path and the reason.

    Example:

    >>> keras.utils.save_img("black.png", np.zeros((4, 6, 3)), scale=False)
    >>> read_image("black.png", channels=1).shape
    TensorShape([4, 6, 1])
    """
    return ImageReader(argument, channels).read(pathlib.Path(path))


def decode_image(contents: tf.Tensor | bytes, channels: int, background: int = 255) -> tf.Tensor:
    """Decode an image, upright according to its EXIF orientation; also works in a graph.

    Args:
        contents: PNG, JPEG, BMP, WebP without animation, or GIF (first frame), a scalar string. Use
            `readable` to convert other formats.
        channels: 1 for grey, 3 for RGB, 4 for RGBA. For 1 and 3, transparent parts are blended with
            the background.
        background: Brightness of the background, 255 for white.

    Returns:
        uint8 tensor `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: if it is not an image.

    Example:

    >>> contents = tf.io.encode_png(tf.zeros((4, 6, 1), "uint8"))
    >>> decode_image(contents, channels=3).shape
    TensorShape([4, 6, 3])
    """
    return _with_channels(_decode(contents), channels, background)


def _with_channels(image, channels, background):
    """Convert an image of 1 to 4 channels to 1, 3 or 4 channels."""
    is_grey = tf.shape(image)[-1] < 3
    has_alpha = tf.shape(image)[-1] % 2 == 0
    if channels == 4:
        image = tf.cond(has_alpha, lambda: image, lambda: _with_alpha(image))
        wanted = tf.cond(is_grey, lambda: tf.gather(image, [0, 0, 0, 1], axis=-1), lambda: image)
        return tf.ensure_shape(wanted, (None, None, 4))
    image = tf.cond(has_alpha, lambda: _blended(image, background), lambda: image)

    def grey():
        return tf.ensure_shape(image, (None, None, 1))

    def colour():
        return tf.ensure_shape(image, (None, None, 3))

    if channels == 1:
        return tf.cond(is_grey, grey, lambda: tf.image.rgb_to_grayscale(colour()))
    return tf.cond(is_grey, lambda: tf.image.grayscale_to_rgb(grey()), colour)


def _decode(contents):
    """Decode an image with the channels it has, upright, `(height, width, 1 to 4)`."""
    animated = tf.strings.regex_full_match(contents, _ANIMATED_WEBP)
    image = tf.io.decode_image(tf.where(animated, "", contents), expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))
    # The fourth byte of a BMP is not alpha.
    is_bmp = tf.strings.regex_full_match(contents, r"(?s)BM\C*")
    image = tf.cond(is_bmp, lambda: image[..., :3], lambda: image)
    return exif.upright(image, exif.orientation(contents))


def _with_alpha(image):
    return tf.concat([image, tf.fill(tf.shape(image[..., :1]), tf.constant(_OPAQUE, "uint8"))], -1)


def _blended(image, background):
    """Blend an image whose last channel is alpha with a grey background."""
    pixels = tf.cast(image, "float32")
    alpha = pixels[..., -1:] / 255
    pixels = pixels[..., :-1] * alpha + background * (1 - alpha)
    return tf.cast(tf.round(pixels), "uint8")


def readable(contents: tf.Tensor) -> tf.Tensor:
    """Convert an encoded image so that TensorFlow can decode it; also works in a graph.

    Pillow converts TIFF, PNM, GIF, animated WebP and images with one transparent colour to PNG.
    Others stay as they are.

    Args:
        contents: Bytes of a file, a scalar string.

    Returns:
        Scalar string.

    Example:

    >>> pnm = tf.data.Dataset.from_tensors(b"P5\\n2 1\\n255\\nab")
    >>> contents = next(iter(pnm.map(readable)))
    >>> decode_image(contents, channels=1).numpy().tolist()
    [[[97], [98]]]
    """
    return tf.cond(
        tf.strings.regex_full_match(contents, _FOR_PILLOW),
        lambda: tf.ensure_shape(tf.numpy_function(_as_png, [contents], "string"), ()),
        lambda: tf.identity(contents),
    )


def read_file(path: tf.Tensor | str, channels: int) -> tf.Tensor:
    """Read an image file, without the checks of `ImageReader`; also works in a graph.

    Args:
        path: Scalar string.
        channels: As for `decode_image`.

    Returns:
        uint8 tensor `(height, width, channels)`.

    Example:

    >>> keras.utils.save_img("photo.png", np.zeros((4, 6, 3)), scale=False)
    >>> read_file("photo.png", channels=3).shape
    TensorShape([4, 6, 3])
    """
    return decode_image(readable(tf.io.read_file(path)), channels)


def _as_png(contents):
    """Convert an image that Pillow reads to an upright PNG."""
    try:
        return _reencoded(np.asarray(contents, object).item())  # Eagerly it is an array of bytes.
    except ValueError:
        raise
    except Exception as error:  # A damaged file may raise anything.
        raise ValueError(f"it is damaged: {error}") from None


def _reencoded(contents):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About damaged tags and large images.
        with Image.open(io.BytesIO(contents)) as image:
            image.load()
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels have 32 bits (mode {image.mode}), not 8 or 16")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # Keep the upper eight bits, as TensorFlow does.
                image = Image.fromarray((np.asarray(image, "uint16") >> 8).astype("uint8"))
            grey = image.mode in ("1", "L", "LA")
            if image.has_transparency_data:
                image = image.convert("LA" if grey else "RGBA")
            else:
                image = image.convert("L" if grey else "RGB")
            image.info.clear()  # Including the orientation, as the image is upright now.
            written = io.BytesIO()
            image.save(written, "PNG", compress_level=1)
    return written.getvalue()


def decode_images(contents: tf.Tensor, shape: tuple[int, int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode images and resize them to one size; also works in a graph.

    Args:
        contents: Strings `(n,)`, each as for `decode_image`.
        shape: `(height, width, channels)`, the last as for `decode_image`.

    Returns:
        `(images, sizes)`: uint8 tensor `(n, height, width, channels)`, and int32 tensor `(n, 2)`,
        the original heights and widths.

    Raises:
        tf.errors.InvalidArgumentError: if one is not an image.

    Example:

    >>> contents = tf.io.encode_png(tf.zeros((4, 6, 3), "uint8"))
    >>> images, sizes = decode_images(contents[None], (8, 8, 3))
    >>> images.shape, sizes.numpy().tolist()
    (TensorShape([1, 8, 8, 3]), [[4, 6]])
    """

    def read(one):
        image = decode_image(one, shape[-1])
        return resize(image, shape[:2]), tf.shape(image)[:2]

    specs = tf.TensorSpec(shape, "uint8"), tf.TensorSpec((2,), "int32")
    return tf.map_fn(read, contents, fn_output_signature=specs)


def resize(image: tf.Tensor | np.ndarray, size: tuple[int, int]) -> tf.Tensor:
    """Resize images with antialiasing, in the same way for training and prediction.

    Args:
        image: uint8 `(height, width, channels)`, or a batch of them.
        size: `(height, width)` in pixels.

    Returns:
        uint8 tensor of the new size.

    Example:

    >>> resize(np.zeros((4, 6, 3), "uint8"), (2, 3)).shape
    TensorShape([2, 3, 3])
    """
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def folders(argument: str, root: pathlib.Path) -> list[str]:
    """List the names of a directory's folders, sorted, including links to folders.

    Args:
        argument: Beginning of messages.
        root: Path of the directory.

    Returns:
        A list of strings.

    Raises:
        ValueError: if the directory cannot be listed, a link is broken or leads to a parent of the
            directory, or a name is not UTF-8; the message names it.

    Example:

    >>> import pathlib
    >>> for name in ("dog", "cat"):
    ...     pathlib.Path("pets", name).mkdir(parents=True)
    >>> folders("images", pathlib.Path("pets"))
    ['cat', 'dog']
    """
    try:
        paths = sorted(root.iterdir())
    except OSError as error:
        raise ValueError(f"{argument}: {str(root)!r} cannot be listed: {error.strerror}") from None
    names = []
    for path in paths:
        where = f"{argument}: {str(path)!r}"
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{where} is a broken or circular link")
        if not path.is_dir():
            continue
        if root.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{where} is a link to a folder that contains it")
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}: the folder's name is not UTF-8") from None
        names.append(path.name)
    return names


def named_like(
    argument: str, folder: str | os.PathLike, suffixes: tuple[str, ...]
) -> list[pathlib.Path]:
    """List the files and folders below a folder that have one of these suffixes, sorted.

    Args:
        argument: Beginning of messages.
        folder: Path of the folder.
        suffixes: Suffixes in lower case, with dots.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: if a folder cannot be listed; the message names it.

    Example:

    >>> import pathlib
    >>> pathlib.Path("a.CSV").touch()
    >>> [path.name for path in named_like("csv", ".", (".csv",))]
    ['a.CSV']
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
    """Read a file; returns the upright image with the channels it has, and its `Header`."""
    try:
        # Links are followed. Opening a pipe or a device could block forever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ValueError(f"cannot be read: it is {kind}")
        if status.st_size > _MAX_IMAGE_BYTES:
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
