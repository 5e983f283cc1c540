"""Speech recognition with a deep recurrent network and CTC (article 1.1, 2.3: "DRNN").

    bigmodels-train --task=speech_recognition --workdir=runs/speech
    bigmodels-train --task=speech_recognition --dataset=spoken_digit --workdir=runs/digits
    bigmodels-train --task=speech_recognition --dataset=spoken_digit --workdir=runs/theo \\
        --set data.split=speaker:theo
    bigmodels-predict --workdir=runs/digits --input=recording.wav

Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import collections
import dataclasses
import importlib

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.checks import shown
from bigmodels.data import AudioAugmentation, load_audio
from bigmodels.data.notes import Notes
from bigmodels.data.readers.audio_files import list_recordings
from bigmodels.data.readers.recordings import note_remarks, read_audio, resampled, without_end
from bigmodels.data.readers.text_files import given_path
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.layers import LogMel
from bigmodels.losses import CTC
from bigmodels.models import DRNN
from bigmodels.reports import plots
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_choice,
    check_not_negative,
    check_share,
    check_sizes,
)
from bigmodels.tokenizers import Vocabulary

# Of the beam search that is measured and exported.
_NUM_BEAMS = 16
_MOST_CLASSES = 40
_WORST = 25
_NAMED = 12  # Speakers.


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.DRNN`.

    Without any masks SpecAugment is off: of words that last a third of a second it leaves too
    little. `time_masks=2`, `frequency_masks=2` turn it on.
    """

    rnn_units: int = 96
    num_layers: int = 2
    dropout_rate: float = 0.2
    mel_bins: int = 40
    stack: int = 3
    time_masks: int = 0
    frequency_masks: int = 0
    time_share: float = 0.15
    frequency_share: float = 0.2

    def __post_init__(self):
        check_sizes(self, "rnn_units", "num_layers", "mel_bins", "stack")
        for name in ("time_masks", "frequency_masks"):
            check_not_negative(f"model.{name}", getattr(self, name))
        for name in ("time_share", "frequency_share"):
            check_share(f"model.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How recordings are read: `sample_rate` brings all to one; `None` keeps the one they share.

    `split` is `random`, or `speaker:NAME`, which tests on all that one says and trains on the rest.
    `word_folder` says which folder names the word where folders lie in folders: `first`, `last`, or
    `auto`, which goes by names that only speakers have. `skip_bad_files` leaves out recordings that
    are missing, cannot be read or do not fit.
    """

    sample_rate: int | None = None
    split: str = "random"
    word_folder: str = "auto"
    skip_bad_files: bool = False

    def __post_init__(self):
        check_choice("data.word_folder", self.word_folder, ("auto", "first", "last"))
        if self.split != "random" and not self.split.startswith("speaker:"):
            raise ValueError(f"data.split: {shown(self.split)}, expected random or speaker:NAME")


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.AudioAugmentation`."""

    speed: float = 0.1
    noise: float = 0.02
    shift: float = 0.1

    def __post_init__(self):
        limits = {"speed": 0.5, "noise": 10, "shift": 10}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"augmentation.{name}: {shown(value)}, expected from 0 to {limit}")


@dataclasses.dataclass(frozen=True)
class SpeechRecognition(Config):
    """The recipe."""

    dataset: str = "spoken_characters"
    epochs: int = 30
    batch_size: int = 32
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: Optimizer = Optimizer(learning_rate=4e-3)


def load_data(config):
    """Samples, and the ids of what is said."""
    _jiwer()  # Before anything is trained that could not be measured.
    return load_audio(
        config.dataset,
        config.batch_size,
        sample_rate=config.data.sample_rate,
        split=config.data.split,
        stack=config.model.stack,
        augmentation=AudioAugmentation(**dataclasses.asdict(config.augmentation)),
        word_folder=config.data.word_folder,
        skip_bad_files=config.data.skip_bad_files,
        data_dir=config.data_dir,
        seed=config.seed,
    )


def _jiwer():
    with extras.require_extra("task: speech_recognition", "speech"):
        return importlib.import_module("jiwer")


def build_model(config, data):
    """A built network that carries its vocabulary, and how loud each band is in training."""
    settings = dataclasses.asdict(config.model)
    log_mel = LogMel(data.sample_rate, config.model.mel_bins)
    features = np.concatenate(
        [log_mel(row[None])[0] for rows, _ in data.train_sample for row in map(without_end, rows)]
    )
    model = DRNN(
        len(data.vocabulary),
        **settings,
        sample_rate=data.sample_rate,
        mean=features.mean(0).tolist(),
        deviation=(features.std(0) + 1e-3).tolist(),  # A band may be silent throughout.
        vocabulary=data.vocabulary.characters,
    )
    model.build((None, None))
    return model


def compile_model(model, config, steps):
    """CTC, in nats a recording."""
    model.compile(config.optimizer.build(steps), CTC(), jit_compile=config.keras_jit_compile)


