"""The speech network: padding that changes nothing, CTC by hand, transcripts."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.losses import CTC
from bigmodels.models import DRNN

CHARACTERS = "ab "
STEP = 160


def network(num_layers=1, **kwargs):
    model = DRNN(5, rnn_units=6, num_layers=num_layers, vocabulary=CHARACTERS, **kwargs)
    model.build((None, None))
    return model


def recordings(rng, lengths):
    """Noise of these lengths, with zeros behind the shorter ones."""
    samples = rng.uniform(-1, 1, (len(lengths), max(lengths))).astype("float32")
    for row, length in zip(samples, lengths, strict=True):
        row[length:] = 0
    return samples


def collapsed(path):
    """What a path of ids says: repetitions once, blanks (0) left out."""
    return tuple(i for i, _ in itertools.groupby(path) if i)


def by_hand(logits, label):
    """The negative log-probability of a label: every path that says it, added up."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    paths = itertools.product(range(p.shape[1]), repeat=len(p))
    total = sum(
        np.prod([p[step, i] for step, i in enumerate(path)])
        for path in paths
        if collapsed(path) == tuple(label)
    )
    return -np.log(total)


# By XLA, Keras' own loss is taken.
COMPILED = pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
LABELS = [[1, 2], [1, 1], [2], [3, 1, 3]]


@COMPILED
@pytest.mark.parametrize("padding", [0, 3])
def test_ctc_is_every_path_added_up(rng, padding, jit_compile):
    """Also with steps that say blank for certain behind the last, which add nothing."""
    logits = rng.normal(size=(len(LABELS), 5, 4)).astype("float32")
    wanted = [by_hand(*pair) for pair in zip(logits.astype("float64"), LABELS, strict=True)]
    targets = np.array([row + [0] * (4 - len(row)) for row in LABELS], "int32")
    sure = np.full((len(LABELS), padding, 4), -1e9, "float32")
    sure[..., 0] = 0
    padded = np.concatenate([logits, sure], 1)
    for kind in (CTC, keras.losses.CTC):
        each = tf.function(kind(reduction="none"), jit_compile=jit_compile)
        np.testing.assert_allclose(each(targets, padded), wanted, rtol=1e-5)


