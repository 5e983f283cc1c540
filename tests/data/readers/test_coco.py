"""Annotations are read as COCO means them, or one line says which file and row cannot be."""

import contextlib
import json
import math
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bigmodels.commands.train import train
from bigmodels.data import load_detection
from bigmodels.data.notes import Notes
from bigmodels.data.readers.coco import read_coco
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


@pytest.mark.thorough
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
        (_row("images", width=20.5), "images[3]: width: 20.5, expected a number of pixels"),
        (_row("images", height="1e1"), "images[3]: height: '1e1', expected a number of pixels"),
        (_row("images", id=2.5), "images[3]: id: 2.5, expected a number from 0 on"),
        (_row("images", file_name="C:\\"), "images[3]: file_name: 'C:\\\\', expected"),
        (_row("images", id=2), "images[3]: id: 2, which is a duplicate"),
        (_row("images", file_name="/etc/passwd"), "images/etc/passwd', nor one in "),
        (_row("images", file_name=".."), "images[3]: file_name: '..', expected"),
        (_row("images", file_name=""), "file_name: '', expected"),
        (_row("images", file_name="2.png"), "images 2 and 3 are both '2.png'"),
        (_row("images", file_name="no.png"), "image 3: there is no "),
        (_row("annotations", image_id=77), "annotation 15: image_id: 77 is unknown"),
        (_row("annotations", category_id=1), "annotation 15: category_id: 1 is unknown"),
        (_row("annotations", id=5), "annotations[3]: id: 5, which is a duplicate"),
        (_row("annotations", bbox=[], segmentation=[[1, 2]]), "annotations[3]: bbox: [], expected"),
        (_row("annotations", category_id=[7]), "annotations[3]: category_id: [7], expected"),
        (_row("annotations", bbox=[1, 2, 3]), "annotations[3]: bbox: [1, 2, 3], expected left"),
        (_row("annotations", bbox=[1, 2, 3, math.nan]), "bbox: [1, 2, 3, nan], expected left"),
        (_row("annotations", bbox=[1, 2, 3, math.inf]), "bbox: [1, 2, 3, inf], expected left"),
        (_row("annotations", bbox=[1, 2, 3, 10**400]), "annotations[3]: bbox: "),
        (_row("annotations", bbox=[1, 2, 3, True]), "bbox: [1, 2, 3, True], expected left"),
        (_row("annotations", bbox=[1, 2, -3, 4]), "annotation 15: bbox: [1, 2, -3, 4], expected"),
        (_row("annotations", bbox=[1, 2, 0, -4]), "annotation 15: bbox: [1, 2, 0, -4], expected"),
        (_row("annotations", bbox=[-3, 2, 0, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[-3, 2, 3, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[15, 2, 8, 4]), "of a part of an image of 20 x 16 pixels"),
        (_row("annotations", bbox=[20.5, 2, 0.4, 4]), "of a part of an image of 20 x 16"),
        (_row("annotations", iscrowd=2), "annotations[3]: iscrowd: 2, expected 0 or 1"),
        (_row("categories", 0, name="a\nb"), "categories[0]: name: 'a\\nb', expected a name"),
        (_row("categories", 0, id=3), "categories[1]: id: 3, which is a duplicate"),
        (_row("categories", 0, id=9), "category_id: 7 is unknown"),
    ],
)
def test_what_does_not_fit_is_named(change, reason, folder):
    _change(folder, change)
    message = _refused(folder)
    assert message.startswith(f"coco: {str(_json(folder))!r}") and reason in message


def test_a_box_that_sticks_out_by_two_pixels_is_cut_and_counted(folder, capsys):
    _change(folder, _row("annotations", 0, bbox=[-1.6, 3, 23, 5], image_id=0))
    notes = Notes()
    splits, _ = read_coco(folder, notes)
    assert [0, 3, 20, 8] in splits["train"][0].objects[:, :4].tolist()
    (line,) = notes.lines
    assert "1 boxes that extend beyond their images by up to 2 pixels are clipped" in line
    assert "the first is annotation 0" in line and line in capsys.readouterr().err


@pytest.mark.parametrize(("left", "is_cut"), [(-2.0000005, True), (-2.01, False)])
def test_two_pixels_are_two_pixels_in_whatever_arithmetic(folder, left, is_cut):
    _change(folder, _row("annotations", 0, bbox=[left, 3, 10, 5], image_id=0))
    if is_cut:
        read_coco(folder)
    else:
        assert "annotation 0" in _refused(folder)


