"""Forecasts of series with the LSTM (article 3.2; equation E4), all steps at once.

Beyond the article, which names series as a use of recurrent networks and shows none. Steps are read
in segments, and all segments of the horizon are written at once, as in SegRNN (Lin et al., 2023);
beside it lies a linear map of the window, as in NLinear (Zeng et al., 2023), around both reversible
instance normalisation (Kim et al., 2022).

    windows (batch, length, variables) -> forecasts (batch, horizon, variables)
"""

import math

import keras
import numpy as np
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.layers import LSTM, ReversibleNormalization


@keras.saving.register_keras_serializable(package="bigmodels")
class Forecaster(Model):
    """A linear map of each variable's window, corrected by an LSTM that reads it in segments.

    All variables share all weights but an embedding and the normalisation's scale and shift.

    Args:
        columns: Names of the variables.
        length: Steps of a window.
        horizon: Steps to forecast.
        rnn_units: Width of the LSTM, an even number.
        segment: Steps that the LSTM reads, and writes, at once.
        dropout_rate: Share of units dropped before they are written out.
        linear_path: Whether there is the linear map for the LSTM to correct.
        means: Mean of each variable, for `forecast`; 0 when left out.
        scales: Standard deviation of each variable, likewise; 1 when left out.
        spacing: The step from row to row in words, if the model is to carry it.
        coverage: The share of what comes that the bounds of `forecast` are to hold.
        **kwargs: As for every `keras.Model`.

    Attributes:
        widths: From a forecast to its bounds, in standard deviations of the window, `(horizon,
            variables)`; zero until `calibrate`.

    Call arguments:
        inputs: Windows, standardised by `means` and `scales`, `(batch, length, variables)`.
        training: Whether dropout is on.

    Returns:
        Forecasts in the same units, `(batch, horizon, variables)`.

    `fit` and `evaluate` take a `sample_weight` of `(batch, horizon, variables)` too, a weight for
    each value: 0 for what was never measured.

    Raises:
        ValueError: if an argument is out of range.
    """

    # Its `compute_loss` is Keras', but for the shape of what it is given.
    steps_add_up = True

    def __init__(
        self,
        columns,
        length,
        horizon,
        rnn_units=128,
        segment=24,
        dropout_rate=0.0,
        linear_path=True,
        means=None,
        scales=None,
        spacing=None,
        coverage=0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not columns:
            raise ValueError(f"columns: {columns!r}, expected the names of one variable or more")
        if length < 2 or horizon < 1:
            raise ValueError(f"length: {length!r}, horizon: {horizon!r}, expected 2 and 1 at least")
        if not 1 <= segment <= length:
            raise ValueError(f"segment: {segment!r}, expected 1 to length={length}")
        if rnn_units < 2 or rnn_units % 2:
            raise ValueError(f"rnn_units: {rnn_units!r}, expected an even number")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: {coverage!r}, expected a share between 0 and 1")
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
        self.autocast = False  # A window is normalised before it may lose digits.
        self.segments = math.ceil(horizon / segment)
        dtype = self.dtype_policy
        full = dtype.variable_dtype  # Forecasts stay in full precision under a mixed policy.
        self.normalization = ReversibleNormalization(dtype=full, name="normalization")
        if linear_path:
            # From zero: what windows do not tell apart keeps no random weights.
            self.linear = layers.Dense(horizon, None, True, "zeros", dtype=full, name="linear")
        self.embedding = layers.Dense(rnn_units, activation="relu", dtype=dtype, name="embedding")
        self.rnn = LSTM(rnn_units, return_state=True, dtype=dtype, name="rnn")
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        # A correction begins with none.
        start = "zeros" if linear_path else "glorot_uniform"
        self.dense = layers.Dense(segment, None, True, start, dtype=full, name="dense")

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
        # What the LSTM is asked for: which segment, of which variable.
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
        """What the LSTM writes, `(batch * variables, horizon)`."""
        count = self.length // self.segment
        # The oldest steps, where they fill no segment, are left out.
        x = ops.reshape(x[:, self.length - count * self.segment :], (-1, count, self.segment))
        _, h, c = self.rnn(self.embedding(x), training=training)
        asked = [len(self.columns), self.segments, self.rnn_units // 2]
        kinds = ops.broadcast_to(self.kinds[:, None], asked)
        places = ops.broadcast_to(self.places[None], asked)
        asked = ops.reshape(ops.concatenate([kinds, places], 2), (-1, self.rnn_units))
        asked = ops.cast(asked, self.compute_dtype)  # (variables * segments, rnn_units)
        batch = ops.shape(x)[0] // len(self.columns)
        asked = ops.tile(asked, (batch, 1))[:, None]  # (batch * variables * segments, 1, ...)
        state = [ops.repeat(each, self.segments, axis=0) for each in (h, c)]
        output, _, _ = self.rnn(asked, initial_state=state, training=training)
        y = self.dense(self.dropout(output, training=training))
        # (batch * variables * segments, segment) -> (batch * variables, horizon)
        return ops.reshape(y, (-1, self.segments * self.segment))[:, : self.horizon]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, y_pred = _value_by_value(y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred = _value_by_value(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.horizon, len(self.columns)

    def calibrate(self, batches):
        """Set the bounds of `forecast` by what they would have had to be, on data not trained on.

        Split conformal prediction, for each step and variable, with errors in parts of the window's
        standard deviation (Lei et al., 2018, section 5.2): if windows were exchangeable, bounds
        would hold `coverage` of what comes. Windows of a series overlap and drift, so that what
        they do hold has to be measured.

        Args:
            batches: A `tf.data.Dataset` of `(inputs, targets)` or `(inputs, targets,
                sample_weight)`, in the model's units, in order. Targets of weight 0 do not count;
                each step of each variable needs one that does.

        Raises:
            ValueError: if there is none for some step and variable.
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
            raise ValueError(f"batches: no target of {variable!r} {step + 1} steps ahead counts")
        ranks = np.minimum(np.ceil((counts + 1) * self.coverage).astype(int), counts)
        self.widths.assign(np.take_along_axis(errors, ranks[None] - 1, axis=0)[0])

    def bounds(self, inputs):
        """Forecasts with what bounds them.

        Args:
            inputs: As for a call.

        Returns:
            `{"forecast", "lower", "upper"}`, each `(batch, horizon, variables)`, in the same units.
        """
        forecast, deviation = self._forecast_and_deviation(inputs)
        width = deviation * self.widths
        return {"forecast": forecast, "lower": forecast - width, "upper": forecast + width}

    def forecast(self, windows):
        """Forecasts of windows as they were measured.

        Args:
            windows: A NumPy array or a float32 tensor, `(batch, length, variables)`. The mean of an
                array is taken off in its own precision.

        Returns:
            `{"forecast", "lower", "upper"}` in the units of the windows, `(batch, horizon,
            variables)`; arrays for an array, tensors for a tensor.
        """
        means = np.zeros(len(self.columns)) if self.means is None else np.array(self.means)
        scales = np.ones(len(self.columns)) if self.scales is None else np.array(self.scales)
        found = self.bounds(ops.cast((windows - means) / scales, "float32"))
        if isinstance(windows, np.ndarray):
            found = {name: ops.convert_to_numpy(y).astype("float64") for name, y in found.items()}
        return {name: y * scales + means for name, y in found.items()}

    def data_specs(self):
        length, horizon = ((steps, len(self.columns)) for steps in (self.length, self.horizon))
        hint = "Windows and what follows are (batch, steps, variables), standardised."
        return checks.Spec("float", length, hint=hint), checks.Spec("float", horizon, hint=hint)

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


def _value_by_value(y, y_pred, sample_weight):
    """Targets and forecasts with an axis for the mean that Keras' losses take over the last one.

    A weight for each value would come after that mean, where there is no variable any more.
    """
    if sample_weight is None or len(sample_weight.shape) < 3:
        return y, y_pred
    return y[..., None], y_pred[..., None]
