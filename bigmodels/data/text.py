"""Load text for language models, one token per character."""

import dataclasses
import unicodedata
from collections.abc import Iterable

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
    """Windows of text ready for `fit`, as returned by `load_text`.

    Batches are `(inputs, targets)`: token ids, int32 `(batch, length)`, and the same text shifted
    by one token.

    Attributes (in addition to those of `Splits`):
        train: Shuffled windows. Each iteration is a new epoch and cuts the text at other positions.
        train_sample: The beginning of the training text, of the length of the validation text, in
            windows as for validation.
        validation: The validation text in consecutive windows of about `evaluation_length` tokens,
            complete except for at most a thousandth at its end.
        test: The test text in windows as for validation.
        sizes: Number of predicted tokens in each split; for `train`, in one epoch.
        vocabulary: A `Vocabulary` fitted on the training text only.
        unknown_share: Fraction of unknown characters in validation and test.

    Example:

    >>> data = bigmodels.data.load_text("python_docs", batch_size=8, length=20)
    >>> inputs, targets = next(iter(data.train))
    >>> bool(tf.reduce_all(inputs[:, 1:] == targets[:, :-1]))
    True
    >>> data.unknown_share
    {'validation': ..., 'test': ...}
    """

    vocabulary: Vocabulary
    unknown_share: dict[str, float]


