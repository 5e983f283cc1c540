"""The residual kind: its defaults, and a run that is resumed to the bit."""

import numpy as np
import pytest

from bigmodels import tasks, train
from bigmodels.runs.directory import RunDirectory
from tests.same_run import assert_same_run, train_in_two
from tests.tiny import write_sets

SETTINGS = {
    "model.kind": "residual",
    "model.filters": (2, 3),
    "augmentation.horizontal_flip": True,
    "augmentation.crop_padding": 1,
    "batch_size": 16,
    "epochs": 3,
    "seed": 3,
    "strategy": "one_device",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    sets = write_sets(tmp_path_factory.mktemp("sets"))
    return SETTINGS | {"dataset": sets["image_classification"]}


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    train("image_classification", directory, settings, verbose=0)
    return directory


@pytest.mark.thorough
def test_stopped_in_an_epoch_of_alternating_flips_it_goes_on_to_the_same_run(
    run, settings, tmp_path
):
    train_in_two("image_classification", tmp_path / "run", settings, epoch=1, step=2)
    assert_same_run(run, tmp_path / "run")


@pytest.mark.thorough
def test_views_are_those_of_training_and_the_whitening_of_its_images(run, settings):
    model = RunDirectory(run).load_model()
    assert (model.mirror, model.shift) == (True, 1)
    task = tasks.get("image_classification")
    _, config = RunDirectory(run).load_config()
    data = task.load_data(config)
    images = np.concatenate([x for x, _ in data.train_sample.as_numpy_iterator()])
    before = model.whitening.get_weights()
    model.adapt(images)
    for one, other in zip(before, model.whitening.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    used = task.settled(model, data, config)
    assert used["model.mirror"] is True and used["augmentation.alternate_flip"] is True
    report = (run / "report.html").read_text()
    assert "model.mirror" in report
