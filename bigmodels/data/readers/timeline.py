"""When the rows of a series were: reading times, finding their step, going on after the last."""

import calendar
import dataclasses
import datetime
import functools
import re

import numpy as np

from bigmodels.messages import short_repr

_DAY = 86_400_000_000  # Microseconds, in which dates are counted.
_SECOND = 1_000_000
_EPOCH = datetime.datetime(1970, 1, 1)
# Of a step: how far a time may lie from where it should.
_SLACK = 1e-3
_MOST = 1 << 40
# How many steps, in microseconds or months, go into a week, a year.
_SEASONS = {_DAY: 7, 7 * _DAY: 52}
_MONTHLY_SEASONS = {1: 12, 3: 4}


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Evenly spaced times.

    Attributes:
        unit: What `first` and `step` count: "number", "microsecond" (since 1970), or "month".
        first: The first time.
        step: From each to the next.
        form: How a date is written: "" for ISO 8601, or as `datetime.strftime` takes it.
        utc: Whether dates were given with an offset, and are in UTC now.
        day: Of months: the day, 0 for the last.
        clock: Of months: microseconds of the day.
    """

    unit: str
    first: float
    step: float
    form: str = ""
    utc: bool = False
    day: int = 1
    clock: int = 0

    def at(self, index):
        """The time of a row, which may lie after the last.

        Args:
            index: Its number, from 0.

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
            raise ValueError(f"time: row {index} would lie beyond the year 9999") from None

    def text(self, index):
        """The time of a row as it is written in a file."""
        when = self.at(index)
        if self.unit == "number":
            return when
        if self.form:
            return when.strftime(self.form)
        days_only = self.clock == 0 if self.unit == "month" else _whole_days(self.first, self.step)
        if days_only and not self.utc:
            return when.date().isoformat()
        return when.isoformat(sep=" ") + ("+00:00" if self.utc else "")

    def spacing(self):
        """The step in words; two series of the same one can be forecast by one model."""
        if self.unit == "number":
            return f"{self.step:g}"
        if self.unit == "month":
            return f"{int(self.step)} months" if self.step > 1 else "1 month"
        return str(datetime.timedelta(microseconds=int(self.step))).removesuffix(", 0:00:00")

    def season(self):
        """After how many rows things usually repeat, or 1 if the step does not say."""
        if self.unit == "number":
            return 1
        if self.unit == "month":
            return _MONTHLY_SEASONS.get(self.step, 1)
        for whole in (_DAY, 3600 * _SECOND, 60 * _SECOND):
            # A day of minutes would be longer than any window: then an hour.
            if self.step < whole and whole % self.step == 0 and whole / self.step <= 288:
                return int(whole // self.step)
        return _SEASONS.get(self.step, 1)


def _whole_days(first, step):
    return first % _DAY == 0 and step % _DAY == 0


# What a date of ISO 8601 may look like and `datetime.fromisoformat` does not read, or misreads: how
# the column is written again.
_MONTH = re.compile(r"(\d{4})-(\d\d)")
_QUARTER = re.compile(r"(\d{4})-?Q([1-4])")
_ORDINAL = re.compile(r"(\d{4})-?(\d{3})(?=$|[T ])")
_MIDNIGHT = re.compile(r"([T ])24(?=(:?00)*([.,]0+)?($|[Z+-]))")
# An hour or a minute with a fraction, of 60 of what comes next.
_FRACTION = re.compile(r"([T ]\d\d(?::?(\d\d))?)[.,](\d+)(?=$|[Z+-])")
_FORMS = {"%Y-%m": _MONTH, "%Y-%j": re.compile(r"\d{4}-\d{3}")}
_FORMS |= {"%G-W%V": re.compile(r"\d{4}-W\d\d"), "%G-W%V-%u": re.compile(r"\d{4}-W\d\d-\d")}
_DIGITS = {
    form: re.compile(rf"\d{{{count}}}")
    for form, count in {"%Y%m%d": 8, "%Y%j": 7, "%Y%m": 6, "%Y%m%d%H": 10}.items()
}
# Those of a number that is taken for a date.
_YEARS = range(1600, 2200)


def reader(texts, form=""):
    """What reads the times of a column.

    Args:
        texts: The column.
        form: As `datetime.strptime` takes it, or "" for ISO 8601 and for numbers.

    Returns:
        `(kind, read, form)`: "date", "digits" (a date of digits alone) or "number"; a function from
        a text to a `datetime.datetime` or a float, which raises `ValueError`; how dates are
        written, as for a `Timeline`. Or `None` if the first text is no time.
    """
    text = texts[0]
    if form:
        read = functools.partial(_formed, form=form)
        return ("date", read, form) if _reads(read, text) else None
    if _reads(_iso_date, text):
        alike = (f for f, each in _FORMS.items() if all(map(each.fullmatch, texts)))
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


def align(times, kind, form, where):
    """The timeline that times lie on, and their places on it.

    Args:
        times: What a `reader` gave, in any order, each once.
        kind: "number", or else dates.
        form: As there.
        where: Function from a time's number to how messages name it.

    Returns:
        `(timeline, places)`: the places are whole numbers, 0 that of the earliest time; where times
        are missing between others, so are places.

    Raises:
        ValueError: naming the first time that does not lie where it should.
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
                raise ValueError(
                    f"{where(0)}: a time in UTC lies outside the years 1-9999"
                ) from None
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
    # The usual one: a few gaps do not change it.
    step = np.sort(differences)[(len(differences) - 1) // 2]
    ticks, first = ticks[order], ticks[order[0]].item()
    with np.errstate(over="ignore", invalid="ignore"):  # Then it does not fit.
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
    """Dates as months, if each is the same day of one, or the last: `(ticks, more)` or `None`."""
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
