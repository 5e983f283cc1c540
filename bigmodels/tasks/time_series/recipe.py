"""Multi-step forecasts of time series with the LSTM (article 3.2).

    bigmodels train --task=time_series --seed=1 --workdir=runs/co2

A mean squared error of 0.0035 over the next 52 weeks of co2 (linear baseline: 0.0039), after
2.3 min beside much other work, on two cores of an AMD EPYC. More in notebooks/guide/results.md.

    bigmodels train --task=time_series --dataset=csv:ETTh1.csv --workdir=runs/etth1 \\
        --set data.length=336 --set data.horizon=96 --set data.split=8640,2880,2880
    bigmodels predict --workdir=runs/etth1 --input=ETTh1.csv
"""

import dataclasses

import keras

from bigmodels.data import load_series
from bigmodels.data.readers.csv_series import DECIMALS
from bigmodels.data.series import FILLS, check_split
from bigmodels.evaluation import forecasts
from bigmodels.fields import check_positive, check_share, setting
from bigmodels.models import Forecaster
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, Optimizer
from bigmodels.tasks.time_series import evaluation
from bigmodels.tasks.time_series.inference import ForecastPredictor

# Default number of segments of a window.
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


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Forecaster`."""

    rnn_units: int = setting(128, "Units of the LSTM, an even number.", check=_check_even)
    segment: int | None = setting(
        None,
        "Number of rows that the LSTM reads or forecasts in one step; by default a sixteenth of a "
        "window.",
        check=check_positive,
    )
    dropout_rate: float = setting(0.3, "Fraction of the LSTM's outputs to drop.", check=check_share)
    linear_path: bool = setting(
        True, "Whether to add a linear map of the window, so that the LSTM learns a correction."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_series`, and the coverage of the bounds."""

    length: int | None = setting(
        None,
        "Length of a window in rows; by default four seasons, or 32 without a season.",
        check=check_positive,
    )
    horizon: int | None = setting(
        None,
        "Number of rows to forecast; by default a season, or 8 without a season.",
        check=check_positive,
    )
    split: tuple[float, ...] = setting(
        (0.7, 0.1, 0.2),
        "TRAINING,VALIDATION,TEST, in the order of time: fractions of the rows, or numbers of "
        "rows.",
        check=check_split,
    )
    season: int | None = setting(
        None,
        "Length of a season (period) in rows; by default derived from the time step.",
        check=check_positive,
    )
    fill: str = setting(
        "none",
        "What to do with missing values: none is an error, linear interpolates, previous repeats "
        "the value before.",
        choices=FILLS,
    )
    time: str = setting(
        "", "Column of the times, or DATE,TIME for two columns; empty: detected automatically."
    )
    targets: tuple[str, ...] = setting((), "Columns to forecast; empty: all but the times.")
    time_format: str = setting(
        "", "Format of the times, as for datetime.strptime; empty: ISO 8601."
    )
    missing: tuple[str, ...] = setting(
        (), "Additional numbers or words that stand for missing values."
    )
    decimal: str = setting("auto", "Decimal separator; auto detects it.", choices=DECIMALS)
    encoding: str = setting("", "Encoding of the file, as Python names it; empty: UTF-8.")
    coverage: float = setting(
        0.9,
        "Nominal coverage of the forecast intervals: the fraction of the values between the "
        "bounds.",
        check=_check_coverage,
    )


@dataclasses.dataclass(frozen=True)
class TimeSeries(Config):
    """Settings of time series forecasting."""

    dataset: str = "co2"
    epochs: int = 20
    loss: str = setting(
        "mae", "Training loss: mean absolute, mean squared or Huber.", choices=tuple(_LOSSES)
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)


def load_data(config):
    """Load standardised windows and targets."""
    settings = dataclasses.asdict(config.data)
    del settings["coverage"]
    return load_series(config.dataset, config.batch_size, seed=config.seed, **settings)


def build_model(config, data):
    """Build a forecaster, with the names and statistics of the variables.

    Its linear map is initialised with that of `forecasts.LinearMap`.
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
        # The least squares solution, so that only the LSTM's correction is left to learn.
        model.linear.kernel.assign(forecasts.linear_map(data).coefficients[:-1])
    return model


def compile_model(model, config, steps):
    """Compile with the chosen loss, and mean squared and absolute error."""
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
    """Fit the bounds of the forecasts to the errors on validation data."""
    model.calibrate(data.validation)


def search_space(hp):
    """Search the size of the LSTM, the regularization and the learning rate."""
    hp.Choice("batch_size", [32, 64, 128])
    hp.Choice("model.rnn_units", [32, 64, 128, 256])
    hp.Float("model.dropout_rate", 0.0, 0.6, step=0.1)
    hp.Float("optimizer.learning_rate", 1e-4, 5e-3, sampling="log")


def settled(model, data, config):
    """Lengths derived from the time step of the series."""
    return {
        "data.length": data.length,
        "data.horizon": data.horizon,
        "data.season": data.season,
        "model.segment": model.segment,
    }


TASK = Task(
    name="time_series",
    summary="forecast time series (LSTM)",
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
