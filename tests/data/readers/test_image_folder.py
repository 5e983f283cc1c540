"""Folders of images as people have them: their classes, their splits, and what is left out."""

import pytest
import tensorflow as tf

from bigmodels.data import load_images
from bigmodels.data.notes import Notes
from bigmodels.data.readers.image_folder import read_layout

PNG = tf.io.encode_png(tf.zeros((2, 3, 3), "uint8")).numpy()


def _write(root, *names):
    """Small images; a name may hold `{}`, for three of them."""
    for name in names:
        for i in range(3) if "{}" in name else [0]:
            path = root / name.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PNG)


def _read(root):
    """`(classes, {split: {relative path: class}}, Notes)`."""
    notes = Notes()
    found, names = read_layout(root, notes)
    return (
        names,
        {
            split: {str(path.relative_to(root)): names[y] for path, y in labelled.items()}
            for split, labelled in found.items()
        },
        notes,
    )


def _refused(root):
    with pytest.raises(ValueError) as error:
        read_layout(root, Notes())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "Val"), ["train", "validation"]),
        (("training", "valid", "testing"), ["train", "validation", "test"]),
        (("TRAIN", "dev", "Test"), ["train", "validation", "test"]),
        (("train_set", "validation-set", "test set"), ["train", "validation", "test"]),
        (("train2017", "val2017"), ["train", "validation"]),
        (("train_images", "test_images"), ["train", "test"]),
        (("seg_train", "seg_test"), ["train", "test"]),
        (("train",), ["train"]),
    ],
)
def test_splits_go_by_any_usual_name(tmp_path, folders, splits):
    for folder in folders:
        _write(tmp_path, f"{folder}/cat/{{}}.png", f"{folder}/dog/{{}}.png")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and [*found] == splits
    for folder, labelled in zip(folders, found.values(), strict=True):
        assert labelled == {f"{folder}/{y}/{i}.png": y for y in names for i in range(3)}
    assert notes.lines == []


def test_splits_may_lie_in_the_class_folders(tmp_path):
    _write(tmp_path, *(f"{y}/{s}/{{}}.png" for y in ("cat", "dog") for s in ("train", "val")))
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and [*found] == ["train", "validation"]
    assert found["validation"] == {f"{y}/val/{i}.png": y for y in names for i in range(3)}
    assert notes.lines == ["images: the folders of classes contain those of the splits."]
    _write(tmp_path, "cow/1.png")
    assert "cat' contains ['" in _refused(tmp_path)


def test_what_lies_beside_splits_in_class_folders_is_named(tmp_path):
    _write(tmp_path, *(f"{y}/{s}/{{}}.png" for y in ("cat", "dog") for s in ("train", "val")))
    _write(tmp_path, "cat/raw/{}.png", "dog/loose.png")
    _, found, notes = _read(tmp_path)
    assert len(found["train"]) == len(found["validation"]) == 6
    assert notes.left_out == {
        "images in 'raw', which is not a split": 3,
        "images beside the folders that are read": 1,
    }


@pytest.mark.parametrize("inner", ["images", "Train", "train_images"])
def test_a_split_may_hold_one_folder_that_holds_the_classes(tmp_path, inner):
    _write(tmp_path, f"train/{inner}/cat/{{}}.png", f"train/{inner}/dog/{{}}.png")
    names, found, _ = _read(tmp_path)
    assert names == ["cat", "dog"] and len(found["train"]) == 6


def test_what_lies_beside_splits_and_classes_is_named(tmp_path):
    _write(tmp_path, *(f"{s}/{y}/{{}}.png" for s in ("train", "val") for y in ("cat", "dog")))
    _write(tmp_path, "more/{}.png", "a.png", "train/b.png", "val/c.png")
    _, found, notes = _read(tmp_path)
    assert len(found["train"]) == len(found["validation"]) == 6
    assert notes.left_out == {
        "images of 'more', which is not a split": 3,
        "images beside the folders that are read": 3,
    }


def test_a_training_split_of_one_class_is_refused(tmp_path):
    _write(tmp_path, "train/cat/{}.png", "test/cat/{}.png")
    assert "train' has 1 folders, expected one per class and at least two" in _refused(tmp_path)


def test_a_split_without_class_folders_is_none(tmp_path):
    for unlabelled in ("{}.png", "images/{}.png", "unknown/{}.png"):
        root = tmp_path / unlabelled[:4]
        _write(root, "train/cat/{}.png", "train/dog/{}.png", f"test/{unlabelled}")
        _, found, notes = _read(root)
        assert [*found] == ["train"]
        what = "images of 'test', which has no class folders, so that it is not a split for test"
        assert notes.left_out == {what: 3} and what in notes.lines[0]


