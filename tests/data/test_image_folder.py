"""Folders of images as people have them: their classes, their splits, and what is left out."""

import pytest
import tensorflow as tf

from bigmodels.data import load_images
from bigmodels.data.image_folder import read_layout
from bigmodels.data.notes import Notes

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
    assert notes.lines == ["images: the folders of classes hold those of the splits."]
    _write(tmp_path, "cow/1.png")
    assert "cat' holds ['" in _refused(tmp_path)


def test_a_split_without_class_folders_is_none(tmp_path):
    for unlabelled in ("{}.png", "images/{}.png", "unknown/{}.png"):
        root = tmp_path / unlabelled[:4]
        _write(root, "train/cat/{}.png", "train/dog/{}.png", f"test/{unlabelled}")
        _, found, notes = _read(root)
        assert [*found] == ["train"]
        what = "images of 'test', which has no class folders, so that it is no split for test"
        assert notes.left_out == {what: 3} and what in notes.lines[0]


def test_a_folder_that_is_named_like_a_split_is_no_class(tmp_path):
    _write(tmp_path, "cat/{}.png", "dog/{}.png", "val/{}.png")
    assert "has folders for splits, ['val'], but none for train" in _refused(tmp_path)
    _write(tmp_path, "train/{}.png")
    assert "train' is the name of a split, but it holds no class folders and lies beside" in (
        _refused(tmp_path)
    )


def test_two_folders_for_one_split_are_refused(tmp_path):
    for folder in ("train", "val", "validation"):
        _write(tmp_path, f"{folder}/cat/{{}}.png", f"{folder}/dog/{{}}.png")
    message = _refused(tmp_path)
    assert "val' and '" in message and "are both for validation" in message


def test_classes_of_other_splits_may_be_in_another_case_but_not_others(tmp_path):
    _write(tmp_path, "train/cat/{}.png", "train/dog/{}.png", "val/Cat/{}.png")
    _, found, notes = _read(tmp_path)
    assert set(found["validation"].values()) == {"cat"}
    assert "val' has no folder for class 'dog'." in notes.lines[0]
    _write(tmp_path, "val/cow/{}.png")
    assert "cow' is no class of the training images" in _refused(tmp_path)


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
    assert "film' holds no image" in _refused(tmp_path)
    assert "film/a.heic', for one, is not read as an image" in _refused(tmp_path)


def test_one_folder_that_holds_everything_is_looked_into(tmp_path):
    _write(tmp_path, "archive/data/train/cat/{}.png", "archive/data/train/dog/{}.png")
    _write(tmp_path, "__MACOSX/{}.png")
    names, found, notes = _read(tmp_path)
    assert names == ["cat", "dog"] and len(found["train"]) == 6
    assert "has one folder, 'archive': that is read" in notes.lines[0]


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


def test_names_that_begin_with_no_class_are_refused(tmp_path):
    _write(tmp_path, *(f"{name}_{i}.png" for name in ("IMG", "DSC") for i in range(5)))
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
    what = "images of test, which have no labels, so that it is no split"
    assert notes.left_out == {what: 3}


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
        f"rows of '{table}' whose image is not there": 1,
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


def test_what_is_missing_of_the_splits_is_cut_from_train_and_said(tmp_path, capsys):
    for y in ("cat", "dog"):
        _write(tmp_path, *(f"Train/{y}/{i}.png" for i in range(20)))
        _write(tmp_path, *(f"Val/{y}/{i}.png" for i in range(11)))
    data = load_images(f"images:{tmp_path}", 8)
    assert data.sizes == {"train": 36, "validation": 22, "test": 4}
    line = "images: there is no folder for test; its images are cut from train."
    assert data.notes.lines == [line] == capsys.readouterr().err.splitlines()
    # Who takes the first training images sees all classes.
    labels = [int(y) for _, labels in data.train_sample for y in labels]
    assert 6 < sum(labels) < 16
