"""Recordings of speech: what a WAV file says of itself, its samples, and another rate for them."""

import dataclasses
import math
import struct

import numpy as np

from bigmodels import untrusted
from bigmodels.layers.log_mel import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

# Longer ones are to be cut: a batch is as long as its longest recording.
MAX_SECONDS = 60
# What the number of a coding stands for; only the first is read.
_PCM, _CODINGS = 1, {2: "ADPCM", 3: "floating point", 6: "A-law", 7: "mu-law", 17: "ADPCM"}
_EXTENSIBLE = 0xFFFE
_TOO_EARLY = "it ends too early (truncated)"


@dataclasses.dataclass(frozen=True)
class Recording:
    """Somebody says something.

    Attributes:
        name: The file's, as messages name it.
        samples: int16 `(time,)`.
        sample_rate: Samples a second.
        transcript: What is said.
        speaker: Who says it, if that is known.
    """

    name: str
    samples: np.ndarray
    sample_rate: int
    transcript: str = ""
    speaker: str | None = None


def read_wav(path, argument="audio"):
    """The samples of a WAV file: PCM of 8 or 16 bits, one channel or the mean of two.

    Args:
        path: A `pathlib.Path`; a link is followed.
        argument: What a message begins with.

    Returns:
        `(samples, sample_rate)`: int16 `(time,)` and an integer.

    Raises:
        ValueError: naming the file, and why it is not such a file.
    """
    try:
        return decode_wav(untrusted.contents(path))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:
        reason = f"cannot be read: {error}"
    raise ValueError(f"{argument}: {str(path)!r} {reason}")


def decode_wav(contents):
    """The samples of a WAV file's bytes, as `read_wav` gives them.

    Raises:
        ValueError: with the reason alone; whoever knows the file names it.
    """
    if not contents:
        raise ValueError("it is empty")
    if contents[:4] != b"RIFF":
        raise ValueError("it is no WAV file")
    if contents[8:12] != b"WAVE":
        raise ValueError(_TOO_EARLY if len(contents) < 12 else "it is a RIFF file, but no WAV")
    form = data = None
    place = 12
    while data is None:
        if len(contents) < place + 8:
            raise ValueError(_TOO_EARLY if form is None else "it holds no samples")
        kind, size = struct.unpack_from("<4sI", contents, place)
        place += 8
        if kind == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            if size > len(contents) - place:
                raise ValueError(
                    f"it claims {size:,} bytes of samples, but has {len(contents) - place:,}"
                )
            data = contents[place : place + size]
        elif kind == b"fmt ":
            form = _form(contents[place : place + size])
        place += size + size % 2  # Parts begin at even places.
    channels, rate, bits = form
    width = channels * bits // 8
    if len(data) % width:
        raise ValueError("its last sample is cut off")
    if not data:
        raise ValueError("it holds no samples")
    if len(data) // width > MAX_SECONDS * rate:
        raise ValueError(
            f"it lasts {len(data) / width / rate:.1f} s, more than {MAX_SECONDS}; cut it"
        )
    if bits == 8:  # Which are unsigned.
        samples = (np.frombuffer(data, "uint8").astype("int16") - 128) * 256
    else:
        samples = np.frombuffer(data, "<i2")
    # Rounded as a division does, down.
    samples = samples.reshape(-1, channels).sum(1, "int32") // channels
    return samples.astype("int16"), rate


def _form(part):
    """Channels, sample rate and bits of a format that is read here."""
    if len(part) < 16:
        raise ValueError(_TOO_EARLY)
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", part)
    if coding == _EXTENSIBLE:  # Which says at its end what it is.
        if len(part) < 26:
            raise ValueError(_TOO_EARLY)
        (coding,) = struct.unpack_from("<H", part, 24)
    if coding != _PCM:
        name = _CODINGS.get(coding, f"of coding {coding}")
        raise ValueError(f"its samples are {name}, expected PCM of 8 or 16 bits; convert it")
    if bits not in (8, 16):
        raise ValueError(f"its samples have {bits} bits, expected 8 or 16; convert it")
    if channels not in (1, 2):
        raise ValueError(f"it has {channels} channels, expected one or two")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"it claims {rate} samples a second, expected from {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}"
        )
    return channels, rate, bits


def resampled(samples, rate, wanted):
    """Samples at another rate.

    Args:
        samples: int16 `(time,)`.
        rate: Samples a second that they have.
        wanted: Samples a second that they are to have.

    Returns:
        int16 `(time,)`.
    """
    if rate == wanted:
        return samples
    from scipy import signal

    common = math.gcd(rate, wanted)
    changed = signal.resample_poly(samples.astype("float32"), wanted // common, rate // common)
    return np.clip(np.rint(changed), -32768, 32767).astype("int16")


def without_end(samples):
    """Samples without the zeros at their end, which a model takes for padding."""
    sounding = np.flatnonzero(samples)
    return samples[: sounding[-1] + 1] if len(sounding) else samples[:0]
