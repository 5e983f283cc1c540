"""The closed loop of driving; what all tasks share is in test_tasks.py."""

import numpy as np
import pytest
from PIL import Image

from bigmodels import tasks
from bigmodels.data.readers.road import Road
from bigmodels.evaluation import closed_loop
from bigmodels.reports.pages import save_drawn
from bigmodels.tasks.driving import evaluation
from bigmodels.tasks.settings import with_settings
from tests.tubs import write_tub

TINY = {
    "model.strided_filters": (2,),
    "model.filters": (2,),
    "model.dense_units": (4,),
    "data.image_size": (33, 44),  # Of another size than what the camera shows.
    "data.recovery_views": 0,
}
ROADS, FRAMES = 10, 30


@pytest.fixture
def measured(monkeypatch):
    """The evaluation of an untrained model on a few short roads."""
    roads = [Road(1000 + number, FRAMES) for number in range(ROADS)]
    monkeypatch.setattr(closed_loop, "unseen_roads", lambda: roads)
    monkeypatch.setattr(evaluation, "_FILM_FRAMES", range(0, FRAMES, 3))
    task = tasks.get("driving")
    config = with_settings(task.config(), TINY)
    data = task.load_data(config)
    model = task.build_model(config, data)
    # Full lock to the right, whatever it sees: on every road it leaves, and by the same frame.
    model.steering.set_weights([np.zeros((4, 1)), np.ones(1)])
    task.compile_model(model, config, 1)
    return task, data, task.evaluate_splits(model, data, config)


@pytest.mark.thorough
def test_the_model_steers_on_unseen_roads_and_is_measured_beside_baselines(measured, tmp_path):
    task, data, (splits, observed, figures) = measured
    names = [name for name in task.metrics if name.startswith(("autonomy", "metres"))]
    assert len(names) == 6 and set(names) <= splits["test"].keys()
    for split in ("train", "validation"):
        assert not set(names) & splits[split].keys()
    roads = closed_loop.unseen_roads()
    wanted = closed_loop.drive(roads, lambda poses: np.ones(ROADS)).departed
    assert wanted.any()
    assert splits["test"]["autonomy"] == pytest.approx(closed_loop.autonomy(wanted).mean())
    metres = ROADS * FRAMES * 0.3
    assert splits["test"]["metres_between_departures"] == pytest.approx(metres / wanted.sum())
    assert splits["test"]["autonomy_driver"] == 1
    assert splits["test"]["metres_between_departures_driver"] == pytest.approx(metres)
    assert len(observed["test"]["autonomy"].values) == ROADS
    assert len(set(observed["test"]["autonomy"].keys.tolist())) == ROADS
    assert "20 unseen roads, 600 frames (30 seconds)" in task.describe(data)["closed loop"]
    title, film = next(iter(figures().items()))
    assert title.startswith("Closed loop")
    save_drawn(tmp_path / "film", film)
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == FRAMES // 3 and image.size == (264, 198)
        assert image.info["duration"] == 150
        # The line of the path leads to the right.
        shown = np.asarray(image.convert("RGB")).astype(int)
    columns = np.argwhere(np.abs(shown - evaluation._PATH_COLOUR).max(-1) < 40)[:, 1]
    assert len(columns) > 50 and columns.mean() > 140


@pytest.mark.thorough
def test_a_recording_has_no_closed_loop_and_its_report_says_so(tmp_path):
    write_tub(tmp_path / "tub", 70, sessions=["a"] * 40 + ["b"] * 30)
    task = tasks.get("driving")
    changes = {"dataset": f"tub:{tmp_path / 'tub'}", "data.image_size": (12, 16), "data.gap": 2}
    config = with_settings(task.config(), TINY | changes)
    data = task.load_data(config)
    assert "no simulator" in task.describe(data)["closed loop"]
    model = task.build_model(config, data)
    task.compile_model(model, config, 1)
    splits, _, figures = task.evaluate_splits(model, data, config)
    assert not any(name.startswith(("autonomy", "metres")) for name in splits["test"])
    assert not any("losed loop" in title for title in figures())
