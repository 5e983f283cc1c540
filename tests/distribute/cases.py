"""One training for every model and feature, which must give the same result in every strategy.

The models also evaluate and predict; the features only train.

`python -m tests.distribute.cases DIR DEVICES GROUP` runs a worker: it trains every case of the
group under `multi_worker` and writes the results to DIR.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

import bigmodels
from bigmodels import distribute, losses, models

ROWS, BATCH, EPOCHS = 43, 8, 4  # 24 steps; the last batch of an epoch has 3 rows.


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data, and how it is trained.

    Attributes:
        build: `() -> model`, not compiled.
        data: `(rng) -> (x, y)`, `(x, y, sample_weight)` or `x`, arrays of `ROWS` rows.
        compile: Arguments of `compile`; functions are called for their value.
        batches: `(data set of rows) -> data set of batches`.
        policy: Keras dtype policy.
        predict: `(x) -> inputs of predict`, if not `x`.
        tolerance: Largest difference of a weight after all steps; see `test_exactness`.
        whole: Whether the model also evaluates and predicts, as all `MODELS` do.
    """

    build: Callable
    data: Callable
    compile: dict
    batches: Callable = lambda rows: rows.shuffle(ROWS, seed=3).batch(BATCH)
    policy: str = "float32"
    predict: Callable | None = None
    tolerance: float = 5e-6
    whole: bool = False


def _table(rng):
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.integers(0, 3, ROWS)


def _mlp(*hidden, **dense):
    """A user's own functional model."""
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh", **dense)(inputs)
    for layer in hidden:
        x = layer(x)
    return distribute.Model(inputs, layers.Dense(3)(x))


