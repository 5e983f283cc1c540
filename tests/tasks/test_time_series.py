"""A series with gaps, from training to prediction: what was not measured counts for nothing."""

import json

import numpy as np
import pytest

from bigmodels.commands.evaluate import evaluate
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.runs.directory import RunDirectory
from tests.tiny import TASKS


@pytest.fixture(scope="module")
def forecast_run(tmp_path_factory):
    """The directory of a run on two random walks with gaps, its result, and the file."""
    where = tmp_path_factory.mktemp("gaps")
    rng = np.random.default_rng(0)
    walks = rng.normal(size=(500, 2)).cumsum(0).round(4)
    gone = rng.random(walks.shape) < [0.4, 0.2]
    gone[[0, -1]] = False
    rows = [
        ",".join([str(i), *("-9999" if no else str(x) for x, no in zip(*row, strict=True))])
        for i, row in enumerate(zip(walks, gone, strict=True))
    ]
    (where / "walks.csv").write_text("\n".join(["step,a,b", *rows]))
    settings = TASKS["time_series"] | {
        "dataset": f"csv:{where / 'walks.csv'}",
        "data.missing": "-9999",
        "data.fill": "linear",
        "epochs": 1,
    }
    return where / "run", train("time_series", where / "run", settings, verbose=0), walks, gone


@pytest.mark.thorough
def test_figures_are_of_what_was_measured(forecast_run):
    directory, result, walks, gone = forecast_run
    task, config = RunDirectory(directory).load_config()
    data, model = task.load_data(config), RunDirectory(directory).load_model()
    truth = np.where(gone, np.nan, (walks - data.means) / data.scales)
    starts = data.starts("test")
    x, _ = data.windows(starts)
    y = np.stack([truth[start : start + 3] for start in starts])
    known = np.isfinite(y)
    assert not known.all() and known.any((1, 2)).all()
    bounds = {name: np.asarray(each) for name, each in model.bounds(x.astype("float32")).items()}
    error = (bounds["forecast"] - y)[known]
    found = result["test"]
    assert found["mse"] == pytest.approx(np.square(error).mean(), rel=1e-4)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert found["loss"] == pytest.approx(found["mae"], rel=1e-5)
    held = ((bounds["lower"] <= y) & (y <= bounds["upper"]))[known]
    assert found["coverage"] == pytest.approx(held.mean(), abs=2e-3)
    last = (x[:, -1:] - y)[known]
    assert found["mse_last_value"] == pytest.approx(np.square(last).mean())
    assert found["mae_last_value"] == pytest.approx(np.abs(last).mean())
    naive = np.nanmean(np.abs(np.diff(truth[:350], axis=0)), 0)
    scaled = (np.abs(bounds["forecast"] - y) / naive)[known]
    assert found["mase"] == pytest.approx(scaled.mean(), rel=1e-4)
    assert found["mse_less_linear"] == pytest.approx(found["mse"] - found["mse_linear"], abs=1e-6)


def test_what_was_missing_is_said_and_counted(forecast_run):
    directory, result, _, gone = forecast_run
    (said,) = (line for line in result["notes"] if "values are missing" in line)
    assert f"; {gone.sum():,} of 1,000 values are missing ({gone[:350].sum():,} train, " in said
    what = "windows of train that no value follows within data.horizon, by their time"
    assert result["left_out"][what] > 0
    assert json.loads((directory / "result.json").read_text())["left_out"] == result["left_out"]
    assert "values are missing" in (directory / "report.html").read_text()
    again = evaluate(directory)
    assert again["notes"] == result["notes"] and again["test"] == pytest.approx(result["test"])


def test_a_forecast_reads_its_file_as_the_training_did(forecast_run, capsys):
    directory, _, walks, gone = forecast_run
    file = directory.parent / "walks.csv"
    rows = list(predict(directory, input=str(file)))
    assert f"input: {str(file)!r}, line" in capsys.readouterr().err
    model = RunDirectory(directory).load_model()
    values = np.where(gone, np.nan, walks)
    window = np.stack(
        [
            np.interp(np.arange(500), np.flatnonzero(np.isfinite(each)), each[np.isfinite(each)])
            for each in values.T
        ],
        axis=1,
    )[-12:]
    wanted = model.forecast(window[None])["forecast"].ravel()
    np.testing.assert_allclose([row["value"] for row in rows], wanted, rtol=1e-5)
