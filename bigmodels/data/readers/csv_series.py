"""Read time series from a CSV file with a column of times and columns of numbers."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Sequence

import numpy as np

from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register, timeline
from bigmodels.data.readers.csv_sheet import MISSING, Sheet, is_number
from bigmodels.data.readers.timeline import Timeline
from bigmodels.messages import short_repr

DECIMALS = ("auto", ".", ",")
_MAX_BYTES = 1 << 28
_MAX_VARIABLES = 1000
# The square of this is still finite in float32.
_LARGEST = 1e18
_CLOCK = re.compile(r"\d?\d:\d\d(:\d\d([.,]\d+)?)?( ?[AaPp][Mm])?")
_CALENDAR = ("year", "month", "day", "hour", "minute", "second")
# Pandas' names for a column without a name, and for an index that became a column.
_NO_NAME = re.compile(r"(unnamed: \d+.*|index)?", re.IGNORECASE)
_MARKED = re.compile(r"[+-]?[\d.,]+([eE][+-]?\d+)?")
# Numbers whose mark may separate decimals or thousands; and numbers that occur beside them if it
# separates thousands.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}((\.\d{3})+|(,\d{3})+)")
_SHORT = re.compile(r"[+-]?[1-9]\d{0,2}")
# Largest number of distinct codes for missing values in a variable. A value counts as a code if its
# distance from all others exceeds this multiple of their range. The multiple is smaller for values
# with only the digit 9, 8 or 7.
_CODES, _FAR, _NOT_SO_FAR = 3, 5, 0.5
_CODE = re.compile(r"-?([987])\1+(\.\1+)?")


@dataclasses.dataclass(frozen=True)
class Table:
    """Measurements on a timeline, as returned by `read_csv`.

    Attributes:
        timeline: The times of the rows.
        variables: Names of the variables.
        values: float64 `(rows, variables)`, NaN for missing values.
        rows: Number of rows in the file; the other rows are missing completely.
        first_missing: The first missing row or value, in words for messages, or "".
        season: Length of the season in rows, or 0 if it is unknown.
    """

    timeline: Timeline
    variables: tuple[str, ...]
    values: np.ndarray
    rows: int
    first_missing: str = ""
    season: int = 0


def read_csv(
    path: str | os.PathLike,
    argument: str = "csv",
    *,
    time: str = "",
    targets: Sequence[str] = (),
    time_format: str = "",
    missing: Sequence[str | float] | str | float = (),
    decimal: str = "auto",
    encoding: str = "",
    asked: str = "data.targets",
    notes: Notes | None = None,
) -> Table:
    """Read a CSV file with a header, separated by commas, semicolons, tabs or vertical bars.

    Rows may be in any order. Notes are made of what is left out or guessed: comment and unit lines,
    row numbers in a column without a name, columns without values.

    Args:
        path: Path of the file.
        argument: Beginning of messages, the argument that the path was given as.
        time: Name of the column of times, or of two, "DATE,CLOCK". By default the first column of
            dates, together with a column of clock times if dates repeat; else columns named
            `year`, `month` and so on; else the first column.
        targets: Names of the columns to use, in order; by default all others.
        time_format: Format of dates for `datetime.strptime`; ISO 8601 by default. Times may also be
            numbers.
        missing: Numbers or words that stand for missing values, in addition to the usual ones.
        decimal: The decimal mark, "." or ","; the other one may then separate thousands. With
            "auto", it is inferred from the numbers.
        encoding: Encoding of the file; UTF-8 by default.
        asked: Name of the argument that gave the targets, for messages.
        notes: A `Notes`; by default a new one.

    Returns:
        A `Table`.

    Raises:
        ValueError: if the file or a line is invalid; the message names it.

    Example:

    >>> with open("days.csv", "w") as file:
    ...     _ = file.write("day,degrees\\n2024-01-01,5\\n2024-01-02,7.5\\n2024-01-03,6\\n")
    >>> table = read_csv("days.csv")
    >>> table.variables, table.values[:, 0].tolist(), table.timeline.spacing()
    (('degrees',), [5.0, 7.5, 6.0], '1 day')
    """
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = 0  # `Sheet` raises the error.
    if size > _MAX_BYTES:
        name = f"{argument}: {str(path)!r}"
        raise ValueError(f"{name} has {size:,} bytes, more than {_MAX_BYTES:,}")
    sheet = Sheet(path, argument, encoding, notes or Notes())
    times = _Times(sheet, time, time_format)
    line, places = timeline.align(times.read(), times.kind, times.form, sheet.where)
    _say_order(places, sheet)
    chosen = _target_columns(sheet, times.columns, targets, asked)
    numbers = _Numbers(missing, _decimal_mark(sheet, chosen) if decimal == "auto" else decimal)
    values = np.stack([numbers.column(sheet, column) for column in chosen], axis=1)
    numbers.say_unused(sheet)
    if not targets:
        chosen, values = _without_empty(sheet, chosen, values)
    names = tuple(sheet.header[column] for column in chosen)
    for name, column in zip(names, values.T, strict=True):
        _say_codes(name, column, sheet)
    order = np.argsort(places)
    first = _first_missing(values[order], places[order], names, lambda i: sheet.where(order[i]))
    total = int(places.max()) + 1
    if total > 2 * len(places):
        raise ValueError(
            f"{first}; with a step of {line.spacing()}, {total - len(places):,} of {total:,} rows "
            "are missing, more than there are"
        )
    spread = np.full((total, len(chosen)), np.nan)
    spread[places] = values
    return Table(line, names, spread, len(places), first)


class _Times:
    """Finds the columns of a sheet that contain its times, and reads them.

    Attributes:
        columns: Indices of the columns.
        kind: "date", "digits" or "number", as from `timeline.reader`.
        form: Format of dates, as for a `Timeline`.
    """

    def __init__(self, sheet, time, form):
        self._sheet, self._calendar = sheet, _calendar(sheet.header)
        header, first = sheet.header, sheet.rows[0]
        options = [(i,) for i in range(len(header))]
        if time:
            names = [time] if time in header else [name.strip() for name in time.split(",")]
            if not all(name in header for name in names):
                raise ValueError(
                    f"data.time: {short_repr(time)} is not a column, but {short_repr(header)} are"
                )
            options = [tuple(map(header.index, names))]
        clock = next((i for i, field in enumerate(first) if _CLOCK.fullmatch(field)), None)
        pairs = [(*at, clock) for at in options if len(at) == 1 and clock not in (None, *at)]
        # A given format may be that of both columns together.
        readers = {at: self._reader(at, form) for at in options + (pairs if form else [])}
        if self._calendar and not (time or form):
            readers[self._calendar] = self._reader(self._calendar, "")
        dates = [at for at, how in readers.items() if how and how[0] == "date"]
        digits = [at for at, how in readers.items() if how and how[0] == "digits"]
        self.columns = (*dates, *digits, options[0])[0]
        how = readers[self.columns]
        if how and how[0] != "number" and (*self.columns, clock) in pairs:
            how = self._with_clock(clock, form) or how
        if how is None:
            expected = f"as data.time_format={form!r} says" if form else "ISO 8601, or a number"
            raise ValueError(
                f"{sheet.where(0)}: {short_repr(self._text(first, self.columns))} in column "
                f"{short_repr(self._label())} is not a time ({expected}); set the column with "
                "data.time, and the format of dates with data.time_format"
            )
        self.kind, self._read, self.form = how
        text, label = self._text(first, self.columns), self._label()
        if len(self.columns) > 1:
            sheet.notes.say(f"{sheet.name}: columns {label} make the times together.")
        if self.kind == "digits":
            sheet.notes.say(
                f"{sheet.where(0)}: {text} in column {label!r} is taken for the date "
                f"{self._read(text).date()}."
            )

    def read(self):
        """The time of each row."""
        found = []
        for i, row in enumerate(self._sheet.rows):
            text = self._text(row, self.columns)
            try:
                found.append(self._read(text))
            except (ValueError, OverflowError):
                raise ValueError(
                    f"{self._sheet.where(i)}: {short_repr(text)} in column "
                    f"{short_repr(self._label())} is not a time like those before"
                ) from None
        return found

    def _reader(self, at, form):
        rows = self._sheet.rows
        how = timeline.reader([self._text(rows[0], at)], form)
        if how is None or how[0] == "number":
            return how
        return timeline.reader([self._text(row, at) for row in rows], form)

    def _label(self):
        return " and ".join(self._sheet.header[i] for i in self.columns)

    def _text(self, row, at):
        """The fields of one or several columns as one text."""
        fields = [row[i] for i in at]
        if len(at) > 1 and at == self._calendar:
            year, *more = (field.removesuffix(".0").zfill(2) for field in fields)
            return "-".join([year, *more[:2]]) + ("T" + ":".join(more[2:]) if more[2:] else "")
        if len(at) == 2 and fields[1][1:2] == ":":
            fields[1] = f"0{fields[1]}"
        return " ".join(fields)

    def _with_clock(self, clock, form):
        """A reader of dates and clock times together, if dates alone are ambiguous."""
        dates, clocks = self._sheet.column(self.columns[0]), self._sheet.column(clock)
        has_clock = ":" in dates[0] or "T" in dates[0]
        if len(set(dates)) == len(dates) and (has_clock or len(set(clocks)) > 1):
            return None
        both = (*self.columns, clock)
        if form:
            hour, noon = (" %I", " %p") if clocks[0][-1] in "mM" else (" %H", "")
            form += hour + {1: ":%M", 2: ":%M:%S"}[clocks[0].count(":")]
            form += (".%f" if "." in clocks[0] else "") + (noon if " " in clocks[0] else noon[1:])
        how = self._reader(both, form)
        if how is not None:
            self.columns = both
        return how


def _calendar(header):
    """The columns of year, month, and further ones if there are any."""
    names = [name.lower() for name in header]
    count = next((i for i, name in enumerate(_CALENDAR) if name not in names), len(_CALENDAR))
    return tuple(map(names.index, _CALENDAR[:count])) if count > 1 else ()


def _target_columns(sheet, times, targets, asked):
    """The columns of the variables, with notes about other columns."""
    header, notes = sheet.header, sheet.notes
    others = [i for i in range(len(header)) if i not in times]
    lacking = [target for target in targets if target not in [header[i] for i in others]]
    if lacking:
        these = short_repr([header[i] for i in others])
        named = ", ".join(map(short_repr, lacking))
        what = "is not a variable" if len(lacking) == 1 else "are not variables"
        raise ValueError(f"{asked}: {named} {what} of {these}")
    if len(set(targets)) < len(targets):
        raise ValueError(f"data.targets: {short_repr(targets)} has a duplicate")
    if targets:
        columns = [header.index(target) for target in targets]
        unused = [header[i] for i in others if header[i] not in targets]
        notes.leave_out(sheet.name, "columns that are not asked for", dict.fromkeys(unused, ""))
    else:
        numbers = [i for i in others if _numbers_rows(sheet.column(i), header[i])]
        index = [i for i in numbers if _NO_NAME.fullmatch(header[i])]
        columns = [i for i in others if i not in index]
        what = "columns without a name of their own that number the rows"
        notes.leave_out(sheet.name, what, dict.fromkeys((header[i] for i in index), ""))
        for i in numbers:
            if i in columns:
                notes.say(
                    f"{sheet.name}: column {header[i]!r} numbers the rows, and is taken for a "
                    "variable; data.targets chooses variables."
                )
        if columns and not header[columns[0]]:
            raise ValueError(f"{sheet.name}: the name '' is empty or a duplicate: it has values")
        if not columns:
            raise ValueError(f"{sheet.name} has a time, but no variable")
    if len(columns) > _MAX_VARIABLES:
        raise ValueError(
            f"{sheet.name} has {len(columns):,} variables, more than {_MAX_VARIABLES:,}; choose "
            "some with data.targets"
        )
    return columns


def _numbers_rows(fields, name):
    """Whether a column counts up or down by one, or, without a name, has each number once."""
    if not all(field.isdecimal() and len(field) < 16 for field in fields):
        return False
    if _NO_NAME.fullmatch(name):
        return len(set(fields)) == len(fields)
    first, step = int(fields[0]), int(fields[1]) - int(fields[0])
    return abs(step) == 1 and all(int(x) == first + i * step for i, x in enumerate(fields))


def _without_empty(sheet, columns, values):
    """Columns and values, without columns that have no values."""
    empty = np.isnan(values).all(0)
    if empty.all():
        raise ValueError(f"{sheet.name} has no value in any column")
    names = [sheet.header[column] for column in np.array(columns)[empty]]
    sheet.notes.leave_out(sheet.name, "columns without any value", dict.fromkeys(names, ""))
    kept = [column for column, is_empty in zip(columns, empty, strict=True) if not is_empty]
    return kept, values[:, ~empty]


def _say_order(places, sheet):
    steps = np.diff(places)
    if (steps > 0).all():
        return
    i = int(np.flatnonzero(steps < 0)[0]) + 1
    order = "go back in time" if (steps < 0).all() else "are not in order of time"
    sheet.notes.say(f"{sheet.where(i)}: the rows {order}; they were sorted.")


def _decimal_mark(sheet, columns):
    """The decimal mark, "." or ",", with a note if it is a guess."""
    unclear = []
    for column in columns:
        example, short, long = None, False, False
        texts = sheet.column(column)
        if not any("." in text or "," in text for text in texts):
            continue
        for i, text in enumerate(texts):
            if "." not in text and "," not in text:
                short = short or _SHORT.fullmatch(text) is not None
                long = long or (len(text) > 3 and len(text.lstrip("+-0")) > 3 and is_number(text))
            elif _MARKED.fullmatch(text) and text not in MISSING:
                marks = [character for character in text if character in ",."]
                if not _GROUPED.fullmatch(text):
                    return marks[-1]
                if len(marks) > 1:  # 1.234.567
                    return "," if marks[0] == "." else "."
                example = example or (i, column, text, marks[0])
        if example:
            # 999 and then 1.000: with a decimal mark, there would be 999.000.
            unclear.append((*example, short and not long))
    if not unclear:
        return "."
    i, column, text, mark, thousands = max(unclear, key=lambda candidate: candidate[-1])
    other = "," if mark == "." else "."
    # The decimal mark that usually goes with this delimiter.
    usual = {",": ".", ";": ","}.get(sheet.delimiter, "")
    sure = mark != usual if thousands else mark == "." or usual != ""
    thousands |= mark == "," and usual == "."
    where = f"{sheet.where(i)}: {text!r} in column {sheet.header[column]!r}"
    if not sure or len({candidate[3] for candidate in unclear}) > 1:
        raise ValueError(
            f"{where} has decimals or thousands after its {mark!r}: set data.decimal={mark} or "
            f"data.decimal={other}"
        )
    if thousands:
        sheet.notes.say(
            f"{where} is read as {text.replace(mark, '')}, its {mark!r} as a mark for thousands; "
            f"data.decimal={mark} reads decimals."
        )
        return other
    if mark != usual or mark == ",":
        sheet.notes.say(
            f"{where} is read with decimals behind its {mark!r}; data.decimal={other} reads "
            "thousands."
        )
    return mark


class _Numbers:
    """Reads numbers, and records which codes for missing values occur.

    Args:
        missing: Numbers and words, or one of them, or several with commas between them.
        mark: The decimal mark.
    """

    def __init__(self, missing, mark):
        if isinstance(missing, str | int | float):
            missing = str(missing).split(",")
        self._words = {str(word).strip().lower(): str(word) for word in missing if str(word)}
        self._codes = {float(word): word for word in self._words if is_number(word)}
        self._unused = set(self._words)
        self._mark, self._group = mark, "," if mark == "." else "."
        mark, group = re.escape(mark), re.escape(self._group)
        number = rf"[+-]?(\d{{1,3}}({group}\d{{3}})+|\d+)?({mark}\d*)?([eE][+-]?\d+)?"
        self._marked = re.compile(number)

    def column(self, sheet, column):
        """Read a column of numbers, with NaN for missing values.

        Raises:
            ValueError: if a field is not a number; the message names the row.
        """
        texts, name = sheet.column(column), sheet.header[column]
        if self._mark == "." and not self._codes:
            with contextlib.suppress(ValueError):  # Most columns contain only numbers.
                values = np.array([*map(float, texts)])
                if (np.abs(values) <= _LARGEST).all() and not any("_" in text for text in texts):
                    return values
        return np.array([self._read(text, name, sheet.where, i) for i, text in enumerate(texts)])

    def _read(self, text, column, where, i):
        word = text.lower()
        if word in MISSING or word in self._words:
            self._unused.discard(word)
            return math.nan
        value = math.nan
        if self._group not in text or self._marked.fullmatch(text):
            with contextlib.suppress(ValueError):
                value = float(text.replace(self._group, "").replace(self._mark, "."))
        if "_" in text or not abs(value) <= _LARGEST:
            raise ValueError(
                f"{where(i)}: {short_repr(text)} in column {short_repr(column)} is not a number up "
                f"to {_LARGEST:g}; data.targets chooses columns"
            )
        if value in self._codes:
            self._unused.discard(self._codes[value])
            return math.nan
        return value

    def say_unused(self, sheet):
        for word in sorted(self._unused):
            sheet.notes.say(f"{sheet.name}: data.missing={word} does not occur in the variables.")


def _say_codes(name, values, sheet):
    """Note values of a variable that look like codes for missing values."""
    codes = _codes(values[~np.isnan(values)])
    if not codes:
        return
    other = values[~np.isnan(values) & ~np.isin(values, list(codes))]
    held = " and ".join(f"{code:g} in {count:,} rows" for code, count in codes.items())
    i = int(np.flatnonzero(np.isin(values, list(codes)))[0])
    sheet.notes.say(
        f"{sheet.where(i)}: column {name!r} contains {held} of {len(values):,}, far from all "
        f"others ({other.min():g} to {other.max():g}), which are read as measurements; "
        f"data.missing={','.join(f'{code:g}' for code in codes)} makes them missing values."
    )


def _codes(values):
    """`{value: count}` of the few smallest and largest values that are far from all others."""
    unique, counts = np.unique(values, return_counts=True)

    def far(code, count, distance, span):
        if _CODE.fullmatch(f"{code:.10g}") and len(f"{abs(code):.10g}") > 1:
            return distance > (_NOT_SO_FAR if count > 1 else 1) * span
        return count > 1 and distance > _FAR * span

    for total in range(_CODES, 0, -1):  # One code makes another look less far away.
        for low in range(total + 1):
            high = len(unique) - (total - low)
            middle = unique[low:high]
            if len(middle) < 3:
                continue
            span = middle[-1] - middle[0]
            alone = [*range(low), *range(high, len(unique))]
            distances = [max(middle[0] - unique[i], unique[i] - middle[-1]) for i in alone]
            if all(
                far(unique[i], counts[i], distance, span)
                for i, distance in zip(alone, distances, strict=True)
            ):
                return {float(unique[i]): int(counts[i]) for i in alone}
    return {}


def _first_missing(values, places, names, where):
    """The first missing row or value, in words, or ""."""
    jumps = np.flatnonzero(np.diff(places) > 1)
    rows, columns = np.nonzero(np.isnan(values))
    gap = int(jumps[0]) + 1 if len(jumps) else len(values)
    if len(rows) and rows[0] < gap:
        return f"{where(int(rows[0]))}: no value in column {short_repr(names[columns[0]])}"
    if gap < len(values):
        return (
            f"{where(gap)}: {int(places[gap] - places[gap - 1] - 1):,} rows before it are missing"
        )
    return ""


register(
    Source(
        "csv",
        "FILE",
        "series",
        "your measurements, a column of times and columns of numbers",
        read_csv,
    )
)
