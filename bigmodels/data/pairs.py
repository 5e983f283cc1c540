"""Load pairs of texts, such as a sentence and its translation, for encoder-decoder models."""

import collections
import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.cleaning import clean_text, note_cleaning, note_unknown
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.splits import Splits
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Subwords

# Size of validation and of test for sets without splits: a fraction, and the largest number.
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.1, 2500
# Default vocabulary sizes: for sentences, and for sets with fewer words. With fewer tokens, dates
# would be spelt digit by digit, which takes far longer to learn.
_VOCAB_SIZE, _VOCAB_SIZES = 8000, {"dates": 500, "names": 1000}
# Batch lengths are multiples of this, so that XLA compiles few shapes.
_STEP = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairData(Splits):
    """Pairs of texts ready for `fit`, as returned by `load_pairs`.

    Batches are `({"source": ..., "target": ...}, targets)`: token ids, int32 `(batch, length)`,
    padded with 0 at the end. `target` begins with the start token. `targets` is the same sequence
    shifted by one token, and ends with the end token.

    Attributes (in addition to those of `Splits`):
        train: Shuffled batches of pairs of similar length; each iteration is a new epoch.
        train_sample: Training pairs in order, as many as there are for validation.
        sizes: Number of pairs in each split.
        texts: `{split: list of (source, target)}`, the cleaned texts before tokenization.
        subwords: `Subwords` fitted on both sides of the training pairs only.
        left_out: Number of pairs left out of each split because a side is empty or has more than
            `max_length` tokens.

    Example:

    >>> with open("numbers.tsv", "w") as file:
    ...     for i in range(100):
    ...         print(f"number {i}", f"Nummer {i}", sep="\\t", file=file)
    >>> data = bigmodels.data.load_pairs("pairs:numbers.tsv", vocab_size=100)
    >>> data.sizes
    {'train': 80, 'validation': 10, 'test': 10}
    >>> data.texts["train"][0]
    ('number 0', 'Nummer 0')
    """

    texts: dict[str, list[tuple[str, str]]]
    subwords: Subwords
    left_out: dict[str, int]


