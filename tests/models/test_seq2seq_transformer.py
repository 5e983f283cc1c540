"""What the encoder-decoder Transformer promises beyond tests/models/test_conformance.py."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.models import Seq2SeqTransformer
from bigmodels.tokenizers import Subwords

PIECES = ("▁a", "▁b", "c", "d", "▁")
VOCABULARY = 4 + len(PIECES)


@pytest.fixture
def model(rng):
    model = Seq2SeqTransformer(VOCABULARY, 8, 2, 16, 0.1, num_layers=2, max_length=7, pieces=PIECES)
    model.build(model.default_input_shape)
    for weight in model.weights:  # So that it does not say the same whatever it reads.
        if "norm" not in weight.path:
            size = 0.3 if "embedding" in weight.path else 1.0
            weight.assign(rng.normal(0, size, weight.shape))
    return model


def sources(rng, batch=5, length=6):
    tokens = rng.integers(4, VOCABULARY, (batch, length)).astype("int32")
    for row, size in zip(tokens, rng.integers(1, length + 1, batch), strict=True):
        row[size:] = 0
    return tokens


def log_probabilities(model, source, target):
    """Of what follows each position, of what may be drawn."""
    logits = model({"source": source, "target": target}, training=False).numpy()
    logits[..., : Subwords.END] = -1e9
    return tf.nn.log_softmax(logits).numpy()


def test_decoding_with_a_cache_is_decoding_without(model, rng):
    source = sources(rng)
    found = model.translate_tokens(tf.constant(source)).numpy()
    target = np.full((len(source), 1), Subwords.START, "int32")
    for _ in range(model.max_length - 1):
        best = log_probabilities(model, source, target)[:, -1].argmax(-1)
        best[(target == Subwords.END).any(1)] = 0
        target = np.concatenate([target, best[:, None].astype("int32")], 1)
    np.testing.assert_array_equal(found, target[:, 1:])
    assert len({tuple(row) for row in found}) > 1


@pytest.mark.thorough
def test_beam_search_finds_what_trying_all_does(rng):
    model = Seq2SeqTransformer(6, 4, 1, 8, 0.0, max_length=4)
    model.build(model.default_input_shape)
    for weight in model.weights:
        if "norm" not in weight.path:
            weight.assign(rng.normal(0, 0.7, weight.shape))
    source = np.array([[4, 5, 4], [5, 0, 0]], "int32")
    penalty = 0.7
    found = model.translate_tokens(tf.constant(source), 27, penalty).numpy()
    for row, best in zip(source, found, strict=True):
        rated = {}
        for tokens in itertools.product((3, 4, 5), repeat=3):
            if 3 in tokens:
                tokens = tokens[: tokens.index(3) + 1]
            target = np.array([[2, *tokens[:-1]]], "int32")
            each = log_probabilities(model, row[None], target)[0]
            total = sum(each[i, token] for i, token in enumerate(tokens))
            rated[tokens] = total / ((5 + len(tokens)) / 6) ** penalty
        wanted = max(rated, key=rated.get)
        assert tuple(best[best != 0]) == wanted


def test_a_source_is_read_as_if_alone(model, rng):
    """Neither padding nor the rest of the batch changes a number."""
    source, target = sources(rng), rng.integers(4, VOCABULARY, (5, 4)).astype("int32")
    together = model({"source": source, "target": target}).numpy()
    for row, size in enumerate((source != 0).sum(1)):
        alone = {"source": source[row : row + 1, :size], "target": target[row : row + 1]}
        np.testing.assert_allclose(model(alone)[0], together[row], atol=1e-5)


def test_a_position_sees_no_later_target_and_all_of_the_source(model, rng):
    x = {"source": np.full((1, 5), 4, "int32"), "target": np.full((1, 5), 5, "int32")}
    before = model(x).numpy()[0]
    for place in range(5):
        later = {name: tokens.copy() for name, tokens in x.items()}
        later["target"][0, place] = 6
        changed = np.abs(model(later).numpy()[0] - before).max(-1) > 1e-6
        assert changed.tolist() == [position >= place for position in range(5)]
        later = {name: tokens.copy() for name, tokens in x.items()}
        later["source"][0, place] = 6
        assert (np.abs(model(later).numpy()[0] - before).max(-1) > 1e-6).all()


def test_padding_weighs_nothing_in_the_loss(model, rng):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    source, target = sources(rng, 1), np.array([[2, 4, 5]], "int32")
    following = np.array([[4, 5, 3]], "int32")
    wide = {"source": np.pad(source, [(0, 0), (0, 1)]), "target": np.pad(target, [(0, 0), (0, 3)])}
    losses = [
        model.evaluate(x, y, verbose=0)
        for x, y in (
            ({"source": source, "target": target}, following),
            (wide, np.pad(following, [(0, 0), (0, 3)])),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_attention_is_shares_of_the_source(model, rng):
    source, target = sources(rng), rng.integers(4, VOCABULARY, (5, 4)).astype("int32")
    weights = model.attention(source, target).numpy()
    assert weights.shape == (5, 4, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights[np.broadcast_to((source == 0)[:, None], weights.shape)] < 1e-6).all()


@pytest.mark.thorough
def test_translate_takes_one_text_or_many(model):
    texts = ["a b", "acd", "b", "a bcd a"]
    each = [model.translate(text) for text in texts]
    assert model.translate(texts) == each and isinstance(each[0], str)
    assert model.translate(tuple(texts), num_beams=3) == [
        model.translate(text, num_beams=3) for text in texts
    ]
    assert model.translate([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", " "],), "texts: ' ', expected a non-empty string"),
        (([3],), "texts: 3, expected a non-empty"),
        (("a" * 9,), r"texts: 'aaaaaaaaa' has 9 tokens, more than max_length=7"),
        (("a", 0), "num_beams: 0, expected a positive integer"),
    ],
)
def test_translate_refuses(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.translate(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 4}, "vocab_size: 4, expected at least 5"),
        ({"num_layers": 0}, "num_layers: 0"),
        ({"num_heads": 3}, "embedding_dim: 8 is not divisible by num_heads=3"),
        ({"pieces": ["a"]}, "pieces: 1, expected vocab_size - 4 = 5"),
    ],
)
def test_arguments_are_checked(changes, message):
    arguments = {"vocab_size": 9, "embedding_dim": 8, "num_heads": 2, "feed_forward_dim": 8}
    with pytest.raises(ValueError, match=message):
        Seq2SeqTransformer(**arguments | {"dropout_rate": 0.0} | changes)


@pytest.mark.parametrize("streamed", [False, True])
def test_bad_tokens_are_named(model, rng, streamed):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    source, target = sources(rng), np.full((5, 3), 4, "int32")
    source[3, 0] = 99

    def fit(x):
        if streamed:
            model.fit(tf.data.Dataset.from_tensor_slices((x, target)).batch(2), verbose=0)
        else:
            model.fit(x, target, verbose=0)

    where = r"x \(inputs, source\): batch 1, element 1" if streamed else r"x\['source'\]: element 3"
    with pytest.raises(ValueError, match=rf"{where} holds 99, expected finite values from 0 to 8"):
        fit({"source": source, "target": target})
    with pytest.raises(ValueError, match=r"expected a dict of \['source', 'target'\]"):
        fit({"source": source})
    with pytest.raises(ValueError, match=r"expected a dict of \['source', 'target'\]"):
        fit(source)


@pytest.mark.thorough
def test_xla_translates_the_same(model, rng):
    source = sources(rng)
    padded = np.pad(source, [(0, 0), (0, model.max_length - source.shape[1])])
    for num_beams in (None, 3):
        found = model.translate_tokens_by_xla(padded, num_beams, tf.constant(1.0))
        wanted = model.translate_tokens(source, num_beams, tf.constant(1.0))
        np.testing.assert_array_equal(found, wanted)
