"""Load speech recordings with their transcripts: embedded, from a folder, or from TFDS."""

import collections
import dataclasses
import hashlib
import itertools
import unicodedata

import numpy as np
import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.cleaning import note_unknown
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.recordings import MAX_SECONDS, resampled, without_end
from bigmodels.data.splits import SPLITS, Splits, stratified_split
from bigmodels.fields import check_settings, setting
from bigmodels.layers.log_mel import hop_length
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Vocabulary

# Batches are padded to a multiple of this duration, so that fewer shapes need compiling.
_WIDTH_SECONDS = 0.25
# All samples are held in memory, two bytes each.
_MAX_SAMPLES = 1 << 31
_SPEAKER = "speaker:"


def check_split(name: str, value: str) -> None:
    """Raise a `ValueError` unless a split is `random` or `speaker:NAME`.

    Args:
        name: Name of the argument or setting.
        value: Its value.

    Example:

    >>> check_split("data.split", "speaker:theo")
    """
    if value != "random" and not value.startswith(_SPEAKER):
        raise ValueError(f"{name}: {short_repr(value)}, expected random or {_SPEAKER}NAME")


def _check_up_to(limit):
    def check(name, value):
        if not 0 <= value <= limit:
            raise ValueError(f"{name}: {short_repr(value)}, expected from 0 to {limit}")

    return check


