"""Read audio files of speech: check the header, decode the samples, resample them."""

import dataclasses
import io
import math
import pathlib
import struct

import numpy as np

from bigmodels import extras
from bigmodels.data.notes import Notes
from bigmodels.layers.log_mel import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from bigmodels.runs import untrusted

# Limit of a recording's length, as a batch is as long as its longest recording.
MAX_SECONDS = 60
# Suffixes of audio files.
SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
# Names of codings by their number. Only PCM is read here, the others by soundfile.
_PCM, _CODINGS = 1, {2: "ADPCM", 3: "floating point", 6: "A-law", 7: "mu-law", 17: "ADPCM"}
# First bytes of files that soundfile reads.
_OTHERS = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"RF64", b"caff")
_MP3 = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2")
_WHOLE = ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "RF64")  # Formats whose length in frames is exact.
_MOST_FLOAT = 8.0
# Programs that write to a pipe do not know the size in advance, and claim this much or more.
_PIPED = 0x7FFFF000
_EXTENSIBLE = 0xFFFE
_TOO_EARLY = "it ends too early (truncated)"


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording of speech.

    Args:
        name: Name of the file for messages.
        samples: int16 `(time,)`.
        sample_rate: Samples per second.
        transcript: The spoken text.
        speaker: Name of the speaker, or `None` if it is unknown.

    Example:

    >>> recording = Recording("zero.wav", np.zeros(8000, "int16"), 8000, "zero")
    >>> len(recording.samples) / recording.sample_rate
    1.0
    """

    name: str
    samples: np.ndarray
    sample_rate: int
    transcript: str = ""
    speaker: str | None = None


def read_audio(
    path: pathlib.Path, argument: str = "audio", remarks: dict[str, list] | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file as one channel; two channels are averaged.

    WAV files with PCM of 8 or 16 bits are read as they are. All others (24 and 32 bits, floating
    point, FLAC, OGG, MP3) need soundfile, and are converted to 16 bits.

    Args:
        path: A `pathlib.Path`; links are followed.
        argument: Beginning of messages.
        remarks: A dict of lists, or `None`. For each conversion that was made, the path is added to
            the list under its description.

    Returns:
        `(samples, sample_rate)`: int16 `(time,)` and an integer.

    Raises:
        ValueError: if the file cannot be read; the message has its path and the reason.

    Example:

    >>> import pathlib
    >>> contents = tf.audio.encode_wav(tf.zeros((8000, 1)), 8000).numpy()
    >>> _ = pathlib.Path("silence.wav").write_bytes(contents)
    >>> samples, sample_rate = read_audio(pathlib.Path("silence.wav"))
    >>> samples.shape, sample_rate
    ((8000,), 8000)
    """
    try:
        samples, rate, conversions = decode_audio(untrusted.contents(path))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:
        reason = f"cannot be read: {error}"
    else:
        for conversion in conversions if remarks is not None else ():
            remarks.setdefault(conversion, []).append(path)
        return samples, rate
    raise ValueError(f"{argument}: {str(path)!r} {reason}")


def decode_audio(contents: bytes) -> tuple[np.ndarray, int, list[str]]:
    """Decode the bytes of an audio file, as `read_audio` does.

    Args:
        contents: Bytes of the file.

    Returns:
        `(samples, sample_rate, remarks)`: int16 `(time,)`, an integer, and a list of conversions
        that were made.

    Raises:
        ValueError: if the bytes cannot be decoded. The message does not name the file; callers add
            its name.

    Example:

    >>> contents = tf.audio.encode_wav(tf.zeros((8000, 2)), 8000).numpy()
    >>> samples, sample_rate, remarks = decode_audio(contents)
    >>> samples.shape, sample_rate, remarks
    ((8000,), 8000, ['two channels, which are averaged'])
    """
    if not contents:
        raise ValueError("it is empty")
    if contents[:4] != b"RIFF":
        if contents.startswith((*_OTHERS, *_MP3)):
            return _by_soundfile(contents)
        if contents[4:8] == b"ftyp":
            raise ValueError("it is MPEG-4 (.m4a, .mp4), which is not read; convert it to FLAC")
        raise ValueError("it is not a WAV, FLAC, OGG or MP3 file")
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
        raise ValueError("it contains no samples")
    _check_length(len(data) // width, rate)
    if bits == 8:  # Which are unsigned.
        samples = (np.frombuffer(data, "uint8").astype("int16") - 128) * 256
    else:
        samples = np.frombuffer(data, "<i2")
    samples, more = _one_channel(samples.reshape(-1, channels))
    return samples, rate, remarks + more


def _parts(contents):
    """`((coding, channels, rate, bits), begin, size, piped)` of a WAV file.

    `begin` and `size` are the offset and size of its samples in bytes. `piped` is whether the
    header does not give the size.
    """
    if contents[8:12] != b"WAVE":
        raise ValueError(_TOO_EARLY if len(contents) < 12 else "it is a RIFF file, but not WAV")
    (whole,) = struct.unpack_from("<I", contents, 4)
    form = None
    place = 12
    while True:
        if len(contents) < place + 8:
            raise ValueError(_TOO_EARLY if form is None else "it contains no samples")
        kind, size = struct.unpack_from("<4sI", contents, place)
        place += 8
        if kind == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            left = len(contents) - place
            # A size of 0 counts as unknown if the size of the whole file is wrong too.
            piped = size >= _PIPED or (size == 0 and left > 0 and whole < len(contents) - 9)
            if size > left and not piped:
                raise ValueError(f"it claims {size:,} bytes of samples, but has {left:,}")
            return form, place, left if piped else size, piped
        if kind == b"fmt ":
            form = _form(contents[place : place + size])
        place += size + size % 2  # Chunks begin at even offsets.


def _form(part):
    """Coding, channels, sample rate and bits."""
    if len(part) < 16:
        raise ValueError(_TOO_EARLY)
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", part)
    if coding == _EXTENSIBLE:  # The actual coding follows at the end.
        if len(part) < 26:
            raise ValueError(_TOO_EARLY)
        (coding,) = struct.unpack_from("<H", part, 24)
    return coding, channels, rate, bits


def _check(channels, rate):
    if channels not in (1, 2):
        raise ValueError(f"it has {channels} channels, expected one or two")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"it claims {rate} samples per second, expected from {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}"
        )


