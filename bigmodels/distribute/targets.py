"""Which targets and weights fit a loss, where Keras would broadcast them without a word.

Keras' own losses are told by identity, whatever their name and however `compile` was given them. Of
any other loss nobody knows which targets it takes: quantiles and likelihoods have narrower ones.
"""

import functools

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

# Those that take probabilities, unless they have a `from_logits` that says otherwise.
_OF_PROBABILITIES = (
    losses.binary_crossentropy,
    losses.binary_focal_crossentropy,
    losses.categorical_crossentropy,
    losses.categorical_focal_crossentropy,
    losses.categorical_generalized_cross_entropy,
    losses.kl_divergence,
    losses.sparse_categorical_crossentropy,
)

# Those that combine each value of the targets with one of the output.
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

# Where the library is that a loss's own arithmetic may come from.
_KNOWN_PACKAGES = ("keras", "bigmodels")


def keras_function(loss):
    """The function of `keras.losses` that a loss computes.

    Args:
        loss: What `compile` takes for one output: a function, a `keras.losses.Loss` or its class, a
            name, or `None`.

    Returns:
        `(function, arguments)`: the function and what it is called with besides targets and output;
        `(None, {})` for a loss that is not Keras' own, like a subclass with a `call` of its own.
    """
    if isinstance(loss, GlobalMean):
        loss = loss.loss
    try:
        loss = losses.get(loss)
    except ValueError:  # Not known to Keras, or "crossentropy": the data say which.
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
    """Refuse Keras' losses of probabilities for a model that gives logits.

    Args:
        loss: What `compile` was given, for one output or nested for several.
        model_name: What to call the model.

    Raises:
        ValueError: naming the loss, and one that takes logits.
    """
    for each in tree.flatten(loss):
        function, arguments = keras_function(each)
        if isinstance(each, str) and each.lower() in ("crossentropy", "ce"):
            shown, instead = each, "SparseCategoricalCrossentropy"
        elif function not in _OF_PROBABILITIES or arguments.get("from_logits"):
            continue
        else:
            shown = each if isinstance(each, str) else function.__name__
            instead = "".join(part.capitalize() for part in function.__name__.split("_"))
            if function is losses.kl_divergence:
                instead = "CategoricalCrossentropy"
            if function is losses.categorical_generalized_cross_entropy:
                instead = "SparseCategoricalCrossentropy"
        raise ValueError(
            f"loss: {shown!r} takes probabilities, but {model_name} gives logits; "
            f"use keras.losses.{instead}(from_logits=True)"
        )


def takes_class_numbers(loss):
    """Whether what `compile` was given is Keras' loss of integer class numbers, for one output."""
    given = tree.flatten(loss)
    return len(given) == 1 and keras_function(given[0])[0] is losses.sparse_categorical_crossentropy


def checked(compile_loss, y, y_pred, sample_weight):
    """Refuse targets and weights that a loss would broadcast, and let a row's weight be the row's.

    Keras multiplies weights `(batch,)` by losses `(batch, time)` as arrays: along time.

    Args:
        compile_loss: Keras' container of a model's losses, or `None`.
        y: Targets, nested as for `compute_loss`.
        y_pred: Outputs.
        sample_weight: Weights, or `None`.

    Returns:
        The weights that `compile_loss` is to be called with.

    Raises:
        ValueError: naming both shapes; where they are known only at run time, under
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
        # A loss of several outputs beside one of them alone; each would need weights of its own.
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
    """Goes through a model's losses as Keras does, but computes none.

    Args:
        compile_loss: Keras' container, which is built if it is not yet.
        visit: Called for each with its path in the structure, loss, targets, output and weights.
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
                each._replace(loss=functools.partial(self._visited, each.path, each.loss))
                for each in self._flat_losses
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
            # A column of class numbers, which its documentation allows, is broadcast as well.
            _check_same_shape(name, y, output, y, output[..., 0])
        else:
            _check_same_shape(name, y, output, *squeeze_or_expand_to_same_rank(y, output))


def _check_same_shape(name, y, output, a, b):
    """Refuse targets and output of which `a` and `b`, as Keras combines them, differ in shape."""
    if a.shape.rank != b.shape.rank or not a.shape.is_compatible_with(b.shape):
        raise ValueError(f"{name}: shape {y.shape}, but the output has shape {output.shape}")
    # Rows agree, as they come from one data set; XLA cannot compile the check.
    if not (a.shape[1:].is_fully_defined() and b.shape[1:].is_fully_defined()):
        message = tf.strings.format(
            f"{name}: shape {{}}, but the output has shape {{}}", (tf.shape(y), tf.shape(output))
        )
        checks.require(tf.reduce_all(tf.equal(tf.shape(a), tf.shape(b))), message)


def _fitted(name, loss, y_true, y_pred, weight):
    """Weights with the axes of what the loss computes, so that each is for its row or element."""
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
        # The sum of the weights, by which it divides, is to count each value.
        weight = tf.broadcast_to(weight, tf.shape(tree.flatten(y_pred)[0])[:rank])
    return weight


def metric_weights(sample_weight, y_pred):
    """Weights for metrics: with a mask, Keras multiplies those of rows by it along time.

    Args:
        sample_weight: Weights, nested, or `None`.
        y_pred: Outputs, nested.

    Returns:
        The weights; where an output has a mask over time, those of rows as columns `(batch, 1)`.
    """
    masks = [get_keras_mask(output) for output in tree.flatten(y_pred)]
    if sample_weight is None or all(mask is None or len(mask.shape) < 2 for mask in masks):
        return sample_weight
    return tree.map_structure(
        lambda weight: weight[:, None] if len(weight.shape) == 1 else weight, sample_weight
    )


def class_weights(y, class_weight, numbers):
    """The weight of each target's class.

    Keras has this for targets `(batch,)`, `(batch, 1)` and one-hot `(batch, classes)`; of sequences
    it takes the largest along time for the class.

    Args:
        y: Targets, an array or a tensor.
        class_weight: A dict from class numbers to weights; a class without one counts 1.
        numbers: Whether each value is a class number (an axis of one at the end is dropped); else
            the last axis is one-hot, or has one value, which is rounded.

    Returns:
        float tensor, of the shape of `y` without its axis of classes.
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