def _classify(optimizer=lambda: optimizers.Adam(1e-2), **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy
    return {
        "optimizer": optimizer,
        "loss": lambda: loss(from_logits=True),
        "metrics": lambda: ["accuracy"],
        **kwargs,
    }


def _case(*hidden, dense=None, optimizer=lambda: optimizers.SGD(0.1), **kwargs):
    """The functional model with one feature."""
    compile_arguments = kwargs.pop("compile", {})
    return Case(
        kwargs.pop("build", lambda: _mlp(*(make() for make in hidden), **(dense or {}))),
        kwargs.pop("data", _table),
        _classify(optimizer) | compile_arguments,
        **kwargs,
    )


def _images(rng):
    return rng.random((ROWS, 10, 10, 1), dtype="float32"), rng.integers(0, 3, ROWS)


def _muon():
    rate = bigmodels.optimizers.WarmupStableDecay(0.01, 24, warmup_steps=2, decay_steps=8)
    return bigmodels.optimizers.Muon(
        rate,
        # AdamW would scale rounding errors to full steps, see "Transformer".
        epsilon=1e-3,
        exclude_layers=["dense2"],
        learning_rate_multipliers={"bias": 2.0},
        gradient_accumulation_steps=2,
    )


def _tokens(rng):
    """Sequences of different lengths, padded with 0 on the right; targets one step ahead."""
    tokens = rng.integers(1, 7, (ROWS, 7))
    tokens *= np.arange(7) < rng.integers(2, 8, (ROWS, 1))
    return tokens[:, :-1], tokens[:, 1:]


def _pairs(rng):
    """Sources and targets of different lengths."""
    target, following = _tokens(rng)
    return {"source": _tokens(rng)[0], "target": target}, following


def _series(rng):
    """Windows of two variables and their continuations."""
    x = np.cumsum(rng.normal(size=(ROWS, 11, 2)), 1).astype("float32")
    return x[:, :7], x[:, 7:]


def _recordings(rng):
    """Recordings and transcripts of different lengths."""
    samples = rng.uniform(-1, 1, (ROWS, 1500)).astype("float32")
    samples *= np.arange(1500) < rng.integers(1100, 1500, (ROWS, 1))
    ids = rng.integers(1, 5, (ROWS, 3))
    ids[:, 1:] *= np.arange(2) < rng.integers(0, 3, (ROWS, 1))
    return samples, ids


def _objects(rng):
    """Images with 0 or more objects, so a mean over objects differs from a mean over images."""
    images = rng.random((ROWS, 10, 12, 1), dtype="float32")
    corners = rng.uniform(0, 6, (ROWS, 3, 2))
    labels = rng.integers(0, 2, (ROWS, 3, 1))
    labels = np.where(np.arange(3)[:, None] < rng.integers(0, 4, (ROWS, 1, 1)), labels, -1)
    boxes = np.concatenate([corners, corners + rng.uniform(1, 5, corners.shape), labels], -1)
    return images, boxes.astype("float32")


def _gan():
    latent = 5
    generator = models.Generator(latent, (4, 4, 1), units=(8, 6))
    return models.GAN(generator, models.Discriminator((4, 4, 1), units=(8, 6)), seed=1)


def _steadied_gan():
    """A GAN with every option that is off by default."""
    judge = models.ConvDiscriminator((4, 4, 1), (4, 6), 0.0, "spectral")
    generator = models.ConvGenerator(5, (4, 4, 1), filters=(6, 4))
    return models.GAN(generator, judge, seed=1, r1=1.0, ema_momentum=0.9)


def _inpainting_gan():
    generator = models.Inpainter((5, 4, 1), filters=(6, 8))
    judge = models.ConvDiscriminator((5, 4, 1), filters=(4, 6), dropout_rate=0.0)
    return models.InpaintingGAN(generator, judge, 0.1)


def _holes(rng):
    """Holes of different sizes, so a mean over all holes differs from the mean over images."""
    images = rng.uniform(-1, 1, (ROWS, 5, 4, 1)).astype("float32")
    mask = np.zeros_like(images)
    for row, hole in zip(rng.integers(1, 5, ROWS), mask, strict=True):
        hole[:row, 1:3] = 1
    return np.concatenate([images * (1 - mask), mask], -1), images


def _first_batch_of_one(rows):
    return rows.take(1).batch(1).concatenate(rows.skip(1).batch(BATCH))


@keras.saving.register_keras_serializable(package="tests")
class Penalty(layers.Layer):
    """A layer that adds a loss, as a mean over the rows."""

    def call(self, x):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(x)))
        return x


def _two_inputs(kind):
    first, second = keras.Input((2,), name="first"), keras.Input((4,), name="second")
    x = layers.Dense(8, activation="tanh")(layers.Concatenate()([first, second]))
    inputs = {"first": first, "second": second} if kind is dict else [first, second]
    return distribute.Model(inputs, layers.Dense(3)(x))


def _two_parts(kind):
    def data(rng):
        x, y = _table(rng)
        first, second = x[:, :2], x[:, 2:]
        return ({"first": first, "second": second} if kind is dict else (first, second)), y

    return data


def _weighted(rng):
    return *_table(rng), rng.random(ROWS).astype("float32")


def _masked_batch_norm():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    return distribute.Model(inputs, layers.Dense(7)(layers.BatchNormalization()(x)))


def _two_outputs():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    return distribute.Model(
        inputs, [layers.Dense(3, name="kind")(x), layers.Dense(1, name="size")(x)]
    )


def _two_targets(rng):
    x, y = _table(rng)
    return x, (y, rng.normal(size=(ROWS, 1)).astype("float32"))


# Losses, metrics and layers that depend on several rows of a batch at once.


def _scores(rng):
    """Targets from 0 to 1, with weights."""
    x, _ = _table(rng)
    return x, rng.random((ROWS, 3)).astype("float32"), rng.random(ROWS).astype("float32")


def _unweighted_scores(rng):
    return _scores(rng)[:2]