def _check_length(count, rate):
    if count > MAX_SECONDS * rate:
        raise ValueError(f"it lasts {count / rate:.1f} s, more than {MAX_SECONDS}; cut it")


def _one_channel(samples):
    """int16 `(time,)` from int16 or float64 `(time, channels)`, and a list of remarks."""
    count = samples.shape[1]
    if samples.dtype == "int16":
        samples = samples.sum(1, "int32") // count
    else:
        samples = np.clip(np.rint(samples.mean(1) * 32768), -32768, 32767)
    return samples.astype("int16"), ["two channels, which are averaged"][: count - 1]


def _by_soundfile(contents, coding=""):
    """As `decode_audio`, for formats that soundfile reads."""
    with extras.require_extra("all but WAV files with PCM of 8 or 16 bits", "speech"):
        import soundfile
    try:
        with soundfile.SoundFile(io.BytesIO(contents)) as file:
            rate, subtype = file.samplerate, file.subtype
            _check(file.channels, rate)
            _check_length(file.frames, rate)
            exact = subtype in ("PCM_16", "PCM_S8", "PCM_U8")
            # One more than the limit, as some formats do not give their length.
            samples = file.read(MAX_SECONDS * rate + 1, "int16" if exact else "float64", True)
            cut = file.format in _WHOLE and len(samples) < file.frames
    except (soundfile.SoundFileError, RuntimeError) as error:
        what = f"its samples are {coding}, and " if coding else ""
        reason = untrusted.reason(error).rpartition(": ")[2]
        raise ValueError(f"{what}soundfile cannot read it: {reason}") from None
    if cut:
        raise ValueError(_TOO_EARLY)
    if not len(samples):
        raise ValueError("it contains no samples")
    _check_length(len(samples), rate)
    remarks = []
    if not exact:
        loudest = np.abs(samples).max()
        if not loudest <= _MOST_FLOAT:  # Also true for NaN.
            raise ValueError(f"its samples go up to {loudest:g}, expected from -1 to 1")
        if subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
            remarks.append("more than 16 bits, which are converted to 16")
        if loudest > 1:
            remarks.append("samples beyond -1 and 1, which are clipped")
    samples, more = _one_channel(samples)
    return samples, rate, remarks + more


def note_remarks(notes: Notes, argument: str, remarks: dict[str, list]) -> None:
    """Add the remarks of `read_audio` to notes.

    Args:
        notes: A `Notes`.
        argument: Beginning of the lines.
        remarks: `{description: paths}`.

    Example:

    >>> notes = Notes()
    >>> note_remarks(notes, "audio", {"two channels, which are averaged": ["a.wav"]})
    >>> notes.lines
    ["audio: 1 recordings have two channels, which are averaged; the first is 'a.wav'."]
    """
    for what, paths in remarks.items():
        notes.say(
            f"{argument}: {len(paths):,} recordings have {what}; the first is {str(paths[0])!r}."
        )


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resample a recording.

    Args:
        samples: int16 `(time,)`.
        rate: Its sample rate, in samples per second.
        wanted: The new sample rate.

    Returns:
        int16 `(new time,)`.

    Example:

    >>> resampled(np.zeros(16000, "int16"), 16000, 8000).shape
    (8000,)
    """
    if rate == wanted:
        return samples
    from scipy import signal

    common = math.gcd(rate, wanted)
    changed = signal.resample_poly(samples.astype("float32"), wanted // common, rate // common)
    return np.clip(np.rint(changed), -32768, 32767).astype("int16")


def without_end(samples: np.ndarray) -> np.ndarray:
    """Remove zeros at the end of a recording, which a model would take for padding.

    Args:
        samples: `(time,)`.

    Returns:
        The samples up to the last one that is not zero.

    Example:

    >>> without_end(np.array([0, 5, 0, 0])).tolist()
    [0, 5]
    """
    nonzero = np.flatnonzero(samples)
    return samples[: nonzero[-1] + 1] if len(nonzero) else samples[:0]