@dataclasses.dataclass(frozen=True)
class AudioAugmentation:
    """Random changes of speed, white noise and leading silence for training recordings.

    A value of zero turns a transformation off. Evaluation data are never augmented.

    Args:
        speed: Largest change of speed, as a fraction; the pitch changes with it.
        noise: Largest noise level, as a fraction of the recording's level (root mean square).
        shift: Longest silence inserted before a recording, in seconds.

    Raises:
        ValueError: naming the argument, if its value is invalid.

    Example:

    >>> augmentation = bigmodels.data.AudioAugmentation(noise=0.1)
    >>> samples = 0.5 * tf.ones((2, 8000))
    >>> lengths, least = tf.constant([8000, 8000]), tf.constant([1, 1])
    >>> augmentation(samples, lengths, least, 8000, seed=tf.constant([0, 1])).shape
    TensorShape([2, 8000])
    """

    speed: float = setting(0.0, "Largest change of speed, as a fraction.", check=_check_up_to(0.5))
    noise: float = setting(
        0.0,
        "Largest noise level, as a fraction of the recording's level.",
        check=_check_up_to(10),
    )
    shift: float = setting(
        0.0, "Longest silence inserted before a recording, in seconds.", check=_check_up_to(10)
    )

    def __post_init__(self):
        check_settings(self)

    def __call__(
        self,
        samples: tf.Tensor,
        lengths: tf.Tensor,
        least: tf.Tensor,
        sample_rate: int,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Augment a batch.

        Args:
            samples: Floats in [-1, 1], `(batch, time)`.
            lengths: Number of samples of each recording, int32 `(batch,)`.
            least: Number of samples that each transcript needs at least, int32 `(batch,)`.
            sample_rate: Samples per second.
            seed: Two integers, a tensor; the same seed gives the same result.

        Returns:
            Floats `(batch, new time)`. The last sample of a recording is never zero, so that its
            end can be told from padding.
        """
        if not (self.speed or self.noise or self.shift):
            return samples
        draws = tf.random.stateless_uniform((3, tf.shape(samples)[0]), seed, -1.0, 1.0)
        last = tf.cast(lengths - 1, "float32")
        # The greatest speed at which `least` samples are left.
        fastest = tf.maximum(last / tf.cast(tf.maximum(least - 1, 1), "float32"), 0.5)
        speed = tf.minimum(1 + draws[0] * self.speed, fastest)
        silence = tf.cast((draws[1] + 1) / 2 * self.shift * sample_rate, "int32")
        lengths = silence + tf.maximum(tf.cast(last / speed, "int32") + 1, least)
        positions = tf.range(_whole_width(lengths, sample_rate))[None]  # (1, time)
        inside = (positions >= silence[:, None]) & (positions < lengths[:, None])
        # Linear interpolation between samples.
        sources = tf.cast(positions - silence[:, None], "float32") * speed[:, None]
        sources = tf.clip_by_value(sources, 0.0, last[:, None])
        before = tf.cast(sources, "int32")
        first = tf.gather(samples, before, batch_dims=1)
        after = tf.minimum(before + 1, tf.cast(last, "int32")[:, None])
        second = tf.gather(samples, after, batch_dims=1)
        augmented = first + (second - first) * (sources - tf.cast(before, "float32"))
        augmented = tf.where(inside, augmented, 0.0)
        power = tf.reduce_sum(augmented**2, 1) / tf.cast(lengths, "float32")
        level = tf.sqrt(power) * self.noise * (draws[2] + 1) / 2
        noise = tf.random.stateless_normal(tf.shape(augmented), seed + 1)
        is_padding = positions >= lengths[:, None]
        augmented = tf.clip_by_value(augmented + noise * level[:, None], -1.0, 1.0)
        augmented = tf.where(is_padding, 0.0, augmented)
        end = (positions == lengths[:, None] - 1) & (augmented == 0)
        return tf.where(end, 2.0**-15, augmented)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AudioData(Splits):
    """Recordings ready for `fit`, as returned by `load_audio`.

    Batches are `(samples, ids)`: float32 `(batch, time)` in [-1, 1], and the character ids of the
    transcripts, int32 `(batch, length)`. Both are padded with zeros at the end.

    Attributes (in addition to those of `Splits`):
        train: Shuffled, augmented batches; each iteration is a new epoch.
        train_sample: Training recordings without augmentation, as many as there are for validation.
        sizes: Number of recordings in each split.
        seconds: Total duration of each split.
        names: Names of the recordings of each split, in order.
        transcripts: Transcripts of each split, in order.
        speakers: Sorted names of the speakers in each split, as far as they are known.
        sample_rate: Samples per second.
        vocabulary: A `Vocabulary` fitted on the training transcripts only.

    Example:

    >>> data = bigmodels.data.load_audio("spoken_characters")
    >>> data.sample_rate, data.speakers["test"]
    (8000, ['one synthetic voice'])
    >>> data.transcripts["test"][0]
    '...'
    """

    seconds: dict[str, float]
    names: dict[str, list[str]]
    transcripts: dict[str, list[str]]
    speakers: dict[str, list[str]]
    sample_rate: int
    vocabulary: Vocabulary


def clean_transcript(text: str) -> str:
    """Normalise a transcript: lower case, Unicode NFC, single spaces.

    Args:
        text: A string.

    Returns:
        A string.

    Example:

    >>> bigmodels.data.clean_transcript("  Hello   World ")
    'hello world'
    """
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def load_audio(
    name: str = "spoken_characters",
    batch_size: int = 32,
    *,
    sample_rate: int | None = None,
    split: str = "random",
    stack: int = 2,
    augmentation: AudioAugmentation | None = None,
    word_folder: str = "auto",
    skip_bad_files: bool = False,
    data_dir: str | None = None,
    seed: int = 0,
) -> AudioData:
    """Load speech recordings by name: check, split and batch them.

    Args:
        name: `spoken_characters` (embedded), `audio:DIR`, or a TFDS name.
        batch_size: Global batch size, in recordings.
        sample_rate: Samples per second to which all recordings are resampled. By default their own
            rate, which must then be the same for all.
        split: `random`, or `speaker:NAME` to test on that speaker alone and train on the others.
        stack: Frames of 10 ms per step of the model. CTC needs one step for each character, and one
            more between two equal characters.
        augmentation: An `AudioAugmentation` for training, or `None`.
        word_folder: Which level of nested folders in `audio:DIR` names the word: `first`, `last`,
            or `auto`, which recognises the names of speakers.
        skip_bad_files: Whether to leave out recordings of `audio:DIR` that are missing, unreadable
            or invalid, with a note on stderr. Otherwise the first one is an error.
        data_dir: Directory in which TFDS keeps prepared sets.
        seed: Seed of the order and the augmentation of training; the splits do not depend on it.

    Returns:
        An `AudioData`.

    Raises:
        ValueError: if an argument, a file or a recording is invalid; the message names it.

    Example:

    >>> data = bigmodels.data.load_audio("spoken_characters", batch_size=4)
    >>> samples, ids = next(iter(data.train))
    >>> samples.dtype, samples.shape[0], ids.shape
    (tf.float32, 4, TensorShape([4, 5]))
    """
    notes = Notes()
    for argument, value in {"batch_size": batch_size, "stack": stack}.items():
        if value < 1:
            raise ValueError(f"{argument}: {value!r}, expected a positive integer")
    check_split("data.split", split)
    source = _source(name, data_dir, word_folder, skip_bad_files, notes)
    splits = _cut(source, name, split, notes)
    sample_rate = _common_rate(splits, sample_rate)
    frames = hop_length(sample_rate) * stack
    _note_changes(splits, sample_rate, notes)
    splits = _all_prepared(splits, sample_rate, frames, name, skip_bad_files, notes)
    transcripts = {part: [r.transcript for r in splits[part]] for part in SPLITS}
    vocabulary = Vocabulary.fit("".join(transcripts["train"]))
    for part in ("validation", "test"):
        text = "".join(transcripts[part])
        note_unknown(notes, "audio", f" of {part}", vocabulary.characters, text)
    longest = max(len(text) for texts in transcripts.values() for text in texts)
    batches = {
        part: _Batches(splits[part], vocabulary, longest, sample_rate, frames, augmentation)
        for part in SPLITS
    }
    sizes = {part: len(splits[part]) for part in SPLITS}
    train, train_from = training_batches(
        tf.data.Dataset.range(sizes["train"]), sizes["train"], batch_size, seed, batches["train"]
    )

    def in_order(part, count):
        return evaluation_batches(tf.data.Dataset.range(count), batch_size, batches[part])

    return AudioData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order("train", min(sizes["train"], sizes["validation"])),
        validation=in_order("validation", sizes["validation"]),
        test=in_order("test", sizes["test"]),
        sizes=sizes,
        seconds={part: sum(len(r.samples) for r in splits[part]) / sample_rate for part in SPLITS},
        names={part: [r.name for r in splits[part]] for part in SPLITS},
        transcripts=transcripts,
        speakers={
            part: sorted({r.speaker for r in splits[part] if r.speaker is not None})
            for part in SPLITS
        },
        sample_rate=sample_rate,
        vocabulary=vocabulary,
        notes=notes,
    )


class _Batches:
    """Makes a batch from the indices of a split's recordings."""

    def __init__(self, recordings, vocabulary, longest, sample_rate, frames, augmentation):
        self.sample_rate, self.longest = sample_rate, longest
        self.augmentation = augmentation
        self.samples = tf.RaggedTensor.from_row_lengths(
            np.concatenate([recording.samples for recording in recordings]),
            np.array([len(recording.samples) for recording in recordings], "int64"),
        )
        texts = [recording.transcript for recording in recordings]
        ids = np.zeros((len(texts), longest), "int32")
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = vocabulary.encode(text)
        self.ids = tf.constant(ids)
        self.least = tf.constant([_least(text, frames) for text in texts], "int32")

    def __call__(self, indices, seed):
        ragged = tf.gather(self.samples, indices)
        lengths = tf.cast(ragged.row_lengths(), "int32")
        width = _whole_width(lengths, self.sample_rate)
        samples = tf.cast(ragged.to_tensor(shape=(None, None)), "float32") / 32768
        samples = tf.pad(samples, [[0, 0], [0, width - tf.shape(samples)[1]]])
        if self.augmentation is not None and seed is not None:
            least = tf.gather(self.least, indices)
            samples = self.augmentation(samples, lengths, least, self.sample_rate, seed)
        return samples, tf.gather(self.ids, indices)


def _whole_width(lengths, sample_rate):
    step = int(_WIDTH_SECONDS * sample_rate)
    return -(-tf.reduce_max(lengths) // step) * step


def _steps(text):
    """Number of steps that CTC needs for a text."""
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))


