"""Runs that are killed with SIGKILL at random times give the same result as uninterrupted ones.

The fast tests kill the CNN once, the thorough ones kill each of the four families three times, and
the slow ones forty times; the times depend on a seed. Every attempt is a fork of a process that has
imported TensorFlow but not used it, so that most of the time is spent in the run itself.
"""

import contextlib
import errno
import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.same_run import assert_same_run

FAMILIES = {
    "cnn": (
        "image_classification",
        {"model.filters": "2,2", "model.dense_units": 8, "steps_per_epoch": 50},
    ),
    "rnn": (
        "text_generation",
        {
            "model.embedding_dim": 4,
            "model.rnn_units": 8,
            "model.dropout_rate": 0.2,
            "data.length": 10,
            "data.evaluation_length": 20,
        },
    ),
    "transformer": (
        "text_generation",
        {
            "model.kind": "transformer",
            "model.num_layers": 1,
            "model.num_heads": 2,
            "model.embedding_dim": 8,
            "model.feed_forward_dim": 8,
            "data.length": 12,
            "data.evaluation_length": 12,
        },
    ),
    "gan": ("image_generation", {"model.latent_dim": 4, "judge_steps": 3}),
}
COMMON = {"strategy": "one_device", "epochs": 2, "batch_size": 4, "seed": 3, "save_freq": 1}

# Reads a line for each attempt, forks, and prints the child's process id and exit status.
NURSERY = """
import json, os, resource, sys
from bigmodels import models, tasks
from bigmodels.commands.train import train
for line in sys.stdin:
    task, run, settings, most = json.loads(line)
    child = os.fork()
    if child == 0:
        if most:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        try:
            train(task, run, settings, verbose=0)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, row in (("high", 2), ("low", 8)):
        (root / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 60, (12, 12, 1), "uint8")
            pixels[row : row + 2] = 250
            (root / "images" / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (root / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return {"text_generation": f"text:{root / 'text.txt'}"} | dict.fromkeys(
        ("image_classification", "image_generation"), f"images:{root / 'images'}"
    )


@pytest.fixture(scope="module")
def nursery():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    yield process
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def untouched(data, nursery, tmp_path_factory):
    """A family's uninterrupted run, and its duration in seconds; each is trained once."""

    @functools.cache
    def train(family):
        task, changes = FAMILIES[family]
        run = tmp_path_factory.mktemp("untouched") / family
        return run, _attempt(nursery, task, run, COMMON | changes | {"dataset": data[task]})

    return train


def _newest(run):
    return max((path.stem for path in run.glob("checkpoints/0*.npz")), default="")


def _runs(process):
    with contextlib.suppress(OSError):
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def _attempt(nursery, task, run, settings, killed_after=None, in_training=False):
    """Run one process; returns its duration in seconds, or `None` if it was killed."""
    nursery.stdin.write(json.dumps([task, str(run), settings, None]) + "\n")
    nursery.stdin.flush()
    began = time.monotonic()
    child = int(nursery.stdout.readline())
    if killed_after is not None:
        if in_training:
            before = _newest(pathlib.Path(run))
            while _newest(pathlib.Path(run)) == before and _runs(child):
                time.sleep(0.01)
        time.sleep(killed_after)
        with contextlib.suppress(ProcessLookupError):  # It had already ended.
            os.kill(child, signal.SIGKILL)
    status = int(nursery.stdout.readline())
    if status == 0:
        return time.monotonic() - began
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    return None


