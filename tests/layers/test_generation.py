"""Token by token: the cache, the draws, the search, each against a slow and obvious way."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import generation
from bigmodels.models import RNN, Transformer
from tests.tiny import MODERN

LETTERS = "abcdefghij"
MAKERS = {
    "rnn": lambda **k: RNN(12, 8, 16, **k),
    "rnn, no mask": lambda **k: RNN(12, 8, 16, mask_zero=False, **k),
    "transformer": lambda **k: Transformer(12, 8, 2, 16, 0.0, num_layers=2, max_length=24, **k),
    "modern transformer": lambda **k: Transformer(
        12, 8, 4, 16, 0.0, num_layers=2, max_length=24, **MODERN, **k
    ),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request):
    return MAKERS[request.param]


def _sharp(model, factor=20.0):
    """A model that is surer of what it says, so that no two tokens are nearly as likely."""
    model.build((None, None))
    tied = getattr(model, "tie_embeddings", False)
    weight = model.norm.scale if tied else model.dense.kernel
    weight.assign(weight * factor)
    return model


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 3e-2), ("mixed_float16", 4e-3)]
)
def test_cached_logits_are_those_of_the_whole_sequence(make, dtype, tolerance, rng):
    model = make(dtype=dtype)
    tokens = rng.integers(1, 12, (3, 15)).astype("int32")
    sizes = np.array([4, 2, 6], "int32")
    prompts = np.where(np.arange(6) < sizes[:, None], tokens[:, :6], 0)

    @tf.function
    def read():
        logits, cache = model.prefill(prompts, sizes, 15)
        step = model.decode_step()
        found = tf.TensorArray("float32", 10).write(0, logits)
        for i in tf.range(9):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            token = tf.gather(tokens, sizes + i, batch_dims=1)
            logits, cache = step(token, 6 + i, sizes + i, cache)
            found = found.write(i + 1, logits)
        return tf.transpose(found.stack(), (1, 0, 2))

    model(tokens)
    for weight in model.weights:  # No bias of zero, no scale of one.
        weight.assign_add(0.1 * keras.random.normal(weight.shape, dtype=weight.dtype))
    found, whole = read().numpy(), np.asarray(model(tokens), "float32")
    wanted = np.stack([row[n - 1 : n + 9] for row, n in zip(whole, sizes, strict=True)])
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(whole).max())


@pytest.mark.thorough
def test_prompts_of_any_lengths_go_on_as_each_alone(make):
    model = _sharp(make())
    prompts = [[3, 4, 5], [7], [2, 9, 4, 4, 1]]
    together = model.generate(prompts, length=60, temperature=0)  # Beyond what is seen at once.
    for row, prompt in zip(together, prompts, strict=True):
        alone = model.generate([prompt], length=60, temperature=0)[0]
        np.testing.assert_array_equal(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


def test_padding_before_a_prompt_changes_nothing_where_padding_is_known():
    for name in ("rnn", "transformer"):
        model = _sharp(MAKERS[name]())
        if name == "rnn":  # A Transformer counts positions from the padding on.
            a = model.generate([[0, 0, 3, 4]], length=5, temperature=0)[0, 4:]
            b = model.generate([[3, 4]], length=5, temperature=0)[0, 2:]
            np.testing.assert_array_equal(a, b)
        logits, _ = model.prefill(np.int32([[0, 0, 3, 4]]), np.int32([4]), 4)
        wanted = model(np.int32([[0, 0, 3, 4]]))[:, -1]
        np.testing.assert_allclose(logits, wanted, atol=1e-5)


@pytest.mark.parametrize("max_length", [1, 2, 5, 8])
@pytest.mark.thorough
def test_when_its_window_is_full_a_transformer_goes_on_from_the_last_half(max_length, rng):
    model = _sharp(Transformer(12, 8, 2, 16, 0.0, max_length=max_length))
    for prompts in (rng.integers(1, 12, (2, 3)), rng.integers(1, 12, (2, 9))):
        generated = model.generate(prompts, length=20, temperature=0)
        for prompt, row in zip(prompts, generated, strict=True):
            tokens = list(prompt)
            window = tokens[-max_length:]
            while len(tokens) < len(prompt) + 20:
                if len(window) > max_length:
                    window = tokens[-max(max_length // 2, 1) :]
                logits = np.array(model(np.array([window])))[0, -1]
                tokens.append(1 + int(logits[1:].argmax()))
                window = [*window, tokens[-1]]
            np.testing.assert_array_equal(row, tokens)


@pytest.mark.thorough
def test_no_length_is_traced_anew(make):
    model = make(vocabulary=LETTERS)
    model.generate("ab", length=3)
    model.generate("abc", length=4)
    model.generate(["abc", "a"], length=4)
    traced = model.continue_tokens.experimental_get_tracing_count()
    for prompt, length in (("abcde", 7), (["a", "bcd", "efg"], 30), ("abc", 1)):
        model.generate(prompt, length=length)
    assert model.continue_tokens.experimental_get_tracing_count() == traced


@pytest.mark.thorough
def test_a_shorter_text_is_the_beginning_of_a_longer_one(make):
    model = make(vocabulary=LETTERS)
    longer = model.generate("abc", length=40, seed=5)
    assert model.generate("abc", length=9, seed=5) == longer[:12]


@pytest.mark.thorough
def test_several_strings_give_several_texts_that_differ(make):
    model = make(vocabulary=LETTERS)
    texts = model.generate(["abc", "abc", "f"], length=20, seed=1)
    assert [text[:3] for text in texts[:2]] == ["abc", "abc"] and texts[2][0] == "f"
    assert texts[0] != texts[1] and {len(text) for text in texts} == {23, 21}


@pytest.mark.thorough
def test_a_stop_ends_a_text_and_the_loop(make):
    model = _sharp(make(vocabulary=LETTERS))
    texts = model.generate(["abc", "d", "fgh"], length=200, stop="ae", seed=3)
    whole = model.generate(["abc", "d", "fgh"], length=200, seed=3)
    for prompt, text, all_of_it in zip(["abc", "d", "fgh"], texts, whole, strict=True):
        new = all_of_it[len(prompt) :]
        ends = [new.find(each) for each in "ae" if each in new]
        assert text == prompt + (new[: min(ends) + 1] if ends else new)
    ids = model.generate([[3, 4]], length=30, stop=[int(i) for i in range(2, 12)])
    assert ids.shape == (1, 32) and ids[0, 2] and not ids[0, 3:].any()  # All of them end it.


def _draws(logits, **options):
    """Shares of each token, over a grid of numbers that stands for all of [0, 1)."""
    uniform = (np.arange(4000, dtype="float32") + 0.5) / 4000
    tiled = np.tile(np.float32(logits), (4000, 1))
    options = {k: tf.fill([4000], v) for k, v in {"temperature": 1.0, **options}.items()}
    drawn = generation.draw(tiled, uniform, forbidden=1, **options).numpy()
    return np.bincount(drawn, minlength=len(logits)) / 4000


def _normalised(p):
    return np.array(p) / np.sum(p)


P = [0.3, 0.05, 0.4, 0.1, 0.15]  # The first may not be drawn.


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0, 0.05, 0.4, 0.1, 0.15]),
        ({"temperature": 2.0}, [0, *np.sqrt(P[1:])]),
        ({"temperature": 0.0}, [0, 0, 1, 0, 0]),
        ({"top_k": 1}, [0, 0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0, 0.4, 0, 0.15]),
        ({"top_k": 0}, [0, 0.05, 0.4, 0.1, 0.15]),
        ({"top_k": 99}, [0, 0.05, 0.4, 0.1, 0.15]),
        # Of the 0.7 that may be drawn 0.4 are 57 %, with 0.15 they are 79 %.
        ({"top_p": 0.5}, [0, 0, 1, 0, 0]),
        ({"top_p": 0.6}, [0, 0, 0.4, 0, 0.15]),
        ({"top_p": 1.0}, [0, 0.05, 0.4, 0.1, 0.15]),
        ({"top_p": 1e-6}, [0, 0, 1, 0, 0]),
        # Of the three likeliest, 0.65 together, the first two are 85 %.
        ({"top_k": 3, "top_p": 0.8}, [0, 0, 0.4, 0, 0.15]),
        ({"top_k": 3, "top_p": 0.9}, [0, 0, 0.4, 0.1, 0.15]),
    ],
)
def test_draws_are_shared_out_as_told(options, wanted):
    np.testing.assert_allclose(_draws(np.log(P), **options), _normalised(wanted), atol=3e-4)


def test_each_row_has_a_temperature_and_limits_of_its_own():
    logits = np.tile(np.log(np.float32(P)), (4, 1))
    uniform = np.float32([0.01, 0.01, 0.99, 0.99])
    temperature, top_k = np.float32([0, 1, 1, 1]), np.int32([0, 0, 0, 2])
    drawn = generation.draw(logits, uniform, temperature, top_k)
    np.testing.assert_array_equal(drawn, [2, 1, 4, 4])


def test_the_largest_number_draws_a_token_that_may_be_drawn(rng):
    logits = np.float32(rng.normal(size=(2000, 500)) * 5)
    logits[:, -3:] = -1e30
    uniform = np.full(2000, 1 - 2**-23, "float32")
    drawn = generation.draw(logits, uniform, tf.ones(2000)).numpy()
    assert (np.exp(logits - logits.max(1, keepdims=True))[np.arange(2000), drawn] > 0).all()


@pytest.mark.parametrize("k", [1, 3, 8])
def test_of_equal_tokens_exactly_k_are_drawn_from(k):
    shares = _draws(np.zeros(9), top_k=k)
    np.testing.assert_allclose(shares, [0] + [1 / k] * k + [0] * (8 - k), atol=3e-4)
    shares = _draws([0, 1, 2, 1, 1, 1], top_k=3)
    assert np.flatnonzero(shares).tolist() == [1, 2, 3]
    shares = _draws(np.zeros(9), top_p=0.5)  # Four of the eight have it.
    assert np.flatnonzero(shares).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("temperature", [1e-9, 1.0, 1e9, 3e38, np.inf])
@pytest.mark.parametrize("options", [{}, {"top_k": 9}, {"top_p": 1.0}, {"top_k": 9, "top_p": 1.0}])
def test_forbidden_tokens_are_drawn_at_no_temperature(temperature, options):
    logits = np.array([50, 0, -2, 1, -50], "float32")
    shares = _draws(logits, temperature=temperature, **options)
    assert shares[0] == 0 and shares.sum() == 1
    if temperature > 1e8:
        np.testing.assert_allclose(shares[1:], 0.25, atol=1e-3)


@pytest.mark.thorough
def test_forbidden_tokens_are_written_by_no_option():
    model = RNN(4, 8, 8, vocabulary="ab")
    model.build((None, None))
    model.dense.bias.assign([1e4, 1e4, 0, 0])
    for options in ({"temperature": np.inf}, {"top_p": 1.0}, {"top_k": 4}, {"num_beams": 4}):
        assert set(model.generate("a", 40, **options)) <= {"a", "b"}


@pytest.mark.parametrize("options", [{}, {"top_k": 5, "top_p": 0.9, "stop": "ae"}])
@pytest.mark.thorough
def test_a_prompt_in_a_list_goes_on_as_alone(make, options):
    """Sampled too, wherever it stands, beyond what is seen at once, and with padding before it."""
    model = _sharp(make(vocabulary=LETTERS), 8.0)
    prompts = ["cde", "ab", "hgfedcb", "j"]
    alone = {each: model.generate(each, 40, 1.3, 7, **options) for each in prompts}
    for listed in (prompts, prompts[::-1]):
        texts = model.generate(listed, 40, 1.3, 7, **options)
        assert texts == [alone[each] for each in listed]
    padded = [[0, 0, 5, 6], [3, 4, 5, 6, 7, 8], [0, 9]]
    together = model.generate(padded, 15, 1.3, 7, **options)
    for prompt, row in zip(padded, together, strict=True):
        (wanted,) = model.generate([prompt], 15, 1.3, 7, **options)
        np.testing.assert_array_equal(row[: len(wanted)], wanted)
        assert not row[len(wanted) :].any()


@pytest.mark.thorough
def test_a_prompt_that_comes_again_goes_on_differently(make):
    model = make(vocabulary=LETTERS)
    texts = model.generate(["abc", "f", "abc", "abc"], 20, seed=1)
    assert texts[0] == model.generate("abc", 20, seed=1) and len(set(texts)) == 4


@pytest.mark.parametrize(("stop", "penalty"), [((), 0.0), ("bg", 3.0)])
@pytest.mark.thorough
def test_a_search_from_a_list_finds_what_it_finds_alone(make, stop, penalty):
    model = _sharp(make(vocabulary=LETTERS), 4.0)
    options = {"length": 12, "num_beams": 3, "length_penalty": penalty, "stop": stop}
    prompts = ["cde", "ab", "hgfedcb", "j"]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, **options) == alone


@pytest.mark.thorough
def test_no_option_is_traced_anew(make):
    model = make(vocabulary=LETTERS)
    draws = [{}, {"stop": "a"}, {"stop": "bcd"}, {"stop": list("abcdefghij")}, {"seed": 5}]
    draws += [{"temperature": value} for value in (0, 0.5, 2)]
    for each in draws:
        model.generate("ab", 5, **each)
    assert model.continue_tokens.experimental_get_tracing_count() == 1
    for each in ({"top_k": 3, "top_p": 0.5}, {"top_k": 4, "top_p": 0.6, "stop": "c"}):
        model.generate("ab", 5, **each)
    assert model.continue_tokens.experimental_get_tracing_count() == 2
    for each in ({}, {"length_penalty": 0.5}, {"length_penalty": 2}, {"stop": "ab"}):
        model.generate("ab", 5, num_beams=2, **each)
    assert model.search_tokens.experimental_get_tracing_count() == 1


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.filterwarnings("ignore:Invalid quantization mode")  # Embeddings stay as they are.
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("rnn", "lora"),
        ("transformer", "int8"),
        *(
            pytest.param(kind, change, marks=pytest.mark.thorough)
            for kind, change in itertools.product(
                ("rnn", "transformer"), ("lora", "int8", "int4", "float8")
            )
            if (kind, change) not in (("rnn", "lora"), ("transformer", "int8"))
        ),
    ],
)
@pytest.mark.thorough
def test_changed_models_write_what_they_say(kind, change):
    """LoRA's and quantised ones: what calls without a cache give, also after writing before."""
    model = _sharp(MAKERS[kind]())
    prompt = [[3, 4, 5]]
    before = model.generate(prompt, 6, 0.0)
    if change == "lora":
        for layer in model._flatten_layers():
            if hasattr(layer, "enable_lora"):
                layer.enable_lora(2)
                (b,) = (weight for weight in layer.weights if weight.name.endswith("_b"))
                b.assign(keras.random.normal(b.shape, seed=3))
    else:
        model.quantize(change)
    tokens = list(prompt[0])
    for _ in range(6):
        logits = np.array(model(np.array([tokens])))[0, -1]
        tokens.append(1 + int(logits[1:].argmax()))
    found = model.generate(prompt, 6, 0.0)
    np.testing.assert_array_equal(found[0], tokens)
    if change == "lora":
        assert found.tolist() != before.tolist()


