"""Files from elsewhere: each is refused with one line that names it, and nothing of it is run."""

import codecs
import html
import json
import os
import pathlib
import shutil
import struct
import tempfile
import time
import zipfile
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels
from bigmodels.commands.evaluate import evaluate
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.data import load_images, load_text
from bigmodels.data.files import list_images, read_image
from bigmodels.data.image_header import MAX_PIXELS
from bigmodels.data.notes import noted
from bigmodels.runs.directory import RunDirectory
from tests.conftest import made_once

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), "uint8")
PNG = tf.io.encode_png(PIXELS).numpy()
JPEG = tf.io.encode_jpeg(PIXELS, progressive=False).numpy()
TINY = {"epochs": 1, "batch_size": 8, "model.filters": "2", "model.dense_units": 2}


def png_of(width, height):
    """A PNG of a few bytes that claims a size."""

    def chunk(kind, content):
        check_sum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check_sum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + end


def jpeg_of(width, height):
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


def gif(width=2, height=2, screen=(2, 2), frames=1, end=b";"):
    """A GIF of frames that claim a size; their pixels are those of 2 x 2."""
    colours = bytes([0, 0, 0, 255, 255, 255])
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x84\x51\x00"
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + colours + frames * frame + end


def bmp(width=2, height=2, bits=24, coding=0, colours=b"", pixels=bytes(16)):
    start = 54 + len(colours)
    head = struct.pack("<IIiiHHIIiiII", start, 40, width, height, 1, bits, coding, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHH", start + len(pixels), 0, 0) + head + colours + pixels


BAD_IMAGES = {
    "empty.png": (b"", "it is empty"),
    "text.png": (b"not an image", "it is not a PNG, JPEG, GIF, BMP"),
    "cut.png": (PNG[: len(PNG) // 2], "it ends too early (truncated)"),
    "last.png": (PNG[:-1], "it ends too early (truncated)"),
    "damaged.png": (PNG[:60] + b"\xff" + PNG[61:], "cannot be decoded: Invalid PNG data"),
    "bomb.png": (
        png_of(60_000, 60_000),
        f"it claims 60000 x 60000 pixels, more than {MAX_PIXELS:,}",
    ),
    "none.png": (png_of(0, 5), "it claims 0 x 5 pixels"),
    "lies.png": (png_of(500, 500), "cannot be decoded: Invalid PNG data"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "it ends too early (truncated)"),
    "last.jpg": (JPEG[:-1], "it ends too early (truncated)"),
    "header.jpg": (JPEG[:4], "it ends too early (truncated)"),
    "bomb.jpg": (jpeg_of(60_000, 60_000) + bytes(8_000_000), "it claims 60000 x 60000 pixels"),
    "lies.jpg": (jpeg_of(1000, 1000), "it claims 1000 x 1000 pixels, but has"),
    "scans.jpg": (
        JPEG[:-2] + 200 * JPEG[JPEG.index(b"\xff\xda") : -2] + JPEG[-2:],
        "it has 201 scans",
    ),
    "nothing.jpg": (b"\xff\xd8\xff\xd9", "it contains no image"),
    "cut.gif": (gif()[:-4], "it ends too early (truncated)"),
    "animated.gif": (gif(frames=3)[:-6], "it ends too early (truncated)"),
    "screen.gif": (gif(screen=(60_000, 60_000)), "it claims 60000 x 60000 pixels"),
    "frame.gif": (gif(60_000, 60_000), "it claims 60000 x 60000 pixels"),
    "frames.gif": (gif(9_000, 9_000, frames=9), "it claims 9000 x 9000 pixels"),
    "damaged.gif": (gif(end=b"?"), "it is damaged at byte"),
    "cut.bmp": (bmp()[:-4], "cannot be decoded"),
    "head.bmp": (bmp()[:20], "it ends too early (truncated)"),
    "bomb.bmp": (bmp(60_000, -60_000), "it claims 60000 x 60000 pixels"),
    "least.bmp": (bmp(-(2**31), -(2**31)), "it claims -2147483648 x 2147483648 pixels"),
    "colours.bmp": (
        bmp(bits=8, colours=bytes([9, 200, 30, 0]), pixels=bytes(8)),
        "it is a BMP with compression or a colour palette",
    ),
    "coded.bmp": (bmp(coding=1), "it is a BMP with compression"),
}


@pytest.fixture
def folder(tmp_path, rng):
    """Two classes of twelve images."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (6, 5, 3), "uint8")
            file = tmp_path / "images" / name / f"{i:02}.png"
            file.write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path / "images"


def _refused(folder):
    with pytest.raises(ValueError) as error:
        load_images(f"images:{folder}", 8, image_size=(6, 5))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named_with_the_reason(name, folder):
    content, reason = BAD_IMAGES[name]
    path = folder / "dog" / name
    path.write_bytes(content)
    message = _refused(folder)
    assert message.startswith(f"images: {str(path)!r} cannot be decoded: ") and reason in message
    with pytest.raises(ValueError) as error:
        read_image(path, 3)
    assert str(error.value) == message.replace("images", "input", 1)


@pytest.mark.thorough
def test_good_images_of_every_kind_are_read(folder):
    """The checks above are not simply against everything."""
    grey = bytes(value for i in range(256) for value in (i, i, i, 0))
    flat = np.full((1000, 1500, 3), 255, "uint8")
    good = {
        "a.jpg": JPEG,
        "b.jpg": tf.io.encode_jpeg(PIXELS, progressive=True).numpy(),
        "flat.jpg": tf.io.encode_jpeg(
            flat, quality=1, progressive=True, optimize_size=True, chroma_downsampling=True
        ).numpy(),
        "trailing.jpg": JPEG + bytes(100),
        "a.gif": gif(),
        "open.gif": gif(end=b""),
        "a.bmp": bmp(),
        "alpha.bmp": bmp(bits=32),
        "grey.bmp": bmp(bits=8, colours=grey, pixels=bytes(8)),
        "alpha.png": tf.io.encode_png(np.zeros((3, 3, 4), "uint8")).numpy(),
        "trailing.png": PNG + b"more",
        "misnamed.jpg": PNG,
    }
    for name, content in good.items():
        (folder / "dog" / name).write_bytes(content)
    data = load_images(f"images:{folder}", 8, image_size=(6, 5))
    assert sum(data.sizes.values()) == 24 + len(good) and data.skipped == ()


def test_a_bomb_is_refused_before_it_takes_memory(folder, monkeypatch):
    (folder / "dog" / "bomb.png").write_bytes(png_of(20_000, 20_000))
    monkeypatch.setattr(tf.io, "decode_image", lambda contents, **_: pytest.fail("was decoded"))
    (folder / "cat" / "00.png").rename(folder / "zz.png")
    for file in folder.glob("*/??.png"):
        file.unlink()
    (folder / "cat" / "also.png").write_bytes(png_of(20_000, 20_000))
    assert "it claims 20000 x 20000 pixels" in _refused(folder)


def test_what_is_no_regular_file_is_named(folder, tmp_path):
    def check(name, reason):
        message = _refused(folder)
        assert message == f"images: {str(folder / 'dog' / name)!r} cannot be read: {reason}"

    (folder / "dog" / "folder.png").mkdir()
    check("folder.png", "it is a directory")
    (folder / "dog" / "folder.png").rmdir()
    os.mkfifo(folder / "dog" / "pipe.png")  # To open it would wait for ever.
    check("pipe.png", "it is not a regular file")
    (folder / "dog" / "pipe.png").unlink()
    (folder / "dog" / "zero.png").symlink_to("/dev/zero")
    check("zero.png", "it is not a regular file")
    (folder / "dog" / "zero.png").unlink()
    (folder / "dog" / "loop.png").symlink_to("loop.png")
    check("loop.png", "a symbolic link: Too many levels of symbolic links")
    (folder / "dog" / "loop.png").unlink()
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    check("gone.png", "a symbolic link: No such file or directory")
    with pytest.raises(ValueError, match=r"input: .*gone\.png' cannot be read: a symbolic link"):
        read_image(*list_images(folder / "dog" / "gone.png"), 3)
    (folder / "dog" / "gone.png").unlink()
    with open(folder / "dog" / "large.png", "wb") as file:
        file.truncate(2 << 30)
    check("large.png", "it has more than 1,073,741,824 bytes")


def test_links_to_files_and_classes_are_followed_and_circles_are_not(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(PNG)
    (folder / "dog" / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (folder / "dog" / "circle").symlink_to(folder)
    shutil.move(folder / "cat", tmp_path / "cats")
    (folder / "cat").symlink_to(tmp_path / "cats")
    assert sum(load_images(f"images:{folder}", 8).sizes.values()) == 25
    (folder / "egg").symlink_to("nowhere")
    assert "egg' is a broken or circular link" in _refused(folder)
    (folder / "egg").unlink()
    (folder / "egg").symlink_to(folder)
    assert "egg' is a link to a folder that contains it" in _refused(folder)


@pytest.mark.thorough
def test_what_may_not_be_read_is_named(rng):
    # Not under pytest's own directory, which is for its user alone.
    with tempfile.TemporaryDirectory() as where:
        os.chmod(where, 0o755)
        folder = pathlib.Path(where)
        for name in ("cat/inner", "dog"):
            (folder / name).mkdir(parents=True)
            for i in range(12):
                (folder / name / f"{i:02}.png").write_bytes(PNG)
        user = os.geteuid()
        try:
            if user == 0:  # Whom no permission stops.
                os.seteuid(65534)
            _ = load_images(f"images:{folder}", 8)
            os.seteuid(user)
            (folder / "dog" / "07.png").chmod(0)
            os.seteuid(65534 if user == 0 else user)
            assert "07.png' cannot be read: Permission denied" in _refused(folder)
            os.seteuid(user)
            (folder / "dog" / "07.png").unlink()
            (folder / "cat" / "inner").chmod(0)
            os.seteuid(65534 if user == 0 else user)
            assert "inner' cannot be listed: Permission denied" in _refused(folder)
        finally:
            os.seteuid(user)
            (folder / "cat" / "inner").chmod(0o755)


@pytest.mark.thorough
def test_odd_names_are_only_names(folder):
    odd = os.fsencode(folder) + b"/dog/\xff\n.png"
    pathlib.Path(os.fsdecode(odd)).write_bytes(PNG)
    assert sum(load_images(f"images:{folder}", 8).sizes.values()) == 25
    pathlib.Path(os.fsdecode(odd)).write_bytes(PNG[:50])
    assert "(truncated)" in _refused(folder)
    os.mkdir(os.fsencode(folder) + b"/\xff")
    assert "the folder's name is not UTF-8" in _refused(folder)


@pytest.mark.thorough
def test_bad_files_are_skipped_and_counted_when_asked(folder, capsys):
    for i, name in enumerate(("cut.jpg", "empty.png", "bomb.png", "cut.gif")):
        (folder / ("cat", "dog")[i % 2] / name).write_bytes(BAD_IMAGES[name][0])
    whole = load_images(f"images:{folder}", 8, image_size=(6, 5), skip_bad_files=True)
    assert sum(whole.sizes.values()) == 24
    assert {pathlib.Path(name).name for name in whole.skipped} == {
        "cut.jpg",
        "empty.png",
        "bomb.png",
        "cut.gif",
    }
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("images: left out 4 bad files: ") and line.endswith(", and 1 more.")
    assert "bomb.png' cannot be decoded: it claims 60000 x 60000 pixels" in line
    assert noted(whole) == {"left_out": {"bad files": 4}, "notes": [line]}
    # The same images in the same splits as without the bad files.
    for path in map(pathlib.Path, whole.skipped):
        path.unlink()
    clean = load_images(f"images:{folder}", 8, image_size=(6, 5))
    for a, b in zip(whole.test, clean.test, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert capsys.readouterr().err == ""
    assert noted(clean) == {"left_out": {}, "notes": []}


def test_skipping_leaves_no_class_without_an_image(folder):
    for file in (folder / "dog").iterdir():
        file.write_bytes(PNG[:40])
    with pytest.raises(ValueError) as error:
        load_images(f"images:{folder}", 8, skip_bad_files=True)
    assert str(error.value) == (
        "images: no image of class 'dog' is left, all 12 files are bad; "
        f"{str(folder / 'dog' / '00.png')!r}, for example,  cannot be decoded: "
        "it ends too early (truncated)"
    )
    for file in sorted((folder / "dog").iterdir())[:3]:
        file.write_bytes(PNG)
    with pytest.raises(ValueError, match="has a class with 3 images; at least 10"):
        load_images(f"images:{folder}", 8, skip_bad_files=True)


@pytest.mark.thorough
def test_a_training_sees_a_bad_file_before_it_writes_anything(folder, tmp_path, capsys):
    (folder / "dog" / "cut.jpg").write_bytes(BAD_IMAGES["cut.jpg"][0])
    settings = TINY | {"dataset": f"images:{folder}"}
    with pytest.raises(ValueError, match=r"cut\.jpg' cannot be decoded: it ends too early"):
        train("image_classification", tmp_path / "run", settings, verbose=0)
    assert not (tmp_path / "run").exists()
    settings["data.skip_bad_files"] = "true"
    result = train("image_classification", tmp_path / "run", settings, verbose=0)
    (line,) = result["notes"]
    assert result["left_out"] == {"bad files": 1} and "cut.jpg" in line
    assert line in capsys.readouterr().err
    assert RunDirectory(tmp_path / "run").read_json("result.json") == result
    assert html.escape(line) in (tmp_path / "run" / "report.html").read_text()
    assert evaluate(tmp_path / "run")["notes"] == [line]


LINES = b"one\ntwo\nthree\n" * 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + b"caf\xe9\n", "line 901: byte 0xe9 is not UTF-8 (offset 4203)"),
        (codecs.BOM_UTF8 + b"ab\n\xff", "line 2: byte 0xff is not UTF-8 (offset 6)"),
        ("two\n".encode("utf-16") * 99, "is UTF-16, expected UTF-8"),
        (codecs.BOM_UTF16_BE + b"\0a", "is UTF-16, expected UTF-8"),
        ("two\n".encode("utf-32"), "is UTF-32, expected UTF-8"),
        (b"one\n\0" + LINES, "line 2: NUL character"),
        (LINES + b"\xed\xa0\x80", "line 901: byte 0xed is not UTF-8"),
        (b"", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (b"short", "too few for windows of length=100"),
        (LINES + "a\n\u0301\u0316".encode() * 1 + "\u0316\u0301".encode() * 600, "line 902: more"),
    ],
)
def test_a_bad_text_is_named_with_its_line(content, message, tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_text(f"text:{path}")
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("loop.txt", "pipe.txt", "", "a" * 5000, "a\0b"):
        with pytest.raises(ValueError, match=r"text: .*(is not a file|cannot be read)"):
            load_text(f"text:{tmp_path / name}")


def test_a_mark_at_the_beginning_is_no_character(tmp_path):
    (tmp_path / "marked.txt").write_bytes(codecs.BOM_UTF8 + LINES)
    data = load_text(f"text:{tmp_path / 'marked.txt'}", 4, length=20)
    assert "\ufeff" not in data.vocabulary.characters


def test_gigantic_lines_are_read_in_linear_time(tmp_path):
    """8 MB in one line, most of it letters with a mark: what is quadratic would take hours."""
    path = tmp_path / "line.txt"
    path.write_bytes("e\u0301\u0316 ".encode() * 1_300_000)
    began = time.monotonic()
    data = load_text(f"text:{path}", 64, length=100)
    assert time.monotonic() - began < 60
    assert data.sizes["train"] > 3_000_000


# Models and runs.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of a tiny model."""

    def make(directory):
        settings = TINY | {"steps_per_epoch": 1, "batch_size": 500}
        train("image_classification", directory / "run", settings, verbose=0)
        return directory / "run"

    return made_once(tmp_path_factory, "run_for_hostile_files", make)


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that exists once somebody else's code has run; a module that would make it."""
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "evil.py.ran"


def _rewritten(path, change=lambda config: config, more=()):
    """A `.keras` file with its config changed, and more members."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = json.dumps(change(json.loads(parts["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*parts.items(), *more]:
            archive.writestr(name, content)


def _naming(**what):
    """Puts an object where a model's config may have one: a layer, the optimizer, the dtype."""
    yield lambda config: config | what
    yield lambda config: config | {"config": config["config"] | {"dtype": {"config": {}} | what}}

    def as_optimizer(config):
        compiled = config["compile_config"] | {"optimizer": {"config": {}} | what}
        return config | {"compile_config": compiled}

    yield as_optimizer


def _system(command):
    return {"module": "os", "class_name": "system", "config": {"command": command}}


@keras.saving.register_keras_serializable("elsewhere")
class Elsewhere(keras.Model):
    def call(self, inputs):
        return inputs


def _no_model(run, reason):
    """Both ways to a model refuse it, in one line that names the file and the reason."""
    file = str(run / "model.keras")
    with pytest.raises(ValueError) as error:
        RunDirectory(run).load_model()
    message = str(error.value)
    assert message.startswith(f"workdir: {file!r} cannot be loaded: ")
    assert reason in message and "\n" not in message and len(message) < 1000
    with pytest.raises(ValueError) as error:
        other = run.parent / "other"
        train("image_classification", other, TINY | {"init_from": str(run)}, verbose=0)
    assert str(error.value) == message.replace("workdir", "init_from", 1)
    assert not other.exists()


@pytest.mark.parametrize("unsafe", [False, True])
def test_a_model_cannot_bring_code(unsafe, run, canary):
    """Also where somebody has turned Keras' safe mode off."""
    script = f"open({str(canary)!r}, 'w')"
    code = keras.layers.Lambda(eval(f"lambda x: ({script}, x)[1]"))
    layer = keras.saving.serialize_keras_object(code)
    original = (run / "model.keras").read_bytes()
    named = {
        "it holds a Lambda": layer,
        "it holds a __lambda__": layer["config"]["function"],
        "it holds a TFSMLayer": {"module": "keras.layers", "class_name": "TFSMLayer"},
        "it names os.system": _system(f"touch {canary}") | {"registered_name": "system"},
        "it names evil.Evil": {"module": "evil", "class_name": "Evil", "registered_name": None},
        "('Custom>Evil')": {"module": None, "class_name": "Evil", "registered_name": "Custom>Evil"},
        "it names subprocess.run": {
            "module": "subprocess",
            "class_name": "function",
            "config": "run",
            "registered_name": "run",
        },
    }
    before = keras.src.saving.serialization_lib.in_safe_mode()
    if unsafe:
        keras.config.enable_unsafe_deserialization()
    try:
        for reason, what in named.items():
            for change in _naming(**what):
                (run / "model.keras").write_bytes(original)
                _rewritten(run / "model.keras", change)
                reason = reason.replace("subprocess.run", "subprocess.function")
                with pytest.raises(ValueError) as error:
                    RunDirectory(run).load_model()
                assert reason in str(error.value) and "\n" not in str(error.value)
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", before)
    _no_model(run, reason)
    assert not canary.exists()


def test_what_keras_itself_holds_is_not_followed_either(run, canary):
    """Names within Keras that make no model: Keras' own refusal, in our one line."""
    for what in (
        {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "file:///x"}},
        {"module": "keras.saving", "class_name": "function", "config": "load_model"},
        {"module": "keras.src.saving.saving_lib", "class_name": "zipfile", "config": {}},
    ):
        _rewritten(run / "model.keras", lambda config, what=what: what)
        with pytest.raises(ValueError, match=r"model\.keras' cannot be loaded: "):
            RunDirectory(run).load_model()


def test_a_model_of_another_package_is_refused(run):
    inputs = keras.Input((2,))
    other = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    other.save(run / "model.keras")
    _no_model(run, "it is a Functional, not a model of this package")
    with pytest.warns(UserWarning, match="not yet been built"):
        Elsewhere().save(run / "model.keras")
    with pytest.raises(ValueError, match="it is a Elsewhere, not a model of this package"):
        RunDirectory(run).load_model()


def test_an_archive_of_something_else_is_refused(run):
    file, original = run / "model.keras", (run / "model.keras").read_bytes()
    for strange in ("../../evil.py", "/evil.py", "assets/x", "config.json"):
        with pytest.warns(UserWarning) if strange == "config.json" else _nothing():
            _rewritten(file, more=[(strange, b"{}")])
        _no_model(run, "it holds [")
        file.write_bytes(original)
    assert not (run.parent / "evil.py").exists()
    for size in (0, 10, len(original) // 2, len(original) - 1):
        file.write_bytes(original[:size])
        with pytest.raises(ValueError, match=r"model\.keras' cannot be loaded: File is not a zip"):
            RunDirectory(run).load_model()
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    _no_model(run, "File is not a zip file")
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 0xFF
    file.write_bytes(damaged)
    _no_model(run, "Bad CRC-32")
    file.unlink()
    file.mkdir()
    (file / "config.json").write_text(json.dumps(_system("true")))
    _no_model(run, "it is not a regular file")


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@pytest.mark.parametrize(
    "change",
    [
        lambda config: {},
        lambda config: [],
        lambda config: config | {"config": 3},
        lambda config: config | {"config": config["config"] | {"num_classes": "many"}},
        lambda config: config | {"config": config["config"] | {"filters": [-1]}},
        lambda config: config | {"build_config": {"input_shape": [None, 1, 1, 1]}},
        lambda config: config | {"class_name": ["CNN"], "registered_name": None},
        lambda config: config | {"compile_config": {"optimizer": "dynamite"}},
    ],
)
def test_a_model_s_config_of_the_wrong_form(change, run):
    _rewritten(run / "model.keras", change)
    with pytest.raises(ValueError, match=r"model\.keras' cannot be loaded: ") as error:
        RunDirectory(run).load_model()
    assert "\n" not in str(error.value)


DEEP = b'{"a":' * 900 + b"1" + b"}" * 900
WRONG_FORMS = [
    (b"", "Expecting value"),
    (b"\xff\xfe{}", "'utf-8' codec can't decode"),
    (b"[]", "it holds a list, expected an object"),
    (b"[" * 200_000, "it is nested too deeply"),
    (DEEP, "it is nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "integer string conversion"),
    (b"{}", "task is missing"),
    (b'{"task": 3}', "task: 3, expected a string"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_FORMS)
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_json_of_the_wrong_form_is_named(name, content, message, run):
    (run / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        bigmodels.commands.evaluate.evaluate(run)
    assert str(error.value).startswith(f"workdir: {str(run / name)!r} cannot be read: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("config.json", {"task": "baking"}, "task: 'baking' is not one of"),
        ("config.json", {"config": [1]}, "config: [1], expected an object"),
        ("config.json", {"versions": None}, "versions: None, expected an object"),
        ("config.json", {"config": {"epochs": 10**400}}, "epochs: 1000"),
        ("config.json", {"config": {"epochs": True}}, "epochs: True is not of type int"),
        ("config.json", {"config": {"batch_size": 1e999}}, "batch_size: inf is not of type int"),
        ("config.json", {"config": {"dataset": 5}}, "dataset: 5 is not of type str"),
        ("config.json", {"config": {"model": {"filters": 3}}}, "model.filters: 3 is not of"),
        ("config.json", {"config": {"optimizer": {"learning_rate": float("nan")}}}, "rate: nan"),
        ("config.json", {"config": {"bake": {}, "cake": 1}}, "no setting 'cake'"),
        ("result.json", {"seed": "x"}, "seed: 'x', expected a finite number"),
        ("result.json", {"test": {"accuracy": None}}, "expected an object of finite numbers"),
        ("result.json", {"train": {"loss": float("nan")}}, "expected an object of finite numbers"),
        ("result.json", {"steps": 10**400}, "steps: 1000"),
        ("result.json", {"intervals": {"test": {"loss": [1]}}}, "expected pairs of numbers"),
    ],
)
def test_values_of_the_wrong_kind_are_named(name, changed, message, run):
    stored = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(stored | changed))
    with pytest.raises(ValueError) as error:
        RunDirectory(run).load_config()
        RunDirectory(run).read_json("result.json")
    assert str(run / name) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "line 2 cannot be read: Expecting value"),
        (b"\xff", "line 2 cannot be read: 'utf-8' codec"),
        (b"[1]", "line 2 cannot be read: it holds a list"),
        (DEEP, "line 2 cannot be read: it is nested too deeply"),
        (b'{"epoch": 2}', "seconds is missing"),
        (b'{"epoch": 3, "seconds": 1, "loss": 1}', "epoch: 3, expected 2"),
        (b'{"epoch": 2, "seconds": "long", "loss": 1}', "seconds: 'long', expected a finite"),
        (b'{"epoch": 2, "seconds": 1, "loss": NaN}', "loss: nan, expected a finite number"),
        (b'{"epoch": 2, "seconds": 1, "loss": -1e999}', "loss: -inf, expected a finite number"),
        (b'{"epoch": 2, "seconds": 1}', "loss is missing"),
    ],
)
def test_a_bad_line_of_the_metrics_is_named(line, message, tmp_path):
    good = b'{"epoch": 1, "seconds": 0.5, "loss": 0.1}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n")
    with pytest.raises(ValueError) as error:
        RunDirectory(tmp_path).history()
    assert message in str(error.value) and "metrics.jsonl', line 2" in str(error.value)


def test_a_pipe_for_a_file_is_not_waited_for(run):
    for name in ("config.json", "metrics.jsonl"):
        (run / name).unlink()
        os.mkfifo(run / name)
    with pytest.raises(ValueError, match=r"config\.json' cannot be read: it is not a regular file"):
        list(predict(run, input="x.png"))
    with pytest.raises(ValueError, match=r"metrics\.jsonl', line 1 cannot be read: it is no"):
        RunDirectory(run).history()


def test_nothing_in_the_package_turns_safe_mode_off():
    package = pathlib.Path(bigmodels.__file__).parent
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    loading = [path.name for path, text in texts.items() if "load_model(path" in text]
    assert loading == ["directory.py"]
    for text in texts.values():
        for word in ("safe_mode=False", "enable_unsafe", "allow_pickle=True", "import pickle"):
            assert word not in text
    assert "np.load(path, allow_pickle" not in "".join(texts.values())
