"""Pairs of texts: read, held apart, padded little."""

import gzip
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from bigmodels.data import load_pairs
from bigmodels.data.notes import Notes
from bigmodels.data.readers.pair_files import pair_file
from bigmodels.data.readers.tfds import pair_dataset


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


@pytest.mark.thorough
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
        (GOOD + b"no tab\n", "line 31: 'no tab', expected a source, a tab and a target$"),
        (b"one\ntwo\n", "line 1: 'one', expected .*; no line has a tab: give two files"),
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


SENTENCES = [(f"The number is {i}.", f"Die Zahl, sie ist {i}.") for i in range(30)]


def written(path, row, header=""):
    """A file with a line for each sentence."""
    lines = [row.format(i=i, en=en, de=de) for i, (en, de) in enumerate(SENTENCES)]
    path.write_text("\n".join([header, *lines] if header else lines) + "\n", encoding="utf-8")
    return path


NOT_PAIRS = {
    "ids": ("{i}\t{en}\t9{i}\t{de}", "", "column 1 holds numbers ('0'), not texts", "2,4"),
    "scores": ("0.9{i}\t{en}\t{de}", "", "column 1 holds numbers ('0.90'), not texts", "2,3"),
    "score in between": ("{en}\t0.9{i}\t{de}", "", "column 2 holds numbers ('0.90')", "1,3"),
    "languages": ("en\t{en}\tde\t{de}", "", "column 1 holds a single value", "2,4"),
    "names": ("sent-{i}\t{en}\t{de}", "", "column 1 holds ids ('sent-0'), not texts", "2,3"),
    "header": ("{i}\t{en}\t{de}", "id\ten\tde", "has the columns id, en, de", "en,de"),
    "numbered": ("{i}\t{en}\t{de}", "#\tEnglish\tDeutsch", "columns #, English", "English,Deutsch"),
}


@pytest.mark.parametrize("kind", NOT_PAIRS)
def test_columns_that_are_no_pair_are_refused_with_the_setting_to_give(kind, tmp_path):
    row, header, message, setting = NOT_PAIRS[kind]
    path = written(tmp_path / "a.tsv", row, header)
    with pytest.raises(ValueError) as error:
        load(path)
    assert message in str(error.value) and f"set data.columns={setting} (" in str(error.value)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert pair_file(path, setting.split(",")) == SENTENCES
    assert pair_file(path, setting.split(",")[::-1]) == [pair[::-1] for pair in SENTENCES]


@pytest.mark.parametrize(
    ("name", "row", "header"),
    [
        ("a.csv", '"{en}","{de}"', ""),
        ("a.csv", '{en},"{de}"', "source,target"),
        ("a.csv", '"{de}",{en}', "target,source"),
        ("a.csv", "{en};{de}", "English;German"),
        ("a.csv", "{en};{de}", "sep=;"),
        ("a.csv", "{en}\t{de}", ""),
        ("a.tsv", "{en}\t{de}", "Source\tTarget"),
        ("a.tsv", "{en}\t{de}", "英文\t中文"),
        ("a.txt", '"{en}"\t"{de}"', ""),
        ("a.txt", "{en}\t{de}\tCC-BY 2.0 (France) Attribution: tatoeba.org #{i}", ""),
        ("a.jsonl", '{{"en": "{en}", "de": "{de}"}}', ""),
        ("a.jsonl", '{{"id": {i}, "translation": {{"en": "{en}", "de": "{de}"}}}}', ""),
        ("a.jsonl", '{{"target": "{de}", "score": 0.5, "source": "{en}"}}', ""),
    ],
)
def test_a_source_and_a_target_are_found(tmp_path, name, row, header):
    assert pair_file(written(tmp_path / name, row, header)) == SENTENCES
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert pair_file(packed) == SENTENCES


def test_a_list_of_json_objects_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": 1, "en": en, "de": de, "x": None} for en, de in SENTENCES]))
    with pytest.raises(ValueError, match=r"the columns id, en, de, x; set data.columns=en,de \("):
        pair_file(path)
    assert pair_file(path, ("de", "en")) == [pair[::-1] for pair in SENTENCES]


def test_what_is_not_used_is_said(tmp_path):
    row = "{en}\t{de}\tCC-BY 2.0 #{i}"
    data = load(written(tmp_path / "a.txt", row))
    (line,) = (line for line in data.notes.lines if "not used" in line)
    assert "columns 1 and 2 are source and target; column 3 is not used ('CC-BY 2.0 #0')" in line
    notes = Notes()
    pair_file(written(tmp_path / "b.csv", '{i},{en},"{de}"', "id,source,target"), notes=notes)
    assert "'source' is the source and 'target' the target; not used: 'id'." in notes.lines[0]
    notes = Notes()
    pair_file(tmp_path / "a.txt", ("2", "1"), notes=notes)
    assert notes.lines[0].endswith("column 2 is the source and 1 the target; not used: 3.")