def _all_continuations(model, length, stop):
    """Every sequence that ends, or is of full length, with the log-probability of its tokens."""
    vocab = range(1, model.vocab_size)
    for n in range(1, length + 1):
        for tokens in itertools.product(vocab, repeat=n):
            if any(t in stop for t in tokens[:-1]) or (n < length and tokens[-1] not in stop):
                continue
            yield tokens


def _score(model, prompt, sequences):
    longest = max(map(len, sequences))
    rows = np.zeros((len(sequences), len(prompt) + longest), "int32")
    for row, tokens in zip(rows, sequences, strict=True):
        row[: len(prompt) + len(tokens)] = [*prompt, *tokens]
    logits = np.array(model(rows), "float64")
    logits[..., 0] = -np.inf
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [
        sum(log_p[i, len(prompt) + j - 1, token] for j, token in enumerate(tokens))
        for i, tokens in enumerate(sequences)
    ]


@pytest.mark.parametrize("stop", [(), (2, 4)])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["rnn", "transformer"])
@pytest.mark.thorough
def test_a_search_wide_enough_finds_what_trying_all_finds(kind, penalty, stop):
    model = {
        "rnn": lambda: RNN(6, 8, 8),
        "transformer": lambda: Transformer(6, 8, 2, 8, 0.0, max_length=8),
    }[kind]()
    _sharp(model, 5.0)
    prompts = [[3, 1], [5]]
    tokens, sizes = np.int32([[3, 1], [5, 0]]), np.int32([2, 1])
    found, ratings = model.search_tokens(tokens, sizes, tf.constant(3), 30, penalty, stop)
    for i, prompt in enumerate(prompts):
        sequences = [*_all_continuations(model, 3, stop)]
        scores = _score(model, prompt, sequences)
        rated = [s / ((5 + len(t)) / 6) ** penalty for s, t in zip(scores, sequences, strict=True)]
        order = np.argsort(rated)[::-1][:20]
        np.testing.assert_allclose(ratings[i, :20], np.array(rated)[order], rtol=1e-4, atol=1e-5)
        best = sequences[order[0]]
        np.testing.assert_array_equal(found[i, 0, : len(best)], best)
        assert not np.any(found[i, 0, len(best) :])


