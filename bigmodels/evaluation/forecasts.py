"""Baseline forecasts without a network, and the errors of any forecast."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from bigmodels.data.series import SeriesData

# Ridge penalties to choose from, relative to the mean square of the inputs.
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
_AT_ONCE = 256  # Windows.


def last_value(windows: np.ndarray, horizon: int) -> np.ndarray:
    """Repeat the last value (the naive forecast).

    Args:
        windows: `(n, length, variables)`.
        horizon: Number of steps to forecast.

    Returns:
        `(n, horizon, variables)`.

    Example:

    >>> last_value(np.array([[[1.0], [2.0]]]), horizon=3).ravel()
    array([2., 2., 2.])
    """
    return np.repeat(windows[:, -1:], horizon, axis=1)


def seasonal_naive(windows: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Repeat the last season (the seasonal naive forecast).

    Args:
        windows: `(n, length, variables)`, with `length >= season`.
        horizon: Number of steps to forecast.
        season: Length of a season in steps.

    Returns:
        `(n, horizon, variables)`.

    Example:

    >>> seasonal_naive(np.array([[[1.0], [2.0]]]), horizon=3, season=2).ravel()
    array([1., 2., 1.])
    """
    return windows[:, np.arange(horizon) % season - season]


class LinearMap:
    """Ridge regression from windows to the steps that follow, shared by all variables.

    The mean of each window is subtracted and added again to the forecast, similar to NLinear and
    RLinear (Zeng et al., 2023; Li et al., 2023). Those are trained by gradient descent; this is
    their closed-form solution (Toner and Darlow, 2024). The penalty is the one of `RIDGES` with the
    smallest squared error on validation data. Missing targets are ignored.

    Args:
        data: A `SeriesData`.

    Attributes:
        ridge: The chosen penalty.
        coefficients: float64 `(length + 1, horizon)`, the intercept last.

    Example:

    >>> data = bigmodels.data.load_series("sunspots", length=8, horizon=2)
    >>> LinearMap(data).coefficients.shape
    (9, 2)
    """

    def __init__(self, data: SeriesData):
        self.horizon = data.horizon
        size = data.length + 1
        gram, moments = np.zeros((size, size)), np.zeros((size, data.horizon))
        missed = {}  # For each step with missing targets: their rows' contribution to `gram`.
        for x, y in _centred(data, data.starts("train")):
            gram += x.T @ x
            moments += x.T @ np.nan_to_num(y)
            for step in np.flatnonzero(np.isnan(y).any(0)):
                rows = x[np.isnan(y[:, step])]
                missed[step] = missed.get(step, 0) + rows.T @ rows
        penalty = np.eye(size)
        penalty[-1, -1] = 0  # The intercept is free.

        def solve(gram, moments, ridge):
            strength = np.trace(gram[:-1, :-1]) / data.length
            return np.linalg.solve(gram + ridge * strength * penalty, moments)

        candidates = []
        for ridge in RIDGES:
            w = solve(gram, moments, ridge)
            for step, excess in missed.items():
                w[:, step] = solve(gram - excess, moments[:, step], ridge)
            validation = _centred(data, data.starts("validation"))
            error = sum(float(np.nansum(np.square(x @ w - y))) for x, y in validation)
            candidates.append((error, ridge, w))
        _, self.ridge, self.coefficients = min(candidates, key=lambda candidate: candidate[0])

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Forecast `(n, horizon, variables)` from windows `(n, length, variables)`."""
        means = windows.mean(1, keepdims=True)
        x = (windows - means).transpose(0, 2, 1)  # (n, variables, length)
        y = x @ self.coefficients[:-1] + self.coefficients[-1]
        return y.transpose(0, 2, 1) + means


_fitted = functools.lru_cache(maxsize=1)(LinearMap)


def linear_map(data: SeriesData) -> LinearMap:
    """The `LinearMap` of some data, fitted once and cached.

    Args:
        data: A `SeriesData`.

    Returns:
        A `LinearMap`.

    Example:

    >>> data = bigmodels.data.load_series("sunspots", length=8, horizon=2)
    >>> linear_map(data) is linear_map(data)
    True
    """
    return _fitted(data)


def _centred(data, starts):
    """Batches of windows and targets minus the window's mean, one row per variable."""
    for begin in range(0, len(starts), _AT_ONCE):
        x, y = data.windows(starts[begin : begin + _AT_ONCE])
        means = x.mean(1, keepdims=True)
        x, y = (np.moveaxis(values - means, 2, 1) for values in (x, y))
        x, y = x.reshape(-1, data.length), y.reshape(-1, data.horizon)
        yield np.concatenate([x, np.ones((len(x), 1))], 1), y


