"""Recordings with their transcripts, from wherever they come."""

import collections
import dataclasses
import hashlib
import itertools
import unicodedata

import numpy as np
import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.recordings import MAX_SECONDS, resampled, without_end
from bigmodels.data.splits import SPLITS, Splits, stratified_split
from bigmodels.data.text import note_unknown
from bigmodels.layers.log_mel import hop_length
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Vocabulary

# Batches are padded to a multiple of it: fewer shapes to compile for.
_WIDTH_SECONDS = 0.25
# All are held in memory, two bytes a sample.
_MAX_SAMPLES = 1 << 31
_SPEAKER = "speaker:"


@dataclasses.dataclass(frozen=True)
class AudioAugmentation:
    """How recordings are varied for training; zero turns a kind off. Evaluation never uses it.

    Args:
        speed: Largest change of speed, and of pitch with it, as a share.
        noise: Loudest white noise, as a share of the recording's own root mean square.
        shift: Longest silence put before it, in seconds.
    """

    speed: float = 0.0
    noise: float = 0.0
    shift: float = 0.0

    def __call__(self, samples, lengths, least, sample_rate, seed):
        """Vary a batch.

        Args:
            samples: Floats in [-1, 1], `(batch, time)`.
            lengths: Samples of each recording, int32 `(batch,)`.
            least: Samples that a recording must keep for its transcript, int32 `(batch,)`.
            sample_rate: Samples a second.
            seed: Two integers; the same seed varies the same way.

        Returns:
            Samples of another length; each recording's last one is not zero, so that it is known.
        """
        if not (self.speed or self.noise or self.shift):
            return samples
        draws = tf.random.stateless_uniform((3, tf.shape(samples)[0]), seed, -1.0, 1.0)
        last = tf.cast(lengths - 1, "float32")
        # So fast that as many samples are left as must be, at most.
        fastest = tf.maximum(last / tf.cast(tf.maximum(least - 1, 1), "float32"), 0.5)
        speed = tf.minimum(1 + draws[0] * self.speed, fastest)
        silence = tf.cast((draws[1] + 1) / 2 * self.shift * sample_rate, "int32")
        lengths = silence + tf.maximum(tf.cast(last / speed, "int32") + 1, least)
        places = tf.range(_whole_width(lengths, sample_rate))[None]  # (1, time)
        inside = (places >= silence[:, None]) & (places < lengths[:, None])
        # Between two samples lies what a straight line says.
        wanted = tf.cast(places - silence[:, None], "float32") * speed[:, None]
        wanted = tf.clip_by_value(wanted, 0.0, last[:, None])
        before = tf.cast(wanted, "int32")
        first = tf.gather(samples, before, batch_dims=1)
        after = tf.minimum(before + 1, tf.cast(last, "int32")[:, None])
        second = tf.gather(samples, after, batch_dims=1)
        varied = first + (second - first) * (wanted - tf.cast(before, "float32"))
        varied = tf.where(inside, varied, 0.0)
        power = tf.reduce_sum(varied**2, 1) / tf.cast(lengths, "float32")
        level = tf.sqrt(power) * self.noise * (draws[2] + 1) / 2
        noise = tf.random.stateless_normal(tf.shape(varied), seed + 1)
        sounding = places < lengths[:, None]
        varied = tf.clip_by_value(varied + noise * level[:, None], -1.0, 1.0)
        varied = tf.where(sounding, varied, 0.0)
        end = (places == lengths[:, None] - 1) & (varied == 0)
        return tf.where(end, 2.0**-15, varied)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AudioData(Splits):
    """Recordings ready for `fit`: samples `(batch, time)` and character ids `(batch, length)`.

    Both are padded with zeros at the end.

    Attributes (and those of `Splits`):
        train: Shuffled, varied batches; each iteration is another epoch.
        train_sample: As many training recordings as there are for validation, as evaluation sees
            them.
        sizes: Number of recordings of each split.
        seconds: How long those of each split last together.
        names: What each recording of a split is called, in order.
        transcripts: What is said in each, in order.
        speakers: Who speaks in each split, if that is known: names in order.
        sample_rate: Samples a second.
        vocabulary: A `Vocabulary` fitted on the training transcripts only.
    """

    seconds: dict
    names: dict
    transcripts: dict
    speakers: dict
    sample_rate: int
    vocabulary: Vocabulary


