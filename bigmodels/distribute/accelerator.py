"""Properties of the GPUs, and XLA's options for them."""

import os

import tensorflow as tf

# Matrix products by cuBLAS only. Otherwise XLA also generates about a hundred Triton kernels for
# each product, compiles and times them all: 43 of 61 seconds for a Transformer of four blocks, with
# no faster result.
_XLA_FLAG = "--xla_gpu_enable_triton_gemm=false"

# What TensorFlow raises when XLA cannot compile a program.
NOT_COMPILED = (tf.errors.InternalError, tf.errors.UnimplementedError)


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def compute_capability() -> tuple[int, int]:
    """The lowest compute capability of all GPUs, `(major, minor)`; `(0, 0)` without a GPU."""
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min(capabilities, default=(0, 0))


def compile_quickly() -> None:
    """Let XLA compile for a GPU in a third of the time, unless `XLA_FLAGS` says otherwise.

    XLA reads its flags once, when TensorFlow starts the GPU, so the package calls this on import.
    Without a GPU the flag has no effect.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _XLA_FLAG.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_XLA_FLAG}".strip()


def why_not_compiled(error: Exception) -> str:
    """XLA's reason for not compiling a program, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = (
        line for line in lines if line and not line.startswith(("Graph execution", "Detected"))
    )
    return next(reasons, type(error).__name__)[:200]
