"""Sets that do not fit into memory, and runs that last: what is held does not grow."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as datasets

from bigmodels.data import images, load_images
from bigmodels.data.readers import tfds

_MB = 1_000_000
_ROOT = pathlib.Path(__file__).parents[2]

# What the child processes share: the resident memory in MB, and the most it was meanwhile.
_WATCH = """
import json, threading, time

def resident():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024 / 1e6

class Watch(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0
        self.start()

    def run(self):
        while True:
            self.most = max(self.most, resident())
            time.sleep(0.05)

began = time.time()
"""


def _child(code, *arguments):
    """Run code in a process of its own; the object its last line of output holds as JSON."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _write_set(data_dir, sizes, side, per_shard):
    """A prepared TFDS set `noise`: random pixels, the first two of which are the image's number.

    Noise does not compress, so the files are as large as the pixels. It is written in order.
    """
    features = datasets.features.FeaturesDict(
        {
            "image": datasets.features.Image(shape=(side, side, 3), encoding_format="png"),
            "label": datasets.features.ClassLabel(names=["even", "odd"]),
        }
    )
    identity = datasets.core.dataset_info.DatasetIdentity(
        name="noise",
        version=datasets.core.Version("1.0.0"),
        data_dir=str(data_dir / "noise" / "1.0.0"),
        module_name="",
    )
    info = datasets.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=("image", "label")
    )
    pathlib.Path(identity.data_dir).mkdir(parents=True)
    writer = datasets.core.SequentialWriter(info, max_examples_per_shard=per_shard)
    writer.initialize_splits([*sizes])
    rng = np.random.default_rng(0)
    for split, size in sizes.items():
        for start in range(0, size, 100):
            pixels = rng.integers(0, 256, (min(100, size - start), side, side, 3), "uint8")
            pixels[:, 0, 0, 0] = np.arange(start, start + len(pixels)) // 256
            pixels[:, 0, 0, 1] = np.arange(start, start + len(pixels)) % 256
            writer.add_examples(
                {
                    split: [
                        {
                            "image": io.BytesIO(tf.io.encode_png(image, compression=0).numpy()),
                            "label": (start + i) % 2,
                        }
                        for i, image in enumerate(pixels)
                    ]
                }
            )
    writer.close_all()


def _numbers(batches):
    """The images' numbers, batch by batch."""
    pixels = [np.rint(x[:, 0, 0, :2] * 255).astype(int) for x, _ in batches.as_numpy_iterator()]
    return [(p[:, 0] * 256 + p[:, 1]).tolist() for p in pixels]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """Of 1000 images for training the last 100 become validation: 900 in nine files."""
    directory = tmp_path_factory.mktemp("tfds")
    _write_set(directory, {"train": 1000, "test": 100}, 8, 100)
    return directory


@pytest.fixture
def streamed(monkeypatch):
    """Limits at which the small set (200 bytes an image) is streamed through a window of 100."""
    monkeypatch.setattr(images, "_CACHE_BYTES", 1100 * 200 - 1)
    monkeypatch.setattr(images, "_WINDOW_BYTES", 100 * 200)


def _epochs(data, first, count):
    batches = _numbers(data.train_from(first).take(18 * count))
    return [sum(batches[i : i + 18], []) for i in range(0, 18 * count, 18)]


@pytest.mark.thorough
def test_an_epoch_of_a_streamed_set_holds_every_image_once(small_set, streamed):
    data = load_images("noise", 50, data_dir=small_set)
    assert data.sizes == {"train": 900, "validation": 100, "test": 100}
    epochs = [*_epochs(data, 0, 3), sum(_numbers(data.train), [])]
    assert all(sorted(epoch) == list(range(900)) for epoch in epochs)
    assert sum(_numbers(data.validation), []) == list(range(900, 1000))
    assert sum(_numbers(data.test), []) == list(range(100))


@pytest.mark.thorough
def test_its_order_is_a_function_of_the_seed_and_the_epochs_number(small_set, streamed):
    data = load_images("noise", 50, data_dir=small_set, seed=1)
    epochs = _epochs(data, 0, 3)
    assert epochs[0] != epochs[1] != epochs[2]
    assert _epochs(data, 0, 3) == epochs
    tf.random.set_seed(5)
    again = load_images("noise", 50, data_dir=small_set, seed=1)
    assert _epochs(again, 1, 2) == epochs[1:]
    assert [sum(_numbers(again.train), []) for _ in range(3)] == epochs
    assert _epochs(load_images("noise", 50, data_dir=small_set, seed=2), 0, 1) != epochs[:1]


