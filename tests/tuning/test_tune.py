"""The search: keras-tuner's oracles as they are, real tiny trainings, real processes."""

import dataclasses
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import grpc
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from bigmodels import tasks
from bigmodels.commands.train import train
from bigmodels.reports import plots, report
from bigmodels.runs.checkpoint import Checkpoints
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.image_classification import recipe
from bigmodels.tasks.settings import flags_of, flat_settings, with_settings
from bigmodels.tuning import search
from bigmodels.tuning.tune import tune
from tests.conftest import striped_images
from tests.pages import Page

TUNE = "from bigmodels.cli.tune import run; import sys; sys.argv[0] = 'bigmodels-tune'; run()"
LAUNCH = "from bigmodels.cli.launch import run; import sys; sys.argv[0] = 'bigmodels-launch'; run()"
FIXED = {
    "strategy": "one_device",
    "model.filters": (2, 2),
    "model.dense_units": 4,
    "model.dropout_rate": 0.1,
    "batch_size": 16,
    "epochs": 2,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The user's own images, three classes."""
    root = tmp_path_factory.mktemp("images")
    pictures, labels = striped_images(np.random.default_rng(0), 90)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = root / f"class{label}"
        folder.mkdir(exist_ok=True)
        png = tf.io.encode_png((picture * 255).astype("uint8")).numpy()
        (folder / f"{i}.png").write_bytes(png)
    return f"images:{root}"


def _flags(settings):
    words = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--set", f"{name}={text}"]
    return words


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _tune_process(*arguments, environment=None, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", TUNE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment() | (environment or {}),
        **kwargs,
    )


# What keras-tuner is asked, with a formula for a training.


def _space(name="image_classification", settings=None, grid=False):
    task = tasks.get(name)
    settings = settings or {}
    config = flat_settings(with_settings(task.config(), settings))
    return search.Space(task.search_space, settings, config, grid)


def _tuner(kind, path, space, score, role=None, hours=None, said=None, **options):
    said = said if said is not None else []
    oracle = search.ORACLES[kind](
        objective=keras_tuner.Objective("score", "min"),
        seed=1,
        max_consecutive_failed_trials=math.inf,
        run=RunDirectory(path / "keras_tuner"),
        hours=hours,
        on_begin=lambda trial, again: said.append((trial.trial_id, again)),
        on_end=lambda trial: None,
        **options,
    )
    return search.Tuner(oracle, space, score, role or search.Role(), path), oracle


SMALL_GRIDS = {
    "image_classification": {"model.dense_units": 4, "optimizer.weight_decay": 0.1},
    "text_generation": {"model.rnn_units": 4},
    "text_generation, transformer": {
        "model.kind": "transformer",
        "model.embedding_dim": 64,
        "model.dropout_rate": 0.1,
    },
    "image_generation": {
        "model.latent_dim": 4,
        "model.normalization": "none",
        "model.loss": "hinge",
        "model.r1": 0.1,
        "model.ema_momentum": 0.0,
    },
    "driving": {"model.dense_units": "4", "optimizer.weight_decay": 0.1},
    "time_series": {"model.rnn_units": 4},
    "translation": {"model.embedding_dim": 64},
    "inpainting": {"model.reconstruction": "mean_squared_error"},
    "object_detection": {"model.filters": "2,2,2", "model.head_filters": 4},
    "speech_recognition": {
        "model.rnn_units": 4,
        "model.time_masks": 0,
        "model.frequency_masks": 0,
    },
}
GRIDS = SMALL_GRIDS | {name: {} for name in tasks.NAMES if name not in SMALL_GRIDS}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.thorough
def test_a_grid_is_covered_and_all_of_it_are_settings_of_the_task(case, tmp_path):
    name = case.partition(",")[0]
    settings = GRIDS[case]
    space, seen = _space(name, settings, grid=True), []
    tuner, _ = _tuner("grid", tmp_path, space, lambda trial: seen.append(trial) or 0.0)
    tuner.search()
    found = [tuple(sorted(space.settings(trial.hyperparameters).items())) for trial in seen]
    assert len(found) == len(set(found)) == space.size > 1
    for name_ in space.searched:
        assert 2 <= len({dict(f)[name_] for f in found}) <= 4
    task = tasks.get(name)
    for each in found:
        config = with_settings(task.config(), settings | dict(each))
        assert not set(settings) & set(dict(each))
        assert all(flat_settings(config)[name_] is not None for name_ in dict(each))


def test_heads_divide_a_fixed_width():
    space = _space("text_generation", {"model.kind": "transformer", "model.embedding_dim": 100})
    hp = keras_tuner.HyperParameters()
    settings = space.settings(hp)
    assert list(hp._hps["model.num_heads"][0].values) == [2, 4]
    assert settings["model.feed_forward_dim"] == 400
    assert "model.embedding_dim" not in space.searched
    assert space.left == ["model.embedding_dim"]


def test_several_workers_have_points_of_the_grid_at_the_same_time(tmp_path):
    settings = {"model.filters": (2, 2), "model.dense_units": 4, "optimizer.weight_decay": 0.1}
    _, oracle = _tuner("grid", tmp_path, _space(settings=settings, grid=True), None)
    trials = [oracle.create_trial(f"tuner{i}") for i in range(4)]
    assert {trial.status for trial in trials} == {"RUNNING"}
    assert len({str(trial.hyperparameters.values) for trial in trials}) == 4


OPTIONS = {
    "random": {"max_trials": 6},
    "bayesian": {"max_trials": 5, "num_initial_points": 4},
    "hyperband": {"max_epochs": 3},
    "grid": {},
}


@pytest.mark.parametrize("kind", search.ORACLES)
def test_a_search_goes_on_where_it_was_killed(kind, tmp_path):
    """Whatever was in flight is asked for again; what was finished is not."""
    settings = {"model.filters": (2, 2), "model.dense_units": 4, "optimizer.weight_decay": 0.1}
    space, ran, said = _space(settings=settings, grid=kind == "grid"), [], []

    def score(trial):
        if len(ran) in (2, 4):  # In the midst of a trial, twice.
            ran.append(None)
            raise KeyboardInterrupt
        values = space.settings(trial.hyperparameters)
        ran.append((trial.trial_id, values))
        return values["optimizer.learning_rate"] + values["model.dropout_rate"]

    for attempt in range(3):
        tuner, oracle = _tuner(kind, tmp_path, space, score, said=said, **OPTIONS[kind])
        oracle.reload()
        # As a kill leaves them: keras-tuner's own files are not what is read.
        for file in (tmp_path / "keras_tuner").rglob("trial.json"):
            file.write_text("{")
        if attempt < 2:
            with pytest.raises(KeyboardInterrupt):
                tuner.search()
        else:
            tuner.search()
    numbers = [one[0] for one in ran if one]
    expected = {"random": 6, "bayesian": 5, "hyperband": 6, "grid": 9}[kind]
    assert len(numbers) == len(set(numbers)) == expected
    assert [again for _, again in said].count(True) == 2
    if kind == "grid":
        assert len({str(one[1]) for one in ran if one}) == space.size == 9
    if kind == "hyperband":
        went_on = [t for t in oracle.trials.values() if "tuner/trial_id" in t.hyperparameters]
        (last,) = went_on
        first = [t for t in oracle.trials.values() if t.hyperparameters["tuner/epochs"] == 1]
        best = min(first, key=lambda trial: trial.score)
        assert last.hyperparameters["tuner/trial_id"] == best.trial_id
        assert last.hyperparameters["tuner/epochs"] == 3


def test_no_trial_begins_after_the_time_is_up(tmp_path):
    space, ran = _space(), []
    _, oracle = _tuner("random", tmp_path, space, None, hours=1)
    oracle._spent = 3599.0
    oracle.save()
    again, oracle = _tuner("random", tmp_path, space, lambda trial: ran.append(1) or 0.0, hours=1)
    oracle.reload()
    assert 3599 <= oracle.seconds < 3600
    oracle._began -= 2
    again.search()
    assert ran == []


def test_failures_do_not_end_a_search_unless_there_is_nothing_else(tmp_path):
    space, ran = _space(), []

    def score(trial):
        ran.append(trial)
        if len(ran) <= 4:
            raise search.FailedTrialError("no")
        return 1.0

    tuner, oracle = _tuner("random", tmp_path / "a", space, score, max_trials=15)
    tuner.search()
    states = [trial.status for trial in oracle.trials.values()]
    assert states == ["FAILED"] * 4 + ["COMPLETED"] * 11

    def fail(trial):
        raise search.FailedTrialError("no")

    tuner, oracle = _tuner("random", tmp_path / "b", space, fail, max_trials=15)
    tuner.search()
    assert len(oracle.trials) == 10


def test_an_error_that_is_no_trial_s_ends_the_search(tmp_path):
    def score(trial):
        raise ZeroDivisionError("a mistake in the program")

    tuner, oracle = _tuner("random", tmp_path, _space(), score, max_trials=15)
    with pytest.raises(ZeroDivisionError, match="a mistake in the program"):
        search.search(tuner, oracle, search.Role(), 10)


# A search with real trainings, killed once.


@pytest.fixture(scope="module")
def searched(images, tmp_path_factory):
    """A search killed in its second trial, continued, and continued with one trial more."""
    path = tmp_path_factory.mktemp("searches") / "search"
    settings = FIXED | {"dataset": images, "epochs": 3}
    arguments = ("--task=image_classification", f"--workdir={path}", "--trials=2")
    objective = "--objective=validation.accuracy"
    process = _tune_process(*arguments, objective, *_flags(settings), start_new_session=True)
    waited = 0.0
    while not list(path.glob("trials/0001/checkpoints/*.npz")):
        assert process.poll() is None and waited < 400, process.communicate()
        time.sleep(0.05)
        waited += 0.05
    os.killpg(process.pid, signal.SIGKILL)
    killed_said = process.communicate()[1]
    assert not (path / "trials" / "0001" / "result.json").exists()
    # As if the kill had come in the making of a run's directory.
    (path / "trials" / "0002" / "logs").mkdir(parents=True)
    before = (path / "trials" / "0000" / "model.keras").stat().st_mtime_ns
    said, results = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(words)))
        for trials in (2, 3):
            results.append(
                tune(
                    "image_classification",
                    path,
                    settings,
                    "random",
                    trials,
                    None,
                    "validation.accuracy",
                )
            )
    assert len(results[0]["trials"]) == 2
    known = {row["trial"]: row for row in results[1]["trials"]}
    assert all(known[row["trial"]] == row for row in results[0]["trials"])
    return path, settings, results[1], before, killed_said, said


