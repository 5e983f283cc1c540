"""Recordings of speech: what a file says of itself, its samples, and another rate for them."""

import dataclasses
import io
import math
import struct

import numpy as np

from bigmodels import extras
from bigmodels.layers.log_mel import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from bigmodels.runs import untrusted

# Longer ones are to be cut: a batch is as long as its longest recording.
MAX_SECONDS = 60
# How files are named that may be read.
SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
# What the number of a coding stands for. Only the first is read here, the others by soundfile.
_PCM, _CODINGS = 1, {2: "ADPCM", 3: "floating point", 6: "A-law", 7: "mu-law", 17: "ADPCM"}
# How files begin that soundfile reads: MP3 with and without tags, and so on.
_OTHERS = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"RF64", b"caff")
_MP3 = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2")
_WHOLE = ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "RF64")  # Which say exactly how long they are.
_MOST_FLOAT = 8.0
# What whoever writes into a pipe claims, who cannot know how much is to come.
_PIPED = 0x7FFFF000
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


def read_audio(path, argument="audio", remarks=None):
    """The samples of a recording, one channel or the mean of two.

    WAV files with PCM of 8 or 16 bits are read as they are. All others (24 and 32 bits, floating
    point, FLAC, OGG, MP3) need soundfile, and are brought to 16 bits.

    Args:
        path: A `pathlib.Path`; a link is followed.
        argument: What a message begins with.
        remarks: A dict of lists, to which the path is added under each thing that is not read as it
            stands in the file; or `None`.

    Returns:
        `(samples, sample_rate)`: int16 `(time,)` and an integer.

    Raises:
        ValueError: naming the file, and why it is not such a file.
    """
    try:
        samples, rate, found = decode_audio(untrusted.contents(path))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:
        reason = f"cannot be read: {error}"
    else:
        for what in found if remarks is not None else ():
            remarks.setdefault(what, []).append(path)
        return samples, rate
    raise ValueError(f"{argument}: {str(path)!r} {reason}")


def decode_audio(contents):
    """The samples of a file's bytes, as `read_audio` gives them.

    Returns:
        `(samples, sample_rate, remarks)`, the last a list of what was not read as it stands there.

    Raises:
        ValueError: with the reason alone; whoever knows the file names it.
    """
    if not contents:
        raise ValueError("it is empty")
    if contents[:4] != b"RIFF":
        if contents.startswith((*_OTHERS, *_MP3)):
            return _by_soundfile(contents)
        if contents[4:8] == b"ftyp":
            raise ValueError("it is MPEG-4 (.m4a, .mp4), which is not read; convert it to FLAC")
        raise ValueError("it is no WAV file, nor FLAC, OGG or MP3")
    (coding, channels, rate, bits), begin, size, piped = _parts(contents)
    remarks = ["a header that does not say how long they are: they are read to the end"][:piped]
    if coding != _PCM or bits in (24, 32):
        if piped:
            contents = contents[: begin - 4] + struct.pack("<I", size) + contents[begin:]
        samples, rate, more = _by_soundfile(contents, _CODINGS.get(coding, f"of coding {coding}"))
        return samples, rate, remarks + more
    if bits not in (8, 16):
        raise ValueError(f"its samples have {bits} bits, expected 8, 16, 24 or 32; convert it")
    _check(channels, rate)
    width = channels * bits // 8
    data = contents[begin : begin + size]
    if len(data) % width:
        raise ValueError("its last sample is cut off")
    if not data:
        raise ValueError("it holds no samples")
    _check_length(len(data) // width, rate)
    if bits == 8:  # Which are unsigned.
        samples = (np.frombuffer(data, "uint8").astype("int16") - 128) * 256
    else:
        samples = np.frombuffer(data, "<i2")
    samples, more = _one_channel(samples.reshape(-1, channels))
    return samples, rate, remarks + more


def _parts(contents):
    """Coding, channels, rate and bits of a WAV file; where its samples begin, their bytes; `piped`.

    `piped` is whether its header does not say how many there are.
    """
    if contents[8:12] != b"WAVE":
        raise ValueError(_TOO_EARLY if len(contents) < 12 else "it is a RIFF file, but no WAV")
    (whole,) = struct.unpack_from("<I", contents, 4)
    form = None
    place = 12
    while True:
        if len(contents) < place + 8:
            raise ValueError(_TOO_EARLY if form is None else "it holds no samples")
        kind, size = struct.unpack_from("<4sI", contents, place)
        place += 8
        if kind == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            left = len(contents) - place
            # Nothing, where the file as a whole is longer than it claims as well.
            piped = size >= _PIPED or (size == 0 and left > 0 and whole < len(contents) - 9)
            if size > left and not piped:
                raise ValueError(f"it claims {size:,} bytes of samples, but has {left:,}")
            return form, place, left if piped else size, piped
        if kind == b"fmt ":
            form = _form(contents[place : place + size])
        place += size + size % 2  # Parts begin at even places.


def _form(part):
    """Coding, channels, sample rate and bits."""
    if len(part) < 16:
        raise ValueError(_TOO_EARLY)
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", part)
    if coding == _EXTENSIBLE:  # Which says at its end what it is.
        if len(part) < 26:
            raise ValueError(_TOO_EARLY)
        (coding,) = struct.unpack_from("<H", part, 24)
    return coding, channels, rate, bits


def _check(channels, rate):
    if channels not in (1, 2):
        raise ValueError(f"it has {channels} channels, expected one or two")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"it claims {rate} samples a second, expected from {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}"
        )


