"""Series of measurements, cut into windows and what followed them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bigmodels.checks import shown
from bigmodels.data import csv_series, embedded
from bigmodels.data.names import did_you_mean
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.timeline import Timeline

SPLITS = ("train", "validation", "test")
FILLS = ("none", "linear", "previous")
_MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesData:
    """Windows of a series, in units of its spread, and the values that follow each.

    Attributes:
        name: What was loaded.
        train: Shuffled batches `(window, what follows)`, of `(batch, length, variables)` and
            `(batch, horizon, variables)`; each iteration is another epoch.
        train_from: Function from an epoch's number to the endless stream of epochs from there on,
            the same every time: for `fit(data.train_from(0), steps_per_epoch=...)`.
        train_sample: As many of the last training windows as there are for validation, in order.
        validation: Batches in order.
        test: Batches in order.
        sizes: Number of windows of each split.
        length: Rows of a window.
        horizon: Rows that follow it.
        season: After how many rows things repeat; 1 if nobody knows.
        timeline: A `Timeline`.
        variables: Their names.
        means: Of each variable, over the training rows.
        scales: Standard deviation of each variable, over the training rows.
        values: float64 `(rows, variables)`, less `means` and divided by `scales`.
        borders: `{split: (first row, row after the last)}`; what follows a window lies in one
            split, the window itself may begin in the one before.
        made_up: `{split: number of values that were missing and filled in}`.
        notes: What was left out and how the rest was understood, a `Notes`.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable
    train_sample: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    sizes: dict
    length: int
    horizon: int
    season: int
    timeline: Timeline
    variables: tuple
    means: tuple
    scales: tuple
    values: np.ndarray
    borders: dict
    made_up: dict
    notes: Notes = dataclasses.field(default_factory=Notes)

    def starts(self, split):
        """The row after each window of a split: where what is to be forecast begins."""
        return np.arange(*_starts(self.borders[split], self.length, self.horizon))

    def windows(self, starts):
        """Windows and what follows, as arrays.

        Args:
            starts: Rows, as from `starts`.

        Returns:
            `(windows, targets)`: `(n, length, variables)` and `(n, horizon, variables)`.
        """
        starts = np.asarray(starts)[:, None]
        before, after = np.arange(-self.length, 0), np.arange(self.horizon)
        return self.values[starts + before], self.values[starts + after]


def load_series(
    name="co2",
    batch_size=64,
    *,
    length=None,
    horizon=None,
    split=(0.7, 0.1, 0.2),
    season=None,
    fill="none",
    time="",
    targets=(),
    time_format="",
    seed=0,
):
    """Load a series by name, check it, split it by time, standardise it, cut it into windows.

    Args:
        name: `co2`, `sunspots`, `elnino` (embedded; what is missing of them is filled in), or
            `csv:FILE`, see `bigmodels.data.csv_series.read_csv`.
        batch_size: The global batch.
        length: Rows of a window; four seasons when left out, 32 where there is no season.
        horizon: Rows to forecast; a season when left out, 8 where there is none.
        split: Of the rows, in order, the shares for training, validation and test; or their
            numbers, beginning with the first row. What is left at the end is not used.
        season: After how many rows things repeat; the step decides when left out (a day of hours,
            a week of days, a year of weeks or months).
        fill: What becomes of missing rows and values: `none` is an error, `linear` draws a line
            between the neighbours, `previous` repeats the value before. Neither looks beyond its
            split.
        time: As for `read_csv`.
        targets: As for `read_csv`.
        time_format: As for `read_csv`.
        seed: Decides the order of the training windows, nothing else.

    Returns:
        A `SeriesData`.

    Raises:
        ValueError: naming the argument, or the file and line, that does not fit.
    """
    notes = Notes()
    kind, _, path = name.partition(":")
    if name in embedded.SERIES:
        table, fill = embedded.SERIES[name](), fill if fill != "none" else "linear"
    elif kind == "csv":
        options = {"time": time, "targets": targets, "time_format": time_format}
        table = csv_series.read_csv(path, **options)
    else:
        known = ", ".join(embedded.SERIES)
        hint = did_you_mean(name, "csv", embedded.SERIES)
        raise ValueError(
            f"dataset: {shown(name)} is no series; give csv:FILE, or one of {known}{hint}"
        )
    season = season or table.season or table.timeline.season()
    length = length or (4 * season if season > 1 else 32)
    horizon = horizon or (season if season > 1 else 8)
    borders = _borders(len(table.values), split, length, horizon, name)
    values, made_up = _filled(table, fill, borders)
    begin, end = borders["train"]
    means, scales = _statistics(values[begin:end], table.variables, name)
    values = (values - means) / scales
    if values.size * 4 > _MAX_BYTES:
        raise ValueError(f"dataset: {name!r} has {values.size:,} values, more than memory is for")
    rows = tf.constant(values, "float32")

    def prepare(starts, _):
        before = tf.range(-length, 0, dtype="int64")
        after = tf.range(horizon, dtype="int64")
        # (batch, length, variables), (batch, horizon, variables)
        return tf.gather(rows, starts[:, None] + before), tf.gather(rows, starts[:, None] + after)

    ranges = {part: _starts(borders[part], length, horizon) for part in SPLITS}
    sizes = {part: last - first for part, (first, last) in ranges.items()}
    train, train_from = training_batches(
        tf.data.Dataset.range(*ranges["train"]), sizes["train"], batch_size, seed, prepare
    )

    def in_order(first, last):
        return evaluation_batches(tf.data.Dataset.range(first, last), batch_size, prepare)

    first, last = ranges["train"]
    return SeriesData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order(max(first, last - sizes["validation"]), last),
        validation=in_order(*ranges["validation"]),
        test=in_order(*ranges["test"]),
        sizes=sizes,
        length=length,
        horizon=horizon,
        season=season,
        timeline=table.timeline,
        variables=table.variables,
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        values=values,
        borders=borders,
        made_up=made_up,
        notes=notes,
    )