def clean_text(text: str) -> str:
    r"""Normalise line ends to `\n` and characters to Unicode NFC.

    Args:
        text: A string.

    Returns:
        A string.

    Example:

    >>> bigmodels.data.clean_text("one\r\ntwo\rthree")
    'one\ntwo\nthree'
    >>> len("e\u0301"), len(bigmodels.data.clean_text("e\u0301"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def note_cleaning(notes: Notes, argument: str, texts: Iterable[str]) -> None:
    """Note the words that `clean_text` normalises to NFC.

    Args:
        notes: A `Notes`, to which a line is added if there are such words.
        argument: Beginning of the line, for example `"text"`.
        texts: Strings.

    Example:

    >>> notes = Notes()
    >>> note_cleaning(notes, "text", ["a cafe\\u0301"])
    >>> notes.lines
    ["text: 1 words are normalised to Unicode NFC, the first ..."]
    """
    changed = [text for text in texts if not unicodedata.is_normalized("NFC", text)]
    if not changed:
        return
    # Counted in words, as a text may be one long string.
    words = [
        word
        for text in changed
        for word in text.split()
        if not unicodedata.is_normalized("NFC", word)
    ]
    first = f", the first {short_repr(words[0])}" if words else ""
    notes.say(f"{argument}: {len(words):,} words are normalised to Unicode NFC{first}.")


def note_unknown(notes: Notes, argument: str, of: str, known: Iterable[str], text: str) -> None:
    """Note the characters of a text that do not occur in training.

    Args:
        notes: A `Notes`, to which a line is added if there are such characters.
        argument: Beginning of the line, for example `"text"`.
        of: Where the text comes from: `" of validation"`.
        known: Characters of the training text; white space is always known.
        text: A string.

    Example:

    >>> notes = Notes()
    >>> note_unknown(notes, "text", " of test", "abc", "ab xx")
    >>> notes.lines
    ["text: 2 of 5 characters of test are not in the training text and count as unknown, ..."]
    """
    known = {*known}
    unknown = [c for c in text if c not in known and not c.isspace()]
    if unknown:
        first = ", ".join(map(repr, list(dict.fromkeys(unknown))[:3]))
        notes.say(
            f"{argument}: {len(unknown):,} of {len(text):,} characters{of} are not in the training "
            f"text and count as unknown, first {first}."
        )


def load_text(
    name: str = "python_docs",
    batch_size: int = 64,
    *,
    length: int = 100,
    evaluation_length: int | None = None,
    encoding: str | None = None,
    skip_bad_files: bool = False,
    data_dir: str | None = None,
    seed: int = 0,
) -> TextData:
    """Load a text by name: clean and split it, and cut it into windows of token ids.

    Args:
        name: `python_docs` (embedded), `text:FILE`, `text:DIR` (all .txt files below it, in order),
            or a TFDS name.
        batch_size: Windows per batch.
        length: Tokens per window.
        evaluation_length: Tokens per window in evaluation; `length` by default. With longer
            windows, fewer predictions of a recurrent model are made from an empty state.
        encoding: Encoding of the files if it is not UTF-8, for example `gb18030`.
        skip_bad_files: Whether to leave out files of `text:DIR` that are not text, with a note on
            stderr. Otherwise the first one is an error.
        data_dir: Directory in which TFDS keeps prepared sets.
        seed: Seed of the positions and the order of training windows; the splits do not depend on
            it.

    Returns:
        A `TextData`.

    Raises:
        ValueError: if an argument or a file is invalid; the message names it.

    Example:

    >>> with open("story.txt", "w") as file:
    ...     _ = file.write("Once upon a time. " * 100)
    >>> data = bigmodels.data.load_text("text:story.txt", batch_size=4, length=10)
    >>> inputs, targets = next(iter(data.train))
    >>> inputs.shape, len(data.vocabulary)
    (TensorShape([4, 10]), 15)
    """
    notes = Notes()
    evaluation_length = length if evaluation_length is None else evaluation_length
    sizes = {"batch_size": batch_size, "length": length, "evaluation_length": evaluation_length}
    for argument, value in sizes.items():
        if value < 1:
            raise ValueError(f"{argument}: {value!r}, expected a positive integer")
    check_encoding("data.encoding", encoding)
    texts = _source(name, data_dir, encoding, skip_bad_files, notes)
    note_cleaning(notes, "text", texts.values())
    if ends := sum(text.count("\r") for text in texts.values()):
        notes.say(f"text: {ends:,} line ends with a carriage return are read as line feeds.")
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
        notes.leave_out("text", f"characters at the end of {split} that do not fill a window", rest)
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
        raise ValueError(f"data.encoding: {encoding!r}, but {name!r} is not a file of {form}")
    if name in embedded.TEXTS:
        return _cut(embedded.TEXTS[name]())
    if embedded.is_known(name):
        raise readers.refusal("text", name, "text")
    return tfds.text_dataset(name, data_dir)


def _cut(source):
    """Cut the splits that a source lacks from the end of its text, or of its training text."""
    texts = {"train": source} if isinstance(source, str) else dict(source)
    # Each split is contiguous: neighbouring windows share context and must not leak.
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
        # Every epoch cuts the text at other positions, of which there are at least `length`.
        first = epoch_seed % (spare + 1)
        return tf.data.Dataset.range(windows).map(lambda i: first + i * length)

    def prepare(batch_starts, _):
        positions = batch_starts[:, None] + tf.range(length + 1, dtype="int64")
        window = tf.gather(tokens, positions)  # (batch, length + 1)
        return window[:, :-1], window[:, 1:]

    return training_batches(starts, windows, batch_size, seed, prepare)


def _evaluation_length(total, longest):
    """The greatest length with which at most a thousandth or eight characters are left over."""
    return next(k for k in range(min(longest, total), 0, -1) if total % k <= max(total // 1000, 8))


def _evaluation_windows(ids, longest, batch_size):
    """Consecutive windows of one length, so that every character has the same weight."""
    tokens = tf.constant(ids)
    total = len(ids) - 1  # The first character is never predicted.
    length = _evaluation_length(total, longest)

    def prepare(batch_starts, _):
        positions = batch_starts[:, None] + tf.range(length + 1, dtype="int64")
        window = tf.gather(tokens, positions)  # (batch, length + 1)
        return window[:, :-1], window[:, 1:]

    starts = tf.data.Dataset.range(0, total // length * length, length)
    return evaluation_batches(starts, batch_size, prepare)