def test_quotation_marks_are_csvs_only_where_all_follow_its_rules(tmp_path):
    path = tmp_path / "a.tsv"

    def read(text):
        path.write_text(text)
        return pair_file(path)

    assert read('"He said ""No"""\tx\na\tb\n') == [('He said "No"', "x"), ("a", "b")]
    assert read('"one\nline ""more"""\tx\n') == [('one\nline "more"', "x")]
    assert read('"a, b"\tx\nc\td\n') == [("a, b", "x"), ("c", "d")]  # As Excel writes it.
    assert read('"a, b"\tx\nc, c\td\n') == [('"a, b"', "x"), ("c, c", "d")]
    for kept in ('"Hi," he said.', 'He said "Hi."', '"', '5" of it', '"Really?" "Really."'):
        pairs = read(f'{kept}\tx\n"Yes."\t"Si."\n')
        assert pairs == [(kept, "x"), ('"Yes."', '"Si."')]
    with pytest.raises(
        ValueError, match=r"a.csv', line 3: 3 columns, expected 2 .* quotation marks"
    ):
        (tmp_path / "a.csv").write_text("a,b\nc,d\ne, f,g\n")
        pair_file(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a.csv', line 2: "):
        (tmp_path / "a.csv").write_text('a,b\n"c" d,e\n')
        pair_file(tmp_path / "a.csv")


def test_two_files_are_read_line_by_line(tmp_path, monkeypatch):
    for language, side in zip(("en", "de"), zip(*SENTENCES, strict=True), strict=True):
        (tmp_path / f"train.{language}").write_text("\n".join(side) + "\n")
    where = f"{tmp_path / 'train.en'},{tmp_path / 'train.de'}"
    assert pair_file(where) == SENTENCES
    assert sum(load(where).sizes.values()) == 30
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pair_file("~/train.en,~/train.de") == SENTENCES == pair_file(f'"{where}"')
    with open(tmp_path / "train.de", "a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"train.en' has 30 lines but '.*train.de' has 31"):
        pair_file(where)
    with pytest.raises(ValueError, match=r"no.de' is not a file"):
        pair_file(f"{tmp_path / 'train.en'},{tmp_path / 'no.de'}")
    with pytest.raises(ValueError, match=r"data.columns: \('1', '2'\), but .* are two files"):
        pair_file(where, ("1", "2"))


def test_all_that_is_left_out_or_odd_is_counted(tmp_path):
    path = tmp_path / "a.tsv"
    lines = [f"word {i}\tWort {i}" for i in range(200)]
    lines += ["word 3\tWort 3", "WORD 3!\tanderes", "\tleer", "empty\t ", "Paris\tParis"]
    path.write_text("\n".join([*lines, " ".join(map(str, range(1, 9**5, 977))) + "\tx"]))
    data = load(path)
    assert sum(data.sizes.values()) + sum(data.notes.left_out.values()) == len(lines) + 1
    said = "\n".join(data.notes.lines)
    assert "left out 2 lines with an empty side: 203; 204." in said
    assert "1 of 204 have the same text on both sides, the first is 'Paris'; they are kept" in said
    assert "with more than max_length=64 tokens on a side, or none (1): '1 978 1955" in said
    assert sum(data.left_out.values()) == 1
    with open(path, "a") as file:
        file.write("\nno tab\n")
    with pytest.raises(ValueError, match="line 207: 'no tab'"):
        load(path)
    skipped = load(path, skip_bad_files=True)
    assert skipped.notes.left_out["lines that are not a pair"] == 1 and skipped.sizes == data.sizes


def test_columns_are_checked(tmp_path):
    path = written(tmp_path / "a.tsv", "{i}\t{en}\t{de}")
    for columns, message in (
        (("2",), "data.columns: '2', expected two"),
        (("2", "2"), "data.columns: '2,2', expected two"),
        (("2", "4"), "data.columns: '4' is not a column; the columns of .*a.tsv' are 1, 2, 3"),
        (("0", "1"), "data.columns: '0' is not a column"),
        (
            ("en", "de"),
            "data.columns: 'en' is not a column; the columns of .* are 0, The number is 0., Die",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load(path, columns=columns)
    with pytest.raises(ValueError, match=r"data.columns: .* 'dates' is not a file of pairs:FILE"):
        load_pairs("dates", columns=("1", "2"))
    with pytest.raises(ValueError, match=r"data.encoding: 'gbk9' is not a text encoding"):
        load(path, encoding="gbk9")


def test_another_encoding_can_be_said(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"第{i}章\tchapter {i}\n" for i in range(30)), encoding="gb18030")
    with pytest.raises(
        ValueError, match=r"line 1: .*looks like GB18030: set data.encoding=gb18030"
    ):
        load(path)
    assert ("第3章", "chapter 3") in sum(load(path, encoding="gb18030").texts.values(), [])


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


@pytest.mark.thorough
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


def test_a_first_line_that_is_no_known_header_is_said(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("Klingon\tElvish\nOne.\tUno.\nTwo.\tDos.\n")
    notes = Notes()
    assert len(pair_file(path, notes=notes)) == 3
    assert "its first line is a pair, 'Klingon' and 'Elvish'." in notes.lines[0]


def test_lists_in_json_are_no_texts(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"source": "a", "target": ["b", "c"]}\n{"source": "d", "target": "e"}\n')
    with pytest.raises(ValueError, match=r"line 1: 'target' is \['b', 'c'\], expected a text"):
        pair_file(path)
    assert pair_file(path, skip_bad_files=True) == [("d", "e")]


def test_pairs_of_a_prepared_set_with_an_empty_side_are_counted(tmp_path):
    directory = tmp_path / "odd" / "1.0.0"
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="odd", version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.Translation(languages=("de", "en"))
    )
    directory.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
    writer.initialize_splits(["train"])
    for pair in (("ja", "yes"), (" ", "no"), ("nein", "no"), ("doch", "")):
        writer.add_examples({"train": [dict(zip(("de", "en"), pair, strict=True))]})
    writer.close_all()
    notes = Notes()
    assert pair_dataset("odd", str(tmp_path), notes) == [("ja", "yes"), ("nein", "no")]
    assert notes.lines == ["dataset: left out 2 pairs of train with an empty side: 1; 3."]
