"""Settings of time series forecasting."""

import dataclasses

import keras

from bigmodels.data.readers.csv_series import DECIMALS
from bigmodels.data.series import FILLS, check_split
from bigmodels.fields import check_positive, check_share, setting
from bigmodels.tasks.settings import Config, Optimizer

LOSSES = {
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
        "mae", "Training loss: mean absolute, mean squared or Huber.", choices=tuple(LOSSES)
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)
