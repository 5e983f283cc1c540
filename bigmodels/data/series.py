"""Load time series for forecasting: embedded, or from a CSV file."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.gaps import Known
from bigmodels.data.names import unknown_name
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import csv_series, embedded
from bigmodels.data.readers.timeline import Timeline
from bigmodels.data.splits import SPLITS, Splits
from bigmodels.messages import short_repr

FILLS = ("none", "linear", "previous")
_MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SeriesData(Splits):
    """Windows of a standardised series ready for `fit`, as returned by `load_series`.

    Batches are `(windows, targets)`: float32 `(batch, length, variables)`, and the rows that follow
    each window, float32 `(batch, horizon, variables)`.

    Missing values in a window are filled in from values measured before its end, see
    `bigmodels.data.gaps.Known`. Missing values are never targets: batches are then `(windows,
    targets, sample_weight)`, with one weight per target value. It is 0 for missing values and
    the same number for all others, such that the mean weight of a split is 1. To ignore missing
    values in metrics too, pass those as `weighted_metrics` to `compile`.

    Attributes (in addition to those of `Splits`):
        train: Shuffled batches; each iteration is a new epoch.
        train_sample: The last training windows in order, as many as there are for validation.
        sizes: Number of windows in each split.
        length: Rows of a window.
        horizon: Rows to forecast after a window.
        season: Length of the season in rows; 1 if it is unknown.
        timeline: A `Timeline`.
        variables: Names of the variables.
        means: Mean of each variable over the measured values of the training rows.
        scales: Standard deviation of each variable over the same values.
        values: Standardised values, float64 `(rows, variables)`: less `means` and divided by
            `scales`; NaN where a value is missing.
        borders: `{split: (first row, row after the last)}`. All targets of a window are in one
            split; the window itself may begin in the split before.
        imputed: `{split: number of missing values}`.
        known: The values as they were known at each time, a `bigmodels.data.gaps.Known`.
        begins: `{split: first target row of each window}`, see `starts`.

    Example:

    >>> data = bigmodels.data.load_series("co2")
    >>> data.variables, data.season, data.length, data.horizon
    (('co2',), 52, 208, 52)
    >>> data.imputed
    {'train': 59, 'validation': 0, 'test': 0}
    >>> windows, targets = data.windows(data.starts("test")[:3])
    >>> windows.shape, targets.shape
    ((3, 208, 1), (3, 52, 1))
    """

    length: int
    horizon: int
    season: int
    timeline: Timeline
    variables: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    values: np.ndarray
    borders: dict[str, tuple[int, int]]
    imputed: dict[str, int]
    known: Known
    begins: dict[str, np.ndarray]

    def starts(self, split: str) -> np.ndarray:
        """Return the first target row of each window of a split.

        Args:
            split: "train", "validation" or "test".

        Returns:
            Row numbers, int64 `(windows,)`.
        """
        return self.begins[split]

    def windows(self, starts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return windows and their targets as arrays.

        Args:
            starts: First target row of each window, as from `starts`.

        Returns:
            `(windows, targets)`: `(n, length, variables)` and `(n, horizon, variables)`; targets
            are NaN where a value is missing.
        """
        starts = np.asarray(starts)
        return self.known.windows(starts, self.length), self.known.targets(starts, self.horizon)


def check_split(name: str, value: tuple[float, float, float]) -> None:
    """Raise a `ValueError` unless a split is three shares of the rows, or three numbers of rows.

    Args:
        name: Name of the argument or setting.
        value: Its value.

    Example:

    >>> check_split("data.split", (0.7, 0.1, 0.2))
    """
    shares = all(0 < part < 1 for part in value) and sum(value) <= 1 + 1e-9
    counts = all(1 <= part < 2**31 and part % 1 == 0 for part in value)
    if len(value) != 3 or not (shares or counts):
        raise ValueError(
            f"{name}: {value}, expected TRAINING,VALIDATION,TEST as shares of the rows, at most 1 "
            "together, or as numbers of rows"
        )


