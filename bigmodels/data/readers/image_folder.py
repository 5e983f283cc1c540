"""Read a folder of labelled images in one of these layouts.

cat/, dog/                      a folder for each class
train/cat/, val/cat/, ...       class folders in a folder for each split, by any usual name
cat/train/, dog/train/, ...     split folders in a folder for each class
cat.0.jpg, dog_17.jpg, ...      file names that begin with the class, in one folder or one per split
labels.csv and images           a table of files and labels, in the folder or beside it

A single folder around all of this is skipped. Notes name the files that are not used.
"""

import csv
import itertools
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from bigmodels.data import files
from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.readers.csv_sheet import MISSING
from bigmodels.data.readers.text_files import text_file
from bigmodels.data.splits import SEED, SPLITS, split_named, stratified_split
from bigmodels.messages import short_repr

# Names of a folder inside a split's folder that may contain all class folders.
_WRAPPERS = ("images", "image", "imgs", "img", "data", "dataset", "photos", "pictures")
# Names of the folder with the images among others; and of folders that are parts of one set.
_IMAGES = ("images", "image", "imgs", "img")
_PART = re.compile(r".*(part|fold|batch|chunk|shard)[ _.-]?\d+", re.IGNORECASE)
# A file name that consists of the class and a number.
_PREFIX = re.compile(r"(.*[^\W\d_])[ ._()-]*\d+\)?")
# Prefixes that cameras and programs use for file names, which are not classes.
_NO_CLASSES = {
    *("img", "image", "dsc", "dscn", "dscf", "pxl", "vid", "photo", "picture", "pic", "frame"),
    *("screenshot", "scan", "mvimg", "file", "untitled"),
}
_LABELS = (
    *("label", "labels", "class", "classes", "class_name", "classname", "category", "target"),
    *("species", "breed", "diagnosis", "tag", "y"),
)
_SPLIT_COLUMNS = ("split", "set", "subset", "data set", "data_set", "dataset", "partition", "fold")
# Labels that count as missing; "none" and "missing" may be names of classes.
_NO_LABELS = MISSING - {"none", "missing"}
_MOST_TABLE_BYTES = 1 << 28


def image_folder(
    directory: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> tuple[dict[str, tf.data.Dataset], list[str], dict[pathlib.Path, str]]:
    """Read labelled images from a folder with one of the layouts above.

    A missing validation or test split takes 10 % of the training images, stratified by class and
    the same every time.

    Symbolic links to files and to class folders are followed, also out of the directory. Links to
    folders inside class folders are not. A broken or circular link is an error, as is a file that
    is not an image.

    Args:
        directory: Path of the folder.
        image_size: `(height, width)` in pixels to resize to; required if the images differ in size.
        skip_bad_files: Whether to leave out unreadable files instead of raising an error.
        notes: A `Notes` about files that are not used and how the folder was interpreted; by
            default a new one.

    Returns:
        `(splits, class_names, bad)`: the first two as from `embedded.digits`, and `{path: reason}`
        of the files that were left out.

    Raises:
        ValueError: if there are no classes or too few images, a file is not an image, or sizes
            differ; the message names the directory or file.

    Example:

    >>> import pathlib
    >>> for i in range(20):
    ...     path = pathlib.Path("pets", ["cat", "dog"][i % 2], f"{i}.png")
    ...     path.parent.mkdir(parents=True, exist_ok=True)
    ...     keras.utils.save_img(path, np.full((8, 8, 3), 10 * i, "uint8"), scale=False)
    >>> splits, class_names, bad = image_folder("pets")
    >>> class_names, {split: len(images) for split, images in splits.items()}
    (['cat', 'dog'], {'train': 16, 'validation': 2, 'test': 2})
    """
    notes = notes or Notes()
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"images: {str(root)!r} is not a directory")
    found, names = read_layout(root, notes)
    given = [split for split in SPLITS if split in found]
    reader = files.ImageReader("images", skip_bad_files=skip_bad_files)
    paths = sorted({path for labelled in found.values() for path in labelled})
    shapes = {path: image.shape for path in paths if (image := reader.read(path)) is not None}
    reader.tell(notes)
    found = {split: _without(reader.bad, labelled, names) for split, labelled in found.items()}
    missing = [split for split in SPLITS if split not in found]
    if missing:
        cut = _split(found["train"], str(root))
        if len(given) > 1:
            words = " and ".join(missing)
            notes.say(f"images: there is no folder for {words}; its images are split off train.")
        moved = set().union(*(cut[split] for split in missing))
        kept = {path: y for path, y in found["train"].items() if path not in moved}
        found |= {split: cut[split] for split in missing}
        # Shuffled by the split or here, so that the first few images are of all classes.
        found["train"] = cut["train"] if len(missing) == 2 else _mixed(kept)
    else:
        found["train"] = _mixed(found["train"])
    shape = _common_shape(shapes, image_size)

    @tf.autograph.experimental.do_not_convert  # Conversion would only slow down tracing.
    def read(path, label):
        image = files.read_file(path, shape[-1])
        if image_size is not None:
            image = files.resize(image, image_size)
        return tf.ensure_shape(image, shape), label

    return (
        {
            split: tf.data.Dataset.from_tensor_slices(
                ([os.fsencode(p) for p in labelled], np.array([*labelled.values()], "int64"))
            ).map(read, num_parallel_calls=tf.data.AUTOTUNE)
            for split, labelled in found.items()
        },
        names,
        reader.bad,
    )