def _check_length(count, rate):
    if count > MAX_SECONDS * rate:
        raise ValueError(f"it lasts {count / rate:.1f} s, more than {MAX_SECONDS}; cut it")


def _one_channel(samples):
    """int16 `(time,)` of int16 or float64 `(time, channels)`, and what is to be said of it."""
    count = samples.shape[1]
    if samples.dtype == "int16":
        # Rounded as a division does, down.
        samples = samples.sum(1, "int32") // count
    else:
        samples = np.clip(np.rint(samples.mean(1) * 32768), -32768, 32767)
    return samples.astype("int16"), ["two channels, of which the mean is taken"][: count - 1]


def _by_soundfile(contents, coding=""):
    """As `decode_audio`, of whatever soundfile reads."""
    with extras.require_extra("all but WAV files with PCM of 8 or 16 bits", "speech"):
        import soundfile
    try:
        with soundfile.SoundFile(io.BytesIO(contents)) as file:
            rate, subtype = file.samplerate, file.subtype
            _check(file.channels, rate)
            _check_length(file.frames, rate)
            exact = subtype in ("PCM_16", "PCM_S8", "PCM_U8")
            # One more than may be, as some do not know how many there are.
            samples = file.read(MAX_SECONDS * rate + 1, "int16" if exact else "float64", True)
            cut = file.format in _WHOLE and len(samples) < file.frames
    except (soundfile.SoundFileError, RuntimeError) as error:
        what = f"its samples are {coding}, and " if coding else ""
        reason = untrusted.reason(error).rpartition(": ")[2]
        raise ValueError(f"{what}soundfile cannot read it: {reason}") from None
    if cut:
        raise ValueError(_TOO_EARLY)
    if not len(samples):
        raise ValueError("it holds no samples")
    _check_length(len(samples), rate)
    remarks = []
    if not exact:
        loudest = np.abs(samples).max()
        if not loudest <= _MOST_FLOAT:  # NaN is not either.
            raise ValueError(f"its samples go up to {loudest:g}, expected from -1 to 1")
        if subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
            remarks.append("more than 16 bits, and are brought to 16")
        if loudest > 1:
            remarks.append("samples beyond -1 and 1, which are clipped")
    samples, more = _one_channel(samples)
    return samples, rate, remarks + more


def note_remarks(notes, argument, remarks):
    """Say what `read_audio` noted.

    Args:
        notes: A `Notes`.
        argument: What a line begins with.
        remarks: `{what: paths}`.
    """
    for what, paths in remarks.items():
        notes.say(
            f"{argument}: {len(paths):,} recordings have {what}; the first is {str(paths[0])!r}."
        )


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
