"""RNN and Transformer: state, masks, causality, generation."""

import keras
import numpy as np
import pytest

from bigmodels.models import RNN, Transformer
from bigmodels.tokenizers import Vocabulary
from tests.conftest import counting_tokens
from tests.tiny import MODERN

LETTERS = "abcdefghij"
MAKERS = {
    "rnn": lambda **k: RNN(12, 8, 16, **k),
    "transformer": lambda **k: Transformer(12, 8, 2, 16, 0.0, num_layers=2, max_length=20, **k),
    "modern transformer": lambda **k: Transformer(
        12, 8, 4, 16, 0.0, num_layers=2, max_length=20, **MODERN, **k
    ),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request):
    return MAKERS[request.param]


def test_without_a_state_logits_alone(make, rng):
    logits = make()(rng.integers(1, 12, (3, 7)))
    assert logits.shape == (3, 7, 12)


def test_the_future_changes_nothing_before_it(make, rng):
    model = make()
    tokens = rng.integers(1, 12, (4, 9))
    changed = tokens.copy()
    changed[:, 5:] = rng.integers(1, 12, (4, 4))
    a, b = model.predict(tokens, verbose=0), model.predict(changed, verbose=0)
    np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-6)
    assert np.abs(a[:, 5:] - b[:, 5:]).max() > 1e-3


def test_padding_behind_changes_nothing(make, rng):
    model = make()
    tokens = rng.integers(1, 12, (4, 6))
    padded = np.pad(tokens, [(0, 0), (0, 5)])
    a, b = model.predict(tokens, verbose=0), model.predict(padded, verbose=0)
    np.testing.assert_allclose(a, b[:, :6], atol=1e-6)


def test_bidirectional_transformer_ignores_padding_but_sees_the_future(rng):
    model = Transformer(12, 8, 2, 16, 0.0, causal=False)
    tokens = rng.integers(1, 12, (4, 6))
    padded = np.pad(tokens, [(0, 0), (0, 5)])
    a, b = model.predict(tokens, verbose=0), model.predict(padded, verbose=0)
    np.testing.assert_allclose(a, b[:, :6], atol=1e-6)
    tokens[:, -1] = tokens[:, -1] % 11 + 1
    assert np.abs(model.predict(tokens, verbose=0)[:, 0] - a[:, 0]).max() > 1e-4


def test_padding_in_front_leaves_the_lstms_state_alone(rng):
    model = RNN(12, 8, 16)
    tokens = rng.integers(1, 12, (4, 6))
    padded = np.pad(tokens, [(0, 0), (3, 0)])
    a, b = model.predict(tokens, verbose=0), model.predict(padded, verbose=0)
    np.testing.assert_allclose(a, b[:, 3:], atol=1e-6)


def test_loss_is_the_mean_over_real_tokens(make, rng):
    """Padding must neither count nor dilute: the loss equals one computed by hand."""
    model = make()
    tokens = rng.integers(1, 12, (4, 7))
    tokens[0, 3:] = 0
    targets = rng.integers(1, 12, (4, 7))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.evaluate(tokens, targets, verbose=0, return_dict=True)["loss"]
    logits = model.predict(tokens, verbose=0)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, each[tokens != 0].mean(), rtol=1e-5)


def test_state_carries_the_sequence(rng):
    model = RNN(12, 8, 16)
    tokens = rng.integers(1, 12, (3, 8))
    whole = model(tokens)
    state = model.get_initial_state(3)
    parts = []
    for piece in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, state = model(piece, state=state)
        parts.append(np.asarray(logits))
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
    h, c = state
    assert h.shape == c.shape == (3, 16)


def test_batch_size_is_what_states_default_to():
    assert RNN(12, 8, 16, 5).get_initial_state()[0].shape == (5, 16)
    assert RNN(12, 8, 16).get_initial_state()[0].shape == (1, 16)


def test_greedy_generation_is_the_argmax_of_the_whole_model(make, rng):
    model = make()
    prompt = rng.integers(1, 12, (2, 3))
    generated = model.generate(prompt, length=8, temperature=0.0)
    tokens = prompt
    for _ in range(8):
        logits = np.array(model(tokens))[:, -1]
        logits[:, 0] = -np.inf  # Padding is never drawn.
        tokens = np.concatenate([tokens, logits.argmax(-1)[:, None]], 1)
    np.testing.assert_array_equal(generated, tokens)