def _least(text, frames):
    """Smallest number of samples for a text, at `frames` samples per step."""
    return (_steps(text) - 1) * frames + 1


def _source(name, data_dir, word_folder, skip_bad_files, notes):
    """A list of recordings, or a dict of lists by split if the set has splits."""
    if name in embedded.SPEECH:
        return embedded.SPEECH[name]()
    if files := readers.find("recordings", name):
        source, where = files
        options = {"word_folder": word_folder, "skip_bad_files": skip_bad_files, "notes": notes}
        return source.read(where, **options)
    if embedded.is_known(name):
        raise readers.refusal("recordings", name, "recordings")
    return tfds.audio_dataset(name, data_dir)


def _cut(source, name, split, notes):
    """`{split: recordings}`, independent of the seed, with no recording in two splits."""
    given = source if isinstance(source, dict) else {"all": source}
    everything = [recording for recordings in given.values() for recording in recordings]
    if (total := sum(len(recording.samples) for recording in everything)) > _MAX_SAMPLES:
        raise ValueError(f"dataset: {name!r} has {total:,} samples, more than {_MAX_SAMPLES:,}")
    if split.startswith(_SPEAKER):
        held_out = split.removeprefix(_SPEAKER)
        known = sorted({r.speaker for r in everything if r.speaker is not None})
        if held_out not in known:
            speakers = (
                f"the speakers of {name!r} are {', '.join(known)}"
                if known
                else f"{name!r} does not name its speakers"
            )
            raise ValueError(f"data.split: {split!r}, but {speakers}")
        test = [r for r in everything if r.speaker == held_out]
        rest = [r for r in everything if r.speaker not in (held_out, None)]
        unnamed = [r.name for r in everything if r.speaker is None]
        notes.leave_out("audio", "recordings without the name of a speaker", unnamed)
        if len(rest) < 10:
            raise ValueError(f"data.split: {split!r} leaves {len(rest)} recordings to train on")
        rows = _random_split(rest)
        # The test is the held-out speaker, so the rest needs no test split of its own.
        splits = {"train": [rest[i] for i in (*rows["train"], *rows["test"])]}
        splits |= {"validation": [rest[i] for i in rows["validation"]], "test": test}
    elif isinstance(source, dict):
        splits = _completed(source, name, notes)
    else:
        if len(everything) < 10:
            raise ValueError(
                f"dataset: {name!r} has {len(everything)} recordings; at least 10 are needed to "
                "split off validation and test"
            )
        rows = _random_split(everything)
        splits = {part: [everything[i] for i in rows[part]] for part in SPLITS}
    return _without_duplicates(splits, name, notes)


