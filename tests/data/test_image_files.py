"""Image files as cameras and programs write them: turned, transparent, animated, of 16 bits."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from bigmodels.data import exif
from bigmodels.data.files import ImageReader, decode_image, read_file, read_image
from bigmodels.data.notes import Notes


def _pixels(rng, channels=3):
    return rng.integers(0, 256, (4, 6, channels), "uint8")


def _encoded(image, form, **options):
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


@pytest.mark.parametrize("form", ["PNG", "PPM", "TIFF"])
def test_a_file_is_read_eagerly_as_in_a_graph(form, tmp_path, rng):
    pixels = _pixels(rng)
    path = str(tmp_path / "image")
    (tmp_path / "image").write_bytes(_encoded(Image.fromarray(pixels), form))
    for read in (read_file, tf.function(read_file)):
        np.testing.assert_array_equal(read(tf.constant(path), 3), pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.thorough
def test_every_orientation_is_obeyed(tmp_path, form, rng):
    image = Image.fromarray(np.kron(_pixels(rng), np.ones((8, 8, 1), "uint8")))
    options = {"lossless": True} if form == "WEBP" else {}
    from_path = tf.function(lambda path: read_file(path, 3))
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112], tags[0x010F] = orientation, "maker"
        path = tmp_path / f"{orientation}.{form}"
        path.write_bytes(_encoded(image, form, exif=tags, **options))
        with Image.open(path) as opened:
            right = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
        for found in (read_image(path, 3), from_path(str(path))):
            assert found.shape == right.shape
            assert np.abs(found.numpy() - right).max() <= (12 if form == "JPEG" else 0)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff\xd8Exif\0\0",
        b"\x89PNG\r\n\x1a\n" + b"eXIf" * 20,
        b"RIFFxxxxWEBPEXIF" + b"\xff" * 30,
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\xff\xff\xff\xff",
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0\xff\xff",
        b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x09\0\0\0",
    ],
)
def test_damaged_tags_say_nothing(contents):
    assert int(exif.orientation(contents)) == 1


def _transparent(rng):
    """Files of the same picture, black but where it is transparent, in every form."""
    pixels = np.zeros((4, 6, 4), "uint8")
    pixels[:, 3:, 3] = 255
    whole = Image.fromarray(pixels)
    grey, palette = whole.convert("L"), whole.convert("RGB").quantize(2)
    yield "rgba.png", _encoded(whole, "PNG")
    yield "la.png", _encoded(whole.convert("LA"), "PNG")
    yield "rgba.webp", _encoded(whole, "WEBP", lossless=True, exact=True)
    yield "rgba.tif", _encoded(whole, "TIFF")
    yield "rgba.gif", _encoded(whole, "GIF")
    key = np.zeros((4, 6), "uint8")
    key[:, :3] = 9
    yield "key.png", _encoded(Image.fromarray(key), "PNG", transparency=9)
    key = np.repeat(key[..., None], 3, -1)
    yield "keys.png", _encoded(Image.fromarray(key), "PNG", transparency=(9, 9, 9))
    assert grey.mode == "L" and palette.mode == "P"


@pytest.mark.thorough
def test_what_is_transparent_lies_on_white_and_it_is_said(tmp_path, rng):
    reader, dark = ImageReader("input", 3), ImageReader("mask", 1, background=0)
    paths, from_path = [], tf.function(lambda path: read_file(path, 3))
    for name, contents in _transparent(rng):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(contents)
        for found in (reader.read(paths[-1]), from_path(str(paths[-1]))):
            assert (found[:, :3] == 255).numpy().all(), name
            assert (found[:, 3:] == 0).numpy().all(), name
        assert not dark.read(paths[-1]).numpy().any()
    reader.tell(notes := Notes())
    assert notes.lines == [
        f"input: {len(paths)} images with transparent parts, blended with white; the first is "
        f"{str(paths[0])!r}."
    ]
    dark.tell(notes)
    assert "blended with black" in notes.lines[1]


def test_four_channels_keep_their_opacity(rng):
    pixels = _pixels(rng, 4)
    np.testing.assert_array_equal(decode_image(tf.io.encode_png(pixels), 4), pixels)
    found = decode_image(tf.io.encode_png(pixels[..., :3]), 4).numpy()
    np.testing.assert_array_equal(found, np.dstack([pixels[..., :3], np.full((4, 6), 255)]))
    found = decode_image(tf.io.encode_png(pixels[..., :2]), 4).numpy()
    np.testing.assert_array_equal(found, pixels[..., [0, 0, 0, 1]])


def test_many_frames_and_16_bits_are_said(tmp_path, rng):
    frames = [Image.fromarray(_pixels(rng)) for _ in range(3)]
    deep = Image.fromarray((np.arange(24).reshape(4, 6) * 2500).astype("uint16"))
    files = {
        "a.webp": _encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True
        ),
        "b.tif": _encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "c.png": _encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "d.png": _encoded(deep, "PNG"),
        "e.tif": _encoded(deep, "TIFF"),
    }
    reader = ImageReader("input")
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
        found = reader.read(tmp_path / name).numpy()
        right = np.asarray(frames[0]) if name < "d" else np.asarray(deep)[..., None] >> 8
        np.testing.assert_array_equal(found, right)
    with pytest.raises(tf.errors.InvalidArgumentError):  # Of which TensorFlow spoils memory.
        decode_image(files["a.webp"], 3)
    reader.tell(notes := Notes())
    assert "input: 3 images with several frames, of which the first is read" in notes.lines[0]
    assert (
        "input: 2 images with 16 bits per channel, of which the upper 8 are read" in notes.lines[1]
    )


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(20), "it is a HEIC file, which is not read"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "it is an AVIF file, which is not read"),
        (b'<svg xmlns="x"/>', "it is an SVG drawing"),
        (b"%PDF-1.4", "it is a PDF"),
        (b"II*\0" + bytes(30), "it is damaged"),
        (b"RIFF\xff\0\0\0WEBPVP8 ", "it ends too early"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(tmp_path, contents, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=reason):
        read_image(path, 3)
