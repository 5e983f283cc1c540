import numpy as np
import pytest

from bigmodels.data import clean_text, load_text
from bigmodels.layers import Vocabulary

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
