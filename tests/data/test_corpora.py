"""Texts of any size: documents, splits, token files, and flat memory."""

import gzip
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bigmodels.data import load_text, token_cache, token_files
from bigmodels.data.cleaning import clean_text, last_cut
from bigmodels.data.corpus import Corpus, Splitter
from bigmodels.data.notes import Notes
from bigmodels.data.progress import Progress
from bigmodels.data.readers import json_lines, text_files
from bigmodels.data.readers.text_corpus import read_text
from bigmodels.tokenizers import KINDS

WORDS = "the quick brown fox jumps over the lazy dog and runs into the deep dark forest".split()


def prose(rng, count):
    return " ".join(rng.choice(WORDS, count))


@pytest.fixture
def lines(tmp_path, rng):
    """60 documents; each begins with its number and has its own letter."""
    path = tmp_path / "docs.jsonl"
    texts = [f"<{i}> {prose(rng, 40)}" for i in range(60)]
    path.write_text(
        "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts))
    )
    return path, texts


@pytest.fixture
def long_text(tmp_path, rng):
    path = tmp_path / "long.txt"
    path.write_text("\r\n".join(prose(rng, 12) for _ in range(400)), newline="")
    return path


def _documents(tokens, tokenizer):
    places = [*tokens.documents.tolist(), len(tokens)]
    return [tokenizer.decode(tokens.read(a, b)) for a, b in itertools.pairwise(places)]


def _encoded(source, kind="bytes", directory=None, vocab_size=300):
    return token_files.encode(read_text(str(source)), kind, vocab_size, Notes(), directory)


