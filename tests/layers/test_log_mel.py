"""Log-mel features against NumPy's own Fourier transform."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import LogMel
from bigmodels.layers.log_mel import hop_length


def by_hand(samples, rate, bands):
    """Of one recording, in float64."""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    points = 1 << (window - 1).bit_length()
    frames = -(-len(samples) // hop)
    samples = samples / np.sqrt(np.mean(samples**2))
    padded = np.concatenate([samples, np.zeros(window)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    mel = tf.signal.linear_to_mel_weight_matrix(bands, points // 2 + 1, rate, 60.0, rate / 2)
    found = []
    for i in range(frames):
        spectrum = np.fft.rfft(padded[i * hop : i * hop + window] * hann, points)
        found.append(np.log(np.abs(spectrum) ** 2 @ mel.numpy() + 1e-6))
    return np.stack(found)


@pytest.mark.parametrize(("rate", "bands"), [(8000, 40), (16_000, 64), (11_025, 40)])
def test_equals_fourier_by_hand(rng, rate, bands):
    time = np.arange(int(0.3 * rate)) / rate
    samples = np.stack(
        [0.9 * np.sin(2 * np.pi * 1000 * time), rng.uniform(-1, 1, len(time)), 1e-4 * time]
    )
    layer = LogMel(rate, bands)
    found = layer(samples.astype("float32"))
    assert tuple(found.shape) == layer.compute_output_shape(samples.shape)
    for row, wanted in zip(found, samples, strict=True):
        np.testing.assert_allclose(row, by_hand(wanted, rate, bands), atol=2e-3)


@pytest.mark.parametrize("rate", [4000, 8000, 16_000, 22_050, 44_100, 96_000])
def test_every_band_hears_something(rate):
    _, bands = LogMel(rate, 24)._constants()
    assert (np.asarray(bands).sum(0) > 0).all()


def test_a_frame_for_every_begun_hop():
    layer = LogMel(8000)
    for count, frames in ((1, 1), (80, 1), (81, 2), (800, 10), (801, 11)):
        assert layer(np.ones((1, count), "float32")).shape == (1, frames, 40)


def test_it_does_not_matter_how_loud_it_is(rng):
    samples = rng.uniform(-1, 1, (2, 800)).astype("float32")
    samples[1] = samples[0] / 1024
    loud, soft = LogMel(8000)(samples)
    np.testing.assert_allclose(loud, soft, atol=1e-5)


def test_silence_behind_changes_nothing(rng):
    samples = rng.uniform(-1, 1, (1, 500)).astype("float32")
    layer = LogMel(8000)
    longer = layer(np.pad(samples, ((0, 0), (0, 700))))
    np.testing.assert_allclose(longer[:, :7], layer(samples), atol=1e-5)


def test_half_precision_hears_as_much(rng):
    samples = (1e-3 * rng.uniform(-1, 1, (1, 800))).astype("float32")
    found = LogMel(8000, dtype="mixed_float16")(samples)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, LogMel(8000)(samples), atol=1e-2)


def test_comes_back_from_its_config():
    layer = LogMel(16_000, 32, name="ear")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3999,), "sample_rate: 3999, expected from 4000 to 96000"),
        ((10**9,), "sample_rate: 1000000000"),
        ((8000, 0), "mel_bins: 0, expected from 1 to 64"),
        ((8000, 65), "mel_bins: 65"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        LogMel(*arguments)
    assert message in str(error.value)


def test_hop_length():
    assert hop_length(8000) == 80 and hop_length(22_050) == 220
