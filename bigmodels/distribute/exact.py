"""Batch statistics and gradients of the global batch, so that replicas train as one device does.

Plain Keras computes both per replica: the statistics of batch normalisation, and everything the
optimizer does to a gradient before gradients are summed. For losses and metrics see
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
    """Mean and variance over the rows of all replicas, in two passes as on one device.

    `synchronized=True` in Keras computes E[x^2] - E[x]^2, which loses precision to cancellation,
    and ignores the mask.
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
    """While a step is traced, compute batch normalisation over the whole global batch."""
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
    """A list with separate items for every replica's thread."""

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
    """While a step is traced, separate the losses that layers `add_loss` in different replicas.

    The layers are shared, and the replicas' threads may take turns between a layer's call and the
    collection of its losses.
    """
    before = {layer: vars(layer)["_losses"] for layer in model._flatten_layers()}
    for layer in before:
        vars(layer)["_losses"] = _OwnLosses()  # Bypasses Keras' attribute tracking.
    try:
        yield
    finally:
        for layer, losses in before.items():
            vars(layer)["_losses"] = losses


def wrap_apply(optimizer):
    """Make an optimizer's `apply` sum gradients over the replicas and check them first.

    Only this one object changes.

    Args:
        optimizer: A `keras.optimizers.Optimizer`; may be passed again. If it has a `_watch`, that
            decides whether the step is applied; see `bigmodels.distribute.finite`.
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
    """Make an optimizer sum the gradients of all replicas first, then update as on one device.

    Keras clips, accumulates and checks for overflow per replica, and sums afterwards. Here every
    replica applies the same update with the same sum to its own copy of the variables: Keras'
    overrides for `tf.distribute` are replaced by the methods of the base class. Only this one
    object changes.

    Args:
        optimizer: A `keras.optimizers.Optimizer`; may be passed again.
    """
    wrap_apply(optimizer)
    for part in _parts(optimizer):
        # The gradients are summed already, also for a class with its own update.
        part._all_reduce_sum_gradients = lambda grads_and_variables: list(grads_and_variables)
        for name in (
            "_backend_update_step",
            "_apply_weight_decay",
            "_backend_increment_gradient_accumulators",
            "_overwrite_model_variables_with_average_value",
        ):
            if getattr(type(part), name) is getattr(TFOptimizer, name):
                setattr(part, name, types.MethodType(getattr(BaseOptimizer, name), part))


def _parts(optimizer):
    """The optimizers that update variables; several if the given one wraps others."""
    inner = getattr(optimizer, "inner_optimizer", None)
    wrapped = [inner] if inner is not None else getattr(optimizer, "optimizers", ())
    return [part for other in wrapped for part in _parts(other)] if wrapped else [optimizer]
