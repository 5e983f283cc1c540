"""What runs within one replica: its rows of the batch, sums over all replicas, its own seeds.

A *replica* is one copy of the model on one device. Every worker iterates over the same global
batches, and each replica takes its own rows of them. With a single replica nothing here has any
effect.
"""

import contextlib
import threading
import typing
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from bigmodels import checks

# Mirrored replicas are traced in threads that take turns at every collective operation.
_current = threading.local()

# Distance between the seeds of replicas; odd, so that no two coincide modulo 2**32.
_SEED_STRIDE = 0x9E3779B1


class Rows(typing.NamedTuple):
    """A replica's rows of the global batch: from `begin` up to `end` (exclusive), of `total`.

    `real` is 1, or 0 for a replica that gets no rows. Such a replica gets a placeholder row, as
    TensorFlow's CPU kernels return wrong shapes for an empty batch, and its results are discarded.
    """

    begin: int | tf.Tensor
    end: int | tf.Tensor
    total: int | tf.Tensor
    real: int | tf.Tensor

    def weight(self, dtype):
        """The replica's fraction of the global batch."""
        rows = tf.cast((self.end - self.begin) * self.real, dtype)
        return rows / tf.cast(self.total, dtype)


def count():
    """Number of replicas in the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def workers(strategy: tf.distribute.Strategy) -> int:
    """Number of worker processes in a strategy.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Returns:
        An integer; 1 for every strategy within one process.

    Example:

    >>> bigmodels.distribute.workers(bigmodels.distribute.strategy("one_device"))
    1
    """
    return getattr(strategy.extended, "_num_workers", 1)


def in_replica():
    """Whether the code runs as one of several replicas."""
    return count() > 1 and tf.distribute.in_cross_replica_context() is False


def rows():
    """The `Rows` of this replica; `None` outside a step of several replicas."""
    return getattr(_current, "rows", None) if in_replica() else None


def of_first(value):
    """The tensor in the first replica, zeros in all others."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.where(tf.equal(replica, 0), value, tf.zeros_like(value))


def gathered():
    """Tensors gathered from all replicas in this step, by the `id` of this replica's own part."""
    return {} if rows() is None else _current.gathered


def note_whole(variables):
    """Record that metric variables were updated from all rows in this step."""
    _current.whole.update(id(variable) for variable in variables)


def real(dtype):
    """1 in the dtype, or 0 in a replica that has only a placeholder row."""
    mine = rows()
    return tf.cast(1 if mine is None else mine.real, dtype)


def all_sum(value: Any) -> Any:
    """Sum tensors over all replicas; differentiable.

    A layer that depends on all rows of a batch gives the same numbers as on one device if it is
    written with this function; see `bigmodels.distribute.Model`. Every replica must call it,
    outside of `tf.cond`.

    Args:
        value: A numeric tensor, or a nested structure of them, with the same shapes on every
            replica. A replica without rows of the batch adds zero.

    Returns:
        The same structure of tensors; on one device, `value` itself.

    Example:

    >>> bigmodels.distribute.all_sum([1.0, 2.0])  # One device.
    [1.0, 2.0]
    """
    if not in_replica():
        return value
    value = tf.nest.map_structure(tf.convert_to_tensor, value)
    mine = rows()
    if mine is not None and not isinstance(mine.real, int):
        value = tf.nest.map_structure(lambda v: tf.where(mine.real > 0, v, tf.zeros_like(v)), value)
    return reduce_sum(value)


def reduce_sum(value):
    """`all_sum` of values other than the batch's rows: every replica's value counts."""
    flat = tf.nest.flatten(value)
    sums = [None] * len(flat)
    # One operation per dtype, which packs the tensors into one message. On the CPU collective
    # operations do not support bfloat16.
    dtypes = ["float32" if v.dtype == tf.bfloat16 else v.dtype.name for v in flat]
    for dtype in dict.fromkeys(dtypes):
        places = [i for i, name in enumerate(dtypes) if name == dtype]
        group = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [tf.cast(flat[i], dtype) for i in places]
        )
        for i, total in zip(places, group, strict=True):
            sums[i] = tf.cast(total, flat[i].dtype)
    return tf.nest.pack_sequence_as(value, sums)


def all_gather(value: Any, every_row: bool = False) -> Any:
    """Gather the rows of all replicas, in the order of the global batch; differentiable.

    Every replica pads its rows with zeros and the results are summed, so it costs as much as
    `all_sum` of a tensor of all rows, and the same again for the gradient.

    Args:
        value: A tensor, or a nested structure of them, whose first axis is rows. All tensors have
            the same number of rows; replicas may have different numbers.
        every_row: Whether `value` holds every row of the replica's batch, or each equally often;
            saves a message between the replicas.

    Returns:
        The same structure of tensors; on one device, `value` itself.

    Raises:
        ValueError: if there is no first axis, the first axes differ or are not the batch's, or a
            tensor is ragged, sparse or of strings; where shapes are unknown, at run time.

    Example:

    >>> bigmodels.distribute.all_gather([[1, 2], [3, 4]])  # One device.
    [[1, 2], [3, 4]]
    """
    return _gather(value, every_row, reduce_sum) if in_replica() else value


