"""Read images with boxes in the format of COCO: JSON files of images, categories and annotations.

annotations/instances_train.json   the annotations; also in the directory itself, or in folders
                                   named train, valid, test, as Roboflow exports them
images/                            the images; also in a folder named like the split (`train2017`),
                                   beside the JSON file, or anywhere else below the directory

The name of a file or its folder contains the split: train, val or test. A single file is the whole
set. Ids may be numbers or strings; file names may be paths of the machine that wrote them.
"""

import collections
import dataclasses
import os
import pathlib
import urllib.parse

import numpy as np

from bigmodels.data import files
from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.splits import split_named
from bigmodels.messages import short_repr
from bigmodels.runs import untrusted

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_PREFIX = "instances"
# Pixels by which a box may extend beyond its image, as boxes from labelling tools do.
_OUTSIDE = 2.0
_MOST_PIXELS = 1 << 20  # Limit of height and width.
_MOST_BYTES = 1 << 30  # Limit of a JSON file; COCO's own has nearly half of that.


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file with its objects.

    Attributes:
        path: Path of the image file.
        size: `(height, width)` in pixels according to the annotations.
        objects: float32 `(n, 6)`, a row for each object: left, top, right, bottom in pixels; the
            index of its class; 1 if the box is around a crowd of such objects, else 0.
        source: Path of the JSON file.
    """

    path: pathlib.Path
    size: tuple[int, int]
    objects: np.ndarray
    source: str


def read_coco(
    directory: str | os.PathLike, notes: Notes | None = None, skip_bad_files: bool = False
) -> tuple[dict[str, list["Picture"]], list[str]]:
    """Read the annotations of a directory, without reading the images.

    A supercategory without boxes of its own is not a class. Categories with the same name are
    merged, without unused ones.

    Args:
        directory: Path of the directory.
        notes: A `Notes` about what is left out; by default a new one.
        skip_bad_files: Whether to leave out missing images and invalid annotations. Otherwise the
            first one is an error.

    Returns:
        `(splits, class_names)`: for each existing split, or for "train" alone, a list of `Picture`
        sorted by file name; and the names of the categories in the order of their ids.

    Raises:
        ValueError: if the directory, a file or an entry is invalid; the message names it.

    Example:

    >>> import json, pathlib
    >>> keras.utils.save_img("1.png", np.zeros((8, 8, 3)), scale=False)
    >>> annotations = {
    ...     "images": [{"id": 1, "file_name": "1.png", "height": 8, "width": 8}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 4, 4]}],
    ...     "categories": [{"id": 1, "name": "square"}],
    ... }
    >>> _ = pathlib.Path("train.json").write_text(json.dumps(annotations))
    >>> splits, class_names = read_coco(".")
    >>> class_names, splits["train"][0].objects.tolist()
    (['square'], [[2.0, 2.0, 6.0, 6.0, 0.0, 0.0]])
    """
    notes, root = notes or Notes(), pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"coco: {str(root)!r} is not a directory")
    inner, annotated = _annotation_files(root, notes)
    found = _Images(root, inner)
    read = {split: _File(path, found, notes, skip_bad_files) for split, path in annotated.items()}
    names = _class_names(read, notes)
    splits, seen = {}, {}
    for split, file in read.items():
        splits[split] = file.pictures(names)
        for picture in splits[split]:
            known = seen.setdefault(os.path.realpath(picture.path), split)
            if known != split:
                raise ValueError(
                    f"coco: {str(file.path)!r}: {str(picture.path)!r} is an image for {known} "
                    "already"
                )
    unlisted = [path for path in found.all() if os.path.realpath(path) not in seen]
    notes.leave_out("coco", "images without an entry in the annotations", unlisted)
    return splits, names


def _annotation_files(root, notes):
    """The folder with all files, and the JSON file of each split, train first."""
    where = lambda folder: [  # noqa: E731
        name for name in files.folders("coco", folder) if not files.is_junk(name)
    ]
    found = []
    while True:
        inner = where(root)
        for folder in [root, *(root / name for name in inner)]:
            try:
                inside = sorted(folder.iterdir())
            except OSError as error:
                raise ValueError(
                    f"coco: {str(folder)!r} cannot be listed: {error.strerror}"
                ) from None
            is_used = folder == root or folder.name == "annotations" or split_named(folder.name)
            json_files = [p for p in inside if p.suffix.lower() == ".json"]
            found += [p for p in json_files if not files.is_junk(p.name)] if is_used else []
        if found or len(inner) != 1:
            break
        root /= inner[0]
        notes.say(f"coco: {str(root.parent)!r} has one folder, {inner[0]!r}: that is read.")
    # COCO also has files of captions and key points of the same images.
    chosen = [path for path in found if path.name.startswith(_PREFIX)] or found
    if not chosen:
        raise ValueError(
            f"coco: {str(root)!r} has no annotations, expected {_PREFIX}*.json in it or in its "
            "folder annotations"
        )
    notes.leave_out("coco", "other JSON files", [path for path in found if path not in chosen])
    if len(chosen) == 1:
        return root, {"train": chosen[0]}
    by_split = {}
    for path in chosen:
        names = [path.stem.lower()]
        if path.parent not in (root, root / "annotations"):
            names.append(split_named(path.parent.name) or "")
        split = next((s for word, s in _SPLITS.items() for name in names if word in name), None)
        if split is None:
            raise ValueError(
                f"coco: {str(path)!r} is one of {len(chosen)} files and does not say which split "
                "it is; expected train, val or test in its name"
            )
        if split in by_split:
            first = str(by_split[split])
            raise ValueError(f"coco: {first!r} and {str(path)!r} are both for {split}")
        by_split[split] = path
    if "train" not in by_split:
        raise ValueError(f"coco: {str(root)!r} has no annotations for train")
    return root, {split: by_split[split] for split in _SPLITS.values() if split in by_split}


class _Images:
    """Finds the image files below a directory by their names in a JSON file.

    `inner` is the folder in it with all files, usually the directory itself.
    """

    def __init__(self, root, inner):
        self.root, self.inner, self._all, self._named = root, inner, None, None

    def all(self):
        """All image files, sorted."""
        if self._all is None:
            self._all = files.Listing().images_below("coco", self.root)
        return self._all

    def find(self, name, folders):
        """`(path, whether the full name matched)`; the path is `None` if there is no such file."""
        for text in dict.fromkeys((name, urllib.parse.unquote(name))):
            parts = _parts(text)
            # `lexists`, as an error about a broken link is raised when it is read.
            exact = [folder.joinpath(*parts) for folder in folders]
            if path := next((path for path in exact if os.path.lexists(path)), None):
                return path, True
            for begin in range(1, len(parts)):
                shorter = [folder.joinpath(*parts[begin:]) for folder in folders]
                if path := next((path for path in shorter if os.path.lexists(path)), None):
                    return path, False
            if self._named is None:
                self._named = collections.defaultdict(list)
                for path in self.all():
                    self._named[path.name].append(path)
            found = self._named.get(parts[-1], ())
            for count in range(2, len(parts) + 1):
                found = [p for p in found if p.parts[-count] == parts[-count]] or found
            if len(found) == 1:
                return found[0], False
        return None, False


def _parts(name):
    """The parts of a path of any system or URL, without parts that lead out of a folder."""
    plain = name.replace("\\", "/").replace("?d=", "/").split("/")
    return [part for part in plain if part not in ("", ".", "..") and not part.endswith(":")]


class _File:
    """Reads and checks a JSON file."""

    def __init__(self, path, found, notes, skips):
        self.path, self._where, self._notes, self._skips = (
            path,
            f"coco: {str(path)!r}",
            notes,
            skips,
        )
        self._found, self._left_out = found, {}
        try:
            content = untrusted.parsed(untrusted.contents(path, _MOST_BYTES))
            lists = ("images", "annotations", "categories")
            are_objects = _is_list_of_objects, "a list of objects"
            untrusted.check_form(content, dict.fromkeys(lists, are_objects))
            self.categories = _by_id(content["categories"], "categories", _CATEGORY)
            self._images = _by_id(content["images"], "images", _IMAGE)
            for image in self._images.values():
                image |= {side: int(float(image[side])) for side in ("width", "height")}
            # Only boxes are read; formats of outlines differ between tools.
            self._objects = self._read_objects(content["annotations"])
        except OSError as error:
            raise ValueError(f"{self._where} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{self._where} cannot be read: {untrusted.reason(error)}") from None
        self.used = {category for rows in self._objects.values() for *_, category, _ in rows}

    def _read_objects(self, rows):
        """For each image, `(left, top, right, bottom, category id, is crowd)` of its objects."""
        objects = {number: [] for number in self._images}
        empty, clipped, invalid, outlined, rotated = [], [], {}, [], []
        rows = _by_id(rows, "annotations", _ANNOTATION, self._with_box)
        _check_pixels(rows)
        for number, row in rows.items():
            try:
                self._check_known(row)
                box, how = self._box(row)
            except ValueError as error:
                if not self._skips:
                    raise ValueError(f"annotation {number}: {error}") from None
                invalid[number] = str(error)
                continue
            if how == "empty":
                empty.append(number)
                continue
            clipped += [number] if how == "clipped" else []
            outlined += [number] if "outlined" in row else []
            rotated += [number] if _is_rotated(row.get("attributes")) else []
            crowd = row.get("iscrowd", 0)
            objects[_id(row["image_id"])].append((*box, _id(row["category_id"]), crowd))
        self._notes.leave_out(self._where, "boxes of no width or no height", empty)
        self._notes.leave_out(self._where, "invalid annotations", invalid)
        for numbers, what in (
            (clipped, "boxes that extend beyond their images by up to 2 pixels are clipped"),
            (outlined, "objects have an outline but no box, and get the box of the outline"),
            (rotated, "boxes are marked as rotated, and are read upright"),
        ):
            if numbers:
                first = f"the first is annotation {numbers[0]}"
                self._notes.say(f"{self._where}: {len(numbers):,} {what}; {first}.")
        return objects

    @staticmethod
    def _with_box(row):
        """An annotation with the box around its outline, if it has no box itself."""
        polygons = row.get("segmentation")
        if row.get("bbox") or not (isinstance(polygons, list) and polygons):
            return row
        polygons = polygons if isinstance(polygons[0], list) else [polygons]
        points = [value for polygon in polygons if isinstance(polygon, list) for value in polygon]
        if not all(map(_is_number, points)) or len(points) < 6 or len(points) % 2:
            return row
        (left, top), (right, bottom) = (
            (limit(points[::2]), limit(points[1::2])) for limit in (min, max)
        )
        return row | {"bbox": [left, top, right - left, bottom - top], "outlined": True}

    def _check_known(self, row):
        for name, known in (("image_id", self._images), ("category_id", self.categories)):
            if _id(row[name]) not in known:
                raise ValueError(f"{name}: {row[name]} is unknown")

    def _box(self, row):
        """`(box, how)`: left, top, right, bottom, and "clipped", "empty" or ""."""
        image = self._images[_id(row["image_id"])]
        left, top, width, height = row["bbox"]
        right, bottom = left + width, top + height
        least = min(left, top, image["width"] - right, image["height"] - bottom)
        inside = least >= -_OUTSIDE - 1e-6
        if inside and min(width, height) == 0:
            return None, "empty"
        box = np.clip([left, top, right, bottom], 0, 2 * [image["width"], image["height"]])
        box = box.astype("float32")  # It must not become empty by rounding.
        if not inside or not (box[2:] > box[:2]).all():
            raise ValueError(
                f"bbox: {short_repr(row['bbox'])}, expected left, top, width and "
                f"height of a part of an image of {image['width']} x {image['height']} pixels"
            )
        return box, "clipped" if least < -1e-3 else ""

    def pictures(self, names):
        """A `Picture` for each image that exists."""
        split = self.path.stem.removeprefix(_PREFIX).lstrip("_")
        root = self._found.inner
        folders = [
            *(root / "images", root / "images" / split, root / split, self.path.parent),
            *(self.path.parent / "images", root),
        ]
        numbers = {key: names.index(row["name"]) for key, row in self.categories.items()
                   if row["name"] in names}  # fmt: skip
        pictures, missing, moved, known = [], [], [], {}
        for number, image in self._images.items():
            name = image["file_name"]
            path, is_exact = self._found.find(name, folders)
            if path is None:
                first = folders[0].joinpath(*_parts(name))
                if not self._skips:
                    raise ValueError(
                        f"{self._where}: image {number}: there is no {str(first)!r}, nor one in "
                        f"{', '.join(repr(str(folder)) for folder in dict.fromkeys(folders[1:]))}"
                    )
                missing.append(name)
                continue
            if path in known:
                raise ValueError(
                    f"{self._where}: images {known[path]} and {number} are both {path.name!r}"
                )
            known[path] = number
            moved += [] if is_exact else [name]
            rows = [(*box, numbers[key], crowd) for *box, key, crowd in self._objects[number]]
            rows = np.array(rows, "float32").reshape(-1, 6)
            size = image["height"], image["width"]
            pictures.append(Picture(path, size, rows, str(self.path)))
        reasons = dict.fromkeys(missing, "does not exist")
        self._notes.leave_out(self._where, files.BAD_FILES, reasons)
        if moved:
            self._notes.say(
                f"{self._where}: {len(moved):,} images are not at the given path, and were found "
                f"by the end of their names; {moved[0]!r} is the first."
            )
        return sorted(pictures, key=lambda picture: str(picture.path))


def _check_pixels(rows):
    """Raise an error if boxes are relative to the size of the image."""
    boxes = [row["bbox"] for row in rows.values() if row["bbox"][2] * row["bbox"][3] > 0]
    if boxes and all(0 <= side <= 1 for box in boxes for side in box):
        raise ValueError(
            f"annotation {next(iter(rows))}: bbox: {short_repr(boxes[0])}; this and all others "
            "are from "
            "0 to 1, relative to the image; expected pixels"
        )


def _is_rotated(attributes):
    rotation = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    return _is_number(rotation) and rotation % 360 != 0


def _class_names(read, notes):
    """The names of the categories of all files, in the order of their ids in the train file."""
    used = {file.categories[key]["name"] for file in read.values() for key in file.used}
    parents = {
        row.get("supercategory") for file in read.values() for row in file.categories.values()
    }
    first, names, parents_left = read["train"], [], []
    rows = sorted(first.categories.items(), key=lambda item: _order(item[0]))
    counts = collections.Counter(row["name"] for _, row in rows)
    for name, count in counts.items():
        own = [key for key, row in rows if row["name"] == name]
        in_use = [key for key in own if any(key in file.used for file in read.values())]
        if count > 1:
            how = "are one class" if len(in_use) > 1 else "are one class, as only one is used"
            notes.say(f"coco: categories {', '.join(own)} are all named {name!r} and {how}.")
        if name not in used and name in parents and used:
            parents_left.append(name)
        else:
            names.append(name)
    notes.leave_out("coco", "supercategories without boxes", parents_left)
    unused = [name for name in names if name not in used]
    if unused:
        named = ", ".join(map(repr, unused[:3])) + (", ..." if len(unused) > 3 else "")
        notes.say(f"coco: {len(unused):,} categories have no box, but are classes: {named}.")
    for file in read.values():
        unknown = {file.categories[key]["name"] for key in file.used} - set(names)
        if unknown:
            raise ValueError(
                f"coco: {str(file.path)!r} has other categories than the file for train: "
                f"{', '.join(map(repr, sorted(unknown)[:3]))}"
            )
    return names


def _by_id(rows, what, form, completed=lambda row: row):
    """`{id: object}` of a list of objects, checked; ids are strings."""
    found = {}
    for place, row in enumerate(rows):
        try:
            row = completed(row)
            untrusted.check_form(row, form, optional=("iscrowd",))
            if _id(row["id"]) in found:
                raise ValueError(f"id: {row['id']}, which is a duplicate")
        except ValueError as error:
            raise ValueError(f"{what}[{place}]: {error}") from None
        found[_id(row["id"])] = row
    if not found:
        raise ValueError(f"{what} is empty")
    return found


def _id(value):
    """An id as a string: some tools write numbers, others the same as strings or floats."""
    return str(int(value)) if isinstance(value, int | float) else value.strip()


def _order(key):
    """Sort key: numbers by their value, before other ids."""
    return (0, int(key), key) if key.isdecimal() and len(key) < 20 else (1, 0, key)


def _is_list_of_objects(value):
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value):
    if isinstance(value, str):
        return _is_name(value)
    return (_is_whole(value) or (isinstance(value, float) and value.is_integer())) and (
        0 <= value < 2**63
    )


def _is_side(value):
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 10 else 0
    return _is_number(value) and value == int(value) and 1 <= value <= _MOST_PIXELS


def _is_name(value):
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= 200


def _is_file_name(value):
    is_text = isinstance(value, str) and value.isprintable() and len(value) <= 4096
    return is_text and bool(_parts(value))


def _is_number(value):
    is_kind = isinstance(value, int | float) and not isinstance(value, bool)
    return is_kind and -_MOST_PIXELS <= value <= _MOST_PIXELS  # Not true for NaN.


def _is_box(value):
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_ID = {"id": (_is_id, "a number from 0 on, or a name")}
_CATEGORY = _ID | {"name": (_is_name, "a name")}
_IMAGE = _ID | {
    "file_name": (_is_file_name, "the name of a file"),
    "width": (_is_side, "a number of pixels"),
    "height": (_is_side, "a number of pixels"),
}
_ANNOTATION = _ID | {
    "image_id": (_is_id, "the id of an image"),
    "category_id": (_is_id, "the id of a category"),
    "bbox": (_is_box, "left, top, width and height in pixels"),
    "iscrowd": (lambda value: value in (0, 1), "0 or 1"),
}


register(
    Source("coco", "DIR", "objects", "your images with boxes, in the JSON form of COCO", read_coco)
)
