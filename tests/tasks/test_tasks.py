"""The guarantees every task gives, over one tiny run of each."""

import dataclasses
import functools
import json
import math
import shutil
import sys

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import tasks
from bigmodels.callbacks import FiniteValues
from bigmodels.commands.evaluate import evaluate
from bigmodels.commands.export import export
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.distribute.variables import named_variables
from bigmodels.evaluation import forecasts
from bigmodels.evaluation.detections import Components
from bigmodels.models import CNN, PilotNet, Seq2SeqTransformer
from bigmodels.runs.checkpoint import Checkpoints
from bigmodels.runs.directory import RunDirectory, transfer_weights
from bigmodels.tasks.inpainting import evaluation as inpainting_evaluation
from bigmodels.tasks.settings import Config, Optimizer, flat_settings, with_settings
from bigmodels.tasks.speech_recognition import evaluation as speech_evaluation
from tests.conftest import made_once
from tests.pages import Page
from tests.same_run import assert_same_run
from tests.tiny import TASKS, write_sets

# The article's own families; the others' dearest guarantees are held by the thorough tests.
FIRST = ("image_classification",)
MOST_THOROUGH = [
    name if name in FIRST else pytest.param(name, marks=pytest.mark.thorough)
    for name in tasks.NAMES
]
# What finds the dear answers of a task, and how often it is asked at the end of a training.
DEAR = {
    "image_classification": (CNN, "predict", 1),
    "object_detection": (Components, "tune", 1),
    "translation": (Seq2SeqTransformer, "translate", 2),  # Without beams and with them.
    "speech_recognition": (speech_evaluation, "_heard", 4),  # Three splits; the test with beams.
    "time_series": (forecasts, "rate", 1 + 2 * 2),  # The model; two baselines on two splits.
    "driving": (PilotNet, "predict", 3),
    "inpainting": (inpainting_evaluation, "_biharmonic", 1),
}


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """The user's own files, of every kind."""
    return made_once(tmp_path_factory, "sets_of_tasks", write_sets)


@pytest.fixture(scope="session")
def runs(sets, tmp_path_factory):
    """`runs(task)`: the directory of a finished tiny run, and its result."""
    copies = tmp_path_factory.mktemp("runs")

    @functools.cache
    def of(name):
        def make(directory):
            settings = TASKS[name] | {"dataset": sets[name], "seed": 3}
            return directory, train(name, directory / "run", settings, verbose=0)

        made, result = made_once(tmp_path_factory, f"run_of_{name}", make)
        # Each process has its own copy: none sees what another is about to write.
        return shutil.copytree(made / "run", copies / name), result

    return of


@pytest.fixture(params=MOST_THOROUGH)
def name(request):
    return request.param


def test_every_task_is_covered():
    assert set(TASKS) == set(tasks.NAMES)


