"""Muon of matrices of any rank, multiplied learning rates, and schedules."""

import keras
import numpy as np
import pytest

from bigmodels.models import CNN, RNN, ResidualCNN, Transformer
from bigmodels.optimizers import SGD, AdamW, Muon, WarmupStableDecay
from bigmodels.tasks.settings import Optimizer, with_settings
from tests.conftest import counting_tokens


def _step(optimizer, shape, gradient, path="layer/kernel"):
    """What one step of a learning rate of 1 takes from a variable of zeros."""
    with keras.name_scope(path.rpartition("/")[0]):
        variable = keras.Variable(np.zeros(shape, "float32"), name=path.rpartition("/")[2])
    optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
    return -variable.numpy()


@pytest.mark.parametrize(
    ("shape", "rows"), [((6, 8), 6), ((2, 3, 8), 6), ((8, 2, 3), 8), ((3, 3, 2, 8), 18)]
)
def test_muon_orthogonalises_kernels_of_every_rank(rng, shape, rows):
    gradient = rng.normal(size=shape)
    step = _step(Muon(1.0, rms_rate=None), shape, gradient).reshape(rows, -1)
    u, _, v = np.linalg.svd(gradient.reshape(rows, -1), full_matrices=False)
    values = np.linalg.svd(step)[1]
    # Five Newton-Schulz iterations bring the singular values near 1 and keep the vectors.
    assert 0.5 < values.min() and values.max() < 1.3
    assert np.linalg.norm(u.T @ step @ v.T - np.diag(np.diag(u.T @ step @ v.T))) < 1e-4


def test_muon_is_keras_own_on_matrices(rng):
    gradient = rng.normal(size=(5, 7))
    ours, theirs = Muon(0.1), keras.optimizers.Muon(0.1)
    np.testing.assert_allclose(
        _step(ours, (5, 7), gradient), _step(theirs, (5, 7), gradient), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ((8,), "layer/bias"),
        ((8, 1), "layer/kernel"),
        ((5, 8), "token_embedding/embeddings"),
        ((5, 8), "dense/kernel"),
    ],
)
def test_muon_leaves_the_rest_to_adamw(rng, shape, path):
    gradient = rng.normal(size=shape)
    optimizer = Muon(0.1, exclude_layers=["dense/"], weight_decay=0, adam_weight_decay=0)
    # Adam's first step is the sign of the gradient.
    np.testing.assert_allclose(
        _step(optimizer, shape, gradient, path), 0.1 * np.sign(gradient), atol=1e-5
    )


def test_multipliers_scale_the_steps_of_what_they_name(rng):
    gradient = rng.normal(size=(3, 2))
    factors = {"dense/": 3.0, "layer": 0.0}
    for path, factor in (("dense/kernel", 3.0), ("layer/kernel", 0.0)):
        with keras.name_scope(path.partition("/")[0]):
            named = keras.Variable(np.zeros((3, 2), "float32"), name="kernel")
        with keras.name_scope("dense" if factor == 0 else "layer"):
            other = keras.Variable(np.zeros(1, "float32"), name="bias")
        SGD(0.1, learning_rate_multipliers=factors).apply(
            [keras.ops.convert_to_tensor(gradient, "float32"), keras.ops.zeros(1)], [named, other]
        )
        np.testing.assert_allclose(named.numpy(), -0.1 * factor * gradient, rtol=1e-6)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"(": 1.0}, r"learning_rate_multipliers: '\(' is no regular expression"),
        ({"a": -1.0}, "learning_rate_multipliers: 'a' has the factor -1.0, expected a number"),
        ({"a": float("nan")}, "learning_rate_multipliers: 'a' has the factor nan"),
        ({"nowhere": 2.0}, "learning_rate_multipliers: 'nowhere' is found in no variable"),
    ],
)
def test_a_bad_multiplier_is_named(factors, message):
    with pytest.raises(ValueError, match=message):
        AdamW(0.1, learning_rate_multipliers=factors).build([keras.Variable(np.zeros(2), name="k")])


