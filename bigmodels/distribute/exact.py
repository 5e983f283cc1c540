"""What must be computed over the global batch for several replicas to train as one device does.

Plain Keras computes each of these per replica: the statistics of batch normalisation, and
everything the optimizer does to a gradient before it is summed. For losses and metrics see
`bigmodels.distribute.global_batch`.
"""

import contextlib
import threading
import types

import keras
import tensorflow as tf

from bigmodels.distribute import replicas
from bigmodels.distribute.upstream import BaseOptimizer, TFOptimizer


def _moments(layer, inputs, mask):
    """Mean and variance over the rows of all replicas; twice through, as on one device.

    `synchronized=True` in Keras takes E[x^2] - E[x]^2, which cancels, and ignores the mask.
    """
    axes = layer._reduction_axes
    weights = tf.ones_like(inputs)
    if mask is not None:
        weights = tf.cast(tf.broadcast_to(mask[..., None], tf.shape(inputs)), inputs.dtype)
    weights *= replicas.real(inputs.dtype)
    number = replicas.all_sum(tf.reduce_sum(weights, axes))
    if mask is not None:
        number += keras.backend.epsilon()  # As Keras does.
    total = replicas.all_sum(tf.reduce_sum(inputs * weights, axes))
    mean = tf.math.divide_no_nan(total, number)
    broadcast = [1 if i in axes else -1 for i in range(inputs.shape.rank)]
    offset = (inputs - tf.reshape(tf.stop_gradient(mean), broadcast)) * weights
    squares = replicas.all_sum(tf.reduce_sum(tf.square(offset), axes))
    return mean, tf.math.divide_no_nan(squares, number)


@contextlib.contextmanager
def batch_statistics(model):
    """While a step is traced, let batch normalisation see the whole global batch."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in layers:
        layer._moments = types.MethodType(_moments, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer._moments


class _OwnLosses(threading.local):
    """A list of which every replica's thread has its own."""

    def __init__(self):
        self.items = []

    def append(self, loss):
        self.items.append(loss)

    def extend(self, losses):
        self.items.extend(losses)

    def clear(self):
        self.items.clear()

    def __getitem__(self, where):
        return self.items[where]

    def __iter__(self):
        return iter(self.items)


@contextlib.contextmanager
def added_losses(model):
    """While a step is traced, keep apart what the layers of different replicas `add_loss`.

    The layers are shared, and the replicas' threads take turns between a layer's call and the
    moment the losses are collected.
    """
    before = {layer: vars(layer)["_losses"] for layer in model._flatten_layers()}
    for layer in before:
        vars(layer)["_losses"] = _OwnLosses()  # Past Keras' tracking of attributes.
    try:
        yield
    finally:
        for layer, losses in before.items():
            vars(layer)["_losses"] = losses


def wrap_apply(optimizer):
    """Let an optimizer's `apply` begin with the sum over the replicas, and a look at its numbers.

    Only this one object changes.

    Args:
        optimizer: A `keras.optimizers.Optimizer`; may be given again. If it has a `_watch`, that
            decides whether the step is made; see `bigmodels.distribute.finite`.
    """
    if "_wrap_apply" in vars(optimizer):
        return
    plain, scale_loss = optimizer.apply, optimizer.scale_loss
    losses = _OwnLosses()  # Replicas are traced by threads that take turns.

    def note_loss(self, loss):
        losses.append(loss)
        return scale_loss(loss)

    def apply(self, grads, trainable_variables=None):
        watch = getattr(self, "_watch", None)
        given = [grad for grad in grads if grad is not None]
        given += [watch.bad(losses[-1:])] if watch else []
        losses.clear()
        summed = replicas.reduce_sum(given) if replicas.in_replica() else given
        bad = summed.pop() if watch else None
        summed = iter(summed)
        grads = [None if grad is None else next(summed) for grad in grads]
        if watch is None:
            return plain(grads, trainable_variables)
        return watch.apply(self, plain, grads, trainable_variables, bad)

    optimizer._wrap_apply = True
    optimizer.scale_loss = types.MethodType(note_loss, optimizer)
    optimizer.apply = types.MethodType(apply, optimizer)


def sum_gradients(optimizer):
    """Make an optimizer sum the gradients of all replicas first, then do as on one device.

    Keras clips, accumulates and checks for overflow per replica, and sums afterwards. Here every
    replica does the same to the same sum, on its own copy of the variables: what Keras overrides
    for `tf.distribute` gives way to what it does without. Only this one object changes.

    Args:
        optimizer: A `keras.optimizers.Optimizer`; may be given again.
    """
    wrap_apply(optimizer)
    for each in _parts(optimizer):
        # What has been summed is not summed again, also where a class has an update of its own.
        each._all_reduce_sum_gradients = lambda grads_and_variables: list(grads_and_variables)
        for name in (
            "_backend_update_step",
            "_apply_weight_decay",
            "_backend_increment_gradient_accumulators",
            "_overwrite_model_variables_with_average_value",
        ):
            if getattr(type(each), name) is getattr(TFOptimizer, name):
                setattr(each, name, types.MethodType(getattr(BaseOptimizer, name), each))


def _parts(optimizer):
    """The optimizers that update variables, within one that only wraps others."""
    inner = getattr(optimizer, "inner_optimizer", None)
    within = [inner] if inner is not None else getattr(optimizer, "optimizers", ())
    return [part for each in within for part in _parts(each)] if within else [optimizer]
