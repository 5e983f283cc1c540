import numpy as np
import pytest

from bigmodels.data import clean_text, load_text
from bigmodels.data.notes import Notes
from bigmodels.data.readers.text_corpus import read_text
from bigmodels.tokenizers import Vocabulary

# Random letters, so that every window occurs once.
TEXT = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), 2000))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_targets_are_inputs_moved_on_by_one(text_file):
    data = load_text(f"text:{text_file}", 4, length=20)
    for split in ("train", "train_sample", "validation", "test"):
        for x, y in getattr(data, split).as_numpy_iterator():
            np.testing.assert_array_equal(x[:, 1:], y[:, :-1])


def test_validation_and_test_are_whole_and_in_order(text_file):
    data = load_text(f"text:{text_file}", 4, length=20)
    vocabulary = data.vocabulary
    for split, text in (("validation", TEXT[1800:1900]), ("test", TEXT[1900:])):
        rows = np.concatenate([y for _, y in getattr(data, split).as_numpy_iterator()])
        decoded = vocabulary.decode(rows.ravel())
        assert text[1:].startswith(decoded) and len(text) - 1 - len(decoded) <= 8


def test_every_epoch_cuts_the_text_elsewhere(text_file):
    data = load_text(f"text:{text_file}", 4, length=20, seed=1)
    epochs = []
    for _ in range(3):
        rows = np.concatenate([x for x, _ in data.train.as_numpy_iterator()])
        windows = [data.vocabulary.decode(row) for row in rows]
        places = [TEXT.find(window) for window in windows]
        assert min(places) >= 0 and max(places) + 21 <= 1800  # Of the training text only.
        assert len({place % 20 for place in places}) == 1
        epochs.append(windows)
    assert epochs[0][0] != epochs[1][0] != epochs[2][0]
    assert len(epochs[0]) == data.sizes["train"] // 20


def test_vocabulary_knows_the_training_text_only(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ab" * 900 + "z" * 200)
    data = load_text(f"text:{path}", 2, length=10)
    assert "z" not in data.vocabulary.characters
    assert data.unknown_share["test"] == 1.0
    _, y = next(data.test.as_numpy_iterator())
    assert (y == Vocabulary.UNKNOWN).all()


def test_evaluation_windows_may_be_longer(text_file):
    data = load_text(f"text:{text_file}", 4, length=10, evaluation_length=50)
    x, _ = next(data.validation.as_numpy_iterator())
    assert 40 <= x.shape[1] <= 50


def test_clean_text():
    assert clean_text("a\r\nb\rc\ne\N{COMBINING ACUTE ACCENT}") == "a\nb\nc\né"


def test_embedded_prose():
    data = load_text("python_docs", 64, length=50)
    assert data.sizes["train"] > 300_000 and 80 < len(data.vocabulary) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xff\n" * 200, "line 2: byte 0xff is not UTF-8"),
        (b"one\ntwo\nthr\0ee\n" * 200, "line 3: NUL character"),
        (b"  \n \n", "is empty"),
        (b"short", "too few for windows of length=100"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_text(f"text:{path}")
    assert message in str(error.value) and ("bad.txt" in str(error.value))


POEM = "第一章 此开卷第一回也。作者自云曾历过一番梦幻之后，故将真事隐去。\n"
LOOKS = {
    "GB18030": POEM,
    "Big5": "第一章 此開卷第一回也。作者自云曾歷過一番夢幻之後，故將真事隱去。\n",
    "Shift_JIS": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "EUC-JP": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "ISO-2022-JP": "吾輩は猫である。名前はまだ無い。\n",
    "EUC-KR": "옛날 옛적에 호랑이가 담배 피우던 시절에 한 나무꾼이 살았습니다.\n",
    "windows-1251": "Все счастливые семьи похожи друг на друга.\n",
    "KOI8-R": "Все счастливые семьи похожи друг на друга.\n",
    "CP866": "Все счастливые семьи похожи друг на друга.\n",
    "windows-1252": "Longtemps, je me suis couché de bonne heure… “naïve”\n",
    "windows-1250": "Zażółć gęślą jaźń. Litwo! ty jesteś jak zdrowie; ile cię trzeba cenić\n",
    "windows-1253": "Στην αρχή ήταν ο λόγος.\n",
    "UTF-16LE": POEM,
    "UTF-16BE": "Die Straße führt über die Brücke.\n",
    "UTF-16": POEM,
    "UTF-32": POEM,
}


@pytest.mark.parametrize("count", [1, 200], ids=["short", "long"])
@pytest.mark.parametrize("encoding", LOOKS)
def test_another_encoding_is_named_with_the_line_that_converts_it(tmp_path, encoding, count):
    path = tmp_path / "my novel.txt"
    path.write_bytes((LOOKS[encoding] * count).encode(encoding))
    with pytest.raises(ValueError) as error:
        load_text(f"text:{path}")
    message = str(error.value)
    assert f"set data.encoding={encoding.lower()}, or convert it: " in message
    assert message.endswith(f"iconv -f {encoding} -t UTF-8 '{path}' > '{path}.utf8'")
    assert "\n" not in message
    if count > 1:
        data = load_text(f"text:{path}", length=20, encoding=encoding.lower())
        assert set(data.vocabulary.characters) <= set(LOOKS[encoding])
        if encoding != "UTF-16":
            assert any(f"is read as {encoding.lower()}" in line for line in data.notes.lines) == (
                b"\x1b" not in path.read_bytes()
            )


@pytest.mark.parametrize(
    "content",
    [
        "Ünïcödé. ".encode() * 50 + b"\xe9 ",  # Damaged: the rest is UTF-8.
        np.random.default_rng(0).bytes(3000),
        b"\0" * 100,
        b"plain \xff\n",
    ],
)
def test_no_encoding_is_named_that_does_not_fit(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_text(f"text:{tmp_path / 'a.txt'}")
    assert "looks like" not in str(error.value) and "iconv" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"PK\3\4", "a zip archive"), (b"%PDF-1.7", "a PDF"), (b"{\\rtf1 novel}", "RTF")],
)
def test_what_is_no_plain_text_is_named(tmp_path, content, kind):
    (tmp_path / "a.txt").write_bytes(content + b" text" * 999)
    with pytest.raises(ValueError, match=f"a.txt' is {kind}.*, expected plain text"):
        load_text(f"text:{tmp_path / 'a.txt'}")


