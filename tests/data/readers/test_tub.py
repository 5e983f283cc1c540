"""A tub is read as Donkeycar means it, or one line says which file and line of it cannot be."""

import contextlib
import html
import json
import math
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings

from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.data import load_driving
from bigmodels.data.notes import Notes
from bigmodels.data.readers.tub import read_tub
from tests.test_fuzz import Refused, ask, mutated
from tests.tiny import TASKS
from tests.tubs import write_tub

DEEP = '{"a":' * 30_000 + "1" + "}" * 30_000


@pytest.fixture
def tub(tmp_path):
    write_tub(tmp_path / "tub", 60)
    return tmp_path / "tub"


def _line(_index=1, image="1.jpg", angle=0, **more):
    return json.dumps({"_index": _index, "cam/image_array": image, "user/angle": angle} | more)


def _refused(tub, **more):
    with pytest.raises(ValueError) as error:
        load_driving(f"tub:{tub}", 8, gap=2, **more)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def _replace_line(path, number, line):
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\n".join(lines))


def test_frames_come_in_order_without_the_deleted_ones(tmp_path):
    sessions = ["a"] * 12 + ["b"] * 8
    angles = write_tub(tmp_path / "tub", 20, sessions=sessions, deleted=(0, 13), catalogs=3)
    manifest = tmp_path / "tub" / "manifest.json"
    # Catalogues need not be named in the order of their frames.
    manifest.write_text(manifest.read_text().replace("catalog_0", "x").replace("catalog_2", "y"))
    (tmp_path / "tub" / "catalog_0.catalog").rename(tmp_path / "tub" / "y.catalog")
    (tmp_path / "tub" / "catalog_2.catalog").rename(tmp_path / "tub" / "x.catalog")
    found = read_tub(tmp_path / "tub")
    kept = [i for i in range(20) if i not in (0, 13)]
    assert found.indices == kept and found.deleted == 2
    np.testing.assert_allclose(found.angles, angles[kept], rtol=1e-6)
    assert found.sessions == [sessions[i] for i in kept]
    assert [path.name for path in found.paths] == [f"{i}_cam_image_array_.jpg" for i in kept]


def test_deleted_frames_need_no_image_and_no_angle(tub):
    (tub / "images" / "5_cam_image_array_.jpg").unlink()
    assert "5_cam_image_array_.jpg' cannot be read: No such file" in _refused(tub)
    _replace_line(tub / "catalog_0.catalog", 6, '{"_index": 5, "user/angle": null}')
    manifest = tub / "manifest.json"
    text = manifest.read_text().replace('"deleted_indexes": []', '"deleted_indexes": [5, 77]')
    manifest.write_text(text)
    data = load_driving(f"tub:{tub}", 8, gap=2)
    assert data.deleted == 1 and sum(data.sizes.values()) + data.between == 59


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "it holds a list, expected an object"),
        (b"\xff\xfe{\0}\0", "'utf-8' codec"),
        (b"\0\0\0", "Expecting value"),
        (DEEP, "it is nested too deeply"),
        ('{"_index": 1}', "cam/image_array is missing"),
        ('{"_index": -1}', "_index: -1, expected the number of a frame"),
        ('{"_index": 1.5}', "_index: 1.5, expected the number"),
        ('{"_index": true}', "_index: True, expected the number"),
        ('{"_index": 1' + "0" * 5000 + "}", "Exceeds the limit"),
        ('{"_index": 1, "cam/image_array": "1.jpg"}', "user/angle is missing"),
        (_line(_index=0), "_index: 0, which is a duplicate"),
        (_line(image="../1.jpg"), "'../1.jpg', expected the name of a file in images"),
        (_line(image="/etc/passwd"), "'/etc/passwd', expected the name of a file in images"),
        (_line(image=".."), "expected the name of a file in images"),
        (_line(image="a\0b"), "expected the name of a file in images"),
        (_line(image=7), "cam/image_array: 7, expected the name of a file in images"),
        (_line(angle="0.1"), "user/angle: '0.1', expected a number from -1 to 1"),
        (_line(angle=math.nan), "user/angle: nan, expected a number from -1 to 1"),
        (_line(angle=-math.inf), "user/angle: -inf, expected a number from -1 to 1"),
        (_line(angle=25.0), "user/angle: 25.0, expected a number from -1 to 1"),
        (_line(angle=10**400), "expected a number from -1 to 1"),
        (_line(_session_id=[]), "_session_id: [], expected a name"),
    ],
)
def test_a_bad_line_of_a_catalogue_is_named(line, reason, tub):
    path = tub / "catalog_0.catalog"
    _replace_line(path, 2, line)
    message = _refused(tub)
    assert message.startswith(f"tub: {str(path)!r}, line 2: ") and reason in message


