"""Recordings of driving as Donkeycar writes them: a directory called a tub, version 2.

manifest.json       five lines of JSON: the names of what was recorded, their types, two lines
                    about the tub, and which catalogues there are and which frames were deleted
catalog_0.catalog   a line of JSON for each frame: its number, its image, the steering angle
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
    """What a tub says, frame by frame, in the order of recording, without the deleted ones.

    Attributes:
        paths: The image files.
        angles: The driver's steering, from -1 (left) to 1 (right).
        sessions: Each frame's drive, a name; neighbours of one are neighbours in time.
        indices: Each frame's number in the tub.
        deleted: How many frames were left out as the tub marks them deleted.
    """

    paths: list
    angles: list
    sessions: list
    indices: list
    deleted: int


def read_tub(directory, argument="tub", notes=None, skip_bad_files=False):
    """Read a tub's manifest and catalogues; its images are not looked at.

    Args:
        directory: Path.
        argument: What messages begin with.
        notes: A `bigmodels.data.notes.Notes`, to which it says what is left out.
        skip_bad_files: Whether damaged lines, catalogues that cannot be read, and frames without an
            image are left out and counted; else the first of them is an error.

    Returns:
        A `Tub`.

    Raises:
        ValueError: naming the file, the line and what in it does not fit.
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"{argument}: {str(root)!r} is not a directory")
    if not os.path.lexists(root / MANIFEST):
        is_old = any(root.glob("record_*.json"))
        looks = ", but records of version 1, which are not read" if is_old else ""
        raise ValueError(
            f"{argument}: {str(root)!r} has no {MANIFEST} of a Donkeycar tub, version 2{looks}"
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
                    raise ValueError(f"_index: {index}, which was there before")
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
    notes.leave_out(argument, "images that no frame names", unnamed)
    if not frames:
        left = f"; its {len(seen)} are deleted" if seen else ""
        raise ValueError(f"{argument}: {str(root)!r} holds no frame{left}")
    frames.sort()
    indices, images, angles, sessions = map(list, zip(*frames, strict=True))
    paths = [root / "images" / image for image in images]
    return Tub(paths, angles, sessions, indices, len(seen) - len(frames))


def _manifest(path, argument):
    """The names of the catalogues, and the numbers of the frames that were deleted."""
    lines = [line for line in _lines(path, argument) if line.strip()]
    number = len(lines)
    try:
        if number != 5:
            raise ValueError(f"{number} lines, expected the five of a Donkeycar tub, version 2")
        number = 1
        # A list is parsed as what an object holds.
        recorded = untrusted.parsed(b'{"inputs": ' + lines[0] + b"}")["inputs"]
        for name in (_IMAGE, _ANGLE):
            if not isinstance(recorded, list) or name not in recorded:
                raise ValueError(f"{name} is not among what was recorded")
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
    return is_number and -1 <= value <= 1  # Which NaN is not.


def _is_file_name(value):
    """Whether it leads nowhere but into its own directory."""
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
