"""Image sets of TFDS in whatever form: trained on and predicted, or refused by name."""

import io
import pathlib
import re
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as datasets

from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.data import images, load_images
from bigmodels.data.readers import tfds
from bigmodels.runs.directory import RunDirectory
from tests.tiny import TASKS

F = datasets.features
NAMED = F.ClassLabel(names=["a", "b"])


def _write(data_dir, features, labels, supervised=None, channels=3, dtype="uint8", **more):
    """A prepared set `odd` of 40 images for training and 10 for testing."""
    # Numbers that are no integers are written as the bytes of four.
    form = None if dtype == "float32" else "png"
    image = F.Image(shape=(6, 5, channels), dtype=np.dtype(dtype).type, encoding_format=form)
    features = F.FeaturesDict({"img": image} | features)
    identity = datasets.core.dataset_info.DatasetIdentity(
        name="odd",
        version=datasets.core.Version("1.0.0"),
        data_dir=str(data_dir / "odd" / "1.0.0"),
        module_name="",
    )
    info = datasets.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=supervised
    )
    pathlib.Path(identity.data_dir).mkdir(parents=True)
    writer = datasets.core.SequentialWriter(info, max_examples_per_shard=100)
    writer.initialize_splits(["train", "test"])
    rng = np.random.default_rng(0)
    most = 256 if dtype == "float32" else np.iinfo(dtype).max + 1
    pixels = rng.integers(0, most, (50, 6, 5, channels)).astype(dtype)
    for i, each in enumerate(pixels):
        encoded = io.BytesIO(tf.io.encode_png(each).numpy()) if form else each
        row = {"img": encoded, **more} | {key: each[i % 2] for key, each in labels.items()}
        writer.add_examples({"train" if i < 40 else "test": [row]})
    writer.close_all()
    return pixels


def _test_images(data):
    return np.concatenate([x for x, _ in data.test]), np.concatenate([y for _, y in data.test])


@pytest.mark.parametrize("held", [True, False])
def test_the_share_for_validation_is_as_asked(tmp_path, monkeypatch, held):
    monkeypatch.setattr(images, "_CACHE_BYTES", images._CACHE_BYTES if held else 0)
    _write(tmp_path, {"target": NAMED}, {"target": [0, 1]})
    data = load_images("odd", 8, data_dir=tmp_path, validation_percent=25)
    assert data.sizes == {"train": 30, "validation": 10, "test": 10}
    epoch = np.concatenate([x for x, _ in data.train_from(0).take(4)])
    both = np.concatenate([epoch, *(x for x, _ in data.validation)])
    assert len(np.unique(both, axis=0)) == len(both) == 40


@pytest.mark.parametrize(
    ("feature", "values", "names"),
    [
        (NAMED, [0, 1], ["a", "b"]),
        (F.ClassLabel(num_classes=2), [0, 1], ["0", "1"]),
        (F.Text(), ["owl", "fox"], ["fox", "owl"]),
        (F.Scalar(np.int32), [7, 12], ["7", "12"]),
    ],
)
@pytest.mark.parametrize("held", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_image_and_label_are_found_by_their_kinds(
    tmp_path, monkeypatch, feature, values, names, held
):
    monkeypatch.setattr(images, "_CACHE_BYTES", images._CACHE_BYTES if held else 0)
    pixels = _write(tmp_path, {"target": feature}, {"target": values})
    data = load_images("odd", 8, data_dir=tmp_path)
    assert data.class_names == names and data.sizes == {"train": 36, "validation": 4, "test": 10}
    found, labels = _test_images(data)
    np.testing.assert_allclose(found, pixels[40:] / 255, atol=1e-6)
    right = [values[i % 2] for i in range(10)]
    assert [data.class_names[y] for y in labels] == [
        feature.names[y] if isinstance(feature, F.ClassLabel) else str(y) for y in right
    ]
    trained = np.concatenate([y for _, y in data.train_from(0).take(5)])
    assert set(trained) == {0, 1}


def test_what_else_it_has_is_said(tmp_path):
    _write(tmp_path, {"y": NAMED, "note": F.Text()}, {"y": [0, 1]}, note="x")
    data = load_images("odd", 8, data_dir=tmp_path)
    assert data.notes.lines == ["dataset: of 'odd', 'img' and 'y' are read, not ['note']."]


def test_of_16_bits_the_upper_8_are_read_as_of_a_file(tmp_path):
    pixels = _write(tmp_path, {"y": NAMED}, {"y": [0, 1]}, ("img", "y"), 1, "uint16")
    data = load_images("odd", 8, data_dir=tmp_path)
    as_file = [tf.io.decode_image(tf.io.encode_png(each)).numpy() / 255 for each in pixels[40:]]
    np.testing.assert_allclose(_test_images(data)[0], as_file, atol=1e-6)
    assert data.notes.lines == [
        "dataset: 'odd' has 16 bits per channel, of which the upper 8 are read."
    ]


@pytest.mark.thorough
def test_four_channels_are_trained_on_and_predicted(tmp_path):
    pixels = _write(tmp_path, {"y": NAMED}, {"y": [0, 1]}, channels=4)
    config = TASKS["image_classification"] | {"dataset": "odd", "data_dir": str(tmp_path)}
    train("image_classification", tmp_path / "run", config | {"epochs": 1}, verbose=0)
    folder = tmp_path / "new"
    folder.mkdir()
    for i, image in enumerate(pixels[40:44]):
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    (folder / "opaque.png").write_bytes(tf.io.encode_png(pixels[0, ..., :3]).numpy())
    rows = list(predict(tmp_path / "run", input=str(folder)))
    inputs = np.concatenate(
        [pixels[40:44], np.dstack([pixels[0, ..., :3], np.full((6, 5), 255)])[None]]
    )
    model = RunDirectory(tmp_path / "run").load_model()
    expected = model.predict_proba(inputs / np.float32(255), verbose=0).max(-1)
    assert [row["probability"] for row in rows] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("others", "supervised"),
    [(("a", "b"), ("img", "b")), (("a", "label"), None)],
)
def test_of_several_labels_the_supervised_one_or_that_called_so_is_read(
    tmp_path, others, supervised
):
    first, second = others
    _write(tmp_path, {first: NAMED, second: F.ClassLabel(names=["x", "y"])},
           {first: [0, 1], second: [1, 0]}, supervised)  # fmt: skip
    assert load_images("odd", 8, data_dir=tmp_path).class_names == ["x", "y"]


