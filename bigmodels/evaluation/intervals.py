"""How far a held-out figure can be trusted: bootstrap intervals over the examples it rests on.

An interval says what another draw of held-out examples would have changed. It says nothing of what
another seed of the training would have changed.
"""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
# Fewer examples say too little about how much they vary.
FEWEST = 10
_BATCH_ELEMENTS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Observations:
    """What one metric was measured on, example by example.

    Attributes:
        values: `(n,)` numbers, one for each independent example: an image, a block of text, a
            generated sample.
        unit: What an example is, in the plural, for example "images".
        weights: `(n,)`, how much each counts in the mean; all alike when `None`.
        keys: `(n,)` integers that stand for the examples themselves, see `keys`; two runs with the
            same ones can be compared example by example. `None` where they cannot.
        statistic: `(values) -> float`, for a metric that is no mean.
    """

    values: np.ndarray
    unit: str
    weights: np.ndarray | None = None
    keys: np.ndarray | None = None
    statistic: Callable | None = None

    def figure(self):
        """The metric itself, a float."""
        if self.statistic is not None:
            return float(self.statistic(self.values))
        return float(np.average(self.values, weights=self.weights))


def keys(rows):
    """A check sum for each row, to recognise the same examples in another run.

    Args:
        rows: Iterable of arrays.

    Returns:
        uint32 `(n,)`.
    """
    return np.fromiter((zlib.crc32(np.ascontiguousarray(row)) for row in rows), "uint32")


def interval(observed, seed):
    """A percentile bootstrap interval at `LEVEL`, from `DRAWS` draws.

    Args:
        observed: `Observations`.
        seed: The same seed gives the same interval.

    Returns:
        `(low, high)`, or `None` where the examples cannot tell: fewer than `FEWEST`, or all alike.
    """
    values = np.asarray(observed.values)
    if len(values) < FEWEST or (values == values[0]).all():
        return None
    if observed.statistic is not None:
        columns, statistic = (values,), observed.statistic
    elif observed.weights is None:
        columns, statistic = (values.astype("float64"),), np.mean
    else:
        weights = np.asarray(observed.weights, "float64")
        columns, statistic = (values * weights, weights), _ratio
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=observed.statistic is None,
        n_resamples=DRAWS,
        batch=max(1, _BATCH_ELEMENTS // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratio(numerators, denominators, axis):
    return numerators.sum(axis) / denominators.sum(axis)


def summary(observed, seed):
    """The intervals of all metrics, as `result.json` keeps them.

    Args:
        observed: `{split: {metric: Observations}}`.
        seed: As for `interval`.

    Returns:
        `{"intervals": {split: {metric: [low, high]}}, "resampled": {split: {metric: "500
        images"}}}`; a metric without an interval is in neither.
    """
    intervals = {
        split: {
            name: list(found)
            for name, what in metrics.items()
            if (found := interval(what, seed)) is not None
        }
        for split, metrics in observed.items()
    }
    resampled = {
        split: {
            name: f"{len(observed[split][name].values):,} {observed[split][name].unit}"
            for name in names
        }
        for split, names in intervals.items()
    }
    return {"intervals": intervals, "resampled": resampled}


def difference(a, b, seed):
    """How much higher a metric is in `b` than in `a`, example by example.

    Both runs get the easy and the hard examples alike, which separates them sooner than two
    intervals side by side.

    Args:
        a: `Observations` of one run.
        b: `Observations` of another.
        seed: As for `interval`.

    Returns:
        `(difference, (low, high), n)`, the interval `None` as for `interval`; or `None` if they
        were not measured on the same examples. A text's last block may differ by a few characters:
        up to a tenth of the examples may be missing in either.
    """
    if a.keys is None or b.keys is None:
        return None
    shorter, longer = sorted((len(a.keys), len(b.keys)))
    same = np.flatnonzero(a.keys[:shorter] == b.keys[:shorter])
    if len(same) < 0.9 * longer:
        return None
    paired = Observations(
        np.asarray(b.values, "float64")[same] - np.asarray(a.values, "float64")[same],
        a.unit,
        None if a.weights is None else a.weights[same],
    )
    return paired.figure(), interval(paired, seed), len(same)
