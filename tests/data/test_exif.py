"""EXIF's orientation in files written byte by byte."""

import struct

import pytest

from bigmodels.data.exif import orientation

SHORT, LONG = 3, 4


def tiff(value=6, order=">", kind=SHORT, head=None):
    """A TIFF header and a directory of one entry."""
    head = head or (b"II*\0" if order == "<" else b"MM\0*")
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1)
    entry += struct.pack(f"{order}I", value) if kind == LONG else struct.pack(f"{order}Hxx", value)
    return head + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def app1(content, marker=0xE1):
    return segment(marker, b"Exif\0\0" + content)


def jpeg(*parts):
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def webp(*chunks):
    body = b"WEBP"
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png(*chunks):
    parts = [struct.pack(">I", len(c)) + name + c + bytes(4) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


CASES = {
    "plain": (jpeg(app1(tiff())), 6),
    "little endian": (jpeg(app1(tiff(order="<"))), 6),
    "a long number": (jpeg(app1(tiff(kind=LONG))), 6),
    "a long number, little endian": (jpeg(app1(tiff(8, "<", LONG))), 8),
    "no TIFF": (jpeg(app1(tiff(head=b"XX\0*"))), 1),
    "in another segment": (jpeg(app1(tiff(), marker=0xE2)), 1),
    "behind another segment": (jpeg(segment(0xE0, b"JFIF\0" * 3), app1(tiff())), 6),
    "behind bytes that only fill": (jpeg(b"\xff\xff", app1(tiff())), 6),
    "in the picture itself": (jpeg(segment(0xDA, b"abc"), app1(tiff())), 1),
    "in a WebP file": (webp((b"VP8X", bytes(10)), (b"EXIF", tiff())), 6),
    "behind an odd chunk": (webp((b"ICCP", b"abc"), (b"EXIF", tiff())), 6),
    "as in JPEG": (webp((b"EXIF", b"Exif\0\0" + tiff())), 6),
    "in a PNG file": (png((b"IHDR", bytes(13)), (b"eXIf", tiff()), (b"IEND", b"")), 6),
    "behind its end": (png((b"IHDR", bytes(13)), (b"IEND", b""), (b"eXIf", tiff())), 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.thorough
def test_it_is_found_where_it_may_stand_and_nowhere_else(case):
    contents, found = CASES[case]
    assert int(orientation(contents)) == found