class Contrast(keras.losses.Loss):
    """In-batch negatives: each target should be nearer to its own output than to the others."""

    def call(self, y_true, y_pred):
        similarity = keras.ops.matmul(y_pred, keras.ops.transpose(y_true)) * Temperature.made.scale
        return -keras.ops.diagonal(keras.ops.log_softmax(similarity))


class Temperature(layers.Layer):
    """Has a weight that only the loss uses."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones")
        Temperature.made = self

    def call(self, x):
        return x


class OwnCall(keras.losses.Loss):
    """Computes its own mean, and is reduced by Keras as well."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), -1)

    def __call__(self, y_true, y_pred, sample_weight=None):
        furthest = keras.ops.max(keras.ops.square(y_true - y_pred))
        return super().__call__(y_true, y_pred, sample_weight) + 0.1 * furthest


def one_number(y_true, y_pred):
    """A loss function that calls one of Keras, which divides by the number of replicas."""
    spread = keras.ops.var(y_pred - y_true, axis=0)
    return keras.losses.MeanSquaredError()(y_true, y_pred) + 0.1 * keras.ops.mean(spread)


def centred(y_true, y_pred):
    """A number for each row that depends on all rows; also for sequences."""
    y_pred = y_pred - keras.ops.mean(y_pred, axis=0, keepdims=True)
    y_true = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), 7)
    return keras.ops.mean(keras.ops.square(y_true - y_pred), -1)


def rmse(y_true, y_pred):
    return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y_true - y_pred)))


class Kept(keras.metrics.Metric):
    """A maximum, minimum or product: a state with an initial value that is not a sum."""

    def __init__(self, how, begin, aggregation="sum", dtype="float32", **kwargs):
        super().__init__(**kwargs)
        self.how, self.begin = getattr(keras.ops, how), begin
        initializer = keras.initializers.Constant(begin)
        self.kept = self.add_variable((), initializer, dtype, aggregation, "kept")

    def update_state(self, y_true, y_pred, sample_weight=None):
        new = keras.ops.max(keras.ops.abs(y_true - y_pred))
        if sample_weight is not None:
            new *= keras.ops.max(sample_weight)
        new = keras.ops.cast(new * (100 if self.kept.dtype == "int32" else 1), self.kept.dtype)
        self.kept.assign(self.how(self.kept, new))

    def result(self):
        return self.kept

    def reset_state(self):
        self.kept.assign(keras.ops.full_like(self.kept, self.begin))


class MyError(keras.metrics.MeanAbsoluteError):
    """Has the name of a Keras class, but computes something else."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred - keras.ops.mean(y_pred, 0), sample_weight)


def _metrics():
    return [
        rmse,
        "mae",
        Kept("maximum", 0.0, name="largest"),
        Kept("minimum", 1e9, name="smallest"),
        Kept("multiply", 1.0, name="product"),
        Kept("maximum", 0.0, "mean", name="largest_by_mean"),
        Kept("add", 0, dtype="int32", name="whole_number"),
        keras.losses.MeanSquaredError(name="a_loss"),
        keras.metrics.MeanMetricWrapper(rmse, name="wrapped"),
        MyError(),
        keras.metrics.R2Score(),
        keras.metrics.ConcordanceCorrelation(axis=0),
        keras.metrics.AUC(name="auc"),
        keras.metrics.F1Score("macro", threshold=0.5),
        keras.metrics.RootMeanSquaredError(),
        keras.metrics.Hinge(),
    ]


def _probabilities():
    inputs = keras.Input((6,))
    return distribute.Model(inputs, layers.Dense(3, activation="sigmoid")(inputs))


def _masked_sequences():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    return distribute.Model(inputs, layers.Dense(7)(x))


def _named_outputs():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    outputs = {
        "kind": layers.Dense(3, activation="sigmoid", name="kind")(x),
        "size": layers.Dense(1, name="size")(x),
        "rank": layers.Reshape((), name="rank")(layers.Dense(1)(x)),
    }
    return distribute.Model(inputs, outputs)


def _named_targets(rng):
    x, y = _unweighted_scores(rng)
    size, rank = rng.normal(size=(2, ROWS)).astype("float32")
    return x, {"kind": y, "size": size[:, None], "rank": rank}


class Furthest(keras.regularizers.Regularizer):
    """An activity regularizer that is not a sum over the rows."""

    def __call__(self, x):
        return 0.3 * keras.ops.max(keras.ops.square(x)) * keras.ops.cast(tf.shape(x)[0], x.dtype)


class Centre(layers.Layer):
    """Subtracts the batch's mean and counts the rows; see `Model.supports_replicas`."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        rows = keras.ops.cast(keras.ops.shape(x)[0], x.dtype)
        total, rows = distribute.all_sum([keras.ops.sum(x, 0, keepdims=True), rows])
        if training:
            self.seen.assign_add(rows)
        return x - total / rows