def last_window(path, variables, length, spacing, *, fill, time, time_format):
    """The end of a file, from which a model goes on.

    Args:
        path: A CSV file as for `read_csv`.
        variables: The model's.
        length: Rows of its window.
        spacing: The step between them, as `Timeline.spacing` says it.
        fill: As for `load_series`.
        time: As for `read_csv`.
        time_format: As for `read_csv`.

    Returns:
        `(window, timeline, next)`: float64 `(length, variables)`, and the number of the row after
        the last one on the timeline.

    Raises:
        ValueError: naming the file, and the line, that does not fit.
    """
    table = csv_series.read_csv(
        path, "input", time=time, targets=variables, time_format=time_format
    )
    found, rows = table.timeline.spacing(), len(table.values)
    if found != spacing:
        raise ValueError(
            f"input: {str(path)!r} has a step of {found}, but the model was trained on {spacing}"
        )
    if rows < length:
        raise ValueError(f"input: {str(path)!r} has {rows:,} rows, the model looks at {length:,}")
    values, _ = _filled(table, fill, {"input": (0, rows)})
    return values[-length:], table.timeline, rows


def _starts(border, length, horizon):
    """The first row to forecast in a split, and the row after the last such."""
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
                f"window of data.length={length} and data.horizon={horizon}; give it fewer of "
                "these, or more rows with data.split"
            )
    return borders


def _filled(table, fill, borders):
    """Values without gaps, and how many of each split were made up."""
    values, missing = table.values.copy(), np.isnan(table.values)
    if missing.any() and fill == "none":
        raise ValueError(
            f"{table.first_missing}; data.fill=linear or data.fill=previous fills in what is "
            "missing"
        )
    for split, (begin, end) in borders.items():
        for column, variable in enumerate(table.variables):
            part, gone = values[begin:end, column], missing[begin:end, column]
            known = np.flatnonzero(~gone)
            if not len(known):
                raise ValueError(f"dataset: {shown(variable)} has no value at all for {split}")
            places = np.arange(end - begin)
            if fill == "previous":
                before = np.searchsorted(known, places, "right") - 1
                part[:] = part[known[np.maximum(before, 0)]]
            else:  # At the ends, the nearest.
                part[:] = np.interp(places, known, part[known])
    return values, {split: int(missing[begin:end].sum()) for split, (begin, end) in borders.items()}


def _statistics(values, variables, name):
    means, scales = values.mean(0), values.std(0)
    for variable, mean, scale in zip(variables, means, scales, strict=True):
        # Rounding of a mean is no spread.
        if not scale > 1e-12 * max(abs(mean), 1e-18):
            raise ValueError(
                f"dataset: {shown(variable)} of {name!r} is the same throughout the training rows: "
                "there is nothing to learn; data.targets chooses variables"
            )
    return means, scales