def search_space(hp):
    """The network's size, how fast it learns, and what keeps it from overfitting."""
    return {
        "model.rnn_units": hp.Choice("model.rnn_units", [64, 96, 128, 192]),
        "model.num_layers": hp.Int("model.num_layers", 1, 3),
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1),
        "model.time_masks": hp.Int("model.time_masks", 0, 3),
        "model.frequency_masks": hp.Int("model.frequency_masks", 0, 3),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 5e-4, 1e-2, sampling="log"),
    }


def _heard(model, batches, num_beams=None):
    """The transcripts of batches."""
    return [text for samples, _ in batches for text in model.transcribe(samples, num_beams)]


def _rates(said, heard, keys=None):
    """Word and character error rate, and the share of whole transcripts that are right."""
    jiwer = _jiwer()

    def rate(process):
        found = [process(*pair) for pair in zip(said, heard, strict=True)]
        wrong = np.array([f.substitutions + f.deletions + f.insertions for f in found], "float64")
        each = np.array([f.substitutions + f.deletions + f.hits for f in found], "float64")
        return Observations(wrong / each, "recordings", each, keys)

    same = np.array([a == b for a, b in zip(said, heard, strict=True)], "float64")
    return {
        "word_error_rate": rate(jiwer.process_words),
        "character_error_rate": rate(jiwer.process_characters),
        "accuracy": Observations(same, "recordings", keys=keys),
    }


def measure(model, data, config, measured):
    """Error rates of each split, and on the test also with beams and of the commonest transcript.

    Returns:
        For each split `word_error_rate`, `character_error_rate`, `accuracy` (whole transcripts that
        are right), each with the likeliest character of every step; under "test" also the first two
        with `_beam`, found by a search with 16 beams, and with `_commonest`, for always saying what
        the training recordings say most often. And the test split's transcripts, of the first kind.
    """
    sets = {"train": data.train_sample, "validation": data.validation}
    metrics = {}
    for split, batches in sets.items():
        heard = _heard(model, batches)
        rates = _rates(data.transcripts[split][: len(heard)], heard)
        metrics[split] = {name: rate.figure() for name, rate in rates.items()}

    losses = CTC(reduction="none")
    said = data.transcripts["test"]
    keys = intervals.keys(without_end(row) for rows, _ in data.test for row in rows.numpy())
    each = np.concatenate([losses(ids, model.hear(samples)) for samples, ids in data.test])
    ((commonest, _),) = collections.Counter(data.transcripts["train"]).most_common(1)
    others = {
        "beam": _heard(model, data.test, _NUM_BEAMS),
        "commonest": [commonest] * len(said),
    }
    heard = _heard(model, data.test)
    metrics["test"] = {"loss": Observations(each, "recordings", keys=keys)}
    metrics["test"] |= _rates(said, heard, keys)
    for name, texts in others.items():
        rates = _rates(said, texts, keys)
        metrics["test"] |= {f"{rate}_{name}": rates[rate] for rate in [*rates][:2]}
    return metrics, heard


def _spectrograms(data, batches, log_mel, titles, marks=None):
    """Pictures of the first recordings of some batches, of which there may be fewer than titles."""
    rows = [without_end(row.numpy()) for row, _ in batches.unbatch().take(len(titles))]
    titles = titles[: len(rows)]
    features = [log_mel(row[None])[0].numpy() for row in rows]
    return plots.spectrograms(features, log_mel.hop / data.sample_rate, titles, marks)


def examples(data):
    """What the first training recordings look like to the network."""
    texts = data.transcripts["train"][:4]
    log_mel = LogMel(data.sample_rate)
    return {"Training recordings": _spectrograms(data, data.train_sample, log_mel, texts)}


def sample(model, data, config):
    """What it hears in the first validation recordings."""
    heard = _heard(model, data.validation.take(1))[:12]
    said = data.transcripts["validation"][: len(heard)]
    return _table(("said", "heard"), zip(said, heard, strict=True))


def draw(model, data, config, found):
    """Where characters come from in a few test recordings, confusions, and the worst."""
    said, heard = data.transcripts["test"], found
    drawn = {}
    characters = Vocabulary(model.vocabulary)
    marks = []
    for row, _ in data.test.unbatch().take(4):
        (ids,) = tf.argmax(model.hear(without_end(row.numpy())[None]), -1).numpy()
        new = np.flatnonzero((ids != 0) & (np.diff(ids, prepend=0) != 0))
        seconds = (new + 0.5) * model.step_length / data.sample_rate
        marks.append([(s, characters.decode([ids[i]])) for s, i in zip(seconds, new, strict=True)])
    titles = [f"{a} \N{RIGHTWARDS ARROW} {b}" for a, b in zip(said, heard, strict=True)][:4]
    name = "Test recordings, and when which character is written"
    drawn[name] = _spectrograms(data, data.test, model.log_mel, titles, marks)
    words = sorted({*data.transcripts["train"], *said})
    if len(words) <= _MOST_CLASSES:
        number = {word: i for i, word in enumerate(words)}
        numbers = [number.get(text, len(words)) for text in heard]
        names = [*words, "other"] if len(words) in numbers else words
        labels = [number[text] for text in said]
        drawn["Confusion matrix (test)"] = plots.confusion_matrix(labels, numbers, names)
    wrong = [i for i, (a, b) in enumerate(zip(said, heard, strict=True)) if a != b]
    rates = _rates([said[i] for i in wrong], [heard[i] for i in wrong])["character_error_rate"]
    worst = [wrong[i] for i in np.argsort(-rates.values, kind="stable")[:_WORST]]
    rows = [(said[i], heard[i], data.names["test"][i]) for i in worst]
    if rows:
        drawn["Worst mistakes (test)"] = _table(("said", "heard", "recording"), rows)
    return drawn