def clean_transcript(text):
    """One form for what is said alike: lower case, Unicode NFC, single spaces.

    Args:
        text: A string.

    Returns:
        A string.
    """
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def load_audio(
    name="spoken_characters",
    batch_size=32,
    *,
    sample_rate=None,
    split="random",
    stack=2,
    augmentation=None,
    word_folder="auto",
    skip_bad_files=False,
    data_dir=None,
    seed=0,
):
    """Load recordings by name, check them, split them, batch them.

    Args:
        name: `spoken_characters` (embedded), `audio:DIR`, or a TFDS name.
        batch_size: The global batch.
        sample_rate: What all recordings are brought to; their own when left out, if they share one.
        split: `random`, or `speaker:NAME`: all that one says is for testing, and nothing else.
        stack: Frames of 10 ms that make one step of the model: CTC needs a step for each character,
            and one more between two that are alike.
        augmentation: An `AudioAugmentation` for training, or `None`.
        word_folder: Which folder names the word where folders of `audio:DIR` lie in folders:
            `first`, `last`, or `auto`, which goes by names that only speakers have.
        skip_bad_files: Whether recordings of `audio:DIR` that are missing, cannot be read, or do
            not fit, are left out, counted and named on stderr; else the first is an error.
        data_dir: Where TFDS finds prepared sets.
        seed: Decides the order and the augmentation of training, nothing else.

    Returns:
        An `AudioData`.

    Raises:
        ValueError: naming the argument, file or recording that does not fit.
    """
    notes = Notes()
    for argument, value in {"batch_size": batch_size, "stack": stack}.items():
        if value < 1:
            raise ValueError(f"{argument}: {value!r}, expected a positive integer")
    source = _source(name, data_dir, word_folder, skip_bad_files, notes)
    splits = _cut(source, name, split, notes)
    sample_rate = _common_rate(splits, sample_rate)
    frames = hop_length(sample_rate) * stack
    _note_changes(splits, sample_rate, notes)
    splits = _all_prepared(splits, sample_rate, frames, name, skip_bad_files, notes)
    transcripts = {w: [each.transcript for each in splits[w]] for w in SPLITS}
    vocabulary = Vocabulary.fit("".join(transcripts["train"]))
    for which in ("validation", "test"):
        said = "".join(transcripts[which])
        note_unknown(notes, "audio", f" of {which}", vocabulary.characters, said)
    longest = max(len(text) for texts in transcripts.values() for text in texts)
    batches = {
        w: _Batches(splits[w], vocabulary, longest, sample_rate, frames, augmentation)
        for w in SPLITS
    }
    sizes = {w: len(splits[w]) for w in SPLITS}
    train, train_from = training_batches(
        tf.data.Dataset.range(sizes["train"]), sizes["train"], batch_size, seed, batches["train"]
    )

    def in_order(which, count):
        return evaluation_batches(tf.data.Dataset.range(count), batch_size, batches[which])

    return AudioData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order("train", min(sizes["train"], sizes["validation"])),
        validation=in_order("validation", sizes["validation"]),
        test=in_order("test", sizes["test"]),
        sizes=sizes,
        seconds={w: sum(len(each.samples) for each in splits[w]) / sample_rate for w in SPLITS},
        names={w: [each.name for each in splits[w]] for w in SPLITS},
        transcripts=transcripts,
        speakers={
            w: sorted({each.speaker for each in splits[w] if each.speaker is not None})
            for w in SPLITS
        },
        sample_rate=sample_rate,
        vocabulary=vocabulary,
        notes=notes,
    )


