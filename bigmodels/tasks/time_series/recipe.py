"""Forecasts of series of measurements, several steps at once, with the LSTM (article 3.2).

    bigmodels train --task=time_series --seed=1 --workdir=runs/co2

A mean squared error of 0.0035 over the next 52 weeks of co2, where the linear map has 0.0039, in
2.3 min beside much other work, on two cores of an AMD EPYC. More in notebooks/guide/results.md.

    bigmodels train --task=time_series --dataset=csv:ETTh1.csv --workdir=runs/etth1 \\
        --set data.length=336 --set data.horizon=96 --set data.split=8640,2880,2880
    bigmodels predict --workdir=runs/etth1 --input=ETTh1.csv
"""

import dataclasses

import keras

from bigmodels.data import load_series
from bigmodels.data.readers.csv_series import DECIMALS
from bigmodels.data.series import FILLS
from bigmodels.evaluation import forecasts
from bigmodels.models import Forecaster
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, Optimizer, check_positive, check_share, setting
from bigmodels.tasks.time_series import evaluation
from bigmodels.tasks.time_series.inference import ForecastPredictor

# Without a segment of the user's, the window is read in so many.
_SEGMENTS = 16
_LOSSES = {
    "mae": keras.losses.MeanAbsoluteError,
    "mse": keras.losses.MeanSquaredError,
    "huber": keras.losses.Huber,
}


def _check_even(name, value):
    check_positive(name, value)
    if value % 2:
        raise ValueError(f"{name}: {value}, expected an even number")


def _check_coverage(name, value):
    check_positive(name, value)
    check_share(name, value)


def _check_split(name, value):
    shares = all(0 < part < 1 for part in value) and sum(value) <= 1 + 1e-9
    counts = all(1 <= part < 2**31 and part % 1 == 0 for part in value)
    if len(value) != 3 or not (shares or counts):
        raise ValueError(
            f"{name}: {value}, expected TRAINING,VALIDATION,TEST as shares of the rows, at most 1 "
            "together, or as numbers of rows"
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Forecaster`."""

    rnn_units: int = setting(128, "Width of the LSTM, an even number.", check=_check_even)
    segment: int | None = setting(
        None,
        "Rows read, and written, at once; by default a 16th of a window.",
        check=check_positive,
    )
    dropout_rate: float = setting(
        0.3, "Share of units dropped before they are written out.", check=check_share
    )
    linear_path: bool = setting(True, "Whether there is a linear map for the LSTM to correct.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_series`, and what bounds are to hold."""

    length: int | None = setting(
        None, "Rows of a window; by default four seasons, 32 without one.", check=check_positive
    )
    horizon: int | None = setting(
        None, "Rows to forecast; by default a season, 8 without one.", check=check_positive
    )
    split: tuple[float, ...] = setting(
        (0.7, 0.1, 0.2),
        "TRAINING,VALIDATION,TEST, in the order of time: shares of the rows, or numbers of rows.",
        check=_check_split,
    )
    season: int | None = setting(
        None, "Rows after which things repeat; by default the step decides.", check=check_positive
    )
    fill: str = setting(
        "none",
        "What becomes of a missing value: an error, a line between neighbors, or the one before.",
        choices=FILLS,
    )
    time: str = setting("", "Column of the times, or two as DATE,CLOCK; empty finds it.")
    targets: tuple[str, ...] = setting((), "Columns to forecast; empty takes all the others.")
    time_format: str = setting(
        "", "How dates are written, for datetime.strptime; empty is ISO 8601."
    )
    missing: tuple[str, ...] = setting((), "Numbers or words that stand for missing values too.")
    decimal: str = setting(
        "auto", "The decimal mark; with auto the numbers decide.", choices=DECIMALS
    )
    encoding: str = setting("", "The file's, as Python names it; empty is UTF-8.")
    coverage: float = setting(
        0.9, "The share of what comes that a forecast's bounds are to hold.", check=_check_coverage
    )


@dataclasses.dataclass(frozen=True)
class TimeSeries(Config):
    """The recipe."""

    dataset: str = "co2"
    epochs: int = 20
    loss: str = setting("mae", "What is trained.", choices=tuple(_LOSSES))
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)


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
    hp.Choice("batch_size", [32, 64, 128])
    hp.Choice("model.rnn_units", [32, 64, 128, 256])
    hp.Float("model.dropout_rate", 0.0, 0.6, step=0.1)
    hp.Float("optimizer.learning_rate", 1e-4, 5e-3, sampling="log")


def settled(model, data, config):
    """What follows from the step between the rows."""
    return {
        "data.length": data.length,
        "data.horizon": data.horizon,
        "data.season": data.season,
        "model.segment": model.segment,
    }


TASK = Task(
    name="time_series",
    summary="what comes next in series of measurements (LSTM)",
    unit="windows",
    config=TimeSeries,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=ForecastPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    calibrate=calibrate,
    settled=settled,
    metrics=evaluation.METRICS,
    predict_flags=("--input=FILE.csv",),
)
