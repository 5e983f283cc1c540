"""NaN and infinity stop training, or skip the batch, before they reach the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bigmodels import distribute
from bigmodels.callbacks import FiniteValues
from bigmodels.distribute.variables import named_variables
from bigmodels.models import GAN, ConvDiscriminator, ConvGenerator

BATCH, BAD = 4, 2  # The third batch is bad.


def _rows(bad=True):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)).astype("float32"), rng.normal(size=(20, 1)).astype("float32")
    if bad:
        y[BAD * BATCH + 1] = 3e38  # A finite number whose square is infinite.
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
def test_it_stops_at_the_step_and_names_the_cause(replicas, tmp_path):
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


_LARGE = 10


def _infinite(shape, dtype=None):
    return tf.fill(shape, tf.constant(np.inf, dtype))


class _Counting(layers.Layer):
    """Returns its inputs; has a statistic, a limit that is infinite from the start, and counters.

    One of the counters is a `tf.Variable` that Keras does not track.
    """

    def __init__(self):
        super().__init__()
        self.rows = tf.Variable(0)
        self.limit = self.add_weight(initializer=_infinite, trainable=False)
        self.calls = self.add_weight(dtype="int32", initializer="zeros", trainable=False)
        self.largest = self.add_weight(initializer="zeros", trainable=False, name="largest")
        self.at_large = 2.0

    def call(self, inputs):
        self.rows.assign_add(tf.shape(inputs)[0])
        self.calls.assign_add(1)
        self.largest.assign(tf.where(tf.reduce_max(inputs) > _LARGE, self.at_large, 1.0))
        return inputs


class _Before(keras.callbacks.Callback):
    """Saves the state of a model before the last call of its step."""

    def on_train_batch_begin(self, batch, logs=None):
        self.state = _everything(self.model)


def _everything(model):
    scales = [
        id(v)
        for optimizer in model.optimizers
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and optimizer.built
        for v in (optimizer.dynamic_scale, optimizer.step_counter)
    ]
    named = {n: v for n, v in named_variables(model).items() if id(v) not in scales}
    named |= {f"metrics/{i}": v for i, v in enumerate(model.metrics_variables)}
    local = model.distribute_strategy.experimental_local_results
    return {
        name: [np.array(copy) for copy in local(v.value if isinstance(v, keras.Variable) else v)]
        for name, v in named.items()
    }


def _assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def _counted(policy="float32", strategy=None, optimizer=None, **compile_arguments):
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(3)
    with (strategy or tf.distribute.get_strategy()).scope():
        inputs = keras.Input((6,))
        x = layers.Dense(5)(_Counting()(inputs))
        x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
        model = distribute.Model(inputs, layers.Dense(1, dtype="float32")(x))
        optimizer = optimizer() if optimizer else keras.optimizers.AdamW(0.01, weight_decay=0.1)
        model.compile(optimizer, "mse", metrics=["mae"], **compile_arguments)
    return model


def _accumulating():
    return keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2, use_ema=True)


NOTHING_CHANGES = {
    "one device": dict,
    "run_eagerly": lambda: {"run_eagerly": True},
    "jit_compile": lambda: {"jit_compile": True},
    "accumulation": lambda: {"optimizer": _accumulating},
    "steps_per_execution": lambda: {"steps_per_execution": 2},
    "mixed_float16": lambda: {"policy": "mixed_float16"},
    "mirrored on one device": lambda: {"strategy": tf.distribute.MirroredStrategy(["CPU:0"])},
    "two replicas": lambda: {"strategy": _mirrored()},
    "accumulation, replicas": lambda: {"strategy": _mirrored(), "optimizer": _accumulating},
    "mixed_float16, replicas": lambda: {"strategy": _mirrored(), "policy": "mixed_float16"},
}
_DEAR = ("accumulation, replicas", "mixed_float16, replicas", "run_eagerly", "jit_compile")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.thorough] * (n in _DEAR)) for n in NOTHING_CHANGES],
)
@pytest.mark.thorough
def test_nothing_has_changed_when_it_stops(name):
    model, before = _counted(**NOTHING_CHANGES[name]()), _Before()
    with pytest.raises(FloatingPointError, match="the model was left unchanged"):
        _fit(model, _rows(), before, FiniteValues())
    _assert_same(_everything(model), before.state)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.thorough
def test_a_statistic_alone_is_enough(replicas, value):
    """Loss and gradients are finite; only the second replica sees the row."""
    model, before = _counted(strategy=_mirrored() if replicas == 2 else None), _Before()
    (counting,) = (layer for layer in model.layers if isinstance(layer, _Counting))
    x, y = _rows(bad=False)
    x[BAD * BATCH + 3] = 2 * _LARGE
    counting.at_large = value
    with pytest.raises(FloatingPointError, match=r"1 variable, the first of them .*largest, be"):
        _fit(model, (x, y), before, FiniteValues())
    assert before.state["optimizer/iteration"][0] == BAD
    _assert_same(_everything(model), before.state)


def test_untracked_variables_are_restored_too():
    """They are found in the step's graph."""
    counter = tf.Variable(0.0)

    class Unknown(layers.Layer):
        def call(self, inputs):
            return inputs + 0 * counter.assign_add(1.0)

    inputs = keras.Input((6,))
    model = distribute.Model(inputs, layers.Dense(1)(Unknown()(inputs)))
    model.compile("sgd", "mse")
    with pytest.raises(FloatingPointError):
        _fit(model, _rows(), FiniteValues())
    assert float(counter) == BAD