class Deviation(layers.Layer):
    """Minibatch standard deviation over all rows, from `all_gather`."""

    def call(self, x):
        spread = keras.ops.var(distribute.all_gather(x), axis=0)
        spread = keras.ops.mean(keras.ops.sqrt(spread + 1e-3))
        return keras.ops.concatenate([x, keras.ops.zeros_like(x[:, :1]) + spread], -1)


_PREDICT_NOISE = lambda x: np.random.default_rng(5).normal(size=(11, 5)).astype("float32")  # noqa: E731

MODELS = {
    "CNN": Case(
        lambda: models.CNN(3, (3, 4), dense_units=6, batch_normalization=True), _images, _classify()
    ),
    "ResidualCNN": Case(
        lambda: models.ResidualCNN(3, (3, 4), mirror=True, shift=1),
        _images,
        _classify(
            lambda: optimizers.SGD(
                0.05, momentum=0.85, nesterov=True, use_ema=True, ema_overwrite_frequency=5
            )
        ),
    ),
    "RNN": Case(lambda: models.RNN(7, 4, 6), _tokens, _classify()),
    "Transformer": Case(
        lambda: models.Transformer(7, 8, 2, 12, 0.0, num_layers=1, max_length=6),
        _tokens,
        # The softmax does not depend on the bias of the keys. Its gradient is only rounding error,
        # which Adam with the default epsilon of 1e-7 would scale up to a full step.
        _classify(lambda: optimizers.Adam(1e-2, epsilon=1e-3)),
    ),
    "Transformer, modern": Case(
        lambda: models.Transformer(
            *(7, 8, 4, 12, 0.0),
            num_layers=1,
            max_length=6,
            position="rotary",
            normalization="rms_norm",
            activation="swiglu",
            query_key_norm=True,
            num_key_value_heads=2,
            sliding_window=3,
            tie_embeddings=True,
        ),
        _tokens,
        _classify(lambda: optimizers.Adam(1e-2, epsilon=1e-3)),
    ),
    "GAN": Case(
        _gan,
        lambda rng: rng.uniform(-1, 1, (ROWS, 4, 4, 1)).astype("float32"),
        {},
        predict=_PREDICT_NOISE,
    ),
    "GAN, steadied": Case(
        _steadied_gan,
        lambda rng: rng.uniform(-1, 1, (ROWS, 4, 4, 1)).astype("float32"),
        {
            # While all logits are within 1, the hinge loss does not depend on the last bias. The
            # epsilon is as above.
            "d_optimizer": lambda: optimizers.Adam(2e-4, beta_1=0.5, epsilon=1e-3),
            "loss_fn": keras.losses.Hinge,
            "g_loss_fn": losses.Wasserstein,
        },
        predict=_PREDICT_NOISE,
    ),
    "InpaintingGAN": Case(_inpainting_gan, _holes, {}),
    "functional": _case(optimizer=lambda: optimizers.Adam(1e-2)),
    "Forecaster": Case(
        lambda: models.Forecaster(("a", "b"), 7, 4, 6, 3),
        _series,
        {
            "optimizer": lambda: optimizers.Adam(1e-2),
            "loss": lambda: "mae",
            "metrics": lambda: ["mse"],
        },
    ),
    "Detector": Case(
        lambda: models.Detector(2, (3, 4, 4, 5), 4),
        _objects,
        # Adam would scale rounding errors to full steps, and batch normalisation amplifies them.
        {"optimizer": lambda: optimizers.SGD(0.05), "loss": losses.CenterPoints},
    ),
    "Seq2SeqTransformer": Case(
        lambda: models.Seq2SeqTransformer(7, 8, 2, 12, 0.0, num_layers=1, max_length=6),
        _pairs,
        _classify(lambda: optimizers.Adam(1e-2, epsilon=1e-3)),
    ),
}

