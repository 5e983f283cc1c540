import numpy as np
import pytest
from scipy import stats

from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations


def test_a_proportion_gets_nearly_wilsons_interval():
    correct = np.repeat([1.0, 0.0], [900, 100])
    low, high = intervals.interval(Observations(correct, "images"), seed=0)
    wilson = stats.binomtest(900, 1000).proportion_ci(method="wilson")
    assert low == pytest.approx(wilson.low, abs=0.003)
    assert high == pytest.approx(wilson.high, abs=0.003)


def test_the_truth_lies_inside_about_as_often_as_promised(rng):
    """Of 150 intervals for a known share, 95% are to hold it: 143, give or take 6."""
    held = 0
    for seed in range(150):
        found = intervals.interval(Observations(rng.random(200) < 0.7, "images"), seed)
        held += found[0] <= 0.7 <= found[1]
    assert 134 <= held <= 149


def test_a_mean_gets_nearly_the_normal_interval(rng):
    losses = rng.exponential(2.0, 2000)
    low, high = intervals.interval(Observations(losses, "images"), seed=0)
    reach = 1.96 * losses.std() / np.sqrt(len(losses))
    assert low == pytest.approx(losses.mean() - reach, abs=0.15 * reach)
    assert high == pytest.approx(losses.mean() + reach, abs=0.15 * reach)


def test_the_seed_decides(rng):
    observed = Observations(rng.random(50), "images")
    first = intervals.interval(observed, seed=1)
    assert intervals.interval(observed, seed=1) == first
    assert intervals.interval(observed, seed=2) != first


def test_weights_count(rng):
    """A short last block must count for what it is."""
    values = np.r_[rng.random(20), 1000.0]
    even = Observations(values, "blocks")
    short = Observations(values, "blocks", weights=np.r_[np.ones(20), 1e-9])
    assert short.figure() == pytest.approx(values[:20].mean())
    assert intervals.interval(short, 0)[1] < 1 < intervals.interval(even, 0)[1]


def test_a_metric_that_is_no_mean():
    classes = np.repeat([0, 1, 2], [60, 38, 2])

    def seen(drawn):
        return len(set(drawn)) / 3

    observed = Observations(classes, "samples", statistic=seen)
    assert observed.figure() == 1.0
    # The rare class is missed by a draw of 100 with probability 0.98^100 = 0.13.
    assert intervals.interval(observed, 0) == (pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize("values", [np.arange(9.0), np.ones(500)])
def test_what_cannot_tell_gets_none(values):
    assert intervals.interval(Observations(values, "images"), 0) is None
    summary = intervals.summary({"test": {"accuracy": Observations(values, "images")}}, 0)
    assert summary == {"intervals": {"test": {}}, "resampled": {"test": {}}}


def test_summary_is_json_and_says_over_what(rng):
    import json

    observed = {"test": {"loss": Observations(rng.random(1234).astype("float32"), "images")}}
    summary = json.loads(json.dumps(intervals.summary(observed, 3)))
    assert summary["intervals"]["test"]["loss"] == list(
        intervals.interval(observed["test"]["loss"], 3)
    )
    assert summary["resampled"] == {"test": {"loss": "1,234 images"}}


def test_pairs_separate_what_two_intervals_do_not(rng):
    """Images differ far more than the two runs do, but in the same way for both."""
    keys = intervals.keys(rng.random((300, 4)))
    hard = rng.exponential(1.0, 300)
    a = Observations(hard, "images", keys=keys)
    b = Observations(hard + rng.normal(0.05, 0.02, 300), "images", keys=keys)
    (low_a, high_a), (low_b, high_b) = (intervals.interval(run, 0) for run in (a, b))
    assert low_b < high_a and low_a < high_b
    difference, (low, high), count = intervals.difference(a, b, 0)
    assert 0.04 < low < difference < high < 0.06 and count == 300
    assert difference == pytest.approx(b.figure() - a.figure())


def test_only_the_same_examples_are_paired(rng):
    rows = rng.random((40, 4))
    values, keys = rng.random(40), intervals.keys(rows)
    a = Observations(values, "blocks", np.ones(40), keys)
    # Another text's end: its last block is another.
    b = Observations(values + 1, "blocks", np.ones(40), intervals.keys([*rows[:-1], rows[0]]))
    difference, interval, count = intervals.difference(a, b, 0)
    assert difference == pytest.approx(1) and count == 39
    assert interval == pytest.approx((1, 1))
    other = Observations(values, "blocks", None, intervals.keys(rows[::-1].copy()))
    assert intervals.difference(a, other, 0) is None
    assert intervals.difference(a, Observations(values, "blocks"), 0) is None
