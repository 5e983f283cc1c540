"""Where a model trains: the strategy by name, and the `Model` that is right under it."""

import tensorflow as tf

from bigmodels.distribute.model import Model

__all__ = ["STRATEGIES", "Model", "strategy"]

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
