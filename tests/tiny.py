"""One tiny instance of every model, and tiny settings and files for every task.

A new model or task adds its row here. The tests of models, tasks and workers hold every guarantee
over every row.
"""

import dataclasses
import datetime
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import bigmodels.losses
import bigmodels.models
from bigmodels import tasks
from tests.cocos import write_coco
from tests.conftest import counting_tokens, striped_images
from tests.data.test_audio import wav
from tests.tubs import write_tub

SPARSE = keras.losses.SparseCategoricalCrossentropy
BINARY = keras.losses.BinaryCrossentropy


@dataclasses.dataclass(frozen=True)
class Model:
    """`make(**kwargs)` a model; `inputs(rng, n)` for `predict`; `fit(rng, n)` for `fit`."""

    make: Callable
    inputs: Callable
    fit: Callable
    compile: Callable
    output_dtype: str = "float32"


def _classify(model):
    model.compile(keras.optimizers.Adam(1e-2), SPARSE(from_logits=True), metrics=["accuracy"])


def _tokens(rng, count):
    return counting_tokens(rng, count, 9, 12)


def _shifted(rng, count):
    tokens = _tokens(rng, count)
    return tokens[:, :-1], tokens[:, 1:]


def _pairs(rng, count):
    """The target is the source in reverse; both are padded."""
    sizes = rng.integers(1, 5, count)
    source, target = np.zeros((2, count, 6), "int32")
    target[:, 0] = 2
    for i, size in enumerate(sizes):
        source[i, :size] = rng.integers(4, 12, size)
        target[i, 1 : size + 1] = source[i, :size][::-1]
    following = np.roll(target, -1, 1)
    following[:, -1] = 0
    following[np.arange(count), sizes] = 3
    return {"source": source, "target": target}, following


