"""What must be computed over the global batch for several replicas to train as one device does.

Plain Keras computes each of these per replica: the loss's mean, the statistics of batch
normalisation, and everything the optimizer does to a gradient before it is summed.
"""

import contextlib
import functools
import threading
import types

import keras
import tensorflow as tf
from keras import ops
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.losses.loss import apply_mask, squeeze_or_expand_to_same_rank
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.compile_utils import get_loss

from bigmodels.distribute import replicas


class GlobalMean(keras.losses.Loss):
    """A loss of which every replica computes its share: the shares add up to the loss of the batch.

    Keras divides by the elements of a replica and by the number of replicas, which is a mean of
    means: wrong wherever replicas hold different numbers of rows or of unmasked tokens.

    Args:
        loss: What Keras takes for a loss.
        every_row: Whether it is given all rows of the batch, or each equally often, so that the
            batch's size follows from the replica's without asking the others.

    Raises:
        ValueError: when called, if the loss computes its mean itself, or is not computed row by row
            (Dice, Circle): no share of it can be told then.
    """

    def __init__(self, loss, every_row=False):
        self.loss, self.every_row = loss, every_row
        name = loss if isinstance(loss, str) else getattr(loss, "name", None)
        super().__init__(name=name or getattr(loss, "__name__", "loss"))

    def __call__(self, y_true, y_pred, sample_weight=None):
        loss = get_loss(self.loss, y_true, y_pred)
        if type(loss).__call__ is not keras.losses.Loss.__call__:
            raise ValueError(
                f"loss: {type(loss).__name__} has a __call__ of its own, so that its mean over "
                "several replicas cannot be told; override call() instead"
            )
        if loss.reduction in (None, "none"):
            raise ValueError(f"loss: {loss.name!r} has reduction='none', which is no one number")
        if not replicas.in_replica():
            return loss(y_true, y_pred, sample_weight)
        # As `keras.losses.Loss.__call__`, up to what the sum is divided by.
        in_mask = getattr(y_pred, "_keras_mask", None)
        to_tensor = functools.partial(ops.convert_to_tensor, dtype=loss.dtype)
        with keras.name_scope(loss.name):
            values = loss.call(
                tf.nest.map_structure(to_tensor, y_true), tf.nest.map_structure(to_tensor, y_pred)
            )
            if values.shape.rank == 0 or isinstance(loss, keras.losses.Circle):
                raise ValueError(
                    f"loss: {loss.name!r} is not computed row by row, so that replicas which hold "
                    "some rows each cannot tell the loss of the batch"
                )
            out_mask = getattr(values, "_keras_mask", None)
            masks = [tf.cast(mask, "bool") for mask in (in_mask, out_mask) if mask is not None]
            mask = functools.reduce(tf.logical_and, masks) if masks else None
            divisor = tf.cast(tf.size(values), values.dtype)
            if mask is not None:
                valid = tf.reduce_sum(tf.cast(mask, values.dtype))
                per_entry = tf.cast(tf.size(mask), values.dtype)
                divisor = tf.math.divide_no_nan(divisor * valid, per_entry)
            known = self.every_row and mask is None
            if sample_weight is not None:
                sample_weight = to_tensor(sample_weight)
            weight = apply_mask(sample_weight, mask, values.dtype, "sum")
            if weight is not None:
                weight = tf.cast(weight, values.dtype)
                values, weight = squeeze_or_expand_to_same_rank(values, weight)
                values = values * weight
                if loss.reduction == "mean_with_sample_weight":
                    divisor, known = tf.reduce_sum(weight), False
            real = replicas.real(values.dtype)
            total = tf.reduce_sum(values) * real
            if loss.reduction == "sum":
                return total
            if known:
                return total * replicas.rows().weight(total.dtype) / divisor
            return tf.math.divide_no_nan(total, replicas.all_sum(divisor * real))


def share(loss, y_true, y_pred, sample_weight=None, every_row=False):
    """A replica's share of a loss over the global batch, for a `train_step` of one's own.

    Args:
        loss: A `keras.losses.Loss` or what `keras.losses.get` takes.
        y_true: Targets of the replica's rows.
        y_pred: The model's outputs for them.
        sample_weight: Their weights.
        every_row: Whether these are all rows of the batch, or each equally often; saves a message
            between the replicas.

    Returns:
        A scalar; the sum over all replicas is the loss. With one replica, the loss itself.

    Raises:
        ValueError: as `GlobalMean`.
    """
    return GlobalMean(loss, every_row)(y_true, y_pred, sample_weight)


def share_losses(compile_loss):
    """Turn the losses that `compile` was given into shares; may be called again.

    Args:
        compile_loss: Keras' container of them. `model.loss`, which is saved, stays what it was.
    """

    def shared(loss):
        known = loss is None or isinstance(loss, GlobalMean)
        return loss if known else GlobalMean(loss, every_row=True)

    compile_loss._user_loss = tf.nest.map_structure(shared, compile_loss._user_loss)
    if compile_loss.built:
        compile_loss._flat_losses = [
            each._replace(loss=shared(each.loss)) for each in compile_loss._flat_losses
        ]


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


def own_apply(optimizer):
    """Let an optimizer's `apply` begin with the sum over the replicas, and a look at its numbers.

    Only this one object changes.

    Args:
        optimizer: A `keras.optimizers.Optimizer`; may be given again. If it has a `_watch`, that
            decides whether the step is made; see `bigmodels.distribute.finite`.
    """
    if "_own_apply" in vars(optimizer):
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
        summed = replicas.all_sum(given)
        bad = summed.pop() if watch else None
        summed = iter(summed)
        grads = [None if grad is None else next(summed) for grad in grads]
        if watch is None:
            return plain(grads, trainable_variables)
        return watch.apply(self, plain, grads, trainable_variables, bad)

    optimizer._own_apply = True
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
    own_apply(optimizer)
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
