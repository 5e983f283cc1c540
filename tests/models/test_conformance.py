"""The guarantees every model gives, over one tiny instance of each.

A model that is not registered here fails `test_every_public_model_is_covered`.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest

import bigmodels.losses
import bigmodels.models
from tests.conftest import counting_tokens, striped_images

SPARSE = keras.losses.SparseCategoricalCrossentropy
BINARY = keras.losses.BinaryCrossentropy


@dataclasses.dataclass(frozen=True)
class Case:
    """`make(**kwargs)` a model; `inputs(rng, n)` for `predict`; `fit(rng, n)` for `fit`."""

    make: Callable
    inputs: Callable
    fit: Callable
    compile: Callable
    output_dtype: str = "float32"


def _classify(model):
    model.compile(keras.optimizers.Adam(1e-2), SPARSE(from_logits=True), metrics=["accuracy"])


def _tokens(rng, count):
    return counting_tokens(rng, count, 9, 12)


def _shifted(rng, count):
    tokens = _tokens(rng, count)
    return tokens[:, :-1], tokens[:, 1:]


def _pairs(rng, count):
    """The target is the source in reverse; both are padded."""
    sizes = rng.integers(1, 5, count)
    source, target = np.zeros((2, count, 6), "int32")
    target[:, 0] = 2
    for i, size in enumerate(sizes):
        source[i, :size] = rng.integers(4, 12, size)
        target[i, 1 : size + 1] = source[i, :size][::-1]
    following = np.roll(target, -1, 1)
    following[:, -1] = 0
    following[np.arange(count), sizes] = 3
    return {"source": source, "target": target}, following


def _tones(rng, count):
    """Recordings that say one of two characters: a low tone, and a high one."""
    said = np.arange(count) % 2
    time = np.arange(1000) * (0.3 + 0.9 * said[:, None])
    samples = 0.5 * np.sin(time + rng.uniform(0, 6, (count, 1))).astype("float32")
    samples[count // 2 :, 800:] = 0
    return samples, said[:, None] + 1


def _hear(model):
    model.compile(keras.optimizers.Adam(1e-2), bigmodels.losses.CTC())


def _noise(rng, count):
    return rng.normal(size=(count, 5)).astype("float32")


def _pictures(rng, count):
    return striped_images(rng, count)[0] * 2 - 1


def _generator_fit(rng, count):
    return _noise(rng, count), _pictures(rng, count)


def _judge_fit(rng, count):
    images = _pictures(rng, count)
    labels = np.arange(count)[:, None] % 2
    return np.where(labels[..., None, None], images, -images), labels.astype("float32")


def _judge(model):
    model.compile(keras.optimizers.Adam(1e-2), BINARY(from_logits=True))


def _waves(rng, count):
    phase = rng.uniform(0, 6, (count, 1, 2))
    return np.sin(phase + 0.8 * np.arange(17)[:, None]).astype("float32")


def _gan(**kwargs):
    return bigmodels.models.GAN(
        bigmodels.models.Generator(5, (12, 12, 1), units=(16, 8, 6), **kwargs),
        bigmodels.models.Discriminator((12, 12, 1), units=(8, 6), **kwargs),
        seed=1,
        **kwargs,
    )


def _steadied_gan(**kwargs):
    """With everything that is off by default."""
    return bigmodels.models.GAN(
        bigmodels.models.ConvGenerator(5, (12, 12, 1), filters=(6, 4), **kwargs),
        bigmodels.models.ConvDiscriminator(
            (12, 12, 1), filters=(4, 6), normalization="spectral", **kwargs
        ),
        seed=1,
        r1=1.0,
        ema_momentum=0.9,
        **kwargs,
    )


def _hinge(model):
    model.compile(loss_fn=keras.losses.Hinge(), g_loss_fn=bigmodels.losses.Wasserstein())


def _with_holes(rng, count):
    images = _pictures(rng, count)
    mask = np.zeros((count, 12, 12, 1), "float32")
    mask[:, 3:9, 2:8] = 1
    return np.concatenate([images * (1 - mask), mask], -1).astype("float32"), images


def _inpainting_gan(**kwargs):
    return bigmodels.models.InpaintingGAN(
        bigmodels.models.Inpainter((12, 12, 1), filters=(4, 6), **kwargs),
        bigmodels.models.ConvDiscriminator((12, 12, 1), filters=(4, 6), **kwargs),
        0.1,
        **kwargs,
    )


def _mse(model):
    model.compile(keras.optimizers.Adam(1e-2), "mse")


def _frames(rng, count):
    return striped_images(rng, count, channels=3)[0] * 255


def _drive(rng, count):
    images, stripes = striped_images(rng, count, channels=3)
    return images * 255, stripes[:, None].astype("float32") - 1


def _boxes(rng, count):
    """Pictures of one object each: a light square, small or large."""
    labels = rng.integers(0, 2, count)
    images = rng.uniform(0, 0.2, (count, 16, 16, 1)).astype("float32")
    objects = np.zeros((count, 2, 5), "float32")
    objects[:, 1, 4] = -1
    for image, rows, label in zip(images, objects, labels, strict=True):
        side = 5 + 4 * label
        top, left = rng.integers(0, 16 - side, 2)
        image[top : top + side, left : left + side] += 0.8
        rows[0] = left, top, left + side, top + side, label
    return images, objects


def _detect(model):
    model.compile(keras.optimizers.Adam(1e-2), bigmodels.losses.CenterPoints())


CASES = {
    "CNN": Case(
        lambda **k: bigmodels.models.CNN(
            3, (4, 6), 3, 8, dropout_rate=0.1, batch_normalization=True, **k
        ),
        lambda rng, n: striped_images(rng, n)[0],
        striped_images,
        _classify,
    ),
    "BackboneClassifier": Case(
        lambda **k: bigmodels.models.BackboneClassifier(
            3, (32, 32, 1), "MobileNet", 0.25, train_backbone=True, batch_statistics=True, **k
        ),
        lambda rng, n: striped_images(rng, n, 32)[0],
        lambda rng, n: striped_images(rng, n, 32),
        _classify,
    ),
    "DRNN": Case(
        lambda **k: bigmodels.models.DRNN(
            3, 6, 1, 0.1, mel_bins=8, time_masks=1, mean=[-5] * 8, deviation=[4] * 8, **k
        ),
        lambda rng, n: _tones(rng, n)[0],
        _tones,
        _hear,
    ),
    "Detector": Case(
        lambda **k: bigmodels.models.Detector(2, (4, 6, 6), 6, 0.1, **k),
        lambda rng, n: _boxes(rng, n)[0],
        _boxes,
        _detect,
    ),
    "RNN": Case(
        lambda **k: bigmodels.models.RNN(12, 8, 16, 4, dropout_rate=0.1, **k),
        _tokens,
        _shifted,
        _classify,
    ),
    "Transformer": Case(
        lambda **k: bigmodels.models.Transformer(12, 8, 2, 16, 0.1, num_layers=2, **k),
        _tokens,
        _shifted,
        _classify,
    ),
    "Seq2SeqTransformer": Case(
        lambda **k: bigmodels.models.Seq2SeqTransformer(
            12, 8, 2, 16, 0.1, num_layers=2, max_length=8, **k
        ),
        lambda rng, n: _pairs(rng, n)[0],
        _pairs,
        _classify,
    ),
    "PilotNet": Case(
        lambda **k: bigmodels.models.PilotNet((4,), (6,), (8,), dropout_rate=0.1, **k),
        _frames,
        _drive,
        _mse,
    ),
    "Generator": Case(
        lambda **k: bigmodels.models.Generator(5, (12, 12, 1), units=(16, 8, 6), **k),
        _noise,
        _generator_fit,
        _mse,
    ),
    "Discriminator": Case(
        lambda **k: bigmodels.models.Discriminator((12, 12, 1), units=(8, 6), **k),
        _pictures,
        _judge_fit,
        _judge,
    ),
    "ConvGenerator": Case(
        lambda **k: bigmodels.models.ConvGenerator(5, (12, 12, 1), filters=(6, 4), **k),
        _noise,
        _generator_fit,
        _mse,
    ),
    "ConvDiscriminator": Case(
        lambda **k: bigmodels.models.ConvDiscriminator((12, 12, 1), filters=(4, 6), **k),
        _pictures,
        _judge_fit,
        _judge,
    ),
    "Forecaster": Case(
        lambda **k: bigmodels.models.Forecaster(("a", "b"), 12, 5, 8, 4, 0.1, **k),
        lambda rng, n: _waves(rng, n)[:, :12],
        lambda rng, n: np.split(_waves(rng, n), [12], axis=1),
        _mse,
    ),
    "GAN": Case(_gan, _noise, lambda rng, n: (_pictures(rng, n), None), lambda m: m.compile()),
    "GAN, steadied": Case(_steadied_gan, _noise, lambda rng, n: (_pictures(rng, n), None), _hinge),
    "Inpainter": Case(
        lambda **k: bigmodels.models.Inpainter((12, 12, 1), filters=(4, 6), **k),
        lambda rng, n: _with_holes(rng, n)[0],
        _with_holes,
        _mse,
    ),
    "InpaintingGAN": Case(
        _inpainting_gan,
        lambda rng, n: _with_holes(rng, n)[0],
        _with_holes,
        lambda m: m.compile(),
    ),
}


# The article's own; all others are left to the thorough tests.
FIRST = ("CNN", "RNN", "Transformer", "GAN")
_NAMES = [
    name if name in FIRST else pytest.param(name, marks=pytest.mark.thorough)
    for name in sorted(CASES)
]


@pytest.fixture(params=_NAMES)
def case(request):
    return CASES[request.param]


def _built(case, rng, **kwargs):
    model = case.make(**kwargs)
    model.predict(case.inputs(rng, 2), verbose=0)
    return model


def test_every_public_model_is_covered():
    assert {name.partition(",")[0] for name in CASES} == set(bigmodels.models.__all__)


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
def test_mixed_precision_trains(name, rng, policy):
    keras.config.set_dtype_policy(policy)
    case = CASES[name]
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
    [FIRST, pytest.param(tuple(CASES.keys() - {*FIRST}), marks=pytest.mark.thorough)],
    ids=["first", "others"],
)
def test_keras_file_is_exact_in_a_new_process(rng, tmp_path, names):
    """Many models in one new process: output and every optimizer variable, bit for bit."""
    for name, case in ((name, CASES[name]) for name in names):
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
