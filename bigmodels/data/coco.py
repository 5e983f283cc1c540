"""Images with boxes as COCO writes them down: JSON files of images, categories and annotations.

annotations/instances_train.json   what is in which image; also in the directory itself, or in
                                   folders named train, valid, test, as Roboflow exports them
images/                            the images; also in a folder named like the split (`train2017`),
                                   or beside the JSON file

Files whose names (or folders' names) hold train, val or test are those splits. One file alone is
the whole set.
"""

import collections
import dataclasses
import os
import pathlib
import sys

import numpy as np

from bigmodels import untrusted
from bigmodels.checks import shown

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_FOLDERS = ("", "annotations", "train", "val", "valid", "validation", "test")
_PREFIX = "instances"
# Pixels that a box may stick out of its image; COCO's own do, by rounding.
_OUTSIDE = 1.0
_MOST_PIXELS = 1 << 20  # Of a side.
_MOST_BYTES = 1 << 30  # Of a JSON file; COCO's own has nearly half of that.


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file, and what is in it.

    Attributes:
        path: The file.
        size: `(height, width)` it is said to have.
        objects: float32 `(n, 6)`, a row for each object: left, top, right, bottom in pixels; the
            number of its class; 1 if the box is around a crowd of such objects, else 0.
        source: The JSON file, as messages name it.
    """

    path: pathlib.Path
    size: tuple
    objects: np.ndarray
    source: str


def read_coco(directory):
    """Read the annotations of a directory; the images are not looked at.

    Args:
        directory: Path.

    Returns:
        `(splits, class_names)`: a list of `Picture`, in the order of the files' names, for each of
        train, validation and test that there is, or for "train" alone; the categories' names in the
        order of their ids.

    Raises:
        ValueError: naming the directory, or the file and what in it does not fit.
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"coco: {str(root)!r} is not a directory")
    splits, names, seen = {}, None, {}
    for split, path in _annotation_files(root).items():
        pictures, categories = _read(root, path)
        if names not in (None, categories):
            raise ValueError(f"coco: {str(path)!r} has other categories than the file for train")
        names = categories
        for picture in pictures:
            known = seen.setdefault(os.path.realpath(picture.path), split)
            if known != split:
                raise ValueError(
                    f"coco: {str(path)!r}: {str(picture.path)!r} is an image for {known} already"
                )
        splits[split] = pictures
    return splits, [names[number] for number in sorted(names)]


def _annotation_files(root):
    """The JSON file of each split, that of train first."""
    found = []
    for folder in _FOLDERS:
        try:
            inside = sorted((root / folder).iterdir()) if (root / folder).is_dir() else ()
        except OSError as error:
            where = str(root / folder)
            raise ValueError(f"coco: {where!r} cannot be listed: {error.strerror}") from None
        found += [path for path in inside if path.suffix.lower() == ".json"]
    # Beside them COCO has captions and key points of the same images.
    found = [path for path in found if path.name.startswith(_PREFIX)] or found
    if not found:
        raise ValueError(
            f"coco: {str(root)!r} has no annotations, expected {_PREFIX}*.json in it or in its "
            "folder annotations"
        )
    if len(found) == 1:
        return {"train": found[0]}
    files = {}
    for path in found:
        said = [path.stem.lower()]
        if path.parent not in (root, root / "annotations"):
            said.append(path.parent.name)
        split = next((s for word, s in _SPLITS.items() for text in said if word in text), None)
        if split is None:
            raise ValueError(
                f"coco: {str(path)!r} is one of {len(found)} files and does not say which split it "
                "is; expected train, val or test in its name"
            )
        if split in files:
            raise ValueError(f"coco: {str(files[split])!r} and {str(path)!r} are both for {split}")
        files[split] = path
    if "train" not in files:
        raise ValueError(f"coco: {str(root)!r} has no annotations for train")
    return {split: files[split] for split in _SPLITS.values() if split in files}


