"""Evaluation and report of forecasts."""

import numpy as np
import tensorflow as tf

from bigmodels.evaluation import forecasts, intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "mse": Metric("", "min"),
    "mse_linear": Metric("", "min"),
    "mse_less_linear": Metric("", "min"),
    "mse_seasonal_naive": Metric("", "min"),
    "mse_last_value": Metric("", "min"),
    "mae": Metric("", "min"),
    "mase": Metric("", "min"),
    "coverage": Metric("%"),
    "nominal_coverage": Metric("%"),
    "interval_width": Metric("", "min"),
    "loss": Metric("", "min"),
}
# As many as one figure can show clearly.
_DRAWN_WINDOWS, _DRAWN_VARIABLES = 3, 4


def evaluate(model, data, config, measured):
    """Errors of the model and of baselines, and the coverage of the bounds.

    Under "test", for the model, and with the suffix `_last_value`, `_seasonal_naive` or `_linear`
    for the baselines: `mse` and `mae`, standardised; and `mase`, the absolute error divided by that
    of the one-step seasonal naive forecast on training data, if that is defined. For the model also
    `coverage`, the fraction of the values within the bounds; `nominal_coverage`;
    `interval_width`, the standardised distance of the bounds; and `mse_less_linear`, its `mse`
    minus that of the linear map. Under "validation" also `mse` and `mae` of the baselines.

    Raises:
        ValueError: if the model was trained for other variables.
    """
    if model.columns != data.variables:
        raise ValueError(
            f"dataset: {config.dataset!r} has the variables {', '.join(data.variables)}, but the "
            f"run was trained for {', '.join(model.columns)}"
        )
    begin, end = data.borders["train"]
    naive = forecasts.naive_error(data.values[begin:end], min(data.season, end - begin - 1))

    @tf.function(input_signature=[tf.TensorSpec(model.default_input_shape)])
    def bounds(windows):
        return model.bounds(windows)

    baselines = forecasts.baselines(data)
    # The model's name is empty, as its metrics have no suffix.
    methods = {"": lambda x: bounds(tf.constant(x, "float32"))} | baselines
    ratings = {name: forecasts.rate(method, data, "test") for name, method in methods.items()}
    test = {"nominal_coverage": model.coverage}
    for name, rating in ratings.items():
        suffix = f"_{name}" if name else ""
        test |= {
            f"{metric}{suffix}": _blocks(values, rating, data)
            for metric, values in _of_windows(rating, naive).items()
        }
    # Paired by window, which removes the variation between easy and hard windows.
    difference = ratings[""].squared - ratings["linear"].squared
    test["mse_less_linear"] = _blocks(difference, ratings[""], data)
    validation = {}
    for name, baseline in baselines.items():
        rating = forecasts.rate(baseline, data, "validation")
        validation |= {
            f"mse_{name}": np.average(rating.squared, weights=rating.counts.sum(1)),
            f"mae_{name}": np.average(rating.absolute, weights=rating.counts),
        }
    return Evaluation(
        {"test": test, "validation": validation}, lambda: _figures(model, data, ratings)
    )


def _of_windows(rating, naive):
    """Metrics of each window, `{metric: (n,)}`."""

    def mean(errors):
        return (errors * rating.counts).sum(1) / rating.counts.sum(1)

    metrics = {"mse": rating.squared, "mae": mean(rating.absolute)}
    if np.isfinite(naive).all():
        metrics["mase"] = mean(rating.absolute / naive)
    if rating.held is not None:
        metrics |= {"coverage": rating.held, "interval_width": rating.width}
    return metrics


def _blocks(values, rating, data):
    """Observations of blocks of overlapping test windows, which begin within one horizon.

    Args:
        values: A metric of each window, `(n,)`.
        rating: The `Rating` of the windows, with their numbers of targets.
        data: A `SeriesData`.
    """
    weights, starts = rating.counts.sum(1), data.starts("test")
    _, firsts = np.unique((starts - starts[0]) // data.horizon, return_index=True)
    sizes = np.add.reduceat(weights, firsts)
    means = np.add.reduceat(values * weights, firsts) / sizes
    rows = data.values.round(3)
    keys = intervals.keys(
        rows[block[0] : block[-1] + data.horizon] for block in np.split(starts, firsts[1:])
    )
    return Observations(means, f"blocks of {data.horizon:,} windows", sizes, keys)


def _figures(model, data, ratings):
    """Forecasts of test windows, errors per step and per variable."""
    starts = data.starts("test")
    chosen = starts[np.linspace(0, len(starts) - 1, min(_DRAWN_WINDOWS, len(starts))).astype(int)]
    steps = list(range(1, data.horizon + 1))
    ratings = {name or "LSTM": rating for name, rating in ratings.items()}
    lines = [f"{'':24}" + "".join(f"{name:>16}" for name in ratings)]
    for i, variable in enumerate(data.variables):
        errors = [rating.mean_absolute()[i] * data.scales[i] for rating in ratings.values()]
        lines.append(f"{variable[:24]:24}" + "".join(f"{error:16.4g}" for error in errors))
    return {
        "Forecasts (test)": _forecast_figure(model, data, chosen),
        "Error per step (test)": plots.overlaid(
            {name.replace("_", " "): (steps, rating.by_step) for name, rating in ratings.items()},
            "Squared error, standardised",
            "steps ahead",
            "mean squared error",
        ),
        "Mean absolute error per variable, in its unit (test)": "\n".join(lines),
    }


def _forecast_figure(model, data, starts):
    """Plot windows, targets and forecasts, in the units of the series."""
    windows, targets = (rows * data.scales + data.means for rows in data.windows(starts))
    forecast = model.forecast(windows)
    drawn = min(data.length, 2 * data.horizon)
    panels = [
        {
            "title": str(data.timeline.text(int(start))),
            "before": windows[i, -drawn:],
            "after": targets[i],
            **{name: values[i] for name, values in forecast.items()},
        }
        for i, start in enumerate(starts)
    ]
    return plots.forecasts(panels, data.variables[:_DRAWN_VARIABLES], model.coverage)


def examples(data):
    """The series in its units, and its splits."""
    values = data.values * data.scales + data.means
    times = [data.timeline.at(i) for i in range(len(values))]
    return {"Time series": plots.series(times, values, data.variables, data.borders)}


def sample(model, data, config):
    """The forecast for the first validation window."""
    return _forecast_figure(model, data, data.starts("validation")[:1])


def describe(data):
    """Facts about the data."""
    line, (_, end) = data.timeline, data.borders["test"]
    lines = {
        "rows": f"{len(data.values):,}, {line.text(0)} to {line.text(len(data.values) - 1)}, "
        f"{end:,} of them used",
        "step": line.spacing(),
        "variables": ", ".join(data.variables),
        "split by time": ", ".join(f"{split} {b - a:,}" for split, (a, b) in data.borders.items()),
        "windows": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "window, horizon, season": f"{data.length}, {data.horizon}, {data.season} rows",
    }
    if any(data.imputed.values()):
        counts = ", ".join(f"{count:,} {split}" for split, count in data.imputed.items())
        lines["missing values (not targets)"] = counts
    return lines
