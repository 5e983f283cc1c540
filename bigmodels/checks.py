"""Checks of training data: dtypes, shapes, and values that are finite and in range.

Keras silently trains on NaN and infinity, labels and tokens out of range, labels given as floats,
and images still in 0..255. A `Spec` describes a valid array. `check_static` compares dtype and
shape before any value is read, `check_arrays` checks arrays in memory, and `guard` adds the same
checks to a `tf.data` pipeline, which raises before a bad batch reaches the model. In the graph they
cost two comparisons and one reduction over the batch.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# These marks enclose our message within TensorFlow's error text when a check in a graph fails.
_OPEN, _CLOSE = "<bad input: ", " :bad input>"
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Spec:
    """A description of valid arrays in a batch.

    Args:
        kind: `"float"`, `"int"` or `"any"`: the accepted dtypes.
        shape: Shape of one element, without the batch axis, with `None` for any size. If `shape`
            is `None`, every shape is accepted.
        low: Smallest allowed value, or `None`.
        high: Largest allowed value, or `None`.
        hint: Advice for the user, added to error messages.

    Example:

    >>> check_array("y", np.array([0, 1, 12]), Spec("int", (), low=0, high=9))
    Traceback (most recent call last):
    ValueError: y: element 2 holds 12, expected finite values from 0 to 9.
    """

    kind: str = "any"
    shape: tuple | None = None
    low: float | None = None
    high: float | None = None
    hint: str = ""

    def __post_init__(self):
        if self.shape is not None:  # A model loaded from a file has lists.
            object.__setattr__(self, "shape", tuple(self.shape))


def check_static(name: str, dtype: Any, shape: Any, spec: Spec) -> None:
    """Check a dtype and a batched shape against a spec, without reading values.

    Args:
        name: Name of the array in messages, for example `"x"`.
        dtype: Its dtype.
        shape: Its shape with the batch axis first; unknown sizes are `None`.
        spec: The `Spec` to check against.

    Raises:
        ValueError: naming the array, its dtype or shape, and the expected one.

    Example:

    >>> check_static("x", "float32", (None, 3), Spec(shape=(2,)))
    Traceback (most recent call last):
    ValueError: x: shape (None, 3), expected (None, 2).
    """
    hint = f" {spec.hint}" if spec.hint else ""
    try:
        dtype = tf.as_dtype(dtype)
    except TypeError:
        raise ValueError(f"{name}: dtype {dtype}, expected numbers.{hint}") from None
    is_kind = {"float": dtype.is_floating, "int": dtype.is_integer, "any": True}[spec.kind]
    if not is_kind:
        raise ValueError(f"{name}: dtype {dtype.name}, expected {spec.kind} values.{hint}")
    shape = tf.TensorShape(shape)
    if spec.shape is None or shape.rank is None:
        return
    expected = tf.TensorShape([None, *spec.shape])
    # Labels may come as a column: Keras squeezes (batch, 1) to (batch,).
    column = spec.shape == () and shape.rank == 2 and shape[1] == 1
    if not (column or shape.is_compatible_with(expected)):
        raise ValueError(f"{name}: shape {shape}, expected {expected}.{hint}")


def _is_checked(dtype):
    """Whether values of a dtype can be checked, unlike strings and booleans."""
    dtype = tf.as_dtype(dtype)
    return dtype.is_floating or dtype.is_integer or dtype.is_complex


def _within(dtype, limit, smaller):
    """A limit rounded to a dtype, inwards: to a smaller number for an upper limit."""
    if dtype.is_integer:
        return math.floor(limit) if smaller else math.ceil(limit)
    number = dtype.as_numpy_dtype(limit)
    if (float(number) > limit) if smaller else (float(number) < limit):
        number = np.nextafter(number, dtype.as_numpy_dtype(-math.inf if smaller else math.inf))
    return number


def _good(value, spec):
    """A boolean for every value: whether it fits the spec."""
    dtype = value.dtype
    if dtype.is_complex:
        return tf.math.is_finite(tf.math.real(value)) & tf.math.is_finite(tf.math.imag(value))
    # A limit outside the dtype's range would wrap around, and needs no comparison.
    number = int if dtype.is_integer else float
    least, most = number(dtype.min), number(dtype.max)
    limits = []
    if spec.low is not None and spec.low > least:
        if spec.low > most:
            return tf.zeros_like(value, "bool")
        limits.append(value >= tf.constant(_within(dtype, spec.low, smaller=False), dtype))
    if spec.high is not None and spec.high < most:
        if spec.high < least:
            return tf.zeros_like(value, "bool")
        limits.append(value <= tf.constant(_within(dtype, spec.high, smaller=True), dtype))
    # Values between two limits are finite.
    if dtype.is_floating and len(limits) < 2:
        limits.append(tf.math.is_finite(value))
    return functools.reduce(tf.logical_and, limits) if limits else tf.ones_like(value, "bool")


def _values(value):
    """The values of a tensor; of a sparse or ragged one, the flat values that it stores."""
    if isinstance(value, tf.SparseTensor):
        return value.values
    return value.flat_values if isinstance(value, tf.RaggedTensor) else value


def _element_of(value, position):
    """The batch index of a position in the flattened `_values`."""
    if isinstance(value, tf.SparseTensor):
        return value.indices[position, 0]
    values = _values(value)
    element = position // (tf.size(values, tf.int64) // tf.shape(values, tf.int64)[0])
    if isinstance(value, tf.RaggedTensor):
        for rows in reversed(value.nested_value_rowids()):
            element = rows[element]
    return tf.cast(element, tf.int64)


def _fault(name, value, spec, place):
    """A message about the first bad value, as a scalar string; meaningless if all are good."""
    values = tf.reshape(_values(value), [-1])
    first = tf.argmin(tf.cast(_good(values, spec), "int32"))
    wanted = "finite values"
    if spec.low is not None or spec.high is not None:
        wanted += f" from {_number(spec.low)} to {_number(spec.high)}"
    expected = f", expected {wanted}." + (f" {spec.hint}" if spec.hint else "")
    element = tf.strings.format("element {} holds ", _element_of(value, first))
    number = tf.strings.as_string(tf.gather(values, first))
    return tf.strings.join([f"{name}: ", place, element, number, expected])


def _number(value):
    return "any" if value is None else f"{value:g}"


def is_array(value: Any) -> bool:
    """Whether Keras treats a value as an array."""
    tensors = tf.Tensor | tf.SparseTensor | tf.RaggedTensor
    return isinstance(value, tensors) or hasattr(value, "__array__") or hasattr(value, "tocoo")


def check_array(name: str, value: Any, spec: Spec) -> None:
    """Check all values of an array in memory.

    Args:
        name: Name of the array in messages.
        value: Anything that Keras treats as an array, batch axis first: an array of NumPy, pandas
            or SciPy, a tensor (also sparse or ragged), a variable, or an object with `__array__`.
        spec: The `Spec` to check against.

    Raises:
        ValueError: naming the array, the element and its value.

    Example:

    >>> check_array("x", np.array([[0.0], [np.inf]]), Spec("float"))
    Traceback (most recent call last):
    ValueError: x: element 1 holds inf, expected finite values.
    """
    if hasattr(value, "iloc"):
        value = _of_pandas(name, value)
    if hasattr(value, "tocoo"):  # A sparse array of SciPy.
        value = value.tocoo()
        value = tf.SparseTensor(np.stack([value.row, value.col], 1), value.data, value.shape)
    elif not isinstance(value, np.ndarray | tf.Tensor | tf.SparseTensor | tf.RaggedTensor):
        value = np.asarray(value)
    if not len(value.shape):
        return  # Not a batch; Keras raises the error.
    if isinstance(value, np.ndarray):
        _check_numpy(name, value)
    if value.dtype == object:
        return
    check_static(name, value.dtype, value.shape, spec)
    if value.shape[0] == 0:
        raise ValueError(f"{name}: the data set is empty.")
    if not _is_checked(value.dtype):
        return
    in_parts = isinstance(value, np.ndarray | tf.Tensor)
    floatx = tf.as_dtype(keras.config.floatx())  # Keras converts wider numbers to it.
    for start in range(0, value.shape[0], _CHUNK) if in_parts else [0]:
        part = tf.convert_to_tensor(value[start : start + _CHUNK]) if in_parts else value
        fault = _fault_in(name, part, spec)
        if not fault and tf.as_dtype(part.dtype).is_floating and part.dtype.size > floatx.size:
            fault = _fault_in(name, tf.cast(part, floatx), Spec())
            fault = fault and f"{fault} The number does not fit into {floatx.name}."
        if fault:
            # The element's index is relative to its chunk.
            shift = lambda m, start=start: f"element {int(m[1]) + start} "  # noqa: E731
            raise ValueError(re.sub(r"element (\d+) ", shift, fault, count=1))


def _fault_in(name, value, spec):
    """A message about the first bad value of a tensor; "" if all are good."""
    if tf.reduce_all(_good(_values(value), spec)):
        return ""
    return _fault(name, value, spec, "").numpy().decode()


def _of_pandas(name, value):
    """The values of a DataFrame or Series; refused if any is missing (NaN, None, NaT or <NA>)."""
    missing = value.isna().to_numpy()
    if missing.any():
        row, *column = (int(i) for i in np.argwhere(missing)[0])
        place = f"row {value.index[row]!r}"
        if column:
            place += f", column {value.columns[column[0]]!r}"
        item = value.iat[row, *column]
        raise ValueError(f"{name}: element {row} holds {item} ({place}), expected finite values.")
    return value.to_numpy()


def _check_numpy(name, value):
    """Refuse arrays that TensorFlow misreads, or rejects without naming the array."""
    if np.ma.is_masked(value):
        hidden = np.ma.getmaskarray(value)
        raise ValueError(
            f"{name}: element {np.argwhere(hidden)[0, 0]} is masked ({hidden.sum()} values in "
            "all), but Keras ignores the mask and would train on them; fill it: .filled(value)"
        )
    if value.dtype == object and not all(isinstance(item, str) for item in value.ravel()):
        kinds = sorted({type(item).__name__ for item in value.ravel()})
        raise ValueError(
            f"{name}: dtype object (values of {', '.join(kinds)}), expected numbers of one kind: "
            ".astype('float32')"
        )


def check_arrays(name: str, value: Any, spec: Spec | dict[str, Any] | None) -> None:
    """Check nested dicts, lists and tuples of arrays with `check_array`.

    Args:
        name: Name of the arrays in messages.
        value: Arrays; anything that Keras does not treat as an array is not checked.
        spec: A `Spec` for all of them, a dict of specs, or `None` for no check.

    Raises:
        ValueError: naming the array, the element and its value, or the expected keys of a dict.

    Example:

    >>> check_arrays("x", {"a": np.zeros((2, 1)), "b": np.array([np.nan])}, Spec())
    Traceback (most recent call last):
    ValueError: x['b']: element 0 holds nan, expected finite values.
    """
    for _, part_name, part, part_spec in _leaves(name, value, spec):
        if is_array(part):
            check_array(part_name, part, part_spec)


def _leaves(name, part, spec, path=()):
    """`(path, name, part, spec)` of everything that must be checked."""
    if spec is None or part is None:
        return []
    if isinstance(spec, dict) and (not isinstance(part, dict) or part.keys() != spec.keys()):
        given = f"a dict of {sorted(part)}" if isinstance(part, dict) else type(part).__name__
        raise ValueError(f"{name}: {given}, expected a dict of {sorted(spec)}")
    if not isinstance(part, dict | list | tuple):
        return [(path, name, part, spec)]
    inside = f"{name[:-1]}, {{}})" if name.endswith(")") else f"{name}[{{!r}}]"
    return [
        leaf
        for key in (part if isinstance(part, dict) else range(len(part)))
        for leaf in _leaves(
            inside.format(key),
            part[key],
            spec[key] if isinstance(spec, dict) else spec,
            (*path, key),
        )
    ]


def guard(dataset: tf.data.Dataset, name: str, specs: Any) -> tf.data.Dataset:
    """Add checks to a pipeline, so that a bad batch raises before it reaches the model.

    Args:
        dataset: A batched `tf.data.Dataset`.
        name: Name of the data set in messages, for example `"x"`.
        specs: A `Spec`, or a tuple of them in the order of the batch's parts (inputs, targets,
            sample weights). `None` leaves a part unchecked; a dict has the specs of a part that is
            a dict. A `Spec` applies to all arrays of a nested part.

    Returns:
        The same data set, `untuned`; iterate over it within `readable_errors`.

    Raises:
        ValueError: at once, if a dtype or shape does not fit or the data set is known to be empty.

    Example:

    >>> dataset = tf.data.Dataset.from_tensor_slices([1.0, 2.0, np.nan]).batch(2)
    >>> with readable_errors():
    ...     for batch in guard(dataset, "x", Spec("float")):
    ...         print(batch.numpy())
    Traceback (most recent call last):
    ValueError: x: batch 1, element 0 holds nan, expected finite values.
    """
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"{name}: the data set is empty.")
    # Cached on the data set: `fit` may be called repeatedly, and tracing the checks takes longer
    # than a few steps.
    guarded = vars(dataset).setdefault("_bigmodels_guarded", {})
    key = name, repr(specs)
    if key not in guarded:
        guarded[key] = watch(untuned(dataset), name, specs)
    return guarded[key]


def watch(dataset: tf.data.Dataset, name: str, specs: Any) -> tf.data.Dataset:
    """Add the checks of `guard` to a data set, but neither change its options nor check its length.

    Args:
        dataset: As for `guard`.
        name: As for `guard`.
        specs: As for `guard`.

    Returns:
        The same data set.

    Raises:
        ValueError: at once, if a dtype or shape does not fit.
    """
    specs = specs if isinstance(specs, tuple) else (specs,)
    element = dataset.element_spec
    parts = element if isinstance(element, tuple) else (element,)
    named = "inputs", "targets", "sample weights"
    names = [name] if len(parts) == 1 else [f"{name} ({part})" for part in named]
    checked = [
        ((index, *path), *leaf)
        for index, (part, part_name, spec) in enumerate(zip(parts, names, specs, strict=False))
        for path, *leaf in _leaves(part_name, part, spec)
        if isinstance(leaf[1], tf.TensorSpec | tf.SparseTensorSpec | tf.RaggedTensorSpec)
    ]
    for _, part_name, part, spec in checked:
        check_static(part_name, part.dtype, part.shape, spec)
    checked = [leaf for leaf in checked if _is_checked(leaf[2].dtype)]
    if not checked:
        return dataset

    @tf.autograph.experimental.do_not_convert  # AutoGraph would only slow down tracing.
    def checked_batch(number, batch):
        parts = batch if isinstance(element, tuple) else (batch,)
        values = [
            (part_name, functools.reduce(operator.getitem, path, parts), spec)
            for path, part_name, _, spec in checked
        ]
        good = tf.stack([tf.reduce_all(_good(_values(value), spec)) for _, value, spec in values])

        def describe():
            place = tf.strings.format("batch {}, ", number)
            faults = []
            for i, (name, value, spec) in enumerate(values):
                fault = functools.partial(_fault, name, value, spec, place)
                # A tensor that may be empty may have no first value.
                full = isinstance(value, tf.Tensor) and value.shape[1:].num_elements()
                faults.append(fault() if full else tf.cond(good[i], lambda: tf.constant(""), fault))
            return tf.stack(faults)[tf.argmax(tf.cast(~good, "int32"))]

        # A `tf.function` would be traced only once, but functions called in a pipeline run on the
        # GPU, if there is one, in between the training steps.
        fine = tf.reduce_all(good)
        require(fine, tf.cond(fine, lambda: tf.constant(""), describe))
        return batch

    # Check the next batch while the model trains on this one.
    return dataset.enumerate().map(checked_batch).prefetch(1)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turn off TensorFlow's autotuning of a data set, unless its options ask for it.

    The autotuning thread sometimes misses that its iterator is deleted. It checks again at
    intervals that double up to a minute, and whoever deletes the iterator (`fit` at its end, or
    Python's garbage collector) waits until then. Without autotuning, AUTOTUNE means as many threads
    as there are cores, at most 16.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def require(condition: tf.Tensor, message: str | tf.Tensor) -> tf.Operation | None:
    """Stop a running step unless a condition holds.

    Args:
        condition: Scalar boolean tensor.
        message: Message for the user: a string, or a scalar string tensor.

    Returns:
        In a graph, the operation that stops the step, for use as a control dependency.

    Raises:
        ValueError: within `readable_errors`.

    Example:

    >>> with readable_errors():
    ...     require(tf.constant(False), "x: -1, expected a positive number")
    Traceback (most recent call last):
    ValueError: x: -1, expected a positive number
    """
    marked = tf.strings.join([_OPEN, message, _CLOSE])
    # `tf.debugging.Assert` would add a conditional branch, which is slower.
    return tf.raw_ops.Assert(condition=condition, data=[marked], summarize=-1)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn the errors of `guard` and `require` from within TensorFlow into a `ValueError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        match = re.search(re.escape(_OPEN) + "(.*?)" + re.escape(_CLOSE), str(error), re.DOTALL)
        if match is None:
            raise
        raise ValueError(match[1].replace("\\'", "'")) from None  # TensorFlow escapes quotes.