class _Batches:
    """What makes a batch of the numbers of a split's recordings."""

    def __init__(self, recordings, vocabulary, longest, sample_rate, frames, augmentation):
        self.sample_rate, self.longest = sample_rate, longest
        self.augmentation = augmentation
        self.samples = tf.RaggedTensor.from_row_lengths(
            np.concatenate([each.samples for each in recordings]),
            np.array([len(each.samples) for each in recordings], "int64"),
        )
        texts = [each.transcript for each in recordings]
        ids = np.zeros((len(texts), longest), "int32")
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = vocabulary.encode(text)
        self.ids = tf.constant(ids)
        self.least = tf.constant([_least(text, frames) for text in texts], "int32")

    def __call__(self, numbers, seed):
        chosen = tf.gather(self.samples, numbers)
        lengths = tf.cast(chosen.row_lengths(), "int32")
        width = _whole_width(lengths, self.sample_rate)
        samples = tf.cast(chosen.to_tensor(shape=(None, None)), "float32") / 32768
        samples = tf.pad(samples, [[0, 0], [0, width - tf.shape(samples)[1]]])
        if self.augmentation is not None and seed is not None:
            least = tf.gather(self.least, numbers)
            samples = self.augmentation(samples, lengths, least, self.sample_rate, seed)
        return samples, tf.gather(self.ids, numbers)


def _whole_width(lengths, sample_rate):
    step = int(_WIDTH_SECONDS * sample_rate)
    return -(-tf.reduce_max(lengths) // step) * step


def _steps(text):
    """How many steps CTC needs for a text."""
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))


def _least(text, frames):
    """How many samples a recording of a text must have, at `frames` samples a step."""
    return (_steps(text) - 1) * frames + 1


def _source(name, data_dir, word_folder, skip_bad_files, notes):
    """Recordings, or a dict of them by split where the set brings one."""
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
    """`{split: recordings}`, the same whatever the seed; a recording that comes twice is in one."""
    given = source if isinstance(source, dict) else {"all": source}
    everything = [each for recordings in given.values() for each in recordings]
    if (total := sum(len(each.samples) for each in everything)) > _MAX_SAMPLES:
        raise ValueError(f"dataset: {name!r} has {total:,} samples, more than {_MAX_SAMPLES:,}")
    if split.startswith(_SPEAKER):
        held_out = split.removeprefix(_SPEAKER)
        known = sorted({each.speaker for each in everything if each.speaker is not None})
        if held_out not in known:
            who = f"those of {name!r} are {', '.join(known)}" if known else "nobody is named"
            raise ValueError(f"data.split: {split!r}, but {who}")
        test = [each for each in everything if each.speaker == held_out]
        rest = [each for each in everything if each.speaker not in (held_out, None)]
        nobodys = [each.name for each in everything if each.speaker is None]
        notes.leave_out("audio", "recordings of which nobody says who speaks", nobodys)
        if len(rest) < 10:
            raise ValueError(f"data.split: {split!r} leaves {len(rest)} recordings to train on")
        rows = _random_split(rest)
        # A tenth for validation; that speaker is the test.
        found = {"train": [rest[i] for i in (*rows["train"], *rows["test"])]}
        found |= {"validation": [rest[i] for i in rows["validation"]], "test": test}
    elif split != "random":
        raise ValueError(f"data.split: {split!r}, expected random or {_SPEAKER}NAME")
    elif isinstance(source, dict):
        found = _completed(source, name, notes)
    else:
        if len(everything) < 10:
            raise ValueError(
                f"dataset: {name!r} has {len(everything)} recordings; at least 10 are needed to "
                "split off validation and test"
            )
        rows = _random_split(everything)
        found = {w: [everything[i] for i in rows[w]] for w in SPLITS}
    return _without_doubles(found, name, notes)


