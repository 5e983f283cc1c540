"""A training that is stopped at any step and resumed gives the same result as without a stop."""

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

from bigmodels import distribute
from bigmodels.callbacks import BackupAndRestore
from bigmodels.distribute.resume import get_state
from bigmodels.models import GAN, ConvDiscriminator, ConvGenerator

ROWS, BATCH, EPOCHS = 22, 4, 3  # Six batches per epoch, the last of two rows.


class _Stopped(Exception):
    pass


class _StopAt(keras.callbacks.Callback):
    """Ends a process's part of a training, like a kill."""

    def __init__(self, epoch, step):
        super().__init__()
        self.where, self.now = (epoch, step), None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == self.where:
            raise _Stopped

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, "end") == self.where:
            raise _Stopped


def _table():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.integers(0, 3, ROWS)


def _mlp(optimizer, **compile_arguments):
    inputs = keras.Input((6,))
    x = layers.Dense(8)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3)(layers.Activation("tanh")(x))
    model = distribute.Model(inputs, layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **compile_arguments)
    return model


def _gan():
    judge = ConvDiscriminator((12, 12, 1), normalization="spectral")
    model = GAN(ConvGenerator(4, (12, 12, 1)), judge, seed=3, r1=1.0, ema_momentum=0.9)
    model.compile()
    return model


def _shuffled():
    return tf.data.Dataset.from_tensor_slices(_table()).shuffle(ROWS, seed=5).batch(BATCH)


def _endless():
    return _shuffled().repeat()


def _images(shuffle=True):
    images = np.random.default_rng(0).uniform(-1, 1, (ROWS, 12, 12, 1)).astype("float32")
    rows = tf.data.Dataset.from_tensor_slices(images)
    return (rows.shuffle(ROWS, seed=5) if shuffle else rows).batch(BATCH)


CASES = {
    "adam": {},
    "endless": {"data": _endless, "fit": {"steps_per_epoch": 7}},
    "arrays": {"data": _table, "fit": {"shuffle": False, "batch_size": BATCH}},
    "length unknown": {"data": lambda: _shuffled().filter(lambda *_: True), "steps": ["end"]},
    "steps_per_execution": {"compile": {"steps_per_execution": 2}, "steps": [2, 2, 4, 4]},
    "EMA": {"optimizer": lambda: optimizers.AdamW(1e-2, use_ema=True, ema_momentum=0.5)},
    "accumulation": {"optimizer": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=4)},
    "schedule": {
        "optimizer": lambda: optimizers.Adam(optimizers.schedules.CosineDecay(1e-2, 18)),
    },
    "mixed_float16": {
        "policy": "mixed_float16",
        "optimizer": lambda: optimizers.LossScaleOptimizer(
            optimizers.Adam(1e-2), initial_scale=2.0**30, dynamic_growth_steps=3
        ),
    },
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "GAN": {"model": _gan, "data": _images},
}


# These cases add little to the others.
_SLOW = ("arrays", "accumulation", "schedule", "mixed_bfloat16", "length unknown", "GAN")
_THOROUGH = ("EMA", "steps_per_execution", "endless", "mixed_float16")


def _callbacks():
    return [
        keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=0, min_delta=1.0),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
    ]


def _train(case, directory, strategy=None, stop=None, others=(), **options):
    """One process's part of a training, with a new model."""
    keras.config.set_dtype_policy(case.get("policy", "float32"))
    keras.utils.set_random_seed(11)
    with (strategy or tf.distribute.get_strategy()).scope():
        if "model" in case:
            model = case["model"]()
        else:
            optimizer = case.get("optimizer", lambda: optimizers.Adam(1e-2))()
            model = _mlp(optimizer, **case.get("compile", {}))
    callbacks = [BackupAndRestore(directory, 1, verbose=0, **options), *others]
    if stop:
        callbacks.append(_StopAt(*stop))
    data = case.get("data", _shuffled)()
    x, y = data if isinstance(data, tuple) else (data, None)
    validation = (
        _images(shuffle=False) if "model" in case else tf.data.Dataset.from_tensors(_table())
    )
    history = model.fit(
        x,
        y,
        epochs=EPOCHS,
        callbacks=callbacks,
        validation_data=validation,
        verbose=0,
        **case.get("fit", {}),
    )
    return model, history


def _everything(model, history):
    state, _ = get_state(model)
    return state, history.epoch, history.history


def _assert_same(found, wanted):
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[1:] == wanted[1:]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            c,
            marks=[pytest.mark.slow] * (c in _SLOW) + [pytest.mark.thorough] * (c in _THOROUGH),
        )
        for c in CASES
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(name, tmp_path):
    case = CASES[name]
    wanted = _everything(*_train(case, tmp_path / "untouched"))
    assert wanted[1] == list(range(EPOCHS))
    # Every process is stopped at another step, and the last one finishes.
    for epoch, step in zip((0, 1, 1, 2), case.get("steps", [3, 1, 4, 5]) * 2, strict=False):
        with pytest.raises(_Stopped):
            _train(case, tmp_path / "killed", stop=(epoch, step))
    _assert_same(_everything(*_train(case, tmp_path / "killed")), wanted)


@pytest.mark.thorough
def test_other_callbacks_are_resumed_too(tmp_path):
    case = CASES["adam"]
    wanted = _everything(*_train(case, tmp_path / "untouched", others=_callbacks()))
    for stop in ((0, 2), (1, "end"), (2, 0), (2, 3)):
        with pytest.raises(_Stopped):
            _train(case, tmp_path / "killed", stop=stop, others=_callbacks())
    others = _callbacks()
    _assert_same(_everything(*_train(case, tmp_path / "killed", others=others)), wanted)
    assert others[0].best_weights is not None