def test_a_moment_that_overflows_is_enough():
    """The gradient is finite, its square is not."""
    inputs = keras.Input((6,))
    model, before = distribute.Model(inputs, layers.Dense(1)(inputs)), _Before()
    model.compile("adam", "mse")
    x, y = _rows(bad=False)
    x[BAD * BATCH], y[BAD * BATCH] = 1e3, 1e18
    with pytest.raises(FloatingPointError, match=r"1 variable, the first of them optimizer/.*vel"):
        _fit(model, (x, y), before, FiniteValues())
    _assert_same(_everything(model), before.state)


@pytest.mark.parametrize("steps_per_execution", [3, 5])
@pytest.mark.thorough
def test_earlier_steps_of_the_same_execution_stay_applied(steps_per_execution):
    """Later steps are not executed, although they belong to the same execution."""
    wanted = _counted(steps_per_execution=3)
    wanted.fit(_data(tuple(part[: BAD * BATCH] for part in _rows())), verbose=0)
    model = _counted(steps_per_execution=steps_per_execution)
    with pytest.raises(FloatingPointError):
        _fit(model, _rows(), FiniteValues())
    found, wanted = _everything(model), _everything(wanted)
    _assert_same(found, wanted)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_of_two_optimizers_neither_has_stepped(replicas):
    """The discriminator's step is applied before the generator's gradients are checked."""
    images = np.random.default_rng(0).uniform(-1, 1, (12, 12, 12, 1)).astype("float32")
    images[5] = 3e38
    with (_mirrored() if replicas == 2 else tf.distribute.get_strategy()).scope():
        judge = ConvDiscriminator((12, 12, 1), normalization="spectral")
        model = GAN(ConvGenerator(4, (12, 12, 1)), judge, seed=3, ema_momentum=0.9)
        model.compile()
    model.data_specs = lambda: (None, None)  # Else the bad row is refused earlier.
    before = _Before()
    with pytest.raises(FloatingPointError):
        model.fit(
            images, batch_size=4, shuffle=False, verbose=0, callbacks=[before, FiniteValues()]
        )
    _assert_same(_everything(model), before.state)