def load_series(
    name: str = "co2",
    batch_size: int = 64,
    *,
    length: int | None = None,
    horizon: int | None = None,
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    season: int | None = None,
    fill: str = "none",
    time: str = "",
    targets: Sequence[str] = (),
    time_format: str = "",
    missing: Sequence[str | float] | str | float = (),
    decimal: str = "auto",
    encoding: str = "",
    seed: int = 0,
) -> SeriesData:
    """Load a time series by name: check, split and standardise it, and cut it into windows.

    Args:
        name: `co2`, `sunspots`, `elnino` (embedded; missing values are filled in linearly), or
            `csv:FILE`, see `bigmodels.data.readers.csv_series.read_csv`.
        batch_size: Global batch size, in windows.
        length: Rows of a window. By default four seasons, or 32 if there is no season.
        horizon: Rows to forecast. By default one season, or 8 if there is none.
        split: Fractions of the rows for training, validation and test, in this order; or numbers of
            rows, counted from the first row. Remaining rows at the end are not used.
        season: Length of the season in rows. By default it follows from the step (a day for hourly
            values, a week for daily ones, a year for weekly or monthly ones).
        fill: How missing rows and values are filled in: `none` raises an error, `linear`
            interpolates between the neighbours, `previous` repeats the value before. Values after
            the end of a window are never used, and missing values are never targets.
        time: As for `read_csv`.
        targets: As for `read_csv`.
        time_format: As for `read_csv`.
        missing: As for `read_csv`.
        decimal: As for `read_csv`.
        encoding: As for `read_csv`.
        seed: Seed of the order of the training windows; the splits do not depend on it.

    Returns:
        A `SeriesData`.

    Raises:
        ValueError: if an argument, a file or a line is invalid; the message names it.

    Example:

    >>> with open("temperatures.csv", "w") as file:
    ...     print("day,degrees", file=file)
    ...     for day in range(100):
    ...         print(np.datetime64("2024-01-01") + day, day % 7, sep=",", file=file)
    >>> data = bigmodels.data.load_series("csv:temperatures.csv", batch_size=4)
    >>> windows, targets = next(iter(data.train))
    >>> windows.shape, targets.shape
    (TensorShape([4, 28, 1]), TensorShape([4, 7, 1]))
    """
    check_split("data.split", split)
    notes = Notes()
    options = {
        "time": time,
        "targets": targets,
        "time_format": time_format,
        "missing": missing,
        "decimal": decimal,
        "encoding": encoding,
    }
    files = None
    if name in embedded.SERIES:
        table, fill = embedded.SERIES[name](), fill if fill != "none" else "linear"
        if targets:
            raise ValueError(f"data.targets: {short_repr(targets)}, but {name!r} has one variable")
        for option, value in options.items():
            if value and value != "auto":
                notes.say(
                    f"data.{option}: {short_repr(value)} is for files; {name!r} is not a file."
                )
    elif files := readers.find("series", name):
        reader, path = files
        table = reader.read(path, notes=notes, **options)
    else:
        raise unknown_name("series", name, "not a series", embedded.SERIES)
    source = f"{reader.prefix}: {path!r}" if files else f"dataset: {name!r}"
    season = season or table.season or table.timeline.season()
    length = length or (4 * season if season > 1 else 32)
    horizon = horizon or (season if season > 1 else 8)
    borders = _borders(len(table.values), split, length, horizon, name)
    imputed = _missing(table, fill, borders, source, notes)
    begin, end = borders["train"]
    means, scales = _statistics(table.values[begin:end], table.variables, name)
    values = (table.values - means) / scales
    if values.size * 4 > _MAX_BYTES:
        raise ValueError(f"dataset: {name!r} has {values.size:,} values, too many for memory")
    known = Known(values, fill)
    begins = {
        part: _begins(part, border, known, length, horizon, table, name, source, notes)
        for part, border in borders.items()
    }
    rows = known.as_tensors()

    def batches_of(starts):
        """Function from a batch of start rows to windows, targets and, if needed, weights."""
        share = known.counts(starts, horizon).mean() / horizon

        def prepare(starts, _):
            # (batch, length, variables), (batch, horizon, variables)
            x, y = rows.windows(starts, length), rows.targets(starts, horizon)
            if known.complete:
                return x, y
            measured = tf.math.is_finite(y)
            weights = tf.cast(measured, "float32") / share
            return x, tf.where(measured, y, 0.0), weights

        return prepare

    def elements(starts):
        return tf.data.Dataset.from_tensor_slices(starts)

    train, train_from = training_batches(
        elements(begins["train"]),
        len(begins["train"]),
        batch_size,
        seed,
        batches_of(begins["train"]),
    )

    def in_order(starts):
        return evaluation_batches(elements(starts), batch_size, batches_of(starts))

    return SeriesData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order(begins["train"][-len(begins["validation"]) :]),
        validation=in_order(begins["validation"]),
        test=in_order(begins["test"]),
        sizes={part: len(starts) for part, starts in begins.items()},
        length=length,
        horizon=horizon,
        season=season,
        timeline=table.timeline,
        variables=table.variables,
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        values=values,
        borders=borders,
        imputed=imputed,
        known=known,
        begins=begins,
        notes=notes,
    )


