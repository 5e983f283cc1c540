"""Forecasts that need no network: what a trained one is held against."""

import dataclasses
import functools

import numpy as np

# Of the linear map, in parts of the inputs' mean square.
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
_AT_ONCE = 256


def last_value(windows, horizon):
    """The last value again and again.

    Args:
        windows: `(n, length, variables)`.
        horizon: How often.

    Returns:
        `(n, horizon, variables)`.
    """
    return np.repeat(windows[:, -1:], horizon, axis=1)


def seasonal_naive(windows, horizon, season):
    """The last season again and again.

    Args:
        windows: `(n, length, variables)`, of a season at least.
        horizon: Rows to forecast.
        season: Rows of a season.

    Returns:
        `(n, horizon, variables)`.
    """
    return windows[:, np.arange(horizon) % season - season]


class LinearMap:
    """The best linear map from windows to what follows, one for all variables.

    Each window is taken less its mean, which is added again, as NLinear and RLinear do (Zeng et
    al., 2023; Li et al., 2023). These are trained step by step; least squares with a ridge, solved
    at once, is the minimum that they head for (Toner and Darlow, 2024). The ridge is the one of
    `RIDGES` with the least squared error in validation. Targets that were not measured do not
    count.

    Args:
        data: A `SeriesData`.

    Attributes:
        ridge: The ridge taken.
        coefficients: float64 `(length + 1, horizon)`, the intercept last.
    """

    def __init__(self, data):
        self.horizon = data.horizon
        size = data.length + 1
        gram, moments = np.zeros((size, size)), np.zeros((size, data.horizon))
        missed = {}  # Of the steps that some targets lack: what they would have added to `gram`.
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

        found = []
        for ridge in RIDGES:
            w = solve(gram, moments, ridge)
            for step, less in missed.items():
                w[:, step] = solve(gram - less, moments[:, step], ridge)
            validation = _centred(data, data.starts("validation"))
            error = sum(float(np.nansum(np.square(x @ w - y))) for x, y in validation)
            found.append((error, ridge, w))
        _, self.ridge, self.coefficients = min(found, key=lambda each: each[0])

    def __call__(self, windows):
        """Forecasts `(n, horizon, variables)` for `(n, length, variables)`."""
        means = windows.mean(1, keepdims=True)
        x = (windows - means).transpose(0, 2, 1)  # (n, variables, length)
        y = x @ self.coefficients[:-1] + self.coefficients[-1]
        return y.transpose(0, 2, 1) + means


@functools.lru_cache(maxsize=1)
def linear_map(data):
    """The `LinearMap` of a `SeriesData`, solved once."""
    return LinearMap(data)


def _centred(data, starts):
    """Windows and targets less the window's mean, some at a time, a row for each variable."""
    for begin in range(0, len(starts), _AT_ONCE):
        x, y = data.windows(starts[begin : begin + _AT_ONCE])
        means = x.mean(1, keepdims=True)
        x, y = (np.moveaxis(each - means, 2, 1) for each in (x, y))
        x, y = x.reshape(-1, data.length), y.reshape(-1, data.horizon)
        yield np.concatenate([x, np.ones((len(x), 1))], 1), y


def naive_error(values, season):
    """What MASE divides by: mean absolute error of the seasonal naive forecast of one step.

    Args:
        values: `(rows, variables)`, of training (Hyndman and Koehler, 2006); NaN where nothing was
            measured.
        season: Rows of a season.

    Returns:
        `(variables,)`; never quite zero, and NaN where no two values lie a season apart.
    """
    errors = np.abs(values[season:] - values[:-season])
    counts = np.isfinite(errors).sum(0)
    means = np.where(counts > 0, np.nansum(errors, 0) / np.maximum(counts, 1), np.nan)
    return np.maximum(means, np.finfo("float32").tiny)


@dataclasses.dataclass(frozen=True)
class Rating:
    """What became of forecasts, over the targets that were measured.

    Attributes:
        by_step: Squared errors, `(horizon,)`, means over windows and variables.
        counts: How many targets were measured, `(n, variables)`.
        squared: Squared errors, `(n,)`, means over steps and variables.
        absolute: Absolute errors, `(n, variables)`, means over the steps; 0 where no target was
            measured.
        held: The share that lay within the bounds, `(n,)`; `None` where there are none.
        width: The mean distance between the bounds, `(n,)`, likewise.
    """

    by_step: np.ndarray
    counts: np.ndarray
    squared: np.ndarray
    absolute: np.ndarray
    held: np.ndarray | None = None
    width: np.ndarray | None = None

    def mean_absolute(self):
        """Mean absolute error of each variable, `(variables,)`."""
        return (self.absolute * self.counts).sum(0) / self.counts.sum(0)


def rate(forecast, data, split):
    """Hold forecasts of every window of a split against what followed.

    Args:
        forecast: Function from windows `(n, length, variables)` to `{"forecast": ...}`, and
            perhaps "lower" and "upper", as `bigmodels.models.Forecaster.bounds`.
        data: A `SeriesData`.
        split: "train", "validation" or "test".

    Returns:
        A `Rating`, in the units of `data.values`.
    """
    starts = data.starts(split)
    rows, by_step, measured = [], np.zeros(data.horizon), np.zeros(data.horizon, int)
    for begin in range(0, len(starts), _AT_ONCE):
        x, y = data.windows(starts[begin : begin + _AT_ONCE])
        found = {name: np.asarray(each) for name, each in forecast(x).items()}
        known = np.isfinite(y)
        error = np.where(known, found["forecast"] - y, 0)
        by_step += np.square(error).sum((0, 2))
        measured += known.sum((0, 2))
        counts = known.sum(1)  # (n, variables)
        each = counts.sum(1)
        row = [
            counts,
            np.square(error).sum((1, 2)) / each,
            np.abs(error).sum(1) / np.maximum(counts, 1),
        ]
        if "lower" in found:
            within = (found["lower"] <= y) & (y <= found["upper"])
            row += [within.sum((1, 2)) / each, (found["upper"] - found["lower"]).mean((1, 2))]
        rows.append(row)
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Rating(by_step / measured, *columns)


def baselines(data):
    """The forecasts that need no network, by name.

    Args:
        data: A `SeriesData`; the linear map is fitted to its training windows.

    Returns:
        `{name: function}` as for `rate`; the seasonal one only where a window holds a season.
    """
    linear = linear_map(data)
    found = {"last_value": lambda x: {"forecast": last_value(x, data.horizon)}}
    if 1 < data.season <= data.length:
        found["seasonal_naive"] = lambda x: {
            "forecast": seasonal_naive(x, data.horizon, data.season)
        }
    return found | {"linear": lambda x: {"forecast": linear(x)}}