def _as_other_tools(stored):
    """Ids as strings and floats, sizes as floats, no area and no iscrowd."""
    for row in stored["images"]:
        row |= {"id": str(row["id"]), "width": float(row["width"]), "height": str(row["height"])}
    for row in stored["annotations"]:
        row |= {"image_id": str(row["image_id"]), "category_id": float(row["category_id"])}
        del row["area"], row["iscrowd"]


def test_ids_and_sizes_as_other_tools_write_them(folder):
    before, names = read_coco(folder)
    _change(folder, _as_other_tools)
    after, same = read_coco(folder)
    assert names == same
    for a, b in zip(before["train"], after["train"], strict=True):
        assert a.path == b.path and a.size == b.size
        np.testing.assert_array_equal(a.objects, b.objects)


@pytest.mark.parametrize(
    "form",
    [
        "images\\{}.png",
        "C:\\Users\\me\\photos\\{}.png",
        "/home/me/labels/images/{}.png",
        "../../upload/1/{}.png",
        "/data/local-files/?d=photos%2F{}.png",
        "/data/local-files/?d={}.png",
        "%7B{}.png",
    ],
)
def test_names_of_images_as_other_machines_write_them(folder, form):
    for path in [*(folder / "images").iterdir()]:
        name = "{" + path.name if form.startswith("%") else path.name
        path.rename(folder / "images" / name)

    def change(stored):
        for row in stored["images"]:
            row["file_name"] = form.format(row["id"])

    _change(folder, change)
    notes = Notes()
    splits, _ = read_coco(folder, notes)
    assert len({picture.path for picture in splits["train"]}) == 20
    if form.startswith(("%", "images")):
        assert notes.lines == []
    else:
        assert "20 images are not at the given path" in notes.lines[0]


def test_images_may_lie_anywhere_below_and_the_unlisted_are_named(folder):
    (folder / "deep").mkdir()
    (folder / "images").rename(folder / "deep" / "down")
    (folder / "deep" / "more.png").write_bytes(b"")
    notes = Notes()
    splits, _ = read_coco(folder, notes)
    assert splits["train"][0].path.parent == folder / "deep" / "down"
    assert notes.left_out == {"images without an entry in the annotations": 1}


def test_junk_and_other_files_are_passed_over(folder):
    (folder / "annotations" / "._instances.json").write_text("{")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "instances_train.json").write_text("{")
    (folder / "settings").mkdir()
    (folder / "settings" / "instances_train.json").write_text("{")
    (folder / "annotations" / "captions.json").write_text("{")
    notes = Notes()
    assert len(read_coco(folder, notes)[0]["train"]) == 20
    assert notes.left_out == {"other JSON files": 1}


def test_one_folder_that_holds_everything_is_looked_into(folder):
    (folder / "archive").mkdir()
    (folder / "__MACOSX").mkdir()
    for name in ("images", "annotations"):
        (folder / name).rename(folder / "archive" / name)
    notes = Notes()
    assert len(read_coco(folder, notes)[0]["train"]) == 20
    assert notes.lines == [f"coco: {str(folder)!r} has one folder, 'archive': that is read."]


def test_images_may_lie_in_a_folder_beside_their_annotations(tmp_path):
    for first, split in ((0, "train"), (100, "valid")):
        write_coco(tmp_path / split, 4, first=first)
        _json(tmp_path / split).rename(tmp_path / split / "labels.json")
    notes = Notes()
    splits, _ = read_coco(tmp_path, notes)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 4}
    assert notes.lines == []


def test_images_of_one_name_are_told_apart_by_their_folders(folder):
    for number in (3, 4):
        (folder / f"day{number}").mkdir()
        path = folder / "images" / f"{number}.png"
        path.rename(folder / f"day{number}" / "a.png")
    _change(folder, _row("images", 3, file_name="C:\\x\\day3\\a.png"))
    _change(folder, _row("images", 4, file_name="C:\\x\\day4\\a.png"))
    splits, _ = read_coco(folder)
    assert {f"day{n}/a.png" for n in (3, 4)} <= {
        picture.path.relative_to(folder).as_posix() for picture in splits["train"]
    }
    _change(folder, _row("images", 3, file_name="C:\\x\\a.png"))
    with pytest.raises(ValueError, match="image 3: there is no "):
        read_coco(folder)


def test_the_end_of_a_path_leads_to_an_image_before_its_name_does(folder):
    (folder / "other").mkdir()
    shutil.copy(folder / "images" / "3.png", folder / "other" / "3.png")
    _change(folder, _row("images", 3, file_name="../../upload/1/3.png"))
    notes = Notes()
    splits, _ = read_coco(folder, notes)
    assert folder / "images" / "3.png" in [picture.path for picture in splits["train"]]
    assert notes.left_out == {"images without an entry in the annotations": 1}