FEATURES = {
    # The cases that always run represent those below, which run with `-m slow`.
    "much at once": _case(
        layers.BatchNormalization,
        Penalty,
        dense={"kernel_regularizer": "l2"},
        data=_weighted,
        batches=_first_batch_of_one,
        optimizer=lambda: optimizers.AdamW(
            1e-2,
            weight_decay=0.05,
            global_clipnorm=0.05,
            gradient_accumulation_steps=3,
            use_ema=True,
            ema_overwrite_frequency=5,
        ),
        compile={
            "weighted_metrics": lambda: ["accuracy"],
            "steps_per_execution": lambda: 4,
        },
    ),
    "first batch of one row": _case(batches=_first_batch_of_one),
    "dict inputs": _case(build=lambda: _two_inputs(dict), data=_two_parts(dict)),
    "tuple inputs": _case(build=lambda: _two_inputs(tuple), data=_two_parts(tuple)),
    "sample weights": _case(data=_weighted, compile={"weighted_metrics": lambda: ["accuracy"]}),
    "mean over the weights": _case(
        data=_weighted,
        compile={
            "loss": lambda: keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="mean_with_sample_weight"
            )
        },
    ),
    "sum over the batch": _case(
        optimizer=lambda: optimizers.SGD(0.01),
        compile={
            "loss": lambda: keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="sum"
            )
        },
    ),
    "ignored class": _case(
        compile={
            "loss": lambda: keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=1
            )
        },
    ),
    "two outputs": _case(
        build=_two_outputs,
        data=_two_targets,
        compile={
            "loss": lambda: [
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "mse",
            ],
            "loss_weights": lambda: [1.0, 0.3],
            "metrics": lambda: [["accuracy"], ["mae"]],
        },
    ),
    "L2": _case(dense={"kernel_regularizer": "l2"}),
    "activity regularizer": _case(dense={"activity_regularizer": "l2"}),
    "add_loss": _case(Penalty),
    "BatchNorm": _case(layers.BatchNormalization),
    "BatchNorm, nested": _case(
        lambda: keras.Sequential([layers.Dense(8), layers.BatchNormalization()])
    ),
    "BatchNorm, masked": _case(build=_masked_batch_norm, data=_tokens),
    "SGD, momentum": _case(optimizer=lambda: optimizers.SGD(0.05, momentum=0.9)),
    "AdamW": _case(optimizer=lambda: optimizers.AdamW(1e-2, weight_decay=0.05)),
    "Muon": Case(lambda: models.CNN(3, (3, 4), dense_units=6), _images, _classify(_muon)),
    "EMA": _case(
        optimizer=lambda: optimizers.SGD(
            0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5
        )
    ),
    "clipnorm": _case(optimizer=lambda: optimizers.SGD(0.1, clipnorm=0.05)),
    "global_clipnorm": _case(optimizer=lambda: optimizers.SGD(0.1, global_clipnorm=0.05)),
    "clipvalue": _case(optimizer=lambda: optimizers.SGD(0.1, clipvalue=0.01)),
    "gradient accumulation": _case(
        optimizer=lambda: optimizers.Adam(1e-2, gradient_accumulation_steps=3)
    ),
    "steps_per_execution": _case(compile={"steps_per_execution": lambda: 4}),
    "length unknown": _case(
        batches=lambda rows: rows.batch(BATCH).filter(lambda *_: True),
        optimizer=lambda: optimizers.Adam(1e-2),
        compile={"steps_per_execution": lambda: 4},
    ),
    "CTC, SpecAugment": Case(
        lambda: models.DRNN(5, 6, 1, mel_bins=8, time_masks=2, frequency_masks=1),
        _recordings,
        {"optimizer": lambda: optimizers.Adam(1e-2, epsilon=1e-3), "loss": losses.CTC},
    ),
    # Products are rounded to 8 bits. Sums depend on the order of their terms.
    "mixed_bfloat16": _case(policy="mixed_bfloat16", tolerance=2e-3),
    "mixed_float16": _case(policy="mixed_float16", tolerance=2e-3),
}


