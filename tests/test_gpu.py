"""What holds on a GPU. Each in a process of its own: what is set there is for a whole process."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

_SETUP = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
import keras
import numpy as np
import tensorflow as tf
import bigmodels
from bigmodels import losses, models

rng = np.random.default_rng(0)
images = rng.uniform(-1, 1, (120, 28, 28, 1)).astype("float32")
labels = rng.integers(0, 10, 120).astype("int32")
tokens = rng.integers(1, 40, (2, 120, 10)).astype("int32")

def trained(kind, epochs=2, **kwargs):
    keras.utils.set_random_seed(3)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    adam = keras.optimizers.Adam(1e-3, epsilon=1e-3)
    if kind == "CNN":
        model, data = models.CNN(batch_normalization=True, padding="same"), (images, labels)
    elif kind == "RNN":
        model, data = models.RNN(40, 16, 32), tokens
    elif kind == "Transformer":
        model, data = models.Transformer(40, 32, 4, 64, 0.1, num_layers=2), tokens
    else:
        model, data = models.GAN(models.ConvGenerator(), models.ConvDiscriminator()), (images,)
    model.compile(*([] if kind == "GAN" else [adam, loss]))
    model.fit(*data, batch_size=30, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return model.get_weights()

def largest_difference(a, b):
    return max(float(np.abs(p - q).max()) for p, q in zip(a, b, strict=True))
"""
_KINDS = ("CNN", "RNN", "Transformer", "GAN")


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", _SETUP + script], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_deterministic_training_is_the_same_bit_for_bit():
    found = run(
        "bigmodels.distribute.deterministic()\n"
        f"for kind in {_KINDS}:\n"
        "    print(largest_difference(trained(kind), trained(kind)))"
    )
    assert found == ["0.0"] * 4


def test_deterministic_training_goes_on_bit_for_bit(tmp_path):
    found = run(
        "bigmodels.distribute.deterministic()\n"
        "from bigmodels.callbacks import BackupAndRestore\n"
        f"for kind in {_KINDS}:\n"
        f"    backup = lambda: [BackupAndRestore(r'{tmp_path}/' + kind, delete_checkpoint=False)]\n"
        "    trained(kind, epochs=1, callbacks=backup())\n"
        "    print(largest_difference(trained(kind), trained(kind, callbacks=backup())))"
    )
    assert found == ["0.0"] * 4


def test_two_gpus_train_as_one():
    """Four families in one process; cuDNN adds up 15 rows in another order than 30."""
    found = run(
        "gpu, = tf.config.list_physical_devices('GPU')[:1]\n"
        "parts = [tf.config.LogicalDeviceConfiguration(memory_limit=4000)] * 2\n"
        "tf.config.set_visible_devices([gpu], 'GPU')\n"
        "tf.config.set_logical_device_configuration(gpu, parts)\n"
        "tf.config.experimental.enable_tensor_float_32_execution(False)\n"
        f"for kind in {_KINDS}:\n"
        "    with tf.distribute.OneDeviceStrategy('GPU:0').scope(): one = trained(kind)\n"
        "    with bigmodels.distribute.strategy('mirrored').scope(): two = trained(kind)\n"
        "    print(largest_difference(one, two))"
    )
    assert len(found) == 4 and all(float(each) < 2e-4 for each in found), found


def test_xla_writes_what_the_graph_writes():
    found = run(
        "model = models.Transformer(40, 32, 4, 64, 0.0, num_layers=2, max_length=64)\n"
        "by = [model.generate(tokens[0, :4], length=20, temperature=0, jit_compile=jit)\n"
        "      for jit in (False, True)]\n"
        "print((by[0] == by[1]).mean() > 0.9)"
    )
    assert found == ["True"]


def test_a_batch_too_large_is_told_in_one_line(tmp_path):
    found = run(
        "gpu, = tf.config.list_physical_devices('GPU')[:1]\n"
        "part = [tf.config.LogicalDeviceConfiguration(memory_limit=600)]\n"
        "tf.config.set_logical_device_configuration(gpu, part)\n"
        "from bigmodels.commands.train import train\n"
        "settings = {'dataset': 'digits', 'epochs': 1, 'batch_size': 1200,\n"
        "            'model.filters': (512, 512)}\n"
        "try:\n"
        f"    train('image_classification', r'{tmp_path}/run', settings, verbose=0)\n"
        "except MemoryError as error:\n"
        "    print(error)"
    )
    assert " ".join(found).startswith("batch_size: 1200 needs more memory than the device has; ")
    assert found[-1] == "fits"
