"""NaN and infinity end a training, or leave a batch out, before they reach the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bigmodels import distribute
from bigmodels.callbacks import FiniteValues

BATCH, BAD = 4, 2  # The third batch is bad.


def _rows(bad=True):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)).astype("float32"), rng.normal(size=(20, 1)).astype("float32")
    if bad:
        y[BAD * BATCH + 1] = 3e38  # A finite number whose square is none.
    return x, y


def _without_bad():
    x, y = _rows()
    keep = [i for i in range(20) if i // BATCH != BAD]
    return x[keep], y[keep]


def _model(strategy=None, policy="float32", **compile_arguments):
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(3)
    with (strategy or tf.distribute.get_strategy()).scope():
        inputs = keras.Input((6,))
        x = layers.Dense(5, name="hidden")(inputs)
        x = layers.BatchNormalization()(x)
        model = distribute.Model(inputs, layers.Dense(1, dtype="float32", name="out")(x))
        arguments = {"optimizer": keras.optimizers.SGD(0.01, momentum=0.9)} | compile_arguments
        model.compile(loss="mse", **arguments)
    return model


def _data(rows):
    return tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)


def _fit(model, rows, *callbacks, epochs=1):
    return model.fit(_data(rows), epochs=epochs, callbacks=list(callbacks), verbose=0)


def _mirrored():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


@pytest.mark.parametrize("replicas", [1, 2])
def test_it_stops_at_the_step_and_names_what_it_was(replicas, tmp_path):
    model = _model(_mirrored() if replicas == 2 else None)
    seen = []

    def batch_at(epoch, step):
        seen.append((epoch, step))
        return list(_data(_rows()))[step]

    with pytest.raises(FloatingPointError) as error:
        _fit(model, _rows(), FiniteValues(directory=tmp_path, batch_at=batch_at))
    assert str(error.value).startswith("epoch 1, step 3: the loss and the gradients of ")
    assert "of 6 weights, the first of them hidden/kernel became NaN" in str(error.value)
    assert seen == [(0, BAD)]
    stored = np.load(tmp_path / "bad_batch.npz")
    assert stored["part_1"].max() == np.float32(3e38) and len(stored.files) == 2
    for weight in model.trainable_weights:
        assert np.isfinite(weight.numpy()).all()


def test_the_weights_are_those_before_the_step():
    wanted = _model()
    _fit(wanted, tuple(part[: BAD * BATCH] for part in _rows()))
    model = _model()
    with pytest.raises(FloatingPointError):
        _fit(model, _rows(), FiniteValues())
    for a, b in zip(model.trainable_weights, wanted.trainable_weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_without_it_the_weights_are_ruined():
    model = _model()
    _fit(model, _rows())
    assert any(not np.isfinite(weight.numpy()).all() for weight in model.trainable_weights)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_a_skipped_batch_was_never_there(steps_per_execution, capsys):
    """Weights, batch statistics, optimizer and metrics are those of a training without it."""
    wanted = _model(steps_per_execution=steps_per_execution)
    wanted_history = _fit(wanted, _without_bad(), epochs=2)
    model = _model(steps_per_execution=steps_per_execution)
    guard = FiniteValues(skip=True)
    history = _fit(model, _rows(), guard, epochs=2)
    assert guard.left_out == 2
    for a, b in zip(model.weights, wanted.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert history.history == wanted_history.history
    assert "this step is left out (2 so far)" in capsys.readouterr().err


def test_a_skipped_batch_over_replicas_ruins_nothing():
    model = _model(_mirrored())
    guard = FiniteValues(skip=True, verbose=0)
    history = _fit(model, _rows(), guard, epochs=2)
    assert guard.left_out == 2 and np.isfinite(history.history["loss"]).all()
    for weight in model.weights:
        assert np.isfinite(weight.numpy()).all()


def test_the_loss_scale_s_own_overflows_are_no_failure():
    """A scale of 2**100 overflows for dozens of steps, until it is low enough."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**100
    )
    model = _model(policy="mixed_float16", optimizer=optimizer)
    guard = FiniteValues()
    _fit(model, _rows(bad=False), guard, epochs=30)
    assert guard.left_out == 0 and float(optimizer.dynamic_scale) < 2.0**60


def test_float16_that_overflows_at_any_scale_is_one():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=4.0)
    model = _model(policy="mixed_float16", optimizer=optimizer)
    with pytest.raises(FloatingPointError, match="became NaN or infinite"):
        _fit(model, _rows(), FiniteValues(), epochs=9)


def test_the_model_trains_as_before_when_the_watch_is_over():
    model = _model()
    _fit(model, _rows(bad=False), FiniteValues())
    other = _model()
    _fit(other, _rows(bad=False))
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    _fit(model, _rows())  # Nobody looks any more.
