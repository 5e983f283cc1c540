"""Pairs of texts: read, held apart, padded little."""

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import load_pairs


@pytest.fixture
def file(tmp_path):
    """A hundred sources of one to eight words, written backwards."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(100):
        words = [f"w{i}", *rng.choice(["red", "green", "blue", "fox"], rng.integers(0, 8))]
        lines.append(f"{' '.join(words)}.\t{' '.join(words[::-1])}!\tfurther\tcolumns")
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path, **kwargs):
    return load_pairs(f"pairs:{path}", **{"batch_size": 8, "vocab_size": 60} | kwargs)


def test_batches_are_what_the_file_says(file):
    data = load(file)
    assert data.sizes == {"train": 80, "validation": 10, "test": 10}
    assert all(
        source.endswith(".") and target.endswith("!") for source, target in data.texts["test"]
    )
    for split in ("validation", "test"):
        texts = []
        for x, following in getattr(data, split):
            source, target = x["source"].numpy(), x["target"].numpy()
            assert target.shape == following.shape and (target[:, 0] == 2).all()
            lengths = (following.numpy() != 0).sum(1)
            for row, size in enumerate(lengths):  # The end is predicted, and nothing after it.
                assert following[row, size - 1] == 3
                np.testing.assert_array_equal(target[row, 1:size], following[row, : size - 1])
                assert not target[row, size:].any()
            columns = (data.subwords.decode(ids).numpy() for ids in (source, following.numpy()))
            texts += [tuple(text.decode() for text in pair) for pair in zip(*columns, strict=True)]
        assert texts == data.texts[split]


def test_reverse_swaps_the_sides(file):
    there, back = load(file, vocab_size=5), load(file, vocab_size=5, reverse=True)
    assert set(back.texts["train"]) == {pair[::-1] for pair in there.texts["train"]}
    assert len(there.subwords.pieces) == len(set("".join(map("".join, there.texts["train"])))) + 0


def test_no_source_is_on_both_sides(tmp_path):
    """Whatever its case and punctuation; which split it is in follows from itself alone."""
    lines = [f"Word {i}{end}\tsame {i} {end}" for i in range(60) for end in (".", "!", "")]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    (tmp_path / "b.tsv").write_text("\n".join(line.lower() for line in lines[::-1]))
    found = []
    for name in ("a.tsv", "b.tsv"):
        data = load(tmp_path / name)
        numbers = {
            split: [source.split()[1].strip(".!") for source, _ in pairs]
            for split, pairs in data.texts.items()
        }
        assert len(numbers["test"]) == len(set(numbers["test"])) == 6
        assert len(numbers["validation"]) == 6 and len(numbers["train"]) == 3 * 48
        sets = [set(each) for each in numbers.values()]
        assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
        found.append({split: set(each) for split, each in numbers.items()})
    assert found[0] == found[1]


def test_the_same_pair_counts_once(file):
    doubled = file.read_text() * 3
    once = load(file)
    file.write_text(doubled)
    assert load(file).texts == once.texts


def test_batches_of_training_hold_alike_pairs_and_each_once(file):
    data = load(file)
    epochs = []
    for epoch in (0, 1):
        rows = list(data.train_from(epoch).take(10))
        texts = [
            text.decode()
            for x, _ in rows
            for text in data.subwords.decode(x["source"].numpy()).numpy()
        ]
        assert sorted(texts) == sorted(source for source, _ in data.texts["train"])
        epochs.append(texts)
        assert [t.numpy().tolist() for _, t in rows] == [
            t.numpy().tolist() for _, t in load(file).train_from(epoch).take(10)
        ]
        lengths = [size for _, t in rows for size in (t.numpy() != 0).sum(1)]
        mixed = np.random.default_rng(0).permutation(lengths).reshape(10, 8)
        padding = [8 * -(-max(each) // 4 * 4) - sum(each) for each in mixed]
        assert sum(t.numpy().size for _, t in rows) - sum(lengths) < 0.7 * sum(padding)
        sizes = [t.shape[1] for _, t in rows]
        assert sizes != sorted(sizes) and sizes != sorted(sizes)[::-1]
    assert epochs[0] != epochs[1]


def test_long_pairs_are_left_out_and_counted(file):
    data, shorter = load(file, vocab_size=5), load(file, vocab_size=5, max_length=25)
    assert sum(data.left_out.values()) == 0
    for split, count in shorter.left_out.items():
        assert count == data.sizes[split] - shorter.sizes[split]
    assert shorter.left_out["train"] > 0
    widths = [max(ids.shape[1] for ids in x.values()) for x, _ in shorter.train]
    assert 20 < max(widths) <= 25  # Not 28, the next multiple of four.
    with pytest.raises(ValueError, match=r"no pair for \w+: all \d+ are longer than max_length=4"):
        load(file, vocab_size=5, max_length=4)


GOOD = "".join(f"good {i}\tgut {i}\n" for i in range(30)).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pairs: .* is empty"),
        (b"a\tb", "has no pair for validation"),
        (GOOD + b"no tabulator\n", "line 31: 'no tabulator', expected a source, a tabulator"),
        (GOOD + b"\tx\n", r"line 31: '\\tx', expected a source"),
        (GOOD + b"x\t \n", r"line 31: 'x\\t ', expected a source"),
        (GOOD + b"\xff\xfe\t\n", "line 31: byte 0xff is not UTF-8"),
        (GOOD.decode().encode("utf-16"), "is UTF-16, expected UTF-8"),
        (GOOD + b"a\0\tb\n", "line 31: NUL character"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_is_named(tmp_path):
    for name in ("missing", "."):
        with pytest.raises(ValueError, match=r"pairs: .* is not a file"):
            load(tmp_path / name)


def test_odd_but_good_files_are_read(tmp_path):
    path = tmp_path / "odd.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + b"\r\n \r\n")
    data = load(path)
    assert sum(data.sizes.values()) == 30
    # What Unicode calls a line's end is part of the text.
    path.write_text("".join(f"a\u2028b {i}\x0b\tc {i}\n" for i in range(30)))
    assert ("a\u2028b 0", "c 0") in sum(load(path).texts.values(), [])


@pytest.mark.parametrize("name", ["digits", "python_docs", "images:x", "text:x", "csv:x"])
def test_other_kinds_are_refused(name):
    with pytest.raises(ValueError, match="is not pairs of texts; give pairs:FILE or a name"):
        load_pairs(name)


@pytest.mark.parametrize(
    "argument", [{"batch_size": 0}, {"vocab_size": 4}, {"max_length": 2}], ids=str
)
def test_arguments_are_checked(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        load_pairs("names", **argument)


def test_dates_are_dates_and_no_day_is_in_two_splits():
    data = load_pairs("dates")
    assert data.sizes == {"train": 20_000, "validation": 1_000, "test": 2_000}
    days = [{target.partition("日")[0] for _, target in pairs} for pairs in data.texts.values()]
    assert not days[0] & days[1] and not days[0] & days[2] and not days[1] & days[2]
    assert ("16 de maio de 1901", "1901年5月16日") in data.texts["test"]


def test_names_are_split_by_name():
    data = load_pairs("names")
    assert ("Belarusian", "白俄罗斯语") in sum(data.texts.values(), [])
    assert data.sizes["test"] > 100


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "count"), [("tatoeba/tatoeba_es", 1000), ("ted_hrlr_translate/pt_to_en", 2900)]
)
def test_tensorflow_datasets(tfds_dir, name, count):
    data = load_pairs(name, data_dir=tfds_dir)
    assert 0.9 * count < sum(data.sizes.values()) + sum(data.left_out.values()) <= count + 100
    x, following = next(iter(data.train))
    assert x["source"].shape[0] == 64 and following.dtype == tf.int32