def read_layout(
    root: pathlib.Path, notes: Notes
) -> tuple[dict[str, dict[pathlib.Path, int]], list[str]]:
    """Find the split and the class of each image in a folder, without reading the images.

    Args:
        root: A `pathlib.Path`.
        notes: As for `image_folder`.

    Returns:
        `({split: {path: label}}, class names)`, with "train" and the other splits that exist.

    Raises:
        ValueError: if the folder or a table is invalid; the message names it.

    Example:

    >>> import pathlib
    >>> for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
    ...     pathlib.Path("animals", name).parent.mkdir(parents=True, exist_ok=True)
    ...     pathlib.Path("animals", name).touch()
    >>> images, class_names = read_layout(pathlib.Path("animals"), Notes())
    >>> class_names, list(images["train"].values())
    (['cat', 'dog'], [0, 0, 1])
    """
    return _Layout(root, notes).read()


class _Layout:
    """Determines which folders are classes and which are splits."""

    def __init__(self, root, notes):
        self._root, self._notes, self._tally = root, notes, files.Listing()

    def read(self):
        """`({split: {path: label}}, class names)` of the splits that exist."""
        found = self._read_in(self._root)
        self._tally.tell("images", self._notes)
        return found

    def _read_in(self, where):
        where = self._inside(where, lambda name: split_named(name) is None)
        names = self._tally.folders(where)
        splits = _splits_among(names)
        if splits:
            return self._in_splits(where, splits, [name for name in names if name not in splits])
        return self._unsplit(where, names)

    def _inside(self, where, is_wrapper):
        """Descend while a folder has nothing but one wrapper folder."""
        while True:
            names = [name for name in files.folders("images", where) if not files.is_junk(name)]
            if len(names) != 1 or not is_wrapper(names[0]):
                return where
            inner = where / names[0]
            if all(map(files.is_junk, _folders_in(inner))):
                return where
            self._notes.say(f"images: {str(where)!r} has one folder, {names[0]!r}: that is read.")
            self._leave_out_loose(where)
            self._tally.folders(where)
            where = inner

    def _leave_out_loose(self, where):
        loose = self._tally.images_in(where)
        self._notes.leave_out("images", "images beside the folders that are read", loose)

    def _classes(self, where, names, aliases=None):
        """`{path: label}` of the images below class folders."""
        found, deeper = {}, []
        for label, name in enumerate(names):
            folder = where / (aliases or {}).get(name, name)
            if aliases is not None and name not in aliases:
                self._notes.say(f"images: {str(where)!r} has no folder for class {name!r}.")
                continue
            images = self._tally.images_below("images", folder)
            if not images:
                named = [path for path in self._tally.others if folder in path.parents]
                reason = (
                    f"; {str(named[0])!r}, for example, is not read as an image" if named else ""
                )
                raise ValueError(
                    f"images: {str(folder)!r} contains no image {files.IMAGE_SUFFIXES}{reason}"
                )
            deeper += [path for path in images if path.parent != folder]
            found |= dict.fromkeys(images, label)
        if deeper:
            self._notes.say(
                f"images: images in folders within class folders count as that class, as does "
                f"{str(deeper[0])!r}: {len(deeper):,} in all."
            )
        return found

    def _unsplit(self, where, names):
        if len(names) < 2:
            return self._flat(where, {"train": where})
        inner = {name: _splits_among(_folders_in(where / name)) for name in names}
        if chosen := _images_among(names):
            self._notes.say(f"images: of the folders of {str(where)!r}, {chosen!r} is read.")
            for name in names:
                if name != chosen:
                    self._leave_out_folder(where / name, f"which is beside {chosen!r}")
            self._leave_out_loose(where)
            return self._read_in(where / chosen)
        if all(map(_PART.fullmatch, names)):
            self._notes.say(f"images: the folders {names} are parts, not classes.")
            return self._flat(where, {"train": where})
        self._leave_out_loose(where)
        if all("train" in splits.values() for splits in inner.values()):
            return self._transposed(where, inner), names
        for name, splits in inner.items():
            if splits:
                raise ValueError(
                    f"images: {str(where / name)!r} contains {[*splits]}, which are splits, but "
                    "not every folder beside it does"
                )
        self._check_no_splits(where, names)
        return {"train": self._classes(where, names)}, names

    def _check_no_splits(self, where, names):
        """Raise an error for folders that are unlikely to be classes."""
        if all(re.match("train|val|test", name, re.IGNORECASE) for name in names):
            raise ValueError(
                f"images: the folders of {str(where)!r} are {names}, expected splits named train, "
                "validation and test, or classes"
            )
        inner = {name: {*_folders_in(where / name)} for name in names}
        shared = set.intersection(*inner.values()) if len(names) > 1 else set()
        for name in names:
            if len(shared) > 1 or len(inner[name] & {*names} - {name}) > 1:
                beside = sorted(shared if len(shared) > 1 else inner[name] & {*names})
                raise ValueError(
                    f"images: {str(where / name)!r} is not a class: it contains {beside[:3]}, "
                    "also the names or contents of folders beside it; expected train, "
                    "validation and test, or a folder for each class"
                )

    def _transposed(self, where, inner):
        """Splits inside the class folders."""
        self._notes.say("images: the folders of classes contain those of the splits.")
        found = {}
        for label, (name, splits) in enumerate(inner.items()):
            for folder in self._tally.folders(where / name):
                images = self._tally.images_below("images", where / name / folder)
                if folder in splits:
                    found.setdefault(splits[folder], {}).update(dict.fromkeys(images, label))
                else:
                    what = f"images in {folder!r}, which is not a split"
                    self._notes.leave_out("images", what, images)
            self._leave_out_loose(where / name)
        return {split: found[split] for split in SPLITS if split in found}

    def _in_splits(self, where, splits, others):
        if "train" not in splits.values():
            raise ValueError(
                f"images: {str(where)!r} has folders for splits, {[*splits]}, but none for train"
            )
        roots = {
            name: self._inside(where / name, lambda inner, name=name: _is_wrapper(inner, name))
            for name in splits
        }
        classes = {name: self._tally.folders(root) for name, root in roots.items()}
        self._leave_out_loose(where)
        train = [name for name in splits if splits[name] == "train"]
        with_classes = [name for name in train if classes[name]] or train
        if len(with_classes) > 1:
            raise ValueError(self._both(where, with_classes, "train"))
        (train,) = with_classes
        if not classes[train]:
            if others:
                raise ValueError(
                    f"images: {str(where / train)!r} is the name of a split, but it contains no "
                    f"class folders and is beside {others}; rename it if it is a class"
                )
            folders = {}
            for name, split in splits.items():
                if split in folders:
                    raise ValueError(self._both(where, [folders[split].name, name], split))
                folders[split] = where / name
            return self._flat(where, folders)
        names = classes[train]
        if len(names) > 1 and (chosen := _images_among(names)):
            raise ValueError(
                f"images: {str(roots[train])!r} contains {names[:5]}, expected a folder for each "
                f"class; move those of {chosen!r} one level up"
            )
        self._check_no_splits(roots[train], names)
        if len(names) < 2:
            raise ValueError(
                f"images: {str(roots[train])!r} has {len(names)} folders, expected one per class "
                "and at least two"
            )
        found = {"train": self._classes(roots[train], names)}
        for name in others:
            self._leave_out_folder(where / name, "which is not a split")
        used = {"train": train}
        for name, split in splits.items():
            aliases = _aliases(names, classes[name])
            unknown = [inner for inner in classes[name] if inner not in aliases.values()]
            if name == train:
                continue
            if unknown and (aliases or len(unknown) > 1):
                folder = str(roots[name] / unknown[0])
                raise ValueError(f"images: {folder!r} is not a class of the training images")
            if not aliases:
                self._leave_out_folder(
                    where / name,
                    f"which has no class folders, so that it is not a split for {split}",
                )
                continue
            if split in used:
                raise ValueError(self._both(where, [used[split], name], split))
            used[split] = name
            self._leave_out_loose(roots[name])
            found[split] = self._classes(roots[name], names, aliases)
        self._leave_out_loose(roots[train])
        return {split: found[split] for split in SPLITS if split in found}, names

    def _leave_out_folder(self, folder, why):
        images = self._tally.images_below("images", folder)
        self._notes.leave_out("images", f"images of {folder.name!r}, {why}", images)

    @staticmethod
    def _both(where, names, split):
        first, second, *_ = (str(where / name) for name in names)
        return f"images: {first!r} and {second!r} are both for {split}; put them together"

    def _flat(self, where, folders):
        """Images without class folders, labelled by a table or by their names."""
        images = {
            split: self._tally.images_below("images", folder) for split, folder in folders.items()
        }
        everything = [path for paths in images.values() for path in paths]
        labels, splits, unread = self._tables(where, folders, images)
        if not labels:
            labels = self._prefixes(images["train"])
            known = set(labels.values())
            for split, paths in images.items():
                theirs = _prefixes_of(paths) if split != "train" else {}
                labels |= theirs if set(theirs.values()) <= known else {}
        if not labels or len(set(labels.values())) < 2:
            count = len(self._tally.folders(folders["train"]))
            raise ValueError(
                f"images: {str(folders['train'])!r} has {count} folders, expected one per class "
                "and at least two; nor do the names of its images begin with classes, as "
                "cat.0.jpg does, nor is there a CSV file of files and labels"
                + (f"; {unread[0]}" if unread else "")
            )
        if splits:
            images = {s: [p for p in everything if splits.get(p) == s] for s in SPLITS}
        classes = sorted({labels[path] for path in images["train"] if path in labels}, key=_order)
        numbers = {name: number for number, name in enumerate(classes)}
        found = {}
        for split in SPLITS:
            labelled = {p: labels[p] for p in images.get(split, ()) if p in labels}
            without = [path for path in images.get(split, ()) if path not in labels]
            if without and not labelled:
                what = f"images of {split}, which have no labels, so that it is not a split"
            else:
                what = "images without a label"
            self._notes.leave_out("images", what, without)
            for path, name in labelled.items():
                if name not in numbers:
                    raise ValueError(
                        f"images: {str(path)!r} is of class {short_repr(name)}, which is not a "
                        "class of the training images"
                    )
            if labelled:
                found[split] = {path: numbers[name] for path, name in labelled.items()}
        return found, classes

    def _prefixes(self, paths):
        labels = _prefixes_of(paths)
        if labels:
            names = sorted(set(labels.values()))
            some = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
            self._notes.say(
                f"images: the names of the files begin with their classes: {some}; "
                f"{next(iter(labels)).name!r} is the first."
            )
        return labels

    def _tables(self, where, folders, images):
        """`({path: label}, {path: split}, errors)` from all tables that name images."""
        places = [*folders.values(), where, *where.parents]
        places = places[: places.index(self._root) + 1] if self._root in places else places
        places = [*dict.fromkeys([*folders.values(), *places, self._root])]
        beside = [] if self._root.parent in places else [self._root.parent]
        labels, splits, unread = {}, {}, []
        index = _Index(images)
        for path in (p for place in [*places, *beside] for p in _csv_files(place)):
            try:
                text = text_file(path, "images")
            except ValueError as error:
                unread.append(str(error).removeprefix("images: "))
                continue
            table = _Table.of(path, text, index)
            if table is None:
                unread.append(f"{str(path)!r} has no column that names the images")
                continue
            table.tell(self._notes)
            self._tally.others = [other for other in self._tally.others if other != path]
            for image, label in table.labels.items():
                if labels.setdefault(image, label) != label:
                    raise ValueError(
                        f"images: {str(image)!r} is {short_repr(labels[image])} in one table and "
                        f"{short_repr(label)} in {str(path)!r}"
                    )
            splits |= table.splits
        return labels, splits, unread


