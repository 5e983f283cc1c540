"""Weights, logs and predictions equal those of one device, for every model, strategy and feature.

Tolerances are absolute differences of a weight after 24 steps. Every strategy sums over the batch
in another order, so float32 rounds differently in the seventh digit, and training accumulates the
difference. 5e-6 is a few dozen roundings of a weight near 1. A mean of means, clipping per replica
or a missing row makes a difference of 1e-3 or more.
"""

import dataclasses
import functools
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import distribute
from bigmodels.commands.launch import launch
from tests.distribute import cases

# name: (workers, devices per worker)
TOPOLOGIES = {
    "mirrored 2": (1, 2),
    "mirrored 3": (1, 3),
    "2 workers": (2, 1),
    "3 workers": (3, 1),
    "2 workers x 2": (2, 2),
}


@pytest.fixture(scope="module")
def one_device():
    """Results on one device, computed once each."""
    results = {}

    def result(name):
        if name not in results:
            results[name] = cases.run(name, distribute.strategy("one_device"))
        return results[name]

    return result


@functools.cache
def _mirrored(devices):
    names = [f"CPU:{i}" for i in range(devices)]
    return tf.distribute.MirroredStrategy(names, tf.distribute.ReductionToOneDevice())


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Results of real worker processes, which are started once per group of cases."""
    directories = {}

    def results(name, count, devices):
        (group,) = (group for group, names in cases.GROUPS.items() if name in names)
        key = count, devices, group
        if key not in directories:
            directory = str(tmp_path_factory.mktemp("workers"))
            command = [sys.executable, "-m", "tests.distribute.cases", directory, str(devices)]
            assert launch([*command, group], count, join_timeout=120) == 0
            directories[key] = directory
        return [cases.load(directories[key], name, i) for i in range(count)]

    return results


def _furthest(found, wanted):
    pairs = zip(found, wanted, strict=True)
    return max((float(np.max(np.abs(np.float64(a) - np.float64(b)))) for a, b in pairs), default=0)


FAST = {"mirrored 2": ("CNN", "two outputs")}
THOROUGH = {
    "mirrored 2": (*cases.MODELS, "functional", "Muon", "much at once", "mixed_float16"),
    # With a batch of two rows, one replica has no rows.
    "mirrored 3": (*cases.ACROSS_ROWS, "outputs by name"),
    # A functional model adds little to these and to two replicas of one process.
    "2 workers": (*cases.FAST_MODELS, *cases.ACROSS_ROWS),
}


def _matrix():
    """All combinations; those that are not fast are marked thorough or slow."""
    for topology in TOPOLOGIES:
        for name in cases.CASES:
            fast = name in FAST.get(topology, ())
            thorough = name in THOROUGH.get(topology, ())
            marks = [] if fast else [pytest.mark.thorough if thorough else pytest.mark.slow]
            yield pytest.param(topology, name, marks=marks, id=f"{topology}-{name}")


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # From Keras, for unknown lengths.
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("topology", "name"), _matrix())
def test_same_as_on_one_device(topology, name, one_device, workers, record_property):
    count, devices = TOPOLOGIES[topology]
    wanted_weights, wanted_logs, wanted_predictions = one_device(name)
    if count > 1:
        results = workers(name, count, devices)
    else:
        results = [cases.run(name, _mirrored(devices))]
    tolerance = cases.CASES[name].tolerance
    for weights, logs, predictions in results:  # On every worker.
        assert weights.keys() == wanted_weights.keys()
        difference = _furthest(weights.values(), wanted_weights.values())
        record_property("difference", (name, topology, difference))
        assert difference <= tolerance
        for part in ("history", "evaluate"):
            assert logs[part].keys() == wanted_logs[part].keys()
            for metric, value in wanted_logs[part].items():
                np.testing.assert_allclose(
                    logs[part][metric], value, rtol=10 * tolerance, atol=tolerance, err_msg=metric
                )
        assert _furthest(predictions, wanted_predictions) <= 100 * tolerance


# Failures of plain Keras with two replicas. If one of these tests fails, Keras has changed, and a
# part of `bigmodels.distribute` may no longer be needed.
_FAILS = {
    "first batch of one row": (  # keras#19246
        tf.errors.InvalidArgumentError,
        r"AddN must have the same size and shape.  Input 0: \[1,6\] != input 1: \[0,6\]",
    ),
    "gradient accumulation": (RuntimeError, "`merge_call` called while defining a new graph"),
}
# With batches that divide evenly, only the named feature makes the weights differ.
_DIFFERS = ("global_clipnorm", "BatchNorm", "ignored class")


def _of_keras(test):
    # `fit` warns that it does not shuffle a data set. As an error, it would be mistaken for the
    # expected failure.
    ignored = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
    return pytest.mark.thorough(ignored(test))


def _by_keras_alone(name, monkeypatch, even=False):
    """The largest difference between Keras' weights with two replicas and on one device."""
    case = cases.CASES[name]
    if even:
        case = dataclasses.replace(case, batches=lambda rows: rows.batch(cases.BATCH, True))
    monkeypatch.setitem(cases.CASES, name, case)
    monkeypatch.setattr(cases.distribute, "Model", keras.Model)
    wanted, _, _ = cases.run(name, distribute.strategy("one_device"))
    found, _, _ = cases.run(name, _mirrored(2))
    return _furthest(found.values(), wanted.values())


@_of_keras
@pytest.mark.parametrize("name", _FAILS)
def test_upstream_still_fails(name, monkeypatch):
    error, message = _FAILS[name]
    with pytest.raises(error, match=message):
        _by_keras_alone(name, monkeypatch)


@_of_keras
@pytest.mark.parametrize("name", _DIFFERS)
def test_upstream_still_differs(name, monkeypatch):
    assert 1e-3 < _by_keras_alone(name, monkeypatch, even=True) < 1


@_of_keras
def test_upstream_still_takes_a_mean_of_means(monkeypatch):
    """With a smaller last batch; if all batches divide evenly, the weights are equal."""
    assert 1e-3 < _by_keras_alone("SGD, momentum", monkeypatch) < 1
    tolerance = cases.CASES["SGD, momentum"].tolerance
    assert _by_keras_alone("SGD, momentum", monkeypatch, even=True) <= tolerance


@pytest.mark.thorough
def test_upstream_still_fails_with_several_workers(tmp_path):
    """If this fails, Keras' own `fit` can reduce over workers (keras#20585)."""
    script = tmp_path / "plain.py"
    script.write_text(
        "import pathlib, sys, keras\n"
        f"sys.path.insert(0, {str(pathlib.Path.cwd())!r})\n"
        "from tests.distribute import cases\n"
        "cases.distribute.Model = keras.Model\n"
        "strategy = cases.distribute.strategy('multi_worker')\n"
        f"directory = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n"
        "    cases.run('L2', strategy)\n"
        "except ValueError as error:\n"
        "    worker = strategy.cluster_resolver.task_id\n"
        "    (directory / f'{worker}.txt').write_text(str(error))\n"
    )
    assert launch([sys.executable, str(script)], 2, join_timeout=120) == 0
    for worker in range(2):
        error = (tmp_path / f"{worker}.txt").read_text()
        assert "Attempt to convert a value (PerReplica:{" in error