def _completed(splits, name, notes):
    """All three splits; missing ones take a tenth of the training recordings each."""
    missing = [part for part in SPLITS if part not in splits]
    if not missing:
        return splits
    everything = splits["train"]
    if len(everything) < 10:
        raise ValueError(
            f"dataset: {name!r} has {len(everything)} recordings of train; at least 10 are needed "
            f"to split off {' and '.join(missing)}"
        )
    rows = _random_split(everything)
    train = [i for part in SPLITS if part not in missing for i in rows[part]]
    splits = splits | {part: [everything[i] for i in rows[part]] for part in missing}
    each = "" if len(missing) == 1 else " each"
    notes.say(f"audio: a tenth of train{each} is split off for {' and '.join(missing)}.")
    return splits | {"train": [everything[i] for i in sorted(train)]}


def _random_split(recordings):
    """Rows of an 80/10/10 split, stratified by transcript if every transcript is frequent."""
    labels = [clean_transcript(recording.transcript) for recording in recordings]
    counts = collections.Counter(labels)
    too_rare = min(counts.values()) < 10 or len(counts) < 2
    numbers = {text: i for i, text in enumerate(sorted(counts))}
    return stratified_split([0 if too_rare else numbers[text] for text in labels])


def _without_duplicates(splits, name, notes):
    """Splits in which no recording is a copy of one in another split, kept in test if possible."""
    seen, unique, duplicates = set(), {}, []
    for split in ("test", "validation", "train"):
        keys = [hashlib.sha1(recording.samples).digest() for recording in splits[split]]
        unique[split] = []
        for key, recording in zip(keys, splits[split], strict=True):
            (duplicates if key in seen else unique[split]).append(recording)
        seen |= set(keys)
        if not unique[split]:
            raise ValueError(f"dataset: {name!r} has no recording for {split}")
    names = [recording.name for recording in duplicates]
    notes.leave_out("audio", "recordings that are a copy of one in another split", names)
    return unique


