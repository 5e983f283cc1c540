"""Forecasts of series of measurements, several steps at once, with the LSTM (article 3.2).

    bigmodels-train --task=time_series --workdir=runs/co2
    bigmodels-train --task=time_series --dataset=csv:ETTh1.csv --workdir=runs/etth1 \\
        --set data.length=336 --set data.horizon=96 --set data.split=8640,2880,2880
    bigmodels-predict --workdir=runs/etth1 --input=ETTh1.csv

Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from bigmodels.data import load_series
from bigmodels.data.readers.csv_series import DECIMALS
from bigmodels.data.series import FILLS, last_window
from bigmodels.evaluation import forecasts, intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.models import Forecaster
from bigmodels.reports import plots
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_choice,
    check_positive,
    check_share,
    check_sizes,
)

# Without a segment of the user's, the window is read in so many.
_SEGMENTS = 16
_LOSSES = {
    "mae": keras.losses.MeanAbsoluteError,
    "mse": keras.losses.MeanSquaredError,
    "huber": keras.losses.Huber,
}
# As many as can be told apart in one picture.
_DRAWN_WINDOWS, _DRAWN_VARIABLES = 3, 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Forecaster`; without a `segment`, a window has 16 of them."""

    rnn_units: int = 128
    segment: int | None = None
    dropout_rate: float = 0.3
    linear_path: bool = True

    def __post_init__(self):
        check_sizes(self, "rnn_units")
        if self.rnn_units % 2:
            raise ValueError(f"model.rnn_units: {self.rnn_units}, expected an even number")
        if self.segment is not None:
            check_positive("model.segment", self.segment)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_series`.

    `coverage` is the share of what comes that the bounds of a forecast are to hold.
    """

    length: int | None = None
    horizon: int | None = None
    split: tuple[float, ...] = (0.7, 0.1, 0.2)
    season: int | None = None
    fill: str = "none"
    time: str = ""
    targets: tuple[str, ...] = ()
    time_format: str = ""
    missing: tuple[str, ...] = ()
    decimal: str = "auto"
    encoding: str = ""
    coverage: float = 0.9

    def __post_init__(self):
        for name in ("length", "horizon", "season"):
            if getattr(self, name) is not None:
                check_positive(f"data.{name}", getattr(self, name))
        check_choice("data.fill", self.fill, FILLS)
        check_choice("data.decimal", self.decimal, DECIMALS)
        check_positive("data.coverage", self.coverage)
        check_share("data.coverage", self.coverage)
        shares = all(0 < part < 1 for part in self.split) and sum(self.split) <= 1 + 1e-9
        counts = all(1 <= part < 2**31 and part % 1 == 0 for part in self.split)
        if len(self.split) != 3 or not (shares or counts):
            raise ValueError(
                f"data.split: {self.split}, expected TRAINING,VALIDATION,TEST as shares of the "
                "rows, at most 1 together, or as numbers of rows"
            )


@dataclasses.dataclass(frozen=True)
class TimeSeries(Config):
    """The recipe. `loss` is what is trained: `mae`, `mse` or `huber`."""

    dataset: str = "co2"
    epochs: int = 20
    loss: str = "mae"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss", self.loss, tuple(_LOSSES))


def load_data(config):
    """Standardised windows and what follows them."""
    settings = dataclasses.asdict(config.data)
    del settings["coverage"]
    return load_series(config.dataset, config.batch_size, seed=config.seed, **settings)


def build_model(config, data):
    """A built forecaster that carries names and statistics of the training rows.

    Its linear map begins as that of `forecasts.LinearMap`.
    """
    settings = dataclasses.asdict(config.model)
    segment = settings.pop("segment") or max(1, data.length // _SEGMENTS)
    if segment > data.length:
        raise ValueError(f"model.segment: {segment}, but a window has data.length={data.length}")
    model = Forecaster(
        data.variables,
        data.length,
        data.horizon,
        segment=segment,
        means=data.means,
        scales=data.scales,
        spacing=data.timeline.spacing(),
        coverage=config.data.coverage,
        **settings,
    )
    model.build(model.default_input_shape)
    if model.linear_path:
        # Where least squares end: what is left to learn is the LSTM's correction.
        model.linear.kernel.assign(forecasts.linear_map(data).coefficients[:-1])
    return model


def compile_model(model, config, steps):
    """The loss that was asked for; squared and absolute error."""
    model.compile(
        config.optimizer.build(steps),
        _LOSSES[config.loss](),
        weighted_metrics=[
            keras.metrics.MeanSquaredError(name="mse"),
            keras.metrics.MeanAbsoluteError(name="mae"),
        ],
        jit_compile=config.keras_jit_compile,
    )


def calibrate(model, data, config):
    """Bounds of the forecasts, from the errors in validation."""
    model.calibrate(data.validation)


def search_space(hp):
    """The LSTM's width, how fast it learns, and what keeps it from overfitting."""
    return {
        "batch_size": hp.Choice("batch_size", [32, 64, 128]),
        "model.rnn_units": hp.Choice("model.rnn_units", [32, 64, 128, 256]),
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.6, step=0.1),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 1e-4, 5e-3, sampling="log"),
    }


def measure(model, data, config, measured):
    """Errors beside those of the baselines, and what the bounds held.

    Returns:
        Under "test", for the model and, with `_last_value`, `_seasonal_naive` or `_linear` behind
        their names, for the baselines: `mse` and `mae`, standardised; `mase`, absolute error over
        that of the seasonal naive forecast of one step in training, where two measured values lie
        a season apart. For the model also `coverage`,
        the share of values within the bounds, `nominal_coverage`, what it was to be, and
        `interval_width`, between the bounds, standardised; and `mse_less_linear`, by how much its
        `mse` is above that of the linear map. `mse` and `mae` of the baselines under "validation"
        as well. And of the model, as "", and of each baseline the test split's
        `bigmodels.evaluation.forecasts.Rating`.

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

    more = {"test": {"nominal_coverage": model.coverage}, "validation": {}}
    baselines = forecasts.baselines(data)
    each = {"": lambda x: bounds(tf.constant(x, "float32"))} | baselines
    rated = {name: forecasts.rate(forecast, data, "test") for name, forecast in each.items()}
    for name, rating in rated.items():
        found = {
            "mse": rating.squared,
            "mae": (rating.absolute * rating.counts).sum(1) / rating.counts.sum(1),
        }
        if np.isfinite(naive).all():
            errors = rating.absolute / naive
            found["mase"] = (errors * rating.counts).sum(1) / rating.counts.sum(1)
        if rating.held is not None:
            found |= {"coverage": rating.held, "interval_width": rating.width}
        mark = f"_{name}" if name else ""
        more["test"] |= {
            f"{what}{mark}": _blocks(each, rating.counts.sum(1), data)
            for what, each in found.items()
        }
    # Window by window, so that what makes some hard for both falls out of the interval.
    less = rated[""].squared - rated["linear"].squared
    more["test"]["mse_less_linear"] = _blocks(less, rated[""].counts.sum(1), data)
    for name, forecast in baselines.items():
        rating = forecasts.rate(forecast, data, "validation")
        more["validation"] |= {
            f"mse_{name}": np.average(rating.squared, weights=rating.counts.sum(1)),
            f"mae_{name}": np.average(rating.absolute, weights=rating.counts),
        }
    return more, rated


def _blocks(values, weights, data):
    """Observations of the test windows, those that begin within one horizon together.

    Args:
        values: Of each window, `(n,)`.
        weights: How many targets each was measured on, `(n,)`.
        data: A `SeriesData`.
    """
    starts = data.starts("test")
    _, firsts = np.unique((starts - starts[0]) // data.horizon, return_index=True)
    sizes = np.add.reduceat(weights, firsts)
    means = np.add.reduceat(values * weights, firsts) / sizes
    rows = data.values.round(3)
    keys = intervals.keys(
        rows[each[0] : each[-1] + data.horizon] for each in np.split(starts, firsts[1:])
    )
    return Observations(means, f"blocks of {data.horizon:,} windows", sizes, keys)


def examples(data):
    """The series in its own units, and how it is divided."""
    values = data.values * data.scales + data.means
    times = [data.timeline.at(i) for i in range(len(values))]
    return {"The series": plots.series(times, values, data.variables, data.borders)}


def _forecast_figure(model, data, starts):
    """Windows, what followed, and what was forecast, in the units of the series."""
    windows, targets = (each * data.scales + data.means for each in data.windows(starts))
    found = model.forecast(windows)
    shown = min(data.length, 2 * data.horizon)
    panels = [
        {
            "title": str(data.timeline.text(int(start))),
            "before": windows[i, -shown:],
            "after": targets[i],
            **{name: each[i] for name, each in found.items()},
        }
        for i, start in enumerate(starts)
    ]
    return plots.forecasts(panels, data.variables[:_DRAWN_VARIABLES], model.coverage)


def sample(model, data, config):
    """The first validation window."""
    return _forecast_figure(model, data, data.starts("validation")[:1])


def draw(model, data, config, found):
    """Forecasts of test windows, errors by step and by variable."""
    starts = data.starts("test")
    chosen = starts[np.linspace(0, len(starts) - 1, min(_DRAWN_WINDOWS, len(starts))).astype(int)]
    steps = list(range(1, data.horizon + 1))
    curves = {name or "LSTM": (steps, r.by_step) for name, r in found.items()}
    names = [name or "LSTM" for name in found]
    lines = [f"{'':24}" + "".join(f"{name:>16}" for name in names)]
    for i, variable in enumerate(data.variables):
        errors = [rating.mean_absolute()[i] * data.scales[i] for rating in found.values()]
        lines.append(f"{variable[:24]:24}" + "".join(f"{error:16.4g}" for error in errors))
    return {
        "Forecasts (test)": _forecast_figure(model, data, chosen),
        "Error by step (test)": plots.overlaid(
            {name.replace("_", " "): curve for name, curve in curves.items()},
            "Squared error, standardised",
            "steps ahead",
            "mean squared error",
        ),
        "Mean absolute error of each variable in its own unit (test)": "\n".join(lines),
    }


def settled(model, data, config):
    """What follows from the step between the rows."""
    return {
        "data.length": data.length,
        "data.horizon": data.horizon,
        "data.season": data.season,
        "model.segment": model.segment,
    }


def describe(data):
    """The data in a few lines."""
    line, (_, end) = data.timeline, data.borders["test"]
    imputed = sum(data.imputed.values())
    lines = {
        "rows": f"{len(data.values):,}, {line.text(0)} to {line.text(len(data.values) - 1)}, "
        f"{end:,} of them used",
        "step": line.spacing(),
        "variables": ", ".join(data.variables),
        "split by time": ", ".join(f"{split} {b - a:,}" for split, (a, b) in data.borders.items()),
        "windows": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "window, horizon, season": f"{data.length}, {data.horizon}, {data.season} rows",
    }
    if imputed:
        each = ", ".join(f"{count:,} {split}" for split, count in data.imputed.items())
        lines["missing values, never a target"] = each
    return lines


def predict(model, config, input=None):
    """What comes after the last row of a file.

    Args:
        model: A trained forecaster.
        config: Its config, whose `data` says how the file is read.
        input: A CSV file with the model's variables and step.

    Yields:
        `{"time": ..., "variable": ..., "value": ..., "lower": ..., "upper": ...}`.

    Raises:
        ValueError: naming the file, and the line, that does not fit.
    """
    if not input:
        raise ValueError("input: give a CSV file to go on from")
    names = ("fill", "time", "time_format", "missing", "decimal", "encoding")
    options = {name: getattr(config.data, name) for name in names}
    window, line, first = last_window(input, model.columns, model.length, model.spacing, **options)
    found = model.forecast(window[None])
    for step in range(model.horizon):
        for column, variable in enumerate(model.columns):
            numbers = {name: float(each[0, step, column]) for name, each in found.items()}
            yield {
                "time": line.text(first + step),
                "variable": variable,
                "value": numbers["forecast"],
                "lower": numbers["lower"],
                "upper": numbers["upper"],
            }


def serving(model, config):
    """Windows as they were measured in, forecasts and their bounds out, as from `predict`."""

    def forecast(windows):
        return model.forecast(windows)

    shape = (model.length, len(model.columns))
    windows = np.random.default_rng(0).normal(size=(1, *shape)) * model.scales + model.means
    signature = Signature(
        forecast,
        (tf.TensorSpec((None, *shape), "float32"),),
        (windows.astype("float32"),),
        portable=True,
        fixed_in_litert=True,
    )
    return {"forecast": signature}, {
        "variables": list(model.columns),
        "step": model.spacing,
        "coverage": model.coverage,
    }


TASK = Task(
    name="time_series",
    summary="what comes next in series of measurements (LSTM)",
    unit="windows",
    config=TimeSeries,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    calibrate=calibrate,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    settled=settled,
    predict=predict,
    predict_flags=("--input=FILE.csv",),
    serving=serving,
    examples=examples,
    metrics={
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
    },
)