def naive_error(values: np.ndarray, season: int) -> np.ndarray:
    """The denominator of MASE: the seasonal naive forecast's mean absolute error in one step.

    See Hyndman and Koehler (2006).

    Args:
        values: Training data `(rows, variables)`, NaN where a value is missing.
        season: Length of a season in rows.

    Returns:
        `(variables,)`: above zero, and NaN where no two values lie a season apart.

    Example:

    >>> naive_error(np.array([[0.0], [2.0], [3.0]]), season=1)
    array([1.5])
    """
    errors = np.abs(values[season:] - values[:-season])
    counts = np.isfinite(errors).sum(0)
    means = np.where(counts > 0, np.nansum(errors, 0) / np.maximum(counts, 1), np.nan)
    return np.maximum(means, np.finfo("float32").tiny)


@dataclasses.dataclass(frozen=True)
class Rating:
    """The errors of forecasts, over the targets that are not missing.

    Attributes:
        by_step: Squared errors, `(horizon,)`, means over windows and variables.
        counts: Number of targets that are not missing, `(n, variables)`.
        squared: Squared errors, `(n,)`, means over steps and variables.
        absolute: Absolute errors, `(n, variables)`, means over the steps; 0 without targets.
        held: Share of targets within the bounds, `(n,)`; `None` without bounds.
        width: Mean distance between the bounds, `(n,)`; `None` without bounds.

    Example:

    >>> rating = Rating(np.zeros(3), np.array([[3], [1]]), np.zeros(2), np.array([[1.0], [5.0]]))
    >>> rating.mean_absolute()
    array([2.])
    """

    by_step: np.ndarray
    counts: np.ndarray
    squared: np.ndarray
    absolute: np.ndarray
    held: np.ndarray | None = None
    width: np.ndarray | None = None

    def mean_absolute(self) -> np.ndarray:
        """Mean absolute error of each variable, `(variables,)`."""
        return (self.absolute * self.counts).sum(0) / self.counts.sum(0)


def rate(forecast: Callable[[np.ndarray], dict], data: SeriesData, split: str) -> Rating:
    """Compare the forecasts for every window of a split with the values that followed.

    Args:
        forecast: Function from windows `(n, length, variables)` to a dict of arrays `(n, horizon,
            variables)`: "forecast", optionally "lower" and "upper", as
            `bigmodels.models.Forecaster.bounds` returns them.
        data: A `SeriesData`.
        split: "train", "validation" or "test".

    Returns:
        A `Rating`, in the units of `data.values`.

    Example:

    >>> data = bigmodels.data.load_series("sunspots", length=8, horizon=2)
    >>> rating = rate(lambda x: {"forecast": last_value(x, 2)}, data, "test")
    >>> rating.by_step.shape, rating.squared.shape == (data.sizes["test"],)
    ((2,), True)
    """
    starts = data.starts(split)
    rows, by_step, measured = [], np.zeros(data.horizon), np.zeros(data.horizon, int)
    for begin in range(0, len(starts), _AT_ONCE):
        x, y = data.windows(starts[begin : begin + _AT_ONCE])
        predicted = {name: np.asarray(values) for name, values in forecast(x).items()}
        known = np.isfinite(y)
        error = np.where(known, predicted["forecast"] - y, 0)
        by_step += np.square(error).sum((0, 2))
        measured += known.sum((0, 2))
        counts = known.sum(1)  # (n, variables)
        totals = counts.sum(1)
        row = [
            counts,
            np.square(error).sum((1, 2)) / totals,
            np.abs(error).sum(1) / np.maximum(counts, 1),
        ]
        if "lower" in predicted:
            lower, upper = predicted["lower"], predicted["upper"]
            within = (lower <= y) & (y <= upper)
            row += [within.sum((1, 2)) / totals, (upper - lower).mean((1, 2))]
        rows.append(row)
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Rating(by_step / measured, *columns)


def baselines(data: SeriesData) -> dict[str, Callable[[np.ndarray], dict]]:
    """The baseline forecasts by name.

    Args:
        data: A `SeriesData`; the linear map is fitted to its training windows.

    Returns:
        `{name: function}` for `rate`: `last_value`, `linear`, and `seasonal_naive` if a window
        contains a whole season.

    Example:

    >>> data = bigmodels.data.load_series("sunspots", length=11, horizon=2)
    >>> list(baselines(data))
    ['last_value', 'seasonal_naive', 'linear']
    """
    linear = linear_map(data)
    forecasts = {"last_value": lambda x: {"forecast": last_value(x, data.horizon)}}
    if 1 < data.season <= data.length:
        forecasts["seasonal_naive"] = lambda x: {
            "forecast": seasonal_naive(x, data.horizon, data.season)
        }
    return forecasts | {"linear": lambda x: {"forecast": linear(x)}}
