"""What an image file says of itself, read before a decoder is let near it.

A few bytes can claim pixels by the thousand million, and a decoder that believes them takes all
memory; some decoders also fill up with grey what a file that was cut off does not hold.
"""

import struct

# More than any camera's; 300 MB of colours.
MAX_PIXELS = 100_000_000
# A progressive JPEG brings about ten scans, and each costs another pass over all pixels.
_MAX_SCANS = 100
_CUT_OFF = "it ends too early (truncated)"


def check_image(contents):
    """Refuse an encoded image that is not whole, or is larger than its bytes or `MAX_PIXELS` allow.

    Args:
        contents: The bytes of a file.

    Raises:
        ValueError: with the reason alone; whoever knows the file names it.
    """
    if not contents:
        raise ValueError("it is empty")
    read_sizes = [read for start, read in _FORMATS.items() if contents.startswith(start)]
    if not read_sizes:
        raise ValueError("it is no PNG, JPEG, GIF or BMP file")
    try:
        width, height, pixels = read_sizes[0](contents)
    except (IndexError, struct.error):
        raise ValueError(_CUT_OFF) from None
    if width < 1 or height < 1:
        raise ValueError(f"it claims {width} x {height} pixels")
    if pixels > MAX_PIXELS:
        raise ValueError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS:,} in all")


def _png(contents):
    width, height = struct.unpack_from(">II", contents, 16)
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", contents, place)
        place += length + 12  # With length, kind and check sum.
    if place > len(contents):
        raise ValueError(_CUT_OFF)
    return width, height, width * height


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
    return width, height, width * height


def _gif(contents):
    width, height, flags = struct.unpack_from("<HHB", contents, 6)
    place, frames = 13 + _colours(flags), 0
    # Some writers leave out the end mark.
    while place < len(contents) and contents[place] != 0x3B:
        if contents[place] == 0x2C:
            *_, w, h, flags = struct.unpack_from("<HHHHB", contents, place + 1)
            width, height, frames = max(width, w), max(height, h), frames + w * h
            place += 11 + _colours(flags)
        elif contents[place] == 0x21:
            place += 2
        else:
            raise ValueError(f"it is damaged at byte {place}")
        while size := contents[place]:
            place += 1 + size
        place += 1
    # All frames are read, one byte a pixel, though only the first is used.
    return width, height, max(width * height, frames // 4)


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
    return width, abs(height), width * abs(height)


_FORMATS = {b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8\xff": _jpeg, b"GIF8": _gif, b"BM": _bmp}