def _kills():
    """The first family; the thorough tests cover the others."""
    for family in FAMILIES:
        if family == "cnn":
            yield family, 1
        yield pytest.param(family, 3, marks=pytest.mark.thorough)
        yield pytest.param(family, 40, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


@pytest.mark.parametrize(("family", "kills"), _kills())
@pytest.mark.thorough
def test_killed_at_random_times(family, kills, data, nursery, untouched, tmp_path):
    task, changes = FAMILIES[family]
    settings = COMMON | changes | {"dataset": data[task]}
    wanted, whole = untouched(family)
    draw, runs = random.Random(f"{family} {kills}"), [tmp_path / "killed"]
    killed, positions = 0, set()
    while killed < kills:
        # Every other time during training, else anywhere from loading to the report.
        in_training = killed % 2 == 0
        after = draw.uniform(0.0, 0.2) if in_training else draw.uniform(0.1, 0.9) * whole
        if _attempt(nursery, task, runs[-1], settings, after, in_training) is None:
            killed += 1
            positions.add(_newest(runs[-1]))
        else:  # It finished; the remaining kills are for another run.
            runs.append(tmp_path / f"killed{len(runs)}")
    assert _attempt(nursery, task, runs[-1], settings) is not None
    for run in runs:
        assert_same_run(wanted, run)
        assert not list(run.rglob(".*"))  # No partly written files are left.
    assert len(positions) >= min(kills, 2)  # It was also killed during training.


@pytest.mark.thorough
def test_a_run_ended_by_a_full_disk_can_be_continued(data, nursery, untouched, tmp_path):
    """Files are limited to less than a checkpoint's size, so none is written, not even partly."""
    task, changes = FAMILIES["cnn"]
    settings = COMMON | changes | {"dataset": data[task], "save_freq": 40}
    run = tmp_path / "full"
    nursery.stdin.write(json.dumps([task, str(run), settings, 9000]) + "\n")
    nursery.stdin.flush()
    nursery.stdout.readline()
    status = int(nursery.stdout.readline())
    assert os.waitstatus_to_exitcode(status) == errno.EFBIG
    assert not list(run.glob("checkpoints/*.npz")) and not list(run.rglob(".*"))
    assert _attempt(nursery, task, run, settings) is not None
    assert_same_run(untouched("cnn")[0], run)


@pytest.mark.thorough
def test_a_signal_saves_within_an_epoch(data, nursery, tmp_path):
    task, changes = FAMILIES["cnn"]
    changes = changes | {"steps_per_epoch": 3000}
    settings = COMMON | changes | {"dataset": data[task], "epochs": 1, "save_freq": 500}
    nursery.stdin.write(json.dumps([task, str(tmp_path / "run"), settings, None]) + "\n")
    nursery.stdin.flush()
    child = int(nursery.stdout.readline())
    while not list(tmp_path.glob("run/checkpoints/0*.npz")):
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    status = int(nursery.stdout.readline())
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    *_, last = sorted(tmp_path.glob("run/checkpoints/0*.npz"))
    epoch, step = map(int, last.stem.split("-"))
    assert epoch == 0 and 500 < step < 3000 and step % 500  # Of no other occasion.


# Its third step takes a minute, during which the main thread runs no Python code.
SLOW = """
import sys, time
import keras, tensorflow as tf
import bigmodels

def wait(x):
    print("step", flush=True)
    time.sleep(60 if x >= 2 else 0)
    return x

data = tf.data.Dataset.range(5).map(lambda i: tf.numpy_function(wait, [i], "int64"))
data = data.map(lambda i: (tf.ones((1, 1)), tf.ones((1, 1))))
inputs = keras.Input((1,))
model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
model.compile("sgd", "mse")
length = tf.data.experimental.assert_cardinality(5)
keep = bigmodels.callbacks.BackupAndRestore(sys.argv[1], save_freq=1, grace=0.5)
model.fit(data.apply(length), verbose=0, callbacks=[keep])
"""


@pytest.mark.thorough
def test_after_the_grace_period_a_process_ends_within_a_step(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    while len(list(tmp_path.glob("*.npz"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 128 + signal.SIGTERM
    assert "No step ended within 0.5 s" in errors
    assert {path.name for path in tmp_path.iterdir()} == {
        "000000-00000001.npz",
        "000000-00000002.npz",
    }
