"""Checks that targets and weights fit a loss, where Keras would silently broadcast them.

Keras' own losses are recognised by identity, in whatever form they were given to `compile`. Targets
of other losses are not checked, as the loss may intend to broadcast: quantile losses and
likelihoods take targets with fewer axes than the output.
"""

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import losses, tree

from bigmodels import checks
from bigmodels.distribute.global_batch import GlobalMean
from bigmodels.distribute.upstream import (
    CompileLoss,
    LossFunctionWrapper,
    compute_output_spec,
    get_keras_mask,
    get_loss,
    squeeze_or_expand_to_same_rank,
)

# Losses that take probabilities, unless called with `from_logits=True`.
_OF_PROBABILITIES = (
    losses.binary_crossentropy,
    losses.binary_focal_crossentropy,
    losses.categorical_crossentropy,
    losses.categorical_focal_crossentropy,
    losses.categorical_generalized_cross_entropy,
    losses.kl_divergence,
    losses.sparse_categorical_crossentropy,
)

# Losses that combine each value of the targets with one value of the output.
_ELEMENTWISE = (
    losses.binary_crossentropy,
    losses.binary_focal_crossentropy,
    losses.categorical_crossentropy,
    losses.categorical_focal_crossentropy,
    losses.categorical_hinge,
    losses.cosine_similarity,
    losses.dice,
    losses.hinge,
    losses.huber,
    losses.kl_divergence,
    losses.log_cosh,
    losses.mean_absolute_error,
    losses.mean_absolute_percentage_error,
    losses.mean_squared_error,
    losses.mean_squared_logarithmic_error,
    losses.poisson,
    losses.squared_hinge,
    losses.tversky,
)

# Packages whose losses are known not to change the arithmetic of the wrapped function.
_KNOWN_PACKAGES = ("keras", "bigmodels")


def keras_function(loss):
    """Find the function of `keras.losses` that a loss computes.

    Args:
        loss: A loss for one output, as in `compile`: a function, a `keras.losses.Loss` or its
            class, a name, or `None`.

    Returns:
        `(function, arguments)`: the function and its arguments other than targets and output;
        `(None, {})` for a loss that is not Keras' own, like a subclass with its own `call`.
    """
    if isinstance(loss, GlobalMean):
        loss = loss.loss
    try:
        loss = losses.get(loss)
    except ValueError:  # Unknown to Keras, or "crossentropy", which depends on the data.
        return None, {}
    arguments = {}
    if isinstance(loss, losses.Loss):
        methods = type(loss).call, type(loss).__call__
        packages = [method.__module__.partition(".")[0] for method in methods]
        if not isinstance(loss, LossFunctionWrapper) or set(packages) - set(_KNOWN_PACKAGES):
            return None, {}
        loss, arguments = loss.fn, loss._fn_kwargs
    if isinstance(loss, functools.partial):
        loss, arguments = loss.func, loss.keywords | arguments
    known = any(loss is function for function in (*_OF_PROBABILITIES, *_ELEMENTWISE))
    return (loss, arguments) if known else (None, {})


def check_takes_logits(loss, model_name):
    """Refuse Keras' losses of probabilities for a model that outputs logits.

    Args:
        loss: The loss given to `compile`, for one output or nested for several.
        model_name: Name of the model in messages.

    Raises:
        ValueError: naming the loss, and one that takes logits.
    """
    for one_loss in tree.flatten(loss):
        function, arguments = keras_function(one_loss)
        if isinstance(one_loss, str) and one_loss.lower() in ("crossentropy", "ce"):
            name, instead = one_loss, "SparseCategoricalCrossentropy"
        elif function not in _OF_PROBABILITIES or arguments.get("from_logits"):
            continue
        else:
            name = one_loss if isinstance(one_loss, str) else function.__name__
            instead = "".join(part.capitalize() for part in function.__name__.split("_"))
            if function is losses.kl_divergence:
                instead = "CategoricalCrossentropy"
            if function is losses.categorical_generalized_cross_entropy:
                instead = "SparseCategoricalCrossentropy"
        raise ValueError(
            f"loss: {name!r} takes probabilities, but {model_name} outputs logits; "
            f"use keras.losses.{instead}(from_logits=True)"
        )


