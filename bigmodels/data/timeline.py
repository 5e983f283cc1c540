"""When the rows of a series were: reading times, finding their step, going on after the last."""

import calendar
import dataclasses
import datetime

import numpy as np

from bigmodels.checks import shown

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


def reader(text, form=""):
    """What reads the times of a column, judged by one of them.

    Args:
        text: One time.
        form: As `datetime.strptime` takes it, or "" for ISO 8601 and for numbers.

    Returns:
        `(kind, read)`: "date" or "number", and a function from a text to a `datetime.datetime` or
        a float, which raises `ValueError`; or `None` if it is no time.
    """
    if form:
        read = lambda text: datetime.datetime.strptime(text, form)  # noqa: E731
    else:
        read = _iso_date
    try:
        read(text)
        return "date", read
    except (ValueError, OverflowError):
        pass
    try:
        _number(text)
        return None if form else ("number", _number)
    except ValueError:
        return None


def _iso_date(text):
    if text.isdecimal():  # A year, or a number: 20160701 needs a form of its own.
        raise ValueError(text)
    return datetime.datetime.fromisoformat(text)


def _number(text):
    value = float(text)
    if not abs(value) < 1e15 or "_" in text:
        raise ValueError(text)
    return value


def align(times, kind, form, where):
    """The timeline that times lie on, and their places on it.

    Args:
        times: What a `reader` gave, in order.
        kind: "date" or "number".
        form: As there.
        where: Function from a time's number to how messages name it.

    Returns:
        `(timeline, places)`: the places are whole numbers that begin with 0 and rise; where times
        are missing, by more than one.

    Raises:
        ValueError: naming the first time that does not lie where it should.
    """
    utc = False
    if kind == "date":
        utc = times[0].utcoffset() is not None
        for i, time in enumerate(times):
            if (time.utcoffset() is not None) != utc:
                raise ValueError(f"{where(i)}: {shown(str(time))}: some times have an offset")
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
    unit, more = ("microsecond" if kind == "date" else "number"), {}
    differences = np.diff(ticks)
    backwards = np.flatnonzero(differences <= 0)
    if len(backwards):
        i = int(backwards[0]) + 1
        raise ValueError(
            f"{where(i)}: the time {shown(str(times[i]))} does not come after the one before it, "
            f"{shown(str(times[i - 1]))}"
        )
    if kind == "date" and differences.min() >= 28 * _DAY:
        by_month = _months(times)
        if by_month is not None:
            unit, (ticks, more) = "month", by_month
            differences = np.diff(ticks)
    # The usual one: a few gaps do not change it.
    step = np.sort(differences)[(len(differences) - 1) // 2]
    with np.errstate(over="ignore", invalid="ignore"):  # Then it does not fit.
        places = np.rint((ticks - ticks[0]) / step)
        off = ~(np.abs(ticks - ticks[0] - places * step) <= _SLACK * step)
        off[1:] |= ~(np.diff(places) >= 1)
    off |= places > _MOST
    if off.any():
        i = int(np.flatnonzero(off)[0])
        timeline = Timeline(unit, ticks[0].item(), step.item(), form, utc, **more)
        raise ValueError(
            f"{where(i)}: the time {shown(str(times[i]))} does not fit the step of "
            f"{timeline.spacing()} between most others"
        )
    return Timeline(unit, ticks[0].item(), step.item(), form, utc, **more), places.astype("int64")


def _months(times):
    """Dates as months, if each is the same day of one, or the last: `(ticks, more)` or `None`."""
    clocks = {t.time() for t in times}
    last = all(t.day == calendar.monthrange(t.year, t.month)[1] for t in times)
    if len(clocks) > 1 or not (last or len({t.day for t in times}) == 1):
        return None
    ticks = np.array([12 * t.year + t.month - 1 for t in times])
    if (np.diff(ticks) < 1).any():
        return None
    (clock,) = clocks
    midnight = datetime.datetime.combine(datetime.date.min, clock) - datetime.datetime.min
    return ticks, {
        "day": 0 if last else times[0].day,
        "clock": midnight // datetime.timedelta(microseconds=1),
    }