def _common_rate(splits, sample_rate):
    """The given sample rate, or else the one that all recordings have."""
    if sample_rate is not None:
        return sample_rate
    first, *others = (recording for recordings in splits.values() for recording in recordings)
    for other in others:
        if other.sample_rate != first.sample_rate:
            raise ValueError(
                f"audio: {other.name!r} has {other.sample_rate} samples per second but "
                f"{first.name!r} has {first.sample_rate}; set data.sample_rate to resample them"
            )
    return first.sample_rate


def _note_changes(splits, sample_rate, notes):
    """Note how recordings and transcripts are normalised."""
    everything = [recording for recordings in splits.values() for recording in recordings]
    changes = {
        f"are resampled to {sample_rate:,} samples per second": [
            recording for recording in everything if recording.sample_rate != sample_rate
        ],
        "end in zeros, which are cut off": [
            recording
            for recording in everything
            if len(without_end(recording.samples)) < len(recording.samples)
        ],
    }
    for change, recordings in changes.items():
        if recordings:
            first = recordings[0].name
            notes.say(f"audio: {len(recordings):,} recordings {change}; the first is {first!r}.")
    changed = [r.transcript for r in everything if clean_transcript(r.transcript) != r.transcript]
    if changed:
        notes.say(
            f"audio: {len(changed):,} transcripts are converted to lower case and single spaces; "
            f"the first is {short_repr(changed[0])}."
        )


def _all_prepared(splits, sample_rate, frames, name, skip_bad_files, notes):
    """Recordings as the model takes them, by split, without invalid ones."""
    prepared, bad = {split: [] for split in splits}, {}
    for split, recordings in splits.items():
        for recording in recordings:
            try:
                prepared[split].append(_prepared(recording, sample_rate, frames))
            except ValueError as error:
                if not skip_bad_files:
                    raise
                bad[recording.name] = str(error).removeprefix(f"audio: {recording.name!r} ")
    notes.leave_out("audio", "invalid recordings", bad)
    for split, recordings in prepared.items():
        if not recordings:
            raise ValueError(f"dataset: {name!r} has no valid recording for {split}")
    return prepared


def _prepared(recording, sample_rate, frames):
    """A recording as the model takes it, checked for sound, transcript and duration."""
    where = f"audio: {recording.name!r}"
    text = clean_transcript(recording.transcript)
    if not text:
        raise ValueError(f"{where} has an empty transcript")
    samples = without_end(resampled(recording.samples, recording.sample_rate, sample_rate))
    if not len(samples):
        raise ValueError(f"{where} is silent: all its samples are 0")
    if len(samples) > MAX_SECONDS * sample_rate:
        raise ValueError(f"{where} lasts more than {MAX_SECONDS} s; cut it")
    if len(samples) < _least(text, frames):
        steps = -(-len(samples) // frames)
        raise ValueError(
            f"{where} lasts {len(samples) / sample_rate:.2f} s, which are {steps} steps of the "
            f"model; its transcript of {len(text)} characters needs {_steps(text)}; reduce "
            "model.stack to get more steps"
        )
    return dataclasses.replace(recording, samples=samples, transcript=text)
