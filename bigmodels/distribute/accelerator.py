"""What is known of the GPUs, and what XLA is told for them."""

import os

import tensorflow as tf

# Products by cuBLAS alone. XLA would write each itself in a hundred ways as well, with Triton, and
# compile and time them all: of a Transformer of four blocks 43 of 61 seconds, for the same speed.
_XLA_FLAG = "--xla_gpu_enable_triton_gemm=false"


def has_gpu():
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def compute_capability():
    """The least of all GPUs' compute capabilities, `(major, minor)`; `(0, 0)` without a GPU."""
    found = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min(found, default=(0, 0))


def compile_quickly():
    """Have XLA take a tenth of its time to compile for a GPU, unless `XLA_FLAGS` says otherwise.

    XLA reads its flags when it compiles for the first time in a process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if has_gpu() and _XLA_FLAG.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_XLA_FLAG}".strip()
