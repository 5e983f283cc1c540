"""The guarantees every model gives, over one tiny instance of each.

A model that is not registered here fails `test_every_public_model_is_covered`.
"""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import bigmodels.losses
import bigmodels.models
from tests.tiny import MODELS

# The article's own; all others are left to the thorough tests.
FIRST = ("CNN", "GAN")
_NAMES = [
    name if name in FIRST else pytest.param(name, marks=pytest.mark.thorough)
    for name in sorted(MODELS)
]


@pytest.fixture(params=_NAMES)
def case(request):
    return MODELS[request.param]


def _built(case, rng, **kwargs):
    model = case.make(**kwargs)
    model.predict(case.inputs(rng, 2), verbose=0)
    return model


def test_every_public_model_is_covered():
    assert {name.partition(",")[0] for name in MODELS} == set(bigmodels.models.__all__)


def test_summary_counts_parameters_before_any_data(case, rng):
    kind = type(case.make())
    if kind in (bigmodels.models.CNN, bigmodels.models.PilotNet):
        model = later = kind()  # Its own shape: the article's 28x28x1, the paper's 66x200x3.
    else:
        model, later = case.make(), _built(case, rng)
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert f"{later.count_params():,}" in "\n".join(lines)
    assert later.count_params() > 0
    assert "?" not in "\n".join(lines)


def test_constructor_arguments_are_attributes_and_config(case):
    model = case.make(name="mine")
    config = model.get_config()
    for name in config.keys() - {"trainable", "dtype", "generator", "discriminator"}:
        assert getattr(model, name) == config[name]
    again = type(model).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config)


def test_built_only_once_and_by_shape(case, rng):
    model = case.make()
    shape = keras.tree.map_structure(lambda x: (None, *x.shape[1:]), case.inputs(rng, 1))
    model.build(shape)
    built = [v.path for v in model.variables]
    model.predict(case.inputs(rng, 2), verbose=0)
    assert [v.path for v in model.variables] == built


def test_fit_learns_and_evaluate_agrees(case, rng):
    model = case.make()
    case.compile(model)
    x, y = case.fit(rng, 96)
    history = model.fit(x, y, epochs=12, batch_size=16, verbose=0).history
    if "d_loss" in history:  # A game, not a descent: that both networks move is tested apart.
        assert np.isfinite(history["d_loss"]).all() and np.isfinite(history["g_loss"]).all()
        assert {"d_loss", "g_loss"} <= model.evaluate(x, y, verbose=0, return_dict=True).keys()
        return
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    first = model.evaluate(x, y, verbose=0, return_dict=True)
    assert first == model.evaluate(x, y, verbose=0, return_dict=True)
    assert first["loss"] < history["loss"][0]


def test_predict_does_not_depend_on_the_batch(case, rng):
    model = case.make()
    x = case.inputs(rng, 7)
    # Rounding of float32 in differently blocked products.
    np.testing.assert_allclose(
        model.predict(x, batch_size=7, verbose=0),
        model.predict(x, batch_size=3, verbose=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_results_come_out_in_full_precision(case, rng, policy):
    keras.config.set_dtype_policy(policy)
    output = case.make()(case.inputs(rng, 2))
    assert output.dtype == ("float64" if policy == "float64" else "float32")
    assert np.isfinite(np.asarray(output)).all()


# Beside float16, whose range is the smaller one, bfloat16 adds little.
@pytest.mark.parametrize(
    "policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"]
)
@pytest.mark.parametrize(
    "name",
    [
        *("CNN", "RNN", "Transformer", "GAN"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("DRNN", "GAN, steadied")),
    ],
)
@pytest.mark.thorough
def test_mixed_precision_trains(name, rng, policy):
    keras.config.set_dtype_policy(policy)
    case = MODELS[name]
    model = case.make()
    case.compile(model)
    x, y = case.fit(rng, 32)
    history = model.fit(x, y, epochs=2, batch_size=16, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    if "GAN" not in name:
        assert history["loss"][1] < history["loss"][0]


_LOAD = """
import sys, pathlib, numpy as np, keras, bigmodels.models
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.keras")):
    model = keras.models.load_model(path)
    data = np.load(path.with_suffix(".npz"))
    x = {name.partition("/")[2]: data[name] for name in data.files if name.startswith("x")}
    found = {"output": model.predict(x.get("", x), verbose=0)}
    for name in ("optimizer", "d_optimizer", "g_optimizer"):
        optimizer = getattr(model, name, None)
        if optimizer is not None:
            for i, variable in enumerate(optimizer.variables):
                found[f"{name}{i}"] = np.asarray(variable)
    expected = {name: data[name] for name in data.files if not name.startswith("x")}
    assert found.keys() == expected.keys(), (path.name, found.keys() ^ expected.keys())
    for name in expected:
        assert np.array_equal(found[name], expected[name]), (path.name, name)
    print(path.stem, len(found))
"""


@pytest.mark.parametrize(
    "names",
    [FIRST, pytest.param(tuple(MODELS.keys() - {*FIRST}), marks=pytest.mark.thorough)],
    ids=["first", "others"],
)
@pytest.mark.thorough
def test_keras_file_is_exact_in_a_new_process(rng, tmp_path, names):
    """Many models in one new process: output and every optimizer variable, bit for bit."""
    for name, case in ((name, MODELS[name]) for name in names):
        model = case.make()
        case.compile(model)
        model.fit(*case.fit(rng, 32), batch_size=16, verbose=0)
        path = tmp_path / f"{name}.keras"
        model.save(path)
        x = case.inputs(rng, 4)
        state = {f"x/{key}": x[key] for key in x} if isinstance(x, dict) else {"x/": x}
        state["output"] = model.predict(x, verbose=0)
        for attribute in ("optimizer", "d_optimizer", "g_optimizer"):
            optimizer = getattr(model, attribute, None)
            if optimizer is not None:
                for i, variable in enumerate(optimizer.variables):
                    state[f"{attribute}{i}"] = np.asarray(variable)
        assert len(state) > 4
        np.savez(path.with_suffix(".npz"), **state)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(names)