def _replicas():
    for name in ("adam", "EMA", "GAN"):
        for replicas in (2, 3):
            first = (name, replicas) == ("adam", 3)
            mark = pytest.mark.thorough if first else pytest.mark.slow
            yield pytest.param(name, replicas, marks=mark)


@pytest.mark.parametrize(("name", "replicas"), _replicas())
def test_over_several_replicas(name, replicas, tmp_path):
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)], tf.distribute.ReductionToOneDevice()
    )
    case = CASES[name]
    wanted = _everything(*_train(case, tmp_path / "untouched", strategy))
    for stop in ((0, 3), (1, 5)):
        with pytest.raises(_Stopped):
            _train(case, tmp_path / "killed", strategy, stop)
    _assert_same(_everything(*_train(case, tmp_path / "killed", strategy)), wanted)


@pytest.mark.thorough
def test_metric_counts_survive_another_number_of_replicas(tmp_path):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )
    case = {"optimizer": lambda: optimizers.SGD(0.0)}  # Metrics depend on the rows alone.
    with pytest.raises(_Stopped):
        _train(case, tmp_path, strategy, (1, 4))
    _, history = _train(case, tmp_path)
    losses = history.history["accuracy"]
    assert history.epoch == [0, 1, 2] and 0 <= min(losses) <= max(losses) <= 1


@pytest.mark.thorough
def test_a_finished_training_deletes_its_checkpoints_by_default(tmp_path):
    _train(CASES["adam"], tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
    _train(CASES["adam"], tmp_path / "b", delete_checkpoint=False, max_to_keep=3, monitor="loss")
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert len(names) == 4 and names[-1] == "best.npz"


def test_the_best_epoch_is_retained(tmp_path):
    _, history = _train(CASES["adam"], tmp_path, delete_checkpoint=False, monitor="val_loss")
    best = int(np.argmin(history.history["val_loss"]))
    checkpoint = BackupAndRestore(tmp_path).checkpoints
    _, about = checkpoint.unpack((tmp_path / "best.npz").read_bytes())
    assert about["epoch"] == best + 1 and about["step"] == 0


def test_checkpoints_of_another_model_are_refused(tmp_path):
    with pytest.raises(_Stopped):
        _train(CASES["adam"], tmp_path, stop=(1, 1))
    with pytest.raises(ValueError, match="holds checkpoints of another model"):
        _train(CASES["EMA"], tmp_path)


def _unseeded(data):
    tf.random.set_seed(None)  # As without `keras.utils.set_random_seed`.
    return data.shuffle(9)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            {"data": lambda: _unseeded(tf.data.Dataset.from_tensor_slices(_table())).batch(4)},
            "x: shuffle without a seed has another order in every process",
        ),
        ({"data": lambda: iter([_table()])}, "x: list_iterator cannot be advanced to the batch"),
        (
            {"fit": {"steps_per_epoch": 3}},
            "continue at the right one it must be endless: x.rep",
        ),
    ],
)
def test_data_that_cannot_be_repeated_are_refused(case, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _train(case, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_freq": 0}, "save_freq: 0, expected"),
        ({"save_freq": "often"}, "save_freq: 'often', expected"),
        ({"max_to_keep": 0}, "max_to_keep: 0, expected"),
        ({"double_checkpoint": 5}, "double_checkpoint: 5, expected True or False"),
        ({"grace": -1.0}, "grace: -1.0, expected"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        BackupAndRestore(tmp_path, **arguments)


def _damage(path, how):
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # One bit of an array's values.
        place = whole.index(b"state/dense_0/kernel.npy") + 200
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])


@pytest.mark.parametrize(
    "how", ["truncated", pytest.param("empty", marks=pytest.mark.slow), "flipped"]
)
@pytest.mark.thorough
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(how, tmp_path, capsys):
    case = CASES["adam"]
    wanted = _everything(*_train(case, tmp_path / "untouched"))
    with pytest.raises(_Stopped):
        _train(case, tmp_path / "killed", stop=(1, 4))
    before, newest = sorted((tmp_path / "killed").glob("*.npz"))
    assert (before.name, newest.name) == ("000001-00000003.npz", "000001-00000004.npz")
    _damage(newest, how)
    checkpoints = BackupAndRestore(tmp_path / "killed").checkpoints
    said = []
    _, about = checkpoints.unpack(checkpoints.newest(said.append))
    assert about["step"] == 3 and f"{newest} is damaged" in said[0]
    _assert_same(_everything(*_train(case, tmp_path / "killed")), wanted)


@pytest.mark.thorough
def test_upstream_still_restarts_the_epoch(tmp_path):
    """If this fails, Keras' own callback may be sufficient (keras#19179)."""

    def train(directory, stop=None):
        keras.utils.set_random_seed(11)
        model = _mlp(optimizers.Adam(1e-2))
        callbacks = [keras.callbacks.BackupAndRestore(directory, save_freq=1)]
        if stop:
            callbacks.append(_StopAt(*stop))
        model.fit(_shuffled(), epochs=EPOCHS, callbacks=callbacks, verbose=0)
        return int(model.optimizer.iterations)

    steps = train(tmp_path / "untouched")
    with pytest.raises(_Stopped):
        train(tmp_path / "killed", (1, 4))
    # It restarts the epoch, with the weights of the step at which it was stopped.
    assert train(tmp_path / "killed") == steps + 4


def test_signal_handlers_are_restored_after_an_exception(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(_Stopped):
        _train(CASES["adam"], tmp_path, stop=(0, 2))
    assert [signal.getsignal(number) for number in numbers] == before


def test_other_models_are_refused(tmp_path):
    model = keras.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = BackupAndRestore(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"is for a bigmodels.Model, and this is .*Sequential"):
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0, callbacks=[backup])
    assert not (tmp_path / "checkpoints").exists()
