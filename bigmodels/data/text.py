"""Text for language models, character by character."""

import dataclasses
import unicodedata

import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.splits import Splits
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextData(Splits):
    """Windows of text ready for `fit`: token ids, and the same moved on by one.

    Attributes (and those of `Splits`):
        train: Shuffled windows `(inputs, targets)`, each `(batch, length)`; each iteration is
            another epoch and cuts the text at other places.
        train_sample: As much training text as there is for validation, as evaluation sees it.
        validation: The validation text in consecutive windows of about `evaluation_length`, whole
            but for at most a thousandth at its end.
        test: The whole test text, likewise.
        sizes: Number of predicted tokens of each split, for `train` those of one epoch.
        vocabulary: A `Vocabulary` fitted on the training text only.
        unknown_share: Share of unknown characters in validation and test.
    """

    vocabulary: Vocabulary
    unknown_share: dict


def clean_text(text):
    """One form for what looks the same: Unix line ends, Unicode NFC.

    Args:
        text: A string.

    Returns:
        A string.
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def note_cleaning(notes, argument, texts):
    """Say what `clean_text` changes in some texts, if it is a character that one can see.

    Args:
        notes: A `Notes`.
        argument: What the line begins with.
        texts: Strings.
    """
    changed = [text for text in texts if not unicodedata.is_normalized("NFC", text)]
    if not changed:
        return
    # By the piece between two spaces: a text may be one long string.
    pieces = [
        piece
        for text in changed
        for piece in text.split()
        if not unicodedata.is_normalized("NFC", piece)
    ]
    first = f", the first {short_repr(pieces[0])}" if pieces else ""
    notes.say(f"{argument}: {len(pieces):,} words are brought to Unicode's form NFC{first}.")


def note_unknown(notes, argument, of, known, text):
    """Say which characters of a text no training text has.

    Args:
        notes: A `Notes`.
        argument: What the line begins with.
        of: Where the text is from, in words.
        known: Characters of the training texts; white space is always known.
        text: A string.
    """
    known = {*known}
    unknown = [c for c in text if c not in known and not c.isspace()]
    if unknown:
        first = ", ".join(map(repr, list(dict.fromkeys(unknown))[:3]))
        notes.say(
            f"{argument}: {len(unknown):,} of {len(text):,} characters{of} are in no training text "
            f"and count as unknown, first {first}."
        )


def load_text(
    name="python_docs",
    batch_size=64,
    *,
    length=100,
    evaluation_length=None,
    encoding=None,
    skip_bad_files=False,
    data_dir=None,
    seed=0,
):
    """Load a text by name, clean it, split it, turn it into windows of token ids.

    Args:
        name: `python_docs` (embedded), `text:FILE`, `text:DIR` (all .txt files below it, in order),
            or a TFDS name.
        batch_size: Windows a batch.
        length: Tokens a window.
        evaluation_length: Tokens a window in evaluation; `length` when left out. A recurrent model
            may take longer ones, and pays for its cold start less often.
        encoding: What the files are written in, if not in UTF-8: `gb18030`, for example.
        skip_bad_files: Whether files of `text:DIR` that are no texts are left out, counted and
            named on stderr; else the first of them is an error.
        data_dir: Where TFDS finds prepared sets.
        seed: Decides where windows start and their order, nothing else.

    Returns:
        A `TextData`.

    Raises:
        ValueError: naming the argument or file that does not fit.
    """
    notes = Notes()
    evaluation_length = length if evaluation_length is None else evaluation_length
    sizes = {"batch_size": batch_size, "length": length, "evaluation_length": evaluation_length}
    for argument, value in sizes.items():
        if value < 1:
            raise ValueError(f"{argument}: {value!r}, expected a positive integer")
    check_encoding(encoding)
    texts = _source(name, data_dir, encoding, skip_bad_files, notes)
    note_cleaning(notes, "text", texts.values())
    if ends := sum(text.count("\r") for text in texts.values()):
        notes.say(f"text: {ends:,} line ends that have a carriage return are read as plain ones.")
    texts = {split: clean_text(text) for split, text in texts.items()}
    for split, text in texts.items():
        if len(text) < 2 * length + 1:
            raise ValueError(
                f"dataset: {name!r}, {split} has {len(text)} characters, "
                f"too few for windows of length={length}"
            )
    vocabulary = Vocabulary.fit(texts["train"])
    ids = {split: vocabulary.encode(text) for split, text in texts.items()}
    windows = (len(ids["train"]) - length) // length
    sample = ids["train"][: len(ids["validation"])]
    for split in ("validation", "test"):
        total = len(ids[split]) - 1
        end = total - total % _evaluation_length(total, evaluation_length)
        rest = list(texts[split][1 + end :])
        notes.leave_out("text", f"characters at the end of {split}, which fill no window", rest)
        note_unknown(notes, "text", f" of {split}", vocabulary.characters, texts[split])
    train, train_from = _training_windows(ids["train"], windows, length, batch_size, seed)
    return TextData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=_evaluation_windows(sample, evaluation_length, batch_size),
        validation=_evaluation_windows(ids["validation"], evaluation_length, batch_size),
        test=_evaluation_windows(ids["test"], evaluation_length, batch_size),
        sizes={
            "train": windows * length,
            "validation": len(ids["validation"]) - 1,
            "test": len(ids["test"]) - 1,
        },
        vocabulary=vocabulary,
        unknown_share={
            split: float((ids[split] == Vocabulary.UNKNOWN).mean())
            for split in ("validation", "test")
        },
        notes=notes,
    )


def _source(name, data_dir, encoding, skip_bad_files, notes):
    if files := readers.find("text", name):
        source, where = files
        options = {"encoding": encoding, "skip_bad_files": skip_bad_files, "notes": notes}
        return _cut(source.read(where, **options))
    if encoding:
        form = readers.forms("text")
        raise ValueError(f"data.encoding: {encoding!r}, but {name!r} is no file of {form}")
    if name in embedded.TEXTS:
        return _cut(embedded.TEXTS[name]())
    if embedded.is_known(name):
        raise readers.refusal("text", name, "text")
    return tfds.text_dataset(name, data_dir)


def _cut(source):
    """Three texts of one, or of two that are splits already."""
    texts = {"train": source} if isinstance(source, str) else dict(source)
    # The parts stay whole: neighbouring windows share context, so they are not mixed.
    for split, share in (("test", 0.95), ("validation", 0.9)):
        if split not in texts:
            whole = len(source) if isinstance(source, str) else len(texts["train"])
            place = int(whole * share)
            texts["train"], texts[split] = texts["train"][:place], texts["train"][place:]
    return texts


def _training_windows(ids, windows, length, batch_size, seed):
    tokens = tf.constant(ids)
    spare = len(ids) - (windows * length + 1)

    def starts(epoch_seed):
        # Every epoch cuts the text elsewhere; `spare` is just under one window.
        first = epoch_seed % (spare + 1)
        return tf.data.Dataset.range(windows).map(lambda i: first + i * length)

    def prepare(batch_starts, _):
        positions = batch_starts[:, None] + tf.range(length + 1, dtype="int64")
        window = tf.gather(tokens, positions)  # (batch, length + 1)
        return window[:, :-1], window[:, 1:]

    return training_batches(starts, windows, batch_size, seed, prepare)


def _evaluation_length(total, longest):
    """The longest that leaves out at the end no more than a thousandth or eight characters."""
    return next(k for k in range(min(longest, total), 0, -1) if total % k <= max(total // 1000, 8))


def _evaluation_windows(ids, longest, batch_size):
    """Consecutive windows, all of one length so that every character weighs the same."""
    tokens = tf.constant(ids)
    total = len(ids) - 1  # The first character is never predicted.
    length = _evaluation_length(total, longest)

    def prepare(batch_starts, _):
        positions = batch_starts[:, None] + tf.range(length + 1, dtype="int64")
        window = tf.gather(tokens, positions)  # (batch, length + 1)
        return window[:, :-1], window[:, 1:]

    starts = tf.data.Dataset.range(0, total // length * length, length)
    return evaluation_batches(starts, batch_size, prepare)
