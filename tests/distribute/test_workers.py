"""Several workers share one pipeline: every element once, the same order, or an error."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import distribute
from bigmodels.commands.launch import launch
from bigmodels.distribute import replicas
from bigmodels.distribute.strategies import from_chief

ROWS, EPOCHS = 29, 2


class Ids(distribute.Model):
    """Does not train; records the ids that its replicas get."""

    supports_replicas = True

    def __init__(self):
        super().__init__()
        self.dense, self.seen = keras.layers.Dense(1), []

    def build(self, shape):
        self.dense.build((None, 1))

    def call(self, x):
        return self.dense(tf.cast(x, "float32")[:, None])

    def train_step(self, x):
        # Without the placeholder row of a replica that has no rows.
        own = x[: tf.shape(x)[0] * replicas.rows().real]
        tf.py_function(lambda ids: self.seen.append(ids.numpy().tolist()), [own], [])
        return {"loss": tf.constant(0.0)}


def _ids(strategy, dataset, epochs):
    """The ids that this worker got, a list per step."""
    with strategy.scope():
        model = Ids()
        model.compile("sgd")
    model.fit(dataset, epochs=epochs, verbose=0)
    return model.seen


def worker(directory):
    """Run in each process."""
    strategy = distribute.strategy("multi_worker")
    path = pathlib.Path(directory) / f"{strategy.cluster_resolver.task_id}.json"

    def shuffled(seed):
        return tf.data.Dataset.range(ROWS).shuffle(ROWS, seed=seed).batch(8)

    found = {"steps": _ids(strategy, shuffled(5), EPOCHS)}
    found["first_epoch"] = [batch.numpy().tolist() for batch in shuffled(5)]
    number = np.uint32(strategy.cluster_resolver.task_id + 7)
    found["workers"] = distribute.workers(strategy)
    found["sent"] = int(from_chief(strategy, [number])[0])
    try:
        # Without a seed, each process shuffles differently.
        _ids(strategy, shuffled(None), 1)
        found["error"] = None
    except ValueError as error:
        found["error"] = str(error)
    path.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def seen_by_workers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ids")
    command = [sys.executable, "-m", "tests.distribute.test_workers", str(directory)]
    assert launch(command, 3, join_timeout=120) == 0
    return [json.loads((directory / f"{i}.json").read_text()) for i in range(3)]


@pytest.mark.thorough
def test_the_workers_rows_make_up_the_global_batches(seen_by_workers):
    first_epoch = seen_by_workers[0]["first_epoch"]
    batches = [
        sum(rows, []) for rows in zip(*(each["steps"] for each in seen_by_workers), strict=True)
    ]
    assert batches[: len(first_epoch)] == first_epoch  # In the order of one device.
    for each in seen_by_workers:
        for rows, batch in zip(each["steps"], batches, strict=True):
            assert len(rows) - len(batch) // 3 in (0, 1)
    epochs = [sum(batches[i : i + len(first_epoch)], []) for i in range(0, len(batches), 4)]
    assert len(epochs) == EPOCHS and epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(epoch) == list(range(ROWS))  # Each element once.


@pytest.mark.thorough
def test_an_unseeded_shuffle_is_refused_on_every_worker(seen_by_workers):
    for each in seen_by_workers:
        assert each["error"].startswith("x: the workers see different batches"), each["error"]


def test_every_worker_knows_how_many_there_are(seen_by_workers):
    assert [each["workers"] for each in seen_by_workers] == [3, 3, 3]


def test_the_chief_s_values_reach_every_worker(seen_by_workers):
    assert [each["sent"] for each in seen_by_workers] == [7, 7, 7]


if __name__ == "__main__":
    worker(*sys.argv[1:])