def test_a_folder_that_is_named_like_a_split_is_no_class(tmp_path):
    _write(tmp_path, "cat/{}.png", "dog/{}.png", "val/{}.png")
    assert "has folders for splits, ['val'], but none for train" in _refused(tmp_path)
    _write(tmp_path, "train/{}.png")
    assert "train' is the name of a split, but it contains no class folders and is beside" in (
        _refused(tmp_path)
    )


def test_two_folders_for_one_split_are_refused(tmp_path):
    for folder in ("train", "val", "validation"):
        _write(tmp_path, f"{folder}/cat/{{}}.png", f"{folder}/dog/{{}}.png")
    message = _refused(tmp_path)
    assert "val' and '" in message and "are both for validation" in message
    _write(tmp_path, "training/cat/{}.png", "training/dog/{}.png")
    assert "training' are both for train; put them together" in _refused(tmp_path)


def test_of_two_folders_for_training_that_with_classes_is_read(tmp_path):
    _write(tmp_path, "train/{}.png", "training/cat/{}.png", "training/dog/{}.png")
    _, found, notes = _read(tmp_path)
    assert {path.partition("/")[0] for path in found["train"]} == {"training"}
    assert any("images of 'train', which has no class folders" in line for line in notes.lines)


def test_classes_of_other_splits_may_be_in_another_case_but_not_others(tmp_path):
    _write(tmp_path, "train/cat/{}.png", "train/dog/{}.png", "val/Cat/{}.png")
    _, found, notes = _read(tmp_path)
    assert set(found["validation"].values()) == {"cat"}
    assert "val' has no folder for class 'dog'." in notes.lines[0]
    _write(tmp_path, "val/dog/{}.png")
    _, found, notes = _read(tmp_path)
    assert sorted(found["validation"].values()) == ["cat"] * 3 + ["dog"] * 3
    _write(tmp_path, "val/cow/{}.png")
    assert "cow' is not a class of the training images" in _refused(tmp_path)


def test_junk_is_passed_over_and_what_is_not_read_is_named(tmp_path):
    _write(
        tmp_path,
        *("cat/{}.png", "dog/{}.webp", ".ipynb_checkpoints/{}.png", "__MACOSX/._cat/{}.png"),
        *("cat/._0.png", "cat/.ipynb_checkpoints/0.png", "Thumbs.db", "dog/.DS_Store"),
        *("cat/a.heic", "dog/b.avif", "dog/c.svg", "dog/d.txt", "loose.png"),
    )
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and len(found["train"]) == 6
    assert notes.left_out == {
        "images beside the folders that are read": 1,
        "hidden and system files or folders": 6,
        "files that are not read as images": 4,
    }
    assert any("cat/a.heic'" in line for line in notes.lines)
    _write(tmp_path, "film/a.heic")
    assert "film' contains no image" in _refused(tmp_path)
    assert "film/a.heic', for example, is not read as an image" in _refused(tmp_path)


def test_folders_that_begin_differently_are_no_splits(tmp_path):
    _write(tmp_path, "bullet_train/{}.png", "steam_engine/{}.png")
    assert _read(tmp_path)[0] == ["bullet_train", "steam_engine"]
    _write(tmp_path / "more", "soft_test/{}.png", "soft_ball/{}.png")
    assert _read(tmp_path / "more")[0] == ["soft_ball", "soft_test"]


def test_one_folder_that_holds_everything_is_looked_into(tmp_path):
    _write(tmp_path, "archive/data/train/cat/{}.png", "archive/data/train/dog/{}.png")
    _write(tmp_path, "__MACOSX/{}.png", "archive/cover.png")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and len(found["train"]) == 6
    assert "has one folder, 'archive': that is read" in notes.lines[0]
    assert notes.left_out == {
        "images beside the folders that are read": 1,
        "hidden and system files or folders": 1,
    }


def test_images_further_down_count_as_the_class_and_it_is_said(tmp_path):
    _write(tmp_path, "cat/white/{}.png", "cat/{}.png", "dog/{}.png")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and len(found["train"]) == 9
    assert "cat/white/0.png': 3 in all" in notes.lines[0]