@pytest.mark.parametrize(
    ("number", "line", "reason"),
    [
        (1, '["user/angle"]', "line 1: cam/image_array is not among the recorded values"),
        (1, "5", "line 1: cam/image_array is not among"),
        (1, '["cam/image_array", "angle"]', "line 1: user/angle is not among"),
        (1, "\ufeff[]", "line 1: "),
        (5, "{}", "line 5: paths is missing"),
        (5, '{"paths": "catalog_0.catalog"}', "line 5: paths: 'catalog_0.catalog', expected"),
        (5, '{"paths": ["../tub/catalog_0.catalog"]}', "expected a list of files of the tub"),
        (5, '{"paths": ["/dev/zero"]}', "expected a list of files of the tub"),
        (5, '{"paths": ["catalog_0.catalog"], "deleted_indexes": 3}', "deleted_indexes: 3, expec"),
        (5, '{"paths": ["catalog_0.catalog"], "deleted_indexes": [1e9]}', "expected a list of num"),
        (5, "", "line 4: 4 lines, expected the five of a Donkeycar tub"),
        (5, '{"paths": ["nowhere"]}', "nowhere' cannot be read: No such file or directory"),
        (5, '{"paths": ["images"]}', "images' cannot be read: it is not a regular file"),
        (5, '{"paths": []}', "contains no frame"),
    ],
)
def test_a_bad_manifest_is_named(number, line, reason, tub):
    _replace_line(tub / "manifest.json", number, line)
    assert reason in _refused(tub)


def test_what_is_no_tub_is_named(tub, tmp_path):
    assert "nowhere' is not a directory" in _refused(tmp_path / "nowhere")
    assert "images' has no manifest.json of a Donkeycar tub, version 2" in _refused(tub / "images")
    (tub / "images" / "record_1.json").write_text("{}")
    assert "records of version 1" in _refused(tub / "images")
    (tub / "manifest.json").write_bytes(b"")
    assert "line 0: 0 lines, expected the five" in _refused(tub)
    (tub / "manifest.json").unlink()
    (tub / "manifest.json").mkdir()
    assert "manifest.json' cannot be read: it is not a regular file" in _refused(tub)
    (tub / "manifest.json").rmdir()
    os.mkfifo(tub / "manifest.json")  # To open it would wait for ever.
    assert "manifest.json' cannot be read: it is not a regular file" in _refused(tub)


def test_a_huge_catalogue_is_refused_before_it_takes_memory(tub):
    with open(tub / "catalog_1.catalog", "wb") as file:
        file.truncate(1 << 40)
    assert "catalog_1.catalog' cannot be read: it has more than" in _refused(tub)


def test_frames_of_two_sizes_are_resized_when_asked(tub):
    path = tub / "images" / "7_cam_image_array_.jpg"
    path.write_bytes(tf.io.encode_jpeg(np.zeros((9, 16, 3), "uint8")).numpy())
    assert f"tub: {str(path)!r} is (9, 16) pixels but" in _refused(tub)
    assert load_driving(f"tub:{tub}", 8, gap=2, image_size=(6, 8)).image_shape == (6, 8, 3)


def test_all_frames_deleted(tub):
    manifest = tub / "manifest.json"
    gone = json.dumps(list(range(60)))
    text = manifest.read_text().replace('"deleted_indexes": []', f'"deleted_indexes": {gone}')
    manifest.write_text(text)
    assert "contains no frame; its 60 are deleted" in _refused(tub)


