"""The same training under Ray Train, whose own TensorFlow example fails on Keras 3 (ray#47464)."""

import pathlib

import numpy as np
import pytest

from bigmodels import distribute
from tests.distribute import cases

ROOT = pathlib.Path(__file__).parents[2]


def _worker(config):
    """The function that Ray runs in each of its processes; Ray sets TF_CONFIG."""
    cases.distribute.make_cpu_devices(1)
    strategy = distribute.strategy()
    if strategy.num_replicas_in_sync != 2:
        raise ValueError(f"{strategy.num_replicas_in_sync} replicas, expected 2")
    worker = strategy.cluster_resolver.task_id
    cases.save(config["directory"], "CNN", worker, cases.run("CNN", strategy))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_two_ray_workers_train_what_one_device_trains(tmp_path):
    ray = pytest.importorskip("ray", reason="pip install '.[ray]'")
    train = pytest.importorskip("ray.train")
    tensorflow = pytest.importorskip("ray.train.tensorflow")
    environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        trainer = tensorflow.TensorflowTrainer(
            _worker,
            train_loop_config={"directory": str(tmp_path)},
            scaling_config=train.ScalingConfig(num_workers=2),
            run_config=train.RunConfig(storage_path=str(tmp_path / "ray")),
        )
        trainer.fit()
    finally:
        ray.shutdown()
    wanted, _, _ = cases.run("CNN", distribute.strategy("one_device"))
    for worker in range(2):
        weights, _, _ = cases.load(tmp_path, "CNN", worker)
        for name, value in wanted.items():
            np.testing.assert_allclose(weights[name], value, atol=cases.CASES["CNN"].tolerance)