def _folders_in(folder):
    """The names of a folder's folders, without links; empty if it cannot be listed."""
    try:
        return [path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _splits_among(names):
    """`{name: split}` of the folders that are named like splits, perhaps with a common prefix."""
    found = {name: split for name in names if (split := split_named(name))}
    if found or len(names) < 2:
        return found
    pairs = zip(min(names), max(names), strict=False)
    alike = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    begin = re.match(r"(.*[ _.-])?", alike)[0]
    ends = {name: name[len(begin) :] for name in names}
    found = {name: split for name, end in ends.items() if (split := split_named(end))}
    return found if "train" in found.values() else {}


def _images_among(names):
    return next((name for name in names if name.lower() in _IMAGES), None)


def _is_wrapper(inner, outer):
    words = re.split(r"[ _.-]+", inner.lower())
    return inner.lower() in (*_WRAPPERS, outer.lower()) or any(map(split_named, words))


def _aliases(names, folders):
    """`{class: folder}` of the classes that have a folder, regardless of case."""
    exact = {name: name for name in names if name in folders}
    lower = {folder.lower(): folder for folder in folders}
    return exact | {n: lower[n.lower()] for n in names if n not in exact and n.lower() in lower}


def _prefixes_of(paths):
    """`{path: class}` from the prefixes of file names; empty if these are not classes."""
    matches = {path: _PREFIX.fullmatch(path.stem) for path in paths}
    labels = {path: match[1].rstrip(" ._-(") for path, match in matches.items() if match}
    names = set(labels.values())
    camera = any(name.lower() in _NO_CLASSES for name in names)
    # If most files have a prefix of their own, the prefixes are not classes.
    if camera or 2 * len(labels) <= len(paths) or 2 * len(names) > len(labels):
        return {}
    return labels


def _order(name):
    """Sort key: numbers by their value, before words."""
    return (0, int(name), name) if re.fullmatch(r"\d{1,18}", name) else (1, 0, name)


def _csv_files(folder):
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        path
        for path in paths
        if path.suffix.lower() in (".csv", ".tsv")
        and not files.is_junk(path.name)
        and "submission" not in path.name.lower()  # Its labels are placeholders.
        and path.is_file()
        and path.stat().st_size <= _MOST_TABLE_BYTES
    ]


