"""What an ear hears of a sound: the logarithm of its power in the bands of the mel scale."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4000, 96_000
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.010
# Below is hum, and the filters there would be narrower than what a window tells apart.
_LOWEST_HERTZ = 60.0
# Added to the power of recordings that are all as loud: 80 dB below them.
_FLOOR = 1e-6


def hop_length(sample_rate):
    """Samples from one frame to the next.

    Args:
        sample_rate: Samples a second.

    Returns:
        An integer.

    Raises:
        ValueError: if there is no such rate here.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"sample_rate: {sample_rate!r}, expected from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    return round(_HOP_SECONDS * sample_rate)


def ceil_div(time, length):
    """`time / length` rounded up; both positive integers, or tensors.

    ONNX divides negative numbers otherwise, so this is not `-(-time // length)`.
    """
    return (time + length - 1) // length


def lengths_of(samples):
    """Up to which sample each recording is no padding.

    Args:
        samples: `(batch, time)`, with zeros behind the shorter recordings.

    Returns:
        int32 `(batch,)`.
    """
    places = tf.range(1, tf.shape(samples)[1] + 1)
    return tf.reduce_max(tf.where(samples != 0, places, 0), axis=1)


@keras.saving.register_keras_serializable(package="bigmodels")
class LogMel(layers.Layer):
    """Log-mel features: windows of 25 ms every 10 ms, each as its power in bands.

    Each recording is brought to a root mean square of 1 first, so that it does not matter how loud
    it is. The Fourier transform is a convolution with constants, so that XLA, ONNX and LiteRT can
    hold it as they hold any other. All of it is computed in float32 at least, also under a mixed
    policy: the powers of loud and soft span more than half precision does.

    Args:
        sample_rate: Samples a second.
        mel_bins: Number of bands.
        **kwargs: As for every `keras.layers.Layer`.

    Call arguments:
        inputs: Samples, `(batch, time)`; zeros at a recording's end are no part of it.

    Returns:
        `(batch, frames, mel_bins)`, a frame for every 10 ms that have begun.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, sample_rate, mel_bins=40, **kwargs):
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
        """Windowed cosines and sines `(window, 1, 2 * bins)`, and the bands `(bins, mel_bins)`."""
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