@pytest.mark.thorough
def test_a_killed_search_loses_nothing_that_was_finished(searched):
    path, _, result, before, killed_said, said = searched
    assert "Trial 0000 finished" in killed_said and "Trial 0001 starts" in killed_said
    assert (path / "trials" / "0000" / "model.keras").stat().st_mtime_ns == before
    assert any("1 of its trials have ended" in line for line in said)
    begun = [line for line in said if line.startswith("Trial") and ":" in line]
    assert begun[0].startswith("Trial 0001 continues: ")
    assert not any(line.startswith("Trial 0000") for line in said)
    assert sorted(row["trial"] for row in result["trials"]) == ["0000", "0001", "0002"]
    assert {row["status"] for row in result["trials"]} == {"finished"}


def test_each_trial_is_an_ordinary_run(searched):
    path, _, result, *_ = searched
    for row in result["trials"]:
        run = RunDirectory(path / "trials" / row["trial"])
        assert str(run.path) == row["run"]
        for file in ("config.json", "metrics.jsonl", "model.keras", "report.html"):
            assert (run.path / file).stat().st_size > 0
        assert run.read_json("result.json")["validation"]["accuracy"] == row["score"]
        config = flat_settings(run.load_config()[1])
        assert {name: config[name] for name in row["settings"]} == row["settings"]
        assert config["model.filters"] == (2, 2) and config["epochs"] == 3 == row["epochs"]
        # Like every learning rate, in four digits.
        rate = row["settings"]["optimizer.learning_rate"]
        assert rate == float(f"{rate:.4g}") and 3e-4 <= rate <= 1e-2


