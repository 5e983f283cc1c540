"""Evaluation and report of speech recognition."""

import collections

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.data.readers.recordings import without_end
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.layers import LogMel
from bigmodels.losses import CTC
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric
from bigmodels.tasks.speech_recognition.inference import NUM_BEAMS
from bigmodels.tokenizers import Vocabulary

METRICS = {
    "word_error_rate": Metric("%", "min"),
    "character_error_rate": Metric("%", "min"),
    "accuracy": Metric("%", "max"),
    "word_error_rate_beam": Metric("%", "min"),
    "character_error_rate_beam": Metric("%", "min"),
    "word_error_rate_commonest": Metric("%"),
    "character_error_rate_commonest": Metric("%"),
    "loss": Metric("nats per recording", "min"),
}
_ERROR_RATES = ("word_error_rate", "character_error_rate")
# In the report: spectrograms, errors, transcripts of a sample, classes of a confusion matrix.
_DRAWN, _WORST, _SAMPLED, _MOST_CLASSES = 4, 25, 12, 40
# Speakers whose names `describe` lists.
_NAMED = 12


def evaluate(model, data, config, measured):
    """Error rates of each split; on test data also with beam search, and of a baseline.

    For each split: `word_error_rate`, `character_error_rate` and `accuracy` (of whole transcripts),
    with greedy decoding. Under "test" the error rates also with the suffix `_beam`, for a search
    with 16 beams, and `_commonest`, for the baseline that always predicts the most frequent
    training transcript.
    """
    metrics = {}
    for split, batches in {"train": data.train_sample, "validation": data.validation}.items():
        heard = _heard(model, batches)
        rates = _rates(data.transcripts[split][: len(heard)], heard)
        metrics[split] = {name: rate.figure() for name, rate in rates.items()}

    ctc = CTC(reduction="none")
    said = data.transcripts["test"]
    keys = intervals.keys(without_end(row) for rows, _ in data.test for row in rows.numpy())
    losses = np.concatenate([ctc(ids, model.hear(samples)) for samples, ids in data.test])
    ((commonest, _),) = collections.Counter(data.transcripts["train"]).most_common(1)
    alternatives = {
        "beam": _heard(model, data.test, NUM_BEAMS),
        "commonest": [commonest] * len(said),
    }
    heard = _heard(model, data.test)
    test = {"loss": Observations(losses, "recordings", keys=keys)} | _rates(said, heard, keys)
    for suffix, texts in alternatives.items():
        rates = _rates(said, texts, keys)
        test |= {f"{name}_{suffix}": rates[name] for name in _ERROR_RATES}
    return Evaluation({**metrics, "test": test}, lambda: _figures(model, data, heard))


def _heard(model, batches, num_beams=None):
    """The transcripts of batches."""
    return [text for samples, _ in batches for text in model.transcribe(samples, num_beams)]


def _rates(said, heard, keys=None):
    """Word and character error rate, and the accuracy of whole transcripts."""
    jiwer = import_jiwer()
    pairs = list(zip(said, heard, strict=True))

    def rate(align):
        aligned = [align(*pair) for pair in pairs]
        wrong = np.array([a.substitutions + a.deletions + a.insertions for a in aligned], "float64")
        sizes = np.array([a.substitutions + a.deletions + a.hits for a in aligned], "float64")
        return Observations(wrong / sizes, "recordings", sizes, keys)

    same = np.array([a == b for a, b in pairs], "float64")
    return {
        "word_error_rate": rate(jiwer.process_words),
        "character_error_rate": rate(jiwer.process_characters),
        "accuracy": Observations(same, "recordings", keys=keys),
    }


def import_jiwer():
    """Import jiwer.

    Returns:
        The module.

    Raises:
        ValueError: if it is not installed; the message says how to install it.

    Example:

    >>> import_jiwer().__name__
    'jiwer'
    """
    with extras.require_extra("task: speech_recognition", "speech"):
        import jiwer
    return jiwer


def _figures(model, data, heard):
    """Spectrograms with emitted characters, confusion matrix, and worst errors on test data."""
    said = data.transcripts["test"]
    marks = [
        _emitted(model, row.numpy(), data.sample_rate)
        for row, _ in data.test.unbatch().take(_DRAWN)
    ]
    titles = [f"{a} \N{RIGHTWARDS ARROW} {b}" for a, b in zip(said, heard, strict=True)][:_DRAWN]
    figures = {
        "Emitted characters (test)": _spectrograms(data, data.test, model.log_mel, titles, marks)
    }
    words = sorted({*data.transcripts["train"], *said})
    if len(words) <= _MOST_CLASSES:
        number = {word: i for i, word in enumerate(words)}
        labels = [number[text] for text in said]
        predicted = [number.get(text, len(words)) for text in heard]
        names = [*words, "other"] if len(words) in predicted else words
        figures["Confusion matrix (test)"] = plots.confusion_matrix(labels, predicted, names)
    wrong = [i for i, (a, b) in enumerate(zip(said, heard, strict=True)) if a != b]
    if wrong:
        rates = _rates([said[i] for i in wrong], [heard[i] for i in wrong])["character_error_rate"]
        worst = [wrong[i] for i in np.argsort(-rates.values, kind="stable")[:_WORST]]
        rows = [(said[i], heard[i], data.names["test"][i]) for i in worst]
        figures["Worst errors (test)"] = _table(("reference", "output", "recording"), rows)
    return figures


def _emitted(model, samples, sample_rate):
    """The characters emitted by the network with their times, a list of `(second, character)`."""
    (ids,) = tf.argmax(model.hear(without_end(samples)[None]), -1).numpy()
    new = np.flatnonzero((ids != 0) & (np.diff(ids, prepend=0) != 0))
    seconds = (new + 0.5) * model.step_length / sample_rate
    characters = Vocabulary(model.vocabulary)
    return [(s, characters.decode([ids[i]])) for s, i in zip(seconds, new, strict=True)]


def _spectrograms(data, batches, log_mel, titles, marks=None):
    """Spectrograms of the first recordings, one per title (fewer if there are fewer)."""
    rows = [without_end(row.numpy()) for row, _ in batches.unbatch().take(len(titles))]
    titles = titles[: len(rows)]
    features = [log_mel(row[None])[0].numpy() for row in rows]
    return plots.spectrograms(features, log_mel.hop / data.sample_rate, titles, marks)


def _table(heads, rows):
    rows = [heads, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def examples(data):
    """Spectrograms of the first training recordings."""
    texts = data.transcripts["train"][:_DRAWN]
    log_mel = LogMel(data.sample_rate)
    return {"Training recordings": _spectrograms(data, data.train_sample, log_mel, texts)}


def sample(model, data, config):
    """Transcripts of the first validation recordings."""
    heard = _heard(model, data.validation.take(1))[:_SAMPLED]
    said = data.transcripts["validation"][: len(heard)]
    return _table(("reference", "output"), zip(said, heard, strict=True))


def describe(data):
    """Facts about the data."""
    splits = data.sizes
    lines = {
        "recordings": ", ".join(f"{splits[s]:,} {s} ({data.seconds[s]:.0f} s)" for s in splits),
        "sample rate": f"{data.sample_rate:,} Hz",
        "distinct transcripts": ", ".join(f"{len({*data.transcripts[s]}):,} {s}" for s in splits),
        "vocabulary": f"{len(data.vocabulary)} IDs, including blank and unknown",
    }
    if any(data.speakers.values()):
        lines["speakers"] = "; ".join(f"{s}: {_few(data.speakers[s])}" for s in splits)
    return lines


def _few(names):
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