def _followed(model, prompt, length, num_beams, penalty, stop):
    """What a search finds, the slow way: all continuations by one token, of which the best stay."""
    alive, ended = [()], []
    for n in range(1, length + 1):
        longer = [(*tokens, i) for tokens in alive for i in range(1, model.vocab_size)]
        scored = sorted(zip(_score(model, prompt, longer), longer, strict=True), reverse=True)
        going_on = [each for each in scored if each[1][-1] not in stop][:num_beams]
        over = [each for each in scored if each[1][-1] in stop]
        over += going_on if n == length else []
        ended += [(score / ((5 + n) / 6) ** penalty, tokens) for score, tokens in over]
        alive = [tokens for _, tokens in going_on]
    return max(ended)[1]


@pytest.mark.parametrize("num_beams", [1, 2, 3])
@pytest.mark.thorough
def test_what_ends_takes_no_place_from_what_goes_on(num_beams):
    """Tokens that end a sequence are the likeliest here, and a long one is rated higher."""
    model = _sharp(RNN(6, 8, 8), 3.0)
    model.dense.bias.assign([0, 0, 3, 0, 3, 0])
    prompt, stop = [3, 1], (2, 4)
    found, _ = model.search_tokens(
        np.int32([prompt]), np.int32([2]), tf.constant(6), num_beams, 8.0, stop
    )
    wanted = _followed(model, prompt, 6, num_beams, 8.0, stop)
    np.testing.assert_array_equal(found[0, 0, : len(wanted)], wanted)
    assert len(wanted) > 1 and not np.any(found[0, 0, len(wanted) :])


