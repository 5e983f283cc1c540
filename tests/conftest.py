"""One TensorFlow process for all tests; nothing leaks from one to the next."""

import os
import pickle
import signal

# Before TensorFlow is imported: its C++ log would drown pytest's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from bigmodels.distribute import make_cpu_devices

# Whoever starts the tests in the background may have it ignored, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
make_cpu_devices(3)  # For the strategies; what asks for none uses the first.


# What takes long to make: all tests that ask for it are thorough ones.
DEAR = {"searched", "compared", "forecast_run", "seen_by_workers"}


@pytest.hookimpl(tryfirst=True)  # Before pytest chooses by markers.
def pytest_collection_modifyitems(items):
    for item in items:
        if DEAR.intersection(item.fixturenames):
            item.add_marker("thorough")


@pytest.fixture(autouse=True)
def _fresh_state():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tfds_dir():
    directory = os.environ.get("TFDS_DATA_DIR")
    if not directory:
        pytest.skip("TFDS_DATA_DIR is not set")
    return directory


def made_once(tmp_path_factory, name, make):
    """What `make(directory)` gives, made by the first of the test processes that asks for it.

    Their tests are told apart by number, not by file: both may need what is dear to make.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # Of this run of the tests, and common to its processes.
    kept = root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        if "PYTEST_XDIST_WORKER" in os.environ:
            import fcntl  # Not on Windows, where the tests run in one process.

            fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            directory = root / name
            directory.mkdir()
            kept.write_bytes(pickle.dumps(make(directory)))
        return pickle.loads(kept.read_bytes())


def striped_images(rng, count, size=12, classes=3, channels=1):
    """Images whose class can be learnt in seconds: a bright stripe at the class's height."""
    labels = rng.integers(0, classes, count)
    images = rng.uniform(0, 0.2, (count, size, size, channels)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        image[label * size // classes : label * size // classes + 2] += 0.8
    return images, labels


def counting_tokens(rng, count, length, vocab_size):
    """Token sequences in which the next token is the last plus one (never padding)."""
    starts = rng.integers(0, vocab_size - 1, (count, 1))
    return (starts + np.arange(length)) % (vocab_size - 1) + 1


@pytest.fixture(scope="session")
def gpu():
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU")