class _Index:
    """Finds images by the end of their path, their name, or their name without suffix."""

    def __init__(self, images):
        self.split_of = {path: split for split, paths in images.items() for path in paths}
        self._named = {}
        for path in self.split_of:
            for name in (path.name, path.stem):
                self._named.setdefault(name, []).append(path)

    def find(self, value, split):
        """The image that a cell names, or `None` if there is not exactly one.

        Of several images with the name, those in the split are considered.
        """
        parts = [part for part in value.strip().replace("\\", "/").split("/") if part]
        found = self._named.get(parts[-1], ()) if parts else ()
        for count in range(2, 1 + len(parts) if len(found) > 1 else 2):
            nearer = [path for path in found if path.parts[-count:-1] == tuple(parts[-count:-1])]
            found = nearer or found
        if len(found) > 1:
            found = [path for path in found if self.split_of[path] == (split or "train")]
        return found[0] if len(found) == 1 else None


class _Table:
    """A CSV file with a row for each image."""

    @classmethod
    def of(cls, path, text, index):
        """The table in a file with this text, or `None` if it does not name these images.

        Raises:
            ValueError: if it does, but it is not clear which column is the label.
        """
        lines = text.splitlines()
        delimiter = max("\t;,", key=lines[0].count)
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(row)]
        width = len(rows[0]) if rows else 0
        ragged = [short_repr(row) for row in rows if len(row) != width]
        rows = [[cell.strip() for cell in row] for row in rows if len(row) == width]
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path.stem)
        split = next((found for word in words if (found := split_named(word))), None)
        matches = [sum(index.find(row[i], split) is not None for row in rows) for i in range(width)]
        if width < 2 or 2 * max(matches) < min(len(rows) - 1, len(index.split_of)):
            return None
        if not max(matches):
            return None
        column = matches.index(max(matches))
        table = cls()
        table.path, table._column, table.ragged = path, column, ragged
        has_header = index.find(rows[0][column], split) is None
        table._header = rows.pop(0) if has_header else [f"{i + 1}" for i in range(width)]
        table._read(rows, index, split)
        return table

    def _read(self, rows, index, split):
        others = [i for i, name in enumerate(self._header) if i != self._column and name]
        splits = [
            i
            for i in others
            if self._header[i].lower() in _SPLIT_COLUMNS
            and all(split_named(row[i]) for row in rows)
        ]
        others = [i for i in others if i not in splits]
        named = sorted(
            (i for i in others if self._header[i].lower() in _LABELS),
            key=lambda i: _LABELS.index(self._header[i].lower()),
        )
        if not named and len(others) != 1:
            raise ValueError(
                f"images: {str(self.path)!r} names the images, but which of its columns "
                f"{self._header} is the label is not clear; expected one named 'label'"
            )
        (self._label, *_) = named or others
        self.labels, self.splits, self.lost, self.empty = {}, {}, [], []
        for row in rows:
            image = index.find(row[self._column], split)
            if image is None:
                self.lost.append(row[self._column])
            elif row[self._label].lower() in _NO_LABELS:
                self.empty.append(row[self._column])
            elif self.labels.setdefault(image, row[self._label]) != row[self._label]:
                raise ValueError(
                    f"images: {str(self.path)!r} calls {row[self._column]!r} both "
                    f"{short_repr(self.labels[image])} and {short_repr(row[self._label])}"
                )
            elif splits:
                self.splits[image] = split_named(row[splits[0]])
        self._split = self._header[splits[0]] if splits else None
        used = (self._column, self._label, *splits[:1])
        self._unused = [name for i, name in enumerate(self._header) if i not in used]
        self._check_single()

    def _check_single(self):
        """Raise an error if images have several labels."""
        labels = {*self.labels.values()}
        for mark in "|;, ":
            several = [label for label in labels if mark in label]
            parts = [part.strip() for label in several for part in label.split(mark)]
            # Names may have spaces and commas: parts count as labels if they also occur alone.
            shared = mark in "|;" and (len({*parts}) < len(parts) or {*parts} & labels)
            if several and (shared or {*parts} <= labels):
                raise ValueError(
                    f"images: {str(self.path)!r} has several labels for an image in column "
                    f"{self._header[self._label]!r}, such as {short_repr(min(several))}; "
                    "expected one"
                )

    def tell(self, notes):
        """Note which columns were read, and which rows are not used."""
        label, file = self._header[self._label], self._header[self._column]
        notes.say(
            f"images: the classes are column {label!r} of {str(self.path)!r}, the files its "
            f"column {file!r}"
            + (f", the splits its column {self._split!r}" if self._split else "")
            + (f"; not used: {', '.join(map(repr, self._unused))}." if self._unused else ".")
        )
        name = self.path.name
        what = f"rows of {name!r} with another number of columns than the first"
        notes.leave_out("images", what, self.ragged)
        notes.leave_out("images", f"rows of {name!r} whose image does not exist", self.lost)
        notes.leave_out("images", f"rows of {name!r} without a label", self.empty)


