"""The clock counts the waits, and nothing else."""

import time

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.checks import untuned
from bigmodels.data.waiting import Waiting


def slow(seconds, count):
    """A pipeline that takes its time for every element, one ahead of whoever asks."""

    def read(x):
        time.sleep(seconds)
        return x

    elements = tf.data.Dataset.range(count).map(lambda x: tf.numpy_function(read, [x], tf.int64))
    return untuned(elements.prefetch(1))


def test_elements_are_the_same():
    waiting = Waiting()
    dataset = tf.data.Dataset.from_tensor_slices({"a": np.arange(6), "b": np.ones((6, 2))})
    timed = waiting.timed(dataset.batch(4))
    assert timed.element_spec == dataset.batch(4).element_spec
    for ours, theirs in zip(timed, dataset.batch(4), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("busy", [0.0, 0.2])
def test_counts_waits_alone(busy):
    """Sleeping is exact enough: what is slower than its reader costs the difference."""
    waiting = Waiting()
    for _ in waiting.timed(slow(0.1, 5)):
        time.sleep(busy)
    if busy:
        assert waiting.seconds < 0.4  # Mostly the first element.
    else:
        assert waiting.seconds >= 0.5


def test_counts_over_several_iterators():
    waiting = Waiting()
    assert waiting.seconds == 0
    timed = waiting.timed(slow(0.02, 2))
    list(timed)
    once = waiting.seconds
    list(timed)
    assert waiting.seconds >= once + 0.04
