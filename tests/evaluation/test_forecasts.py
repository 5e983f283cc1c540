"""The forecasts without a network, and what is counted against them, by hand."""

import dataclasses
import os
import types

import numpy as np
import pytest

from bigmodels.data import load_series
from bigmodels.evaluation import forecasts


@pytest.fixture
def data(tmp_path, rng):
    """A series of which each value follows linearly from the two before."""
    x = [[0.0, 5.0], [1.0, 4.0]]
    for _ in range(198):
        x.append([1.9 * b - 0.95 * a + 0.05 * m for a, b, m in zip(*x[-2:], (3, 9), strict=True)])
    x += rng.normal(0, 1e-3, (200, 2))
    file = tmp_path / "x.csv"
    file.write_text("n,a,b\n" + "\n".join(f"{i},{a},{b}" for i, (a, b) in enumerate(x)))
    return load_series(f"csv:{file}", length=12, horizon=3, season=4)


def test_last_value_and_last_season():
    windows = np.arange(10.0).reshape(1, 5, 2)
    last = forecasts.last_value(windows, 3)
    np.testing.assert_array_equal(last, [[[8, 9]] * 3])
    seasonal = forecasts.seasonal_naive(windows, 5, 2)
    np.testing.assert_array_equal(seasonal[0, :, 0], [6, 8, 6, 8, 6])
    np.testing.assert_array_equal(seasonal[0, :, 1], [7, 9, 7, 9, 7])


def test_linear_map_is_the_least_squares_solution(data, monkeypatch):
    monkeypatch.setattr(forecasts, "RIDGES", (0.1,))
    linear = forecasts.LinearMap(data)
    x, y = data.windows(data.starts("train"))
    mean = x.mean(1, keepdims=True)
    rows = np.moveaxis(x - mean, 2, 1).reshape(-1, 12)
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    penalty = np.diag([linear.ridge * np.square(rows[:, :-1]).sum() / 12] * 12 + [0])
    wanted = np.linalg.solve(
        rows.T @ rows + penalty, rows.T @ np.moveaxis(y - mean, 2, 1).reshape(-1, 3)
    )
    np.testing.assert_allclose(linear.coefficients, wanted, atol=1e-6)
    x, y = data.windows(data.starts("test"))
    assert np.abs(linear(x) - y).mean() < 0.5 * np.abs(forecasts.last_value(x, 3) - y).mean()
    shifted = linear(x * 7 + 100)
    np.testing.assert_allclose(shifted, linear(x) * 7 + 100, atol=0.1)