def test_images_of_one_name_further_below_are_told_apart_by_their_folders(folder):
    for number in (3, 4):
        day = folder / "deep" / f"day{number}"
        day.mkdir(parents=True)
        (folder / "images" / f"{number}.png").rename(day / "a.png")
        _change(folder, _row("images", number, file_name=f"C:\\x\\day{number}\\a.png"))
    splits, _ = read_coco(folder)
    assert {f"deep/day{n}/a.png" for n in (3, 4)} <= {
        picture.path.relative_to(folder).as_posix() for picture in splits["train"]
    }


def test_classes_are_in_the_order_of_their_numbers(folder):
    _change(folder, lambda stored: _only(stored, "face", others=[{"id": 10, "name": "ten"}]))
    assert read_coco(folder)[1] == ["face", "ten"]
    _change(folder, lambda stored: _only(stored, "face", others=[{"id": "x", "name": "ex"}]))
    assert read_coco(folder)[1] == ["face", "ex"]


def test_a_byte_order_mark_is_passed_over(folder):
    as_it_was = read_coco(folder)[1]
    _json(folder).write_bytes(b"\xef\xbb\xbf" + _json(folder).read_bytes())
    assert read_coco(folder)[1] == as_it_was


def test_what_sticks_out_by_rounding_alone_is_not_said(folder):
    _change(folder, _row("annotations", 0, bbox=[-1e-4, 3, 20, 5], image_id=0))
    notes = Notes()
    splits, _ = read_coco(folder, notes)
    assert splits["train"][0].objects[:, 0].min() >= 0 and notes.lines == []


@pytest.mark.parametrize("box", [None, []])
def test_an_outline_may_be_one_list_and_stand_beside_an_empty_box(folder, box):
    before, _ = read_coco(folder)

    def change(stored):
        row = stored["annotations"][0]
        left, top, width, height = row.pop("bbox")
        row["segmentation"] = [left, top, left + width, top, left, top + height]
        if box is not None:
            row["bbox"] = box

    _change(folder, change)
    after, _ = read_coco(folder)
    for a, b in zip(before["train"], after["train"], strict=True):
        np.testing.assert_array_equal(a.objects, b.objects)


def test_label_studio_s_result_json(folder):
    _json(folder).rename(folder / "result.json")
    assert len(read_coco(folder)[0]["train"]) == 20


def _only(stored, name, **more):
    """One category alone, and what else is to be in the list."""
    stored["categories"] = [{"id": 7, "name": name}, *more.get("others", ())]
    for row in stored["annotations"]:
        row["category_id"] = 7


@pytest.mark.parametrize(
    ("others", "names", "said"),
    [
        ((), ["face"], None),
        (
            ({"id": 0, "name": "face", "supercategory": "none"},),
            ["face"],
            "0, 7 are all named 'face' and are one class, as only one is used.",
        ),
        (({"id": 8, "name": "car"},), ["face", "car"], "1 categories have no box, but are"),
        # One that has boxes is a class, whatever others call it.
        (({"id": 8, "name": "car", "supercategory": "face"},), ["face", "car"], "have no box, but"),
        (
            (
                {"id": 0, "name": "head", "supercategory": "none"},
                {"id": 8, "name": "car", "supercategory": "head"},
            ),
            ["face", "car"],
            "left out supercategories without boxes (1): 'head'",
        ),
    ],
)
def test_categories_that_no_box_has(folder, others, names, said):
    _change(folder, lambda stored: _only(stored, "face", others=others))
    notes = Notes()
    assert read_coco(folder, notes)[1] == names
    assert any(said in line for line in notes.lines) if said else notes.lines == []


def test_where_there_is_no_box_at_all_no_category_is_above_others(folder):
    for place in range(len(json.loads(_json(folder).read_text())["annotations"])):
        _change(folder, _row("annotations", place, bbox=[1, 1, 0, 3], segmentation=[]))
    _change(folder, _row("categories", 0, supercategory="tall"))
    assert read_coco(folder)[1] == ["tall", "wide"]


def test_categories_of_one_name_that_boxes_have_are_one_class(folder):
    _change(folder, _row("categories", 0, name="tall"))
    notes = Notes()
    splits, names = read_coco(folder, notes)
    assert names == ["tall"] and {y for p in splits["train"] for y in p.objects[:, 4]} == {0}
    assert "categories 3, 7 are all named 'tall' and are one class." in notes.lines[0]


