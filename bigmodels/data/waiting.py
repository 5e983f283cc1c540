"""Measure how long training waits for its input pipeline."""

import uuid

import tensorflow as tf
from tensorflow.core.framework import summary_pb2

from bigmodels.distribute.upstream import UnaryUnchangedStructureDataset

_TAG = "waiting"


class Waiting:
    """Measures the time that the consumer of a data set spends waiting for batches.

    It covers the pipeline before it; the checks that `fit` adds come after. TensorFlow still has
    the operations but no public interface to them. The pipeline must be `bigmodels.checks.untuned`,
    as `fit` makes it, because autotuning would insert a buffer after the measurement.

    Example:

    >>> waiting = Waiting()
    >>> batches = bigmodels.checks.untuned(waiting.timed(tf.data.Dataset.range(3)))
    >>> len(list(batches)), waiting.seconds > 0
    (3, True)
    """

    def __init__(self):
        # Without a name the resource is deleted together with the operation that created it.
        name = f"waiting_{uuid.uuid4().hex}"
        self._aggregator = tf.raw_ops.StatsAggregatorHandle(shared_name=name)

    def timed(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the data set with a measurement at its end.

        Args:
            dataset: A `tf.data.Dataset`.

        Returns:
            A `tf.data.Dataset` of the same elements.
        """
        return _Counting(_Measured(dataset), self._aggregator)

    @property
    def seconds(self) -> float:
        """Waiting time of all batches taken so far, in seconds."""
        summary = summary_pb2.Summary()
        summary.ParseFromString(
            tf.raw_ops.StatsAggregatorSummary(iterator=self._aggregator).numpy()
        )
        # TensorFlow counts microseconds.
        return sum(value.histo.sum for value in summary.value if value.tag == _TAG) / 1e6


class _Measured(UnaryUnchangedStructureDataset):
    def __init__(self, dataset):
        variant = tf.raw_ops.LatencyStatsDataset(
            input_dataset=dataset._variant_tensor, tag=_TAG, **dataset._flat_structure
        )
        super().__init__(dataset, variant)


class _Counting(UnaryUnchangedStructureDataset):
    def __init__(self, dataset, aggregator):
        variant = tf.raw_ops.SetStatsAggregatorDataset(
            input_dataset=dataset._variant_tensor,
            stats_aggregator=aggregator,
            tag="",
            counter_prefix="",
            **dataset._flat_structure,
        )
        super().__init__(dataset, variant)