def gather_alike(value, every_row=False):
    """`all_gather` for what every replica computes identically and then scales by its weight.

    Each replica knows the whole gradient, so none has to be sent.
    """

    def local(*own):
        def gradient(*upstream):
            return [
                tf.math.divide_no_nan(g, rows().weight(g.dtype)) if g.dtype.is_floating else None
                for g in upstream
            ]

        return reduce_sum(list(own)), gradient

    return _gather(value, every_row, lambda own: tf.custom_gradient(local)(*own))


def _gather(value, every_row, add_up):
    for tensor in tf.nest.flatten(value):
        if isinstance(tensor, tf.RaggedTensor | tf.SparseTensor):
            raise ValueError(f"gather: {tensor}, expected a dense tensor")
    value = tf.nest.map_structure(tf.convert_to_tensor, value)
    flat = tf.nest.flatten(value)
    for tensor in flat:
        if tensor.shape.rank == 0 or tensor.dtype == tf.string:
            raise ValueError(f"gather: {tensor}, expected rows of numbers")
    number, begin, total = _layout(flat, every_row)
    own = [_as_sent(tensor)[:number] for tensor in flat]
    after = total - begin - number
    own = [tf.pad(part, [[begin, after], *[[0, 0]] * (part.shape.rank - 1)]) for part in own]
    sums = [tf.cast(whole, old.dtype) for whole, old in zip(add_up(own), flat, strict=True)]
    for whole, old in zip(sums, flat, strict=True):
        whole.set_shape((tf.get_static_value(total), *old.shape[1:]))
    return tf.nest.pack_sequence_as(value, sums)


def _as_sent(value):
    """Send small integers as float32, which is exact for them, and others as int64."""
    if value.dtype.is_floating or value.dtype.is_complex:
        return value
    return tf.cast(value, "float32" if value.dtype.size < 4 else "int64")


def _layout(flat, every_row):
    """`(number, begin, total)`: a replica's entries of the first axis and their place among all."""
    numbers = [v.shape[0] if v.shape[0] is not None else tf.shape(v)[0] for v in flat]
    number, mine = numbers[0], rows()
    for other in numbers[1:]:
        number = _checked(number, other, "gather: {} rows of one tensor and {} of another")
    if not every_row or mine is None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        number = number * real("int32")
        counts = reduce_sum(tf.one_hot(replica, count(), dtype="int32") * number)
        return number, tf.reduce_sum(counts[:replica]), tf.reduce_sum(counts)
    own = mine.total // count() if isinstance(mine.total, int) else mine.end - mine.begin
    times = number // own
    message = "gather: {} rows of the batch, but a tensor's first axis has {}"
    number = _checked(number, times * own, message)
    return number * mine.real, mine.begin * times, mine.total * times


def _checked(number, other, message):
    """The first number if both are equal. Else raise, at run time if one is not known before."""
    if isinstance(number, int) and isinstance(other, int):
        if number != other:
            raise ValueError(message.format(other, number))
        return number
    check = checks.require(tf.equal(other, number), tf.strings.format(message, (other, number)))
    # Without this dependency, operations that use this size fail before the check runs.
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(number)


@contextlib.contextmanager
def as_one_device():
    """Let Keras' code see one replica, where it works on the whole batch.

    Keras' losses divide by the number of replicas, also when a user's function calls them. The
    other replicas' threads wait meanwhile, as the code in here has no collective operations.
    """
    strategy = tf.distribute.get_strategy()
    several = type(strategy)
    strategy.__class__ = type(several.__name__, (several,), {"num_replicas_in_sync": 1})
    try:
        yield
    finally:
        strategy.__class__ = several


def of_batch(draw: Callable[[Any], tf.Tensor], size: int | tf.Tensor) -> tf.Tensor:
    """Draw a tensor for the whole global batch and return this replica's rows of it.

    Args:
        draw: Function of a number of rows that returns a tensor with as many rows. It must return
            the same tensor on every replica: draw noise from a `SharedSeedGenerator`.
        size: Number of rows in the replica's own batch, used when there is only one replica.

    Returns:
        A tensor with as many rows as the replica has; on one device all rows.

    Example:

    >>> seed = bigmodels.distribute.SharedSeedGenerator(0)
    >>> draw = lambda rows: keras.random.normal((rows, 3), seed=seed)
    >>> tuple(bigmodels.distribute.of_batch(draw, 4).shape)
    (4, 3)
    """
    mine = rows()
    return draw(size) if mine is None else draw(mine.total)[mine.begin : mine.end]


class SharedSeedGenerator(keras.random.SeedGenerator):
    """A `keras.random.SeedGenerator` that gives every replica the same random numbers.

    With any other seed generator each replica draws its own numbers, so that dropout, for example,
    drops different units on each.

    Args:
        seed: As for `keras.random.SeedGenerator`.

    Example:

    >>> seed = bigmodels.distribute.SharedSeedGenerator(0)
    >>> tuple(keras.random.normal((2, 3), seed=seed).shape)
    (2, 3)
    """