def test_a_schedule_by_hand():
    rate = WarmupStableDecay(2.0, 10, warmup_steps=2, decay_steps=4, final_rate=0.5)
    wanted = [0, 1, 2, 2, 2, 2, 2, 1.75, 1.5, 1.25, 1, 1]
    assert [float(rate(step)) for step in range(12)] == pytest.approx(wanted)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert float(again(7)) == pytest.approx(1.75)
    with pytest.raises(ValueError, match="decay_steps: 9 and warmup_steps=2, expected at most"):
        WarmupStableDecay(1.0, 10, 2, 9)


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"schedule": "linear"}, {0: 0, 10: 1, 55: 0.5, 100: 0}),
        ({"schedule": "warmup_stable_decay"}, {5: 0.5, 10: 1, 79: 1, 90: 0.5, 100: 0}),
        (
            {"schedule": "warmup_stable_decay", "decay_share": "0.5", "final_rate": "0.1"},
            {50: 1, 75: 0.55, 100: 0.1},
        ),
        ({"schedule": "cosine", "final_rate": "0.1"}, {10: 1, 55: 0.55, 100: 0.1}),
        ({"schedule": "constant"}, {0: 1, 100: 1}),
        ({"schedule": "linear", "gradient_accumulation_steps": "2"}, {5: 1, 50: 0}),
    ],
)
def test_schedules_of_the_settings(settings, at):
    given = {f"optimizer.{name}": value for name, value in settings.items()}
    rate = _optimizer(given | {"optimizer.learning_rate": 1.0}).build(100)._learning_rate
    found = {step: float(rate(step)) if callable(rate) else float(rate) for step in at}
    assert found == pytest.approx(at, abs=1e-6)


def _optimizer(settings):
    from bigmodels.tasks.settings import Config

    return with_settings(Config(), settings).optimizer


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate_multipliers", "embedding", "'embedding', expected PATTERN=FACTOR"),
        ("learning_rate_multipliers", "a=-1", "'a=-1', expected PATTERN=FACTOR"),
        ("gradient_accumulation_steps", "0", "0, expected a positive number"),
        ("decay_share", "1", "1.0, expected a share from 0"),
        ("name", "moun", "'moun' is not one of adamw, adam, sgd, muon; did you mean muon?"),
    ],
)
def test_bad_settings_are_named(name, value, message):
    with pytest.raises(ValueError, match=rf"optimizer\.{name}: .*") as error:
        _optimizer({f"optimizer.{name}": value})
    assert message in str(error.value)


def test_settings_reach_the_optimizer():
    settings = Optimizer(
        name="muon",
        learning_rate_multipliers=("embedding=3", "bias=0.5"),
        exclude_layers=("dense/",),
        momentum=0.8,
    )
    optimizer = settings.build(10)
    assert isinstance(optimizer, Muon) and optimizer.momentum == 0.8
    assert optimizer.learning_rate_multipliers == {"embedding": 3.0, "bias": 0.5}
    assert type(Optimizer().build(10)) is keras.optimizers.AdamW
    assert type(Optimizer(learning_rate_multipliers=("k=2",)).build(10)) is AdamW
    sgd = Optimizer(name="sgd", nesterov=True, gradient_accumulation_steps=4).build(10)
    assert sgd.nesterov and sgd.momentum == 0.9 and sgd.gradient_accumulation_steps == 4


@pytest.mark.parametrize("name", ["muon", "sgd"])
def test_a_model_with_it_learns_and_comes_back(name, rng, tmp_path):
    tokens = counting_tokens(rng, 64, 9, 12)
    model = Transformer(12, 16, 2, 32, 0.0, max_length=8)
    settings = Optimizer(
        name=name,
        learning_rate=0.01 if name == "muon" else 0.2,
        learning_rate_multipliers=("embedding=2",),
        exclude_layers=("dense/",),
        schedule="warmup_stable_decay",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(settings.build(60), loss)
    losses = model.fit(tokens[:, :-1], tokens[:, 1:], 16, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("model", "shape", "last"),
    [
        (lambda: CNN(3, (4, 8), dense_units=16), (None, 12, 12, 1), "/dense2/kernel"),
        (lambda: ResidualCNN(3, (4, 8)), (None, 12, 12, 3), "/head/kernel"),
        (lambda: Transformer(9, 8, 2, 16, 0.0), (None, None), "/dense/kernel"),
        (lambda: RNN(9, 8, 8), (None, None), "/dense/kernel"),
    ],
)
def test_by_default_muon_has_every_kernel_but_the_last(model, shape, last):
    model = model()
    model.build(shape)
    optimizer = Optimizer(name="muon").build(10)
    optimizer.build(model.trainable_variables)
    left = {v.path for v in model.trainable_variables if optimizer._should_use_adamw(v)}
    (kernel,) = (path for path in left if path.endswith("/kernel"))
    assert kernel.endswith(last)