def load_pairs(
    name: str = "dates",
    batch_size: int = 64,
    *,
    vocab_size: int | None = None,
    max_length: int = 64,
    reverse: bool = False,
    columns: Sequence[str] = (),
    encoding: str | None = None,
    skip_bad_files: bool = False,
    data_dir: str | None = None,
    seed: int = 0,
) -> PairData:
    """Load pairs of texts by name: clean, split and tokenize them.

    No source text of validation or test is in training, not even with other case or punctuation.
    If a source has several targets, validation and test have only the first.

    Args:
        name: `dates` or `names` (embedded), `pairs:FILE` (lines of source, tab and target, or a
            .csv or .jsonl file), `pairs:FILE,FILE` (the lines of two files), or a TFDS name.
        batch_size: Pairs per batch.
        vocab_size: Largest size of the vocabulary for both sides together, see `Subwords.fit`. By
            default 500 for `dates`, 1000 for `names` and 8000 for other sets.
        max_length: Largest number of tokens of a text, including start and end; longer pairs are
            left out.
        reverse: Whether to swap source and target.
        columns: The two columns of a file to use, by name or by number, counted from 1.
        encoding: Encoding of the files if it is not UTF-8, for example `gb18030`.
        skip_bad_files: Whether to leave out lines of a file that are not a pair, with a note on
            stderr. Otherwise the first one is an error.
        data_dir: Directory in which TFDS keeps prepared sets.
        seed: Seed of the order of training; the splits do not depend on it.

    Returns:
        A `PairData`.

    Raises:
        ValueError: if an argument or a file is invalid; the message names it.

    Example:

    >>> with open("numbers.tsv", "w") as file:
    ...     for i in range(100):
    ...         print(f"number {i}", f"Nummer {i}", sep="\\t", file=file)
    >>> data = bigmodels.data.load_pairs("pairs:numbers.tsv", batch_size=4, vocab_size=100)
    >>> inputs, targets = next(iter(data.train))
    >>> sorted(inputs), targets.dtype, targets.shape[0]
    (['source', 'target'], tf.int32, 4)
    """
    notes = Notes()
    if vocab_size is None:
        vocab_size = _VOCAB_SIZES.get(name, _VOCAB_SIZE)
    least = {"batch_size": 1, "vocab_size": 5, "max_length": 3}
    for argument, value in zip(least, (batch_size, vocab_size, max_length), strict=True):
        if value < least[argument]:
            raise ValueError(f"{argument}: {value!r}, expected at least {least[argument]}")
    check_encoding("data.encoding", encoding)
    splits = _source(name, data_dir, columns, encoding, skip_bad_files, notes)
    _note_pairs(splits, notes)
    cleaned = _split(splits, notes) if isinstance(splits, list) else splits
    cleaned = {
        split: [tuple(map(clean_text, pair[::-1] if reverse else pair)) for pair in pairs]
        for split, pairs in cleaned.items()
    }
    cleaned = _apart(cleaned, notes)
    texts = [text for pair in cleaned["train"] for text in pair]
    if not texts:
        raise ValueError(f"dataset: {name!r} has no pair for train")
    subwords = Subwords.fit(texts, vocab_size)
    tokens, kept, left_out = {}, {}, {}
    for split, pairs in cleaned.items():
        tokens[split], rows = _tokens(subwords, pairs, max_length)
        kept[split] = [pairs[row] for row in rows]
        left_out[split] = len(pairs) - len(rows)
        valid_rows = {*rows}
        notes.leave_out(
            "pairs",
            f"pairs of {split} with more than max_length={max_length} tokens on a side, or none",
            [source for i, (source, _) in enumerate(pairs) if i not in valid_rows],
        )
        if not kept[split]:
            why = f"all {len(pairs)} are longer than max_length={max_length}"
            raise ValueError(
                f"dataset: {name!r} has no pair for {split}" + (f": {why}" if pairs else "")
            )
    for split in ("validation", "test"):
        text = "".join(text for pair in kept[split] for text in pair)
        note_unknown(notes, "pairs", f" of {split}", "".join(subwords.pieces), text)
    sizes = {split: len(pairs) for split, pairs in kept.items()}
    numbers = {split: tf.data.Dataset.range(size) for split, size in sizes.items()}
    prepare = {split: _prepare(*tokens[split], max_length) for split in tokens}
    sources, targets = tokens["train"]
    lengths = tf.constant(sources.row_lengths() * max_length + targets.row_lengths())
    train, train_from = training_batches(
        numbers["train"],
        sizes["train"],
        batch_size,
        seed,
        prepare["train"],
        alike=lambda rows: tf.gather(lengths, rows),
    )
    sample = numbers["train"].take(sizes["validation"])
    return PairData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=evaluation_batches(sample, batch_size, prepare["train"]),
        validation=evaluation_batches(numbers["validation"], batch_size, prepare["validation"]),
        test=evaluation_batches(numbers["test"], batch_size, prepare["test"]),
        sizes=sizes,
        texts=kept,
        subwords=subwords,
        left_out=left_out,
        notes=notes,
    )


def _source(name, data_dir, columns, encoding, skip_bad_files, notes):
    options = {"columns": columns, "encoding": encoding}
    if files := readers.find("pairs", name):
        source, where = files
        return source.read(where, **options, skip_bad_files=skip_bad_files, notes=notes)
    for setting, value in options.items():
        if value:
            form = readers.forms("pairs")
            raise ValueError(f"data.{setting}: {value!r}, but {name!r} is not a file of {form}")
    if name in embedded.PAIRS:
        return embedded.PAIRS[name]()
    if embedded.is_known(name):
        raise readers.refusal("pairs", name, "pairs of texts")
    return tfds.pair_dataset(name, data_dir, notes)


