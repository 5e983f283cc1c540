import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels.layers import LSTM
from bigmodels.models import Forecaster


def _forecaster(**options):
    return Forecaster(
        **{"columns": ("a", "b"), "length": 14, "horizon": 5, "rnn_units": 6, "segment": 4}
        | options
    )


def _waves(rng, count, steps=19):
    """Two sine waves a row, each with a phase, level and size of its own."""
    phase, level = rng.uniform(0, 6, (2, count, 1, 2))
    size = rng.uniform(0.5, 2, (count, 1, 2))
    return (level + size * np.sin(phase + 0.8 * np.arange(steps)[:, None])).astype("float32")


def test_shapes_and_parameters(rng):
    model = _forecaster()
    x = _waves(rng, 3)[:, :14]
    assert model.predict(x, verbose=0).shape == (3, 5, 2)
    assert model.rnn.__class__ is LSTM and model.segments == 2
    sizes = {"gamma and beta": 4, "linear": 15 * 5, "embedding": 5 * 6, "lstm": 4 * 6 * 13}
    sizes |= {"dense": 7 * 4, "places and kinds": 2 * 3 + 2 * 3, "widths": 10}
    assert model.count_params() == sum(sizes.values())
    assert len(_forecaster(linear_path=False).weights) == 0  # Built by what it sees.


def test_the_oldest_steps_are_for_the_linear_map_alone(rng):
    model = _forecaster(linear_path=False)
    model.build(model.default_input_shape)
    x = rng.normal(size=(6, 14)).astype("float32")  # Of which 14 % 4 fill no segment.
    changed = x.copy()
    changed[:, :2] += 1
    np.testing.assert_array_equal(model._corrections(x, False), model._corrections(changed, False))
    changed[:, 2] += 1
    assert np.abs(model._corrections(x, False) - model._corrections(changed, False)).min() > 0


def test_what_the_lstm_writes_step_by_step(rng):
    """One window and variable by hand: read all segments, then ask for each of the horizon."""
    model = _forecaster(linear_path=False)
    model.build(model.default_input_shape)
    x = rng.normal(size=(4, 14)).astype("float32")  # Two windows of two variables.
    found = model._corrections(x, False)
    row, kind = 3, 1
    read = model.embedding(x[row, 2:].reshape(1, 3, 4))
    h = c = np.zeros((1, 6), "float32")
    for step in range(3):
        h, (h, c) = model.rnn.cell(read[:, step], [h, c])
    wanted = []
    for place in range(2):
        asked = np.concatenate([model.kinds[kind], model.places[place]])[None]
        output, _ = model.rnn.cell(asked, [h, c])
        wanted.append(model.dense(output))
    np.testing.assert_allclose(found[row], np.concatenate(wanted, 1)[0, :5], atol=1e-6)


def test_a_variables_forecast_does_not_depend_on_the_others(rng):
    model = _forecaster()
    x = _waves(rng, 3)[:, :14]
    changed = x.copy()
    changed[:, :, 0] = 100 * rng.normal(size=(3, 14))
    one, other = model.predict(x, verbose=0), model.predict(changed, verbose=0)
    np.testing.assert_allclose(one[..., 1], other[..., 1], atol=1e-6)
    assert np.abs(one[..., 0] - other[..., 0]).min() > 1e-3


def test_level_and_size_of_a_window_come_back(rng):
    model = _forecaster()
    x = _waves(rng, 3)[:, :14]
    np.testing.assert_allclose(model(1000 + 50 * x), 1000 + 50 * model(x), rtol=1e-3)


