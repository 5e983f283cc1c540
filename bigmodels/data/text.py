"""Load text of any size for language models, as characters, bytes or subwords."""

import dataclasses
import os

import tensorflow as tf

from bigmodels.data import readers, token_cache, token_files
from bigmodels.data.corpus import Corpus
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import SHUFFLE_WINDOW, evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.splits import Splits
from bigmodels.data.token_files import Tokens
from bigmodels.messages import check_choice
from bigmodels.tokenizers import KINDS, Tokenizer

# Larger texts are encoded into files.
_IN_MEMORY_BYTES = 1 << 26
# Windows whose places in the order of an epoch are computed at once.
_AT_ONCE = 1024


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
            complete except for at most a thousandth at its end; of a longer text than
            `evaluation_tokens` the same windows from all over it each time.
        test: The test text in windows as for validation.
        sizes: Number of predicted tokens in each split; for `train`, in one epoch.
        vocabulary: The `bigmodels.tokenizers.Tokenizer`, fitted on the training text only; for
            characters a `Vocabulary`.
        unknown_share: Fraction of unknown characters in validation and test.

    Example:

    >>> data = bigmodels.data.load_text("python_docs", batch_size=8, length=20)
    >>> inputs, targets = next(iter(data.train))
    >>> bool(tf.reduce_all(inputs[:, 1:] == targets[:, :-1]))
    True
    >>> data.unknown_share
    {'validation': ..., 'test': ...}
    """

    vocabulary: Tokenizer
    unknown_share: dict[str, float]


def load_text(
    name: str = "python_docs",
    batch_size: int = 64,
    *,
    length: int = 100,
    evaluation_length: int | None = None,
    tokens: str = "characters",
    vocab_size: int = 8192,
    evaluation_tokens: int = 1_000_000,
    encoding: str | None = None,
    skip_bad_files: bool = False,
    data_dir: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    seed: int = 0,
) -> TextData:
    """Load a text by name: clean, split and encode it, and cut it into windows of token ids.

    A text of more than 64 MiB is never held in memory: it is encoded once, into token files in
    `cache_dir`, which are found again by the content of the text.

    Args:
        name: `python_docs` (embedded), `text:FILE`, `text:FILE.jsonl` (a document a line, in its
            field `text`), `text:DIR` (all .txt files below it, or else all .jsonl files; each file,
            or line, is a document), or a TFDS name.
        batch_size: Windows per batch.
        length: Tokens per window.
        evaluation_length: Tokens per window in evaluation; `length` by default. With longer
            windows, fewer predictions of a recurrent model are made from an empty state.
        tokens: "characters", "bytes" or "subwords", see `bigmodels.tokenizers`.
        vocab_size: Maximum number of token ids, for subwords.
        evaluation_tokens: Maximum number of tokens of a split that are measured; 0 for all.
        encoding: Encoding of the files if it is not UTF-8, for example `gb18030`.
        skip_bad_files: Whether to leave out files of `text:DIR` that are not text, and lines of
            JSON that hold no document, with a note on stderr. Otherwise the first one is an error.
        data_dir: Directory in which TFDS keeps prepared sets.
        cache_dir: Directory for token files, then also of small texts; by default that of
            `bigmodels.data.token_cache.cache_dir`, for large ones only.
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
    if evaluation_tokens < 0:
        raise ValueError(f"evaluation_tokens: {evaluation_tokens!r}, expected zero or more")
    check_choice("data.tokens", tokens, tuple(KINDS))
    check_encoding("data.encoding", encoding)
    corpus = _source(name, data_dir, encoding, skip_bad_files, notes)
    if cache_dir is None and corpus.size <= _IN_MEMORY_BYTES:
        encoded = token_files.encode(corpus, tokens, vocab_size, notes)
    else:
        directory = token_cache.cache_dir(cache_dir)
        encoded = token_cache.encoded(corpus, tokens, vocab_size, notes, directory)
    splits, tokenizer = encoded.splits, encoded.tokenizer
    unit = f"{tokenizer.UNIT}s"
    for split, ids in splits.items():
        if len(ids) < 2 * length + 1:
            raise ValueError(
                f"dataset: {name!r}, {split} has {len(ids)} {unit}, "
                f"too few for windows of length={length}"
            )
    held_out = {}
    for split in ("validation", "test"):
        held_out[split] = _Evaluation(
            splits[split], len(splits[split]), evaluation_length, evaluation_tokens
        )
        held_out[split].note(notes, split, tokenizer)
    sample = min(len(splits["train"]), len(splits["validation"]))
    held_out["train_sample"] = _Evaluation(
        splits["train"], sample, evaluation_length, evaluation_tokens
    )
    windows = (len(splits["train"]) - length) // length
    train, train_from = _training_windows(splits["train"], windows, length, batch_size, seed)
    return TextData(
        name=name,
        train=train,
        train_from=train_from,
        **{split: evaluation.windows(batch_size) for split, evaluation in held_out.items()},
        sizes={
            "train": windows * length,
            "validation": len(splits["validation"]) - 1,
            "test": len(splits["test"]) - 1,
        },
        vocabulary=tokenizer,
        unknown_share=encoded.unknown_share,
        notes=notes,
    )