def _note_pairs(splits, notes):
    """Note pairs with two equal sides, and texts that are normalised."""
    pairs = splits if isinstance(splits, list) else [p for part in splits.values() for p in part]
    if same := [source for source, target in pairs if source == target]:
        notes.say(
            f"pairs: {len(same):,} of {len(pairs):,} have the same text on both sides, the first "
            f"is {short_repr(same[0])}; they are kept."
        )
    note_cleaning(notes, "pairs", [text for pair in pairs for text in pair])


def _key(text):
    """A text without case, punctuation and white space, to compare sources by."""
    return "".join(c for c in text.casefold() if c.isalnum()) or text


def _split(pairs, notes):
    """Train, validation and test by the checksum of the source, with each source in one split."""
    groups = {}
    for pair in pairs:
        groups.setdefault(_key(pair[0]), []).append(pair)
    order = sorted(groups, key=lambda key: (zlib.crc32(key.encode()), key))
    size = min(int(len(order) * _HELD_OUT_SHARE), _HELD_OUT_MOST)
    parts = {"validation": order[:size], "test": order[size : 2 * size]}
    held_out = {key for part in parts.values() for key in part}
    splits = {"train": [pair for pair in pairs if _key(pair[0]) not in held_out]}
    others = [source for part in parts.values() for key in part for source, _ in groups[key][1:]]
    notes.leave_out("pairs", "further pairs of a source in validation or test", others)
    return splits | {split: [groups[key][0] for key in part] for split, part in parts.items()}


def _apart(splits, notes):
    """Splits without duplicates; a source in several splits is kept in test, then validation."""
    seen, unique, duplicates = set(), {}, []
    for split in ("test", "validation", "train"):
        keys = [_key(source) for source, _ in splits[split]]
        unique[split], split_keys = [], set()
        for key, pair in zip(keys, splits[split], strict=True):
            if key in seen or (split != "train" and key in split_keys):
                duplicates.append(pair[0])
                continue
            unique[split].append(pair)
            split_keys.add(key)
        seen |= split_keys
    # Repeating a pair would only increase its weight.
    distinct = list(dict.fromkeys(unique["train"]))
    repeated = collections.Counter(unique["train"]) - collections.Counter(distinct)
    unique["train"] = distinct
    notes.leave_out("pairs", "pairs whose source is in another split", duplicates)
    notes.leave_out("pairs", "repeated pairs", [source for source, _ in repeated.elements()])
    return {split: unique[split] for split in ("train", "validation", "test")}


def _tokens(subwords, pairs, max_length):
    """`((source ids, target ids), rows)`: ragged ids, and the rows of pairs short enough.

    Target ids include start and end.
    """
    if not pairs:
        return None, []
    sources, targets = (subwords.encode(list(side)) for side in zip(*pairs, strict=True))
    size = tf.size(targets.row_lengths())
    start, end = (tf.fill((size, 1), i) for i in (subwords.START, subwords.END))
    targets = tf.concat([start, targets, end], 1)
    lengths = tf.maximum(sources.row_lengths(), targets.row_lengths())
    rows = np.flatnonzero((lengths <= max_length) & (sources.row_lengths() > 0))
    return (tf.gather(sources, rows), tf.gather(targets, rows)), rows


def _prepare(sources, targets, max_length):
    def padded(ragged, rows, extra):
        ragged = tf.gather(ragged, rows)
        longest = tf.reduce_max(ragged.row_lengths()) - extra
        length = tf.minimum((longest + _STEP - 1) // _STEP * _STEP + extra, max_length)
        return ragged.to_tensor(shape=tf.stack([tf.size(rows, tf.int64), length]))

    def prepare(rows, _):
        target = padded(targets, rows, 1)
        following = target[:, 1:]
        # The end token is a target, but never an input.
        target = tf.where(following != 0, target[:, :-1], 0)
        return {"source": padded(sources, rows, 0), "target": target}, following

    return prepare
