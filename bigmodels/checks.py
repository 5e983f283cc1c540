"""What a batch must look like, checked while it streams by.

Keras trains on much that it should refuse (field list: NaN and infinity, labels and tokens out of
range, labels given as floats, images still in 0..255). A `Spec` says what one array must be;
`check_static` compares dtype and shape before any value is read, `check_array` reads an array in
memory, and `guard` puts the same test into a `tf.data` pipeline, where it stops a bad batch before
the model sees it. The graph operations are two comparisons and one reduction over the batch.
"""

import contextlib
import dataclasses
import functools
import re

import tensorflow as tf

# The fault found inside a graph travels out in TensorFlow's own error text, between these marks.
_OPEN, _CLOSE = "<bad input: ", " :bad input>"
_CHUNK = 4096


def shown(value):
    """A value as a message shows it: on one line, of bearable length."""
    try:
        line = repr(value)
    except (ValueError, RecursionError):  # A number of more digits than Python writes out.
        line = f"a {type(value).__name__} too long to show"
    return line if len(line) <= 200 else f"{line[:200]}..."


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
    dtype = tf.as_dtype(dtype)
    hint = f" {spec.hint}" if spec.hint else ""
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


def _good(value, spec):
    """Of every value, whether it is what it must be."""
    limits = []
    if spec.low is not None:
        limits.append(value >= tf.cast(spec.low, value.dtype))
    if spec.high is not None:
        limits.append(value <= tf.cast(spec.high, value.dtype))
    # What lies between two limits is finite.
    if value.dtype.is_floating and len(limits) < 2:
        limits.append(tf.math.is_finite(value))
    return functools.reduce(tf.logical_and, limits) if limits else tf.ones_like(value, "bool")


def _fault(name, value, spec, place):
    """A scalar string: what is wrong with the first bad value, or "" when all are good."""
    value = tf.convert_to_tensor(value)
    bad = ~_good(value, spec)
    flat = tf.reshape(bad, [-1])

    def describe():
        first = tf.argmax(tf.cast(flat, "int32"))
        per_element = tf.size(value, out_type=tf.int64) // tf.shape(value, out_type=tf.int64)[0]
        wanted = "finite values"
        if spec.low is not None or spec.high is not None:
            wanted += f" from {_number(spec.low)} to {_number(spec.high)}"
        number = tf.strings.as_string(tf.reshape(value, [-1])[first])
        element = tf.strings.as_string(first // per_element)
        expected = f", expected {wanted}." + (f" {spec.hint}" if spec.hint else "")
        return tf.strings.join(
            [f"{name}: ", place, "element ", element, " holds ", number, expected]
        )

    return tf.cond(tf.reduce_any(flat), describe, lambda: tf.constant(""))


def _number(value):
    return "any" if value is None else f"{value:g}"


def check_array(name, value, spec):
    """Check an array in memory, value by value.

    Args:
        name: How the user knows the array.
        value: NumPy array or tensor, batch axis first.
        spec: The `Spec` to hold it against.

    Raises:
        ValueError: naming the array, the element and its value.
    """
    check_static(name, value.dtype, value.shape, spec)
    if len(value) == 0:
        raise ValueError(f"{name}: the data set is empty.")
    if not (tf.as_dtype(value.dtype).is_floating or tf.as_dtype(value.dtype).is_integer):
        return
    for start in range(0, len(value), _CHUNK):
        fault = _fault(name, value[start : start + _CHUNK], spec, "").numpy().decode()
        if fault:
            # The element was counted from the start of its chunk.
            shift = lambda m, start=start: f"element {int(m[1]) + start} "  # noqa: E731
            raise ValueError(re.sub(r"element (\d+) ", shift, fault, count=1))


def guard(dataset, name, specs):
    """Put the checks into a pipeline: a bad batch raises before it reaches the model.

    Args:
        dataset: A batched `tf.data.Dataset`.
        name: What to call the data set in messages, for example `"x"`.
        specs: A `Spec`, or a tuple of them in the order of the batch's leading parts (inputs,
            targets); `None` leaves a part unchecked, and a dict is of a part that is one.

    Returns:
        The same data set, `untuned`; iterate it under `readable_errors`.

    Raises:
        ValueError: at once, if a dtype or shape does not fit or the data set is known to be empty.
    """
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"{name}: the data set is empty.")
    dataset = untuned(dataset)
    specs = specs if isinstance(specs, tuple) else (specs,)
    element = dataset.element_spec
    parts = element if isinstance(element, tuple) else (element,)
    names = [name] if len(parts) == 1 else [f"{name} (inputs)", f"{name} (targets)"]
    checked = [
        (index, *leaf)
        for index, (part, part_name, spec) in enumerate(zip(parts, names, specs, strict=False))
        for leaf in _leaves(part_name, part, spec)
        if isinstance(leaf[2], tf.TensorSpec)
    ]
    for *_, part_name, part, spec in checked:
        check_static(part_name, part.dtype, part.shape, spec)

    if not checked:
        return dataset
    check = _checking(tuple((part_name, spec) for *_, part_name, _, spec in checked))

    @tf.autograph.experimental.do_not_convert  # Only slower to trace.
    def checked_batch(number, batch):
        values = batch if isinstance(element, tuple) else (batch,)
        check(number, [values[i] if key is None else values[i][key] for i, key, *_ in checked])
        return batch

    return dataset.enumerate().map(checked_batch)


@functools.lru_cache(maxsize=64)
def _checking(parts):
    """What looks at a batch: traced once, not in each `fit` anew, of which it was a twentieth."""

    @tf.function(autograph=False)
    def check(number, values):
        values = [(name, value, spec) for (name, spec), value in zip(parts, values, strict=True)]
        good = [tf.reduce_all(_good(value, spec)) for _, value, spec in values]

        def describe():
            place = tf.strings.join(["batch ", tf.strings.as_string(number), ", "])
            faults = tf.stack([_fault(name, value, spec, place) for name, value, spec in values])
            return faults[tf.argmax(tf.cast(faults != "", "int32"))]

        fine = tf.reduce_all(good)
        require(fine, tf.cond(fine, lambda: tf.constant(""), describe))

    return check


def check_arrays(name, value, spec):
    """`check_array` for a part of a batch, which may be a dict of arrays or something unknown.

    Args:
        name: How the user knows it.
        value: An array, a dict of them, or anything, which is then left alone.
        spec: A `Spec`, a dict of them, or `None`, which leaves it unchecked.

    Raises:
        ValueError: naming the array, the element and its value, or what the dict lacks.
    """
    for _, part_name, part, part_spec in _leaves(name, value, spec):
        if hasattr(part, "dtype") and hasattr(part, "shape"):
            check_array(part_name, part, part_spec)


def _leaves(name, part, spec):
    """`(key, name, part, spec)` of all that is to be checked; the key is that of a dict's part."""
    if spec is None:
        return []
    if not isinstance(spec, dict):
        return [(None, name, part, spec)]
    if not isinstance(part, dict) or part.keys() != spec.keys():
        given = f"a dict of {sorted(part)}" if isinstance(part, dict) else type(part).__name__
        raise ValueError(f"{name}: {given}, expected a dict of {sorted(spec)}")
    inside = name.endswith(")")
    return [
        (key, f"{name[:-1]}, {key})" if inside else f"{name}[{key!r}]", part[key], each)
        for key, each in spec.items()
    ]


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
