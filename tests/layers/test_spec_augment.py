"""What SpecAugment blots out, and what it leaves alone."""

import keras
import numpy as np
import pytest

from bigmodels.layers import SpecAugment

ONES = np.ones((200, 40, 20), "float32")


def runs(row):
    """Lengths of the stretches of zeros."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], row, [1]]) == 0))
    return edges[1::2] - edges[::2]


def test_only_while_training():
    layer = SpecAugment(seed=1)
    assert layer(ONES) is not None
    np.testing.assert_array_equal(layer(ONES), ONES)
    assert (np.asarray(layer(ONES, training=True)) == 0).any()
    off = SpecAugment(0, 0)
    np.testing.assert_array_equal(off(ONES, training=True), ONES)


def test_stretches_of_time_lie_within_the_recording():
    frames = np.int32([10, 40] * 100)
    found = np.asarray(SpecAugment(1, 0, 0.5, seed=1)(ONES, frames=frames, training=True))
    assert (found.min(2) == found.max(2)).all()  # All bands at once.
    longest = {10: 0, 40: 0}
    starts = {10: set(), 40: set()}
    for row, size in zip(found[:, :, 0], frames, strict=True):
        assert row[size:].all()
        lengths = runs(row)
        assert len(lengths) <= 1
        if len(lengths):
            longest[size] = max(longest[size], lengths[0])
            starts[size].add(int(np.flatnonzero(row == 0)[0]))
    assert longest == {10: 5, 40: 20}
    assert min(starts[10]) == 0 and max(starts[10]) >= 8 and max(starts[40]) >= 35


def test_bands_are_lost_throughout():
    found = np.asarray(SpecAugment(0, 1, frequency_share=0.25, seed=1)(ONES, training=True))
    assert (found.min(1) == found.max(1)).all()
    widths = [runs(row).sum() for row in found[:, 0]]
    assert max(widths) == 5 and min(widths) == 0
    touched = (found[:, 0] == 0).any(0)
    assert touched.all()  # At the edges too.


def test_as_many_as_asked_for_and_others_each_time():
    layer = SpecAugment(3, 2, seed=1)
    first, second = (np.asarray(layer(ONES, training=True)) for _ in range(2))
    assert (first != second).any()
    assert max(len(runs(row)) for row in first.max(2)) <= 3
    again = np.asarray(SpecAugment(3, 2, seed=1)(ONES, training=True))
    np.testing.assert_array_equal(first, again)


def test_comes_back_from_its_config():
    layer = SpecAugment(1, 3, 0.2, 0.3, seed=5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_masks": -1}, "time_masks: -1, expected from 0 to 100"),
        ({"frequency_masks": 101}, "frequency_masks: 101"),
        ({"time_share": 1.5}, "time_share: 1.5, expected a number from 0 to 1"),
        ({"frequency_share": -0.1}, "frequency_share: -0.1"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        SpecAugment(**arguments)
    assert message in str(error.value)