@COMPILED
def test_ctc_and_its_gradient_are_those_of_keras(rng, jit_compile):
    logits = tf.constant(rng.normal(size=(6, 20, 7)).astype("float32"))
    targets = rng.integers(1, 7, (6, 5))
    targets[0, 2:] = targets[1, 4:] = 0
    weights = rng.uniform(size=6).astype("float32")
    found = []
    for kind in (CTC, keras.losses.CTC):

        @tf.function(jit_compile=jit_compile)
        def measured(logits, loss=kind()):  # noqa: B008
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss(targets, logits, sample_weight=weights)
            return value, tape.gradient(value, logits)

        found.append(measured(logits))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_ctc_refuses_what_no_path_can_say():
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels length is zero"):
        CTC()(np.array([[0, 0]]), np.zeros((1, 2, 3), "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Not enough time"):
        CTC()(np.array([[1, 2]]), np.zeros((1, 1, 3), "float32"))
    # Two steps cannot hold the blank between two that are alike.
    assert float(CTC()(np.array([[1, 1]]), np.zeros((1, 2, 3), "float32"))) == np.inf


def test_a_recording_is_heard_as_it_would_be_alone(rng):
    """Whatever is in the batch, however much padding is behind it; and CTC's loss of it."""
    model = network(2, mean=[-5.0] * 40, deviation=[2.0] * 40)
    lengths = [2000, 1111, 320, 1]
    samples = recordings(rng, lengths)
    together = model(np.pad(samples, ((0, 0), (0, 900))))
    targets = np.array([[2, 3], [2, 0], [3, 0], [4, 0]])
    for training in (False, True):
        losses = CTC(reduction="none")(targets, model(samples, training=training))
        for i, length in enumerate(lengths):
            steps = -(-length // STEP)
            alone = model(samples[i : i + 1, :length], training=training)
            assert alone.shape == (1, steps, 5)
            np.testing.assert_allclose(together[i, :steps], alone[0], atol=1e-5)
            assert (np.asarray(tf.nn.softmax(together[i, steps:])) == [1, 0, 0, 0, 0]).all()
            own = CTC(reduction="none")(targets[i : i + 1], alone)
            np.testing.assert_allclose(losses[i], own[0], rtol=1e-5)


def test_backwards_begins_at_the_recordings_end(rng):
    """A mask that is not honoured would let the padding in, as the first that it reads."""
    model = network()
    samples = recordings(rng, [1600, 800])
    logits = np.asarray(model(samples))
    changed = samples.copy()
    changed[1, 799] = -changed[1, 799]  # The last step's, which the first hears backwards only.
    assert np.abs(np.asarray(model(changed))[1, 0] - logits[1, 0]).max() > 1e-6
    np.testing.assert_array_equal(np.asarray(model(changed))[0], logits[0])


def test_silence_is_nothing():
    model = network()
    assert model.transcribe(np.zeros((2, 500), "float32")) == ["", ""]
    assert np.isfinite(model(np.zeros((1, 500), "float32"))).all()


def logits_of(path):
    """Logits of a network that is sure of a path."""
    return 20 * np.eye(5, dtype="float32")[None, path]


@pytest.mark.parametrize("num_beams", [None, 1, 8])
def test_transcripts_of_paths(num_beams):
    model = network()
    paths = {
        (2, 2, 0, 2, 3, 3): "aab",
        (0, 0, 0): "",
        (4, 2, 4, 0, 4, 3, 4): "a  b",  # Spaces at the ends go.
        (2, 1, 3): "a\N{REPLACEMENT CHARACTER}b",
    }
    for path, text in paths.items():
        found = model.decode_strings(logits_of(list(path)), num_beams)
        assert [t.decode() for t in found.numpy()] == [text]


def test_beams_find_what_the_likeliest_steps_do_not():
    """Blank is the likeliest at each step, but "a" in more ways together (Graves et al., 2006)."""
    model = network()
    p = np.array([[[0.5, 1e-9, 0.4, 0.1 - 1e-9, 1e-12]] * 2])
    logits = np.log(p).astype("float32")
    assert model.decode_strings(logits).numpy() == [b""]
    assert model.decode_strings(logits, 4).numpy() == [b"a"]


@pytest.mark.thorough
def test_transcribe_takes_recordings_of_several_lengths(rng):
    model = network()
    rows = [rng.uniform(-1, 1, n) for n in (3000, 900)]
    for beams in (None, 3):
        alone = [model.transcribe([row], beams)[0] for row in rows]
        assert model.transcribe(rows, beams) == alone
    with pytest.raises(ValueError, match="num_beams: 0, expected from 1"):
        model.transcribe(rows, 0)
    with pytest.raises(ValueError, match="vocabulary: None, expected"):
        DRNN(5, 6).transcribe(rows)


def test_spec_augment_is_on_in_training_only(rng):
    samples = recordings(rng, [1600, 900])
    model = network(time_masks=2, frequency_masks=2)
    still = [np.asarray(model(samples)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    moved = [np.asarray(model(samples, training=True)) for _ in range(2)]
    assert (moved[0] != moved[1]).any()
    off = network()
    np.testing.assert_allclose(off(samples, training=True), off(samples), atol=1e-5)


def test_input_is_checked(rng):
    model = network()
    model.compile("adam", CTC())
    with pytest.raises(ValueError, match=r"x: element 0 holds .*of 16 bits, x / 32768"):
        model.fit(np.full((2, 800), 300.0, "float32"), np.ones((2, 1), "int32"), verbose=0)
    with pytest.raises(ValueError, match=r"y: element 0 holds 5"):
        model.fit(np.zeros((2, 800), "float32"), np.full((2, 1), 5), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 1}, "vocab_size: 1"),
        ({"num_layers": 0}, "num_layers: 0"),
        ({"stack": 11}, "stack: 11, expected from 1 to 10"),
        ({"mean": [1.0]}, "mean: 1 numbers for mel_bins=40"),
        ({"deviation": [1.0] * 41}, "deviation: 41 numbers"),
        ({"sample_rate": 1}, "sample_rate: 1"),
        ({"time_masks": -1}, "time_masks: -1"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        DRNN(**{"vocab_size": 5} | arguments)
    assert message in str(error.value)
