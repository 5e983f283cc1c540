"""A convolutional network that predicts the steering angle (article 2.3: autonomous driving).

PilotNet of Bojarski et al., "End to End Learning for Self-Driving Cars" (2016): strided 5x5
convolutions, 3x3 convolutions, dense layers and one output, with the paper's sizes as defaults.
Changed: the output is the steering in the units of the recording (often -1 to 1), not the inverse
turning radius; frames are RGB, not YUV. Added: dropout, off by default.

    frames (batch, height, width, 3), floats 0..255 -> steering (batch, 1)
"""

from collections.abc import Iterable

import keras
from keras import layers

from bigmodels import checks
from bigmodels.models.base import LayerStack


@keras.saving.register_keras_serializable(package="bigmodels")
class PilotNet(LayerStack):
    """Steering network after PilotNet: convolutions, dense layers and one linear output.

    The defaults are the paper's network (Bojarski et al., 2016): 252,219 parameters for 66x200x3
    frames.

    Args:
        strided_filters: Filters of each 5x5 convolution with stride 2, first to last.
        filters: Filters of each 3x3 convolution after them.
        dense_units: Width of each dense layer before the output.
        dropout_rate: Fraction of units dropped before each of these dense layers.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Frames `(batch, height, width, channels)`, floats from 0 to 255; the first layer
            scales them.
        training: Whether to run in training mode (dropout).

    Returns:
        Steering `(batch, 1)`.

    Raises:
        ValueError: if the frames are too small for the convolutions.

    Example:

    >>> PilotNet()(np.zeros((2, 66, 200, 3), "float32")).shape
    TensorShape([2, 1])
    """

    default_input_shape = (None, 66, 200, 3)

    def __init__(
        self,
        strided_filters: Iterable[int] = (24, 36, 48),
        filters: Iterable[int] = (64, 64),
        dense_units: Iterable[int] = (100, 50, 10),
        dropout_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.strided_filters = tuple(strided_filters)
        self.filters = tuple(filters)
        self.dense_units = tuple(dense_units)
        self.dropout_rate = dropout_rate
        dtype = self.dtype_policy
        self.scaling = layers.Rescaling(1 / 127.5, offset=-1.0, dtype=dtype, name="scaling")
        kinds = [(count, 5, 2) for count in self.strided_filters]
        kinds += [(count, 3, 1) for count in self.filters]
        for i, (count, size, stride) in enumerate(kinds, start=1):  # self.conv1, ...
            conv = layers.Conv2D(
                count, size, stride, activation="relu", dtype=dtype, name=f"conv{i}"
            )
            setattr(self, f"conv{i}", conv)
        self.flatten = layers.Flatten(dtype=dtype, name="flatten")
        for i, units in enumerate(self.dense_units, start=1):  # self.dropout1, self.dense1, ...
            dropout = layers.Dropout(dropout_rate, dtype=dtype, name=f"dropout{i}")
            setattr(self, f"dropout{i}", dropout)
            dense = layers.Dense(units, activation="relu", dtype=dtype, name=f"dense{i}")
            setattr(self, f"dense{i}", dense)
        # The output stays in full precision under a mixed policy.
        self.steering = layers.Dense(1, dtype=dtype.variable_dtype, name="steering")

    def layers_in_order(self):
        convolutions = range(1, len(self.strided_filters) + len(self.filters) + 1)
        return [
            self.scaling,
            *(getattr(self, f"conv{i}") for i in convolutions),
            self.flatten,
            *(
                getattr(self, f"{kind}{i}")
                for i in range(1, len(self.dense_units) + 1)
                for kind in ("dropout", "dense")
            ),
            self.steering,
        ]

    def build(self, input_shape):
        shape = tuple(input_shape)
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(f"input_shape: {shape}, expected (batch, height, width, channels)")
        super().build(shape)

    def data_specs(self):
        shape = self._build_shapes_dict["input_shape"][1:] if self.built else (None, None, None)
        frames = checks.Spec(
            "float",
            shape,
            low=0,
            high=255,
            hint="Frames are floats (batch, height, width, channels) from 0 to 255, not scaled.",
        )
        steering = checks.Spec("float", (1,), hint="Targets are floats (batch, 1).")
        return frames, steering

    def get_config(self):
        config = super().get_config()
        config.update(
            strided_filters=self.strided_filters,
            filters=self.filters,
            dense_units=self.dense_units,
            dropout_rate=self.dropout_rate,
        )
        return config
