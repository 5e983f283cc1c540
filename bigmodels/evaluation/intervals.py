"""Bootstrap confidence intervals for metrics on held-out data.

They cover the choice of held-out examples, not the randomness of the training: another seed may
change a metric by more.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
# With fewer examples there is no interval.
FEWEST = 10
_BATCH_ELEMENTS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Observations:
    """The values of one metric, example by example.

    Attributes:
        values: Numbers `(n,)`, one per independent example: an image, a block of text, a generated
            sample.
        unit: What an example is, in the plural, for example "images".
        weights: Weights `(n,)` of the mean; all equal when `None`.
        keys: Integers `(n,)` that identify the examples, see `keys`. Two runs with the same keys
            are compared example by example; `None` rules that out.
        statistic: `(values) -> float`, for a metric that is not a mean.

    Example:

    >>> Observations(np.array([1.0, 0, 1, 1]), "images").figure()
    0.75
    """

    values: np.ndarray
    unit: str
    weights: np.ndarray | None = None
    keys: np.ndarray | None = None
    statistic: Callable[[np.ndarray], float] | None = None

    def figure(self) -> float:
        """The metric: the statistic, or the weighted mean of the values."""
        if self.statistic is not None:
            return float(self.statistic(self.values))
        return float(np.average(self.values, weights=self.weights))


def keys(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Checksums of examples, to recognise the same examples in another run.

    Args:
        rows: Iterable of arrays, one per example.

    Returns:
        uint32 `(n,)`.

    Example:

    >>> len(set(keys([np.array([1, 2]), np.array([1, 2]), np.array([3, 4])]).tolist()))
    2
    """
    return np.fromiter((zlib.crc32(np.ascontiguousarray(row)) for row in rows), "uint32")


def interval(observed: Observations, seed: int) -> tuple[float, float] | None:
    """A 95% percentile bootstrap interval, from 2000 draws.

    Args:
        observed: `Observations`.
        seed: Seed of the draws.

    Returns:
        `(low, high)`; or `None` if there are fewer than 10 examples, or all have the same value.

    Example:

    >>> interval(Observations(np.arange(20.0) % 2, "images"), seed=0)
    (0.25, 0.75)
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
    bounds = stats.bootstrap(
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
    return float(bounds.low), float(bounds.high)


def _ratio(numerators, denominators, axis):
    return numerators.sum(axis) / denominators.sum(axis)


def summary(observed: dict[str, dict[str, Observations]], seed: int) -> dict:
    """The intervals of all metrics, in the format of `result.json`.

    Args:
        observed: `{split: {metric: Observations}}`.
        seed: As for `interval`.

    Returns:
        `{"intervals": {split: {metric: [low, high]}}, "resampled": {split: {metric: "500
        images"}}}`, without the metrics that have no interval.

    Example:

    >>> summary({"test": {"accuracy": Observations(np.arange(20.0) % 2, "images")}}, seed=0)
    {'intervals': {'test': {'accuracy': [0.25, 0.75]}},
     'resampled': {'test': {'accuracy': '20 images'}}}
    """
    intervals = {
        split: {
            name: list(bounds)
            for name, observations in metrics.items()
            if (bounds := interval(observations, seed)) is not None
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


def difference(
    a: Observations, b: Observations, seed: int
) -> tuple[float, tuple[float, float] | None, int] | None:
    """The difference of a metric between two runs, paired by example.

    Pairing removes the variation between easy and hard examples, so the interval is narrower than
    two separate intervals suggest.

    Args:
        a: `Observations` of one run.
        b: `Observations` of another.
        seed: As for `interval`.

    Returns:
        `(difference, (low, high), n)`: `b` minus `a`, its interval (`None` as for `interval`), and
        the number of examples. `None` if the runs do not have at least nine tenths of the examples
        in common (the last block of a text may differ by a few characters).

    Example:

    >>> ids = np.arange(20)
    >>> a, b = (Observations((ids % 4 < n) * 1.0, "images", keys=ids) for n in (1, 2))
    >>> difference(a, b, seed=0)
    (0.25, (0.05, 0.45), 20)
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
