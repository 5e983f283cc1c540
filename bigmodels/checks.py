"""What a batch must look like, checked while it streams by.

Keras trains on much that it should refuse (field list: NaN and infinity, labels and tokens out of
range, labels given as floats, images still in 0..255). A `Spec` says what one array must be;
`check_static` compares dtype and shape before any value is read, `check_arrays` reads arrays in
memory, and `guard` puts the same test into a `tf.data` pipeline, where it stops a bad batch before
the model sees it. The graph operations are two comparisons and one reduction over the batch.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import re

import keras
import numpy as np
import tensorflow as tf

# The fault found inside a graph travels out in TensorFlow's own error text, between these marks.
_OPEN, _CLOSE = "<bad input: ", " :bad input>"
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Spec:
    """What one array of a batch must be.

    Args:
        kind: `"float"`, `"int"` or `"any"`: the family of dtypes accepted.
        shape: Shape of one element, without the batch axis; `None` for any size; a shape of
            `None` accepts every shape.
        low: Smallest allowed value, or `None`.
        high: Largest allowed value, or `None`.
        hint: What the user can do about a value that does not fit.
    """

    kind: str = "any"
    shape: tuple | None = None
    low: float | None = None
    high: float | None = None
    hint: str = ""

    def __post_init__(self):
        if self.shape is not None:  # A model from a file has its shapes as lists.
            object.__setattr__(self, "shape", tuple(self.shape))


def check_static(name, dtype, shape, spec):
    """Compare a dtype and a batched shape with a spec, without reading a value.

    Args:
        name: How the user knows the array, for example `"x"`.
        dtype: Its dtype.
        shape: Its shape with the batch axis first; unknown sizes are `None`.
        spec: The `Spec` to hold it against.

    Raises:
        ValueError: naming the array, what it is, and what is expected.
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
    """Whether values of a dtype can be checked: not those of strings and booleans."""
    dtype = tf.as_dtype(dtype)
    return dtype.is_floating or dtype.is_integer or dtype.is_complex


def _within(dtype, limit, smaller):
    """A limit as a number of a dtype, on the inner side; `smaller` if it is an upper limit."""
    if dtype.is_integer:
        return math.floor(limit) if smaller else math.ceil(limit)
    number = dtype.as_numpy_dtype(limit)
    if (float(number) > limit) if smaller else (float(number) < limit):
        number = np.nextafter(number, dtype.as_numpy_dtype(-math.inf if smaller else math.inf))
    return number


def _good(value, spec):
    """Of every value, whether it is what it must be."""
    dtype = value.dtype
    if dtype.is_complex:
        return tf.math.is_finite(tf.math.real(value)) & tf.math.is_finite(tf.math.imag(value))
    # A limit that the dtype does not reach would wrap around in it, and needs no comparison.
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
    # What lies between two limits is finite.
    if dtype.is_floating and len(limits) < 2:
        limits.append(tf.math.is_finite(value))
    return functools.reduce(tf.logical_and, limits) if limits else tf.ones_like(value, "bool")


def _values(value):
    """What a tensor holds: itself, or what is written down of a sparse or ragged one."""
    if isinstance(value, tf.SparseTensor):
        return value.values
    return value.flat_values if isinstance(value, tf.RaggedTensor) else value


def _element_of(value, position):
    """The element of the batch that a position among the flat `_values` belongs to."""
    if isinstance(value, tf.SparseTensor):
        return value.indices[position, 0]
    values = _values(value)
    element = position // (tf.size(values, tf.int64) // tf.shape(values, tf.int64)[0])
    if isinstance(value, tf.RaggedTensor):
        for rows in reversed(value.nested_value_rowids()):
            element = rows[element]
    return tf.cast(element, tf.int64)


def _fault(name, value, spec, place):
    """A scalar string: what is wrong with the first bad value. If none is, it means nothing."""
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


def is_array(value):
    """Whether Keras takes a value for an array."""
    tensors = tf.Tensor | tf.SparseTensor | tf.RaggedTensor
    return isinstance(value, tensors) or hasattr(value, "__array__") or hasattr(value, "tocoo")


def check_array(name, value, spec):
    """Check an array in memory, value by value.

    Args:
        name: How the user knows the array.
        value: What Keras takes for an array, batch axis first: of NumPy, pandas or SciPy, a tensor
            (also a sparse or ragged one), a variable, or what has `__array__`.
        spec: The `Spec` to hold it against.

    Raises:
        ValueError: naming the array, the element and its value.
    """
    if hasattr(value, "iloc"):
        value = _of_pandas(name, value)
    if hasattr(value, "tocoo"):  # One of SciPy's sparse ones.
        value = value.tocoo()
        value = tf.SparseTensor(np.stack([value.row, value.col], 1), value.data, value.shape)
    elif not isinstance(value, np.ndarray | tf.Tensor | tf.SparseTensor | tf.RaggedTensor):
        value = np.asarray(value)
    if not len(value.shape):
        return  # Not a batch, as Keras will say.
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
    floatx = tf.as_dtype(keras.config.floatx())  # What Keras makes of wider numbers.
    for start in range(0, value.shape[0], _CHUNK) if in_parts else [0]:
        part = tf.convert_to_tensor(value[start : start + _CHUNK]) if in_parts else value
        fault = _told(name, part, spec)
        if not fault and tf.as_dtype(part.dtype).is_floating and part.dtype.size > floatx.size:
            fault = _told(name, tf.cast(part, floatx), Spec())
            fault = fault and f"{fault} {floatx.name} does not hold the number."
        if fault:
            # The element was counted from the start of its chunk.
            shift = lambda m, start=start: f"element {int(m[1]) + start} "  # noqa: E731
            raise ValueError(re.sub(r"element (\d+) ", shift, fault, count=1))


