"""Which losses and metrics are known to look at each row by itself, by identity."""

import inspect
import weakref

import keras
import tensorflow as tf

from bigmodels.distribute.upstream import LossFunctionWrapper

# Keras' functions that give each row its own number, whatever the others are. Not among them, as
# they look at all rows: `circle`, and `hinge` and `squared_hinge`, which first look whether any
# label is other than 0 and 1.
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
# Keras' classes of the same kind, and metrics whose counts over some rows and over others add up.
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


def row_by_row(what):
    """Say that a loss or a metric looks at each row by itself, so that no rows are gathered for it.

    Several replicas compute what they do not know from the rows of all of them: a function or class
    may look across rows (in-batch negatives, a maximum). This decorator saves that message.

    Args:
        what: A function of (targets, outputs) that gives a number for each row, or for parts of it;
            a `keras.losses.Loss` class whose `call` does; or a `keras.metrics.Metric` class whose
            variables, summed over parts of the rows, are those of all rows. Subclasses say it anew.

    Returns:
        The same.
    """
    DECLARED.add(what)
    return what


def is_row_by_row(each, y_pred):
    """Whether a loss or metric is known to look at each row by itself, by identity."""
    kind, fn = type(each), getattr(each, "fn", getattr(each, "_fn", None))
    known = kind in CLASSES and (kind not in _WRAPPERS or _holds(FUNCTIONS, fn))
    if not (known or kind in DECLARED or _holds(DECLARED, fn)):
        return False
    if fn is None or not (known or _holds(FUNCTIONS, fn)):
        return True
    # Keras' functions take a mean over an axis, by default the last: which may be the rows.
    parameters = inspect.signature(fn).parameters
    default = parameters["axis"].default if "axis" in parameters else -1
    axis = getattr(each, "_fn_kwargs", {}).get("axis", default)
    rank = None if tf.nest.is_nested(y_pred) else y_pred.shape.rank
    if axis is None or not rank:
        return False
    return all(place % rank for place in tf.nest.flatten(axis))


def _holds(functions, fn):
    try:
        return fn in functions
    except TypeError:  # It has no hash.
        return False