def _completed(splits, name, notes):
    """Splits, of which those that are not given are cut from the training's, a tenth each."""
    missing = [which for which in SPLITS if which not in splits]
    if not missing:
        return splits
    everything = splits["train"]
    if len(everything) < 10:
        raise ValueError(
            f"dataset: {name!r} has {len(everything)} recordings of train; at least 10 are needed "
            f"to split off {' and '.join(missing)}"
        )
    rows = _random_split(everything)
    kept = [i for which in SPLITS if which not in missing for i in rows[which]]
    found = splits | {which: [everything[i] for i in rows[which]] for which in missing}
    notes.say(f"audio: a tenth of train each is cut off for {' and '.join(missing)}.")
    return found | {"train": [everything[i] for i in sorted(kept)]}


def _random_split(recordings):
    """Rows of an 80/10/10 split, in which every transcript that comes often keeps its share."""
    labels = [clean_transcript(each.transcript) for each in recordings]
    counts = collections.Counter(labels)
    seldom = min(counts.values()) < 10 or len(counts) < 2
    numbers = {text: i for i, text in enumerate(sorted(counts))}
    return stratified_split([0 if seldom else numbers[text] for text in labels])


def _without_doubles(splits, name, notes):
    """Splits in which no recording is a copy of one for testing or validation."""
    seen, found, doubles = set(), {}, []
    for which in ("test", "validation", "train"):
        keys = [hashlib.sha1(each.samples).digest() for each in splits[which]]
        pairs = zip(keys, splits[which], strict=True)
        found[which] = []
        for key, each in pairs:
            (doubles if key in seen else found[which]).append(each)
        seen |= set(keys)
        if not found[which]:
            raise ValueError(f"dataset: {name!r} has no recording for {which}")
    names = [each.name for each in doubles]
    notes.leave_out("audio", "recordings that are a copy of one in another split", names)
    return found


def _common_rate(splits, wanted):
    """The sample rate asked for, or the one that all share."""
    if wanted is not None:
        return wanted
    first, *others = (each for recordings in splits.values() for each in recordings)
    for each in others:
        if each.sample_rate != first.sample_rate:
            raise ValueError(
                f"audio: {each.name!r} has {each.sample_rate} samples a second but {first.name!r} "
                f"has {first.sample_rate}; set data.sample_rate to bring them to one"
            )
    return first.sample_rate


def _note_changes(splits, sample_rate, notes):
    """Say how recordings are brought to one form."""
    everything = [each for recordings in splits.values() for each in recordings]
    changes = {
        f"have another rate than {sample_rate:,} samples a second, and are brought to it": [
            each for each in everything if each.sample_rate != sample_rate
        ],
        "end in zeros, which are cut off": [
            each for each in everything if len(without_end(each.samples)) < len(each.samples)
        ],
    }
    for what, those in changes.items():
        if those:
            first = those[0].name
            notes.say(f"audio: {len(those):,} recordings {what}; the first is {first!r}.")
    changed = [e.transcript for e in everything if clean_transcript(e.transcript) != e.transcript]
    if changed:
        notes.say(
            f"audio: {len(changed):,} transcripts are written in lower case, with single spaces; "
            f"the first is {short_repr(changed[0])}."
        )


def _all_prepared(splits, sample_rate, frames, name, skip_bad_files, notes):
    """Recordings as the model takes them, by split, without those that do not fit."""
    prepared, bad = {which: [] for which in splits}, {}
    for which, recordings in splits.items():
        for each in recordings:
            try:
                prepared[which].append(_prepared(each, sample_rate, frames))
            except ValueError as error:
                if not skip_bad_files:
                    raise
                bad[each.name] = str(error).removeprefix(f"audio: {each.name!r} ")
    notes.leave_out("audio", "recordings that do not fit", bad)
    for which, recordings in prepared.items():
        if not recordings:
            raise ValueError(f"dataset: {name!r} has no recording for {which} that fits")
    return prepared


def _prepared(recording, sample_rate, frames):
    """A recording as the model takes it, if there is something to hear and to say in it."""
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
            f"model; its transcript of {len(text)} characters needs {_steps(text)}; a "
            "smaller model.stack makes more steps"
        )
    return dataclasses.replace(recording, samples=samples, transcript=text)
