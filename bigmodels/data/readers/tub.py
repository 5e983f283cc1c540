"""Read recordings of driving in the format of Donkeycar: a directory called a tub, version 2.

manifest.json       five lines of JSON: names and types of the recorded values, two lines about
                    the tub, and the names of the catalogues with the indices of deleted frames
catalog_0.catalog   a line of JSON for each frame: its index, its image, the steering angle
images/             the frames
"""

import dataclasses
import os
import pathlib

from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.runs import untrusted

MANIFEST = "manifest.json"
_IMAGE, _ANGLE, _SESSION = "cam/image_array", "user/angle", "_session_id"


@dataclasses.dataclass(frozen=True)
class Tub:
    """The frames of a tub in the order of recording, without deleted ones.

    Attributes:
        paths: Paths of the image files.
        angles: Steering angles from -1 (left) to 1 (right).
        sessions: Names of the frames' drives. Consecutive frames of a drive are neighbours in time.
        indices: Indices of the frames in the tub.
        deleted: Number of frames left out because the tub marks them as deleted.
    """

    paths: list[pathlib.Path]
    angles: list[float]
    sessions: list[str]
    indices: list[int]
    deleted: int


def read_tub(
    directory: str | os.PathLike,
    argument: str = "tub",
    notes: Notes | None = None,
    skip_bad_files: bool = False,
) -> Tub:
    """Read the manifest and the catalogues of a tub, without reading its images.

    Args:
        directory: Path of the tub.
        argument: Beginning of messages.
        notes: A `Notes` about what is left out; by default a new one.
        skip_bad_files: Whether to leave out damaged lines, unreadable catalogues and frames without
            an image. Otherwise the first one is an error.

    Returns:
        A `Tub`.

    Raises:
        ValueError: if a file or a line is invalid; the message names it.

    Example:

    >>> import json, pathlib
    >>> root = pathlib.Path("tub")
    >>> root.mkdir()
    >>> frame = {"_index": 0, "cam/image_array": "0.jpg", "user/angle": -0.5}
    >>> _ = (root / "0.catalog").write_text(json.dumps(frame))
    >>> inputs, types = ["cam/image_array", "user/angle"], ["image_array", "float"]
    >>> manifest = [inputs, types, {}, {}, {"paths": ["0.catalog"]}]
    >>> _ = (root / "manifest.json").write_text("\\n".join(map(json.dumps, manifest)))
    >>> read_tub("tub").angles
    [-0.5]
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"{argument}: {str(root)!r} is not a directory")
    if not os.path.lexists(root / MANIFEST):
        is_old = any(root.glob("record_*.json"))
        version = ", but records of version 1, which are not read" if is_old else ""
        raise ValueError(
            f"{argument}: {str(root)!r} has no {MANIFEST} of a Donkeycar tub, version 2{version}"
        )
    names, deleted = _manifest(root / MANIFEST, argument)
    frames, seen, lost, damaged, named = [], set(), {}, {}, set()
    for name in names:
        try:
            lines = _lines(root / name, argument)
        except ValueError as error:
            if not skip_bad_files:
                raise
            lost[name] = str(error).partition(" cannot be read: ")[2]
            continue
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                index, frame, image = _frame(line, deleted)
                named.add(image)
                if index in seen:
                    raise ValueError(f"_index: {index}, which is a duplicate")
            except ValueError as error:
                where = f"{str(root / name)!r}, line {number}"
                if not skip_bad_files:
                    raise ValueError(f"{argument}: {where}: {untrusted.reason(error)}") from None
                damaged[f"{name}, line {number}"] = untrusted.reason(error)
                continue
            seen.add(index)
            if frame:
                frames.append((index, *frame))
    notes = notes or Notes()
    notes.leave_out(argument, "catalogues that cannot be read", lost)
    notes.leave_out(argument, "damaged lines", damaged)
    unlisted = sorted(path.name for path in root.glob("*.catalog") if path.name not in names)
    notes.leave_out(argument, f"catalogues that {MANIFEST} does not list", unlisted)
    images = sorted(path.name for path in (root / "images").glob("[!.]*"))
    unnamed = [image for image in images if image not in named]
    notes.leave_out(argument, "images that belong to no frame", unnamed)
    if not frames:
        left = f"; its {len(seen)} are deleted" if seen else ""
        raise ValueError(f"{argument}: {str(root)!r} contains no frame{left}")
    frames.sort()
    indices, images, angles, sessions = map(list, zip(*frames, strict=True))
    paths = [root / "images" / image for image in images]
    return Tub(paths, angles, sessions, indices, len(seen) - len(frames))


def _manifest(path, argument):
    """The names of the catalogues, and the indices of deleted frames."""
    lines = [line for line in _lines(path, argument) if line.strip()]
    number = len(lines)
    try:
        if number != 5:
            raise ValueError(f"{number} lines, expected the five of a Donkeycar tub, version 2")
        number = 1
        # Wrapped in an object, as `parsed` accepts nothing else.
        recorded = untrusted.parsed(b'{"inputs": ' + lines[0] + b"}")["inputs"]
        for name in (_IMAGE, _ANGLE):
            if not isinstance(recorded, list) or name not in recorded:
                raise ValueError(f"{name} is not among the recorded values")
        number = 5
        last = untrusted.parsed(lines[4])
        untrusted.check_form(
            last,
            {
                "paths": (_is_list_of(_is_file_name), "a list of files of the tub"),
                "deleted_indexes": (_is_list_of(_is_index), "a list of numbers of frames"),
            },
            optional=("deleted_indexes",),
        )
    except ValueError as error:
        where = f"{str(path)!r}, line {number}"
        raise ValueError(f"{argument}: {where}: {untrusted.reason(error)}") from None
    return list(dict.fromkeys(last["paths"])), set(last.get("deleted_indexes", ()))


def _lines(path, argument):
    try:
        return untrusted.contents(path).split(b"\n")
    except OSError as error:
        why = error.strerror
    except ValueError as error:
        why = untrusted.reason(error)
    raise ValueError(f"{argument}: {str(path)!r} cannot be read: {why}")


def _frame(line, deleted):
    """Index, `(image, angle, session)` or `None` for a deleted frame, and the image's name."""
    row = untrusted.parsed(line)
    untrusted.check_form(row, {"_index": (_is_index, "the number of a frame")})
    if row["_index"] in deleted:
        return row["_index"], None, str(row.get(_IMAGE))
    untrusted.check_form(
        row,
        {
            _IMAGE: (_is_file_name, "the name of a file in images"),
            _ANGLE: (_is_angle, "a number from -1 to 1"),
            _SESSION: (lambda value: isinstance(value, str | int | None), "a name"),
        },
        optional=(_SESSION,),
    )
    session = row.get(_SESSION)
    session = "" if session is None else str(session)
    return row["_index"], (row[_IMAGE], float(row[_ANGLE]), session), row[_IMAGE]


def _is_list_of(fits):
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_index(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_angle(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -1 <= value <= 1  # Not true for NaN.


def _is_file_name(value):
    """Whether a value is the name of a file, not a path to another directory."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value.isprintable()
        and not {"/", "\\"} & set(value)
        and value not in (".", "..")
    )


register(
    Source(
        "tub", "DIR", "driving", "your recording of driving, a Donkeycar tub, version 2", read_tub
    )
)
