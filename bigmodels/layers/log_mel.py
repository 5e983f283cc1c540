"""Log-mel spectrogram features of audio."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4000, 96_000
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.010
# Below is mains hum, and filters would be narrower than the frequency resolution of a window.
_LOWEST_HERTZ = 60.0
# Added to the power of the recordings, which are normalised: 80 dB below them.
_FLOOR = 1e-6


def hop_length(sample_rate: int) -> int:
    """Number of samples between the starts of two frames (10 ms).

    Args:
        sample_rate: Sample rate in Hz.

    Returns:
        The number of samples.

    Raises:
        ValueError: if the sample rate is out of range.

    Example:

    >>> hop_length(16_000)
    160
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"sample_rate: {sample_rate!r}, expected from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    return round(_HOP_SECONDS * sample_rate)


def ceil_div(time: Any, length: Any) -> Any:
    """Divide two positive integers, or tensors of them, and round up.

    Not `-(-time // length)`, as ONNX rounds the division of negative numbers differently.

    Args:
        time: The dividend.
        length: The divisor.

    Returns:
        The rounded quotient.

    Example:

    >>> ceil_div(7, 2)
    4
    """
    return (time + length - 1) // length


def lengths_of(samples: Any) -> tf.Tensor:
    """Length of each recording without the padding.

    Args:
        samples: `(batch, time)`, shorter recordings padded with zeros.

    Returns:
        int32 `(batch,)`.

    Example:

    >>> lengths_of(np.array([[0.1, 0.0, 0.2, 0.0], [0.1, 0.0, 0.0, 0.0]])).numpy()
    array([3, 1], dtype=int32)
    """
    places = tf.range(1, tf.shape(samples)[1] + 1)
    return tf.reduce_max(tf.where(samples != 0, places, 0), axis=1)


@keras.saving.register_keras_serializable(package="bigmodels")
class LogMel(layers.Layer):
    """Log-mel spectrogram: the log of the power in mel bands, in windows of 25 ms every 10 ms.

    Each recording is first scaled to a root mean square of 1, so that its loudness does not matter.
    The Fourier transform is a convolution with constants, which XLA, ONNX and LiteRT support. All
    is computed in float32 or more, also under a mixed policy, as the range of the powers exceeds
    that of half precision.

    Args:
        sample_rate: Sample rate in Hz.
        mel_bins: Number of mel bands.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: Samples `(batch, time)`; zeros at a recording's end are padding.

    Returns:
        Features `(batch, frames, mel_bins)`, one frame per 10 ms, rounded up.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> LogMel(sample_rate=8000)(np.zeros((1, 8000), "float32")).shape
    TensorShape([1, 100, 40])
    """

    def __init__(self, sample_rate: int, mel_bins: int = 40, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False  # Half precision would add noise to the samples.
        self.hop = hop_length(sample_rate)
        self.window = round(_WINDOW_SECONDS * sample_rate)
        self._points = 1 << (self.window - 1).bit_length()
        if not 1 <= mel_bins <= self._points // 4:
            raise ValueError(f"mel_bins: {mel_bins!r}, expected from 1 to {self._points // 4}")
        self.sample_rate = sample_rate
        self.mel_bins = mel_bins

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        dtype = self.variable_dtype
        waves, bands = self._constants()
        x = ops.cast(inputs, dtype)
        power = ops.sum(ops.square(x), 1) / ops.cast(ops.maximum(lengths_of(inputs), 1), dtype)
        x = tf.math.divide_no_nan(x, ops.sqrt(power)[:, None])[..., None]  # (batch, time, 1)
        frames = ceil_div(ops.shape(inputs)[1], self.hop)
        needed = (frames - 1) * self.hop + self.window
        x = tf.pad(x, [[0, 0], [0, tf.maximum(needed - ops.shape(inputs)[1], 0)], [0, 0]])
        x = x[:, :needed]
        parts = ops.conv(x, ops.cast(waves, dtype), self.hop)  # (batch, frames, 2 * bins)
        real, imaginary = ops.split(parts, 2, axis=-1)
        power = ops.square(real) + ops.square(imaginary)
        return ops.log(ops.matmul(power, ops.cast(bands, dtype)) + _FLOOR)

    def _constants(self):
        """Windowed cosines and sines `(window, 1, 2 * bins)`, mel filters `(bins, mel_bins)`."""
        bins = self._points // 2 + 1
        angles = np.outer(np.arange(self.window), np.arange(bins)) * (2 * np.pi / self._points)
        waves = np.concatenate([np.cos(angles), -np.sin(angles)], 1) * self._hann()[:, None]
        bands = tf.signal.linear_to_mel_weight_matrix(
            self.mel_bins, bins, self.sample_rate, _LOWEST_HERTZ, self.sample_rate / 2
        )
        return waves[:, None], bands

    def _hann(self):
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    def compute_output_shape(self, input_shape):
        batch, time = input_shape
        return batch, None if time is None else ceil_div(time, self.hop), self.mel_bins

    def get_config(self):
        config = super().get_config()
        config.update(sample_rate=self.sample_rate, mel_bins=self.mel_bins)
        return config