def test_run_directory_holds_what_it_should(runs, name):
    run, expected = runs(name)
    for file in ("config.json", "metrics.jsonl", "result.json", "model.keras", "report.html"):
        assert (run / file).stat().st_size > 0
    assert list((run / "checkpoints").iterdir()) and list((run / "samples").iterdir())
    assert list((run / "logs").rglob("events*"))
    assert not list(run.rglob(".*"))  # Nothing half-written is left.
    result = json.loads((run / "result.json").read_text())
    assert result == expected
    wanted = "task dataset seed parameters steps seconds train validation test throughput"
    assert set(wanted.split()) <= result.keys()
    assert result["task"] == name and result["seed"] == 3
    assert 0 <= result["input_wait"] <= 1 and result["precision"] == "float32"
    assert result["kernels"]["step"] == "TensorFlow graph, without XLA"
    assert result["share_of_limit"] is None  # So short a training would tell nothing.
    for split in ("train", "validation", "test"):
        assert math.isfinite(result[split]["loss"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all("val_loss" in line for line in lines)
    config = json.loads((run / "config.json").read_text())
    assert config["versions"]["tensorflow"] == tf.__version__
    assert config["config"]["seed"] == 3


def test_report_is_one_file_with_everything(runs, name):
    run, result = runs(name)
    page = Page((run / "report.html").read_text())
    headings = "Measured Data Settings Environment"
    assert all(f"{heading}" in page.text for heading in headings.split())
    assert f"--task={name}" in page.text and "Training time" in page.text
    assert len(page.images) >= 1
    # Two epochs, and a GAN's losses, say nothing.
    assert "too few to tell" in page.text or "networks of a GAN compete" in page.text
    for metric in result["intervals"]["test"]:
        low, high = result["intervals"]["test"][metric]
        assert low <= high
    assert set(result["intervals"]["test"]) <= set(result["test"])


def test_evaluate_measures_the_same_again(runs, name):
    run, result = runs(name)
    again = evaluate(run)
    for split in ("train", "validation", "test"):
        assert again[split] == pytest.approx(result[split], rel=1e-5)


@pytest.mark.parametrize(
    "name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.thorough) for n in DEAR]
)
@pytest.mark.thorough
def test_what_measuring_found_is_not_found_again_for_the_report(
    runs, name, sets, tmp_path, monkeypatch
):
    run, before = runs(name)
    owner, function, wanted = DEAR[name]
    original, calls = getattr(owner, function), []

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, function, counted)
    # A training that was killed when all its epochs were done.
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    settings = TASKS[name] | {"dataset": sets[name], "seed": 3}
    result = train(name, tmp_path / "run", settings, verbose=0)
    assert len(calls) == wanted
    assert result["test"] == pytest.approx(before["test"], rel=1e-5)


def test_evaluation_refuses_what_it_cannot_change(runs, name):
    with pytest.raises(ValueError, match="set: 'epochs' cannot be changed after training"):
        evaluate(runs(name)[0], {"epochs": 3})


@pytest.mark.slow
def test_several_devices_give_the_numbers_of_one(sets, tmp_path, name):
    settings = TASKS[name] | {"dataset": sets[name], "seed": 3, "epochs": 1}
    if "model.dropout_rate" in flat_settings(tasks.get(name).config()):
        settings["model.dropout_rate"] = 0.0  # Each replica drops units of its own.
    found, wanted = (
        train(name, tmp_path / strategy, settings | {"strategy": strategy}, verbose=0)
        for strategy in ("mirrored", "one_device")
    )
    for split in ("train", "validation", "test"):
        for metric, value in wanted[split].items():
            if "loss" in metric:  # The judge of the images is trained with dropout.
                assert found[split][metric] == pytest.approx(value, rel=5e-3, abs=1e-3)


def test_a_finished_run_is_not_trained_again(runs, name, sets):
    run, result = runs(name)
    before = (run / "model.keras").read_bytes()
    settings = TASKS[name] | {"dataset": sets[name], "seed": 3}
    assert train(name, run, settings, verbose=0) == result
    assert (run / "model.keras").read_bytes() == before


def test_another_run_does_not_touch_the_directory(runs, name, sets):
    settings = TASKS[name] | {"dataset": sets[name], "seed": 4}
    with pytest.raises(ValueError, match="holds a run with seed=3, not 4"):
        train(name, runs(name)[0], settings, verbose=0)


@pytest.mark.parametrize("where", [(0, 2), pytest.param((1, 0), marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_stopped_at_a_checkpoint_it_goes_on_to_the_same_run(runs, name, where, sets, tmp_path):
    """Bit for bit on one device, in the midst of an epoch and at its end."""

    class Killed(Exception):
        pass

    def save(self, epoch, step, *content):
        original(self, epoch, step, *content)
        if (epoch, step) == where:
            raise Killed

    original = Checkpoints.save
    settings = TASKS[name] | {"dataset": sets[name], "seed": 3, "save_freq": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(Killed):
            train(name, tmp_path / "run", settings, verbose=0)
    assert not (tmp_path / "run" / "result.json").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == where[0]
    train(name, tmp_path / "run", settings, verbose=0)
    assert_same_run(runs(name)[0], tmp_path / "run")


@pytest.mark.parametrize("name", tasks.NAMES)
def test_search_space_names_real_settings(name):
    task = tasks.get(name)
    hp = keras_tuner.HyperParameters()
    derived = task.search_space(hp) or {}
    assert with_settings(task.config(), hp.values | derived) != task.config()


@pytest.mark.thorough
def test_init_from_takes_what_fits_and_says_so(runs, sets, tmp_path, capsys):
    run, _ = runs("image_classification")
    settings = TASKS["image_classification"] | {
        "dataset": sets["image_classification"],
        "model.dense_units": 5,
        "init_from": str(run),
        "epochs": 1,
        "optimizer.learning_rate": 1e-12,
    }
    train("image_classification", tmp_path / "run", settings)
    said = capsys.readouterr().err
    new = "dense1/kernel, dense1/bias, dense2/kernel"
    assert f"Weights from {run}: 11 of 14; freshly initialised: {new}.\n" in said
    old = RunDirectory(run).load_model()
    new = RunDirectory(tmp_path / "run").load_model()
    np.testing.assert_allclose(old.conv1.kernel, new.conv1.kernel, atol=1e-6)


@pytest.mark.thorough
def test_init_from_something_unlike_is_refused(runs, sets, tmp_path):
    settings = {"init_from": str(runs("text_generation")[0])}
    settings |= TASKS["image_classification"] | {"dataset": sets["image_classification"]}
    with pytest.raises(ValueError, match="init_from: '/nowhere' holds no model"):
        train("image_classification", tmp_path / "run", {"init_from": "/nowhere"}, verbose=0)
    message = r"init_from: .* holds a RNN that shares no layer with this CNN; give the settings"
    with pytest.raises(ValueError, match=message):
        train("image_classification", tmp_path / "run", settings, verbose=0)
    assert not (tmp_path / "run").exists()


def test_transfer_reports_taken_and_left():
    from bigmodels.models import CNN

    a, b = CNN(3, (2,), dense_units=4, name="a"), CNN(5, (2,), dense_units=4, name="b")
    for model in (a, b):
        model.build((None, 8, 8, 1))
    taken, left = transfer_weights(a, b)
    assert left == ["dense2/kernel", "dense2/bias"] and len(taken) == 4
    np.testing.assert_array_equal(a.conv1.kernel, b.conv1.kernel)


def test_predict_images(runs, sets):
    run, _ = runs("image_classification")
    folder = sets["image_classification"].removeprefix("images:")
    rows = list(predict(run, input=folder + "/low"))
    assert len(rows) == 40
    assert {row["class"] for row in rows} <= {"high", "low"}
    assert all(0.5 <= row["probability"] <= 1 for row in rows)
    with pytest.raises(ValueError, match="input: give an image file"):
        list(predict(run))
    with pytest.raises(ValueError, match="does not exist"):
        list(predict(run, input="/nowhere"))
    with pytest.raises(ValueError, match="prompt: image_classification takes only input"):
        list(predict(run, prompt="hi"))
    with pytest.raises(ValueError, match="cannot be decoded: it is not a PNG, JPEG, GIF, BMP"):
        list(predict(run, input=__file__))


@pytest.mark.parametrize(
    "name",
    [
        "image_classification",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("object_detection", "driving")
        ),
    ],
)
def test_predict_says_what_is_read_otherwise_or_not_at_all(name, runs, tmp_path, capsys):
    clear = tf.io.encode_png(np.zeros((12, 16, 4), "uint8")).numpy()
    white = tf.io.encode_png(np.full((12, 16, 3), 255, "uint8")).numpy()
    (tmp_path / "clear.png").write_bytes(clear)
    (tmp_path / "white.png").write_bytes(white)
    (tmp_path / "photo.heic").touch()
    rows = list(predict(runs(name)[0], input=str(tmp_path)))
    first, second = ({k: v for k, v in row.items() if k != "file"} for row in rows)
    assert first == pytest.approx(second) if name != "object_detection" else first == second
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"input: left out files that are not read as images (1): {str(tmp_path / 'photo.heic')!r}.",
        "input: 1 image with transparent parts, blended with white; the first is "
        f"{str(tmp_path / 'clear.png')!r}.",
    ]
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png' cannot be decoded: it is empty"):
        list(predict(runs(name)[0], input=str(tmp_path)))


@pytest.mark.thorough
def test_predict_text(runs):
    run, _ = runs("text_generation")
    options = {"prompt": "the ", "length": 20, "temperature": 0.7, "seed": 5}
    (text,) = predict(run, **options)
    assert text.startswith("the ") and len(text) == 24
    assert list(predict(run, **options)) == [text]
    with pytest.raises(ValueError, match="not in the training text: \\['好'\\]"):
        list(predict(run, prompt="the 好"))
    with pytest.raises(ValueError, match="prompt: give a text"):
        list(predict(run))


@pytest.mark.thorough
def test_predict_translations(runs, tmp_path):
    run = runs("translation")[0]
    (text,) = predict(run, prompt="one 2 two.")
    (tmp_path / "lines.txt").write_text("one 2 two.\n\nfour 1 one.\n")
    lines = list(predict(run, input=str(tmp_path / "lines.txt")))
    assert len(lines) == 2 and lines[0] == text
    assert len(list(predict(run, prompt="one 2 two.", num_beams=3, length_penalty=0.5))) == 1
    with pytest.raises(ValueError, match="prompt: give a text to translate, or as input a file"):
        list(predict(run))
    with pytest.raises(ValueError, match=r"input: .* is not a file"):
        list(predict(run, input="/nowhere"))


def test_translations_are_rated_as_sacrebleu_and_by_hand_would():
    import sacrebleu

    from bigmodels.tasks.translation.evaluation import rate

    wanted = ["The cat sat on the mat.", "A dog barks in the night.", "Hello there, my friend!"]
    found = ["The cat sat on a mat.", "A dog barks in the night.", "hello"]
    rated = rate(found, wanted)
    bleu = sacrebleu.corpus_bleu(found, [wanted]).score
    assert rated["bleu"].figure() == pytest.approx(bleu) and 20 < bleu < 90
    assert rated["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, [wanted]).score)
    assert rated["exact_match"].figure() == pytest.approx(1 / 3)
    # Words in common: 5 of 6 and 6, all, 1 of 1 and 4.
    f1 = [10 / 12, 1, 2 * 1 * 0.25 / 1.25]
    assert rated["rouge1"].figure() == pytest.approx(np.mean(f1))
    chinese = rate(["今天天气很好"], ["今天天气很好"])
    assert chinese["bleu"].figure() == pytest.approx(100) and "rouge1" not in chinese


@pytest.mark.thorough
def test_predict_new_images(runs, tmp_path):
    output = tmp_path / "grid.png"
    (row,) = predict(runs("image_generation")[0], count=5, output=str(output))
    assert row == {"file": str(output), "images": 5}
    assert tf.io.decode_png(output.read_bytes()).shape[-1] in (3, 4)


@pytest.mark.thorough
def test_predict_steering(runs, sets):
    run, tub = runs("driving")[0], sets["driving"].removeprefix("tub:")
    rows = list(predict(run, input=tub))
    assert len(rows) == 70 and all(math.isfinite(row["angle"]) for row in rows)
    np.testing.assert_allclose([row["user_angle"] for row in rows], np.sin(np.arange(70) / 5))
    (row,) = predict(run, input=rows[7]["file"])  # A file alone has no driver.
    assert row == {"file": rows[7]["file"], "angle": pytest.approx(rows[7]["angle"], abs=1e-5)}
    images = {row["file"]: row["angle"] for row in predict(run, input=f"{tub}/images")}
    assert images == pytest.approx({row["file"]: row["angle"] for row in rows}, abs=1e-5)
    with pytest.raises(ValueError, match="input: give an image file, a directory of them, or a"):
        list(predict(run))


@pytest.mark.thorough
def test_steering_is_measured_beside_the_baselines(runs, sets):
    run, result = runs("driving")
    measured = result["test"]
    config = RunDirectory(run).load_config()[1]
    data = tasks.get("driving").load_data(config)
    true, places = data.angles["test"], data.places["test"]
    rows = list(predict(run, input=sets["driving"].removeprefix("tub:")))
    answers = {
        "": np.array([rows[place]["angle"] for place in places]),
        "_training_mean": np.full(len(true), data.angles["train"].mean()),
        "_previous_frame": np.sin((places - 1) / 5),
    }
    for name, answer in answers.items():
        error = true - answer
        assert measured[f"mae{name}"] == pytest.approx(np.abs(error).mean(), abs=1e-5)
        wanted = 1 - (error**2).mean() / true.var()
        assert measured[f"r2{name}"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.thorough
def test_predict_goes_on_after_the_last_row(runs, sets, tmp_path):
    run, file = runs("time_series")[0], sets["time_series"].removeprefix("csv:")
    rows = list(predict(run, input=file))
    times = [f"2020-01-09 {hour:02}:00:00" for hour in (8, 9, 10)]
    assert [(row["time"], row["variable"]) for row in rows] == [(t, v) for t in times for v in "ab"]
    assert all(row["lower"] < row["value"] < row["upper"] for row in rows)
    model = RunDirectory(run).load_model()
    lines = open(file).read().splitlines()[-12:]
    window = np.array([[float(x) for x in line.split(",")[1:]] for line in lines])
    np.testing.assert_allclose(
        [row["value"] for row in rows], model.forecast(window[None])["forecast"].ravel(), rtol=1e-6
    )
    # More rows before, and columns in another order, change nothing.
    other = tmp_path / "other.csv"
    swapped = [",".join(line.split(",")[i] for i in (2, 0, 1)) for line in lines]
    other.write_text("\n".join(["b,time,a", *swapped]))
    assert list(predict(run, input=str(other))) == rows
    with pytest.raises(ValueError, match="input: give a CSV file"):
        list(predict(run))
    other.write_text("\n".join(["b,time,a", *swapped[1:]]))
    with pytest.raises(ValueError, match="has 11 rows, the model needs 12"):
        list(predict(run, input=str(other)))


@pytest.mark.thorough
def test_errors_of_forecasts_are_those_of_their_definitions(runs, sets):
    run, result = runs("time_series")
    found = result["test"]
    task, config = RunDirectory(run).load_config()
    data, model = task.load_data(config), RunDirectory(run).load_model()
    x, y = data.windows(data.starts("test"))
    bounds = {name: np.asarray(each) for name, each in model.bounds(x.astype("float32")).items()}
    forecast = bounds["forecast"]
    assert found["mse"] == pytest.approx(np.square(forecast - y).mean(), rel=1e-4)
    assert found["mae"] == pytest.approx(np.abs(forecast - y).mean(), rel=1e-4)
    assert found["mae"] == pytest.approx(found["loss"], rel=1e-6)
    train = data.values[:140]
    naive = np.abs(train[24:] - train[:-24]).mean(0)  # Hours: the season is a day.
    assert found["mase"] == pytest.approx((np.abs(forecast - y) / naive).mean(), rel=1e-4)
    assert found["mse_last_value"] == pytest.approx(np.square(x[:, -1:] - y).mean())
    assert "mse_seasonal_naive" not in found  # No window of twelve hours holds a day.
    held = (bounds["lower"] <= y) & (y <= bounds["upper"])
    assert found["coverage"] == pytest.approx(held.mean(), abs=2e-3)
    assert found["nominal_coverage"] == 0.9 and 0.5 < found["coverage"] <= 1
    assert found["mse_linear"] < 0.5 * found["mse_last_value"]
    assert found["mse_less_linear"] == pytest.approx(found["mse"] - found["mse_linear"], abs=1e-6)


@pytest.mark.thorough
def test_a_run_is_measured_on_its_own_variables_alone(runs, tmp_path):
    other = tmp_path / "other.csv"
    rng = np.random.default_rng(0)
    rows = [f"{i},{a},{b}" for i, (a, b) in enumerate(rng.normal(size=(200, 2)))]
    other.write_text("\n".join(["time,a,c", *rows]))
    with pytest.raises(
        ValueError, match="has the variables a, c, but the run was trained for a, b"
    ):
        evaluate(runs("time_series")[0], {"dataset": f"csv:{other}"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.split": "0.7,0.3"}, "data.split: (0.7, 0.3), expected TRAINING,VALIDATION,TEST"),
        ({"data.split": "0.7,0.3,0.2"}, "data.split: (0.7, 0.3, 0.2)"),
        ({"data.split": "10,0.3,0.2"}, "data.split: (10.0, 0.3, 0.2)"),
        ({"data.split": "nan,1,1"}, "data.split: (nan, 1.0, 1.0)"),
        ({"data.length": 0}, "data.length: 0, expected a positive number"),
        ({"data.fill": "linaer"}, "data.fill: 'linaer' is not one of none, linear, previous; did"),
        ({"data.coverage": 1}, "data.coverage: 1.0, expected a share"),
        ({"data.coverage": 0}, "data.coverage: 0.0, expected a positive"),
        ({"model.rnn_units": 3}, "model.rnn_units: 3, expected an even number"),
        ({"model.segment": -1}, "model.segment: -1, expected a positive number"),
        ({"loss": "mape"}, "loss: 'mape' is not one of mae, mse, huber"),
    ],
)
def test_settings_of_series_are_checked(settings, message):
    with pytest.raises(ValueError) as error:
        with_settings(tasks.get("time_series").config(), settings)
    assert message in str(error.value)


def test_a_segment_longer_than_the_window_is_refused(sets, tmp_path):
    settings = TASKS["time_series"] | {"dataset": sets["time_series"], "model.segment": 13}
    with pytest.raises(ValueError, match=r"model\.segment: 13, but a window has data\.length=12"):
        train("time_series", tmp_path / "run", settings, verbose=0)


@pytest.mark.thorough
def test_predict_speech(runs, sets):
    run, _ = runs("speech_recognition")
    folder = sets["speech_recognition"].removeprefix("audio:")
    rows = list(predict(run, input=folder + "/yes"))
    assert len(rows) == 20 and {row["seconds"] for row in rows} > {0.125, 0.16}
    assert all(isinstance(row["transcript"], str) for row in rows)
    (row,) = predict(run, input=folder + "/yes/3.wav", num_beams=4)
    assert row["file"] == folder + "/yes/3.wav"
    with pytest.raises(ValueError, match="input: give a recording"):
        list(predict(run))
    with pytest.raises(ValueError, match=r"test_tasks\.py' cannot be read: it is not a WAV"):
        list(predict(run, input=__file__))
    with pytest.raises(ValueError, match="num_beams: 0"):
        list(predict(run, input=folder, num_beams=0))


@pytest.mark.thorough
def test_speech_is_measured_by_its_baselines(runs):
    """Of two words that are said equally often, one is right half of the time."""
    test = runs("speech_recognition")[1]["test"]
    assert test["word_error_rate_commonest"] == 0.5
    assert test["character_error_rate_commonest"] == pytest.approx(6 / 10)
    assert {"word_error_rate", "character_error_rate_beam", "accuracy"} < test.keys()


def test_speech_needs_jiwer(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ValueError, match=r'jiwer.*pip install "bigmodels\[speech\]"'):
        train("speech_recognition", tmp_path / "run", {"dataset": sets["speech_recognition"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_transformer_kind(sets, tmp_path):
    settings = {
        "dataset": sets["text_generation"],
        "model.kind": "transformer",
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.embedding_dim": 8,
        "model.feed_forward_dim": 8,
        "data.length": 12,
        "epochs": 1,
        "steps_per_epoch": 3,
    }
    result = train("text_generation", tmp_path / "run", settings, verbose=0)
    assert result["steps"] == 3
    bits = result["test"]["bits_per_character"]
    assert bits == pytest.approx(result["test"]["loss"] / math.log(2))
    (text,) = predict(tmp_path / "run", prompt="the ", length=20)
    assert len(text) == 24


@pytest.mark.thorough
def test_precision_is_the_runs_own(sets, tmp_path):
    settings = TASKS["image_classification"] | {
        "dataset": sets["image_classification"],
        "precision": "mixed_float16",
        "epochs": 1,
    }
    train("image_classification", tmp_path / "run", settings, verbose=0)
    assert keras.config.dtype_policy().name == "float32"
    model = RunDirectory(tmp_path / "run").load_model()
    assert model.conv1.compute_dtype == "float16" and model.dense2.compute_dtype == "float32"


@pytest.mark.thorough
def test_a_pretrained_backbone_is_trained_on_in_two_runs(sets, tmp_path):
    backbone = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    backbone.save_weights(tmp_path / "mine.weights.h5")
    settings = {
        "dataset": sets["image_classification"],
        "strategy": "one_device",
        "data.image_size": (32, 32),
        "model.kind": "backbone",
        "model.application": "MobileNet",
        "model.alpha": 0.25,
        "batch_size": 16,
        "epochs": 1,
    }
    with pytest.raises(ValueError, match=r"weights: '/nowhere\.h5', expected weights of MobileNet"):
        train(
            "image_classification",
            tmp_path / "head",
            settings | {"model.weights": "/nowhere.h5"},
            verbose=0,
        )
    assert not (tmp_path / "head").exists()
    pretrained = {"model.weights": str(tmp_path / "mine.weights.h5")}
    train("image_classification", tmp_path / "head", settings | pretrained, verbose=0)
    (tmp_path / "mine.weights.h5").unlink()  # From now on a run's own file has them.
    head = RunDirectory(tmp_path / "head").load_model()
    for ours, theirs in zip(head.backbone.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    settings |= {"init_from": str(tmp_path / "head"), "model.train_backbone": True}
    result = train("image_classification", tmp_path / "all", settings, verbose=0)
    assert evaluate(tmp_path / "all")["test"] == pytest.approx(result["test"], rel=1e-5)
    model = RunDirectory(tmp_path / "all").load_model()
    changed = [
        not np.array_equal(ours, theirs)
        for ours, theirs in zip(model.backbone.get_weights(), backbone.get_weights(), strict=True)
    ]
    assert any(changed)
    folder = sets["image_classification"].removeprefix("images:")
    assert len(list(predict(tmp_path / "all", input=folder + "/low"))) == 40
    export(tmp_path / "all")


@pytest.mark.thorough
def test_soft_targets_and_weights_train_and_are_measured_as_hard_ones(sets, tmp_path):
    settings = TASKS["image_classification"] | {
        "dataset": sets["image_classification"],
        "mixing.kind": "cutmix",
        "mixing.label_smoothing": 0.1,
        "data.balance_classes": True,
        "epochs": 1,
    }
    result = train("image_classification", tmp_path / "run", settings, verbose=0)
    test = result["test"]
    # A model that has learnt next to nothing: as sure as right, within what eight images can say.
    assert 0 <= test["calibration_error"] <= 1 and "top_5_accuracy" not in test
    again = evaluate(tmp_path / "run")
    assert again["test"] == pytest.approx(test, rel=1e-5)
    assert "Calibration" in Page((tmp_path / "run/report.html").read_text()).text


@pytest.mark.thorough
def test_calibration_error_by_hand(sets):
    task = tasks.get("image_classification")
    data = task.load_data(task.config(dataset=sets["image_classification"], batch_size=4))

    class Sure:
        """Three quarters sure of the first class, always."""

        def predict(self, batches, verbose):
            return np.tile(np.log([0.75, 0.25]), (sum(len(x) for x, _ in batches), 1))

    test = task.evaluate(Sure(), data, task.config(), {}).metrics["test"]
    assert test["accuracy"].figure() == 0.5  # The classes have as many images.
    assert test["calibration_error"].figure() == pytest.approx(0.25)


@pytest.mark.thorough
def test_dense_kind_is_the_articles(sets, tmp_path):
    task = tasks.get("image_generation")
    config = with_settings(task.config(), {"model.kind": "dense"})
    data = task.load_data(dataclasses.replace(config, dataset=sets["image_generation"]))
    model = task.build_model(config, data)
    assert type(model.generator).__name__ == "Generator"
    assert model.image_shape == (12, 12, 1)
    task.compile_model(model, config, 10)
    assert model.jit_compile is True  # On one CPU, as `auto` has it.
    rates = [float(optimizer.learning_rate) for optimizer in model.optimizers]
    assert rates == pytest.approx([2e-4, 2e-4])
    config = dataclasses.replace(config, jit_compile="false")
    task.compile_model(model, config, 10)
    assert model.jit_compile is False
    for given, rate in (({}, 1e-3), ({"optimizer.learning_rate": 0.5}, 0.5)):
        config = with_settings(task.config(), given)
        task.compile_model(model, config, 10)
        assert float(model.d_optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.thorough
def test_a_loss_that_is_no_number_stops_and_leaves_no_model(sets, tmp_path, monkeypatch):
    before = {}

    class Seen(FiniteValues):
        def on_train_batch_begin(self, batch, logs=None):
            named = named_variables(self.model)
            before.update({name: (v, np.array(v)) for name, v in named.items()})

    monkeypatch.setattr("bigmodels.commands.train.FiniteValues", Seen)
    settings = TASKS["image_classification"] | {
        "dataset": sets["image_classification"],
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1e9,
        "model.batch_normalization": False,  # It would bring the weights back to scale.
        "optimizer.clip_norm": 0,
        "strategy": "one_device",
    }
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d: the loss and the gradients"):
        train("image_classification", tmp_path / "run", settings, verbose=0)
    assert "optimizer/iteration" in before
    for name, (variable, value) in before.items():
        np.testing.assert_array_equal(variable, value, err_msg=name)
    assert not (tmp_path / "run" / "model.keras").exists()
    batch = np.load(tmp_path / "run" / "bad_batch.npz")
    assert batch["part_0"].shape == (16, 12, 12, 1) and batch["part_1"].shape == (16,)


def test_text_in_a_class_folder_stops_before_anything_is_written(sets, tmp_path):
    with pytest.raises(ValueError, match="is not text"):
        train(
            "text_generation",
            tmp_path / "run",
            {"dataset": sets["image_classification"]},
            verbose=0,
        )
    assert not (tmp_path / "run").exists()


def test_xla_over_replicas_stops_before_anything_is_written(sets, tmp_path):
    settings = {"dataset": sets["image_classification"], "jit_compile": "true"}
    with pytest.raises(ValueError, match="jit_compile: true, but XLA cannot compile"):
        train("image_classification", tmp_path / "run", settings | {"strategy": "mirrored"})
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run_is_left_alone(sets, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    settings = TASKS["image_classification"] | {"dataset": sets["image_classification"]}
    with pytest.raises(ValueError, match="exists and is not a run"):
        train("image_classification", tmp_path, settings, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "not json"])
def test_a_damaged_run_is_named(runs, tmp_path, damage):
    shutil.copytree(runs("image_classification")[0], tmp_path / "run")
    if damage == "not json":
        (tmp_path / "run" / "config.json").write_text("{")
        message = "config.json' cannot be read"
    elif damage == "remove":
        (tmp_path / "run" / "model.keras").unlink()
        message = "holds no model.keras"
    else:
        path = tmp_path / "run" / "model.keras"
        path.write_bytes(path.read_bytes()[:1000])
        message = "model.keras' cannot be loaded"
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / "run")


def test_learning_rate_warms_up_and_decays_to_zero():
    rate = Optimizer(learning_rate=1.0, warmup_steps=10).build(110).learning_rate
    schedule = Optimizer(learning_rate=1.0, warmup_steps=10).build(110)._learning_rate
    values = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 0.5, 0], atol=1e-6)
    assert float(keras.ops.convert_to_numpy(rate)) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "no setting 'epoch'; did you mean epochs?"),
        ({"model.dense_unit": 3}, "no setting 'model.dense_unit'; did you mean model.dense_units?"),
        ({"model": 3}, "no setting 'model'"),
        ({"epochs.x": 3}, "no setting 'epochs.x'"),
        ({"epochs": "three"}, "epochs: 'three' is not of type int"),
        ({"epochs": 2.5}, "epochs: 2.5 is not of type int"),
        ({"epochs": 0}, "epochs: 0, expected a positive number"),
        ({"batch_size": -1}, "batch_size: -1"),
        ({"seed": -1}, "seed: -1"),
        ({"precision": "float8"}, "precision: 'float8' is not one of"),
        ({"jit_compile": "yes"}, "jit_compile: 'yes'"),
        ({"optimizer.name": "adamx"}, "did you mean adam"),
        ({"optimizer.learning_rate": "0"}, "optimizer.learning_rate: 0.0"),
        ({"model.batch_normalization": "maybe"}, "is not of type bool"),
        ({"model.dense_units": -3}, "model.dense_units: -3"),
        ({"model.dropout_rate": 1.5}, "model.dropout_rate: 1.5"),
        (
            {"model.filters": "8,x"},
            "'8,x' is not of type numbers separated by commas",
        ),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError) as error:
        with_settings(tasks.get("image_classification").config(), settings)
    assert message in str(error.value)


def test_settings_are_read_as_their_type():
    config = with_settings(
        tasks.get("image_classification").config(),
        {
            "epochs": "3",
            "model.filters": "8,16,",
            "model.batch_normalization": "False",
            "augmentation.horizontal_flip": "none",
            "optimizer.learning_rate": "3e-4",
            "steps_per_epoch": "none",
        },
    )
    assert config.epochs == 3 and config.model.filters == (8, 16)
    assert config.model.batch_normalization is False
    assert config.augmentation.horizontal_flip is None and config.steps_per_epoch is None
    assert config.optimizer.learning_rate == 3e-4


def test_settings_survive_json():
    config = tasks.get("text_generation").config()
    config = with_settings(config, {"model.kind": "transformer", "model.num_heads": 8})
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    again = with_settings(tasks.get("text_generation").config(), flat_settings(stored))
    assert again == config and isinstance(again, Config)


def test_unknown_task():
    with pytest.raises(ValueError, match="did you mean text_generation"):
        tasks.get("text_generator")
