"""Annotations are read as COCO means them, or one line says which file and row cannot be."""

import contextlib
import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigmodels.data import load_detection
from bigmodels.data.coco import read_coco
from bigmodels.train import train
from tests.cocos import content, pictures, write_coco
from tests.test_fuzz import Refused, ask, changed, mutated

DEEP = b'{"a":' * 30_000 + b"1" + b"}" * 30_000


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path / "set", 20)
    return tmp_path / "set"


def _json(folder, name="instances"):
    return folder / "annotations" / f"{name}.json"


def _change(folder, change):
    """The JSON file after a function has been at its content."""
    stored = json.loads(_json(folder).read_text())
    _json(folder).write_text(json.dumps(change(stored) or stored))


def _refused(folder, **more):
    with pytest.raises(ValueError) as error:
        load_detection(f"coco:{folder}", 8, **more)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def test_boxes_and_classes_are_those_that_were_written(tmp_path):
    pixels, objects = write_coco(tmp_path, 12)
    splits, names = read_coco(tmp_path)
    assert names == ["tall", "wide"]  # In the order of their ids.
    assert [*splits] == ["train"] and len(splits["train"]) == 12
    for picture in splits["train"]:
        number = int(picture.path.stem)
        expected = [[*box, int(label == 7), 0] for *box, label in objects[number]]
        np.testing.assert_array_equal(picture.objects, expected)
        assert picture.size == (16, 20)
        np.testing.assert_array_equal(tf.io.decode_png(picture.path.read_bytes()), pixels[number])


def test_one_file_is_split_the_same_way_every_time_and_nothing_is_in_two_parts(folder):
    a, b = (load_detection(f"coco:{folder}", 8, seed=seed) for seed in (1, 2))
    assert a.sizes == {"train": 16, "validation": 2, "test": 2}
    seen = []
    for split in ("train", "validation", "test"):
        images = [np.concatenate([x for x, _ in getattr(d, split)]) for d in (a, b)]
        seen.append({image.tobytes() for image in images[0]})
        assert seen[-1] == {image.tobytes() for image in images[1]}
    assert len(set().union(*seen)) == 20
    first, again = ([y.numpy() for _, y in d.test] for d in (a, b))
    np.testing.assert_array_equal(first, again)


def test_splits_are_told_by_the_names_of_files(tmp_path):
    for first, split in ((0, "train2017"), (100, "val2017"), (200, "test")):
        write_coco(tmp_path, 5, split=split, first=first)
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{")  # It is not read.
    data = load_detection(f"coco:{tmp_path}", 8)
    assert data.sizes == {"train": 5, "validation": 5, "test": 5}
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    assert "has 5 images for train; at least 10 are needed to split off validation" in _refused(
        tmp_path
    )


def test_images_may_lie_beside_their_annotations(tmp_path):
    for split in ("train", "valid", "test"):  # As Roboflow exports them.
        write_coco(tmp_path / split, 4)
        for image in (tmp_path / split / "images").iterdir():
            image.rename(tmp_path / split / image.name)
        _json(tmp_path / split).rename(tmp_path / split / "_annotations.coco.json")
    data = load_detection(f"coco:{tmp_path}", 8)
    assert data.sizes == {"train": 4, "validation": 4, "test": 4}


def test_crowds_are_no_targets_but_are_kept_for_the_rating(folder):
    def crowd(stored):
        stored["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [1], "size": [1, 1]}}

    _change(folder, crowd)
    data = load_detection(f"coco:{folder}", 8)
    rows = np.concatenate([rows for split in data.objects.values() for rows in split])
    assert (rows[:, 5] == 1).sum() == 1
    splits = (data.train, data.validation, data.test)
    found = sum(int((y.numpy()[..., 4] >= 0).sum()) for split in splits for _, y in split)
    assert found == len(rows) - 1 == sum(int(c.sum()) for c in data.class_counts.values())


def test_boxes_are_resized_with_their_images(folder):
    whole = load_detection(f"coco:{folder}", 8)
    small = load_detection(f"coco:{folder}", 8, image_size=(8, 40))
    assert small.image_shape == (8, 40, 3)
    for a, b in zip(whole.objects["test"], small.objects["test"], strict=True):
        np.testing.assert_allclose(a * [2, 0.5, 2, 0.5, 1, 1], b)
    (images, objects), *_ = small.test
    for image, rows in zip(images.numpy(), objects.numpy(), strict=True):
        left, top, right, bottom = np.rint(rows[0, :4]).astype(int)
        assert image[top:bottom, left:right].mean() > 0.55 > 0.3 > image.mean()


def test_a_set_too_large_to_hold_is_read_in_its_turn(folder, monkeypatch):
    held = load_detection(f"coco:{folder}", 8, seed=1)
    monkeypatch.setattr("bigmodels.data.detection._HELD_BYTES", 0)
    streamed = load_detection(f"coco:{folder}", 8, seed=1)
    for split in ("train", "train_sample", "validation", "test"):
        for a, b in zip(getattr(held, split), getattr(streamed, split), strict=True):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])