def _read(root, path):
    """The pictures of one JSON file, and `{id: name}` of its categories."""
    where = f"coco: {str(path)!r}"
    try:
        content = untrusted.parsed(untrusted.contents(path, _MOST_BYTES))
        lists = ("images", "annotations", "categories")
        are_objects = _is_list_of_objects, "a list of objects"
        untrusted.check_form(content, dict.fromkeys(lists, are_objects))
        categories = _categories(content["categories"])
        images = _by_id(content["images"], "images", _IMAGE)
        # What is drawn there is somebody else's format; boxes alone are read.
        numbers = {category: number for number, category in enumerate(sorted(categories))}
        objects, empty = _objects(content["annotations"], images, numbers)
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{where} cannot be read: {untrusted.reason(error)}") from None
    if empty:
        print(f"{where}: left out {empty} boxes of no width or no height.", file=sys.stderr)
    split = path.stem.removeprefix(_PREFIX).lstrip("_")
    folders = [root / "images", root / "images" / split, root / split, path.parent, root]
    pictures, names = [], {}
    for number, image in images.items():
        name = image["file_name"]
        if name in names:
            raise ValueError(f"{where}: images {names[name]} and {number} are both {name!r}")
        names[name] = number
        files = [folder / name for folder in folders]
        file = next((file for file in files if os.path.lexists(file)), None)
        if file is None:
            raise ValueError(
                f"{where}: image {number}: there is no {str(files[0])!r}, nor one in "
                f"{', '.join(repr(str(folder)) for folder in dict.fromkeys(folders[1:]))}"
            )
        size = image["height"], image["width"]
        rows = np.array(objects[number], "float32").reshape(-1, 6)
        pictures.append(Picture(file, size, rows, str(path)))
    return sorted(pictures, key=lambda picture: str(picture.path)), categories


def _by_id(rows, what, form):
    """Checked objects of a list, by their ids."""
    found = {}
    for place, row in enumerate(rows):
        try:
            untrusted.check_form(row, form, optional=("iscrowd",))
            if row["id"] in found:
                raise ValueError(f"id: {row['id']}, which was there before")
        except ValueError as error:
            raise ValueError(f"{what}[{place}]: {error}") from None
        found[row["id"]] = row
    if not found:
        raise ValueError(f"{what} is empty")
    return found


def _categories(rows):
    named = {number: row["name"] for number, row in _by_id(rows, "categories", _CATEGORY).items()}
    (name, count), *_ = collections.Counter(named.values()).most_common(1)
    if count > 1:
        raise ValueError(f"categories: {count} are named {name!r}")
    if len(named) < 2:
        raise ValueError(f"categories: {[*named.values()]}, expected at least two")
    return named


def _objects(rows, images, numbers):
    """Rows as of `Picture.objects` for each image; and how many were left out, as they are empty.

    COCO's own files have a few of those, which nothing could find.
    """
    objects, empty = {number: [] for number in images}, 0
    for number, row in _by_id(rows, "annotations", _ANNOTATION).items():
        image, category = images.get(row["image_id"]), numbers.get(row["category_id"])
        for name, known in (("image_id", image), ("category_id", category)):
            if known is None:
                raise ValueError(f"annotation {number}: {name}: {row[name]} is unknown")
        left, top, width, height = row["bbox"]
        right, bottom = left + width, top + height
        inside = min(left, top) >= -_OUTSIDE
        inside &= right <= image["width"] + _OUTSIDE and bottom <= image["height"] + _OUTSIDE
        if inside and min(width, height) == 0:
            empty += 1
            continue
        box = np.clip([left, top, right, bottom], 0, 2 * [image["width"], image["height"]])
        box = box.astype("float32")  # In which something must be left of it.
        if not inside or not (box[2:] > box[:2]).all():
            raise ValueError(
                f"annotation {number}: bbox: {shown(row['bbox'])}, expected left, top, width and "
                f"height of a part of an image of {image['width']} x {image['height']} pixels"
            )
        objects[row["image_id"]].append((*box, category, row.get("iscrowd", 0)))
    return objects, empty


def _is_list_of_objects(value):
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value):
    return _is_whole(value) and 0 <= value < 2**63


def _is_side(value):
    return _is_whole(value) and 1 <= value <= _MOST_PIXELS


def _is_name(value):
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= 200


def _is_file_name(value):
    """Whether it leads into or below the folder that it is looked for in."""
    if not _is_name(value) or "\\" in value:
        return False
    inside = pathlib.PurePosixPath(value)
    return bool(inside.name) and not inside.is_absolute() and ".." not in inside.parts


def _is_box(value):
    def is_number(side):
        is_kind = isinstance(side, int | float) and not isinstance(side, bool)
        return is_kind and -_MOST_PIXELS <= side <= _MOST_PIXELS  # Which NaN is not.

    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


_ID = {"id": (_is_id, "a number from 0 on")}
_CATEGORY = _ID | {"name": (_is_name, "a name")}
_IMAGE = _ID | {
    "file_name": (_is_file_name, "the name of a file below the directory"),
    "width": (_is_side, "a number of pixels"),
    "height": (_is_side, "a number of pixels"),
}
_ANNOTATION = _ID | {
    "image_id": (_is_id, "the id of an image"),
    "category_id": (_is_id, "the id of a category"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "iscrowd": (lambda value: value in (0, 1), "0 or 1"),
}