@pytest.mark.parametrize(
    "form", ["{}.{}.jpg", "{}_{}.png", "{}-00{}.png", "{} ({}).png", "{}{}.png"]
)
def test_names_may_begin_with_the_class(tmp_path, form):
    for name in ("cat", "big_dog"):
        _write(tmp_path, *(form.format(name, i) for i in range(5)))
    _write(tmp_path, "cover.png")
    names, found, notes = _read(tmp_path)
    assert names == ["big_dog", "cat"]
    assert found["train"] == {form.format(y, i): y for y in names for i in range(5)}
    assert "begin with their classes: 'big_dog', 'cat'" in notes.lines[0]
    assert notes.left_out == {"images without a label": 1}


@pytest.mark.parametrize(
    "names",
    [
        [f"{name}_{i}.png" for name in ("IMG", "DSC") for i in range(5)],
        ["cat1.png", "cat2.png", "dog1.png", "dog2.png", *(f"{i}.png" for i in range(5))],
        ["rose1.png", "tulip1.png", "lily1.png", "lily2.png", "aster7.png"],
        [f"cat.{i}.png" for i in range(5)],
    ],
)
def test_names_that_begin_with_no_class_are_refused(tmp_path, names):
    _write(tmp_path, *names)
    assert "nor do the names of its images begin with classes" in _refused(tmp_path)


def test_flat_splits(tmp_path):
    _write(tmp_path, *(f"train/{y}.{i}.jpg" for y in ("cat", "dog") for i in range(3)))
    _write(tmp_path, *(f"val/{y}.{i}.jpg" for y in ("cat", "dog") for i in range(2)))
    _write(tmp_path, "test1/{}.jpg")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and {s: len(y) for s, y in found.items()} == {
        "train": 6,
        "validation": 4,
    }
    what = "images of test, which have no labels, so that it is not a split"
    assert notes.left_out == {what: 3}
    _write(tmp_path, *(f"valid/{y}.{i}.jpg" for y in ("cat", "dog") for i in range(2)))
    assert "are both for validation" in _refused(tmp_path)


def test_a_flat_split_of_other_classes_has_no_labels(tmp_path):
    _write(tmp_path, *(f"train/{y}.{i}.jpg" for y in ("cat", "dog") for i in range(3)))
    _write(tmp_path, *(f"test/{y}.{i}.jpg" for y in ("photo_a", "photo_b") for i in range(3)))
    _, found, notes = _read(tmp_path)
    assert [*found] == ["train"]
    assert notes.left_out == {"images of test, which have no labels, so that it is not a split": 6}


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("labels.csv", "file,label\n{}.png,cat\n"),
        ("labels.csv", "id,breed\n{},cat\n"),
        ("labels.csv", "{}.png,cat\n"),
        ("labels.tsv", "file\tlabel\nimages/{}.png\tcat\n"),
        ("labels.csv", ",path,label,width\n7,C:\\photos\\images\\{}.png,cat,9\n"),
        ("labels.csv", "file;class\n./images/{}.png;cat\n"),
    ],
)
def test_a_table_may_give_the_labels(tmp_path, table, rows):
    _write(tmp_path, *(f"images/{i}.png" for i in range(7)))
    head, row = rows.rsplit("\n", 2)[-3:-1] if rows.count("\n") > 1 else ("", rows[:-1])
    lines = [row.format(i).replace("cat", "cat" if i % 2 else "dog") for i in range(6)]
    lines.append(row.format("gone"))
    (tmp_path / table).write_text("\n".join([*([head] if head else []), *lines]) + "\n")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"]
    assert found["train"] == {f"images/{i}.png": "cat" if i % 2 else "dog" for i in range(6)}
    assert notes.left_out == {
        f"rows of '{table}' whose image does not exist": 1,
        "images without a label": 1,
    }
    assert any("the classes are column" in line for line in notes.lines)


def test_a_table_beside_the_folder_and_made_up_labels(tmp_path):
    _write(tmp_path, *(f"{split}/{i}.jpg" for split in ("train", "test") for i in range(4)))
    rows = "".join(f"{i},{'cat' if i % 2 else 'dog'}\n" for i in range(4))
    (tmp_path / "train.csv").write_text("id,label\n" + rows)
    (tmp_path / "sample_submission.csv").write_text("id,label\n" + rows)
    for root in (tmp_path, tmp_path / "train"):
        names, found, _ = _read(root)
        assert names == ["cat", "dog"] and [*found] == ["train"] and len(found["train"]) == 4