def _row(what, place=3, **values):
    def change(stored):
        stored[what][place] |= values

    return change


def _without(what, name, place=3):
    def change(stored):
        del stored[what][place][name]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda stored: {"info": 1}, "images is missing"),
        (lambda stored: stored | {"images": {}}, "images: {}, expected a list of objects"),
        (lambda stored: stored | {"annotations": [3]}, "annotations: [3], expected a list of"),
        (lambda stored: stored | {"images": []}, "images is empty"),
        (lambda stored: stored | {"annotations": []}, "annotations is empty"),
        (lambda stored: stored | {"categories": []}, "categories is empty"),
        (_without("images", "width"), "images[3]: width is missing"),
        (_row("images", width=0), "images[3]: width: 0, expected a number of pixels"),
        (_row("images", height=10**400), "images[3]: height: 1000"),
        (_row("images", id=True), "images[3]: id: True, expected a number from 0 on"),
        (_row("images", id=2), "images[3]: id: 2, which was there before"),
        (_row("images", file_name="../3.png"), "images[3]: file_name: '../3.png', expected"),
        (_row("images", file_name="/etc/passwd"), "file_name: '/etc/passwd', expected"),
        (_row("images", file_name="a\\b.png"), "file_name: 'a\\\\b.png', expected"),
        (_row("images", file_name=""), "file_name: '', expected"),
        (_row("images", file_name="2.png"), "images 2 and 3 are both '2.png'"),
        (_row("images", file_name="no.png"), "image 3: there is no "),
        (_row("annotations", image_id=77), "annotation 15: image_id: 77 is unknown"),
        (_row("annotations", category_id=1), "annotation 15: category_id: 1 is unknown"),
        (_row("annotations", category_id="7"), "annotations[3]: category_id: '7', expected"),
        (_row("annotations", id=5), "annotations[3]: id: 5, which was there before"),
        (_without("annotations", "bbox"), "annotations[3]: bbox is missing"),
        (_row("annotations", bbox=[1, 2, 3]), "annotations[3]: bbox: [1, 2, 3], expected left"),
        (_row("annotations", bbox=[1, 2, 3, math.nan]), "bbox: [1, 2, 3, nan], expected left"),
        (_row("annotations", bbox=[1, 2, 3, math.inf]), "bbox: [1, 2, 3, inf], expected left"),
        (_row("annotations", bbox=[1, 2, 3, 10**400]), "annotations[3]: bbox: "),
        (_row("annotations", bbox=[1, 2, 3, True]), "bbox: [1, 2, 3, True], expected left"),
        (_row("annotations", bbox=[1, 2, -3, 4]), "annotation 15: bbox: [1, 2, -3, 4], expected"),
        (_row("annotations", bbox=[1, 2, 0, -4]), "annotation 15: bbox: [1, 2, 0, -4], expected"),
        (_row("annotations", bbox=[-2, 2, 0, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[-2, 2, 3, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[15, 2, 7, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[20.5, 2, 0.4, 4]), "of a part of an image of 20 x 16"),
        (_row("annotations", iscrowd=2), "annotations[3]: iscrowd: 2, expected 0 or 1"),
        (_row("categories", 0, name="tall"), "categories: 2 are named 'tall'"),
        (_row("categories", 0, name="a\nb"), "categories[0]: name: 'a\\nb', expected a name"),
        (_row("categories", 0, id=3), "categories[1]: id: 3, which was there before"),
        (_row("categories", 0, id=9), "category_id: 7 is unknown"),
    ],
)
def test_what_does_not_fit_is_named(change, reason, folder):
    _change(folder, change)
    message = _refused(folder)
    assert message.startswith(f"coco: {str(_json(folder))!r}") and reason in message


def test_a_box_that_sticks_out_by_rounding_is_cut(folder):
    _change(folder, _row("annotations", 0, bbox=[-0.5, 3, 21, 5], image_id=0))
    (picture, *_), _ = read_coco(folder)[0]["train"], None
    assert [0, 3, 20, 8] in picture.objects[:, :4].tolist()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "it holds a list, expected an object"),
        (b'{"images": [', "Expecting value"),
        (DEEP, "it is nested too deeply"),
        ("{}".encode("utf-16"), "'utf-8' codec can't decode"),
        (b"\x89PNG\r\n", "'utf-8' codec can't decode"),
        (b"\0\0\0\0", "Expecting value"),
    ],
)
def test_what_is_no_json_is_named(raw, reason, folder):
    _json(folder).write_bytes(raw)
    message = _refused(folder)
    assert message.startswith(f"coco: {str(_json(folder))!r} cannot be read: ")
    assert reason in message


