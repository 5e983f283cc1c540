"""Exactly the given steps are recorded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels
from bigmodels.callbacks.run import Profile


@pytest.mark.parametrize(("start", "stop", "wanted"), [(3, 4, [2, 3]), (5, 99, [4, 5])])
def test_some_steps_are_recorded(start, stop, wanted, tmp_path, monkeypatch):
    begun, ended, profiler = [], [], tf.profiler.experimental
    model = bigmodels.Model(inputs := keras.Input((2,)), keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    real_start, real_stop = profiler.start, profiler.stop
    iterations = lambda: int(model.optimizer.iterations)  # noqa: E731
    monkeypatch.setattr(profiler, "start", lambda d: begun.append(iterations()) or real_start(d))
    monkeypatch.setattr(profiler, "stop", lambda: ended.append(iterations()) or real_stop())
    x = np.ones((6, 2), "float32")
    model.fit(x, x[:, :1], batch_size=1, verbose=0, callbacks=[Profile(tmp_path, start, stop)])
    assert (begun, ended) == ([wanted[0]], [wanted[1] + 1])
    (file,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"/host:CPU" in file.read_bytes()


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (4, 3)])
def test_invalid_steps_are_refused(start, stop, tmp_path):
    with pytest.raises(ValueError, match=f"profile: {start}:{stop}, expected START:STOP"):
        Profile(tmp_path, start, stop)