def _table(heads, rows):
    rows = [heads, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def settled(model, data, config):
    """The rate that the recordings share."""
    return {"data.sample_rate": data.sample_rate}


def describe(data):
    """The data in a few lines."""
    splits = data.sizes
    lines = {
        "recordings": ", ".join(f"{splits[s]:,} {s} ({data.seconds[s]:.0f} s)" for s in splits),
        "sample rate": f"{data.sample_rate:,} a second",
        "transcripts": ", ".join(f"{len({*data.transcripts[s]}):,} of {s} differ" for s in splits),
        "vocabulary": f"{len(data.vocabulary)} ids, blank and unknown included",
    }
    if any(data.speakers.values()):
        lines["speakers"] = "; ".join(f"{s}: {_few(data.speakers[s])}" for s in splits)
    return lines


def _few(names):
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def predict(model, config, input=None, num_beams=None):
    """What is said in recordings.

    Args:
        model: A trained network.
        config: Its config.
        input: A recording, or a directory, of whose files those named like one are taken.
        num_beams: As for `bigmodels.models.DRNN.transcribe`.

    Yields:
        `{"file": ..., "transcript": ..., "seconds": ...}`.

    Raises:
        ValueError: if there is nothing to read or a file is no recording.
    """
    if not input:
        raise ValueError("input: give a recording, or a directory of them")
    notes = Notes()
    for file in list_recordings(given_path(str(input)), notes=notes):
        remarks = {}
        samples, rate = read_audio(file, "input", remarks)
        note_remarks(notes, "input", remarks)
        if rate != model.sample_rate:
            notes.say(
                f"input: {str(file)!r} has {rate:,} samples a second and is brought to the model's "
                f"{model.sample_rate:,}."
            )
        seconds = len(samples) / rate
        samples = resampled(samples, rate, model.sample_rate) / np.float32(32768)
        (text,) = model.transcribe(samples[None], num_beams)
        yield {"file": str(file), "transcript": text, "seconds": round(seconds, 3)}


def serving(model, config):
    """Samples in, at the model's own rate; transcripts out, the same as from `predict`."""

    def kept(samples, length):
        return tf.where(tf.sequence_mask(length, tf.shape(samples)[1]), samples, 0.0)

    def transcribe(samples, length):
        return {"transcript": model.transcribe_strings(kept(samples, length))}

    def transcribe_int16(samples, length):
        return transcribe(tf.cast(samples, "float32") / 32768, length)

    def search(samples, length):
        return {"transcript": model.transcribe_strings(kept(samples, length), _NUM_BEAMS)}

    def log_probabilities(samples):
        return {"log_probabilities": tf.nn.log_softmax(model(samples, training=False))}

    each = tf.TensorSpec((None,), "int32")
    floats, integers = (tf.TensorSpec((None, None), t) for t in ("float32", "int16"))
    time = model.sample_rate // 2
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, time)).astype("float32")
    lengths = np.int32([time, time // 2])
    signatures = {
        "transcribe": Signature(transcribe, (floats, each), (noise, lengths)),
        "transcribe_int16": Signature(
            transcribe_int16, (integers, each), ((noise * 32767).astype("int16"), lengths)
        ),
        "search": Signature(search, (floats, each), (noise, lengths)),
        "log_probabilities": Signature(
            log_probabilities, (floats,), (noise[:1],), portable=True, fixed_in_litert=True
        ),
    }
    vocabulary = Vocabulary(model.vocabulary)
    characters = [vocabulary.decode([i]) for i in range(len(vocabulary))]
    return signatures, {"sample_rate": model.sample_rate, "vocabulary": characters}


TASK = Task(
    name="speech_recognition",
    summary="what is said in a recording (deep LSTM, CTC)",
    unit="recordings",
    config=SpeechRecognition,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    settled=settled,
    predict=predict,
    predict_flags=("--input=recording.wav",),
    serving=serving,
    examples=examples,
    metrics={
        "word_error_rate": Metric("%", "min"),
        "character_error_rate": Metric("%", "min"),
        "accuracy": Metric("%", "max"),
        "word_error_rate_beam": Metric("%", "min"),
        "character_error_rate_beam": Metric("%", "min"),
        "word_error_rate_commonest": Metric("%"),
        "character_error_rate_commonest": Metric("%"),
        "loss": Metric("nats a recording", "min"),
    },
)