def last_window(
    path: str | os.PathLike,
    variables: Sequence[str],
    length: int,
    spacing: str,
    *,
    fill: str,
    **options: Any,
) -> tuple[np.ndarray, Timeline, int]:
    """Read the last rows of a file, as the input of a forecast.

    Args:
        path: A CSV file as for `read_csv`.
        variables: Names of the model's variables; the file may have others too.
        length: Rows of the model's window.
        spacing: Step between rows as `Timeline.spacing` returns it.
        fill: As for `load_series`.
        **options: As for `read_csv`: `time`, `time_format`, `missing`, `decimal`, `encoding`.

    Returns:
        `(window, timeline, next)`: float64 `(length, variables)`, the `Timeline` of the file, and
        the number of the row after its last one.

    Raises:
        ValueError: if the file or a line is invalid; the message names it.

    Example:

    >>> with open("days.csv", "w") as file:
    ...     print("day,degrees", file=file)
    ...     for day in range(10):
    ...         print(np.datetime64("2024-01-01") + day, day, sep=",", file=file)
    >>> window, timeline, row = last_window("days.csv", ["degrees"], 3, "1 day", fill="none")
    >>> window.tolist(), timeline.text(row)
    ([[7.0], [8.0], [9.0]], '2024-01-11')
    """
    notes, name = Notes(), f"input: {str(path)!r}"
    asked = f"{name} does not fit the model"
    table = csv_series.read_csv(
        path, "input", targets=variables, asked=asked, notes=notes, **options
    )
    step, rows = table.timeline.spacing(), len(table.values)
    if step != spacing:
        raise ValueError(f"{name} has a step of {step}, but the model was trained on {spacing}")
    if rows < length:
        raise ValueError(f"{name} has {rows:,} rows, the model needs {length:,}")
    _missing(table, fill, {"the file": (0, rows)}, name, notes)
    (window,) = Known(table.values, fill).windows(np.array([rows]), length)
    return window, table.timeline, rows


def _starts(border, length, horizon):
    """The first and the end (exclusive) of the rows at which targets of a split may begin."""
    begin, end = border
    return max(begin, length), end - horizon + 1


def _borders(rows, split, length, horizon, name):
    if all(part < 1 for part in split):
        ends = [round(rows * share) for share in np.cumsum(split)]
    else:
        ends = [int(end) for end in np.cumsum(split)]
    if ends[-1] > rows:
        raise ValueError(f"data.split: {split}, but {name!r} has {rows:,} rows")
    borders = dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))
    for part, border in borders.items():
        first, last = _starts(border, length, horizon)
        if last <= first:
            raise ValueError(
                f"dataset: {name!r} has {border[1] - border[0]:,} rows for {part}, too few for a "
                f"window of data.length={length} and data.horizon={horizon}; reduce these, or give "
                f"{part} more rows with data.split"
            )
    return borders


def _begins(part, border, known, length, horizon, table, name, source, notes):
    """First target rows of a split's windows, without windows that no target can be compared to."""
    first, last = _starts(border, length, horizon)
    starts = np.arange(first, last)

    def keep(good, what):
        left_out = {str(table.timeline.text(int(start))): "" for start in starts[~good]}
        notes.leave_out(source, f"windows of {part} {what}, by their time", left_out)
        return starts[good]

    if known.complete:
        return starts
    starts = keep(starts >= known.first, "that end before each variable has a value")
    followed = known.counts(starts, horizon).any(1)
    starts = keep(followed, "that no value follows within data.horizon")
    for step in range(horizon):
        for column in np.flatnonzero(~known.measured[starts + step].any(0)):
            raise ValueError(
                f"dataset: {short_repr(table.variables[column])} of {name!r} has no value "
                f"{step + 1:,} rows after any window of {part}, to compare a forecast with; give "
                f"{part} other rows with data.split, or reduce data.horizon"
            )
    return starts


def _missing(table, fill, borders, source, notes):
    """Number of missing values in each split, with a note about them."""
    missing = np.isnan(table.values)
    if not missing.any():
        return dict.fromkeys(borders, 0)
    if fill == "none":
        raise ValueError(
            f"{table.first_missing}; data.fill=linear or data.fill=previous fills in missing values"
        )
    for split, (begin, end) in borders.items():
        for column in np.flatnonzero(missing[begin:end].all(0)):
            variable = short_repr(table.variables[column])
            raise ValueError(f"{source}: {variable} has no value at all in {split}")
    imputed = {split: int(missing[begin:end].sum()) for split, (begin, end) in borders.items()}
    counts = ", ".join(f"{count:,} {split}" for split, count in imputed.items())
    first = f"{table.first_missing}; " if table.first_missing else f"{source}: "
    notes.say(
        f"{first}{missing.sum():,} of {missing.size:,} values are missing ({counts}). "
        f"data.fill={fill} fills in windows from values measured before their end; missing values "
        "are never targets."
    )
    return imputed


def _statistics(values, variables, name):
    means, scales = np.nanmean(values, 0), np.nanstd(values, 0)
    for variable, mean, scale in zip(variables, means, scales, strict=True):
        # A constant variable may have a tiny deviation from the rounding of its mean.
        if not scale > 1e-12 * max(abs(mean), 1e-18):
            raise ValueError(
                f"dataset: {short_repr(variable)} of {name!r} is constant in the training rows; "
                "choose other variables with data.targets"
            )
    return means, scales
