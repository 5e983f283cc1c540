"""What is this task's own; the guarantees of every task are in `test_tasks.py`."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from bigmodels import tasks
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.losses import CenterPoints
from bigmodels.models import Detector
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings
from tests.cocos import write_coco
from tests.test_hostile import BAD_IMAGES

TASK = tasks.get("object_detection")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 16x20 pixels in colour as `train` leaves it, not trained."""
    path = tmp_path_factory.mktemp("runs") / "run"
    directory = RunDirectory(path)
    directory.create(TASK, TASK.config())
    model = Detector(2, (2, 3, 4), 4, class_names=["tall", "wide"])
    model.build((None, 16, 20, 3))
    model.peaks.bias.assign([0.0, 0.0])
    directory.save_model(model)
    return path


@pytest.fixture
def photo(tmp_path, rng):
    pixels = rng.integers(0, 256, (32, 60, 3), "uint8")
    (tmp_path / "photo.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path / "photo.png"


@pytest.mark.thorough
def test_predict_gives_boxes_in_pixels_of_the_file(run, photo, tmp_path):
    (row,) = predict(run, input=str(photo), threshold=0.1)
    assert row["file"] == str(photo) and json.loads(json.dumps(row)) == row
    assert len(row["boxes"]) == len(row["classes"]) == len(row["scores"]) > 0
    assert row["scores"] == sorted(row["scores"], reverse=True) and min(row["scores"]) >= 0.1
    assert set(row["classes"]) <= {"tall", "wide"}
    boxes = np.array(row["boxes"])
    assert (boxes >= 0).all() and (boxes <= [60, 32, 60, 32]).all() and boxes[:, 2].max() > 20
    small = tf.image.resize(tf.io.decode_png(photo.read_bytes()), (16, 20), antialias=True)
    small = tf.clip_by_value(tf.round(small), 0, 255) / 255
    (found,) = RunDirectory(run).load_model().detect(small[None], 0.1, verbose=0)
    np.testing.assert_allclose(boxes, found["boxes"] * [3, 2, 3, 2], atol=6e-3)
    many = [list(predict(run, input=str(photo), threshold=t)) for t in (0.0, 0.9)]
    assert len(many[0][0]["boxes"]) > len(many[1][0]["boxes"])


@pytest.mark.thorough
def test_predict_draws_when_asked(run, photo, tmp_path):
    before = sorted(tmp_path.iterdir())
    rows = list(predict(run, input=str(tmp_path)))
    assert len(rows) == 1 and sorted(tmp_path.iterdir()) == before
    output = tmp_path / "boxes.png"
    list(predict(run, input=str(photo), threshold=0.1, output=str(output)))
    picture = tf.io.decode_png(output.read_bytes(), 3).numpy()
    orange = np.abs(picture.astype(int) - [255, 140, 66]).max(-1) < 40
    assert picture.shape[0] > 200 and orange.sum() > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": None}, "input: give an image file, or a directory of them"),
        ({"input": "/nowhere.png"}, "input: '/nowhere.png' does not exist"),
        ({"input": "{0}/cut.png"}, "cut.png' cannot be decoded: it ends too early"),
        ({"threshold": 1.0}, "threshold: 1.0, expected from 0 to below 1"),
        ({"threshold": float("nan")}, "threshold: nan"),
        ({"output": "x.jpg"}, "output: 'x.jpg', expected a .png in an existing directory"),
        ({"output": "nowhere/x.png"}, "output: 'nowhere/x.png', expected"),
        ({"box": "1,1,2,2"}, "box: object_detection takes only input, threshold, output"),
    ],
)
def test_predict_names_what_does_not_fit(run, photo, tmp_path, options, message):
    (tmp_path / "cut.png").write_bytes(BAD_IMAGES["cut.png"][0])
    before = sorted(tmp_path.iterdir())
    options = {"input": str(photo)} | options
    if options["input"]:
        options["input"] = options["input"].format(tmp_path)
    with pytest.raises(ValueError) as error:
        list(predict(run, **options))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.filters": "4,4"}, "model.filters: (4, 4), expected three numbers or more"),
        ({"model.head_filters": 0}, "model.head_filters: 0"),
        ({"data.image_size": "8"}, "data.image_size: (8,)"),
        ({"data.max_objects": 0}, "data.max_objects: 0"),
        ({"augmentation.zoom": 1}, "augmentation.zoom: 1"),
        ({"augmentation.translation": -0.1}, "augmentation.translation: -0.1"),
        ({"box_weight": 0}, "box_weight: 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError) as error:
        with_settings(TASK.config(), settings)
    assert message in str(error.value)


def test_without_pycocotools_nothing_is_trained(monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.split(".")[0] == "pycocotools"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(
        ValueError, match=r'object_detection needs .*pip install "bigmodels\[detection\]"'
    ):
        train("object_detection", tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_model_that_knows_the_answer_is_rated_as_right(tmp_path):
    """The figures of `evaluate`, with a model that finds exactly what is there."""
    write_coco(tmp_path, 60)
    config = TASK.config(dataset=f"coco:{tmp_path}", batch_size=16)
    data = TASK.load_data(config)
    sets = {id(data.test): data.objects["test"], id(data.validation): data.objects["validation"]}

    class Knowing:
        def __init__(self, off):
            self.off = off

        def __call__(self, images, training):
            return tf.zeros((len(images), 4, 5, 6))

        def detect(self, batches, threshold, verbose):
            assert threshold < 0.05
            return [
                {"boxes": o[:, :4] + self.off, "classes": o[:, 4], "scores": np.ones(len(o))}
                for o in sets[id(batches)]
            ]

    exact, near = (TASK.evaluate(Knowing(off), data, config, {}).metrics for off in (0, 0.4))
    assert exact["validation"] == {"map_50": 1.0, "map": 1.0}
    figures = [{n: seen.figure() for n, seen in f["test"].items()} for f in (exact, near)]
    assert figures[0]["map_50"] == figures[0]["map"] == figures[1]["map_50"] == 1
    assert 0.3 < figures[1]["map"] < 0.5
    # Bars that lie apart are all that a baseline could wish for.
    assert figures[0]["map_50_components"] > 0.9
    assert len(exact["test"]["loss"].keys) == data.sizes["test"]
    losses = [CenterPoints()(y, tf.zeros((len(y), 4, 5, 6))) for _, y in data.test]
    assert figures[0]["loss"] == pytest.approx(float(np.mean(losses)))


@pytest.mark.slow
def test_it_learns_to_find_digits(tmp_path):
    """Two minutes on two cores, and already better than what needs no network."""
    settings = {"epochs": 3, "seed": 1}
    result = train("object_detection", tmp_path / "run", settings, verbose=0)
    low, _ = result["intervals"]["test"]["map_50"]
    _, high = result["intervals"]["test"]["map_50_components"]
    assert low > high
