"""The times of a series: parse them, find their step, and continue after the last one."""

import calendar
import dataclasses
import datetime
import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

from bigmodels.messages import short_repr

_DAY = 86_400_000_000  # In microseconds, the unit of dates.
_SECOND = 1_000_000
_EPOCH = datetime.datetime(1970, 1, 1)
# Tolerance of times, as a fraction of a step.
_SLACK = 1e-3
_MOST = 1 << 40
# Length of a season in steps, by the step in microseconds or months.
_SEASONS = {_DAY: 7, 7 * _DAY: 52}
_MONTHLY_SEASONS = {1: 12, 3: 4}


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Evenly spaced times.

    Args:
        unit: Unit of `first` and `step`: "number", "microsecond" (since 1970), or "month".
        first: The first time.
        step: Difference of consecutive times.
        form: Format of dates for `datetime.strftime`, or "" for ISO 8601.
        utc: Whether dates had a UTC offset and were converted to UTC.
        day: Day of the month for the unit "month"; 0 is the last day.
        clock: Time of day in microseconds for the unit "month".

    Example:

    >>> line = Timeline("month", first=12 * 2024, step=1)
    >>> line.text(0), line.text(13), line.spacing(), line.season()
    ('2024-01-01', '2025-02-01', '1 month', 12)
    """

    unit: str
    first: float
    step: float
    form: str = ""
    utc: bool = False
    day: int = 1
    clock: int = 0

    def at(self, index: int) -> int | float | datetime.datetime:
        """Return the time of a row, which may be after the last one.

        Args:
            index: Number of the row, counted from 0.

        Returns:
            A number, or a `datetime.datetime`.

        Raises:
            ValueError: if there is no such date.
        """
        ticks = self.first + index * self.step
        if self.unit == "number":
            return int(ticks) if ticks == int(ticks) else float(ticks)
        try:
            if self.unit == "microsecond":
                return _EPOCH + datetime.timedelta(microseconds=int(ticks))
            year, month = divmod(int(ticks), 12)
            day = self.day or calendar.monthrange(year, month + 1)[1]
            return datetime.datetime(year, month + 1, day) + datetime.timedelta(
                microseconds=self.clock
            )
        except (OverflowError, ValueError):
            raise ValueError(f"time: row {index} would be after the year 9999") from None

    def text(self, index: int) -> str | int | float:
        """Return the time of a row in the format of the file; a number for the unit "number"."""
        when = self.at(index)
        if self.unit == "number":
            return when
        if self.form:
            return when.strftime(self.form)
        days_only = self.clock == 0 if self.unit == "month" else _whole_days(self.first, self.step)
        if days_only and not self.utc:
            return when.date().isoformat()
        return when.isoformat(sep=" ") + ("+00:00" if self.utc else "")

    def spacing(self) -> str:
        """Return the step in words. Series of the same step can be forecast by the same model."""
        if self.unit == "number":
            return f"{self.step:g}"
        if self.unit == "month":
            return f"{int(self.step)} months" if self.step > 1 else "1 month"
        return str(datetime.timedelta(microseconds=int(self.step))).removesuffix(", 0:00:00")

    def season(self) -> int:
        """Return the usual length of the season in rows, or 1 if the step does not tell."""
        if self.unit == "number":
            return 1
        if self.unit == "month":
            return _MONTHLY_SEASONS.get(self.step, 1)
        for whole in (_DAY, 3600 * _SECOND, 60 * _SECOND):
            # At most 288 rows: a day in minutes would be too long for a window, so it is an hour.
            if self.step < whole and whole % self.step == 0 and whole / self.step <= 288:
                return int(whole // self.step)
        return _SEASONS.get(self.step, 1)


def _whole_days(first, step):
    return first % _DAY == 0 and step % _DAY == 0


# Dates of ISO 8601 that `datetime.fromisoformat` does not read or misreads, and the formats in
# which they are written again.
_MONTH = re.compile(r"(\d{4})-(\d\d)")
_QUARTER = re.compile(r"(\d{4})-?Q([1-4])")
_ORDINAL = re.compile(r"(\d{4})-?(\d{3})(?=$|[T ])")
_MIDNIGHT = re.compile(r"([T ])24(?=(:?00)*([.,]0+)?($|[Z+-]))")
# An hour or a minute with a decimal fraction.
_FRACTION = re.compile(r"([T ]\d\d(?::?(\d\d))?)[.,](\d+)(?=$|[Z+-])")
_FORMS = {"%Y-%m": _MONTH, "%Y-%j": re.compile(r"\d{4}-\d{3}")}
_FORMS |= {"%G-W%V": re.compile(r"\d{4}-W\d\d"), "%G-W%V-%u": re.compile(r"\d{4}-W\d\d-\d")}
_DIGITS = {
    form: re.compile(rf"\d{{{count}}}")
    for form, count in {"%Y%m%d": 8, "%Y%j": 7, "%Y%m": 6, "%Y%m%d%H": 10}.items()
}
# Years for which a number is read as a date.
_YEARS = range(1600, 2200)


def reader(texts: Sequence[str], form: str = "") -> tuple[str, Callable, str] | None:
    """Find a parser for the times of a column.

    Args:
        texts: The fields of the column.
        form: Format for `datetime.strptime`, or "" for ISO 8601 and for numbers.

    Returns:
        `(kind, read, form)`: "date", "digits" (a date of digits alone) or "number"; a function from
        a text to a `datetime.datetime` or a float, which raises `ValueError`; the format of dates,
        as for a `Timeline`. `None` if the first text is not a time.

    Example:

    >>> kind, read, form = reader(["20240131", "20240201"])
    >>> kind, read("20240131").date().isoformat()
    ('digits', '2024-01-31')
    """
    text = texts[0]
    if form:
        read = functools.partial(_formed, form=form)
        return ("date", read, form) if _reads(read, text) else None
    if _reads(_iso_date, text):
        alike = (f for f, pattern in _FORMS.items() if all(map(pattern.fullmatch, texts)))
        return "date", _iso_date, next(alike, "")
    for form, digits in _DIGITS.items():
        read = functools.partial(_formed, form=form)
        if all(digits.fullmatch(t) and _reads(read, t) for t in texts):
            if all(int(t[:4]) in _YEARS for t in texts):
                return "digits", read, form
    return ("number", _number, "") if _reads(_number, text) else None


def _reads(read, text):
    try:
        read(text)
    except (ValueError, OverflowError):
        return False
    return True


def _formed(text, form):
    return datetime.datetime.strptime(text, form)


def _iso_date(text):
    if text.isdecimal():  # A year, or a number: see `_DIGITS`.
        raise ValueError(text)
    if found := _MONTH.fullmatch(text):
        return datetime.datetime(int(found[1]), int(found[2]), 1)
    if found := _QUARTER.fullmatch(text):
        return datetime.datetime(int(found[1]), 3 * int(found[2]) - 2, 1)
    if found := _ORDINAL.match(text):
        date = _formed(found[1] + found[2], "%Y%j").date()
        text = date.isoformat() + text[found.end() :]
    more = datetime.timedelta()
    if _MIDNIGHT.search(text):
        text, more = _MIDNIGHT.sub(r"\g<1>00", text), datetime.timedelta(days=1)
    elif found := _FRACTION.search(text):
        unit = datetime.timedelta(minutes=1) if found[2] else datetime.timedelta(hours=1)
        text = _FRACTION.sub(r"\1", text)
        more = float(f"0.{found[3]}") * unit
    return datetime.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text)) + more


def _number(text):
    value = float(text if "." in text else text.replace(",", "."))
    if not abs(value) < 1e15 or "_" in text:
        raise ValueError(text)
    return value


def align(
    times: Sequence, kind: str, form: str, where: Callable[[int], str]
) -> tuple[Timeline, np.ndarray]:
    """Find the timeline of some times, and their positions on it.

    Args:
        times: Times as a `reader` parses them, in any order, without duplicates.
        kind: "number" for numbers; other values mean dates.
        form: Format of dates, as from `reader`.
        where: Function that maps the index of a time to its name in messages.

    Returns:
        `(timeline, positions)`: the positions are int64 `(times,)`; the earliest time has position
        0, and missing times leave gaps.

    Raises:
        ValueError: if a time is a duplicate or does not fit the step; the message names it.

    Example:

    >>> timeline, positions = align([1.0, 3.0, 2.0, 6.0], "number", "", str)
    >>> timeline.step, positions.tolist()
    (1.0, [0, 2, 1, 5])
    """
    utc, dates = False, kind != "number"
    if dates:
        utc = times[0].utcoffset() is not None
        for i, time in enumerate(times):
            if (time.utcoffset() is not None) != utc:
                raise ValueError(f"{where(i)}: {short_repr(str(time))}: some times have an offset")
        if utc:
            try:
                times = [t.astimezone(datetime.UTC).replace(tzinfo=None) for t in times]
            except OverflowError:
                raise ValueError(f"{where(0)}: a time in UTC is outside the years 1-9999") from None
        ticks = np.array([(t - _EPOCH) // datetime.timedelta(microseconds=1) for t in times])
    else:
        ticks = np.array(times, "float64")
    unit, more = ("microsecond" if dates else "number"), {}
    order = np.argsort(ticks, kind="stable")
    differences = np.diff(ticks[order])
    if len(twice := np.flatnonzero(differences <= 0)):
        i, before = order[twice[0] + 1], order[twice[0]]
        raise ValueError(
            f"{where(i)}: the time {short_repr(str(times[i]))} does not come after the one "
            "before it, "
            f"that of {where(before).rpartition(', ')[2]}, but is the same"
        )
    if dates and differences.min() >= 28 * _DAY:
        by_month = _months(times)
        if by_month is not None:
            unit, (ticks, more) = "month", by_month
            differences = np.diff(ticks[order])
    # The median, which a few gaps do not change.
    step = np.sort(differences)[(len(differences) - 1) // 2]
    ticks, first = ticks[order], ticks[order[0]].item()
    with np.errstate(over="ignore", invalid="ignore"):  # Such times are found to be off below.
        places = np.rint((ticks - first) / step)
        off = ~(np.abs(ticks - first - places * step) <= _SLACK * step)
        off[1:] |= ~(np.diff(places) >= 1)
    off |= places > _MOST
    timeline = Timeline(unit, first, step.item(), form, utc, **more)
    if off.any():
        i = int(order[np.flatnonzero(off)[0]])
        raise ValueError(
            f"{where(i)}: the time {short_repr(str(times[i]))} does not fit the step of "
            f"{timeline.spacing()} between most others"
        )
    at = np.empty(len(places), "int64")
    at[order] = places
    return timeline, at


def _months(times):
    """Dates as months, if all are on the same or on the last day: `(ticks, more)` or `None`."""
    clocks = {t.time() for t in times}
    last = all(t.day == calendar.monthrange(t.year, t.month)[1] for t in times)
    if len(clocks) > 1 or not (last or len({t.day for t in times}) == 1):
        return None
    ticks = np.array([12 * t.year + t.month - 1 for t in times])
    if len(set(ticks.tolist())) < len(ticks):
        return None
    (clock,) = clocks
    midnight = datetime.datetime.combine(datetime.date.min, clock) - datetime.datetime.min
    return ticks, {
        "day": 0 if last else times[0].day,
        "clock": midnight // datetime.timedelta(microseconds=1),
    }