def test_an_integer_of_any_name_is_a_label_if_it_is_supervised(tmp_path):
    _write(tmp_path, {"kind": F.Scalar(np.int32), "y": F.Scalar(np.float32)},
           {"kind": [3, 5], "y": [0.0, 1.0]}, ("img", "kind"))  # fmt: skip
    data = load_images("odd", 8, data_dir=tmp_path)
    assert data.class_names == ["3", "5"]
    assert "dataset: the 2 values of 'kind' of 'odd' are the classes." in data.notes.lines


def test_an_integer_that_nothing_calls_a_label_is_none(tmp_path):
    _write(tmp_path, {"kind": F.Scalar(np.int32)}, {"kind": [3, 5]})
    with pytest.raises(ValueError, match="is not images with one class label each, but"):
        load_images("odd", 8, data_dir=tmp_path)


def test_too_few_and_too_many_values_of_a_label_are_refused(tmp_path, monkeypatch):
    _write(tmp_path / "one", {"y": F.Text()}, {"y": ["a", "a"]})
    with pytest.raises(ValueError, match="'odd' has 1 classes, expected at least two"):
        load_images("odd", 8, data_dir=tmp_path / "one")
    _write(tmp_path / "two", {"y": F.Text()}, {"y": ["a", "b"]})
    monkeypatch.setattr(tfds, "_MOST_CLASSES", 1)
    with pytest.raises(ValueError, match="'odd' has more than 1 labels 'y'"):
        load_images("odd", 8, data_dir=tmp_path / "two")


@pytest.mark.parametrize("labels", [{"a": NAMED, "b": NAMED}, {"a": F.Text(), "b": F.Text()}, {}])
def test_several_labels_or_none_are_refused(tmp_path, labels):
    values = {key: [0, 1] if each is NAMED else ["x", "y"] for key, each in labels.items()}
    _write(tmp_path, labels, values)
    with pytest.raises(ValueError, match="is not images with one class label each, but"):
        load_images("odd", 8, data_dir=tmp_path)


def test_images_of_floats_are_refused(tmp_path):
    """They might be anything: 0 to 1, -1 to 1, 0 to 255."""
    _write(tmp_path, {"label": NAMED}, {"label": [0, 1]}, dtype="float32", channels=1)
    with pytest.raises(ValueError, match="'odd' has images of dtype float32, expected uint8"):
        load_images("odd", 8, data_dir=tmp_path)


def test_a_class_label_that_does_not_know_its_classes_has_those_that_occur(tmp_path):
    _write(tmp_path, {"label": F.ClassLabel(num_classes=8)}, {"label": [3, 7]})
    description = tmp_path / "odd" / "1.0.0" / "features.json"
    description.write_text(
        re.sub(r'"classLabel": {[^}]*}', '"classLabel": {}', description.read_text())
    )
    assert load_images("odd", 8, data_dir=tmp_path).class_names == ["3", "7"]


def test_a_set_that_is_no_dict_of_features_is_named():
    info = types.SimpleNamespace(
        features=F.Tensor(shape=(2,), dtype=np.int32), supervised_keys=None
    )
    with pytest.raises(ValueError, match="'odd' is not images with one class label each"):
        tfds._image_features("odd", types.SimpleNamespace(info=info))
