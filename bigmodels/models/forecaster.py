"""Time-series forecasting with an LSTM (article 3.2; equation E4), all steps at once.

The article names time series as a use of recurrent networks and prints no network for it. Here the
LSTM reads the window in segments and predicts all segments of the horizon in parallel, as in SegRNN
(Lin et al., 2023). Its output is added to a linear map of the window, as in NLinear (Zeng et al.,
2023). Inputs and outputs go through reversible instance normalisation (Kim et al., 2022).

    windows (batch, length, variables) -> forecasts (batch, horizon, variables)
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import LSTM, ReversibleNormalization


@keras.saving.register_keras_serializable(package="bigmodels")
class Forecaster(Model):
    """Forecaster of multivariate time series: a linear map plus an LSTM over segments.

    Each variable is forecast from its own window. The variables share all weights, except for an
    embedding and the normalisation's scale and shift.

    `fit` and `evaluate` also accept a `sample_weight` of `(batch, horizon, variables)`, a weight
    for each value, for example 0 for missing values.

    Args:
        columns: Names of the variables.
        length: Number of time steps in a window.
        horizon: Number of time steps to forecast.
        rnn_units: Number of LSTM units, even.
        segment: Number of time steps per step of the LSTM.
        dropout_rate: Fraction of units dropped before the output layer.
        linear_path: Whether to add the linear map.
        means: Mean of each variable, used by `forecast`; 0 when `None`.
        scales: Standard deviation of each variable, used by `forecast`; 1 when `None`.
        spacing: The time from row to row in words, stored with the model, or `None`.
        coverage: Nominal coverage of the prediction intervals of `forecast`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Attributes:
        widths: Half-widths of the prediction intervals in standard deviations of the window,
            `(horizon, variables)`; zero until `calibrate` is called.

    Call arguments:
        inputs: Windows `(batch, length, variables)`, standardised with `means` and `scales`.
        training: Whether to run in training mode (dropout).

    Returns:
        Standardised forecasts `(batch, horizon, variables)`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> model = Forecaster(columns=["load"], length=8, horizon=4, rnn_units=4, segment=2)
    >>> window = np.arange(8.0).reshape(1, 8, 1)
    >>> model(window).shape
    TensorShape([1, 4, 1])
    >>> model.forecast(window)["forecast"][0, 0]  # untrained: the window's mean
    array([3.5])
    """

    # `compute_loss` only changes shapes before it calls that of Keras.
    supports_replicas = True

    def __init__(
        self,
        columns: Sequence[str],
        length: int,
        horizon: int,
        rnn_units: int = 128,
        segment: int = 24,
        dropout_rate: float = 0.0,
        linear_path: bool = True,
        means: Sequence[float] | None = None,
        scales: Sequence[float] | None = None,
        spacing: str | None = None,
        coverage: float = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not columns:
            raise ValueError(f"columns: {columns!r}, expected at least one name")
        if length < 2 or horizon < 1:
            raise ValueError(
                f"length: {length!r}, horizon: {horizon!r}, expected at least 2 and at least 1"
            )
        if not 1 <= segment <= length:
            raise ValueError(f"segment: {segment!r}, expected 1 to length={length}")
        if rnn_units < 2 or rnn_units % 2:
            raise ValueError(f"rnn_units: {rnn_units!r}, expected an even number")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: {coverage!r}, expected a number between 0 and 1")
        for name, values in (("means", means), ("scales", scales)):
            if values is not None and len(values) != len(columns):
                raise ValueError(f"{name}: {len(values)} for {len(columns)} columns")
        self.columns = tuple(columns)
        self.length = length
        self.horizon = horizon
        self.rnn_units = rnn_units
        self.segment = segment
        self.dropout_rate = dropout_rate
        self.linear_path = linear_path
        self.means = None if means is None else tuple(means)
        self.scales = None if scales is None else tuple(scales)
        self.spacing = spacing
        self.coverage = coverage
        self.default_input_shape = (None, length, len(columns))
        self.autocast = False  # Windows are normalised before they are cast to half precision.
        self.segments = math.ceil(horizon / segment)
        dtype = self.dtype_policy
        full = dtype.variable_dtype  # Forecasts stay in full precision under a mixed policy.
        self.normalization = ReversibleNormalization(dtype=full, name="normalization")
        if linear_path:
            # Zeros, so that no random weights remain in directions without training signal.
            self.linear = layers.Dense(horizon, None, True, "zeros", dtype=full, name="linear")
        self.embedding = layers.Dense(rnn_units, activation="relu", dtype=dtype, name="embedding")
        self.rnn = LSTM(rnn_units, return_state=True, dtype=dtype, name="rnn")
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        # The LSTM's correction of the linear map starts at zero.
        initializer = "zeros" if linear_path else "glorot_uniform"
        self.dense = layers.Dense(segment, None, True, initializer, dtype=full, name="dense")

    def build(self, input_shape):
        if tuple(input_shape[1:]) != self.default_input_shape[1:]:
            raise ValueError(
                f"input_shape: {tuple(input_shape)}, expected {self.default_input_shape}"
            )
        self.normalization.build(input_shape)
        if self.linear_path:
            self.linear.build((None, self.length))
        self.embedding.build((None, self.length // self.segment, self.segment))
        self.rnn.build((None, self.length // self.segment, self.rnn_units))
        self.dropout.build((None, self.rnn_units))
        self.dense.build((None, self.rnn_units))
        half, count = self.rnn_units // 2, len(self.columns)
        # The inputs that tell the LSTM which segment of which variable to predict.
        self.places = self.add_weight(shape=(self.segments, half), name="places")
        self.kinds = self.add_weight(shape=(count, half), name="kinds")
        self.widths = self.add_weight(
            shape=(self.horizon, count), initializer="zeros", trainable=False, name="widths"
        )
        self.built = True

    def call(self, inputs, training=None):
        return self._forecast_and_deviation(inputs, training)[0]

    def _forecast_and_deviation(self, inputs, training=False):
        x, statistics = self.normalization(inputs)
        x = ops.transpose(x, (0, 2, 1))  # (batch, variables, length)
        x = ops.reshape(x, (-1, self.length))  # (batch * variables, length)
        y = self._corrections(x, training)
        if self.linear_path:
            y = y + self.linear(x)
        y = ops.reshape(y, (-1, len(self.columns), self.horizon))
        y = ops.transpose(y, (0, 2, 1))  # (batch, horizon, variables)
        return self.normalization.reverse(y, statistics), statistics[1]

    def _corrections(self, x, training):
        """The LSTM's output, `(batch * variables, horizon)`."""
        count = self.length // self.segment
        # The oldest steps are dropped if they do not fill a segment.
        x = ops.reshape(x[:, self.length - count * self.segment :], (-1, count, self.segment))
        _, h, c = self.rnn(self.embedding(x), training=training)
        shape = [len(self.columns), self.segments, self.rnn_units // 2]
        kinds = ops.broadcast_to(self.kinds[:, None], shape)
        places = ops.broadcast_to(self.places[None], shape)
        queries = ops.reshape(ops.concatenate([kinds, places], 2), (-1, self.rnn_units))
        queries = ops.cast(queries, self.compute_dtype)  # (variables * segments, rnn_units)
        batch = ops.shape(x)[0] // len(self.columns)
        queries = ops.tile(queries, (batch, 1))[:, None]  # (batch * variables * segments, 1, ...)
        state = [ops.repeat(value, self.segments, axis=0) for value in (h, c)]
        output, _, _ = self.rnn(queries, initial_state=state, training=training)
        y = self.dense(self.dropout(output, training=training))
        # (batch * variables * segments, segment) -> (batch * variables, horizon)
        return ops.reshape(y, (-1, self.segments * self.segment))[:, : self.horizon]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, y_pred = _per_value(y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred = _per_value(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.horizon, len(self.columns)

    def calibrate(self, batches: tf.data.Dataset) -> None:
        """Set the widths of the prediction intervals from the errors on held-out data.

        Uses split conformal prediction for each step and variable, with errors relative to the
        window's standard deviation (Lei et al., 2018, section 5.2). Intervals would have the
        nominal `coverage` if windows were exchangeable. Windows of a series overlap and drift, so
        measure the actual coverage on test data.

        Args:
            batches: A `tf.data.Dataset` of `(inputs, targets)` or `(inputs, targets,
                sample_weight)`, standardised, in fixed order. Targets of weight 0 are ignored.

        Raises:
            ValueError: if some step and variable has no target of positive weight.
        """
        forecasts = self.predict(batches.map(lambda x, *_: x), verbose=0)
        deviations, errors = [], []
        for x, y, *weights in batches.as_numpy_iterator():
            deviations.append(x.std(1, keepdims=True))
            errors.append(np.where(weights[0] > 0, y, np.nan) if weights else y)
        deviations, targets = np.concatenate(deviations), np.concatenate(errors)
        deviations = np.sqrt(np.square(deviations) + self.normalization.epsilon)
        errors = np.sort(np.abs(targets - forecasts) / deviations, axis=0)  # NaN comes last.
        counts = np.isfinite(errors).sum(0)  # (horizon, variables)
        if not counts.all():
            step, column = np.argwhere(counts == 0)[0]
            variable = self.columns[column]
            raise ValueError(
                f"batches: no target of {variable!r} {step + 1} steps ahead has a positive weight"
            )
        ranks = np.minimum(np.ceil((counts + 1) * self.coverage).astype(int), counts)
        self.widths.assign(np.take_along_axis(errors, ranks[None] - 1, axis=0)[0])

    def bounds(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Forecast standardised windows, with prediction intervals.

        Args:
            inputs: Standardised windows `(batch, length, variables)`.

        Returns:
            A dict with keys `"forecast"`, `"lower"` and `"upper"`, each `(batch, horizon,
            variables)`, standardised.
        """
        forecast, deviation = self._forecast_and_deviation(inputs)
        width = deviation * self.widths
        return {"forecast": forecast, "lower": forecast - width, "upper": forecast + width}

    def forecast(self, windows: np.ndarray | tf.Tensor) -> dict[str, Any]:
        """Forecast windows in their original units, with prediction intervals.

        Args:
            windows: A NumPy array or a float32 tensor, `(batch, length, variables)`. The mean is
                subtracted from an array in the array's own precision.

        Returns:
            A dict with keys `"forecast"`, `"lower"` and `"upper"`, each `(batch, horizon,
            variables)`, in the units of the windows; arrays for an array, tensors for a tensor.
        """
        means = np.zeros(len(self.columns)) if self.means is None else np.array(self.means)
        scales = np.ones(len(self.columns)) if self.scales is None else np.array(self.scales)
        bounds = self.bounds(ops.cast((windows - means) / scales, "float32"))
        if isinstance(windows, np.ndarray):
            bounds = {name: ops.convert_to_numpy(y).astype("float64") for name, y in bounds.items()}
        return {name: y * scales + means for name, y in bounds.items()}

    def data_specs(self):
        window, target = ((steps, len(self.columns)) for steps in (self.length, self.horizon))
        hint = "Windows and targets are (batch, steps, variables), standardised."
        return checks.Spec("float", window, hint=hint), checks.Spec("float", target, hint=hint)

    def get_config(self):
        config = super().get_config()
        config.update(
            columns=self.columns,
            length=self.length,
            horizon=self.horizon,
            rnn_units=self.rnn_units,
            segment=self.segment,
            dropout_rate=self.dropout_rate,
            linear_path=self.linear_path,
            means=self.means,
            scales=self.scales,
            spacing=self.spacing,
            coverage=self.coverage,
        )
        return config


def _per_value(y, y_pred, sample_weight):
    """Add a last axis to targets and forecasts if there is a weight for each value.

    Keras' losses average over the last axis before they apply the weights.
    """
    if sample_weight is None or len(sample_weight.shape) < 3:
        return y, y_pred
    return y[..., None], y_pred[..., None]
