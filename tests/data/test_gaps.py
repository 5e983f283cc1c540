"""Windows of a series with gaps hold what was known where they end, and nothing later."""

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data.gaps import Known


def series(rng, rows=60, missing=0.5):
    values = rng.normal(size=(rows, 2))
    values[rng.random(values.shape) < missing] = np.nan
    return values


def filled(past, fill):
    """A column filled in by hand, as if its last row were the last of a file."""
    known = np.flatnonzero(~np.isnan(past))
    rows = np.arange(len(past))
    if fill == "linear":
        return np.interp(rows, known, past[known])
    return [past[max(known[known <= row], default=known[0])] for row in rows]


@pytest.mark.parametrize("fill", ["linear", "previous"])
def test_a_window_is_filled_as_if_the_series_ended_with_it(rng, fill):
    values = series(rng)
    known = Known(values, fill)
    ends = np.arange(max(known.first, 7), 61)
    found = known.windows(ends, 7)
    for end, window in zip(ends, found, strict=True):
        wanted = np.stack([filled(column[:end], fill)[-7:] for column in values.T], axis=1)
        np.testing.assert_allclose(window, wanted)
    tensors = known.as_tensors().windows(tf.constant(ends), 7)
    np.testing.assert_array_equal(tensors, found.astype("float32"))


@pytest.mark.parametrize("fill", ["linear", "previous"])
def test_what_comes_later_changes_no_window(rng, fill):
    values = series(rng)
    later = values.copy()
    later[40:] = rng.normal(size=later[40:].shape)  # The gaps at row 40 end elsewhere too.
    ends = np.arange(10, 41)
    one, other = (Known(each, fill).windows(ends, 8) for each in (values, later))
    np.testing.assert_array_equal(one, other)


def test_targets_are_what_was_measured(rng):
    values = series(rng)
    starts = np.array([3, 20, 57])
    known = Known(values, "linear")
    wanted = np.stack([values[start : start + 3] for start in starts])
    np.testing.assert_array_equal(known.targets(starts, 3), wanted)
    np.testing.assert_array_equal(known.counts(starts, 3), np.isfinite(wanted).sum(1))
    tensors = known.as_tensors().targets(tf.constant(starts), 3)
    np.testing.assert_array_equal(tensors, wanted.astype("float32"))


def test_windows_begin_once_every_variable_has_a_value():
    nan = np.nan
    known = Known(np.array([[nan, 1.0], [nan, nan], [4.0, nan], [nan, 2.0]]), "linear")
    assert known.first == 3 and not known.complete
    # Before its first value, which lies in the window, a variable has that one.
    np.testing.assert_allclose(known.windows(np.array([3]), 3)[0], [[4, 1], [4, 1], [4, 1]])
    assert Known(np.ones((4, 2)), "linear").first == 1
