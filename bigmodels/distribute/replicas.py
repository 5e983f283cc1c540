"""What one replica knows of the others: its rows of the batch, sums over all, seeds of its own.

A *replica* is one copy of the model on one device. Every worker iterates over the same global
batches; each replica takes its own rows of them. Nothing here does anything when there is only one.
"""

import contextlib
import threading
import typing

import keras
import tensorflow as tf

# Mirrored replicas are traced in threads that take turns at every collective operation.
_current = threading.local()

# Keeps the seeds of replicas apart; odd, so that no two of them meet modulo 2**32.
_SEED_STRIDE = 0x9E3779B1


class Rows(typing.NamedTuple):
    """A replica's rows of the global batch: `begin` to before `end`, of `total`.

    `real` is 1, or 0 for a replica that none was left for. Such a one is given a row to stand in,
    as TensorFlow's CPU kernels make shapes up for an empty batch, and nothing it computes counts.
    """

    begin: int | tf.Tensor
    end: int | tf.Tensor
    total: int | tf.Tensor
    real: int | tf.Tensor

    def weight(self, dtype):
        """How much of the global batch this is."""
        rows = tf.cast((self.end - self.begin) * self.real, dtype)
        return rows / tf.cast(self.total, dtype)


def count():
    """How many replicas train together, in the strategy at hand."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def workers(strategy):
    """How many processes train together in a strategy."""
    return getattr(strategy.extended, "_num_workers", 1)


def in_replica():
    """Whether the code runs as one of several replicas."""
    return count() > 1 and tf.distribute.in_cross_replica_context() is False


def rows():
    """The `Rows` that this replica works on, `None` outside a step of several replicas."""
    return getattr(_current, "rows", None) if in_replica() else None


def real(dtype):
    """1 in the dtype, or 0 in a replica whose row only stands in."""
    mine = rows()
    return tf.cast(1 if mine is None else mine.real, dtype)


def all_sum(value):
    """The sum over all replicas of a tensor, or of each of a list; differentiable."""
    if not in_replica():
        return value
    flat = tf.nest.flatten(value)
    sums = [None] * len(flat)
    # One operation for each dtype: they are packed into one message. On the CPU they know no
    # bfloat16.
    dtypes = ["float32" if v.dtype == tf.bfloat16 else v.dtype.name for v in flat]
    for dtype in dict.fromkeys(dtypes):
        places = [i for i, name in enumerate(dtypes) if name == dtype]
        group = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [tf.cast(flat[i], dtype) for i in places]
        )
        for i, total in zip(places, group, strict=True):
            sums[i] = tf.cast(total, flat[i].dtype)
    return tf.nest.pack_sequence_as(value, sums)


def of_batch(draw, size):
    """This replica's rows of something made for the whole global batch.

    Args:
        draw: Function of a number of rows to a tensor with so many. It must give the same tensor on
            every replica: draw noise from a `SharedSeedGenerator`.
        size: Rows of the replica's own batch, used when there is only one replica.

    Returns:
        A tensor with as many rows as the replica has; on one device the tensor itself.
    """
    mine = rows()
    return draw(size) if mine is None else draw(mine.total)[mine.begin : mine.end]


class SharedSeedGenerator(keras.random.SeedGenerator):
    """A `keras.random.SeedGenerator` that gives every replica the same numbers.

    Others give each replica numbers of its own, so that no two drop the same units.
    """


@contextlib.contextmanager
def own_rows(data):
    """Enter a replica's part of the global batch.

    Args:
        data: Tensors (nested, `None` allowed) whose first axis is the global batch.

    Yields:
        The same structure with this replica's rows.
    """
    context = tf.distribute.get_replica_context()
    tensors = [value for value in tf.nest.flatten(data) if value is not None]
    for value in tensors:
        if isinstance(value, tf.SparseTensor) or value.shape.rank == 0:
            raise ValueError(f"x: {value} has no rows to divide between the replicas")
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    # Where the batch divides evenly every shape stays static; else the batch axis is not, as Keras
    # weighs some means by a static size.
    size = tensors[0].shape[0]
    if size is not None and size % replicas == 0:
        static = size // replicas
        mine = Rows(replica * static, (replica + 1) * static, size, 1)
    else:
        static = None
        total = tensors[0].nrows() if isinstance(tensors[0], tf.RaggedTensor) else None
        total = tf.cast(tf.shape(tensors[0])[0] if total is None else total, "int32")
        begin, end = replica * total // replicas, (replica + 1) * total // replicas
        first = tf.minimum(begin, total - 1)
        mine = Rows(first, tf.maximum(end, first + 1), total, tf.cast(end > begin, "int32"))
    _current.rows = mine

    def part(value):
        if value is None:
            return None
        # Cut on the host, so that a device is sent its own rows only.
        with tf.device("/device:CPU:0"):
            mine_of_it = value[mine.begin : mine.end]
        if static is not None:
            mine_of_it = tf.ensure_shape(mine_of_it, (static, *value.shape[1:]))
        return mine_of_it

    try:
        yield tf.nest.map_structure(part, data)
    finally:
        _current.rows = None


@contextlib.contextmanager
def real_counts(model):
    """Keep a row that only stands in out of the model's metrics."""
    mine = rows()
    if isinstance(mine.real, int):
        yield
        return
    # Keras gives the losses of several outputs one count a replica, whatever its rows.
    per_replica = [id(v) for v in getattr(model._compile_loss, "variables", ())]
    counted = [v for v in model.metrics_variables if id(v) not in per_replica]
    before = [variable.value + 0 for variable in counted]
    yield
    for variable, value in zip(counted, before, strict=True):
        variable.assign(tf.where(mine.real > 0, variable.value, value))


@contextlib.contextmanager
def own_seeds(model):
    """Let every replica draw its own noise from the model's seed generators, reproducibly.

    Only the first word of a generator's state differs while the step runs. Afterwards it is the
    same everywhere again, so that a checkpoint holds it once. The first replica draws what one
    device would.
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
