"""Which implementation a computation uses, depending on the hardware."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from bigmodels.distribute.accelerator import compute_capability, has_gpu
from bigmodels.distribute.upstream import GraphOrParentsInXlaContext


def in_xla() -> bool:
    """Whether the code runs inside a function that XLA compiles.

    Returns:
        `True` while such a function is traced.

    Example:

    >>> in_xla()
    False
    """
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def on_one_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy runs models on a single CPU, where Keras does not use XLA by default.

    Args:
        strategy: The strategy.

    Returns:
        `True` without a GPU and with one replica.

    Example:

    >>> isinstance(on_one_cpu(tf.distribute.get_strategy()), bool)
    True
    """
    return not has_gpu() and strategy.num_replicas_in_sync == 1


def described(model: keras.Model) -> dict[str, str]:
    """Describe which implementation each layer of a model uses in training.

    Args:
        model: A compiled model.

    Returns:
        A dict from names to implementations: first the whole step, then the layers that have
        several implementations, by their paths in the model; layers with the same one share a key.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2)])
    >>> model.compile(jit_compile=False)
    >>> described(model)
    {'step': 'TensorFlow graph, without XLA'}
    """
    step = "compiled by XLA" if model.jit_compile else "TensorFlow graph, without XLA"
    by_kernel = {}
    for layer in model._flatten_layers():
        if hasattr(layer, "describe_kernel"):
            kernel = layer.describe_kernel(training=True, jit_compile=model.jit_compile)
            by_kernel.setdefault(kernel, []).append(layer.path.removeprefix(f"{model.path}/"))
    return {"step": step} | {", ".join(paths): kernel for kernel, paths in by_kernel.items()}


def precision(policy: str) -> tuple[str, str]:
    """Choose the dtype policy for the setting "auto".

    GPUs are many times faster in half precision. From compute capability 8.0 on they support
    bfloat16, which needs no loss scaling. CPUs stay in float32: bfloat16 is faster for some models
    (convolutions 1.5 times with AMX), but an LSTM falls back to a loop that takes 1.3 times as
    long, and all results would change in their first digits (`tools/bench options`). GPUs were not
    measured.

    Args:
        policy: Name of a Keras dtype policy, or "auto".

    Returns:
        `(policy, reason)`.

    Example:

    >>> precision("mixed_bfloat16")
    ('mixed_bfloat16', 'set explicitly')
    """
    if policy != "auto":
        return policy, "set explicitly"
    if tf.config.list_logical_devices("TPU"):
        return "mixed_bfloat16", "supported by the TPU"
    if not tf.config.list_physical_devices("GPU"):
        return "float32", "there is no accelerator"
    slowest = compute_capability()
    why = f"the GPU has compute capability {slowest[0]}.{slowest[1]}"
    if slowest >= (8, 0):
        return "mixed_bfloat16", why
    return ("mixed_float16" if slowest >= (7, 0) else "float32"), why


@contextlib.contextmanager
def dtype_policy(policy: str | keras.DTypePolicy) -> Iterator[None]:
    """Set Keras' global dtype policy within a `with` block.

    Args:
        policy: A Keras dtype policy, or its name.

    Example:

    >>> with dtype_policy("mixed_bfloat16"):
    ...     keras.layers.Dense(2).compute_dtype
    'bfloat16'
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
