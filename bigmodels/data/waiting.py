"""How long a training waits for its data."""

import uuid

import tensorflow as tf
from tensorflow.core.framework import summary_pb2

from bigmodels.distribute.upstream import UnaryUnchangedStructureDataset

_TAG = "waiting"


class Waiting:
    """A clock at the end of a pipeline: how long whoever asks for a batch is kept waiting.

    It counts what lies before it; the checks that `fit` adds come after. TensorFlow has the
    operations, of which its public surface no longer speaks. The pipeline has to be
    `bigmodels.checks.untuned`, as `fit` makes it: tuning would put a buffer behind the clock.
    """

    def __init__(self):
        # Without a name it would go with the operation that made it, which TensorFlow forgets.
        name = f"waiting_{uuid.uuid4().hex}"
        self._aggregator = tf.raw_ops.StatsAggregatorHandle(shared_name=name)

    def timed(self, dataset):
        """The same data set, with the clock at its end."""
        return _Counting(_Measured(dataset), self._aggregator)

    @property
    def seconds(self):
        """Of all batches taken so far."""
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