def _told(name, value, spec):
    """What is wrong with a value, "" if nothing is."""
    if tf.reduce_all(_good(_values(value), spec)):
        return ""
    return _fault(name, value, spec, "").numpy().decode()


def _of_pandas(name, value):
    """The values of a DataFrame or Series in which none is missing: NaN, None, NaT or <NA>."""
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
    """Refuse what TensorFlow reads as something else, or only with an error that names nothing."""
    if np.ma.is_masked(value):
        hidden = np.ma.getmaskarray(value)
        raise ValueError(
            f"{name}: element {np.argwhere(hidden)[0, 0]} is masked ({hidden.sum()} values in "
            "all), but what is behind the mask would be trained on; fill it: .filled(value)"
        )
    if value.dtype == object and not all(isinstance(each, str) for each in value.ravel()):
        kinds = sorted({type(each).__name__ for each in value.ravel()})
        raise ValueError(
            f"{name}: dtype object (values of {', '.join(kinds)}), expected numbers of one kind: "
            ".astype('float32')"
        )


def check_arrays(name, value, spec):
    """`check_array` for a part of a batch: an array, or nested dicts, lists and tuples of them.

    Args:
        name: How the user knows it.
        value: Arrays; what Keras would not take for one is left alone.
        spec: A `Spec` for all of them, a dict of specs, or `None`, which leaves them unchecked.

    Raises:
        ValueError: naming the array, the element and its value, or what the dict lacks.
    """
    for _, part_name, part, part_spec in _leaves(name, value, spec):
        if is_array(part):
            check_array(part_name, part, part_spec)


def _leaves(name, part, spec, path=()):
    """`(path, name, part, spec)` of all that is to be checked."""
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


def guard(dataset, name, specs):
    """Put the checks into a pipeline: a bad batch raises before it reaches the model.

    Args:
        dataset: A batched `tf.data.Dataset`.
        name: What to call the data set in messages, for example `"x"`.
        specs: A `Spec`, or a tuple of them in the order of the batch's leading parts (inputs,
            targets, sample weights); `None` leaves a part unchecked, and a dict is of a part that
            is one. A `Spec` is for all arrays of a nested part.

    Returns:
        The same data set, `untuned`; iterate it under `readable_errors`.

    Raises:
        ValueError: at once, if a dtype or shape does not fit or the data set is known to be empty.
    """
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"{name}: the data set is empty.")
    # Kept with the data set: `fit` is called again and again, and to trace the checks takes longer
    # than a few steps.
    guarded = vars(dataset).setdefault("_bigmodels_guarded", {})
    key = name, repr(specs)
    if key not in guarded:
        guarded[key] = watch(untuned(dataset), name, specs)
    return guarded[key]


def watch(dataset, name, specs):
    """`guard` for a data set whose options and length are not ours to look at."""
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

    @tf.autograph.experimental.do_not_convert  # Only slower to trace.
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
                told = functools.partial(_fault, name, value, spec, place)
                # Where there may be no value at all, there is no first one to tell of.
                full = isinstance(value, tf.Tensor) and value.shape[1:].num_elements()
                faults.append(told() if full else tf.cond(good[i], lambda: tf.constant(""), told))
            return tf.stack(faults)[tf.argmax(tf.cast(~good, "int32"))]

        # No `tf.function`, although it would be traced but once: what a pipeline calls runs on the
        # GPU if there is one, in between the steps that are being trained there.
        fine = tf.reduce_all(good)
        require(fine, tf.cond(fine, lambda: tf.constant(""), describe))
        return batch

    # The next batch is looked at while the model trains on this one.
    return dataset.enumerate().map(checked_batch).prefetch(1)


def untuned(dataset):
    """A data set without TensorFlow's autotuning, unless its options ask for it.

    The thread that tunes a pipeline sometimes misses that its iterator is deleted, and looks again
    after twice as long as before, up to a minute: so long, `fit` does not return. Without it
    AUTOTUNE means as many threads as there are cores, at most 16.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def require(condition, message):
    """Stop a running step unless something holds.

    Args:
        condition: Scalar boolean tensor.
        message: What the user is told: a string, or a scalar string tensor.

    Returns:
        In a graph, the operation that stops the step, for what has to wait for it.

    Raises:
        ValueError: under `readable_errors`.
    """
    marked = tf.strings.join([_OPEN, message, _CLOSE])
    # `tf.debugging.Assert` would put this into a branch of its own, which takes longer.
    return tf.raw_ops.Assert(condition=condition, data=[marked], summarize=-1)


@contextlib.contextmanager
def readable_errors():
    """Turn what `guard` and `require` raise inside TensorFlow into one plain `ValueError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(re.escape(_OPEN) + "(.*?)" + re.escape(_CLOSE), str(error), re.DOTALL)
        if found is None:
            raise
        raise ValueError(found[1].replace("\\'", "'")) from None  # TensorFlow escapes quotes.
