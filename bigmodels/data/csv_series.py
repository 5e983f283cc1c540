"""The user's own measurements: a CSV file with a column of times and columns of numbers."""

import array
import csv
import dataclasses
import io
import math
import os

import numpy as np

from bigmodels.checks import shown
from bigmodels.data import timeline
from bigmodels.data.text_files import text_file
from bigmodels.data.timeline import Timeline

_DELIMITERS = ",;\t"
_MISSING = ("", "nan", "na", "n/a", "null", "none")
_MAX_BYTES = 1 << 28
_MAX_VARIABLES = 1000
# Its square is a float32 still.
_LARGEST = 1e18


@dataclasses.dataclass(frozen=True)
class Table:
    """Measurements on a timeline, as they were read.

    Attributes:
        timeline: When the rows were.
        variables: Names.
        values: float64 `(rows, variables)`, NaN where nothing was measured.
        rows: Number of rows that were there; the others are missing altogether.
        first_missing: The first thing that is missing, as a message names it, or "".
        season: After how many rows things repeat, where that is known; else 0.
    """

    timeline: Timeline
    variables: tuple
    values: np.ndarray
    rows: int
    first_missing: str = ""
    season: int = 0


def read_csv(path, argument="csv", *, time="", targets=(), time_format=""):
    """Read a CSV file with a header, in UTF-8, separated by commas, semicolons or tabs.

    Args:
        path: Path.
        argument: What the user gave it as, for messages.
        time: Name of the column of times; when left out, the first whose first value is a date,
            or else the first of all.
        targets: Names of the columns to take, in order; all others when left out.
        time_format: How dates are written, for `datetime.strptime`; ISO 8601 when left out. Times
            may be numbers as well.

    Returns:
        A `Table`.

    Raises:
        ValueError: naming the file, and the line, that does not fit.
    """
    name = f"{argument}: {str(path)!r}"
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = 0  # The next to read it says why it cannot.
    if size > _MAX_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, more than {_MAX_BYTES:,}")
    header, rows, lines = _rows(text_file(path, argument), name)

    def where(i):
        return f"{name}, line {lines[i]}"

    at, kind, read = _time_column(header, rows[0], time, time_format, where(0))
    chosen = _target_columns(header, at, targets, name)
    times = [_time(row[at], read, header[at], where(i)) for i, row in enumerate(rows)]
    values = array.array("d")
    for i, row in enumerate(rows):
        values.extend(_number(row[column], header[column], where, i) for column in chosen)
    values = np.frombuffer(values).reshape(len(rows), len(chosen))
    line, places = timeline.align(times, kind, time_format, where)
    first = _first_missing(values, places, [header[c] for c in chosen], where)
    total = int(places[-1]) + 1
    if total > 2 * len(rows):
        raise ValueError(
            f"{first}; with a step of {line.spacing()}, {total - len(rows):,} of {total:,} rows "
            "are missing, more than there are"
        )
    spread = np.full((total, len(chosen)), np.nan)
    spread[places] = values
    return Table(line, tuple(header[c] for c in chosen), spread, len(rows), first)


def _rows(text, name):
    """Header, rows of as many fields, and the line on which each row ends."""
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, rows, lines = None, [], []
    try:
        for row in reader:
            row = [field.strip() for field in row]
            if not any(row):
                continue
            if header is None:
                header = row
                _check_header(header, f"{name}, line {reader.line_num}")
            elif len(row) != len(header):
                raise ValueError(
                    f"{name}, line {reader.line_num}: {len(row)} fields, expected {len(header)} as "
                    "in the header"
                )
            else:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: {error}") from None
    if len(rows) < 3:
        raise ValueError(f"{name} has {len(rows)} rows below its header, expected at least 3")
    return header, rows, lines


def _check_header(header, where):
    if len(header) < 2:
        raise ValueError(
            f"{where}: one column {shown(header[0])}, expected a time and at least one variable, "
            "separated by commas, semicolons or tabs"
        )
    if timeline.reader(header[0]) is not None or all(map(_is_number, header)):
        raise ValueError(f"{where}: {shown(header[:3])} are no names: the file has no header")
    seen = set()
    for column in header:
        if not column or column in seen:
            raise ValueError(f"{where}: the name {shown(column)} is empty or there twice")
        seen.add(column)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _time_column(header, row, time, form, where):
    """`(column, kind, read)` of the times."""
    found = [timeline.reader(field, form) for field in row]
    if time:
        if time not in header:
            raise ValueError(f"data.time: {shown(time)} is no column, but {shown(header)} are")
        at = header.index(time)
    else:
        at = next((i for i, f in enumerate(found) if f and f[0] == "date"), 0)
    if found[at] is None:
        expected = f"as data.time_format={form!r} says" if form else "ISO 8601, or a number"
        raise ValueError(
            f"{where}: {shown(row[at])} in column {shown(header[at])} is no time ({expected}); "
            "data.time names the column, data.time_format how dates are written"
        )
    return at, *found[at]


def _target_columns(header, at, targets, name):
    for target in targets:
        if target not in header or header.index(target) == at:
            others = [column for column in header if column != header[at]]
            raise ValueError(f"data.targets: {shown(target)} is no variable of {shown(others)}")
    if len(set(targets)) < len(targets):
        raise ValueError(f"data.targets: {shown(targets)} names one twice")
    columns = [header.index(t) for t in targets] or [i for i in range(len(header)) if i != at]
    if len(columns) > _MAX_VARIABLES:
        raise ValueError(
            f"{name} has {len(columns):,} variables, more than {_MAX_VARIABLES:,}; choose some "
            "with data.targets"
        )
    return columns


def _time(text, read, column, where):
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{where}: {shown(text)} in column {shown(column)} is no time like those before"
        ) from None


def _number(text, column, where, i):
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if "_" in text or not abs(value) <= _LARGEST:
        raise ValueError(
            f"{where(i)}: {shown(text)} in column {shown(column)} is no number up to "
            f"{_LARGEST:g}; data.targets chooses columns"
        )
    return value


def _first_missing(values, places, names, where):
    """The first row or value that is not there, in words, or ""."""
    jumps = np.flatnonzero(np.diff(places) > 1)
    rows, columns = np.nonzero(np.isnan(values))
    gap = int(jumps[0]) + 1 if len(jumps) else len(values)
    if len(rows) and rows[0] < gap:
        return f"{where(int(rows[0]))}: no value in column {shown(names[columns[0]])}"
    if gap < len(values):
        return (
            f"{where(gap)}: {int(places[gap] - places[gap - 1] - 1):,} rows before it are missing"
        )
    return ""
