"""How an image is to be turned before it is looked at: the EXIF orientation, also in a graph.

A camera stores what its sensor saw and writes beside it which way was up. Every viewer turns the
picture accordingly, and so do the tools with which boxes and masks are drawn.
"""

import tensorflow as tf

# What any of the three containers calls its EXIF part: most images have none.
_MAY_HAVE = r"(?s)\C*(?:Exif\x00\x00|eXIf|EXIF)\C*"
_ORIENTATION, _LONG = 0x0112, 4
_MARGIN = 32  # Zeros behind the file, so that what is cut off can be read and is no EXIF.
_MOST_PARTS, _MOST_ENTRIES = 100_000, 1000


@tf.function(input_signature=[tf.TensorSpec((), "string")], autograph=False)
def orientation(contents):
    """The EXIF orientation of a JPEG, PNG or WebP file.

    Args:
        contents: Its bytes, a scalar string.

    Returns:
        int32 scalar from 1 to 8; 1, upright, where the file says nothing else.
    """
    may_have = tf.strings.regex_full_match(contents, _MAY_HAVE)
    return tf.cond(may_have, lambda: _orientation(contents), lambda: 1)


def upright(image, orientation):
    """An image turned and mirrored as its EXIF orientation says.

    Args:
        image: `(height, width, channels)` as stored.
        orientation: int32 scalar from 1 to 8.

    Returns:
        The image as it is to be seen; from 5 on height and width change places.
    """

    def turned():
        where = tf.cond(
            orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: tf.identity(image)
        )
        for axis, mirrored in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
            is_mirrored = tf.reduce_any(orientation == tf.constant(mirrored))
            where = tf.cond(
                is_mirrored,
                lambda where=where, axis=axis: tf.reverse(where, [axis]),
                lambda where=where: where,
            )
        return where

    return tf.cond(orientation > 1, turned, lambda: tf.identity(image))


class _Bytes:
    """A file's bytes, to be read as numbers at places that are tensors."""

    def __init__(self, contents):
        raw = tf.io.decode_raw(contents, "uint8")
        self.size = tf.size(raw)
        self._raw = tf.concat([raw, tf.zeros(_MARGIN, "uint8")], 0)

    def number(self, place, count=1, little=False):
        """`count` bytes from each place on as one unsigned number, int64."""
        place = tf.clip_by_value(tf.cast(place, "int64"), 0, tf.cast(self.size, "int64") + 24)
        each = tf.gather(self._raw, place[..., None] + tf.range(count, dtype="int64"))
        weights = tf.constant([256**i for i in reversed(range(count))], "int64")
        weights = tf.where(little, tf.reverse(weights, [0]), weights)
        return tf.reduce_sum(tf.cast(each, "int64") * weights, -1)

    def has(self, place, text):
        """Whether bytes stand at a place, at most seven."""
        return self.number(place, len(text)) == int.from_bytes(text, "big")


def _orientation(contents):
    file = _Bytes(contents)
    zero = tf.constant(0, "int64")
    is_jpeg, is_png = file.has(zero, b"\xff\xd8"), file.has(zero, b"\x89PNG")

    def in_jpeg(place):
        marker = file.number(place + 1)
        found = (marker == 0xE1) & file.has(place + 4, b"Exif\0\0")
        over = ~file.has(place, b"\xff") | (marker == 0xDA) | (marker == 0xD9)
        after = place + tf.where(marker == 0xFF, zero + 1, 2 + file.number(place + 2, 2))
        return found, over, place + 10, after

    def in_png(place):
        after = place + 12 + file.number(place, 4)
        return file.has(place + 4, b"eXIf"), file.has(place + 4, b"IEND"), place + 8, after

    def in_webp(place):
        size = file.number(place + 4, 4, True)
        prefix = tf.where(file.has(place + 8, b"Exif\0\0"), zero + 6, zero)
        return (
            file.has(place, b"EXIF"),
            tf.constant(False),
            place + 8 + prefix,
            place + 8 + size + size % 2,
        )

    def search(begin, part):
        def step(place, start):
            found, over, here, after = part(place)
            after = tf.where(over, tf.cast(file.size, "int64"), after)
            return tf.where(found, place, after), tf.where(found, here, zero)

        _, start = tf.while_loop(
            lambda place, start: (start == 0) & (place < tf.cast(file.size, "int64")),
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
    """The orientation in a TIFF header and the directory that it leads to."""
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
