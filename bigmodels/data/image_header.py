"""What an image file says of itself, read before a decoder is let near it.

A few bytes can claim pixels by the thousand million, and a decoder that believes them takes all
memory; some decoders also fill up with grey what a file that was cut off does not hold.
"""

import dataclasses
import io
import re
import struct
import warnings

from PIL import Image

# More than any camera's; 300 MB of colours.
MAX_PIXELS = 100_000_000
# A progressive JPEG brings about ten scans, and each costs another pass over all pixels.
_MAX_SCANS = 100
_CUT_OFF = "it ends too early (truncated)"


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        width: As stored, in pixels.
        height: As stored, in pixels.
        frames: Pictures in the file, of which the first is read.
        bits: Of a channel, 8 or 16.
    """

    width: int
    height: int
    frames: int = 1
    bits: int = 8


def check_image(contents):
    """Refuse an encoded image that is not whole, or is larger than its bytes or `MAX_PIXELS` allow.

    Args:
        contents: The bytes of a file.

    Returns:
        A `Header`.

    Raises:
        ValueError: with the reason alone; whoever knows the file names it.
    """
    if not contents:
        raise ValueError("it is empty")
    read = next((read for start, read in _FORMATS.items() if re.match(start, contents)), None)
    if read is None:
        kind = next((kind for start, kind in _OTHERS.items() if re.match(start, contents)), None)
        raise ValueError(
            f"it is {kind}, which is not read; save it as PNG or JPEG"
            if kind
            else "it is no PNG, JPEG, GIF or BMP file, nor a WebP, TIFF or PNM file"
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
    place, kind, frames = 8, b"", 1
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", contents, place)
        if kind == b"acTL":  # Of an animation, whose first picture is an ordinary PNG.
            (frames,) = struct.unpack_from(">I", contents, place + 8)
        place += length + 12  # With length, kind and check sum.
    if place > len(contents):
        raise ValueError(_CUT_OFF)
    return Header(width, height, frames, max(8, contents[24])), width * height


def _jpeg(contents):
    width = height = 0
    place = 2
    while True:
        place = contents.find(b"\xff", place)  # As decoders do, over whatever is no marker.
        if place < 0:
            raise ValueError(_CUT_OFF)
        marker = contents[place + 1]
        if marker in (0x00, 0x01, 0xFF, *range(0xD0, 0xD9)):  # Those that nothing follows.
            place += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            raise ValueError("it holds no image")
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", contents, place + 5)
        place += 2 + struct.unpack_from(">H", contents, place + 2)[0]
    end = contents.find(b"\xff\xd9", place)
    if end < 0:
        raise ValueError(_CUT_OFF)
    # The least that can be written of a block of 8 x 8 pixels is one bit.
    if width * height > 64 * 8 * len(contents):
        raise ValueError(f"it claims {width} x {height} pixels, but has {len(contents):,} bytes")
    if (scans := contents.count(b"\xff\xda", place, end)) > _MAX_SCANS:
        raise ValueError(f"it has {scans} scans, more than {_MAX_SCANS}")
    return Header(width, height), width * height


def _gif(contents):
    width, height, flags = struct.unpack_from("<HHB", contents, 6)
    place, frames, count = 13 + _colours(flags), 0, 0
    # Some writers leave out the end mark.
    while place < len(contents) and contents[place] != 0x3B:
        if contents[place] == 0x2C:
            *_, w, h, flags = struct.unpack_from("<HHHHB", contents, place + 1)
            width, height, frames = max(width, w), max(height, h), frames + w * h
            count += 1
            place += 11 + _colours(flags)
        elif contents[place] == 0x21:
            place += 2
        else:
            raise ValueError(f"it is damaged at byte {place}")
        while size := contents[place]:
            place += 1 + size
        place += 1
    # All frames are read, one byte a pixel, though only the first is used.
    return Header(width, height, max(count, 1)), max(width * height, frames // 4)


def _colours(flags):
    """Bytes of a GIF's table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(contents):
    start, size, width, height, _, bits, coding = struct.unpack_from("<IIiiHHI", contents, 10)
    colours = [contents[14 + size + i : start : 4][:256] for i in range(3)]
    shades = all(column == bytes(range(len(column))) for column in colours)
    if coding not in (0, 3) or (bits == 8 and not shades):
        # TensorFlow would take the numbers of the colours for shades of grey.
        raise ValueError("it is a BMP with compression or a table of colours; save it as PNG")
    return Header(width, abs(height)), width * abs(height)


def _webp(contents):
    end = 8 + struct.unpack_from("<I", contents, 4)[0]
    if end > len(contents):
        raise ValueError(_CUT_OFF)
    width = height = frames = 0
    place = 12
    while place < end:
        kind, size = struct.unpack_from("<4sI", contents, place)
        part = contents[place + 8 : place + 8 + size]
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(part[i : i + 3], "little") for i in (4, 7))
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", part, 6))
        elif kind == b"VP8L" and not width:
            (sides,) = struct.unpack_from("<I", part, 1)
            width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        place += 8 + size + size % 2
    return Header(width, height, max(frames, 1)), max(width * height, width * height * frames // 4)


def _by_pillow(contents):
    """TIFF and PNM, of which Pillow reads no pixel before it is asked to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of large images, which are refused by the caller.
        try:
            with Image.open(io.BytesIO(contents)) as image:
                frames = getattr(image, "n_frames", 1)
                bits = 16 if image.mode.startswith("I") else 8
                return Header(*image.size, frames, bits), image.width * image.height
        except Image.DecompressionBombError:
            raise ValueError(f"it claims more than {MAX_PIXELS:,} pixels") from None
        except Exception as error:  # A damaged file may raise anything.
            raise ValueError(f"it is damaged: {error}") from None


# By what a file begins with.
_FORMATS = {
    rb"\x89PNG\r\n\x1a\n": _png,
    rb"\xff\xd8\xff": _jpeg,
    rb"GIF8": _gif,
    rb"BM": _bmp,
    rb"(?s)RIFF....WEBP": _webp,
    rb"II\*\x00|MM\x00\*": _by_pillow,
    rb"P[1-6]\s": _by_pillow,
}
# What people have beside these.
_OTHERS = {
    rb"(?s).{4}ftyp(avif|avis)": "an AVIF file",
    rb"(?s).{4}ftyp(hei|hev|mif1|msf1)": "a HEIC file",
    rb"(?s).{4}ftyp": "a film",
    rb"%PDF": "a PDF",
    rb"8BPS": "a Photoshop file",
    rb"\s*<(\?xml|!--|svg|!DOCTYPE svg)": "an SVG drawing",
    rb"\s*<(!DOCTYPE )?html": "a web page",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL": "a JPEG XL file",
    rb"\x00\x00\x01\x00": "an icon",
}