@pytest.mark.thorough
def test_a_search_with_one_beam_is_greedy(make):
    model = _sharp(make())
    prompt = [[3, 4, 5], [7, 2, 9]]
    found = model.generate(prompt, length=9, num_beams=1)
    np.testing.assert_array_equal(found, model.generate(prompt, length=9, temperature=0))


@pytest.mark.thorough
def test_more_beams_find_what_is_at_least_as_likely(rng):
    model = _sharp(Transformer(30, 16, 2, 16, 0.0, max_length=40), 3.0)
    tokens, sizes = rng.integers(1, 30, (8, 3)).astype("int32"), np.full(8, 3, "int32")
    best = [
        model.search_tokens(tokens, sizes, tf.constant(12), beams, 0.0)[1].numpy()[:, 0].mean()
        for beams in (1, 4, 32)
    ]
    assert best[0] < best[1] < best[2]


@pytest.mark.thorough
def test_graph_of_strings_gives_what_generate_gives(make):
    model = make(vocabulary=LETTERS)
    model.build((None, None))
    prompts, lengths, seeds = ["abc", "fghij"], [7, 4], [1, 2]
    given = (np.array(prompts), np.int32(lengths), np.float32([0.7, 0.0]), np.int32(seeds))
    top = (np.int32([3, 0]), np.float32([0.9, 1.0]))
    found = [text.decode() for text in model.continue_strings(*given, *top).numpy()]
    assert found == [
        model.generate("abc", 7, 0.7, 1, top_k=3, top_p=0.9),
        model.generate("fghij", 4, 0.0, 2),
    ]
    found = model.search_strings(np.array(prompts), tf.constant(5), 3, tf.constant(1.0))
    wanted = model.generate(prompts, 5, num_beams=3, length_penalty=1.0)
    assert [text.decode() for text in found.numpy()] == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "prompt: []"),
        ({"prompt": [[1], []]}, "prompt: [[1], []]"),
        ({"prompt": [[3, 12]]}, "prompt: element 1 holds 12"),
        ({"prompt": [[0, 0]]}, "prompt: a row contains only padding"),
        ({"prompt": ["a", ""]}, "prompt: ['a', ''] is empty"),
        ({"top_k": 0}, "top_k: 0"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"top_p": 1.1}, "top_p: 1.1"),
        ({"num_beams": 0}, "num_beams: 0"),
        ({"num_beams": 2, "top_k": 3}, "top_k: 3, expected None"),
        ({"num_beams": 2, "length": 30}, "length: prompt and continuation have 31 tokens"),
        ({"stop": "z"}, "stop: 'z'"),
        ({"stop": [12]}, "stop: 12"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"seed": 2**31}, "seed: 2147483648"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty: nan"),
        ({"length_penalty": 0.5}, "length_penalty: 0.5, expected 0 without num_beams"),
    ],
)
def test_errors_name_argument_and_value(options, message):
    model = MAKERS["transformer"](vocabulary=LETTERS)
    with pytest.raises(ValueError) as error:
        model.generate(**{"prompt": "a", "length": 5} | options)
    assert message in str(error.value)