def takes_class_numbers(loss):
    """Whether `loss`, as given to `compile`, is Keras' loss of class numbers for one output."""
    flat = tree.flatten(loss)
    return len(flat) == 1 and keras_function(flat[0])[0] is losses.sparse_categorical_crossentropy


def checked(compile_loss, y, y_pred, sample_weight):
    """Refuse targets and weights that a loss would broadcast; apply row weights to whole rows.

    Keras broadcasts weights `(batch,)` against losses `(batch, time)`, that is, along time.

    Args:
        compile_loss: Keras' container of a model's losses, or `None`.
        y: Targets, nested as for `compute_loss`.
        y_pred: Outputs.
        sample_weight: Weights, or `None`.

    Returns:
        The weights to call `compile_loss` with.

    Raises:
        ValueError: naming both shapes; if they are known only at run time, within
            `checks.readable_errors`.
    """
    if compile_loss is None or y is None:
        return sample_weight
    given, fitted = {}, {}

    def visit(path, loss, y_true, y_pred, weight):
        path, place = tuple(path), "".join(f"[{key!r}]" for key in path)
        _check_targets(f"y{place}", loss, y_true, y_pred)
        given[path] = weight
        fitted[path] = _fitted(f"sample_weight{place}", loss, y_true, y_pred, weight)

    _Visit(compile_loss, visit)(y, y_pred, sample_weight)
    if all(fitted[path] is given[path] for path in given):
        return sample_weight
    weights = {}
    for path, weight in fitted.items():
        if not path:
            return weight
        # One loss takes several outputs and another one of the same outputs; the weights of the two
        # would have to differ.
        around = [path[:i] for i in range(len(path)) if path[:i] in fitted]
        if around:
            raise ValueError(
                f"sample_weight: a shape for each row, but the losses at {list(around[0])} and "
                f"{list(path)} take the same output; give weights of the shape of each loss"
            )
        inner = weights
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = weight
    return weights


class _Visit(CompileLoss):
    """Visits a model's losses in the way of Keras, but does not compute them.

    Args:
        compile_loss: Keras' container of the losses; built if necessary.
        visit: Called for each loss with its path in the structure, the loss, targets, output and
            weights.
    """

    def __init__(self, compile_loss, visit):
        self._compile_loss, self._visit = compile_loss, visit
        self._adopt()

    def build(self, y_true, y_pred):
        self._compile_loss.build(y_true, y_pred)
        self._adopt()

    def _adopt(self):
        vars(self).update(vars(self._compile_loss))
        if self.built:
            self._flat_losses = [
                entry._replace(loss=functools.partial(self._visited, entry.path, entry.loss))
                for entry in self._flat_losses
            ]
            self._metrics = [None] * len(self._flat_losses)

    def _visited(self, *args):
        self._visit(*args)
        return 0.0


def _check_targets(name, loss, y_true, y_pred):
    function, _ = keras_function(loss)
    of_numbers = function is losses.categorical_generalized_cross_entropy
    if not of_numbers and not any(function is each for each in _ELEMENTWISE):
        return
    for y, output in zip(tree.flatten(y_true), tree.flatten(y_pred), strict=False):
        if not (isinstance(y, tf.Tensor) and isinstance(output, tf.Tensor)):
            continue
        if y.shape.rank is None or output.shape.rank is None:
            continue
        if of_numbers:
            # Keras documents that a column of class numbers is allowed, but broadcasts it as well.
            _check_same_shape(name, y, output, y, output[..., 0])
        else:
            _check_same_shape(name, y, output, *squeeze_or_expand_to_same_rank(y, output))