def test_a_training_sees_a_bad_frame_before_it_writes_anything(tub, tmp_path):
    path = tub / "images" / "7_cam_image_array_.jpg"
    path.write_bytes(path.read_bytes()[:100])
    config = {"dataset": f"tub:{tub}", "data.gap": 2}
    with pytest.raises(ValueError, match=r"tub: .*7_cam_.* cannot be decoded: it ends too early"):
        train("driving", tmp_path / "run", config, verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_bad_frames_and_lines_are_left_out_when_asked(tub, tmp_path, capsys):
    empty, catalog = tub / "images" / "7_cam_image_array_.jpg", tub / "catalog_1.catalog"
    config = TASKS["driving"] | {"dataset": f"tub:{tub}", "epochs": 1}
    empty.write_bytes(b"")
    assert _refused(tub) == f"tub: {str(empty)!r} cannot be decoded: it is empty"
    _replace_line(catalog, 3, '{"_index": 32, "cam/')
    assert _refused(tub).startswith(f"tub: {str(catalog)!r}, line 3: ")
    with pytest.raises(ValueError, match=r"catalog_1\.catalog', line 3: "):
        train("driving", tmp_path / "run", config, verbose=0)
    assert not (tmp_path / "run").exists() and capsys.readouterr().err == ""

    skips = {"data.skip_bad_files": True}
    result = train("driving", tmp_path / "run", config | skips, verbose=0)
    assert result["left_out"] == {
        "damaged lines": 1,
        "bad files": 1,
        "images that belong to no frame": 1,
    }
    notes = result["notes"]
    assert len(notes) == 3
    lines, files = (next(n for n in notes if what in n) for what in ("damaged", "bad files"))
    assert lines.startswith("tub: left out damaged lines (1): 'catalog_1.catalog, line 3' ")
    assert files == f"tub: left out bad files (1): {str(empty)!r} cannot be decoded: it is empty."
    assert capsys.readouterr().err.splitlines()[:3] == notes
    assert html.escape(files) in (tmp_path / "run" / "report.html").read_text()

    rows = list(predict(tmp_path / "run", input=str(tub)))
    assert len(rows) == 58 and str(empty) not in {row["file"] for row in rows}
    # Of every frame that is left, its own angle.
    numbers = [int(pathlib.Path(row["file"]).name.partition("_")[0]) for row in rows]
    assert [row["user_angle"] for row in rows] == pytest.approx(np.sin(np.array(numbers) / 5))
    said = {line.partition(":")[2] for line in capsys.readouterr().err.splitlines()}
    assert {line.partition(":")[2] for line in (lines, files)} <= said


def test_the_angles_stay_with_their_frames_when_some_are_left_out(tub):
    angle_of = {}
    for path in (tub / "images").iterdir():
        frame = tf.cast(tf.io.decode_jpeg(path.read_bytes()), "float32").numpy().tobytes()
        angle_of[frame] = np.float32(np.sin(int(path.name.partition("_")[0]) / 5))
    for number in (0, 3, 30):
        (tub / "images" / f"{number}_cam_image_array_.jpg").write_bytes(b"")
    data = load_driving(f"tub:{tub}", 8, gap=2, skip_bad_files=True)
    for frame, angle in _frames(data):
        assert angle_of[frame.tobytes()] == pytest.approx(float(angle[0]))


def _frames(data):
    for batches in (data.train_sample, data.validation, data.test):
        for images, angles in batches.as_numpy_iterator():
            yield from zip(images, angles, strict=True)


def test_catalogues_that_cannot_be_read_are_left_out_when_asked(tub):
    (tub / "catalog_1.catalog").unlink()
    assert "catalog_1.catalog' cannot be read: No such file" in _refused(tub)
    data = load_driving(f"tub:{tub}", 8, gap=2, skip_bad_files=True)
    assert data.notes.left_out == {
        "catalogues that cannot be read": 1,
        "images that belong to no frame": 30,
    }
    for path in (tub / "images").iterdir():
        path.write_bytes(b"")
    assert _refused(tub, skip_bad_files=True).startswith("tub: no frame is left; for example, '")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small") / "tub"
    write_tub(root, 5, size=(2, 2), deleted=(2,), catalogs=1)
    return root


CATALOG = f"{_line(0)}\n{_line(1, angle=-0.5, _session_id='a')}\n".encode()
MANIFEST = b"""["cam/image_array", "user/angle"]
[]
{}
{}
{"paths": ["c"], "deleted_indexes": [1]}"""


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(catalog=mutated(CATALOG), manifest=mutated(MANIFEST))
def test_anything_in_a_tub(small, catalog, manifest):
    """What the files hold, or one line that names one of them."""
    (small / "c").write_bytes(catalog)
    for content in (MANIFEST, manifest):
        (small / "manifest.json").write_bytes(content)
        with contextlib.suppress(Refused):
            found = ask(read_tub, small, naming=str(small))
            assert len(found.angles) == len(found.paths) == len(found.sessions) > 0
            assert all(-1 <= angle <= 1 for angle in found.angles)
            assert all(path.parent == small / "images" for path in found.paths)


def test_what_no_frame_or_manifest_names_is_said(tub):
    (tub / "catalog_7.catalog").write_text("")
    (tub / "images" / "more.jpg").write_bytes(b"")
    notes = Notes()
    assert len(read_tub(tub, notes=notes).paths) == 60
    assert notes.left_out == {
        "catalogues that manifest.json does not list": 1,
        "images that belong to no frame": 1,
    }