@pytest.mark.parametrize("execution", [1, pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_mirrored_on_one_device_trains_as_one_device_does(execution):
    """Keras' conditions fail here (`merge_call called while defining a new graph`)."""
    found = {}
    for name, strategy in {
        "one": None,
        "mirrored": tf.distribute.MirroredStrategy(["CPU:0"]),
    }.items():
        model = _counted(strategy=strategy, optimizer=_accumulating, steps_per_execution=execution)
        history = _fit(model, _rows(bad=False), FiniteValues(), epochs=2)
        found[name] = {"loss": history.history["loss"]} | _everything(model)
    _assert_same(found["mirrored"], found["one"])


def test_without_it_the_weights_are_ruined():
    model = _model()
    _fit(model, _rows())
    assert any(not np.isfinite(weight.numpy()).all() for weight in model.trainable_weights)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_a_skipped_batch_leaves_no_trace(steps_per_execution, capsys):
    """Weights, batch statistics, optimizer and metrics equal those of a training without it."""
    wanted = _model(steps_per_execution=steps_per_execution)
    wanted_history = _fit(wanted, _without_bad(), epochs=2)
    model = _model(steps_per_execution=steps_per_execution)
    guard = FiniteValues(skip=True)
    history = _fit(model, _rows(), guard, epochs=2)
    assert guard.left_out == 2
    assert [where.partition(",")[0] for where in guard.skipped] == ["epoch 1", "epoch 2"]
    for a, b in zip(model.weights, wanted.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert history.history == wanted_history.history
    assert "the step is skipped (2 so far)" in capsys.readouterr().err


def test_a_skipped_batch_at_an_epochs_end_is_in_no_log():
    first, rows = (tuple(part[: n * BATCH] for part in _rows()) for n in (BAD, BAD + 1))
    logged = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: logged.append(logs["loss"])
    )
    history = _fit(_model(), rows, FiniteValues(skip=True, verbose=0), note).history
    assert history == _fit(_model(), first).history
    assert logged[BAD] == logged[BAD - 1] and len(logged) == BAD + 1


def test_a_nan_metric_is_not_a_failure():
    class Nothing(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="nothing")
            self.value = self.add_weight(initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.value.assign(np.nan)

        def result(self):
            return self.value + 0

    history = _fit(_model(metrics=[Nothing()]), _rows(bad=False), FiniteValues()).history
    assert np.isnan(history["nothing"]).all()


@pytest.mark.thorough
def test_a_skipped_batch_over_replicas_leaves_no_trace():
    wanted, model = _counted(strategy=_mirrored()), _counted(strategy=_mirrored())
    wanted_history = _fit(wanted, _without_bad(), epochs=2)
    guard = FiniteValues(skip=True, verbose=0)
    history = _fit(model, _rows(), guard, epochs=2)
    assert guard.left_out == 2 and history.history == wanted_history.history
    _assert_same(_everything(model), _everything(wanted))


@pytest.mark.thorough
def test_overflows_handled_by_the_loss_scale_are_not_failures():
    """A scale of 2**100 overflows for dozens of steps, until it is low enough."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**100
    )
    model = _model(policy="mixed_float16", optimizer=optimizer)
    guard = FiniteValues()
    _fit(model, _rows(bad=False), guard, epochs=30)
    assert guard.left_out == 0 and float(optimizer.dynamic_scale) < 2.0**60


def test_float16_that_overflows_at_any_scale_is_a_failure():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=4.0)
    model = _model(policy="mixed_float16", optimizer=optimizer)
    with pytest.raises(FloatingPointError, match="became NaN or infinite"):
        _fit(model, _rows(), FiniteValues(), epochs=9)


def test_a_skipped_step_still_lowers_the_loss_scale():
    """Otherwise the next batch would overflow too."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=0.5)
    model = _model(policy="mixed_float16", optimizer=optimizer)
    guard = FiniteValues(skip=True, verbose=0)
    _fit(model, _rows(), guard)
    assert guard.left_out == 1 and float(optimizer.dynamic_scale) == 0.25
    assert optimizer.iterations == 4


class Pair(distribute.Model):
    """Two weights, each with its own optimizer; the second one's gradient may be infinite."""

    supports_replicas = True

    def __init__(self):
        super().__init__()
        self.first, self.second = (layers.Dense(1, name=name) for name in ("first", "second"))

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build(input_shape)

    def call(self, x):
        return self.first(x) + self.second(x)

    def compile(self, **kwargs):
        super().compile(optimizer=keras.optimizers.SGD(0.1), **kwargs)
        self.other = keras.optimizers.SGD(0.1)

    def train_step(self, data):
        x, factor = data
        for layer, optimizer, by in (
            (self.first, self.optimizer, 1.0), (self.second, self.other, tf.reduce_max(factor))
        ):  # fmt: skip
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(layer(x))
            variables = layer.trainable_variables
            gradients = [by * g for g in tape.gradient(loss, variables)]
            optimizer.apply(gradients, variables)
        return {"loss": loss}


def test_a_failure_of_the_second_optimizer_is_named():
    model = Pair()
    model.compile()
    model.build((None, 2))
    x, factor = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    factor[5] = 3e38
    x[4:] = 10.0
    with pytest.raises(FloatingPointError, match=r"gradients of 1 of 2 weights.*second/kernel"):
        model.fit(x, factor, batch_size=4, shuffle=False, verbose=0, callbacks=[FiniteValues()])


def test_the_model_trains_as_before_once_it_is_no_longer_watched():
    model = _model()
    _fit(model, _rows(bad=False), FiniteValues())
    other = _model()
    _fit(other, _rows(bad=False))
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    _fit(model, _rows())  # No longer checked.
    assert any(not np.isfinite(weight.numpy()).all() for weight in model.trainable_weights)


def test_skipped_steps_are_part_of_the_state():
    guard, other = FiniteValues(skip=True), FiniteValues(skip=True)
    guard.skipped = ["epoch 1, step 3"]
    other.set_state(guard.get_state())
    other.skipped.append("epoch 2, step 1")
    assert guard.left_out == 1 and other.left_out == 2


def test_an_interrupted_fit_leaves_no_watch_behind():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    inputs = keras.Input((2,))
    model = distribute.Model(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), "float32"), np.full((4, 1), 1e30, "float32")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y * 0, verbose=0, callbacks=[FiniteValues(), Interrupt()])
    model.fit(x, y, verbose=0)  # Its loss is infinite, but no longer checked.
    assert abs(model.get_weights()[0]).max() > 1e20
