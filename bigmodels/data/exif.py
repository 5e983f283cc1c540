"""EXIF orientation of images: read it and apply it, also in a graph.

A camera stores the pixels in the order of its sensor, and in the EXIF orientation how to rotate
them for display. Image viewers and the tools for drawing boxes and masks rotate them accordingly.
"""

import tensorflow as tf

# The marks of EXIF data in the three containers; most images have none.
_MAY_HAVE = r"(?s)\C*(?:Exif\x00\x00|eXIf|EXIF)\C*"
_ORIENTATION, _LONG = 0x0112, 4
_MARGIN = 32  # Zeros appended to the file, so that reading past its end gives no EXIF data.
_MOST_PARTS, _MOST_ENTRIES = 100_000, 1000


@tf.function(input_signature=[tf.TensorSpec((), "string")], autograph=False)
def orientation(contents: tf.Tensor | bytes) -> tf.Tensor:
    """Read the EXIF orientation of a JPEG, PNG or WebP file.

    Args:
        contents: Bytes of the file, a scalar string.

    Returns:
        int32 scalar from 1 to 8; 1 (upright) if the file has no orientation.

    Example:

    >>> int(orientation(tf.io.encode_png(tf.zeros((4, 6, 3), "uint8"))))
    1
    """
    may_have = tf.strings.regex_full_match(contents, _MAY_HAVE)
    return tf.cond(may_have, lambda: _orientation(contents), lambda: 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate and flip an image according to its EXIF orientation.

    Args:
        image: `(height, width, channels)` as stored.
        orientation: int32 scalar from 1 to 8.

    Returns:
        The upright image. Orientations from 5 on swap height and width.

    Example:

    >>> upright(tf.zeros((2, 3, 1)), tf.constant(6)).shape
    TensorShape([3, 2, 1])
    """

    def reoriented():
        result = tf.cond(
            orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: tf.identity(image)
        )
        for axis, flipped in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
            is_flipped = tf.reduce_any(orientation == tf.constant(flipped))
            result = tf.cond(
                is_flipped,
                lambda result=result, axis=axis: tf.reverse(result, [axis]),
                lambda result=result: result,
            )
        return result

    return tf.cond(orientation > 1, reoriented, lambda: tf.identity(image))


class _Bytes:
    """Bytes of a file, read as numbers at positions that are tensors."""

    def __init__(self, contents):
        raw = tf.io.decode_raw(contents, "uint8")
        self.size = tf.size(raw)
        self._raw = tf.concat([raw, tf.zeros(_MARGIN, "uint8")], 0)

    def number(self, position, count=1, little=False):
        """The unsigned integer in `count` bytes from each position on, int64."""
        position = tf.clip_by_value(tf.cast(position, "int64"), 0, tf.cast(self.size, "int64") + 24)
        digits = tf.gather(self._raw, position[..., None] + tf.range(count, dtype="int64"))
        weights = tf.constant([256**i for i in reversed(range(count))], "int64")
        weights = tf.where(little, tf.reverse(weights, [0]), weights)
        return tf.reduce_sum(tf.cast(digits, "int64") * weights, -1)

    def has(self, position, text):
        """Whether the file has `text` (at most seven bytes) at a position."""
        return self.number(position, len(text)) == int.from_bytes(text, "big")


def _orientation(contents):
    file = _Bytes(contents)
    zero = tf.constant(0, "int64")
    is_jpeg, is_png = file.has(zero, b"\xff\xd8"), file.has(zero, b"\x89PNG")

    # Each of these parses the chunk at a position. They return whether it is EXIF data, whether no
    # further chunk can be, where its data start, and where the next chunk starts.
    def in_jpeg(position):
        marker = file.number(position + 1)
        is_exif = (marker == 0xE1) & file.has(position + 4, b"Exif\0\0")
        is_last = ~file.has(position, b"\xff") | (marker == 0xDA) | (marker == 0xD9)
        after = position + tf.where(marker == 0xFF, zero + 1, 2 + file.number(position + 2, 2))
        return is_exif, is_last, position + 10, after

    def in_png(position):
        after = position + 12 + file.number(position, 4)
        is_exif, is_last = file.has(position + 4, b"eXIf"), file.has(position + 4, b"IEND")
        return is_exif, is_last, position + 8, after

    def in_webp(position):
        size = file.number(position + 4, 4, True)
        prefix = tf.where(file.has(position + 8, b"Exif\0\0"), zero + 6, zero)
        return (
            file.has(position, b"EXIF"),
            tf.constant(False),
            position + 8 + prefix,
            position + 8 + size + size % 2,
        )

    def search(begin, parse):
        def step(position, start):
            is_exif, is_last, data, after = parse(position)
            after = tf.where(is_last, tf.cast(file.size, "int64"), after)
            return tf.where(is_exif, position, after), tf.where(is_exif, data, zero)

        _, start = tf.while_loop(
            lambda position, start: (start == 0) & (position < tf.cast(file.size, "int64")),
            step,
            (tf.constant(begin, "int64"), zero),
            maximum_iterations=_MOST_PARTS,
        )
        return start

    start = tf.case(
        [(is_jpeg, lambda: search(2, in_jpeg)), (is_png, lambda: search(8, in_png)),
         (file.has(zero, b"RIFF"), lambda: search(12, in_webp))],
        lambda: zero,
    )  # fmt: skip
    return tf.cond(start > 0, lambda: _in_tiff(file, start), lambda: 1)


def _in_tiff(file, start):
    """The orientation in a TIFF header and the directory that it points to."""
    little = file.has(start, b"II*\0")
    directory = start + file.number(start + 4, 4, little)
    count = tf.minimum(file.number(directory, 2, little), _MOST_ENTRIES)
    entries = directory + 2 + 12 * tf.range(count)
    entries = entries[file.number(entries, 2, little) == _ORIENTATION][:1]
    is_long = file.number(entries + 2, 2, little) == _LONG
    values = tf.where(
        is_long, file.number(entries + 8, 4, little), file.number(entries + 8, 2, little)
    )
    value = tf.reduce_sum(values)
    known = (little | file.has(start, b"MM\0*")) & (value >= 1) & (value <= 8)
    return tf.cast(tf.where(known, value, 1), "int32")
