"""Which implementation a computation takes: what is fast here depends on where it runs."""

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext


def has_gpu():
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def in_xla():
    """Whether what is traced here and now will be compiled by XLA."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def described(model):
    """Which implementation each layer of a model takes in training, and why not a faster one.

    Args:
        model: A compiled `keras.Model`.

    Returns:
        `{what: kernel}`: the whole step first, then every layer that has a choice, by its path.
    """
    found = {"step": "compiled by XLA" if model.jit_compile else "TensorFlow graph, without XLA"}
    for layer in model._flatten_layers():
        if hasattr(layer, "describe_kernel"):
            found[layer.path] = layer.describe_kernel(training=True, jit_compile=model.jit_compile)
    return found