def test_a_directory_is_read_in_order_and_the_rest_named(tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in {
        "a.txt": "one " * 300,
        "b/c.TXT": "two " * 300,
        "b/a.txt": "six " * 9,
    }.items():
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "b" / "notes.md").write_text("not read")
    (tmp_path / ".hidden").touch()
    (tmp_path / "z.txt").touch()
    data = load_text(f"text:{tmp_path}", 4, length=10)
    rows = np.concatenate([x for x, _ in data.train_sample.as_numpy_iterator()])
    assert data.vocabulary.decode(rows.ravel()).startswith("one one")
    assert data.sizes["train"] == pytest.approx(0.9 * (2400 + 36 + 4), abs=20)
    joined = "\n".join(data.notes.lines)
    assert "3 .txt files are one text, in this order: 'a.txt', 'b/a.txt', 'b/c.TXT'." in joined
    assert data.notes.left_out["files that are not named .txt"] == 1 and "notes.md" in joined
    assert data.notes.left_out["empty files"] == 1
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"bad.txt', line 1: byte 0xff is not UTF-8"):
        load_text(f"text:{tmp_path}", 4, length=10)
    skipped = load_text(f"text:{tmp_path}", 4, length=10, skip_bad_files=True)
    assert skipped.notes.left_out["bad files"] == 1 and skipped.sizes == data.sizes
    with pytest.raises(ValueError, match=r"b/none' contains no .txt file"):
        (tmp_path / "b" / "none").mkdir()
        load_text(f"text:{tmp_path / 'b' / 'none'}")


def test_files_named_as_splits_are_the_splits(tmp_path):
    for name, letter in {"Train": "a", "valid": "b", "test": "c"}.items():
        (tmp_path / f"{name}.txt").write_text(letter * 300)
    data = load_text(f"text:{tmp_path}", 4, length=10)
    assert data.vocabulary.characters == ("a",) and data.unknown_share["test"] == 1
    assert any("are its splits, by their names" in line for line in data.notes.lines)


def test_the_path_may_be_quoted_and_begin_at_home(text_file, monkeypatch):
    monkeypatch.setenv("HOME", str(text_file.parent))
    for name in ("~/mine.txt", f'"{text_file}"', "'~/mine.txt'"):
        assert load_text(f"text:{name}", 4, length=20).sizes["test"] == 99
    with pytest.raises(
        ValueError, match="'text:' does not name a file; give text:FILE or text:DIR"
    ):
        load_text("text:")


def test_what_is_changed_or_fills_no_window_is_said(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(("abc" * 9999 + "\r\ncafe\N{COMBINING ACUTE ACCENT} \ufffd" + "z").encode())
    data = load_text(f"text:{path}", 4, length=10)
    joined = "\n".join(data.notes.lines)
    assert "1 line ends with a carriage return are read as line feeds" in joined
    assert "1 words are normalised to Unicode NFC" in joined
    assert "1 replacement characters U+FFFD, the first in line 2" in joined
    assert "of 1,499 characters of test are not in the training text" in joined
    for split in ("validation", "test"):
        measured = sum(y.size for _, y in getattr(data, split).as_numpy_iterator())
        what = f"characters at the end of {split} that do not fill a window"
        assert data.notes.left_out.get(what, 0) == data.sizes[split] - measured
    quiet = load_text("python_docs", 64, length=50)
    assert all("do not fill a window" in line for line in quiet.notes.lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "text:/nowhere"}, "'/nowhere' is not a file"),
        ({"name": "images:x"}, "is not text"),
        ({"name": "tiny_shakespear"}, "did you mean tiny_shakespeare"),
        ({"length": 0}, "length: 0"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        load_text(**arguments)
    assert message in str(error.value)


@pytest.mark.real_data
def test_tiny_shakespeare_from_tfds(tfds_dir):
    data = load_text("tiny_shakespeare", 64, length=100, data_dir=tfds_dir)
    assert data.sizes["validation"] == data.sizes["test"] == 55_769
    assert len(data.vocabulary) == 67 and data.unknown_share["test"] == 0


def _texts(directory, notes):
    """The documents of each split, joined."""
    texts = {}
    for split, text, ends in read_text(str(directory), notes=notes).read(notes):
        texts[split] = texts.get(split, "") + text + ("\n\n" if ends else "")
    return {split: text.removesuffix("\n\n") for split, text in texts.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("train/a.txt", "train/b.txt", "valid/c.txt", "test/d.txt"),
    ],
)
def test_splits_may_be_the_ends_of_names_or_folders(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    texts = _texts(tmp_path, Notes())
    assert texts.keys() == {"train", "validation", "test"}
    assert texts["train"] == "\n\n".join(name for name in names if "train" in name)


def test_hidden_files_are_no_texts(tmp_path):
    for name in ("__MACOSX/._a.txt", ".b.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Text")
    notes = Notes()
    assert _texts(tmp_path, notes) == {None: "Text"}
    assert notes.left_out == {"hidden and system files": 2}
