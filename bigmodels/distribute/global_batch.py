"""Losses and metrics of the whole batch, computed by several replicas.

Losses and metrics that are known to treat each row on its own are summed over the replicas. Every
replica computes all others from the gathered rows of all replicas.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from bigmodels.distribute import replicas
from bigmodels.distribute.recognition import CLASSES, DECLARED, is_row_by_row
from bigmodels.distribute.upstream import (
    CompileMetrics,
    apply_mask,
    get_keras_mask,
    get_loss,
    set_keras_mask,
    squeeze_or_expand_to_same_rank,
)

_SUMS = keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2


class GlobalMean(keras.losses.Loss):
    """A loss whose value on each replica is its share: the shares add up to the loss of the batch.

    Keras divides by the elements of a replica and by the number of replicas. That is a mean of
    means, which is wrong if replicas hold different numbers of rows or of unmasked tokens. A loss
    that is not known to be computed row by row (see `row_by_row`) is computed from all rows by
    every replica.

    Args:
        loss: Anything that Keras accepts as a loss.
        every_row: Whether it is called with every row of the replica's batch, or each equally
            often. The batch's size then follows from the replica's, without asking the others.

    Raises:
        ValueError: when called, if the loss is not a scalar, or its rows cannot be gathered.
    """

    def __init__(self, loss, every_row=False):
        self.loss, self.every_row = loss, every_row
        name = loss if isinstance(loss, str) else getattr(loss, "name", None)
        super().__init__(name=name or getattr(loss, "__name__", "loss"))

    def __call__(self, y_true, y_pred, sample_weight=None):
        loss = get_loss(self.loss, y_true, y_pred)
        if getattr(loss, "reduction", None) in (None, "none") and _keras_calls(loss):
            raise ValueError(f"loss: {loss.name!r} has reduction='none', expected a scalar")
        if not replicas.in_replica():
            return loss(y_true, y_pred, sample_weight)
        if not (_keras_calls(loss) and is_row_by_row(loss, y_pred)):
            return self._of_all_rows(loss, y_true, y_pred, sample_weight)
        # As `keras.losses.Loss.__call__`, except for the divisor of the sum.
        in_mask = get_keras_mask(y_pred)
        to_tensor = functools.partial(ops.convert_to_tensor, dtype=loss.dtype)
        with keras.name_scope(loss.name):
            values = loss.call(
                tf.nest.map_structure(to_tensor, y_true), tf.nest.map_structure(to_tensor, y_pred)
            )
            if values.shape.rank == 0:
                raise ValueError(f"loss: {loss.name!r} is not row by row: it returns a scalar")
            out_mask = get_keras_mask(values)
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

    def _of_all_rows(self, loss, y_true, y_pred, sample_weight):
        name = f"loss: {loss.name!r}"
        given = _gathered(name, (y_true, y_pred, sample_weight), self.every_row)
        with replicas.as_one_device():
            whole = loss(*given)
        if whole.shape.rank != 0:
            raise ValueError(f"{name} has shape {whole.shape}, expected a scalar")
        # Each replica's share is in proportion to its rows.
        return whole * replicas.rows().weight(whole.dtype)


def _keras_calls(loss):
    """Whether `keras.losses.Loss` itself reduces the values of `call` to a scalar."""
    return type(loss).__call__ is keras.losses.Loss.__call__


def _gathered(name, values, every_row=True, again=True):
    """Gather tensors, with their masks, from all replicas.

    Args:
        name: Loss, metric or regularizer that needs them, for messages.
        values: Nested tensors; `None` and scalars are returned unchanged.
        every_row: As for `replicas.all_gather`.
        again: Whether to gather tensors again that were gathered in this step. Reused tensors may
            have no gradient.

    Returns:
        The same structure.

    Raises:
        ValueError: if the tensors are not rows.
    """
    cache = replicas.gathered()
    rows = [v for v in tf.nest.flatten(values) if hasattr(v, "shape") and v.shape.rank != 0]
    masks = [get_keras_mask(v) for v in rows]
    wanted = {id(v): v for v in [*rows, *masks] if v is not None and (again or id(v) not in cache)}
    try:
        gathered = replicas.gather_alike(list(wanted.values()), every_row) if wanted else []
    except ValueError as error:
        raise ValueError(f"{name} takes the rows of all replicas, but {error}") from error
    # The cache holds the tensors too, as Python may reuse the `id` of a deleted one.
    cache.update((key, pair) for key, *pair in zip(wanted, wanted.values(), gathered, strict=True))
    for tensor, mask in zip(rows, masks, strict=True):
        if mask is not None:
            set_keras_mask(cache[id(tensor)][1], cache[id(mask)][1])
    return tf.nest.map_structure(lambda v: cache[id(v)][1] if id(v) in cache else v, values)


def share(
    loss: str | Callable | keras.losses.Loss,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    every_row: bool = False,
) -> tf.Tensor:
    """Compute a replica's share of a loss over the global batch, for a custom `train_step`.

    Args:
        loss: A `keras.losses.Loss` or anything that `keras.losses.get` accepts.
        y_true: Targets of the replica's rows, as the loss takes them.
        y_pred: The model's outputs for these rows.
        sample_weight: Weights of the rows, `(batch,)`, or `None`.
        every_row: Whether these are all rows of the replica's batch, or each equally often; saves a
            message between the replicas.

    Returns:
        A scalar; its sum over all replicas is the loss. With one replica, the loss itself.

    Raises:
        ValueError: if the loss is not a scalar, or its rows cannot be gathered.

    Example:

    >>> y_true, y_pred = np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]])
    >>> float(bigmodels.distribute.share("mean_squared_error", y_true, y_pred))
    5.0
    """
    # TensorFlow takes no outermost scope that begins with "_", as a function's name may.
    with keras.name_scope("share"):
        return GlobalMean(loss, every_row)(y_true, y_pred, sample_weight)


def share_losses(compile_loss):
    """Turn the losses given to `compile` into shares; may be called again.

    Args:
        compile_loss: Keras' container of the losses. `model.loss`, which is saved, is unchanged.
    """

    def shared(loss):
        known = loss is None or isinstance(loss, GlobalMean)
        return loss if known else GlobalMean(loss, every_row=True)

    compile_loss._user_loss = tf.nest.map_structure(shared, compile_loss._user_loss)
    if compile_loss.built:
        compile_loss._flat_losses = [
            entry._replace(loss=shared(entry.loss)) for entry in compile_loss._flat_losses
        ]


@contextlib.contextmanager
def whole_updates(model):
    """While a step is traced, compute from all rows what may not add up over the replicas.

    These are the metrics given to `compile`, except those known to count row by row, and custom
    activity regularizers.
    """
    changed = [(metric, "update_state", _update) for metric in _compiled_metrics(model)]
    changed += [
        (layer, "activity_regularizer", _regularize)
        for layer in model._flatten_layers()
        if type(layer.activity_regularizer) not in (type(None), *_SUMS)
    ]
    before = [vars(owner).get(name) for owner, name, _ in changed]
    for owner, name, replacement in changed:
        vars(owner)[name] = functools.partial(replacement, owner, getattr(owner, name))
    try:
        yield
    finally:
        for (owner, name, _), old in zip(changed, before, strict=True):
            if old is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = old


def _compiled_metrics(model):
    container = getattr(model, "_compile_metrics", None)
    return [] if container is None else list({id(m): m for m in container.metrics}.values())


def _update(metric, plain, y_true, y_pred, sample_weight=None):
    """The replacement of a metric's `update_state`.

    A replica's variables are its part of a sum (`steps.step_function`, `resume.get_state`). The
    first replica holds the values of one device and the others hold zeros; after a reset by Keras,
    each holds its part of the initial value. Variables that are not summed are the same on all.
    """
    summed = [v for v in metric.variables if v.aggregation == "sum"]
    if len(summed) == len(metric.variables) and is_row_by_row(metric, y_pred):
        return plain(y_true, y_pred, sample_weight=sample_weight)
    given = (y_true, y_pred, sample_weight)
    y_true, y_pred, sample_weight = _gathered(f"metrics: {metric.name!r}", given, again=False)
    states = replicas.reduce_sum([v.value + 0 for v in summed])
    for variable, state in zip(summed, states, strict=True):
        variable.assign(state)
    with replicas.as_one_device():
        plain(y_true, y_pred, sample_weight=sample_weight)
    for variable in summed:
        variable.assign(replicas.of_first(variable.value + 0))
    replicas.note_whole(metric.variables)


def _regularize(layer, plain, output):
    """The replacement of an activity regularizer that may depend on several rows at once."""
    name = f"activity_regularizer: of layer {layer.name!r}"
    (output,) = _gathered(name, (output,))
    with replicas.as_one_device():
        whole = plain(output)
    # Keras divides by the replica's rows, and `Model` multiplies by their share of the batch.
    return whole * replicas.rows().weight(whole.dtype)


def check_metrics(model):
    """Refuse metrics created outside the scope, and those of the model that may not add up.

    Args:
        model: A `bigmodels.Model` in its strategy's scope.

    Raises:
        ValueError: naming the metric.
    """
    compiled = _compiled_metrics(model)
    theirs = {id(v) for metric in compiled for v in metric.variables}
    for variable in model.metrics_variables:
        if variable.aggregation != "sum" and id(variable) not in theirs:
            raise ValueError(
                f"metrics: {variable.path} has aggregation={variable.aggregation!r}, expected "
                "'sum', as a metric's counts are added up over the replicas; or give the metric to "
                "compile"
            )
    for metric in model.metrics:
        kind = type(metric)
        known = kind in CLASSES or kind in DECLARED or kind is CompileMetrics
        if not (known or model.supports_replicas or metric in compiled):
            raise ValueError(
                f"metrics: {metric.name!r} is updated within the model, from some rows on each "
                f"replica, and {kind.__name__} may not add up. Give it to compile; or, if it adds "
                "up, mark the class with bigmodels.distribute.row_by_row"
            )
    for metric in compiled:
        for variable in metric.variables:
            if not isinstance(variable.value, tf.distribute.DistributedValues):
                raise ValueError(
                    f"metrics: {metric.name!r} was created outside the strategy's scope, so its "
                    "variables are on one device; create it inside"
                )