def _tones(rng, count):
    """Recordings that say one of two characters: a low tone, and a high one."""
    said = np.arange(count) % 2
    time = np.arange(1000) * (0.3 + 0.9 * said[:, None])
    samples = 0.5 * np.sin(time + rng.uniform(0, 6, (count, 1))).astype("float32")
    samples[count // 2 :, 800:] = 0
    return samples, said[:, None] + 1


def _hear(model):
    model.compile(keras.optimizers.Adam(1e-2), bigmodels.losses.CTC())


def _noise(rng, count):
    return rng.normal(size=(count, 5)).astype("float32")


def _pictures(rng, count):
    return striped_images(rng, count)[0] * 2 - 1


def _generator_fit(rng, count):
    return _noise(rng, count), _pictures(rng, count)


def _judge_fit(rng, count):
    images = _pictures(rng, count)
    labels = np.arange(count)[:, None] % 2
    return np.where(labels[..., None, None], images, -images), labels.astype("float32")


def _judge(model):
    model.compile(keras.optimizers.Adam(1e-2), BINARY(from_logits=True))


def _waves(rng, count):
    phase = rng.uniform(0, 6, (count, 1, 2))
    return np.sin(phase + 0.8 * np.arange(17)[:, None]).astype("float32")


def _gan(**kwargs):
    return bigmodels.models.GAN(
        bigmodels.models.Generator(5, (12, 12, 1), units=(16, 8, 6), **kwargs),
        bigmodels.models.Discriminator((12, 12, 1), units=(8, 6), **kwargs),
        seed=1,
        **kwargs,
    )


def _steadied_gan(**kwargs):
    """With everything that is off by default."""
    return bigmodels.models.GAN(
        bigmodels.models.ConvGenerator(5, (12, 12, 1), filters=(6, 4), **kwargs),
        bigmodels.models.ConvDiscriminator(
            (12, 12, 1), filters=(4, 6), normalization="spectral", **kwargs
        ),
        seed=1,
        r1=1.0,
        ema_momentum=0.9,
        **kwargs,
    )


def _hinge(model):
    model.compile(loss_fn=keras.losses.Hinge(), g_loss_fn=bigmodels.losses.Wasserstein())


def _with_holes(rng, count):
    images = _pictures(rng, count)
    mask = np.zeros((count, 12, 12, 1), "float32")
    mask[:, 3:9, 2:8] = 1
    return np.concatenate([images * (1 - mask), mask], -1).astype("float32"), images


def _inpainting_gan(**kwargs):
    return bigmodels.models.InpaintingGAN(
        bigmodels.models.Inpainter((12, 12, 1), filters=(4, 6), **kwargs),
        bigmodels.models.ConvDiscriminator((12, 12, 1), filters=(4, 6), **kwargs),
        0.1,
        **kwargs,
    )


def _mse(model):
    model.compile(keras.optimizers.Adam(1e-2), "mse")


def _frames(rng, count):
    return striped_images(rng, count, channels=3)[0] * 255


def _drive(rng, count):
    images, stripes = striped_images(rng, count, channels=3)
    return images * 255, stripes[:, None].astype("float32") - 1


def _boxes(rng, count):
    """Pictures of one object each: a light square, small or large."""
    labels = rng.integers(0, 2, count)
    images = rng.uniform(0, 0.2, (count, 16, 16, 1)).astype("float32")
    objects = np.zeros((count, 2, 5), "float32")
    objects[:, 1, 4] = -1
    for image, rows, label in zip(images, objects, labels, strict=True):
        side = 5 + 4 * label
        top, left = rng.integers(0, 16 - side, 2)
        image[top : top + side, left : left + side] += 0.8
        rows[0] = left, top, left + side, top + side, label
    return images, objects


def _detect(model):
    model.compile(keras.optimizers.Adam(1e-2), bigmodels.losses.CenterPoints())


# Every option of a `Transformer` that is off by default.
MODERN = {
    "position": "rotary",
    "normalization": "rms_norm",
    "activation": "swiglu",
    "query_key_norm": True,
    "num_key_value_heads": 2,
    "sliding_window": 4,
    "tie_embeddings": True,
}

MODELS = {
    "CNN": Model(
        lambda **k: bigmodels.models.CNN(
            3, (4, 6), 3, 8, dropout_rate=0.1, batch_normalization=True, **k
        ),
        lambda rng, n: striped_images(rng, n)[0],
        striped_images,
        _classify,
    ),
    "BackboneClassifier": Model(
        lambda **k: bigmodels.models.BackboneClassifier(
            3, (32, 32, 1), "MobileNet", 0.25, train_backbone=True, batch_statistics=True, **k
        ),
        lambda rng, n: striped_images(rng, n, 32)[0],
        lambda rng, n: striped_images(rng, n, 32),
        _classify,
    ),
    "DRNN": Model(
        lambda **k: bigmodels.models.DRNN(
            3, 6, 1, 0.1, mel_bins=8, time_masks=1, mean=[-5] * 8, deviation=[4] * 8, **k
        ),
        lambda rng, n: _tones(rng, n)[0],
        _tones,
        _hear,
    ),
    "Detector": Model(
        lambda **k: bigmodels.models.Detector(2, (4, 6, 6), 6, 0.1, **k),
        lambda rng, n: _boxes(rng, n)[0],
        _boxes,
        _detect,
    ),
    "ResidualCNN": Model(
        lambda **k: bigmodels.models.ResidualCNN(3, (6, 8), shift=1, **k),
        lambda rng, n: striped_images(rng, n, channels=3)[0],
        lambda rng, n: striped_images(rng, n, channels=3),
        _classify,
    ),
    "RNN": Model(
        lambda **k: bigmodels.models.RNN(12, 8, 16, 4, dropout_rate=0.1, **k),
        _tokens,
        _shifted,
        _classify,
    ),
    "Transformer": Model(
        lambda **k: bigmodels.models.Transformer(12, 8, 2, 16, 0.1, num_layers=2, **k),
        _tokens,
        _shifted,
        _classify,
    ),
    "Transformer, modern": Model(
        lambda **k: bigmodels.models.Transformer(12, 8, 4, 16, 0.1, num_layers=2, **MODERN, **k),
        _tokens,
        _shifted,
        _classify,
    ),
    "Seq2SeqTransformer": Model(
        lambda **k: bigmodels.models.Seq2SeqTransformer(
            12, 8, 2, 16, 0.1, num_layers=2, max_length=8, **k
        ),
        lambda rng, n: _pairs(rng, n)[0],
        _pairs,
        _classify,
    ),
    "PilotNet": Model(
        lambda **k: bigmodels.models.PilotNet((4,), (6,), (8,), dropout_rate=0.1, **k),
        _frames,
        _drive,
        _mse,
    ),
    "Generator": Model(
        lambda **k: bigmodels.models.Generator(5, (12, 12, 1), units=(16, 8, 6), **k),
        _noise,
        _generator_fit,
        _mse,
    ),
    "Discriminator": Model(
        lambda **k: bigmodels.models.Discriminator((12, 12, 1), units=(8, 6), **k),
        _pictures,
        _judge_fit,
        _judge,
    ),
    "ConvGenerator": Model(
        lambda **k: bigmodels.models.ConvGenerator(5, (12, 12, 1), filters=(6, 4), **k),
        _noise,
        _generator_fit,
        _mse,
    ),
    "ConvDiscriminator": Model(
        lambda **k: bigmodels.models.ConvDiscriminator((12, 12, 1), filters=(4, 6), **k),
        _pictures,
        _judge_fit,
        _judge,
    ),
    "Forecaster": Model(
        lambda **k: bigmodels.models.Forecaster(("a", "b"), 12, 5, 8, 4, 0.1, **k),
        lambda rng, n: _waves(rng, n)[:, :12],
        lambda rng, n: np.split(_waves(rng, n), [12], axis=1),
        _mse,
    ),
    "GAN": Model(_gan, _noise, lambda rng, n: (_pictures(rng, n), None), lambda m: m.compile()),
    "GAN, steadied": Model(_steadied_gan, _noise, lambda rng, n: (_pictures(rng, n), None), _hinge),
    "Inpainter": Model(
        lambda **k: bigmodels.models.Inpainter((12, 12, 1), filters=(4, 6), **k),
        lambda rng, n: _with_holes(rng, n)[0],
        _with_holes,
        _mse,
    ),
    "InpaintingGAN": Model(
        _inpainting_gan,
        lambda rng, n: _with_holes(rng, n)[0],
        _with_holes,
        lambda m: m.compile(),
    ),
}


TEXT = "the quick brown fox jumps over the lazy dog. " * 60
TASKS = {
    "image_classification": {
        "strategy": "one_device",
        "model.filters": (2, 2),
        "model.dense_units": 8,
        "steps_per_epoch": 3,  # Of four: an epoch need not be the whole data.
        "batch_size": 16,
        "epochs": 2,
    },
    "text_generation": {
        "strategy": "one_device",
        "model.embedding_dim": 4,
        "model.rnn_units": 8,
        "data.length": 10,
        "data.evaluation_length": 20,
        "batch_size": 16,
        "epochs": 2,
    },
    "translation": {
        "strategy": "one_device",
        "model.embedding_dim": 8,
        "model.num_heads": 2,
        "model.feed_forward_dim": 8,
        "model.num_layers": 1,
        "data.vocab_size": 40,
        "data.max_length": 24,
        "batch_size": 16,
        "epochs": 2,
    },
    "image_generation": {
        "strategy": "one_device",
        "model.latent_dim": 4,
        "model.normalization": "spectral",
        "model.loss": "hinge",
        "model.r1": 1.0,
        "model.ema_momentum": 0.9,
        "judge_steps": 3,
        "batch_size": 16,
        "epochs": 2,
    },
    "driving": {
        "strategy": "one_device",
        "model.strided_filters": (2,),
        "model.filters": (2,),
        "model.dense_units": (4,),
        "data.image_size": (12, 16),
        "data.gap": 2,
        "batch_size": 16,
        "epochs": 2,
    },
    "time_series": {
        "strategy": "one_device",
        "model.rnn_units": 4,
        "model.segment": 3,
        "data.length": 12,
        "data.horizon": 3,
        "batch_size": 32,
        "epochs": 2,
    },
    "inpainting": {
        "strategy": "one_device",
        "model.filters": (2, 2),
        "batch_size": 16,
        "epochs": 2,
    },
    "object_detection": {
        "strategy": "one_device",
        "model.filters": (2, 2, 2),
        "model.head_filters": 4,
        "batch_size": 8,
        "epochs": 2,
    },
    "speech_recognition": {
        "strategy": "one_device",
        "model.rnn_units": 4,
        "model.num_layers": 1,
        "model.mel_bins": 8,
        "model.time_masks": 1,
        "model.frequency_masks": 1,
        "batch_size": 8,
        "epochs": 2,
    },
}


def write_sets(root):
    """Files of the user's own for every task; `{task: dataset}`."""
    rng = np.random.default_rng(0)
    for name, row in (("high", 2), ("low", 8)):
        (root / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 60, (12, 12, 1), "uint8")
            pixels[row : row + 2] = 250
            png = tf.io.encode_png(pixels).numpy()
            (root / "images" / name / f"{i}.png").write_bytes(png)
    (root / "text.txt").write_text(TEXT)
    words = ["one", "two", "three", "four"]
    pairs = [(f"{a} {i} {b}.", f"{b} {i} {a}!") for i in range(5) for a in words for b in words]
    (root / "pairs.tsv").write_text("\n".join(map("\t".join, pairs)))
    write_tub(root / "tub", 70)
    hours = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=i) for i in range(200)]
    waves = np.sin(np.arange(200)[:, None] / [3.8, 7.6]) + rng.normal(0, 0.1, (200, 2))
    rows = [f"{hour},{a:.3f},{b:.3f}" for hour, (a, b) in zip(hours, waves, strict=True)]
    (root / "series.csv").write_text("\n".join(["time,a,b", *rows]))
    for word, pitch in (("no", 0.3), ("yes", 1.2)):
        (root / "words" / word).mkdir(parents=True)
        for i in range(20):
            tone = 9000 * np.sin(np.arange(1000 + 20 * i) * pitch)
            (root / "words" / word / f"{i}.wav").write_bytes(wav(tone.astype("int16")))
    write_coco(root / "boxes")
    own = {
        "translation": f"pairs:{root / 'pairs.tsv'}",
        "speech_recognition": f"audio:{root / 'words'}",
        "image_classification": f"images:{root / 'images'}",
        "object_detection": f"coco:{root / 'boxes'}",
        "text_generation": f"text:{root / 'text.txt'}",
        "image_generation": f"images:{root / 'images'}",
        "driving": f"tub:{root / 'tub'}",
        "time_series": f"csv:{root / 'series.csv'}",
        "inpainting": f"images:{root / 'images'}",
    }
    # A task without files of its own is tried on its embedded set.
    return {name: tasks.get(name).config().dataset for name in tasks.NAMES} | own
