"""Where a model trains: the strategy by name, and the `Model` that is right under it."""

import tensorflow as tf

from bigmodels.distribute.model import Model

__all__ = ["STRATEGIES", "Model", "make_cpu_devices", "strategy"]

STRATEGIES = ("auto", "one_device")


def strategy(name="auto"):
    """The `tf.distribute` strategy of that name.

    Args:
        name: `"one_device"`, or `"auto"`, which today is the same: one device, the first GPU
            where there is one.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if the name is not one of `STRATEGIES`.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy: {name!r} is not one of {', '.join(STRATEGIES)}")
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    return tf.distribute.OneDeviceStrategy(device)


def make_cpu_devices(count):
    """Split the CPU into logical devices, to try several without GPUs.

    Args:
        count: How many; must be asked for before TensorFlow has used the CPU.

    Raises:
        ValueError: if `count` is not positive, or TensorFlow has started already.
    """
    if count < 1:
        raise ValueError(f"count: {count!r}, expected a positive integer")
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        raise ValueError(f"count: {count}, but TensorFlow has already started") from error