@pytest.mark.thorough
def test_the_lstm_learns_without_the_linear_map(rng):
    model = _forecaster(linear_path=False, rnn_units=16)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    waves = _waves(rng, 300)
    x, y = waves[:, :14], waves[:, 14:]
    losses = model.fit(x, y, epochs=15, batch_size=30, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_bounds_hold_the_share_that_they_were_set_for(rng):
    model = _forecaster(coverage=0.8, means=(3.0, -7.0), scales=(2.0, 0.5))
    x, noise = _waves(rng, 400)[:, :14], rng.normal(size=(400, 5, 2))
    y = (model.predict(x, verbose=0) + x.std(1, keepdims=True) * noise).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    assert (model.bounds(x)["lower"] == model.bounds(x)["upper"]).numpy().all()
    model.calibrate(batches)
    # The 321st of 400 errors, which are normal: 80 % lie within 1.28.
    rank = np.sort(np.abs(noise), 0)[math.ceil(401 * 0.8) - 1]
    np.testing.assert_allclose(model.widths, rank, rtol=1e-2)
    bounds = {name: np.asarray(each) for name, each in model.bounds(x).items()}
    held = (bounds["lower"] <= y) & (y <= bounds["upper"])
    np.testing.assert_allclose(held.mean(0), 0.8, atol=0.006)
    few = tf.data.Dataset.from_tensor_slices((x[:3], y[:3])).batch(2)
    model.calibrate(few)  # Too few for any such claim.
    assert np.isfinite(model.widths).all()


def _with_gaps(rng, count=43):
    waves = _waves(rng, count)
    x, y = waves[:, :14], waves[:, 14:].copy()
    weights = (rng.random(y.shape) < 0.6).astype("float32")
    weights[:8] = 0  # A batch without any.
    return x, y, weights


@pytest.mark.thorough
def test_a_value_of_weight_0_counts_for_nothing(rng):
    x, y, weights = _with_gaps(rng)
    other = np.where(weights > 0, y, 1e6).astype("float32")
    found = []
    for targets in (y, other):
        keras.utils.set_random_seed(0)
        model = _forecaster(dropout_rate=0.0)
        metrics = [keras.metrics.MeanSquaredError(name="mse")]
        model.compile("adam", "mae", weighted_metrics=metrics)
        scaled = weights / weights.mean()
        logs = model.fit(x, targets, 8, sample_weight=scaled, epochs=2, verbose=0).history
        logs |= model.evaluate(x, targets, 8, sample_weight=scaled, return_dict=True, verbose=0)
        batches = tf.data.Dataset.from_tensor_slices((x, targets, weights)).batch(8)
        model.calibrate(batches)
        found.append((logs, model.get_weights()))
    (logs, mine), (_, others) = found
    for one, another in zip(mine, others, strict=True):
        np.testing.assert_array_equal(one, another)
    errors = np.abs(model.predict(x, verbose=0) - y)[weights > 0]
    assert logs["loss"] == pytest.approx(errors.mean(), rel=1e-5)
    assert logs["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-5)


def test_bounds_rest_on_what_was_measured(rng):
    model = _forecaster(coverage=0.8)
    x, y, weights = _with_gaps(rng, 300)
    model.calibrate(tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(64))
    deviations = np.sqrt(np.square(x.std(1)) + model.normalization.epsilon)
    errors = np.abs(y - model.predict(x, verbose=0)) / deviations[:, None]
    for step, column in np.ndindex(5, 2):
        each = np.sort(errors[weights[:, step, column] > 0, step, column])
        rank = math.ceil((len(each) + 1) * 0.8)
        assert float(model.widths[step, column]) == pytest.approx(each[rank - 1], rel=1e-4)
    weights[:, 3, 1] = 0
    with pytest.raises(ValueError, match="no target of 'b' 4 steps ahead has a positive weight"):
        model.calibrate(tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(64))


@pytest.mark.thorough
def test_weights_of_values_train_the_same_on_two_replicas(rng):
    x, y, weights = _with_gaps(rng)
    found = []
    for scope in (tf.distribute.get_strategy(), _two_replicas()):
        keras.utils.set_random_seed(0)
        with scope.scope():
            model = _forecaster(dropout_rate=0.0)
            metrics = [keras.metrics.MeanAbsoluteError(name="mae")]
            model.compile(keras.optimizers.Adam(1e-2), "mse", weighted_metrics=metrics)
        batches = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(7)
        logs = model.fit(batches, epochs=3, verbose=0).history
        found.append(([*map(np.array, model.get_weights())], logs))
    (wanted, expected), (mine, logs) = found
    for one, another in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(one, another, atol=5e-6)
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5)


def _two_replicas():
    devices = ["CPU:0", "CPU:1"]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def test_raw_windows_are_those_in_standard_units(rng):
    model = _forecaster(means=(1e9, -7.0), scales=(2.0, 0.5))
    x = _waves(rng, 3)[:, :14]
    model.build(x.shape)
    model.widths.assign(rng.uniform(1, 2, (5, 2)))
    wanted = {name: np.asarray(each) for name, each in model.bounds(x).items()}
    # float64: 1e9 and 1e9 + 2 are one and the same float32.
    found = model.forecast(x.astype("float64") * model.scales + model.means)
    for name, each in wanted.items():
        assert found[name].dtype == "float64"
        np.testing.assert_allclose((found[name] - model.means) / model.scales, each, atol=1e-5)
    assert (found["lower"] < found["forecast"]).all() and (found["upper"] > found["forecast"]).all()


def test_bounds_are_saved(rng, tmp_path):
    model = _forecaster(means=(3.0, -7.0), scales=(2.0, 0.5))
    model.build(model.default_input_shape)
    model.widths.assign(rng.uniform(1, 2, (5, 2)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(2, 14, 2))
    for name, each in model.forecast(x).items():
        np.testing.assert_array_equal(again.forecast(x)[name], each)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ()}, r"columns: \(\), expected"),
        ({"length": 1, "segment": 1}, "length: 1, horizon: 5"),
        ({"horizon": 0}, "horizon: 0"),
        ({"segment": 15}, "segment: 15, expected 1 to length=14"),
        ({"segment": 0}, "segment: 0"),
        ({"rnn_units": 5}, "rnn_units: 5, expected an even number"),
        ({"coverage": 1.0}, r"coverage: 1\.0"),
        ({"means": (1.0,)}, "means: 1 for 2 columns"),
        ({"scales": (1.0, 2.0, 3.0)}, "scales: 3 for 2 columns"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        _forecaster(**options)


def test_windows_of_another_size_are_refused(rng):
    model = _forecaster()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"x: shape \(3, 13, 2\), expected .*standardised"):
        model.fit(np.zeros((3, 13, 2), "float32"), np.zeros((3, 5, 2), "float32"))
    with pytest.raises(ValueError, match=r"y: shape \(3, 5, 1\), expected"):
        model.fit(np.zeros((3, 14, 2), "float32"), np.zeros((3, 5, 1), "float32"))
    with pytest.raises(ValueError, match=r"input_shape: \(None, 14, 3\), expected \(None, 14, 2\)"):
        model.build((None, 14, 3))
