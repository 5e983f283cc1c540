"""Strategies by name: the choice, its reason, and invalid arguments."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from bigmodels import distribute
from bigmodels.distribute import accelerator
from bigmodels.distribute.strategies import writes


def _tf_config(workers, index, **cluster):
    cluster = {"worker": [f"host{i}:1" for i in range(workers)], **cluster}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith("SLURM_")] + ["TF_CONFIG", "TPU_NAME"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "workers", "name", "why"),
    [
        ({}, None, "mirrored", "this machine has 3 CPU devices"),  # Created by conftest.py.
        ({"TF_CONFIG": _tf_config(2, 0)}, None, "multi_worker", "TF_CONFIG names several workers"),
        ({"TF_CONFIG": _tf_config(1, 0)}, None, "mirrored", "this machine has 3 CPU devices"),
        (  # Written by Kubeflow.
            {"TF_CONFIG": _tf_config(1, 0, chief=["c:1"])},
            None,
            "multi_worker",
            "TF_CONFIG names several workers",
        ),
        (SLURM, None, "multi_worker", "Slurm started several tasks"),
        ({"TPU_NAME": "v5"}, None, "tpu", "TPU_NAME is set"),
        ({}, ["a:1", "b:1"], "multi_worker", "2 workers were given"),
    ],
)
def test_auto_returns_a_name_and_a_reason(environment, workers, name, why, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert distribute.resolve("auto", workers) == (name, why)


def test_named_strategies():
    assert distribute.strategy("one_device").num_replicas_in_sync == 1
    mirrored = distribute.strategy("mirrored")
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert mirrored.num_replicas_in_sync == 3
    assert writes(mirrored)


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({}, {"name": "mirored"}, "strategy: 'mirored' is not one of auto, one_device"),
        ({}, {"name": "parameter_server"}, "Keras 3 does not support parameter servers"),
        ({}, {"name": "multi_worker"}, "strategy: 'multi_worker' needs to know the workers"),
        ({}, {"name": "tpu"}, "strategy: 'tpu' cannot start .* tensorflow-tpu"),
        ({}, {"workers": "a:1,b"}, "workers: 'b', expected host:port"),
        ({}, {"workers": "a:1,b:2"}, "worker: None, expected 0 to 1"),
        ({}, {"workers": "a:1,b:2", "worker": 2}, "worker: 2, expected 0 to 1"),
        ({}, {"worker": 0}, "worker: 0, but workers names none"),
        ({"TF_CONFIG": "{"}, {}, "TF_CONFIG: '{' is not a JSON object"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'},
            {},
            "TF_CONFIG: .* lacks a cluster or this process's task",
        ),
        ({"TF_CONFIG": _tf_config(2, 0, ps=["c:1"])}, {}, "names parameter servers"),
    ],
)
def test_invalid_arguments_are_named(environment, arguments, message, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=message):
        distribute.strategy(**arguments)


@pytest.mark.parametrize(("index", "chief"), [(0, True), (1, False)])
def test_the_first_worker_is_the_chief_without_starting_anything(index, chief, monkeypatch):
    assert distribute.is_chief(workers="a:1,b:2", worker=index) is chief
    monkeypatch.setenv("TF_CONFIG", _tf_config(2, index))
    assert distribute.is_chief() is chief
    assert distribute.is_chief("one_device")
    monkeypatch.setenv("TF_CONFIG", _tf_config(2, index, chief=["c:1"]))
    assert not distribute.is_chief()


@pytest.mark.thorough
def test_slurm_s_variables_make_a_cluster():
    """Two processes as `srun --ntasks=2` would start them, which compute a sum together."""
    code = (
        "from bigmodels import distribute; import tensorflow as tf\n"
        "s = distribute.strategy()\n"
        "total = s.run(lambda: distribute.all_sum(tf.constant(2.0 + s.cluster_resolver.task_id)))\n"
        "print(s.num_replicas_in_sync, distribute.is_chief(), float(total))\n"
    )
    with socket.socket() as probe:  # The resolver's ports, from 8888, may be in use.
        if probe.connect_ex(("localhost", 8888)) == 0:
            pytest.skip("port 8888 is in use")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | {
                "SLURM_PROCID": str(rank),
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_TASKS_PER_NODE": "2",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(processes):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
        assert re.search(rf"2 {rank == 0} 5.0", out)


def test_cpu_devices_must_be_created_before_tensorflow_starts():
    tf.config.list_logical_devices("CPU")
    with pytest.raises(ValueError, match="devices: 5, but TensorFlow has already started"):
        distribute.make_cpu_devices(5)
    with pytest.raises(ValueError, match="devices: 0, expected a positive integer"):
        distribute.make_cpu_devices(0)


_TWO_STRATEGIES = """
import tensorflow as tf
from bigmodels.distribute import make_cpu_devices, strategies

make_cpu_devices(2)
for shape in ((3,), (5,)):
    strategy = strategies.{kind}(["CPU:0", "CPU:1"])
    add = lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(shape))
    added = tf.function(lambda: strategy.run(add))()
    print(strategy.experimental_local_results(added)[1].numpy().tolist())
"""


def _two_strategies(kind):
    """Two strategies one after the other, with collective operations as between GPUs."""
    script = _TWO_STRATEGIES.format(kind=kind)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.thorough
def test_one_process_makes_several_mirrored_strategies():
    done = _two_strategies("_Mirrored")
    assert done.stdout.split("\n")[:2] == ["[2.0, 2.0, 2.0]", "[2.0, 2.0, 2.0, 2.0, 2.0]"], done


@pytest.mark.thorough
def test_upstream_mirrored_strategies_still_conflict():
    """If this fails, `_Mirrored` is no longer needed."""
    done = _two_strategies("tf.distribute.MirroredStrategy")
    assert done.returncode and "Shape mismatch in the collective instance" in done.stderr


_DETERMINISTIC = """
import keras
import numpy as np
import bigmodels
from bigmodels.models import CNN

bigmodels.distribute.deterministic()
keras.utils.set_random_seed(0)
model = CNN(3, (2,), dropout_rate=0.5)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype("float32")
model.fit(x, np.arange(8) % 3, batch_size=4, epochs=2, verbose=0)
print(hash(b"".join(w.tobytes() for w in model.get_weights())), model.jit_compile)
"""


@pytest.mark.thorough
def test_deterministic_operations_train():
    script = [sys.executable, "-c", _DETERMINISTIC]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    first, second = (
        subprocess.run(script, capture_output=True, text=True, env=environment) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout and first.stdout.endswith(" False\n")


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ("-a", "-a --xla_gpu_enable_triton_gemm=false"),
        ("--xla_gpu_enable_triton_gemm=true", "--xla_gpu_enable_triton_gemm=true"),
    ],
)
def test_xla_is_told_to_compile_quickly(monkeypatch, given, flags):
    monkeypatch.setenv("XLA_FLAGS", given)
    for _ in range(2):
        accelerator.compile_quickly()
    assert os.environ["XLA_FLAGS"] == flags


def test_importing_the_package_tells_xla():
    script = "import os, bigmodels; print(os.environ['XLA_FLAGS'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "--xla_gpu_enable_triton_gemm=false" in done.stdout
