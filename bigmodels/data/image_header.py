"""Check the header of an image file before decoding it.

A file of a few bytes can claim billions of pixels, for which a decoder would use up all memory.
Some decoders also fill the missing part of a truncated file with grey.
"""

import dataclasses
import io
import re
import struct
import warnings

from PIL import Image

# More than any camera has; 300 MB in RGB.
MAX_PIXELS = 100_000_000
# A progressive JPEG has about ten scans, and decoding takes a pass over all pixels for each.
_MAX_SCANS = 100
_CUT_OFF = "it ends too early (truncated)"


@dataclasses.dataclass(frozen=True)
class Header:
    """Properties of an image file according to its header.

    Attributes:
        width: Width as stored, in pixels.
        height: Height as stored, in pixels.
        frames: Number of images in the file, of which the first is read.
        bits: Bits per channel, 8 or 16.
    """

    width: int
    height: int
    frames: int = 1
    bits: int = 8


def check_image(contents: bytes) -> Header:
    """Check that an encoded image is complete and of a plausible size.

    Args:
        contents: Bytes of a file.

    Returns:
        A `Header`.

    Raises:
        ValueError: if it is not an image, is truncated, or claims more pixels than `MAX_PIXELS` or
            than its bytes can encode. The message does not name the file; callers add its name.

    Example:

    >>> image = tf.io.encode_png(tf.zeros((4, 6, 3), "uint8")).numpy()
    >>> check_image(image)
    Header(width=6, height=4, frames=1, bits=8)
    """
    if not contents:
        raise ValueError("it is empty")
    read = next((read for start, read in _FORMATS.items() if re.match(start, contents)), None)
    if read is None:
        kind = next((kind for start, kind in _OTHERS.items() if re.match(start, contents)), None)
        raise ValueError(
            f"it is {kind}, which is not read; save it as PNG or JPEG"
            if kind
            else "it is not a PNG, JPEG, GIF, BMP, WebP, TIFF or PNM file"
        )
    try:
        header, pixels = read(contents)
    except (IndexError, struct.error):
        raise ValueError(_CUT_OFF) from None
    size = f"{header.width} x {header.height} pixels"
    if header.width < 1 or header.height < 1:
        raise ValueError(f"it claims {size}")
    if pixels > MAX_PIXELS:
        raise ValueError(f"it claims {size}, more than {MAX_PIXELS:,} in all")
    return header


def _png(contents):
    width, height = struct.unpack_from(">II", contents, 16)
    position, kind, frames = 8, b"", 1
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", contents, position)
        if kind == b"acTL":  # An animation; its first frame is an ordinary PNG.
            (frames,) = struct.unpack_from(">I", contents, position + 8)
        position += length + 12  # Including length, kind and checksum.
    if position > len(contents):
        raise ValueError(_CUT_OFF)
    return Header(width, height, frames, max(8, contents[24])), width * height


def _jpeg(contents):
    width = height = 0
    position = 2
    while True:
        position = contents.find(b"\xff", position)  # Decoders skip other bytes too.
        if position < 0:
            raise ValueError(_CUT_OFF)
        marker = contents[position + 1]
        if marker in (0x00, 0x01, 0xFF, *range(0xD0, 0xD9)):  # Markers without data.
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            raise ValueError("it contains no image")
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", contents, position + 5)
        position += 2 + struct.unpack_from(">H", contents, position + 2)[0]
    end = contents.find(b"\xff\xd9", position)
    if end < 0:
        raise ValueError(_CUT_OFF)
    # A block of 8 x 8 pixels takes at least one bit.
    if width * height > 64 * 8 * len(contents):
        raise ValueError(f"it claims {width} x {height} pixels, but has {len(contents):,} bytes")
    if (scans := contents.count(b"\xff\xda", position, end)) > _MAX_SCANS:
        raise ValueError(f"it has {scans} scans, more than {_MAX_SCANS}")
    return Header(width, height), width * height


