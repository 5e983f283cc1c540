"""Losses and metrics that are known to treat each row on its own, recognised by identity."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf

from bigmodels.distribute.upstream import LossFunctionWrapper

# Keras' functions whose value for a row does not depend on the other rows. `circle` is left out, as
# it compares rows, and so are `hinge` and `squared_hinge`, which first check whether all labels in
# the batch are 0 or 1.
FUNCTIONS = {
    *(getattr(keras.losses, name) for name in (
        "binary_crossentropy binary_focal_crossentropy categorical_crossentropy "
        "categorical_focal_crossentropy categorical_generalized_cross_entropy categorical_hinge "
        "cosine_similarity ctc dice huber kl_divergence log_cosh mean_absolute_error "
        "mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error poisson "
        "sparse_categorical_crossentropy tversky"
    ).split()),
    *(getattr(keras.metrics, name) for name in (
        "binary_accuracy categorical_accuracy concordance_correlation pearson_correlation "
        "sparse_categorical_accuracy sparse_top_k_categorical_accuracy top_k_categorical_accuracy"
    ).split()),
}  # fmt: skip
# Keras' classes of the same kind, and metrics whose counts over parts of the rows add up.
CLASSES = {
    LossFunctionWrapper,
    *(getattr(keras.losses, name) for name in (
        "BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy "
        "CategoricalFocalCrossentropy CategoricalGeneralizedCrossEntropy CategoricalHinge "
        "CosineSimilarity CTC Dice Huber KLDivergence LogCosh MeanAbsoluteError "
        "MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogarithmicError Poisson "
        "SparseCategoricalCrossentropy Tversky"
    ).split()),
    *(getattr(keras.metrics, name) for name in (
        "AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU CategoricalAccuracy "
        "CategoricalCrossentropy CategoricalHinge ConcordanceCorrelation CosineSimilarity F1Score "
        "FBetaScore FalseNegatives FalsePositives IoU KLDivergence LogCoshError Mean "
        "MeanAbsoluteError MeanAbsolutePercentageError MeanIoU MeanMetricWrapper MeanSquaredError "
        "MeanSquaredLogarithmicError OneHotIoU OneHotMeanIoU PearsonCorrelation Poisson Precision "
        "PrecisionAtRecall R2Score Recall RecallAtPrecision RootMeanSquaredError "
        "SensitivityAtSpecificity SparseCategoricalAccuracy SparseCategoricalCrossentropy "
        "SparseTopKCategoricalAccuracy SpecificityAtSensitivity Sum TopKCategoricalAccuracy "
        "TrueNegatives TruePositives"
    ).split()),
}  # fmt: skip
_WRAPPERS = LossFunctionWrapper, keras.metrics.MeanMetricWrapper
DECLARED = weakref.WeakSet()

_Declared = TypeVar("_Declared", bound=Callable)


def row_by_row(what: _Declared) -> _Declared:
    """Declare that a loss or metric treats each row on its own, so that no rows are gathered.

    A loss or metric may depend on several rows at once (in-batch negatives, a maximum). Unless it
    is known not to, several replicas compute it from the rows of all of them. This decorator saves
    that message.

    Args:
        what: A function of (targets, outputs) that returns a number for each row, or for parts of
            it; a `keras.losses.Loss` class whose `call` does; or a `keras.metrics.Metric` class
            whose variables, summed over parts of the rows, equal those for all rows. Subclasses
            need the decorator again.

    Returns:
        `what`, unchanged.

    Example:

    >>> @bigmodels.distribute.row_by_row
    ... def squared_error(y_true, y_pred):
    ...     return keras.ops.mean(keras.ops.square(y_pred - y_true), axis=-1)
    >>> loss = squared_error(np.array([[1.0, 1.0]]), np.array([[0.0, 2.0]]))
    >>> [float(value) for value in loss]
    [1.0]
    """
    DECLARED.add(what)
    return what


def is_row_by_row(loss_or_metric: keras.losses.Loss | keras.metrics.Metric, y_pred: Any) -> bool:
    """Whether a loss or metric is known to treat each row on its own.

    Args:
        loss_or_metric: A `keras.losses.Loss` or `keras.metrics.Metric`.
        y_pred: Outputs of the model, which decide whether an `axis` means rows.

    Returns:
        A boolean.
    """
    kind = type(loss_or_metric)
    fn = getattr(loss_or_metric, "fn", getattr(loss_or_metric, "_fn", None))
    known = kind in CLASSES and (kind not in _WRAPPERS or _holds(FUNCTIONS, fn))
    if not (known or kind in DECLARED or _holds(DECLARED, fn)):
        return False
    if fn is None or not (known or _holds(FUNCTIONS, fn)):
        return True
    # Keras' functions take a mean over an axis, by default the last, which may be the rows.
    parameters = inspect.signature(fn).parameters
    default = parameters["axis"].default if "axis" in parameters else -1
    axis = getattr(loss_or_metric, "_fn_kwargs", {}).get("axis", default)
    rank = None if tf.nest.is_nested(y_pred) else y_pred.shape.rank
    if axis is None or not rank:
        return False
    return all(place % rank for place in tf.nest.flatten(axis))


def _holds(functions, fn):
    try:
        return fn in functions
    except TypeError:  # It is not hashable.
        return False