def test_made_up_labels_and_junk_are_no_tables(tmp_path):
    _write(tmp_path, *(f"images/{y}.{i}.jpg" for y in ("cat", "dog") for i in range(3)))
    for name in ("sample_submission.csv", "._labels.csv"):
        (tmp_path / name).write_text("file,label\ncat.0.jpg,a\ncat.1.jpg,b\ndog.2.jpg,b\n")
    (tmp_path / "size.csv").write_text("width,height\n")
    names, _, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and not any("column" in line for line in notes.lines)


def test_a_table_tells_images_of_one_name_apart_by_their_folders(tmp_path):
    _write(tmp_path, *(f"{split}/{i}.png" for split in ("train", "test") for i in range(4)))
    rows = "".join(f"train/{i}.png,{'ab'[i % 2]}\ntest/{i}.png,{'ba'[i % 2]}\n" for i in range(4))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    _, found, _ = _read(tmp_path)
    assert found == {
        "train": {f"train/{i}.png": "ab"[i % 2] for i in range(4)},
        "test": {f"test/{i}.png": "ba"[i % 2] for i in range(4)},
    }


def test_numbers_as_classes_are_in_their_own_order(tmp_path):
    _write(tmp_path, *(f"images/{i}.png" for i in range(3)))
    (tmp_path / "labels.csv").write_text("file,label\n0.png,10\n1.png,9\n2.png,2\n")
    assert _read(tmp_path)[0] == ["2", "9", "10"]


def test_of_several_columns_the_one_most_like_a_label_is_read(tmp_path):
    _write(tmp_path, *(f"images/{i}.png" for i in range(5)))
    (tmp_path / "labels.csv").write_text(
        ",file,y,set,label\n"
        "0,0.png,1,red,cat\n"
        "1, 1.png ,2,blue, dog \n"
        "2,2.png,1,red,cat\n"
        "3,3.png,2,blue,\n"
    )
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and [*found["train"].values()] == ["cat", "dog", "cat"]
    assert notes.left_out == {
        "rows of 'labels.csv' without a label": 1,
        "images without a label": 2,
    }


def test_an_index_without_a_name_is_no_label(tmp_path):
    _write(tmp_path, *(f"images/{i}.png" for i in range(4)))
    rows = "".join(f"{7 + i},{i}.png,{'ab'[i % 2]}\n" for i in range(4))
    (tmp_path / "all.csv").write_text(",file,kind\n" + rows)
    assert _read(tmp_path)[0] == ["a", "b"]


def test_an_image_of_a_split_must_be_of_a_class_of_the_training_images(tmp_path):
    _write(tmp_path, *(f"images/{i}.png" for i in range(4)))
    rows = "0.png,cat,train\n1.png,dog,train\n2.png,cow,test\n3.png,cat,test\n"
    (tmp_path / "all.csv").write_text("file,label,split\n" + rows)
    assert "2.png' is of class 'cow', which is not a class of the training images" in (
        _refused(tmp_path)
    )


@pytest.mark.thorough
def test_colour_and_transparency_may_be_in_any_of_the_images(tmp_path):
    for y in ("cat", "dog"):
        _write(tmp_path, *(f"{y}/{i}.png" for i in range(11)))
    grey = tf.io.encode_png(tf.zeros((2, 3, 2), "uint8")).numpy()
    (tmp_path / "cat" / "0.png").write_bytes(grey)
    data = load_images(f"images:{tmp_path}", 8)
    assert data.image_shape == (2, 3, 3)
    assert data.notes.lines == [
        "images: 1 image with transparent parts, blended with white; the first is "
        f"{str(tmp_path / 'cat' / '0.png')!r}."
    ]


