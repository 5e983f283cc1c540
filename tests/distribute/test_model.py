"""Several replicas: different noise on each, and clear errors for what cannot be exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels
from bigmodels import distribute
from bigmodels.distribute import recognition
from bigmodels.distribute.resume import get_state, set_state
from tests.distribute.test_exactness import _mirrored


class Recorder(keras.layers.Layer):
    """Records its inputs, by replica."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def call(self, x):
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group

        def keep(replica, values):
            self.seen.setdefault(int(replica), []).append(values.numpy())
            return values

        return tf.ensure_shape(tf.py_function(keep, [replica, x], x.dtype), x.shape)


def _dropped(strategy, seed):
    keras.utils.set_random_seed(seed)
    recorder = Recorder()
    with strategy.scope():
        inputs = keras.Input((50,))
        x = recorder(keras.layers.Dropout(0.5)(inputs))
        model = distribute.Model(inputs, keras.layers.Dense(1)(x))
        model.compile("sgd", "mse")
    ones = np.ones((8, 50), "float32")
    model.fit(tf.data.Dataset.from_tensors((ones, ones[:, :1])).repeat(3), epochs=1, verbose=0)
    generators = [v for v in model.variables if "seed_generator" in v.path]
    return recorder.seen, [np.asarray(v) for v in generators]


@pytest.mark.thorough
def test_replicas_drop_different_units_depending_on_the_seed():
    (first, state), (again, state_again) = (_dropped(_mirrored(2), 1) for _ in range(2))
    assert sorted(first) == [0, 1]
    for step in range(3):
        assert np.any(first[0][step] != first[1][step])
        for replica in (0, 1):
            np.testing.assert_array_equal(first[replica][step], again[replica][step])
    assert np.any(first[0][0] != first[0][1])
    other, _ = _dropped(_mirrored(2), 2)
    assert np.any(first[0][0] != other[0][0])
    # A checkpoint holds one state for all replicas, and the same one as on one device.
    np.testing.assert_array_equal(state, state_again)
    _, alone = _dropped(distribute.strategy("one_device"), 1)
    np.testing.assert_array_equal(state, alone)


def _model(strategy, cls=distribute.Model, hidden=None, **arguments):
    with strategy.scope():
        inputs = keras.Input((4,))
        x = keras.layers.Dense(3)(inputs)
        model = cls(inputs, hidden(x) if hidden else x)
        given = {name: each() if name == "metrics" else each for name, each in arguments.items()}
        model.compile(**({"optimizer": "sgd", "loss": "mse"} | given))
    return model


DATA = np.ones((6, 4), "float32"), np.ones((6, 3), "float32")


class OwnStep(distribute.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnStepThatAddsUp(OwnStep):
    supports_replicas = True


def test_a_custom_step_needs_supports_replicas():
    with pytest.raises(ValueError, match="train_step: OwnStep overrides it, and 2 replicas"):
        _model(_mirrored(2), OwnStep).fit(*DATA, verbose=0)
    _model(_mirrored(2), OwnStepThatAddsUp).fit(*DATA, verbose=0)
    _model(distribute.strategy("one_device"), OwnStep).fit(*DATA, verbose=0)


class OwnLoss(distribute.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y - y_pred))


def test_a_custom_compute_loss_needs_supports_replicas():
    with pytest.raises(ValueError, match="compute_loss: OwnLoss overrides it, and 2 replicas"):
        _model(_mirrored(2), OwnLoss).fit(*DATA, verbose=0)


