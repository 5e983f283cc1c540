"""Inference with a forecaster."""

import numpy as np
import tensorflow as tf

from bigmodels.data.series import last_window
from bigmodels.tasks.record import Predictor, Signature


class ForecastPredictor(Predictor):
    """Forecasts time series, with bounds."""

    def forecast(self, windows):
        """Forecasts and bounds for windows `(batch, length, variables)` in the series' units."""
        return self.model.forecast(windows)

    def predict(self, input=None):
        """Forecast the rows after the end of a file, which is read with the training's settings.

        Args:
            input: A CSV file with the model's variables and time step.

        Yields:
            `{"time": ..., "variable": ..., "value": ..., "lower": ..., "upper": ...}`.

        Raises:
            ValueError: naming the file and the line that do not fit.
        """
        if not input:
            raise ValueError("input: give a CSV file to continue")
        model = self.model
        names = ("fill", "time", "time_format", "missing", "decimal", "encoding")
        options = {name: getattr(self.config.data, name) for name in names}
        window, timeline, first = last_window(
            input, model.columns, model.length, model.spacing, **options
        )
        bounds = self.forecast(window[None])
        for step in range(model.horizon):
            for column, variable in enumerate(model.columns):
                yield {
                    "time": timeline.text(first + step),
                    "variable": variable,
                    "value": float(bounds["forecast"][0, step, column]),
                    "lower": float(bounds["lower"][0, step, column]),
                    "upper": float(bounds["upper"][0, step, column]),
                }

    def signatures(self):
        """From windows in the series' units to forecasts and bounds."""
        model = self.model
        shape = (model.length, len(model.columns))
        windows = np.random.default_rng(0).normal(size=(1, *shape)) * model.scales + model.means
        signature = Signature(
            self.forecast,
            (tf.TensorSpec((None, *shape), "float32"),),
            (windows.astype("float32"),),
            portable=True,
            fixed_in_litert=True,
        )
        return {"forecast": signature}

    def metadata(self):
        """The variables, the time step, and the nominal coverage of the bounds."""
        return {
            "variables": list(self.model.columns),
            "step": self.model.spacing,
            "coverage": self.model.coverage,
        }