_by_sgd = {"optimizer": lambda: optimizers.SGD(0.05), "metrics": list}

ACROSS_ROWS = {
    # The cases that always run represent those below.
    "metrics": Case(
        _probabilities,
        _scores,
        {
            **_by_sgd,
            "loss": lambda: one_number,
            "metrics": _metrics,
            "weighted_metrics": lambda: [Kept("maximum", 0.0, name="weighted"), MyError(), "mse"],
        },
        batches=_first_batch_of_one,
        whole=True,
    ),
    "Dice over the rows": Case(
        _probabilities,
        _unweighted_scores,
        {**_by_sgd, "loss": lambda: keras.losses.Dice(axis=0), "steps_per_execution": lambda: 4},
        batches=_first_batch_of_one,
    ),
    "Circle": _case(
        batches=_first_batch_of_one,
        optimizer=lambda: optimizers.SGD(1e-3),
        compile={"loss": keras.losses.Circle},
    ),
    "loss with its own mean": Case(
        _probabilities, _scores, {**_by_sgd, "loss": OwnCall}, batches=_first_batch_of_one
    ),
    "in-batch negatives": Case(
        lambda: _mlp(Temperature()),
        _unweighted_scores,
        {**_by_sgd, "loss": Contrast},
        batches=_first_batch_of_one,
    ),
    "masked, across rows": Case(
        _masked_sequences,
        _tokens,
        {**_by_sgd, "loss": lambda: centred, "metrics": lambda: [centred]},
        batches=_first_batch_of_one,
    ),
    "outputs by name": Case(
        _named_outputs,
        _named_targets,
        {
            **_by_sgd,
            "loss": lambda: {"kind": "dice", "size": one_number, "rank": "mse"},
            "loss_weights": lambda: {"kind": 1.0, "size": 0.3, "rank": 0.1},
            "metrics": lambda: {"kind": [rmse], "size": "mae", "rank": [rmse, "mse"]},
        },
        batches=_first_batch_of_one,
    ),
    "activity regularizer of rows": _case(
        dense={"activity_regularizer": Furthest()}, batches=_first_batch_of_one
    ),
    "layers by all_sum": _case(Centre, Deviation, batches=_first_batch_of_one),
}


def _much():
    return optimizers.AdamW(
        1e-2,
        epsilon=1e-3,
        weight_decay=0.05,
        global_clipnorm=0.05,
        gradient_accumulation_steps=3,
    )


def _much_and_ema():
    optimizer = _much()
    return type(optimizer)(**optimizer.get_config() | {"use_ema": True})