def test_boxes_without_an_area_are_left_out_and_counted(folder, capsys):
    """As COCO's own files have a few."""
    before = [picture.objects for picture in read_coco(folder)[0]["train"]]
    assert capsys.readouterr().err == ""
    _change(folder, _row("annotations", bbox=[1, 2, 3, 0]))
    after = [picture.objects for picture in read_coco(folder)[0]["train"]]
    assert sum(map(len, after)) == sum(map(len, before)) - 1
    assert "instances.json': left out 1 boxes of no width or no height" in capsys.readouterr().err


def test_what_is_no_regular_file_is_named(folder):
    path = _json(folder)
    path.unlink()
    assert "has no annotations, expected instances*.json in it or in" in _refused(folder)
    path.mkdir()
    assert "instances.json' cannot be read: it is no regular file" in _refused(folder)
    path.rmdir()
    os.mkfifo(path)  # To open it would wait for ever.
    assert "instances.json' cannot be read: it is no regular file" in _refused(folder)
    path.unlink()
    path.symlink_to("instances.json")
    assert "instances.json' cannot be read: Too many levels of symbolic links" in _refused(folder)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    assert "instances.json' cannot be read: it has more than" in _refused(folder)
    assert "nowhere' is not a directory" in _refused(folder / "nowhere")


def test_files_that_do_not_say_which_split_they_are(folder):
    other = folder / "annotations" / "instances_more.json"
    other.write_bytes(_json(folder).read_bytes())
    assert "is one of 2 files and does not say which split it is" in _refused(folder)
    other.rename(folder / "instances_val.json")
    _json(folder).rename(_json(folder, "instances_train"))
    assert "is an image for train already" in _refused(folder)
    (folder / "instances_val.json").rename(folder / "instances_train.json")
    assert "are both for train" in _refused(folder)
    (folder / "instances_train.json").rename(folder / "instances_test.json")
    _json(folder, "instances_train").rename(_json(folder, "instances_val"))
    assert "has no annotations for train" in _refused(folder)


def test_other_categories_in_another_split(tmp_path):
    for first, split in ((0, "train"), (100, "val")):
        write_coco(tmp_path, 12, split=split, first=first)
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"wide"', '"broad"'))
    assert "instances_val.json' has other categories than the file for train" in _refused(tmp_path)


def test_images_that_are_not_what_the_annotations_say(folder):
    image = folder / "images" / "5.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    assert _refused(folder) == (
        f"coco: {str(image)!r} cannot be decoded: it ends too early (truncated)"
    )
    image.write_bytes(tf.io.encode_png(np.zeros((9, 9, 3), "uint8")).numpy())
    assert f"coco: {str(image)!r} is (9, 9) pixels, but " in _refused(folder)
    _change(folder, _row("images", 5, height=9, width=9))
    _change(folder, lambda s: s | {"annotations": [a for a in s["annotations"]
                                                   if a["image_id"] != 5]})  # fmt: skip
    assert "5.png' is (9, 9) pixels but" in _refused(folder)
    assert load_detection(f"coco:{folder}", 8, image_size=(8, 8)).image_shape == (8, 8, 3)
    image.unlink()
    image.symlink_to("gone.png")
    assert "5.png' cannot be read: a symbolic link: No such file" in _refused(folder)


def test_too_many_objects_and_none_at_all(folder):
    assert "objects, more than data.max_objects=1" in _refused(folder, max_objects=1)
    _change(folder, lambda s: s | {"annotations": s["annotations"][:1]})
    assert "has no object for " in _refused(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digits"}, "'digits' is no images with boxes; give coco:DIR or digit_canvas"),
        ({"name": "images:x"}, "'images:x' is no images with boxes"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"max_objects": 0}, "max_objects: 0"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        load_detection(**arguments)
    assert message in str(error.value)


def test_a_training_sees_a_bad_row_before_it_writes_anything(folder, tmp_path):
    _change(folder, _row("annotations", bbox=[1, 2, -3, 4]))
    with pytest.raises(ValueError, match=r"annotation 15: bbox: \[1, 2, -3, 4\]"):
        train("object_detection", tmp_path / "run", {"dataset": f"coco:{folder}"}, verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    write_coco(root, 3)
    return root


CONTENT = content(pictures(np.random.default_rng(0), 3)[1])


@settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    raw=st.one_of(
        changed(CONTENT).map(lambda new: json.dumps(new).encode()),
        mutated(json.dumps(CONTENT).encode()),
    )
)
def test_anything_in_the_annotations(small, raw):
    """What the file holds, or one line that names it."""
    (small / "annotations" / "instances.json").write_bytes(raw)
    with contextlib.suppress(Refused):
        splits, names = ask(read_coco, small, naming=str(small))
        assert len(names) >= 2 and len(set(names)) == len(names)
        for picture in splits["train"]:
            height, width = picture.size
            left, top, right, bottom, label, crowd = picture.objects.T
            assert (left < right).all() and (top < bottom).all()
            assert (left >= 0).all() and (right <= width).all()
            assert (top >= 0).all() and (bottom <= height).all()
            assert set(label) <= set(range(len(names))) and set(crowd) <= {0, 1}
            assert picture.path.resolve().is_relative_to(small.resolve())