def _contents(data):
    sets = (data.train_from(2).take(len(data.train) + 2), data.train_sample, data.validation)
    return [
        [(x.tolist(), y.tolist()) for x, y in batches.as_numpy_iterator()]
        for batches in (*sets, data.test)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_in_one_split(lines, kind):
    path, texts = lines
    encoded = _encoded(path, kind)
    separator = "\n\n" if kind == "characters" else ""
    found = {
        split: [text.removesuffix(separator) for text in _documents(tokens, encoded.tokenizer)]
        for split, tokens in encoded.splits.items()
    }
    if kind == "characters":  # Digits of held-out documents need not be known.
        assert sum(map(len, found.values())) == 60
    else:
        assert sorted(itertools.chain(*found.values())) == sorted(texts)
    assert [len(found[split]) for split in ("train", "validation", "test")] == [54, 3, 3]
    if kind != "characters":
        ids = encoded.splits["train"].read(0)
        assert (ids == encoded.tokenizer.END).sum() == 53


def test_files_of_a_directory_are_documents(tmp_path, rng):
    texts = {f"{i:02}.txt": f"\n<{i}> {prose(rng, 30)}\n" for i in range(40)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    encoded = _encoded(tmp_path)
    found = [_documents(t, encoded.tokenizer) for t in encoded.splits.values()]
    assert [*map(len, found)] == [36, 2, 2]
    assert sorted(sum(found, [])) == sorted(text.strip("\n") for text in texts.values())
    # Copies are never in two splits, and another order changes nothing.
    held_out = found[2][0]
    for i in range(5):
        (tmp_path / f"copy{i}.txt").write_text(f"\n{held_out}\n")
    again = _encoded(tmp_path)
    where = {
        split: held_out in _documents(tokens, again.tokenizer)
        for split, tokens in again.splits.items()
    }
    assert sum(where.values()) == 1


def test_a_single_file_is_cut_where_it_always_was(long_text):
    text = long_text.read_bytes().decode()
    encoded = _encoded(long_text)
    cuts = [0, int(0.9 * len(text)), int(0.95 * len(text)), None]
    for tokens, (a, b) in zip(encoded.splits.values(), itertools.pairwise(cuts), strict=True):
        assert encoded.tokenizer.decode(tokens.read(0)) == clean_text(text[a:b])


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_blocks_are_cleaned_as_the_whole(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block)
    path = tmp_path / "a.txt"
    text = "e\u0301\u0316\r\nabc\r\r\n\u1100\u1161\u11a8 中国é\u0301 x" * 30
    path.write_text(text, newline="")
    blocks = [*text_files.text_blocks(path)]
    assert "".join(blocks) == text and "".join(map(clean_text, blocks)) == clean_text(text)
    assert len(blocks) > 1 or block > 999


def test_a_place_to_cut_is_no_place_inside_of_a_character():
    for text, place in [("ab", 1), ("a\r\n\u0301", 3), ("ae\u0301", 1), ("\u1100\u1161", 0)]:
        assert last_cut(text) == place
        assert clean_text(text[:place]) + clean_text(text[place:]) == clean_text(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thorough
def test_token_files_give_what_memory_gives(long_text, tmp_path, kind):
    """The same windows in the same order, in every epoch and from every step."""
    options = {"length": 16, "tokens": kind, "vocab_size": 280, "seed": 5}
    data = load_text(f"text:{long_text}", 8, **options)
    kept = load_text(f"text:{long_text}", 8, **options, cache_dir=tmp_path / "cache")
    assert _contents(data) == _contents(kept)
    assert data.sizes == kept.sizes and data.unknown_share == kept.unknown_share
    assert data.notes.lines == kept.notes.lines and data.notes.left_out == kept.notes.left_out
    steps = len(kept.train)
    for skipped in (1, steps - 1, steps, steps + 3):
        (x, _), (z, _) = (
            next(d.train_from(1).skip(skipped).as_numpy_iterator()) for d in (data, kept)
        )
        np.testing.assert_array_equal(x, z)


def test_a_long_epoch_draws_from_the_whole_text(rng, tmp_path, monkeypatch):
    """With more windows than a shuffle buffer holds."""
    path = tmp_path / "letters.txt"
    text = "".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz\n"], 20_000))
    path.write_text(text)
    monkeypatch.setattr("bigmodels.data.text.SHUFFLE_WINDOW", 100)
    data = load_text(f"text:{path}", 10, length=16, tokens="bytes", cache_dir=tmp_path / "c")

    def places(epoch):
        batches = data.train_from(epoch).take(len(data.train)).as_numpy_iterator()
        rows = [data.vocabulary.decode(row) for x, _ in batches for row in x]
        return [text.index(row) for row in rows], rows

    first, rows = places(0)
    assert len(rows) == len({*rows}) == data.sizes["train"] // 16
    # The first batch comes from all quarters, and other epochs have another order.
    assert max(first[:10]) - min(first[:10]) > 0.5 * len(text)
    assert first != places(1)[0] and first == places(0)[0]


def _made(directory):
    return sorted(path.stat().st_ino for path in directory.rglob("*.tokens"))


def test_token_files_are_found_again_by_content(long_text, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def load(**options):
        return load_text(f"text:{long_text}", 4, length=16, cache_dir=cache, **options)

    data = load()
    made = _made(cache)
    assert len(made) == 3
    moved = long_text.rename(tmp_path / "moved.txt")
    os.utime(moved, (1, 1))
    again = load_text(f"text:{moved}", 4, length=16, cache_dir=cache)
    assert _made(cache) == made and again.notes.lines == data.notes.lines
    # One letter, with the same size and time.
    content = bytearray(moved.read_bytes())
    content[100] = ord("Q")
    long_text.write_bytes(content)
    os.utime(long_text, (1, 1))
    assert "Q" in load().vocabulary.characters and len(_made(cache)) == 6
    load(tokens="bytes")
    load(tokens="subwords", vocab_size=300)
    load(tokens="subwords", vocab_size=301)
    assert len(_made(cache)) == 15
    monkeypatch.setattr(token_files, "VERSION", 0)
    load()
    assert len(_made(cache)) == 18


def test_damaged_token_files_are_made_again(long_text, tmp_path):
    cache = tmp_path / "cache"
    data = load_text(f"text:{long_text}", 4, length=16, cache_dir=cache)
    (path,) = cache.rglob("train.tokens")
    path.write_bytes(path.read_bytes()[:-2])
    again = load_text(f"text:{long_text}", 4, length=16, cache_dir=cache)
    assert _contents(again) == _contents(data)


def test_a_text_that_changes_while_it_is_read_is_refused(long_text, tmp_path, monkeypatch):
    encode = token_files.encode

    def slow(*args):
        made = encode(*args)
        long_text.write_text("changed " * 999)
        return made

    monkeypatch.setattr(token_files, "encode", slow)
    with pytest.raises(ValueError, match="have changed while they were read"):
        load_text(f"text:{long_text}", 4, length=16, cache_dir=tmp_path / "cache")
    assert not _made(tmp_path / "cache")


def test_the_cache_is_where_it_is_said(monkeypatch):
    monkeypatch.delenv(token_cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert token_cache.cache_dir() == pathlib.Path("/x/bigmodels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert token_cache.cache_dir() == pathlib.Path("~/.cache/bigmodels").expanduser()
    monkeypatch.setenv(token_cache.VARIABLE, "/y")
    assert token_cache.cache_dir() == pathlib.Path("/y")
    assert token_cache.cache_dir("/z") == pathlib.Path("/z")


_LOAD = """
import sys
from bigmodels.data import load_text, token_files
token_files._AT_ONCE = 4096
if sys.argv[3:]:
    append = token_files._Writer._append
    def die(writer, ids):
        append(writer, ids)
        if writer._size > 10_000:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    token_files._Writer._append = die
data = load_text(f"text:{sys.argv[1]}", 4, length=16, tokens="bytes", cache_dir=sys.argv[2])
print(sum(int(x.sum()) for x, _ in data.train_from(0).take(len(data.train)).as_numpy_iterator()))
"""


def _start(*words):
    return subprocess.Popen(
        [sys.executable, "-c", _LOAD, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough
def test_killed_while_encoding_and_begun_again(lines, tmp_path):
    path, cache = lines[0], tmp_path / "cache"
    killed = _start(path, cache, "die")
    assert killed.wait(100) == -signal.SIGKILL
    (own,) = (cache / "text").iterdir()
    assert not (own / "tokens").exists() and [*own.iterdir()]  # Half-written files remain ...
    two = [_start(path, cache) for _ in range(2)]  # ... which neither of two others reads.
    printed = {process.communicate(timeout=100)[0] for process in two}
    assert all(process.returncode == 0 for process in two)
    data = load_text(f"text:{path}", 4, length=16, tokens="bytes")
    batches = data.train_from(0).take(len(data.train)).as_numpy_iterator()
    assert printed == {f"{sum(int(x.sum()) for x, _ in batches)}\n"}
    assert [p.name for p in own.iterdir()] == ["tokens"]


_FLAT = """
import resource, sys
from bigmodels.data import load_text
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
load_text("python_docs", 32, tokens=sys.argv[3])
before = peak()
data = load_text(f"text:{sys.argv[1]}", 32, length=128, tokens=sys.argv[3], vocab_size=1000,
                 cache_dir=sys.argv[2])
for batches in (data.train_from(0).take(300), data.validation.take(100), data.test.take(100)):
    for x, y in batches.as_numpy_iterator():
        pass
print(peak() - before)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_memory_is_flat(tmp_path, rng, kind):
    """A text of 160 MB, of which neither characters (320 MB as ids) nor bytes are held."""
    path = tmp_path / "large.txt"
    block = "\n".join(prose(rng, 14) for _ in range(12_000)) + "\n"
    with path.open("w") as file:
        for i in range(160_000_000 // len(block)):
            file.write(f"{i} é\n{block}")
    done = subprocess.run(
        [sys.executable, "-c", _FLAT, path, tmp_path / "cache", kind],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MB


BAD_LINES = {
    "not json": "not JSON: Expecting value (column 1)",
    "[1]": "a list, expected an object",
    '{"body": "x"}': "no field 'text', but 'body'",
    '{"text": 3}': "'text' is a int, expected a string",
    '{"text": "a\\u0000"}': "NUL character",
    '{"text": "\\ud800"}': "half of a surrogate pair",
    "[" * 100_000: "nested too deeply",
    '{"text": "' + "x" * 999 + '"}': "longer than 900 bytes",
    '{"text": "e' + "\u0301" * 1001 + '"}': "combining marks",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_or_left_out(lines, monkeypatch, line):
    path = lines[0]
    if BAD_LINES[line].startswith("longer"):
        monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 900)
    good = path.read_text()
    first, rest = good.split("\n", 1)
    path.write_text(f"{first}\n\n{line}\n{rest}")
    with pytest.raises(ValueError) as error:
        load_text(f"text:{path}", 4, length=16)
    message = str(error.value)
    assert f"{str(path)!r}, line 3" in message and BAD_LINES[line] in message
    assert "\n" not in message and len(message) < 400
    data = load_text(f"text:{path}", 4, length=16, skip_bad_files=True)
    assert data.notes.left_out["lines without a document"] == 1
    assert any("line 3" in said and BAD_LINES[line] in said for said in data.notes.lines)
    path.write_text(good)
    assert data.sizes == load_text(f"text:{path}", 4, length=16).sizes


def test_a_byte_that_is_no_text_is_named_with_its_line(lines):
    path, _ = lines
    path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"docs.jsonl', line 61: byte 0xff is not UTF-8"):
        load_text(f"text:{path}", 4, length=16)


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": " "}\n'])
def test_an_empty_corpus_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"a.jsonl' is empty"):
        load_text(f"text:{tmp_path / 'a.jsonl'}")


def test_few_lines_are_cut_as_one_text(tmp_path, rng):
    path = tmp_path / "few.jsonl"
    texts = [prose(rng, 90) for _ in range(3)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    encoded = _encoded(path)
    joined = "\n\n".join(texts)
    parts = [encoded.tokenizer.decode(tokens.read(0)) for tokens in encoded.splits.values()]
    assert "".join(parts) == joined and parts[0] == joined[: int(0.9 * len(joined))]


def test_packed_lines_and_folders_of_them(lines, tmp_path):
    texts = lines[1]
    for name, part in {"train": texts[:50], "valid": texts[50:55], "test": texts[55:]}.items():
        folder = tmp_path / "shards" / name
        folder.mkdir(parents=True)
        content = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / "0.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "shards" / "README.md").write_text("not read")
    encoded = _encoded(tmp_path / "shards")
    found = [_documents(tokens, encoded.tokenizer) for tokens in encoded.splits.values()]
    assert found == [texts[:50], texts[50:55], texts[55:]]


def test_a_large_split_is_measured_on_a_fixed_sample(long_text):
    def load(most):
        options = {"length": 16, "tokens": "bytes", "evaluation_tokens": most}
        return load_text(f"text:{long_text}", 4, **options)

    data, whole = load(160), load(0)
    rows, everything = (
        np.concatenate([x for x, _ in d.test.as_numpy_iterator()]) for d in (data, whole)
    )
    assert rows.shape == (10, 16)
    places = [np.flatnonzero((everything == row).all(1))[0] for row in rows]
    assert places == [i * len(everything) // 10 for i in range(10)]  # From all over the split.
    total = whole.sizes["test"]
    assert data.sizes == whole.sizes
    said = f"of the {total:,} bytes of test, 160 are measured, always the same"
    assert any(said in line and "data.evaluation_tokens" in line for line in data.notes.lines)
    assert not any("are measured" in line for line in whole.notes.lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "words"}, "data.tokens: 'words' is not one of characters, bytes, subwords"),
        ({"tokens": "subwords", "vocab_size": 9}, "vocab_size: 9, expected at least 258"),
        ({"evaluation_tokens": -1}, "evaluation_tokens: -1"),
        ({"cache_dir": "/proc/none"}, "data.cache_dir: '/proc/none' cannot be written"),
    ],
)
def test_errors_name_argument_and_value(long_text, options, message):
    with pytest.raises(ValueError) as error:
        load_text(f"text:{long_text}", 4, length=16, **options)
    assert message in str(error.value)


def test_a_corpus_without_training_text_is_refused():
    with pytest.raises(ValueError, match=r"only \['test'\], expected a training text"):
        Splitter(Corpus.of_texts({"test": "abc"}), Notes(), Progress("checking"))


def test_progress_is_said_line_by_line_where_there_is_no_terminal(capsys, monkeypatch):
    moments = itertools.count(0, 6)
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    with Progress("text: encoding", 4_000_000_000) as progress:
        for _ in range(4):
            progress.update(1_000_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "text: encoding: 2.00GB of 4.00GB",
        "text: encoding: 4.00GB of 4.00GB",
    ]
    with Progress("measuring test", 20, " batches") as progress:
        for _ in range(2):
            progress.update(5)
    assert capsys.readouterr().err == "measuring test: 10 batches of 20 batches\n"