def _gif(contents):
    width, height, flags = struct.unpack_from("<HHB", contents, 6)
    position, pixels, frames = 13 + _palette_size(flags), 0, 0
    # Some writers leave out the end mark.
    while position < len(contents) and contents[position] != 0x3B:
        if contents[position] == 0x2C:
            *_, w, h, flags = struct.unpack_from("<HHHHB", contents, position + 1)
            width, height, pixels = max(width, w), max(height, h), pixels + w * h
            frames += 1
            position += 11 + _palette_size(flags)
        elif contents[position] == 0x21:
            position += 2
        else:
            raise ValueError(f"it is damaged at byte {position}")
        while size := contents[position]:
            position += 1 + size
        position += 1
    # The decoder reads all frames, one byte per pixel, though only the first is used.
    return Header(width, height, max(frames, 1)), max(width * height, pixels // 4)


def _palette_size(flags):
    """Size of a GIF's palette, in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(contents):
    start, size, width, height, _, bits, coding = struct.unpack_from("<IIiiHHI", contents, 10)
    palette = [contents[14 + size + i : start : 4][:256] for i in range(3)]
    is_grey = all(column == bytes(range(len(column))) for column in palette)
    if coding not in (0, 3) or (bits == 8 and not is_grey):
        # TensorFlow would take the palette indices for shades of grey.
        raise ValueError("it is a BMP with compression or a colour palette; save it as PNG")
    return Header(width, abs(height)), width * abs(height)


def _webp(contents):
    end = 8 + struct.unpack_from("<I", contents, 4)[0]
    if end > len(contents):
        raise ValueError(_CUT_OFF)
    width = height = frames = 0
    position = 12
    while position < end:
        kind, size = struct.unpack_from("<4sI", contents, position)
        part = contents[position + 8 : position + 8 + size]
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(part[i : i + 3], "little") for i in (4, 7))
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", part, 6))
        elif kind == b"VP8L" and not width:
            (sides,) = struct.unpack_from("<I", part, 1)
            width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        position += 8 + size + size % 2
    return Header(width, height, max(frames, 1)), max(width * height, width * height * frames // 4)


def _by_pillow(contents):
    """Header of a TIFF or PNM file; Pillow does not decode the pixels here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About large images, which the caller refuses.
        try:
            with Image.open(io.BytesIO(contents)) as image:
                frames = getattr(image, "n_frames", 1)
                bits = 16 if image.mode.startswith("I") else 8
                return Header(*image.size, frames, bits), image.width * image.height
        except Image.DecompressionBombError:
            raise ValueError(f"it claims more than {MAX_PIXELS:,} pixels") from None
        except Exception as error:  # A damaged file may raise anything.
            raise ValueError(f"it is damaged: {error}") from None


# By the first bytes of a file.
_FORMATS = {
    rb"\x89PNG\r\n\x1a\n": _png,
    rb"\xff\xd8\xff": _jpeg,
    rb"GIF8": _gif,
    rb"BM": _bmp,
    rb"(?s)RIFF....WEBP": _webp,
    rb"II\*\x00|MM\x00\*": _by_pillow,
    rb"P[1-6]\s": _by_pillow,
}
# Other common formats, which are named in error messages.
_OTHERS = {
    rb"(?s).{4}ftyp(avif|avis)": "an AVIF file",
    rb"(?s).{4}ftyp(hei|hev|mif1|msf1)": "a HEIC file",
    rb"(?s).{4}ftyp": "a video",
    rb"%PDF": "a PDF",
    rb"8BPS": "a Photoshop file",
    rb"\s*<(\?xml|!--|svg|!DOCTYPE svg)": "an SVG drawing",
    rb"\s*<(!DOCTYPE )?html": "a web page",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL": "a JPEG XL file",
    rb"\x00\x00\x01\x00": "an icon",
}
