"""What is known of the GPUs, and what XLA is told for them."""

import os

import tensorflow as tf

# Products by cuBLAS alone. XLA would write each itself in a hundred ways as well, with Triton, and
# compile and time them all: of a Transformer of four blocks 43 of 61 seconds, for the same speed.
_XLA_FLAG = "--xla_gpu_enable_triton_gemm=false"

# What TensorFlow raises where XLA has no way to compile a program.
NOT_COMPILED = (tf.errors.InternalError, tf.errors.UnimplementedError)


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
    """Have XLA take a third of its time to compile for a GPU, unless `XLA_FLAGS` says otherwise.

    It reads the flags once, when TensorFlow starts the GPU: this is called when the package is
    imported. Without a GPU the flag means nothing.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _XLA_FLAG.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_XLA_FLAG}".strip()


def why_not_compiled(error):
    """What XLA says of a program that it cannot compile, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = (line for line in lines if line and not line.startswith(("Graph execution", "Detected")))
    return next(said, type(error).__name__)[:200]
