"""Series of measurements, cut into windows and what followed them."""

import dataclasses

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
    """Windows of a series, in units of its spread, and the values that follow each.

    Where values are missing, a window is filled in from what was measured before its end, see
    `bigmodels.data.gaps.Known`. A value that was never measured is never a target: batches are then
    `(window, what follows, sample_weight)`, with a weight for each value that follows. It is 0
    where nothing was measured, and else the same number throughout a split, such that the mean
    weight of the split is 1. To pass over the rest in a metric too, `compile` is given it as one of
    `weighted_metrics`.

    Attributes (and those of `Splits`):
        train: Shuffled batches `(window, what follows)`, of `(batch, length, variables)` and
            `(batch, horizon, variables)`; each iteration is another epoch.
        train_sample: As many of the last training windows as there are for validation, in order.
        sizes: Number of windows of each split.
        length: Rows of a window.
        horizon: Rows that follow it.
        season: After how many rows things repeat; 1 if nobody knows.
        timeline: A `Timeline`.
        variables: Their names.
        means: Of each variable, over its measured values in the training rows.
        scales: Standard deviation of each variable, likewise.
        values: float64 `(rows, variables)`, less `means` and divided by `scales`; NaN where nothing
            was measured.
        borders: `{split: (first row, row after the last)}`; what follows a window lies in one
            split, the window itself may begin in the one before.
        imputed: `{split: number of values that were not measured}`.
        known: The values as they were known at each time, a `bigmodels.data.gaps.Known`.
        begins: `{split: the rows after its windows}`, see `starts`.
    """

    length: int
    horizon: int
    season: int
    timeline: Timeline
    variables: tuple
    means: tuple
    scales: tuple
    values: np.ndarray
    borders: dict
    imputed: dict
    known: Known
    begins: dict

    def starts(self, split):
        """The row after each window of a split: where what is to be forecast begins."""
        return self.begins[split]

    def windows(self, starts):
        """Windows and what follows, as arrays.

        Args:
            starts: Rows, as from `starts`.

        Returns:
            `(windows, targets)`: `(n, length, variables)` and `(n, horizon, variables)`; targets
            are NaN where nothing was measured.
        """
        starts = np.asarray(starts)
        return self.known.windows(starts, self.length), self.known.targets(starts, self.horizon)


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
    missing=(),
    decimal="auto",
    encoding="",
    seed=0,
):
    """Load a series by name, check it, split it by time, standardise it, cut it into windows.

    Args:
        name: `co2`, `sunspots`, `elnino` (embedded; what is missing of them is filled in), or
            `csv:FILE`, see `bigmodels.data.readers.csv_series.read_csv`.
        batch_size: The global batch.
        length: Rows of a window; four seasons when left out, 32 where there is no season.
        horizon: Rows to forecast; a season when left out, 8 where there is none.
        split: Of the rows, in order, the shares for training, validation and test; or their
            numbers, beginning with the first row. What is left at the end is not used.
        season: After how many rows things repeat; the step decides when left out (a day of hours,
            a week of days, a year of weeks or months).
        fill: What becomes of missing rows and values: `none` is an error, `linear` draws a line
            between the neighbours, `previous` repeats the value before. Neither looks beyond
            the end of a window, and what was not measured is never a target.
        time: As for `read_csv`.
        targets: As for `read_csv`.
        time_format: As for `read_csv`.
        missing: As for `read_csv`.
        decimal: As for `read_csv`.
        encoding: As for `read_csv`.
        seed: Decides the order of the training windows, nothing else.

    Returns:
        A `SeriesData`.

    Raises:
        ValueError: naming the argument, or the file and line, that does not fit.
    """
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
                notes.say(f"data.{option}: {short_repr(value)} is for files; {name!r} is none.")
    elif files := readers.find("series", name):
        reader, path = files
        table = reader.read(path, notes=notes, **options)
    else:
        raise unknown_name("series", name, "no series", embedded.SERIES)
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
        raise ValueError(f"dataset: {name!r} has {values.size:,} values, more than memory is for")
    known = Known(values, fill)
    begins = {
        part: _begins(part, border, known, length, horizon, table, name, source, notes)
        for part, border in borders.items()
    }
    rows = known.as_tensors()

    def batches_of(starts):
        """Function from a batch of rows to windows, what follows, and its weights, if any."""
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