def test_a_table_with_splits(tmp_path):
    _write(tmp_path, *(f"images/{i}.jpg" for i in range(9)))
    rows = "".join(f"{i}.jpg,{i % 2},{'train valid test'.split()[i % 3]}\n" for i in range(9))
    (tmp_path / "all.csv").write_text("file,label,split\n" + rows)
    names, found, _ = _read(tmp_path)
    assert names == ["0", "1"] and {s: len(y) for s, y in found.items()} == {
        "train": 3,
        "validation": 3,
        "test": 3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,red,green\n0.jpg,0,1\n1.jpg,1,0\n", "is the label is not clear"),
        ("file,label\n0.jpg,cat\n0.jpg,dog\n1.jpg,cat\n", "calls '0.jpg' both 'cat' and 'dog'"),
        ("name,label\na,cat\nb,dog\n", "nor is there a CSV file of files and labels"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path, text, message):
    _write(tmp_path, *(f"images/{i}.jpg" for i in range(3)))
    (tmp_path / "labels.csv").write_text(text)
    assert message in _refused(tmp_path)


@pytest.mark.thorough
def test_what_is_missing_of_the_splits_is_cut_from_train_and_said(tmp_path, capsys):
    for y in ("cat", "dog"):
        _write(tmp_path, *(f"Train/{y}/{i}.png" for i in range(20)))
        _write(tmp_path, *(f"Val/{y}/{i}.png" for i in range(11)))
    data = load_images(f"images:{tmp_path}", 8)
    assert data.sizes == {"train": 36, "validation": 22, "test": 4}
    line = "images: there is no folder for test; its images are split off train."
    assert data.notes.lines == [line] == capsys.readouterr().err.splitlines()
    assert _mixed_classes(data)
    for y in ("cat", "dog"):
        _write(tmp_path, *(f"test/{y}/{i}.png" for i in range(2)))
    data = load_images(f"images:{tmp_path}", 8)
    assert data.sizes["train"] == 40 and _mixed_classes(data)


def _mixed_classes(data):
    """Whether who takes the first training images sees all classes."""
    return {int(y) for _, labels in data.train_sample.take(1) for y in labels} == {0, 1}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("1_train", "2_val", "03 Test"), ["train", "validation", "test"]),
        (("asl_alphabet_train", "asl_alphabet_test"), ["train", "test"]),
        (("训练集", "验证集", "测试"), ["train", "validation", "test"]),
    ],
)
def test_splits_may_be_numbered_or_begin_alike(tmp_path, folders, splits):
    for folder in folders:
        _write(tmp_path, f"{folder}/cat/{{}}.png", f"{folder}/dog/{{}}.png")
    names, found, _ = _read(tmp_path)
    assert names == ["cat", "dog"] and [*found] == splits


def test_images_beside_annotations_are_what_is_read(tmp_path):
    _write(tmp_path, "images/Images/cat/{}.png", "images/Images/dog/{}.png", "trimaps/{}.png")
    names, _, notes = _read(tmp_path)
    assert names == ["cat", "dog"]
    assert notes.left_out["images of 'trimaps', which is beside 'images'"] == 3


def test_folders_of_parts_are_no_classes(tmp_path):
    _write(tmp_path, "images_part_1/cat{}.png", "images_part_2/dog{}.png")
    names, _, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and "are parts, not classes" in notes.lines[0]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("cat", "dog", "all/cat", "all/dog"), "all' is not a class: it contains ['cat', 'dog']"),
        (("cat/rgb", "cat/masks", "dog/rgb", "dog/masks"), "cat' is not a class: it contains"),
        (("train/images", "train/masks"), "train' contains ['images', 'masks']"),
        (("trainA", "trainB", "testA"), "are ['testA', 'trainA', 'trainB'], expected splits"),
    ],
)
def test_folders_that_can_hardly_be_classes_are_refused(tmp_path, folders, message):
    _write(tmp_path, *(f"{folder}/{{}}.png" for folder in folders))
    assert message in _refused(tmp_path)


def test_all_of_a_table_is_used_or_named(tmp_path):
    _write(tmp_path, "images/{}.png", "images/more{}.png")
    rows = "0,a,1\n1,b,1\n2,a,1\nmore0,NA,1\nmore1,b,1,!\nmore2,b,1\n"
    (tmp_path / "labels.csv").write_text(f"id,breed,age\n{rows}")
    _, found, notes = _read(tmp_path)
    assert [*found["train"].values()] == ["a", "b", "a", "b"]
    assert any("not used: 'age'" in line for line in notes.lines)
    assert notes.left_out["rows of 'labels.csv' without a label"] == 1
    assert notes.left_out["rows of 'labels.csv' with another number of columns than the first"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n0,a\n1,a|b\n2,b\n", "has several labels for an image in column 'label'"),
        ("id,label\n0,a\n1,a b\n2,b\n", "has several labels for an image in column 'label'"),
        ("id,label\n0,é\n1,a\n2,b\n".encode("cp1252"), "looks like windows-1252"),
        ("id,label\n7,a\n8,a\n9,b\n", "labels.csv' has no column that names the images"),
    ],
)
def test_a_table_of_no_use_is_named(tmp_path, text, message):
    _write(tmp_path, "{}.png")
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in _refused(tmp_path)