def _crossed():
    """The four models with the features."""
    for name in ("CNN", "RNN", "Transformer", "GAN"):
        case = MODELS[name]
        both = ("d_optimizer", "g_optimizer") if name == "GAN" else ("optimizer",)
        many = dict.fromkeys(both, _much if name == "GAN" else _much_and_ema)
        many["steps_per_execution"] = lambda: 4
        yield (
            f"{name}, much at once",
            dataclasses.replace(case, compile=case.compile | many, batches=_first_batch_of_one),
        )
        # SGD, as Adam would scale the rounding errors of half precision to full steps. Batch
        # normalisation and pooling still amplify them: on one device, the weights of the CNN in
        # bfloat16 change by 2e-2 if the rows of each batch are reversed.
        plain = dict.fromkeys(both, lambda: optimizers.SGD(0.05))
        for policy in ("mixed_bfloat16", "mixed_float16"):
            tolerance = 0.3 if name == "GAN" else 0.1
            changed = {"compile": case.compile | plain, "policy": policy, "tolerance": tolerance}
            yield f"{name}, {policy}", dataclasses.replace(case, **changed)


CROSSED = dict(_crossed())
CASES = MODELS | FEATURES | ACROSS_ROWS | CROSSED
# Workers are started once for each group. Slow models are not in the group of `FAST_MODELS`.
FAST_MODELS = ("CNN", "RNN", "Transformer", "GAN")
GROUPS = {
    "first": ("RNN",),  # Always runs.
    "models": tuple(name for name in FAST_MODELS if name != "RNN"),
    "other models": tuple(name for name in MODELS if name not in FAST_MODELS),
    "features": tuple(FEATURES),
    "across rows": tuple(ACROSS_ROWS),
    "crossed": tuple(CROSSED),
}


def run(name, strategy):
    """Train a case.

    Args:
        name: One of `CASES`.
        strategy: A `tf.distribute` strategy.

    Returns:
        `(weights, logs, predictions)`: arrays by path; `{"history": ..., "evaluate": ...}`; a list
        of arrays.
    """
    case = CASES[name]
    keras.config.set_dtype_policy(case.policy)
    keras.utils.set_random_seed(7)
    data = case.data(np.random.default_rng(0))
    rows = tf.data.Dataset.from_tensor_slices(data)
    x = data[0] if isinstance(data, tuple) else data
    with strategy.scope():
        model = case.build()
        model.compile(**{key: make() for key, make in case.compile.items()})
    whole = case.whole or name in MODELS  # Tracing each function takes seconds.
    history = model.fit(
        case.batches(rows),
        epochs=EPOCHS,
        verbose=0,
        validation_data=rows.batch(BATCH) if whole else None,
    )
    measured, predicted = {}, []
    if whole:
        # With batches of one row, all replicas but one have no rows.
        measured = model.evaluate(rows.batch(1), return_dict=True, verbose=0)
        predicted = model.predict(case.predict(x) if case.predict else x, batch_size=5, verbose=0)
    keras.config.set_dtype_policy("float32")
    # By position, as Keras numbers layers consecutively within a process.
    weights = {f"{i:02d}": np.asarray(w) for i, w in enumerate(model.weights)}
    logs = {"history": history.history, "evaluate": measured}
    return weights, logs, tf.nest.flatten(predicted)


def save(directory, name, worker, result):
    """Write a result of `run` for another process."""
    weights, logs, predictions = result
    stem = pathlib.Path(directory) / f"{list(CASES).index(name)}.{worker}"
    np.savez(f"{stem}.weights.npz", **weights)
    np.savez(f"{stem}.predictions.npz", *predictions)
    stem.with_name(stem.name + ".json").write_text(json.dumps(logs))


def load(directory, name, worker):
    """Read a result written by `save`."""
    stem = pathlib.Path(directory) / f"{list(CASES).index(name)}.{worker}"
    weights = dict(np.load(f"{stem}.weights.npz"))
    predictions = list(np.load(f"{stem}.predictions.npz").values())
    return weights, json.loads(stem.with_name(stem.name + ".json").read_text()), predictions


def main(directory, devices, group):
    """Run one of several workers."""
    bigmodels.distribute.make_cpu_devices(int(devices))
    strategy = distribute.strategy("multi_worker")
    for name in GROUPS[group]:
        save(directory, name, strategy.cluster_resolver.task_id, run(name, strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
