"""Pairs of texts, a source and its translation, for encoder-decoder models."""

import collections
import dataclasses
import zlib

import numpy as np
import tensorflow as tf

from bigmodels.data import readers
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded, tfds
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.splits import Splits
from bigmodels.data.text import clean_text, note_cleaning, note_unknown
from bigmodels.messages import short_repr
from bigmodels.tokenizers import Subwords

# Of pairs that come unsplit: what validation and test get each, but no more.
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.1, 2500
# Token ids where the user does not say: of sentences; of what has fewer words. A date that is spelt
# digit by digit takes far longer to learn, as their order then lies in the positions alone.
_VOCAB_SIZE, _VOCAB_SIZES = 8000, {"dates": 500, "names": 1000}
# Lengths of batches are multiples of this, so that XLA compiles for few of them.
_STEP = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairData(Splits):
    """Pairs of texts ready for `fit`: `({"source": ..., "target": ...}, targets)`.

    All are token ids, int32 `(batch, length)`, padded with 0 at their ends. `target` begins with
    the start; `targets` is the same moved on by one, and ends with the end.

    Attributes (and those of `Splits`):
        train: Shuffled batches of pairs of about the same length; each iteration is another epoch.
        train_sample: As many training pairs as there are for validation, as evaluation sees them.
        sizes: Number of pairs of each split.
        texts: `{split: list of (source, target)}`, as they were before they became tokens.
        subwords: `Subwords` fitted on the training pairs only, on both languages.
        left_out: Number of pairs that were left out of each split, as one side has more than
            `max_length` tokens.
    """

    texts: dict
    subwords: Subwords
    left_out: dict


def load_pairs(
    name="dates",
    batch_size=64,
    *,
    vocab_size=None,
    max_length=64,
    reverse=False,
    columns=(),
    encoding=None,
    skip_bad_files=False,
    data_dir=None,
    seed=0,
):
    """Load pairs by name, clean them, split them, turn them into token ids.

    No source of validation and test is in training, whatever its case and punctuation; of the same
    source with several targets, validation and test keep the first.

    Args:
        name: `dates` or `names` (embedded), `pairs:FILE` (a source, a tab and a target a line, or
            a .csv or .jsonl file), `pairs:FILE,FILE` (the lines of two files), or a TFDS name.
        batch_size: Pairs a batch.
        vocab_size: Token ids of both languages together, at most, see `Subwords.fit`; when left out
            8000, for `names` 1000, for `dates` 500.
        max_length: Tokens a text at most, start and end included; longer pairs are left out.
        reverse: Whether to translate the other way round.
        columns: Which two of a file's columns to take, by name or by number from 1.
        encoding: What files are written in, if not in UTF-8: `gb18030`, for example.
        skip_bad_files: Whether lines of a file that are no pair are left out, counted and named on
            stderr; else the first of them is an error.
        data_dir: Where TFDS finds prepared sets.
        seed: Decides the order of training, nothing else.

    Returns:
        A `PairData`.

    Raises:
        ValueError: naming the argument or file that does not fit.
    """
    notes = Notes()
    if vocab_size is None:
        vocab_size = _VOCAB_SIZES.get(name, _VOCAB_SIZE)
    least = {"batch_size": 1, "vocab_size": 5, "max_length": 3}
    for argument, value in zip(least, (batch_size, vocab_size, max_length), strict=True):
        if value < least[argument]:
            raise ValueError(f"{argument}: {value!r}, expected at least {least[argument]}")
    check_encoding(encoding)
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
        fits = {*rows}
        notes.leave_out(
            "pairs",
            f"pairs of {split} with more than max_length={max_length} tokens on a side, or none",
            [source for i, (source, _) in enumerate(pairs) if i not in fits],
        )
        if not kept[split]:
            why = f"all {len(pairs)} are longer than max_length={max_length}"
            raise ValueError(
                f"dataset: {name!r} has no pair for {split}" + (f": {why}" if pairs else "")
            )
    for split in ("validation", "test"):
        said = "".join(text for pair in kept[split] for text in pair)
        note_unknown(notes, "pairs", f" of {split}", "".join(subwords.pieces), said)
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
            raise ValueError(f"data.{setting}: {value!r}, but {name!r} is no file of {form}")
    if name in embedded.PAIRS:
        return embedded.PAIRS[name]()
    if embedded.is_known(name):
        raise readers.refusal("pairs", name, "pairs of texts")
    return tfds.pair_dataset(name, data_dir, notes)


def _note_pairs(splits, notes):
    """Say what is odd about pairs that are kept, and which are written in another way."""
    pairs = splits if isinstance(splits, list) else [p for each in splits.values() for p in each]
    if same := [source for source, target in pairs if source == target]:
        notes.say(
            f"pairs: {len(same):,} of {len(pairs):,} have the same text on both sides, the first "
            f"is {short_repr(same[0])}; they are kept."
        )
    note_cleaning(notes, "pairs", [text for pair in pairs for text in pair])


def _key(text):
    """What two sources share that are the same but for case, punctuation and white space."""
    return "".join(c for c in text.casefold() if c.isalnum()) or text


def _split(pairs, notes):
    """Train, validation and test: a source is always where its check sum puts it."""
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
    """Splits without what an earlier one of test, validation and train has as a source."""
    seen, kept, doubles = set(), {}, []
    for split in ("test", "validation", "train"):
        keys = [_key(source) for source, _ in splits[split]]
        kept[split], here = [], set()
        for key, pair in zip(keys, splits[split], strict=True):
            if key in seen or (split != "train" and key in here):
                doubles.append(pair[0])
                continue
            kept[split].append(pair)
            here.add(key)
        seen |= here
    # One pair several times would only weigh more.
    once = list(dict.fromkeys(kept["train"]))
    again = collections.Counter(kept["train"]) - collections.Counter(once)
    kept["train"] = once
    notes.leave_out("pairs", "pairs whose source another split has as well", doubles)
    notes.leave_out("pairs", "pairs that come again", [source for source, _ in again.elements()])
    return {split: kept[split] for split in ("train", "validation", "test")}


def _tokens(subwords, pairs, max_length):
    """Ids of sources and targets, ragged, the latter with start and end, and which pairs fit."""
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
    def padded(ragged, rows, more):
        ragged = tf.gather(ragged, rows)
        longest = tf.reduce_max(ragged.row_lengths()) - more
        length = tf.minimum((longest + _STEP - 1) // _STEP * _STEP + more, max_length)
        return ragged.to_tensor(shape=tf.stack([tf.size(rows, tf.int64), length]))

    def prepare(rows, _):
        target = padded(targets, rows, 1)
        following = target[:, 1:]
        # The end is predicted, but nothing from it.
        target = tf.where(following != 0, target[:, :-1], 0)
        return {"source": padded(sources, rows, 0), "target": target}, following

    return prepare