def _without(bad, labelled, names):
    """Images without the bad files; every class must have one left."""
    good = {path: label for path, label in labelled.items() if path not in bad}
    for label in sorted(set(labelled.values()) - set(good.values())):
        paths = [path for path, y in labelled.items() if y == label]
        raise ValueError(
            f"images: no image of class {names[label]!r} is left, all {len(paths)} files "
            f"are bad; {str(paths[0])!r}, for example,  {bad[paths[0]]}"
        )
    return good


def _split(labelled, where):
    paths, labels = [*labelled], [*labelled.values()]
    counts = np.bincount(labels)
    if counts.min() < 10:
        raise ValueError(
            f"images: {where!r} has a class with {counts.min()} images; at least 10 are needed to "
            "split off validation and test"
        )
    return {
        split: {paths[i]: labels[i] for i in rows}
        for split, rows in stratified_split(labels).items()
    }


def _mixed(labelled):
    """Shuffle images with a fixed seed."""
    paths = [*labelled]
    order = np.random.default_rng(SEED).permutation(len(paths))
    return {paths[i]: labelled[paths[i]] for i in order}


def _common_shape(shapes, image_size):
    """The shape that all images have, or `image_size`, with as many channels as needed."""
    (first, (*size, _)), *_ = shapes.items()
    for path, shape in shapes.items():
        if image_size is None and list(shape[:2]) != size:
            raise ValueError(
                f"images: {str(path)!r} is {tuple(shape[:2])} pixels but {str(first)!r} is "
                f"{tuple(size)}; set data.image_size=HEIGHT,WIDTH to resize them"
            )
    colour = any(shape[-1] >= 3 for shape in shapes.values())
    return (*(image_size or size), 3 if colour else 1)


register(Source("images", "DIR", "images", "your images, one folder per class", image_folder))
