"""Characters, bytes and subwords behind one interface: nothing is lost, in Python or in a graph."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmodels.tokenizers import KINDS, BytePairs, Bytes, Vocabulary, from_config

TEXT = (
    "the cat sat on the mat; naïve 敏捷的狐狸 jumps 🦊🦊 in 1984.\n\n    return x\t\x85\u3000end"
    * 30
)
# What the two engines could see differently: spaces, marks, controls, digits, joined emoji.
ODD = " \t\n\x0b\x0c\r\x85\u00a0\u2028\u3000\u0301\u200d\ufeff\0\x1f\x7f'0१½Ⅷ_-ab🦊👩👨"
STRINGS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(ODD, max_size=40)


@pytest.fixture(scope="module", params=[258, 300, 500])
def subwords(request):
    return BytePairs.fit([TEXT], request.param)


@functools.cache
def _graph(tokenizer):
    return tf.function(tokenizer.encode_strings, input_signature=[tf.TensorSpec([None], "string")])


def _in_graph(tokenizer, texts):
    return _graph(tokenizer)(tf.constant([text.encode() for text in texts])).to_list()


BYTES = Bytes()


def test_bytes_are_the_bytes():
    tokenizer = Bytes.fit()
    assert len(tokenizer) == 258 and tokenizer.END == 1
    assert tokenizer.encode("aé").tolist() == [2 + 97, 2 + 0xC3, 2 + 0xA9]
    assert tokenizer.decode([99, 0, 1, 2 + 0xC3]) == "a\ufffd"
    assert tokenizer.num_bytes.tolist() == [0, 0] + 256 * [1]


@settings(max_examples=60, deadline=None)
@given(text=STRINGS)
def test_any_string_comes_back_from_bytes(text):
    ids = BYTES.encode(text)
    assert BYTES.decode(ids) == text and len(ids) == len(text.encode())
    assert _in_graph(BYTES, [text]) == [ids.tolist()]


@settings(max_examples=60, deadline=None)
@given(text=STRINGS)
@pytest.mark.thorough
def test_any_string_comes_back_from_subwords(subwords, text):
    ids = subwords.encode(text)
    assert subwords.decode(ids) == text
    assert subwords.num_bytes[ids].sum() == len(text.encode())
    # The library in threads, which encodes the corpus, and the graph of an export agree.
    assert subwords.encode_batch([text])[0].tolist() == ids.tolist()
    assert _in_graph(subwords, [text, "", text + "the"])[0] == ids.tolist()


def test_subwords_by_hand():
    """a=99, b=100, space=34; the pair that was learnt first is merged first, from the left."""
    tokenizer = BytePairs([[99, 100], [258, 258], [100, 99]])
    assert tokenizer.tokens[258:] == [b"ab", b"abab", b"ba"]
    assert tokenizer.encode("ababab").tolist() == [259, 258]
    assert tokenizer.encode("ba").tolist() == [260]
    assert tokenizer.encode("bab").tolist() == [100, 258]
    # Never over the border of two words.
    assert tokenizer.encode("a b").tolist() == [99, 34, 100]
    assert tokenizer.decode([259, 1, 0, 260]) == "ababba"
    assert tokenizer.num_bytes[256:].tolist() == [1, 1, 2, 4, 2]


def test_the_most_frequent_pairs_are_learnt_and_shorten_the_text():
    tokenizer = BytePairs.fit([TEXT], 300)
    assert len(tokenizer) == 300 and b"the" in tokenizer.tokens
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT.encode())
    assert BytePairs.fit(iter([TEXT[:999], TEXT[999:]]), 300).merges[:9] == tokenizer.merges[:9]
    # No pair occurs twice: there is nothing to learn.
    assert len(BytePairs.fit(["abc"], 8192)) == 258


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_made_again_from_its_config(kind):
    tokenizer = KINDS[kind].fit([TEXT], 280)
    again = from_config(tokenizer.get_config())
    assert type(again) is type(tokenizer) and len(again) == len(tokenizer)
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert again.decode(again.encode(TEXT)) == TEXT
    assert tokenizer.num_bytes[tokenizer.encode(TEXT)].sum() == len(TEXT.encode())


def test_an_unknown_character_counts_as_one_byte():
    tokenizer = Vocabulary("aé")
    assert tokenizer.num_bytes.tolist() == [0, 1, 1, 2]
    assert tokenizer.unknown("bad") == ["b", "d"] and Bytes().unknown("bad") == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "subword"}, "tokenizer: 'subword' is not one of characters, bytes, subwords"),
        ({"kind": "bytes", "merges": []}, "tokenizer: .*argument"),
        ({"kind": "subwords", "merges": [[99]]}, r"merges: \[99\], expected different pairs"),
        ({"kind": "subwords", "merges": [[99, 258]]}, r"merges: \[99, 258\]"),
        ({"kind": "subwords", "merges": [[99, 1]]}, r"merges: \[99, 1\]"),
        ({"kind": "subwords", "merges": [[99, 99], [99, 99]]}, r"merges: \[99, 99\]"),
        # Each merge doubles the token: 60 lines would make an exabyte.
        (
            {"kind": "subwords", "merges": [[99, 99], *([i, i] for i in range(258, 320))]},
            "makes 512 bytes, expected at most 256",
        ),
    ],
)
def test_a_bad_config_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        from_config(config)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size: 257, expected at least 258"):
        BytePairs.fit(["abc"], 257)


def test_a_broken_byte_in_a_prompt_is_replaced():
    ids = Bytes().encode_strings(tf.constant([b"a\xffb"]))
    assert Bytes().decode(ids[0].numpy()) == "a\ufffdb"
    assert np.array_equal(Bytes().encode("\ud800"), Bytes().encode("?"))