def test_its_window_is_as_small_as_told_and_still_mixes_all_files(small_set, streamed):
    data = load_images("noise", 50, data_dir=small_set)
    for order in _epochs(data, 0, 2):
        assert {number // 100 for number in order[:50]} == set(range(9))
        # Read in turns from nine files, image k of a file comes after 9 k others at least.
        ahead = [9 * (number % 100) - place for place, number in enumerate(order)]
        assert 50 < max(ahead) < 100


def test_a_window_holds_a_batch_at_least(small_set, streamed, monkeypatch):
    monkeypatch.setattr(images, "_WINDOW_BYTES", 1)
    (order,) = _epochs(load_images("noise", 50, data_dir=small_set), 0, 1)
    assert 25 < max(9 * (number % 100) - place for place, number in enumerate(order)) < 50


def test_files_are_opened_in_another_order_every_epoch(small_set, streamed, monkeypatch):
    monkeypatch.setattr(tfds, "_FILES_AT_ONCE", 2)
    monkeypatch.setattr(images, "_WINDOW_BYTES", 1)
    data = load_images("noise", 50, data_dir=small_set)
    first = [frozenset(n // 100 for n in order[:50]) for order in _epochs(data, 0, 5)]
    assert all(len(files) <= 2 for files in first) and len(set(first)) > 1


@pytest.mark.parametrize("limit", [1100 * 200, 1100 * 200 - 1])
def test_the_limit_of_the_cache_counts_all_splits(small_set, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(images, "_CACHE_BYTES", limit)
    shutil.copytree(small_set, tmp_path / "set")
    data = load_images("noise", 50, data_dir=tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    if limit == 1100 * 200:
        assert sorted(sum(_numbers(data.train), [])) == list(range(900))
        assert len(sum(_numbers(data.test), [])) == 100
    else:
        with pytest.raises(tf.errors.NotFoundError):
            _numbers(data.train)


@pytest.mark.thorough
def test_a_folder_too_large_for_the_cache_is_mixed_whole(tmp_path, rng, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 256, (6, 5, 3), "uint8")
            (tmp_path / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    held = load_images(f"images:{tmp_path}", 8)
    monkeypatch.setattr(images, "_CACHE_BYTES", 0)
    monkeypatch.setattr(images, "_WINDOW_BYTES", 1)
    streamed = load_images(f"images:{tmp_path}", 8)
    for a, b in zip(held.train_from(0).take(14), streamed.train_from(0).take(14), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_the_check_at_load_holds_few_images_at_once(monkeypatch):
    monkeypatch.setattr(images, "_CHECK_BYTES", 100 * (16 + 8))
    labels = np.arange(300) % 2
    labels[130] = 2
    elements = tf.data.Dataset.from_tensor_slices((np.zeros((300, 4, 4, 1), "uint8"), labels))
    with pytest.raises(ValueError, match="batch 1, element 30 holds 2"):
        images._checked_labels("train", "x", elements, 2)


@pytest.mark.slow
def test_training_on_four_gigabytes_takes_a_fraction_of_the_memory(tmp_path):
    """22,000 images of 256x256x3, 4.3 GB as files and as pixels, for five epochs."""
    try:
        _write_set(tmp_path, {"train": 20_000, "test": 2_000}, 256, 500)
        written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert written > 4_000 * _MB
        found = _child(_LARGE_SET, tmp_path)
    finally:
        shutil.rmtree(tmp_path)
    steps = found["steps"]
    assert len(steps) == 5 * 282
    # In the second epoch everything has been there once: two windows, while one follows the other,
    # and the validation's batches. A leak of the pixels would be 3,900 MB an epoch.
    assert max(steps[-282:]) - max(steps[282:564]) < 300
    assert found["most_in_check"] - found["imported"] < 500
    assert found["most"] - found["imported"] < 2000


_LARGE_SET = """
    import sys
    import keras
    import bigmodels

    layers = keras.layers
    bigmodels.Model
    watch = Watch()
    found = {"imported": resident()}
    data = bigmodels.data.load_images("noise", 64, data_dir=sys.argv[1])
    found |= {"most_in_check": watch.most, "check_seconds": time.time() - began}
    inputs = keras.Input(data.image_shape)
    x = layers.Conv2D(8, 8, strides=8, activation="relu")(inputs)
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    model = bigmodels.Model(inputs, outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steps = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(round(resident()))
    )
    began = time.time()
    length = int(data.train.cardinality())
    model.fit(
        data.train_from(0),
        epochs=5,
        steps_per_epoch=length,
        validation_data=data.validation,
        callbacks=[note],
        verbose=0,
    )
    found |= {"fit_seconds": time.time() - began, "most": watch.most, "steps": steps}
    print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["train", "fit"])
def test_ten_thousand_steps_without_growth(tmp_path, how):
    found = _child(_LONG_RUN[how], tmp_path / "run")
    assert len(found["resident"]) == 10
    # In the first thousand steps everything has been done once: checkpoint, validation, log.
    assert found["resident"][-1] - found["resident"][0] < 50


_LONG_RUN = {
    "train": """
    import pathlib, sys
    import bigmodels.commands.train

    class Epochs(threading.Thread):
        def run(self):
            seen = []
            while len(seen) < 10:
                time.sleep(0.02)
                path = pathlib.Path(sys.argv[1]) / "metrics.jsonl"
                if path.exists() and len(path.read_text().splitlines()) > len(seen):
                    seen.append(round(resident(), 1))
            self.seen = seen

    epochs = Epochs(daemon=True)
    epochs.start()
    settings = {
        "epochs": 10,
        "steps_per_epoch": 1000,
        "batch_size": 8,
        "model.filters": (2, 2),
        "model.dense_units": 4,
    }
    result = bigmodels.train("image_classification", sys.argv[1], settings, verbose=0)
    epochs.join(10)
    found = {"resident": epochs.seen, "steps": result["steps"], "seconds": result["seconds"]}
    print(json.dumps(found))
    """,
    "fit": """
    import keras
    import bigmodels

    data = bigmodels.data.load_images("digits", 8)
    inputs = keras.Input(data.image_shape)
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    model = bigmodels.Model(inputs, outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = {"resident": []}
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found["resident"].append(round(resident(), 1))
    )
    began = time.time()
    model.fit(
        data.train_from(0),
        epochs=10,
        steps_per_epoch=1000,
        validation_data=data.validation,
        callbacks=[note],
        verbose=0,
    )
    print(json.dumps(found | {"seconds": time.time() - began}))
    """,
}
