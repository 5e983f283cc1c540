"""When two runs are the same one."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from bigmodels import train
from bigmodels.runs.checkpoint import Checkpoints
from bigmodels.runs.directory import RunDirectory

_TIMES = (
    *("seconds", "throughput", "examples_per_second", "first_step_seconds", "peak_memory"),
    *("input_wait", "share_of_limit", "training_flops"),
)


def assert_same_run(one, other):
    """Weights to the bit, metrics of every epoch, results, samples, and TensorBoard's points."""
    for a, b in zip(*(RunDirectory(run).load_model().weights for run in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    rows = [[_without_times(row) for row in RunDirectory(run).history()] for run in (one, other)]
    assert rows[0] == rows[1]
    results = [
        _without_times(json.loads((run / "result.json").read_text())) for run in (one, other)
    ]
    assert results[0] == results[1]
    samples = [sorted(p.name for p in (run / "samples").iterdir()) for run in (one, other)]
    assert samples[0] == samples[1]
    points = [_points(run / "logs") for run in (one, other)]
    assert points[0] == points[1] and len(set(points[0])) == len(points[0]) > 0


def train_in_two(task, directory, settings, epoch, step):
    """Train a run that stops after the checkpoint of a step, and then continue it."""

    class Stopped(Exception):
        pass

    def save(self, *position_and_content):
        original(self, *position_and_content)
        if position_and_content[:2] == (epoch, step):
            raise Stopped

    original = Checkpoints.save
    settings = settings | {"save_freq": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(Stopped):
            train(task, directory, settings, verbose=0)
    return train(task, directory, settings, verbose=0)


def _without_times(content):
    return {name: value for name, value in content.items() if name not in _TIMES}


def _points(logs):
    found = []
    for file in sorted(logs.rglob("events*")):
        for event in EventFileLoader(str(file)).Load():
            found += [
                (file.parent.name, value.tag, event.step, float(tf.make_ndarray(value.tensor)))
                for value in event.summary.value
            ]
    return sorted(found)