def last_window(path, variables, length, spacing, *, fill, **options):
    """The end of a file, from which a model goes on.

    Args:
        path: A CSV file as for `read_csv`.
        variables: The model's; the file may have others too.
        length: Rows of its window.
        spacing: The step between them, as `Timeline.spacing` says it.
        fill: As for `load_series`.
        **options: As for `read_csv`: `time`, `time_format`, `missing`, `decimal`, `encoding`.

    Returns:
        `(window, timeline, next)`: float64 `(length, variables)`, and the number of the row after
        the last one on the timeline.

    Raises:
        ValueError: naming the file, and the line, that does not fit.
    """
    notes, name = Notes(), f"input: {str(path)!r}"
    asked = f"{name} does not fit the model"
    table = csv_series.read_csv(
        path, "input", targets=variables, asked=asked, notes=notes, **options
    )
    found, rows = table.timeline.spacing(), len(table.values)
    if found != spacing:
        raise ValueError(f"{name} has a step of {found}, but the model was trained on {spacing}")
    if rows < length:
        raise ValueError(f"{name} has {rows:,} rows, the model looks at {length:,}")
    _missing(table, fill, {"the file": (0, rows)}, name, notes)
    (window,) = Known(table.values, fill).windows(np.array([rows]), length)
    return window, table.timeline, rows


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


def _begins(part, border, known, length, horizon, table, name, source, notes):
    """The rows after each window of a part; what no forecast can be held against is left out."""
    first, last = _starts(border, length, horizon)
    starts = np.arange(first, last)

    def keep(good, what):
        gone = {str(table.timeline.text(int(start))): "" for start in starts[~good]}
        notes.leave_out(source, f"windows of {part} {what}, by their time", gone)
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
                f"{step + 1:,} rows after any window of {part}, to hold a forecast against; give "
                "it other rows with data.split, or a smaller data.horizon"
            )
    return starts


def _missing(table, fill, borders, source, notes):
    """How many values of each split were not measured."""
    missing = np.isnan(table.values)
    if not missing.any():
        return dict.fromkeys(borders, 0)
    if fill == "none":
        raise ValueError(
            f"{table.first_missing}; data.fill=linear or data.fill=previous fills in what is "
            "missing"
        )
    for split, (begin, end) in borders.items():
        for column in np.flatnonzero(missing[begin:end].all(0)):
            variable = short_repr(table.variables[column])
            raise ValueError(f"{source}: {variable} has no value at all in {split}")
    imputed = {split: int(missing[begin:end].sum()) for split, (begin, end) in borders.items()}
    each = ", ".join(f"{count:,} {split}" for split, count in imputed.items())
    first = f"{table.first_missing}; " if table.first_missing else f"{source}: "
    notes.say(
        f"{first}{missing.sum():,} of {missing.size:,} values are missing ({each}). "
        f"data.fill={fill} fills in windows from what was measured before their ends; a value that "
        "was not measured is never a target."
    )
    return imputed


def _statistics(values, variables, name):
    means, scales = np.nanmean(values, 0), np.nanstd(values, 0)
    for variable, mean, scale in zip(variables, means, scales, strict=True):
        # Rounding of a mean is no spread.
        if not scale > 1e-12 * max(abs(mean), 1e-18):
            raise ValueError(
                f"dataset: {short_repr(variable)} of {name!r} is the same throughout the "
                "training rows: "
                "there is nothing to learn; data.targets chooses variables"
            )
    return means, scales