def test_linear_map_is_fitted_to_what_was_measured(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(forecasts, "RIDGES", (0.1,))
    values = rng.normal(size=(300, 2)).cumsum(0)
    lines = [f"{i},{a},{b if rng.random() < 0.7 else ''}" for i, (a, b) in enumerate(values)]
    (tmp_path / "x.csv").write_text("\n".join(["n,a,b", *lines]))
    data = load_series(f"csv:{tmp_path / 'x.csv'}", length=6, horizon=3, fill="linear")
    linear = forecasts.LinearMap(data)
    x, y = data.windows(data.starts("train"))
    mean = x.mean(1, keepdims=True)
    rows = np.moveaxis(x - mean, 2, 1).reshape(-1, 6)
    targets = np.moveaxis(y - mean, 2, 1).reshape(-1, 3)
    for step in range(3):
        known = np.isfinite(targets[:, step])
        assert not known.all()
        each = np.hstack([rows[known], np.ones((known.sum(), 1))])
        penalty = np.diag([0.1 * np.square(rows[known]).sum() / 6] * 6 + [0])
        wanted = np.linalg.solve(each.T @ each + penalty, each.T @ targets[known, step])
        np.testing.assert_allclose(linear.coefficients[:, step], wanted, atol=1e-8)


@pytest.mark.parametrize("fill", ["linear", "previous"])
def test_no_forecast_of_a_random_walk_is_better_than_its_steps(tmp_path, rng, fill):
    steps = rng.normal(size=6000)
    values = [x if i == 0 or rng.random() < 0.6 else "" for i, x in enumerate(steps.cumsum())]
    lines = [f"{i},{x}" for i, x in enumerate(values)]
    (tmp_path / "x.csv").write_text("\n".join(["n,a", *lines]))
    data = load_series(f"csv:{tmp_path / 'x.csv'}", length=8, horizon=2, fill=fill)
    for baseline in forecasts.baselines(data).values():
        by_step = forecasts.rate(baseline, data, "test").by_step * data.scales[0] ** 2
        # The last measured value lies 1 + 0.4 + 0.4² + ... steps back.
        np.testing.assert_allclose(by_step, [1 / 0.6, 1 + 1 / 0.6], rtol=0.15)


def test_the_ridge_is_chosen_in_validation(data):
    validation = data.starts("validation")
    x, y = data.windows(validation)
    chosen = forecasts.LinearMap(data)
    with pytest.MonkeyPatch.context() as patch:
        for ridge in forecasts.RIDGES:
            patch.setattr(forecasts, "RIDGES", (ridge,))
            other = forecasts.LinearMap(data)
            assert np.square(chosen(x) - y).mean() <= np.square(other(x) - y).mean() + 1e-12


def test_mase_divides_by_the_seasonal_naive_error_in_training():
    values = np.array([[0.0, 1.0], [2.0, 1.0], [3.0, 5.0], [7.0, 1.0]])
    np.testing.assert_allclose(forecasts.naive_error(values, 1), [7 / 3, 8 / 3])
    np.testing.assert_allclose(forecasts.naive_error(values, 2), [4.0, 2.0])
    assert (forecasts.naive_error(np.zeros((4, 1)), 1) > 0).all()
    values[1] = np.nan
    np.testing.assert_allclose(forecasts.naive_error(values, 1), [4, 4])
    np.testing.assert_allclose(forecasts.naive_error(values, 2), [3.0, 4.0])
    values[2] = np.nan
    assert np.isnan(forecasts.naive_error(values, 1)).all()


def test_ratings_are_means_of_the_right_axes():
    x, y = np.zeros((300, 2, 2)), np.tile([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]], (300, 1, 1))
    stub = types.SimpleNamespace(
        horizon=3,
        starts=lambda split: np.arange(300),
        windows=lambda starts: (x[starts], y[starts]),
    )
    zero = np.zeros((300, 3, 2))
    rating = forecasts.rate(lambda w: {"forecast": zero[: len(w)]}, stub, "test")
    np.testing.assert_allclose(rating.by_step, [2.5, 12.5, 0])
    np.testing.assert_allclose(rating.squared, [5.0] * 300)
    np.testing.assert_allclose(rating.absolute, [[4 / 3, 2.0]] * 300)
    assert rating.held is None and rating.width is None

    def bounded(w):
        return {"forecast": zero[: len(w)], "lower": zero[: len(w)], "upper": zero[: len(w)] + 2.5}

    rating = forecasts.rate(bounded, stub, "test")
    np.testing.assert_allclose(rating.held, [4 / 6] * 300)
    np.testing.assert_allclose(rating.width, [2.5] * 300)


def test_ratings_pass_over_what_was_not_measured():
    nan = np.nan
    x, y = np.zeros((2, 2, 2)), np.array([[[1.0, nan], [nan, 4.0]], [[nan, nan], [nan, 3.0]]])
    stub = types.SimpleNamespace(
        horizon=2,
        starts=lambda split: np.arange(2),
        windows=lambda starts: (x[starts], y[starts]),
    )

    def bounded(w):
        zero = np.zeros((len(w), 2, 2))
        return {"forecast": zero, "lower": zero - 9, "upper": zero + 3.5}

    rating = forecasts.rate(bounded, stub, "test")
    np.testing.assert_allclose(rating.by_step, [1, 12.5])
    np.testing.assert_array_equal(rating.counts, [[1, 1], [0, 1]])
    np.testing.assert_allclose(rating.squared, [8.5, 9])
    np.testing.assert_allclose(rating.absolute, [[1, 4], [0, 3]])
    np.testing.assert_allclose(rating.mean_absolute(), [1, 3.5])
    np.testing.assert_allclose(rating.held, [0.5, 1])


def test_the_season_is_left_out_where_no_window_holds_it(data):
    assert list(forecasts.baselines(data)) == ["last_value", "seasonal_naive", "linear"]
    longer = dataclasses.replace(data, season=13)
    assert list(forecasts.baselines(longer)) == ["last_value", "linear"]


@pytest.mark.real_data
def test_baselines_on_etth1_are_those_of_the_papers():
    """Their linear models, trained step by step, are at 0.37 to 0.39 (horizon 96)."""
    directory = os.environ.get("BIGMODELS_RAW_DIR")
    if not directory:
        pytest.skip("BIGMODELS_RAW_DIR is not set")
    data = load_series(
        f"csv:{directory}/ett/ETTh1.csv", length=336, horizon=96, split=(8640, 2880, 2880)
    )
    # Twelve months less a window and a horizon; what is forecast lies in its own part.
    assert data.sizes == {"train": 8209, "validation": 2785, "test": 2785}
    assert (data.season, len(data.variables)) == (24, 7)
    found = {
        name: forecasts.rate(baseline, data, "test").squared.mean()
        for name, baseline in forecasts.baselines(data).items()
    }
    assert found["linear"] == pytest.approx(0.370, abs=2e-3)
    assert found["seasonal_naive"] == pytest.approx(0.512, abs=2e-3)
    assert found["last_value"] == pytest.approx(1.294, abs=2e-3)
