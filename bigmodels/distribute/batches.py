"""The global batches that every worker iterates over."""

import keras
import tensorflow as tf

from bigmodels import checks
from bigmodels.distribute import replicas
from bigmodels.distribute.upstream import DataAdapter, data_adapters

_PRIME = 16777619


class Everywhere(tf.distribute.DistributedDataset):
    """A data set that Keras takes for a distributed one, as the step itself divides each batch.

    `experimental_distribute_dataset` would need the same number of batches on every worker, rows
    for every replica in the first batch, and a collective operation per step to find the end.
    """

    def __init__(self, dataset):
        self._dataset = dataset

    def __iter__(self):
        return iter(self._dataset)

    @property
    def element_spec(self):
        return self._dataset.element_spec


class WrappedAdapter(DataAdapter):
    """A Keras data adapter around another one, `_adapter`, whose data set a subclass changes."""

    def on_epoch_begin(self):
        self._adapter.on_epoch_begin()

    def on_epoch_end(self):
        self._adapter.on_epoch_end()

    @property
    def num_batches(self):
        return self._adapter.num_batches

    @property
    def batch_size(self):
        return self._adapter.batch_size


class Batches(WrappedAdapter):
    """The data of `predict` as Keras batches them, but not autotuned: see `checks.untuned`.

    Args:
        x: Inputs, as for `keras.Model.predict`.
        **kwargs: `batch_size`, `steps_per_epoch` and `shuffle`, as for `keras.Model.fit`.
    """

    def __init__(self, x, **kwargs):
        self._adapter = data_adapters.get_data_adapter(x=x, **kwargs)

    def get_tf_dataset(self):
        return checks.untuned(self._adapter.get_tf_dataset())


class GlobalBatches(WrappedAdapter):
    """The data of `fit` as global batches.

    Args:
        x: Inputs, or a data set, as for `keras.Model.fit`.
        **kwargs: `y`, `sample_weight`, `batch_size`, `steps_per_epoch`, `shuffle` and
            `class_weight`, as for `keras.Model.fit`.

    Raises:
        ValueError: if `x` is distributed already, as its global batches are then not available.
    """

    def __init__(self, x, **kwargs):
        if isinstance(x, tf.distribute.DistributedDataset):
            raise ValueError(
                "x: is distributed already; give the data set of global batches, which fit divides"
            )
        self._adapter = data_adapters.get_data_adapter(x=x, **kwargs)
        self._dataset = Everywhere(checks.untuned(self._adapter.get_tf_dataset()))

    def get_tf_dataset(self):
        return self._dataset

    @property
    def of_epoch(self):
        """`repeatable.ShuffledArrays.of_epoch`, if the data have one; else `None`."""
        return getattr(self._adapter, "of_epoch", None)


def digest(data, strategy, before=0):
    """Hash the values of a batch and their positions.

    Args:
        data: The batch, nested tensors.
        strategy: The `tf.distribute` strategy; with one worker nothing is hashed, as there is
            nothing to compare.
        before: The digest of the batches before this one.

    Returns:
        A scalar int32 tensor.
    """
    result = tf.convert_to_tensor(before, "int32")
    if replicas.workers(strategy) == 1:
        return result
    with tf.device("/device:CPU:0"):
        for value in tf.nest.flatten(data, expand_composites=True):
            if value is None:
                continue
            if value.dtype == tf.string:
                value = tf.strings.to_hash_bucket_fast(value, 2**31 - 1)
            if value.dtype.is_bool:
                value = tf.cast(value, "int8")
            kind = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}[value.dtype.size]
            flat = tf.cast(tf.reshape(tf.bitcast(value, kind), [-1]), "int32")
            place = tf.range(tf.size(flat)) * 2 + 1
            result = result * _PRIME + tf.reduce_sum(flat * place) * _PRIME + tf.size(flat)
    return result


def own_digest(value, strategy):
    """A replica's part of a table of all workers' digests, to be summed over the replicas.

    Args:
        value: A digest from `digest`.
        strategy: The `tf.distribute` strategy.

    Returns:
        float32 `(workers, 2)` with the digest's halves in the worker's row. In float32 it is sent
        in one message with the metrics.
    """
    workers = replicas.workers(strategy)
    per_worker = strategy.num_replicas_in_sync // workers
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    halves = tf.stack([tf.bitwise.right_shift(value, 16), tf.bitwise.bitwise_and(value, 0xFFFF)])
    row = tf.one_hot(replica // per_worker, workers)[:, None] * tf.cast(halves, "float32")
    return tf.where(tf.equal(replica % per_worker, 0), row, 0)


def check_same_on_workers(digests):
    """Refuse batches that differ between workers, for example after an unseeded shuffle.

    Args:
        digests: `own_digest` summed over the replicas.

    Raises:
        ValueError: on every worker, within `checks.readable_errors`.
    """
    checks.require(
        tf.reduce_all(tf.equal(digests, digests[0])),
        "x: the workers see different batches; every worker needs the same pipeline, with a seed "
        "in each shuffle, or keras.utils.set_random_seed before it is created",
    )


def symbolic(element_spec):
    """Symbolic `keras.KerasTensor`s in the structure of a batch, for building a model."""
    return tf.nest.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), element_spec
    )