def test_the_result_names_the_best_and_is_sorted(searched):
    path, _, result, _, _, said = searched
    scores = [row["score"] for row in result["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert result["best"]["score"] == scores[0]
    assert result["objective"] == "validation.accuracy" and result["direction"] == "max"
    assert result == json.loads((path / "result.json").read_text())
    page = (path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1  # Three trials say nothing of importance.
    assert result["best"]["command"] in Page(page).text
    assert all(f"<th>{row['trial']}</th>" in page for row in result["trials"])
    assert not list(path.rglob(".*"))
    assert any(
        line.startswith(f"Best: trial {result['best']['trial']}, validation.accuracy")
        for line in said
    )


def test_the_best_model_loads_elsewhere(searched):
    path, _, result, *_ = searched
    model = keras.models.load_model(path / "model.keras")
    best = RunDirectory(result["best"]["run"]).load_model()
    for a, b in zip(model.weights, best.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.thorough
def test_the_best_command_repeats_the_best_trial(searched, tmp_path):
    """Bit for bit, although the search ran in other processes and one of its trials in two."""
    _, _, result, *_ = searched
    words = shlex.split(result["best"]["command"])
    assert words[0] == "bigmodels-train" and "--workdir=DIR" in words
    settings = {}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name, _, given = (value if word == "--set" else word.removeprefix("--")).partition("=")
        if given and name not in ("task", "workdir"):
            setting, *_ = flags_of("train").get(name, (name,))
            settings[setting] = given
    again = train("image_classification", tmp_path / "run", settings, verbose=0)
    assert again["validation"]["accuracy"] == result["best"]["score"]
    whole = json.loads((RunDirectory(result["best"]["run"]).path / "result.json").read_text())
    assert again["validation"] == whole["validation"] and again["train"] == whole["train"]


def test_a_finished_search_is_not_run_again(searched, capsys):
    path, settings, result, *_ = searched
    for trials in (3, 2):
        again = tune(
            "image_classification", path, settings, trials=trials, objective="validation.accuracy"
        )
        assert again == result
    assert "is finished already; more trials or hours would continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"seed": 4}, {}, "holds a search with seed=0, not 4; choose another workdir"),
        ({}, {"tuner": "grid"}, "holds a search with tuner=random, not grid"),
        ({}, {"direction": "min"}, "holds a search with direction=max, not min"),
        ({"optimizer.weight_decay": 0.05}, {}, "holds a search with searched=optimizer.learning"),
    ],
)
def test_another_search_does_not_touch_the_directory(searched, settings, options, message):
    path, before, *_ = searched
    with pytest.raises(ValueError, match=message):
        tune(
            "image_classification",
            path,
            before | settings,
            **{"trials": 9, "objective": "validation.accuracy"} | options,
        )


def test_a_directory_that_is_no_search_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not a search"):
        tune("image_classification", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("task", "settings", "options", "message"),
    [
        ("image_clasification", {}, {}, "did you mean image_classification"),
        (
            "image_classification",
            {},
            {"objective": "test.accuracy"},
            "objective: 'test.accuracy', but after a search by the test split its metrics no "
            "longer estimate the performance on unseen data; use validation.accuracy",
        ),
        ("text_generation", {}, {"objective": "accuracy"}, "expected validation.METRIC"),
        (
            "text_generation",
            {},
            {"objective": "validation.beauty"},
            "direction: not known for validation.beauty",
        ),
        ("text_generation", {}, {"direction": "up"}, "direction: 'up' is not one of min, max"),
        ("text_generation", {}, {"tuner": "bayes"}, "did you mean bayesian"),
        ("text_generation", {}, {"trials": 0}, "trials: 0, expected a positive number"),
        ("text_generation", {}, {"hours": -1.0}, "hours: -1.0"),
        ("text_generation", {"strategy": "multi_worker"}, {}, "a trial trains on one machine"),
        ("text_generation", {"strategy": "two"}, {}, "strategy: 'two' is not one of auto"),
        ("text_generation", {"dataset": "text:/no"}, {}, "/no"),
        ("text_generation", {"model.unit": 3}, {}, "there is no setting 'model.unit'"),
        ("text_generation", {"stop_after": 2}, {"tuner": "hyperband"}, "stop_after: 2, but hyper"),
        ("image_generation", {"early_stopping": 2}, {}, "early_stopping: 2, but the validation"),
        (
            "image_classification",
            FIXED | {"optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0},
            {},
            "set: every setting that could be searched is fixed",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(task, settings, options, message, tmp_path):
    with pytest.raises(ValueError) as error:
        tune(task, tmp_path / "search", settings, verbose=0, **options)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_an_unknown_metric_is_named_before_anything_is_trained(images, tmp_path):
    with pytest.raises(ValueError) as error:
        tune(
            "image_classification",
            tmp_path / "search",
            FIXED | {"dataset": images},
            objective="validation.acuracy",
            direction="max",
            verbose=0,
        )
    assert str(error.value) == (
        "objective: 'validation.acuracy', but the validation metrics of image_classification are "
        "accuracy, loss; did you mean validation.accuracy?"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "metric", "direction"),
    [
        ("text_generation", "loss", "min"),
        ("text_generation", "bits_per_character", "min"),
        ("image_classification", "top_5_accuracy", "max"),
        ("image_generation", "frechet_distance", "min"),
        ("object_detection", "map_50", "max"),
        ("image_generation", "d_loss", "min"),  # The task does not say; the name does.
        ("text_generation", "top_3_accuracy", "max"),
    ],
)
def test_direction_follows_from_the_task_and_the_name(task, metric, direction):
    from bigmodels.tuning.tune import _objective

    name = f"validation.{metric}"
    assert _objective(tasks.get(task), name, None) == (name, direction)
    assert _objective(tasks.get(task), name, "max") == (name, "max")


def test_every_task_s_own_objective_has_a_direction():
    from bigmodels.tuning.tune import _objective

    for task in map(tasks.get, tasks.NAMES):
        _objective(task, task.objective, None)


@pytest.mark.thorough
def test_a_trial_that_fails_does_not_end_the_search(images, tmp_path, monkeypatch, capsys):
    """A kernel larger than the images, and one that is not."""

    def space(hp):
        return {"model.kernel_size": hp.Choice("model.kernel_size", [99, 3])}

    task = dataclasses.replace(recipe.TASK, search_space=space)
    monkeypatch.setattr(recipe, "TASK", task)
    settings = FIXED | {"dataset": images, "epochs": 1, "model.padding": "valid"}
    result = tune("image_classification", tmp_path / "search", settings, tuner="grid")
    rows = result["trials"]
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert rows[1]["score"] is None and "nothing is left of it" in rows[1]["reason"]
    assert result["best"]["settings"] == {"model.kernel_size": 3}
    assert "nothing is left" in (tmp_path / "search" / "report.html").read_text()
    said = capsys.readouterr().err
    assert "Trial 0000 failed: model.kernel_size=99: " in said
    assert "The search continues." in said


@pytest.mark.thorough
def test_a_search_without_a_single_success_says_why(images, tmp_path, monkeypatch):
    def space(hp):
        return {"model.dropout_rate": hp.Choice("model.dropout_rate", [2.0, 3.0])}

    task = dataclasses.replace(recipe.TASK, search_space=space)
    monkeypatch.setattr(recipe, "TASK", task)
    settings = {name: value for name, value in FIXED.items() if name != "model.dropout_rate"}
    settings["dataset"] = images
    message = "none of 2 trials finished; the last failure: model.dropout_rate: 3.0, expected"
    with pytest.raises(FloatingPointError, match=message):
        tune("image_classification", tmp_path / "search", settings, tuner="grid", verbose=0)


# Stopping before the last epoch.


@pytest.mark.thorough
def test_early_stopping_goes_by_what_was_written_and_so_survives_a_kill(images, tmp_path):
    """Killed once before and once at its end, it stops where the untouched run would."""

    class Killed(Exception):
        pass

    def kill(self, epoch, *content):
        original(self, epoch, *content)
        if epoch > 1:
            raise Killed

    original = Checkpoints.save
    # Nothing is learnt, so the first epoch stays the best.
    settings = FIXED | {"dataset": images, "epochs": 9, "optimizer.learning_rate": 1e-30}
    settings |= {"early_stopping": 2, "model.batch_normalization": False}
    run = RunDirectory(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", kill)
        for epoch in (2, 3):
            with pytest.raises(Killed):
                train("image_classification", run.path, settings, verbose=0)
            assert len(run.history()) == epoch
    result = train("image_classification", run.path, settings, verbose=0)
    assert [row["epoch"] for row in run.history()] == [1, 2, 3]
    assert len({row["val_loss"] for row in run.history()}) == 1
    assert result["steps"] == 3 * math.ceil(72 / 16)


def test_early_stopping_waits_from_the_best_epoch():
    from bigmodels.callbacks.run import Keeper

    class Rows:
        stops_early = Keeper.stops_early
        strategy = tf.distribute.get_strategy()

        def __init__(self, patience, *losses):
            config = tasks.get("image_classification").config()
            self.config = dataclasses.replace(config, early_stopping=patience)
            self.rows = [{"val_loss": loss} for loss in losses]

    assert not Rows(2, 3.0, 2.0, 2.5).stops_early()
    assert Rows(2, 3.0, 2.0, 2.5, 2.0).stops_early()  # As low is not lower.
    assert not Rows(2, 3.0, 2.0, 2.5, 1.9).stops_early()
    assert not Rows(1).stops_early() and not Rows(None, 1.0, 2.0, 3.0).stops_early()


# Several processes.


@pytest.fixture
def nobody_is_told(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("KERASTUNER_", "SLURM_")) or name == "TF_CONFIG":
            monkeypatch.delenv(name)


def test_a_process_finds_its_part(nobody_is_told, monkeypatch):
    assert search.role() == search.Role()
    addresses = ["a:1", "a:2", "b:1"]
    for index, (kind, name) in enumerate(
        [("chief", "chief"), ("worker", "tuner1"), ("worker", "tuner2")]
    ):
        expected = search.Role(kind, name, tuple(addresses), index)
        assert search.role(addresses, index) == expected
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        assert search.role() == expected
        cluster = {"chief": addresses[:1], "worker": addresses[1:]}
        task = {"type": "worker", "index": index - 1} if index else {"type": "chief", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        assert search.role() == expected
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "10.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "tuner7")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_PORT: not set"):
        search.role()
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    assert search.role() == search.Role("worker", "tuner7", ("10.0.0.1:8000",))
    with search.playing(search.role()):
        assert "TF_CONFIG" not in os.environ  # So that a trial trains on one machine.
        assert os.environ["KERASTUNER_ORACLE_PORT"] == "8000"
    assert "TF_CONFIG" in os.environ


def test_gpus_are_shared_out_among_a_machine_s_workers():
    addresses = ("a:1", "a:2", "a:3", "b:1")

    def share(gpus, index):
        kind = "worker" if index else "chief"
        return search.share_gpus(gpus, search.Role(kind, "", addresses, index))

    assert share([0, 1, 2], 0) == ([], False)
    assert share([0, 1, 2], 1) == ([0, 2], False)
    assert share([0, 1, 2], 2) == ([1], False)
    assert share([0, 1, 2], 3) == ([0, 1, 2], False)
    assert share([0], 1) == share([0], 2) == ([0], True)


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def address(nobody_is_told, monkeypatch):
    """Of a chief that this process, or one that it is a worker of, would be."""
    monkeypatch.setattr(search, "_JOIN", 3)
    return f"127.0.0.1:{_free_port()}"


def _client(address):
    return protos.get_service_grpc().OracleStub(grpc.insecure_channel(address))


def test_a_chief_gives_up_when_a_worker_dies(address, tmp_path):
    """The worker takes a trial over keras-tuner's protocol, and is never heard of again."""
    role = search.Role("chief", "chief", (address, "127.0.0.1:1"))

    def take_one():
        request = protos.get_service().CreateTrialRequest(tuner_id="tuner1")
        _client(address).CreateTrial(request, wait_for_ready=True, timeout=60)

    worker = threading.Thread(target=take_one)
    worker.start()
    with search.playing(role):
        tuner, oracle = _tuner("random", tmp_path, _space(), None, role, max_trials=3)
        with pytest.raises(TimeoutError, match=r"no sign of life from tuner1 .* 1 s"):
            search.search(tuner, oracle, role, 1.0)
    worker.join()
    again, oracle = _tuner("random", tmp_path, _space(), lambda trial: 0.0, max_trials=3)
    oracle.reload()  # Nothing is lost.
    again.search()
    assert [trial.status for trial in oracle.trials.values()] == ["COMPLETED"] * 3


def test_a_chief_gives_up_on_workers_that_never_come(address, tmp_path):
    role = search.Role("chief", "chief", (address,))
    with search.playing(role):
        tuner, oracle = _tuner("random", tmp_path, _space(), None, role, max_trials=3)
        with pytest.raises(TimeoutError, match="no sign of life from any worker"):
            search.search(tuner, oracle, role, 1.0)


def test_a_chief_that_cannot_listen_says_so(address, tmp_path):
    import socket

    host, _, port = address.rpartition(":")
    role = search.Role("chief", "chief", (address,))
    with search.playing(role), socket.create_server((host, int(port))):
        tuner, oracle = _tuner("random", tmp_path, _space(), None, role, max_trials=3)
        with pytest.raises(OSError, match=f"workers: cannot listen at '{address}'"):
            search.search(tuner, oracle, role, 1.0)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.thorough
def test_a_worker_gives_up_when_the_chief_dies(busy, address, tmp_path):
    """In the midst of a trial, and while waiting for one."""
    from concurrent import futures

    _, oracle = _tuner("random", tmp_path / "chief", _space(), None, max_trials=3)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service = protos.get_service_grpc()
    service.add_OracleServicer_to_server(OracleServicer(oracle), server)
    server.add_insecure_port(address)
    server.start()
    role, took = search.Role("worker", "tuner1", (address,)), []

    def run_trial(trial):
        took.append(trial)
        if busy:
            time.sleep(2)
            assert oracle.silent(1.5) == []  # It is heard of although it is busy.
        server.stop(0).wait()
        if busy:
            time.sleep(60)
        return 0.0

    with search.playing(role):
        tuner, mine = _tuner("random", tmp_path, _space(), run_trial, role, max_trials=3)
        with pytest.raises(TimeoutError, match=f"the chief at {address} has not answered for 1 s"):
            search.search(tuner, mine, role, 1.0)
    assert len(took) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Pictures.


def test_importance_finds_what_matters_and_says_when_it_cannot(rng):
    settings = [{"a": float(rng.random()), "b": str(rng.integers(3))} for _ in range(40)]
    scores = [row["a"] ** 2 for row in settings]
    figure = plots.importance(settings, scores, ["a", "b"])
    (axes,) = figure.axes
    lengths = dict(
        zip(
            [label.get_text() for label in axes.get_yticklabels()],
            [bar.get_width() for bar in axes.patches],
            strict=True,
        )
    )
    assert lengths["a"] > 0.5 > 0.1 > lengths["b"]
    assert "40 trials" in axes.get_title() and "not reliable" not in axes.get_title()
    noise = list(rng.random(40))
    assert "not reliable" in plots.importance(settings, noise, ["a", "b"]).axes[0].get_title()
    assert plots.importance(settings[:9], scores[:9], ["a", "b"]) is None
    assert plots.importance(settings, scores, ["a"]) is None


def test_parallel_coordinates_put_the_best_on_top():
    settings = [{"a": 1, "k": "x"}, {"a": 100, "k": "y"}, {"a": 10}]
    figure = plots.parallel_coordinates(settings, [0.5, 0.25, 1.0], ["a", "k"], "loss", False)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines[-1].get_ydata(), [1, 1, 0])
    assert lines[-1].get_label() == "best"
    np.testing.assert_allclose(lines[0].get_ydata(), [0.5, np.nan, 1])  # On a log axis.
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"x", "y", "1", "10", "100", "0.25"} <= texts


def test_what_users_write_is_escaped_in_a_search_s_report():
    result = {"task": "t", "dataset": "<b>", "tuner": "random", "objective": "validation.loss"}
    result |= {"direction": "min", "seed": 0, "seconds": 1.0}
    row = {"trial": "0000", "score": None, "status": "failed", "reason": "<i>", "epochs": 1}
    result["trials"] = [row | {"settings": {"<u>": "<u>"}}]
    result["best"] = {"trial": "0000", "score": 1.0, "command": "x '<s>'"}
    page = report.render_search("<script>", result, {})
    assert not any(tag in page for tag in ("<b><", "<i>", "<u>", "<s>", "<script"))
    assert "<b>" in Page(page).text