@pytest.mark.thorough
def test_a_saved_model_goes_on_the_same(make, tmp_path):
    model = make(vocabulary=LETTERS)
    text = model.generate("abc", length=20, seed=1, top_k=4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.generate("abc", length=20, seed=1, top_k=4) == text


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kwargs",
    [
        {"length": 9, "top_k": 5, "top_p": 0.7, "stop": (7, 9)},
        {"length": 45},  # Beyond what is seen at once.
        {"length": 9, "num_beams": 3, "length_penalty": 1.0, "stop": 7},
    ],
    ids=["drawn", "long", "searched"],
)
def test_xla_writes_the_same(make, kwargs):
    model = _sharp(make(), 5.0)
    prompts = [[5, 6, 7], [8, 9, 3, 4, 2, 11], [8, 9, 3, 4, 2, 11]]
    graph, xla = (model.generate(prompts, seed=3, jit_compile=jit, **kwargs) for jit in (0, 1))
    np.testing.assert_array_equal(graph, xla)


@pytest.mark.thorough
def test_xla_compiles_one_program_for_lengths_that_are_near():
    model = Transformer(12, 8, 2, 16, 0.0, max_length=64)
    for prompt, length in (([3], 5), ([3, 4, 5], 7), ([2, 9], 30)):
        model.generate([prompt], length=length, jit_compile=True)
    assert model.continue_tokens_by_xla.experimental_get_tracing_count() == 1
    assert model.continue_tokens.experimental_get_tracing_count() == 0


