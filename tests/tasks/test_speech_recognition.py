"""Speech recognition of few recordings, and what is said of files that it is given."""

import numpy as np
import pytest

from bigmodels.tasks.settings import with_settings
from bigmodels.tasks.speech_recognition import evaluation, inference, recipe
from tests.data.test_audio import RATE, wav

SMALL = {
    "model.rnn_units": 4,
    "model.num_layers": 1,
    "model.mel_bins": 8,
    "data.word_folder": "first",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven recordings of each of two words."""
    root, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    for word in ("go", "no"):
        (root / word).mkdir()
        for i in range(11):
            samples = rng.integers(-9000, 9000, 1600 + 300 * i).astype("int16")
            (root / word / f"{i}.wav").write_bytes(wav(samples))
    return root


@pytest.fixture(scope="module", params=[2, pytest.param(32, marks=pytest.mark.thorough)])
def few(request, folder):
    config = recipe.SpeechRecognition()
    settings = SMALL | {"dataset": f"audio:{folder}", "batch_size": request.param}
    config = with_settings(config, settings)
    data = recipe.load_data(config)
    return recipe.build_model(config, data), data, config


@pytest.mark.thorough
def test_fewer_recordings_than_pictures_are_drawn(few):
    """Three for validation and test, and a batch of fewer still."""
    model, data, config = few
    assert data.sizes["validation"] < 4
    (figure,) = evaluation.examples(data).values()
    assert len(figure.axes) == data.sizes["validation"]
    figures = evaluation.evaluate(model, data, config, {}).figures()
    titles = [axes.get_title() for axes in next(iter(figures.values())).axes]
    heard = [text for samples, _ in data.test for text in model.transcribe(samples)]
    said = data.transcripts["test"]
    assert titles == [f"{a} \N{RIGHTWARDS ARROW} {b}" for a, b in zip(said, heard, strict=True)]
    assert evaluation.sample(model, data, config).startswith("reference")


def test_what_is_not_read_as_it_is_is_said(few, folder, tmp_path, monkeypatch, capsys):
    model, _, config = few
    samples = np.random.default_rng(1).integers(-900, 900, (4000, 2)).astype("int16")
    (tmp_path / "a.wav").write_bytes(wav(samples, rate=2 * RATE, channels=2))
    (tmp_path / "notes.txt").touch()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    predictor = inference.SpeechPredictor(model, config)
    (row,) = predictor.predict(f"~/{tmp_path.name}")
    assert row["file"] == str(tmp_path / "a.wav") and row["seconds"] == 0.25
    said = capsys.readouterr().err
    assert "input: 1 recordings have two channels, which are averaged" in said
    assert "has a sample rate of 16,000 Hz and is resampled to the model's 8,000 Hz." in said
    assert "input: left out files that are not named like recordings (1): " in said