@pytest.mark.thorough
def test_sampling_follows_the_seed_and_the_temperature(make):
    model = make(vocabulary=LETTERS)
    a = model.generate("abc", length=30, temperature=1.0, seed=1)
    assert a == model.generate("abc", length=30, temperature=1.0, seed=1)
    assert a != model.generate("abc", length=30, temperature=1.0, seed=2)
    assert a.startswith("abc") and len(a) == 33
    assert set(a) <= set(LETTERS)  # Neither padding nor the unknown token.


@pytest.mark.thorough
def test_samples_are_distributed_as_the_model_says(make):
    """One token drawn 20,000 times: within five standard errors of the model's probabilities."""
    model = make(vocabulary=LETTERS)
    texts = model.generate(["bc"] * 20_000, length=1, seed=3)
    vocabulary = Vocabulary(LETTERS)
    drawn = vocabulary.encode("".join(text[-1] for text in texts))
    logits = np.array(model(vocabulary.encode("bc")[None]), "float64")[0, -1]
    logits[:2] = -np.inf  # Neither padding nor the unknown token is drawn.
    p = np.exp(logits) / np.exp(logits).sum()
    share = np.bincount(drawn, minlength=12) / len(drawn)
    assert (np.abs(share - p) <= 5 * np.sqrt(p / len(drawn))).all()


@pytest.mark.thorough
def test_a_trained_model_counts(make, rng):
    model = make()
    model.compile(
        keras.optimizers.Adam(2e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    tokens = counting_tokens(rng, 128, 9, 12)
    model.fit(tokens[:, :-1], tokens[:, 1:], epochs=15, verbose=0)
    generated = model.generate([[3, 4, 5]], length=6, temperature=0.0)
    np.testing.assert_array_equal(generated, [[3, 4, 5, 6, 7, 8, 9, 10, 11]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RNN(1, 8, 16), "vocab_size: 1"),
        (lambda: Transformer(1, 8, 2, 16, 0.0), "vocab_size: 1"),
        (lambda: Transformer(12, 9, 2, 16, 0.0), "embedding_dim: 9 is not divisible"),
        (lambda: Transformer(12, 8, 2, 16, 0.0, num_layers=0), "num_layers: 0"),
        (
            lambda: Transformer(12, 8, 2, 16, 0.0, position="rotray"),
            "position: 'rotray' is not one of sinusoidal, rotary; did you mean rotary?",
        ),
        (lambda: Transformer(12, 8, 2, 16, 0.0, normalization="batch"), "normalization: 'batch'"),
        (lambda: Transformer(12, 8, 2, 16, 0.0, activation="gelu"), "activation: 'gelu'"),
        (lambda: Transformer(12, 8, 2, 16, 0.0, sliding_window=0), "sliding_window: 0"),
        (
            lambda: Transformer(12, 12, 4, 16, 0.0, num_key_value_heads=3),
            "num_key_value_heads: 3, expected a divisor of num_heads=4",
        ),
        (
            lambda: Transformer(12, 12, 4, 16, 0.0, position="rotary"),
            "position: 'rotary', but heads of width embedding_dim / num_heads = 3 are not even",
        ),
        (lambda: RNN(12, 8, 16).generate("abc"), "without vocabulary="),
        (lambda: RNN(12, 8, 16, vocabulary=LETTERS).generate(""), "prompt: ''"),
        (lambda: RNN(12, 8, 16).generate([[1]], length=0), "length: 0"),
        (lambda: RNN(12, 8, 16).generate([[1]], temperature=-1), "temperature: -1"),
        (lambda: RNN(12, 8, 16).generate([1, 2]), "prompt: [1, 2], expected text, or token ids"),
        (
            lambda: Transformer(12, 8, 2, 16, 0.0, causal=False).generate([[1]]),
            "causal: False",
        ),
        (
            lambda: Transformer(12, 8, 2, 16, 0.0, max_length=4)(np.ones((1, 5), "int32")),
            "length 5 is longer than max_length=4",
        ),
    ],
)
def test_errors_name_argument_and_value(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