def test_other_splits_may_have_other_ids_for_the_same_names(tmp_path):
    for first, split in ((0, "train"), (100, "val")):
        write_coco(tmp_path, 12, split=split, first=first)
    before, _ = read_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val.json"
    text = path.read_text().replace('"category_id": 7', '"category_id": 1')
    path.write_text(text.replace('{"id": 7, "name"', '{"id": 1, "name"'))
    after, names = read_coco(tmp_path)
    assert names == ["tall", "wide"]
    for a, b in zip(before["validation"], after["validation"], strict=True):
        np.testing.assert_array_equal(a.objects, b.objects)


def test_an_outline_alone_has_a_box(folder):
    before, _ = read_coco(folder)

    def change(stored):
        for row in stored["annotations"]:
            left, top, width, height = row.pop("bbox")
            right, bottom = left + width, top + height
            row["segmentation"] = [[left, top, right, top, right, bottom], [left, bottom] * 3]

    _change(folder, change)
    notes = Notes()
    after, _ = read_coco(folder, notes)
    for a, b in zip(before["train"], after["train"], strict=True):
        np.testing.assert_array_equal(a.objects, b.objects)
    assert "objects have an outline but no box, and get the box of the outline" in notes.lines[0]


def test_what_does_not_fit_is_left_out_when_asked(folder):
    _change(folder, _row("annotations", 0, bbox=[50, 2, 3, 4]))
    _change(folder, _row("annotations", 1, image_id=77))
    (folder / "images" / "4.png").unlink()
    (folder / "images" / "5.png").write_bytes(b"")
    data = load_detection(f"coco:{folder}", 8, skip_bad_files=True)
    assert sum(data.sizes.values()) == 18
    assert data.notes.left_out == {"invalid annotations": 2, "bad files": 2}
    assert any("'4.png' does not exist" in line for line in data.notes.lines)
    assert any("5.png' cannot be decoded: it is empty" in line for line in data.notes.lines)
    assert "4.png'" in _refused(folder) or "annotation 0: bbox: [50, 2" in _refused(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.thorough
def test_boxes_are_of_the_upright_image(tmp_path, orientation):
    write_coco(tmp_path, 12)
    upright, _ = load_detection(f"coco:{tmp_path}", 8), None
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of what undoes each.
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        if orientation > 1:
            pixels = pixels.transpose(Image.Transpose(back[orientation]))
        tags = Image.Exif()
        tags[0x0112] = orientation
        pixels.save(path, exif=tags)
    turned = load_detection(f"coco:{tmp_path}", 8)
    for (a, boxes), (b, same) in zip(upright.test, turned.test, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(boxes, same)


def test_annotations_of_an_image_as_stored_are_refused(folder):
    tags = Image.Exif()
    tags[0x0112] = 6
    with Image.open(folder / "images" / "5.png") as image:
        image.convert("RGB").save(folder / "images" / "5.png", exif=tags)
    assert "5.png' is (20, 16) pixels, rotated by its EXIF orientation, but " in (_refused(folder))


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
    assert "instances.json': left out boxes of no width or no height (1)" in capsys.readouterr().err


def test_what_is_no_regular_file_is_named(folder):
    path = _json(folder)
    path.unlink()
    assert "has no annotations, expected instances*.json in it or in" in _refused(folder)
    path.mkdir()
    assert "instances.json' cannot be read: it is not a regular file" in _refused(folder)
    path.rmdir()
    os.mkfifo(path)  # To open it would wait for ever.
    assert "instances.json' cannot be read: it is not a regular file" in _refused(folder)
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
        (
            {"name": "digits"},
            "'digits' is not a set of images with boxes; give coco:DIR or digit_canvas",
        ),
        ({"name": "images:x"}, "'images:x' is not a set of images with boxes"),
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
@pytest.mark.thorough
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


def test_boxes_in_shares_of_their_images_are_refused(folder):
    def change(stored):
        for row in stored["annotations"]:
            row["bbox"] = [0.1, 0.1, 0.5, 0.5]

    _change(folder, change)
    with pytest.raises(ValueError, match="from 0 to 1, relative to the image"):
        read_coco(folder)


def test_a_rotated_box_is_said(folder):
    _change(folder, _row("annotations", 0, attributes={"rotation": 45.0}))
    notes = Notes()
    read_coco(folder, notes)
    assert "1 boxes are marked as rotated, and are read upright" in notes.lines[0]
