"""Which implementation a computation takes: what is fast here depends on where it runs."""

import contextlib

import keras
import tensorflow as tf

from bigmodels.distribute.accelerator import compute_capability, has_gpu
from bigmodels.distribute.upstream import GraphOrParentsInXlaContext


def in_xla():
    """Whether what is traced here and now will be compiled by XLA."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def on_one_cpu(strategy):
    """Whether a strategy's models run on one CPU device, where XLA is not Keras' choice."""
    return not has_gpu() and strategy.num_replicas_in_sync == 1


def described(model):
    """Which implementation each layer of a model takes in training, and why not a faster one.

    Args:
        model: A compiled `keras.Model`.

    Returns:
        `{what: kernel}`: the whole step first, then the layers that have a choice, those alike
        together, by their paths in the model.
    """
    step = "compiled by XLA" if model.jit_compile else "TensorFlow graph, without XLA"
    alike = {}
    for layer in model._flatten_layers():
        if hasattr(layer, "describe_kernel"):
            kernel = layer.describe_kernel(training=True, jit_compile=model.jit_compile)
            alike.setdefault(kernel, []).append(layer.path.removeprefix(f"{model.path}/"))
    return {"step": step} | {", ".join(paths): kernel for kernel, paths in alike.items()}


def precision(policy):
    """The dtype policy behind `auto`.

    A GPU multiplies in half precision many times faster, in bfloat16, which needs no scaled loss,
    from compute capability 8.0 on. A CPU does so in some models (convolutions 1.5 times faster with
    AMX), but an LSTM then falls back to a loop that takes 1.3 times as long, and the first digits
    of every number would change: `tools/bench options`. GPUs were not measured here.

    Args:
        policy: A Keras dtype policy's name, or "auto".

    Returns:
        `(policy, why)`.
    """
    if policy != "auto":
        return policy, "you asked for it"
    if tf.config.list_logical_devices("TPU"):
        return "mixed_bfloat16", "a TPU multiplies in it"
    if not tf.config.list_physical_devices("GPU"):
        return "float32", "there is no accelerator"
    slowest = compute_capability()
    why = f"the GPU has compute capability {slowest[0]}.{slowest[1]}"
    if slowest >= (8, 0):
        return "mixed_bfloat16", why
    return ("mixed_float16" if slowest >= (7, 0) else "float32"), why


@contextlib.contextmanager
def dtype_policy(policy):
    """Make layers under a policy, and go back to what was before.

    Args:
        policy: A Keras dtype policy, or its name.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
