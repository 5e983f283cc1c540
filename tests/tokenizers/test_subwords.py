"""Text to pieces and back: nothing is lost, and in a graph it is the same."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.tokenizers import Subwords
from bigmodels.tokenizers.subwords import SPACE

TEXTS = ["the cat sat on the mat.", "The hat, the bat!", "敏捷的狐狸 jumps 🦊", "naïve café 1984"]


def ids(subwords, text):
    return subwords.encode([text]).numpy()[0].tolist()


def test_the_longest_piece_comes_first():
    pieces = [f"{SPACE}the", f"{SPACE}t", "h", "e", "m", "there", f"{SPACE}", "."]
    subwords = Subwords(pieces)
    number = {piece: i for i, piece in enumerate(pieces, 4)}
    assert ids(subwords, "the") == [number[f"{SPACE}the"]]
    # A piece does not reach over a word's end, and begins where the last one ended.
    assert ids(subwords, "them. the") == [
        *(number[f"{SPACE}the"], number["m"], number["."]),
        number[f"{SPACE}the"],
    ]
    assert ids(subwords, "th") == [number[f"{SPACE}t"], number["h"]]
    # "there" is no piece of a word that begins with a space, and x is nothing.
    assert ids(subwords, "xthere") == [number[SPACE], subwords.UNKNOWN, number["there"]]


@pytest.mark.parametrize("vocab_size", [5, 60])
def test_fitted_texts_come_back(vocab_size):
    subwords = Subwords.fit(TEXTS, vocab_size)
    assert len(subwords) >= vocab_size
    encoded = subwords.encode(TEXTS)
    assert encoded.dtype == tf.int32 and not (encoded.values.numpy() == subwords.UNKNOWN).any()
    assert [text.decode() for text in subwords.decode(encoded).numpy()] == TEXTS
    longest = max(map(len, subwords.pieces))
    assert longest == 1 if vocab_size == 5 else longest > 2


def test_white_space_is_one_space_and_none_around():
    subwords = Subwords.fit(["a b"], 5)
    for text in ("a b", " a  b ", "a\tb\n", "a\u3000b", f"a{SPACE}b", "a\x1fb", "a\0b"):
        assert ids(subwords, text) == ids(subwords, "a b")
    assert ids(subwords, "") == ids(subwords, " \n") == []


def test_unknown_characters_and_special_ids():
    subwords = Subwords.fit(["ab"], 5)
    encoded = subwords.encode(["axb", "好"])
    assert [t.decode() for t in subwords.decode(encoded).numpy()] == ["a\ufffdb", "\ufffd"]
    (a, b) = ids(subwords, "ab")[-2:]
    assert subwords.decode([[2, a, b, 3, 0, 0]]).numpy()[0] == b"ab"


def test_each_text_is_cut_as_if_alone_and_in_a_graph():
    subwords = Subwords.fit(TEXTS, 50)
    texts = [*TEXTS, "", "the", "x" * 500, "cat" * 50]
    alone = [ids(subwords, text) for text in texts]
    assert subwords.encode(texts).to_list() == alone
    graph = tf.function(subwords.encode, input_signature=[tf.TensorSpec((None,), "string")])
    assert graph(texts).to_list() == alone
    assert graph(tf.constant([], "string")).to_list() == []


def test_many_texts_are_what_few_are(monkeypatch):
    subwords = Subwords.fit(TEXTS, 50)
    whole = subwords.encode(TEXTS).to_list()
    monkeypatch.setattr("bigmodels.tokenizers.subwords._AT_ONCE", 3)
    assert subwords.encode(TEXTS).to_list() == whole
    assert Subwords.fit(TEXTS, 50).pieces == subwords.pieces


@pytest.mark.thorough
def test_another_process_learns_the_same_pieces():
    """A run that goes on reads its data anew."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcd"), rng.integers(1, 5))) for _ in range(300)]
    text = " ".join(words)
    code = f"from bigmodels.tokenizers import Subwords; print(Subwords.fit([{text!r}], 80).pieces)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(Subwords.fit([text], 80).pieces), done.stderr


@pytest.mark.parametrize("pieces", [["a", "a"], ["a", ""], ["a", 3]])
def test_bad_pieces_are_named(pieces):
    with pytest.raises(ValueError, match=r"pieces: ('a'|''|3), expected non-empty strings"):
        Subwords(pieces)