def _check_same_shape(name, y, output, a, b):
    """Refuse targets and output if `a` and `b`, which Keras combines, differ in shape."""
    if a.shape.rank != b.shape.rank or not a.shape.is_compatible_with(b.shape):
        raise ValueError(f"{name}: shape {y.shape}, but the output has shape {output.shape}")
    # The number of rows is the same, as both come from one data set. XLA cannot compile the check.
    if not (a.shape[1:].is_fully_defined() and b.shape[1:].is_fully_defined()):
        message = tf.strings.format(
            f"{name}: shape {{}}, but the output has shape {{}}", (tf.shape(y), tf.shape(output))
        )
        checks.require(tf.reduce_all(tf.equal(tf.shape(a), tf.shape(b))), message)


def _fitted(name, loss, y_true, y_pred, weight):
    """Weights with as many axes as the values of the loss, to match its rows or elements."""
    if isinstance(loss, GlobalMean):
        loss = get_loss(loss.loss, y_true, y_pred)
    given = tree.flatten((y_true, y_pred))
    computes_itself = type(loss).__call__ is not losses.Loss.__call__
    if weight is None or computes_itself:
        return weight
    weight = tf.convert_to_tensor(weight)
    if not all(isinstance(v, tf.Tensor) and v.shape.rank is not None for v in (*given, weight)):
        return weight
    symbolic = tree.map_structure(
        lambda value: keras.KerasTensor(value.shape, loss.dtype), (y_true, y_pred)
    )
    values = compute_output_spec(loss.call, *symbolic).shape
    rank = len(values)
    missing = rank - weight.shape.rank
    if rank == 0 or (missing == -1 and weight.shape[-1] == 1):  # Keras squeezes it.
        return weight
    sizes = [*weight.shape, *[1] * missing]
    fits = missing >= 0 and all(
        size in (value, 1, None) or value is None for size, value in zip(sizes, values, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name}: shape {weight.shape}, which may come from class_weight, but the loss has "
            f"shape {tuple(values)}"
        )
    for _ in range(missing):
        weight = weight[..., None]
    if missing and loss.reduction == "mean_with_sample_weight":
        # The loss divides by the sum of the weights, which must count every value.
        weight = tf.broadcast_to(weight, tf.shape(tree.flatten(y_pred)[0])[:rank])
    return weight


def metric_weights(sample_weight, y_pred):
    """Weights for metrics, in which Keras would multiply row weights by a mask along time.

    Args:
        sample_weight: Weights, nested, or `None`.
        y_pred: Outputs, nested.

    Returns:
        The weights; if an output has a mask over time, row weights have shape `(batch, 1)`.
    """
    masks = [get_keras_mask(output) for output in tree.flatten(y_pred)]
    if sample_weight is None or all(mask is None or len(mask.shape) < 2 for mask in masks):
        return sample_weight
    return tree.map_structure(
        lambda weight: weight[:, None] if len(weight.shape) == 1 else weight, sample_weight
    )


def class_weights(y: Any, class_weight: dict[int, float], numbers: bool) -> tf.Tensor:
    """Look up the class weight of each target.

    Keras does this correctly for targets `(batch,)`, `(batch, 1)` and one-hot `(batch, classes)`.
    For sequences it takes the argmax along time for the class.

    Args:
        y: Targets, an array or a tensor.
        class_weight: A dict from class numbers to weights; missing classes have weight 1.
        numbers: Whether each value is a class number (a last axis of size one is dropped).
            Otherwise the last axis is one-hot, or has size one with values to be rounded.

    Returns:
        float tensor of the shape of `y` without its class axis.

    Example:

    >>> class_weights([[0, 2], [1, 1]], {1: 3.0}, numbers=True).numpy().tolist()
    [[1.0, 1.0], [3.0, 3.0]]
    """
    y = tf.convert_to_tensor(y)
    if y.shape.rank > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    elif not numbers:
        y = tf.argmax(y, axis=-1)
    y = tf.cast(tf.round(y) if y.dtype.is_floating else y, tf.int64)
    known = sorted(class_weight)
    keys = tf.constant(known, tf.int64)
    weights = tf.constant([class_weight[key] for key in known], keras.config.floatx())
    places = tf.minimum(tf.searchsorted(keys, tf.reshape(y, [-1])), len(known) - 1)
    places = tf.reshape(places, tf.shape(y))
    return tf.where(tf.gather(keys, places) == y, tf.gather(weights, places), 1)