@pytest.mark.parametrize(
    ("context", "given", "length", "sizes"),
    [
        (None, 3, 40, (32, 64)),
        (512, 8, 256, (32, 256)),
        (512, 300, 200, (300, 200)),
        (512, 200, 130, (256, 256)),
        (100, 3, 60, (32, 64)),
        (100, 3, 66, (32, 68)),
        (100, 3, 70, (3, 70)),
        (100, 90, 70, (128, 128)),  # Goes on from its last half.
    ],
)
def test_room_is_made_within_the_context(context, given, length, sizes):
    model = Transformer(12, 8, 2, 16, 0.0, max_length=context) if context else RNN(12, 8, 16)
    tokens, room = model._bucketed(np.ones((2, given), "int32"), length)
    assert (tokens.shape[1], room) == sizes and tokens.sum() == 2 * given


def test_jit_compile_is_checked(make):
    with pytest.raises(ValueError, match="jit_compile: 'yes', expected True, False or 'auto'"):
        make().generate([[3]], jit_compile="yes")


@pytest.mark.parametrize(
    ("gpu", "deterministic", "by_xla"), [(True, False, True), (True, True, False), (False,) * 3]
)
def test_auto_is_xla_on_a_gpu(monkeypatch, gpu, deterministic, by_xla):
    monkeypatch.setattr(generation.kernels, "has_gpu", lambda: gpu)
    monkeypatch.setattr(generation, "is_op_determinism_enabled", lambda: deterministic)
    assert generation.is_by_xla("auto", 256) is by_xla
    assert not generation.is_by_xla("auto", 255)
    assert generation.is_by_xla(True, 1) and not generation.is_by_xla(False, 999)


@pytest.mark.parametrize("asked", ["auto", True])
def test_what_xla_cannot_compile_is_written_without_it(asked, monkeypatch):
    monkeypatch.setattr(generation.kernels, "has_gpu", lambda: True)
    model = _sharp(RNN(12, 8, 16))
    wanted = model.generate([[3, 4]], length=5, jit_compile=False)

    def fail(*args):
        raise tf.errors.UnimplementedError(None, None, "Graph execution error:\n\nno kernel")

    monkeypatch.setattr(RNN, "continue_tokens_by_xla", fail)
    if asked is True:
        with pytest.raises(tf.errors.UnimplementedError):
            model.generate([[3, 4]], length=5, jit_compile=True)
        return
    monkeypatch.setattr(generation, "_LONG", 5)
    with pytest.warns(UserWarning, match="which runs without it: no kernel$"):
        found = model.generate([[3, 4]], length=5)
    np.testing.assert_array_equal(found, wanted)