class OwnVector(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return tf.square(y_true - y_pred)


def test_a_loss_must_be_a_scalar():
    with pytest.raises(ValueError, match="has reduction='none'"):
        loss = keras.losses.MeanSquaredError(reduction="none")
        _model(_mirrored(2), loss=loss).fit(*DATA, verbose=0)
    with pytest.raises(ValueError, match=r"loss: 'own_vector' has shape \(None, 3\)"):
        _model(_mirrored(2), loss=OwnVector()).fit(*DATA, verbose=0)


@distribute.row_by_row
def no_rows(y_true, y_pred):
    return tf.reduce_mean(y_true - y_pred)


def test_a_loss_declared_row_by_row_must_have_rows():
    with pytest.raises(ValueError, match="loss: 'no_rows' is not row by row: it returns a scalar"):
        _model(_mirrored(2), loss=no_rows).fit(*DATA, verbose=0)


class Largest(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros")

    def update_state(self, y, y_pred=None, sample_weight=None):
        self.value.assign(tf.maximum(self.value, tf.reduce_max(y)))

    def result(self):
        return self.value


class Watched(keras.layers.Layer):
    """Updates a metric within the model, where no rows can be gathered for it."""

    def __init__(self, metric):
        super().__init__()
        self.metric = metric

    def call(self, x):
        self.metric.update_state(x)
        return x


def test_a_metric_within_the_model_that_may_not_add_up_is_refused():
    with pytest.raises(ValueError, match="metrics: 'largest' is updated within the model"):
        _model(_mirrored(2), hidden=lambda x: Watched(Largest())(x)).fit(*DATA, verbose=0)
    mean = keras.metrics.Mean(name="seen")
    model = _model(_mirrored(2), hidden=lambda x: Watched(mean)(x))
    assert "seen" in model.fit(*DATA, verbose=0).history


class Meant(Largest):
    def __init__(self):
        keras.metrics.Metric.__init__(self, name="meant")
        self.value = self.add_variable((), "zeros", aggregation="mean")


def test_a_metric_within_the_model_that_is_not_a_sum_is_refused():
    with pytest.raises(ValueError, match=r"metrics: .* has aggregation='mean'"):
        _model(_mirrored(2), hidden=lambda x: Watched(Meant())(x)).fit(*DATA, verbose=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([tf.ones((2, 1)), tf.ones((3, 1))], "gather: 3 rows of one tensor and 2 of another"),
        (tf.constant(1.0), "expected rows of numbers"),
        (tf.constant(["a"]), "expected rows of numbers"),
        (tf.sparse.eye(2), "expected a dense tensor"),
    ],
    ids=["of two lengths", "scalar", "strings", "sparse"],
)
def test_values_that_cannot_be_gathered_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        _mirrored(2).run(lambda: distribute.all_gather(value))


@pytest.mark.parametrize("static", [True, False])
def test_every_row_needs_rows_of_the_batch(static):
    class Odd(keras.layers.Layer):
        def call(self, x):
            return x + keras.ops.sum(distribute.all_gather(tf.ones((4, 1)), every_row=True))

    data = tf.data.Dataset.from_tensor_slices(DATA).batch(6, drop_remainder=static)
    message = "gather: 3 rows of the batch, but a tensor's first axis has 4"
    with pytest.raises(ValueError, match=message):
        _model(_mirrored(2), hidden=lambda x: Odd()(x)).fit(data, verbose=0)


class OwnMetrics(distribute.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred, sample_weight)


def test_custom_compute_metrics_need_supports_replicas():
    with pytest.raises(ValueError, match="compute_metrics: OwnMetrics overrides it, and 2"):
        _model(_mirrored(2), OwnMetrics).fit(*DATA, verbose=0)


def test_unknown_losses_and_metrics_are_gathered():
    """By identity: not by name or base class, and not if Keras' function averages over rows."""
    losses, metrics = keras.losses, keras.metrics
    output = tf.zeros((4, 3))
    wrap = recognition.LossFunctionWrapper

    def mean_squared_error(y_true, y_pred):
        return y_pred

    class MeanSquaredError(losses.MeanSquaredError):
        pass

    class Unhashable:
        __name__, __hash__ = "mean_squared_error", None

        def __call__(self, y_true, y_pred):
            return y_pred

    rows = [
        losses.MeanSquaredError(),
        losses.Dice(axis=-1),
        losses.CosineSimilarity(axis=(1,)),
        wrap(losses.binary_crossentropy),
        metrics.MeanAbsoluteError(),
        metrics.AUC(),
        metrics.MeanMetricWrapper(metrics.categorical_accuracy),
        bigmodels.losses.SparseCategoricalCrossentropy(),
        bigmodels.losses.CTC(),
    ]
    across = [
        MeanSquaredError(),
        losses.Dice(),
        losses.Dice(axis=(0, 1)),
        losses.Circle(),
        losses.Hinge(),
        losses.CosineSimilarity(axis=0),
        losses.BinaryCrossentropy(axis=-2),
        wrap(mean_squared_error),
        wrap(losses.dice),
        metrics.MeanMetricWrapper(mean_squared_error),
        metrics.PearsonCorrelation(axis=0),
        metrics.MeanMetricWrapper(losses.MeanSquaredError()),
        wrap(Unhashable()),
        Largest(),
    ]
    assert [recognition.is_row_by_row(each, output) for each in rows] == [True] * len(rows)
    assert [recognition.is_row_by_row(each, output) for each in across] == [False] * len(across)
    # Keras takes means over the last axis. If it is the only one, it is the rows.
    assert not recognition.is_row_by_row(losses.MeanSquaredError(), tf.zeros(4))


def test_every_loss_and_metric_of_keras_is_classified():
    """Those added by a newer Keras are gathered until someone has classified them."""
    gathered = "Circle Hinge SquaredHinge circle hinge squared_hinge Loss Metric get".split()
    gathered += "serialize deserialize".split()
    for module in (keras.losses, keras.metrics):
        for name, each in vars(module).items():
            if callable(each):
                known = each in recognition.FUNCTIONS | recognition.CLASSES
                assert known != (name in gathered), name


def test_a_model_created_outside_the_scope_is_refused():
    inputs = keras.Input((4,))
    model = distribute.Model(inputs, keras.layers.Dense(3)(inputs))
    model.compile("sgd", "mse")
    with _mirrored(2).scope(), pytest.raises(ValueError, match="scope: Model was created outside"):
        model.fit(*DATA, verbose=0)


def test_replicas_predict_with_different_noise():
    class Noise(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(3)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator)

    model = _model(_mirrored(2), hidden=lambda x: Noise()(x))
    rows = model.predict(np.zeros((8, 4), "float32"), batch_size=8, verbose=0)
    assert len(np.unique(rows.round(5), axis=0)) == 8


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_train_on_batch(run_eagerly):
    losses = []
    for strategy in (distribute.strategy("one_device"), _mirrored(2)):
        keras.utils.set_random_seed(1)
        model = _model(strategy, run_eagerly=run_eagerly)
        losses.append([float(model.train_on_batch(*DATA)) for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "Adadelta Adafactor Adagrad Adamax Ftrl Lamb Lion Muon Nadam RMSprop SGD".split(),
)
def test_every_optimizer_steps_as_on_one_device(name):
    weights = []
    for strategy in (distribute.strategy("one_device"), _mirrored(2)):
        keras.utils.set_random_seed(1)
        x = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")
        with strategy.scope():
            optimizer = getattr(keras.optimizers, name)(1e-2)
        model = _model(strategy, optimizer=optimizer)
        model.fit(tf.data.Dataset.from_tensor_slices((x, x[:, :3])).batch(5), epochs=5, verbose=0)
        weights.append(model.get_weights())
    for found, wanted in zip(*weights, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_xla_over_several_replicas_is_refused():
    with pytest.raises(ValueError, match="jit_compile: True, but XLA cannot compile"):
        _model(_mirrored(2), jit_compile=True).fit(*DATA, verbose=0)


def test_stateful_layers_are_refused():
    with _mirrored(2).scope():
        inputs = keras.Input(batch_shape=(6, 4, 1))
        model = distribute.Model(inputs, keras.layers.LSTM(3, stateful=True)(inputs))
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((DATA[0][..., None], DATA[1]))
    with pytest.raises(ValueError, match=r"stateful: layer 'lstm.*' carries the state of rows"):
        model.fit(data, verbose=0)


@pytest.mark.parametrize("values", ["fit", "evaluate", "predict", "validation"])
def test_bad_input_is_still_named(values):
    model = _model(_mirrored(2))
    x, y = DATA
    bad = x.copy()
    bad[4, 1] = np.nan
    batches = tf.data.Dataset.from_tensor_slices((bad, y)).batch(4)
    with pytest.raises(ValueError, match="batch 1, element 0"):
        if values == "fit":
            model.fit(batches, verbose=0)
        elif values == "evaluate":
            model.evaluate(batches, verbose=0)
        elif values == "predict":
            model.predict(batches.map(lambda x, y: x), verbose=0)
        else:
            model.fit(x, y, validation_data=batches, verbose=0)


@pytest.mark.thorough
def test_arrays_splits_and_class_weights_as_on_one_device():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)).astype("float32"), rng.integers(0, 3, 30)
    results = []
    for strategy in (distribute.strategy("one_device"), _mirrored(2)):
        keras.utils.set_random_seed(1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = _model(strategy, loss=loss, metrics=lambda: ["accuracy"])
        history = model.fit(
            x, y, 4, 3, 0, validation_split=0.2, class_weight={0: 1.0, 1: 2.0, 2: 0.5}
        )
        on_batch = model.train_on_batch(x[:5], y[:5], return_dict=True)
        results.append((history.history | on_batch, model.get_weights()))
    (logs, weights), (logs_2, weights_2) = results
    assert logs.keys() == logs_2.keys()
    for name, value in logs.items():
        np.testing.assert_allclose(logs_2[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(weights, weights_2, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_trained_by_replicas_is_saved_and_loaded_without_them(tmp_path):
    model = _model(_mirrored(2), loss=keras.losses.MeanSquaredError(), metrics=lambda: ["mae"])
    model.fit(*DATA, verbose=0)
    assert isinstance(model.loss, keras.losses.MeanSquaredError)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        loaded.predict(DATA[0], verbose=0), model.predict(DATA[0], verbose=0)
    )
    loaded.fit(*DATA, verbose=0)
    assert type(loaded.loss) is keras.losses.MeanSquaredError


def _iterations(strategy, cls, steps_per_execution=1):
    optimizer = lambda: keras.optimizers.AdamW(weight_decay=0.1)  # noqa: E731
    with strategy.scope():
        model = _model(
            strategy, cls, optimizer=optimizer(), steps_per_execution=steps_per_execution
        )
    x, y = DATA
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2).filter(lambda *_: True)
    model.fit(data, epochs=2, verbose=0, shuffle=False)
    return int(np.asarray(model.optimizer.iterations.value))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_no_step_without_data(devices, steps_per_execution):
    strategy = distribute.strategy("one_device") if devices == 1 else _mirrored(2)
    assert _iterations(strategy, distribute.Model, steps_per_execution) == 6


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_upstream_still_counts_a_step_without_data():
    """Keras 3.16 does not; when 3.15 is no longer supported, our own loop can go."""
    mended = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16)
    assert _iterations(distribute.strategy("one_device"), keras.Model) == (6 if mended else 8)


class Anchored(distribute.Model):
    """Compares its rows with a few constant ones."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def build(self, shape):
        self.dense.build((None, 4))

    def call(self, inputs):
        first, *others = keras.tree.flatten(inputs)
        return self.dense(first) + sum(tf.reduce_mean(self.dense(each), 0) for each in others)


def _anchored():
    with _mirrored(2).scope():
        model = Anchored()
        model.compile("sgd", "mse")
    return model


ANCHORS = tf.ones((10, 4))


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("how", ["fit", "evaluate", "predict", "validation"])
@pytest.mark.parametrize(
    ("pack", "name"),
    [(lambda x: {"of_rows": x, "other": ANCHORS}, r"x\['other'\]"), (lambda x: (x, ANCHORS), "x")],
)
@pytest.mark.thorough
def test_an_input_without_a_batch_axis_is_refused(static, how, pack, name):
    rows = tf.data.Dataset.from_tensor_slices(DATA).batch(6, drop_remainder=static)
    model, bad = _anchored(), rows.map(lambda x, y: (pack(x), y))
    name = r"x\[1\]" if name == "x" else name
    if how == "predict":
        rows_of, bad = "x", bad.map(lambda x, y: (x,))
        name, rows_of = (name, r"x\['of_rows'\]") if "other" in name else (name, r"x\[0\]")
    else:
        rows_of = "y"
    shape = r"[(\[]10,? 4[)\]]"
    message = (
        f"{name}: shape {shape}, but the batch has 6 rows of {rows_of}; every input is divided"
    )
    with pytest.raises(ValueError, match=message):
        if how == "validation":
            good = rows.map(lambda x, y: (pack(x) if False else {"of_rows": x, "other": x}, y))
            model.fit(good, validation_data=bad, verbose=0)
        else:
            getattr(model, how)(bad, verbose=0)


def test_an_input_without_a_batch_axis_trains_nothing():
    model = _anchored()
    with _mirrored(2).scope():
        model.build(None)
    before = model.get_weights()
    rows = tf.data.Dataset.from_tensor_slices(DATA).batch(5)
    with pytest.raises(ValueError, match="other"):
        model.fit(rows.map(lambda x, y: ({"of_rows": x, "other": ANCHORS}, y)), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Product(Largest):
    """A product, which is not a sum and begins with 1."""

    def update_state(self, y, y_pred=None, sample_weight=None):
        self.value.assign(self.value * (1 + tf.reduce_max(tf.abs(y - y_pred))))

    def reset_state(self):
        self.value.assign(1.0)


class Beginning(Product):
    def __init__(self):
        keras.metrics.Metric.__init__(self, name="beginning")
        self.value = self.add_variable((), "ones")


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.thorough
def test_a_metric_s_state_continues_with_another_number_of_replicas(aggregation):
    class Own(Product):
        def __init__(self):
            keras.metrics.Metric.__init__(self, name="own")
            self.value = self.add_variable((), "ones", aggregation=aggregation)

        def result(self):
            return self.value + 0  # A tensor, as the variable differs between replicas.

    def step(model, rows):
        with model.distribute_strategy.scope():
            return model.test_function(iter([(rows, rows[:, :3])]))["own"]

    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    strategies = [distribute.strategy("one_device"), *map(_mirrored, (2, 3)), _mirrored(2)]
    models = [_model(strategy, metrics=lambda: [Own()]) for strategy in strategies]
    alone, kept = models[0], None
    for model, part in zip(models, np.split(x, 4), strict=True):
        with model.distribute_strategy.scope():
            model.test_on_batch(x[:1], x[:1, :3])  # Builds the metrics.
            model.set_weights([np.ones_like(w) for w in model.get_weights()])
            if kept is None:
                model.reset_metrics()
            else:
                set_state(model, *kept)
        found = step(model, part)
        if model is not alone:
            np.testing.assert_allclose(found, step(alone, part), rtol=1e-5)
        with model.distribute_strategy.scope():  # Like a callback.
            read = model.get_metrics_result()["own"]
            np.testing.assert_allclose(read, found, rtol=1e-5)
            kept = get_state(model)
        assert found > 1.5


def test_a_nonzero_initial_state_is_counted_once():
    found = []
    for strategy in (distribute.strategy("one_device"), _mirrored(2)):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = _model(strategy, metrics=lambda: [Beginning()])
        found.append([float(v) for v in model.train_on_batch(*DATA)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_metrics_created_outside_the_scope_are_refused():
    auc = keras.metrics.AUC(name="area")
    with pytest.raises(ValueError, match="metrics: 'area' was created outside the strategy"):
        _model(_mirrored(2), metrics=lambda: [auc]).fit(*DATA, verbose=0)


def test_a_loss_and_a_metric_of_all_rows_cost_one_message(monkeypatch):
    """Rows x (outputs + targets) x 4 bytes, as in the guide; the gradient costs nothing."""
    sent, plain = [], tf.distribute.ReplicaContext.all_reduce

    def all_reduce(self, op, value, options=None):
        sent.append(sum(v.dtype.size * v.shape.num_elements() for v in tf.nest.flatten(value)))
        return plain(self, op, value, options)

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", all_reduce)

    def largest(y_true, y_pred):
        return keras.ops.max(keras.ops.abs(y_true - y_pred))

    def messages(loss, metric):
        sent.clear()
        data = tf.data.Dataset.from_tensors((np.ones((64, 4), "float32"), np.ones((64, 3), "f4")))
        _model(_mirrored(2), loss=loss, metrics=lambda: [metric]).fit(data, verbose=0)
        return sent[::2]  # Each replica's part.

    gradients, logs = messages("mse", "mae")
    assert messages(keras.losses.Dice(axis=0), "mae") == [64 * 6 * 4, gradients, logs]
    found = messages(keras.losses.Dice(axis=0), largest)
    assert found == [64 * 6 * 4, gradients, 2 * 4, logs]