def _source(name, data_dir, encoding, skip_bad_files, notes):
    """The corpus of a name."""
    if files := readers.find("text", name):
        source, where = files
        options = {"encoding": encoding, "skip_bad_files": skip_bad_files, "notes": notes}
        found = source.read(where, **options)
        return found if isinstance(found, Corpus) else Corpus.of_texts(found)
    if encoding:
        form = readers.forms("text")
        raise ValueError(f"data.encoding: {encoding!r}, but {name!r} is not a file of {form}")
    if name in embedded.TEXTS:
        return Corpus.of_texts(embedded.TEXTS[name]())
    if embedded.is_known(name):
        raise readers.refusal("text", name, "text")
    return tfds.text_corpus(name, data_dir)


def _training_windows(tokens, windows, length, batch_size, seed):
    spare = len(tokens) - (windows * length + 1)
    # Too many to shuffle in a buffer: every window is drawn from the whole text.
    many = windows > SHUFFLE_WINDOW

    def shuffled(numbers, epoch_seed):
        def places(batch):
            return tf.random.experimental.index_shuffle(batch, [epoch_seed, 0], windows - 1)

        return numbers.batch(_AT_ONCE).map(places).unbatch()

    def starts(epoch_seed):
        # Every epoch cuts the text at other positions, of which there are at least `length`.
        first = epoch_seed % (spare + 1)
        numbers = tf.data.Dataset.range(windows)
        numbers = shuffled(numbers, epoch_seed) if many else numbers
        return numbers.map(lambda i: first + i * length)

    prepare = _preparation(tokens, length)
    window = 1 if many else None
    return training_batches(starts, windows, batch_size, seed, prepare, window=window)


def _preparation(tokens, length):
    def prepare(batch_starts, _):
        window = tokens.windows(batch_starts, length + 1)  # (batch, length + 1)
        return window[:, :-1], window[:, 1:]

    return prepare


class _Evaluation:
    """Windows of one length, so that every token has the same weight.

    They are consecutive; if they have more than `most` tokens, they are evenly spaced.
    """

    def __init__(self, tokens: Tokens, size, longest, most):
        self._tokens = tokens
        total = size - 1  # The first token is never predicted.
        # With at most a thousandth or eight tokens left over.
        self._length = next(
            k for k in range(min(longest, total), 0, -1) if total % k <= max(total // 1000, 8)
        )
        self._total, self._all = total, total // self._length
        limit = max(1, most // self._length) if most else self._all
        self._count = min(self._all, limit)

    def windows(self, batch_size):
        """A data set of `(inputs, targets)`."""
        numbers = tf.data.Dataset.range(self._count)
        starts = numbers.map(lambda i: i * self._all // self._count * self._length)
        return evaluation_batches(starts, batch_size, _preparation(self._tokens, self._length))

    def note(self, notes, split, tokenizer):
        """Note the tokens that are not measured."""
        unit = f"{tokenizer.UNIT}s"
        if self._count < self._all:
            notes.say(
                f"text: of the {self._total:,} {unit} of {split}, {self._count * self._length:,} "
                "are measured, always the same, in windows from all over it "
                "(data.evaluation_tokens)."
            )
            return
        rest = self._tokens.read(1 + self._all * self._length)
        decoded = [tokenizer.decode([token]) for token in rest[:3]]
        what = f"{unit} at the end of {split} that do not fill a window"
        notes.leave_out("text", what, decoded, len(rest))