@contextlib.contextmanager
def own_rows(data):
    """Take a replica's rows of the global batch.

    Args:
        data: Tensors (nested, `None` allowed) whose first axis is the global batch.

    Yields:
        The same structure with this replica's rows.
    """
    context = tf.distribute.get_replica_context()
    tensors = list(_leaves(data))
    for name, value in tensors:
        if isinstance(value, tf.SparseTensor) or value.shape.rank == 0:
            raise ValueError(f"{name}: {value} has no rows to divide between the replicas")
    total, same = _rows_of_batch(tensors)
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    # If the batch divides evenly, all shapes stay static. Else the batch axis must be unknown, as
    # Keras weights some means by a static size.
    size = next((v.shape[0] for _, v in tensors if v.shape[0] is not None), None)
    if size is not None and size % replicas == 0:
        static = size // replicas
        mine = Rows(replica * static, (replica + 1) * static, size, 1)
    else:
        static = None
        begin, end = replica * total // replicas, (replica + 1) * total // replicas
        first = tf.minimum(begin, total - 1)
        mine = Rows(first, tf.maximum(end, first + 1), total, tf.cast(end > begin, "int32"))
    _current.rows, _current.gathered, _current.whole = mine, {}, set()

    def part(value):
        if value is None:
            return None
        # Slice on the host, so that a device only gets its own rows.
        with tf.device("/device:CPU:0"), tf.control_dependencies(same):
            own = value[mine.begin : mine.end]
        if static is not None:
            own = tf.ensure_shape(own, (static, *value.shape[1:]))
        return own

    try:
        yield tf.nest.map_structure(part, data)
    finally:
        _current.rows = _current.gathered = _current.whole = None


def _leaves(data):
    """`(name, tensor)` of everything in a batch, named for the user: `x['a']`, `y`."""
    known = ("x", "y", "sample_weight")
    named = {"x": data}
    if isinstance(data, tuple):
        names = known if len(data) <= len(known) else [f"data[{i}]" for i in range(len(data))]
        named = dict(zip(names, data, strict=False))
    for name, part in named.items():
        for path, value in keras.tree.flatten_with_path(part):
            if value is not None:
                yield name + "".join(f"[{key!r}]" for key in path), value


def _rows_of_batch(tensors):
    """The number of rows, as a tensor, and the assertions that all tensors of the batch have it.

    It is taken from the targets, if there are any: a common mistake is an input that has no batch
    axis.
    """
    names = [name for name, _ in tensors]
    first = next((i for i, name in enumerate(names) if name.startswith("y")), 0)
    numbers = [
        tf.cast(v.nrows() if isinstance(v, tf.RaggedTensor) else tf.shape(v)[0], "int32")
        for _, v in tensors
    ]
    wanted, static = numbers[first], tensors[first][1].shape[0]
    remedy = (
        f"rows of {names[first]}; every input is divided between the replicas along its first "
        "axis: repeat it for each row, or make it a weight or a constant of the model"
    )
    same = []
    for (name, value), number in zip(tensors, numbers, strict=True):
        rows = value.shape[0]
        if None not in (rows, static):
            if rows != static:
                raise ValueError(
                    f"{name}: shape {value.shape}, but the batch has {static} {remedy}"
                )
        elif name != names[first]:
            inner = [] if isinstance(value, tf.RaggedTensor) else tf.shape(value)[1:]
            shape = tf.concat([number[None], inner], 0)
            message = f"{name}: shape {{}}, but the batch has {{}} {remedy}"
            message = tf.strings.format(message, (shape, wanted))
            same.append(checks.require(tf.equal(number, wanted), message))
    return wanted, [assertion for assertion in same if assertion is not None]


@contextlib.contextmanager
def real_counts(model):
    """Keep placeholder rows out of the model's metrics."""
    mine = rows()
    if isinstance(mine.real, int):
        yield
        return
    # Keras counts the losses of several outputs once per replica, whatever its number of rows.
    per_replica = [id(v) for v in getattr(model._compile_loss, "variables", ())]
    counted = [v for v in model.metrics_variables if id(v) not in per_replica]
    before = [variable.value + 0 for variable in counted]
    yield
    for variable, value in zip(counted, before, strict=True):
        if id(variable) not in _current.whole:  # Those were updated from all rows.
            variable.assign(tf.where(mine.real > 0, variable.value, value))


@contextlib.contextmanager
def own_seeds(model):
    """Let every replica draw its own noise from the model's seed generators, reproducibly.

    Only the first word of a generator's state differs while the step runs. Afterwards it is the
    same everywhere again, so that a checkpoint holds it once. The first replica draws the same
    numbers as a single device.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    generators = {
        id(generator): generator
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
        if not isinstance(generator, SharedSeedGenerator)
    }.values()

    def shift(generator, times):
        state = generator.state.value
        offset = tf.cast(tf.cast(replica, "uint32") * tf.constant(_SEED_STRIDE, "uint32"), "int64")
        first = (tf.cast(state[0], "int64") + times * offset) % 2**32
        generator.state.assign(tf.stack([tf.cast(first, state.dtype), state[1]]))

    for generator in generators:
        shift(generator, 1)
    yield
    for generator in generators:
        shift(generator, -1)
