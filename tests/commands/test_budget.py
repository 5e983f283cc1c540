"""A budget of time: how it is read, how it is spent, and that a run keeps what it has chosen."""

import dataclasses
import json
import math

import keras
import pytest

from bigmodels import tasks
from bigmodels.commands import budget, train
from bigmodels.commands.budget import Costs, choose_size, schedule
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.record import Size
from bigmodels.tasks.settings import command_line, duration, with_settings
from tests.same_run import assert_same_run

TASK = "image_classification"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10min", 600), ("2h", 7200), ("1.5 min", 90)],
)
def test_times(text, seconds):
    assert duration("budget", text) == seconds


@pytest.mark.parametrize(
    "text", ["10 minutes please", "0s", "0.0h", "-5min", "10", "", "inf", "1e3s", "10m in", "٣min"]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"budget: '.*', expected a time: 90s, 10min, 2h"):
        with_settings(tasks.get(TASK).config(), {"budget": text})


SIZES = [Size({"n": n}, steps=1000 * n) for n in range(5)]


@pytest.mark.parametrize("slowest", [0.001, 0.1, 0.4, 1.0, 50.0])
def test_the_largest_size_that_makes_enough_steps(slowest):
    """Against looking at all of them; a step of the next size takes four times as long."""
    steps = [int(1000 / (slowest / 4 ** (4 - i))) for i in range(5)]
    asked = []
    index = choose_size(SIZES, lambda i: asked.append(i) or steps[i])
    assert index == max(i for i in range(5) if i == 0 or steps[i] >= SIZES[i].steps)
    assert len(asked) <= 3
    assert index + 1 == len(SIZES) or index + 1 in asked  # It tells why not the next one.


@pytest.mark.parametrize("batches", [7, 60, 800, 100_000])
@pytest.mark.parametrize("validation", [0.0, 0.3, 40.0])
@pytest.mark.parametrize("seconds", [20.0, 90.0, 600.0, 7200.0])
def test_a_schedule_fills_the_time_and_no_more(seconds, validation, batches):
    costs = Costs(first=4.0, step=0.05, validation=validation, sample=0.2, ending=6.0)
    epochs, steps = schedule(seconds, costs, batches)
    spent = 4 + 6 + epochs * (steps * 0.05 + validation) + min(epochs, 11) * 0.2
    # At least one step; of what is left over, each epoch could not have had one more.
    assert spent <= seconds + 1e-6 or epochs == steps == 1
    assert spent + epochs * 0.05 > seconds - 1e-6
    assert epochs == 1 or epochs * (validation + 0.2) <= 0.05 * seconds


def test_epochs_are_passes_but_not_fewer_than_ten_where_validation_is_cheap():
    costs = Costs(first=0.0, step=0.1, validation=0.1)
    assert schedule(1000.0, costs, batches=500)[0] == 20
    assert schedule(1000.0, costs, batches=10**6)[0] == 10
    assert schedule(1000.0, dataclasses.replace(costs, validation=10.0), batches=10**6)[0] == 5


def test_what_is_given_stays():
    costs = Costs(first=0.0, step=0.1, validation=1.0)
    assert schedule(103.0, costs, batches=50, epochs=3) == (3, 333)
    assert schedule(103.0, costs, batches=50, steps_per_epoch=200) == (4, 200)
    assert schedule(103.0, costs, batches=50, epochs=2, steps_per_epoch=7) == (2, 7)


@pytest.mark.parametrize("task", tasks.NAMES)
def test_the_sizes_of_a_task_are_settings_of_it(task):
    task = tasks.get(task)
    sizes = task.sizes(task.config())
    assert [size.steps for size in sizes] == sorted(size.steps for size in sizes)
    for size in sizes:
        assert size.settings.keys() == sizes[0].settings.keys()
        with_settings(task.config(), size.settings)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, [{"a": 1, "b": 8}, {"a": 2, "b": 8}]),
        ({"b"}, [{"a": 1}, {"a": 2}]),
        ({"a"}, [{"b": 8}]),
        ({"a", "b", "epochs"}, [{}]),
    ],
)
def test_sizes_without_what_is_given(given, left):
    sizes = [Size({"a": 1, "b": 8}), Size({"a": 2, "b": 8}, steps=5)]
    task = dataclasses.replace(tasks.get(TASK), sizes=lambda config: sizes)
    config = task.config()
    assert [size.settings for size in budget._free_sizes(task, config, given)] == left
    own = dataclasses.replace(config, init_from="runs/other")
    assert [size.settings for size in budget._free_sizes(task, own, given)] == [{}]


def test_measured_layers_leave_the_names_of_later_ones():
    count = int(f"{keras.layers.Dense(1).name}_0".split("_")[1])
    with budget._names_of_their_own():
        assert keras.layers.Dense(1).name == f"dense_{count + 1}"
        keras.layers.Conv2D(1, 1)
    assert keras.layers.Dense(1).name == f"dense_{count + 1}"


@pytest.fixture
def few_steps(monkeypatch):
    """Two epochs of a few steps, whatever the time; what was asked for is kept."""
    asked = []

    def of_few(seconds, costs, batches, epochs=None, steps_per_epoch=None):
        asked.append((seconds, costs, batches))
        assert schedule(seconds, costs, batches, epochs, steps_per_epoch)[0] >= 1
        return epochs or 2, steps_per_epoch or 5

    monkeypatch.setattr(budget, "schedule", of_few)
    monkeypatch.setattr(budget, "_LONGEST", 0.5)
    return asked


SETTINGS = {
    "budget": "2h",
    "strategy": "one_device",
    "model.dense_units": 8,
    "save_freq": 1,
    "batch_size": 16,
}


class Killed(BaseException):
    """In place of a kill."""


@pytest.mark.thorough
def test_a_killed_run_keeps_what_was_chosen(tmp_path, few_steps, monkeypatch):
    small = (Size({"model.filters": (2, 2)}), Size({"model.filters": (3, 4)}, steps=10**9))
    task = dataclasses.replace(tasks.get(TASK), name="grown", sizes=lambda config: small)
    whole = train.train(task, tmp_path / "whole", SETTINGS, verbose=0)
    (seconds, costs, batches), chosen = few_steps[0], whole["chosen"]
    assert 0 < seconds < 7200 and batches == math.ceil(4000 / 16)
    assert min(dataclasses.astuple(costs)[:3]) > 0 and costs.ending > costs.validation
    assert chosen["settings"] == {"model.filters": [2, 2], "epochs": 2, "steps_per_epoch": 5}
    stored = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert stored["chosen"] == chosen and stored["config"]["model"]["filters"] == [2, 2]
    assert "of the 1,000,000,000 that it needs" in (tmp_path / "whole" / "report.html").read_text()
    assert whole["steps"] == 10

    # As long as anything trains, the third step of the second epoch ends the process.
    with monkeypatch.context() as patch:
        patch.setattr(train.Keeper, "on_train_batch_end", _killing(train.Keeper, step=8))
        with pytest.raises(Killed):
            train.train(task, tmp_path / "killed", SETTINGS, verbose=0)
    assert len(few_steps) == 2 and not RunDirectory(tmp_path / "killed").has_result()
    # The reasons hold times, which differ from one measurement to the next.
    kept = RunDirectory(tmp_path / "killed")
    monkeypatch.setattr(budget, "choose", None)
    continued = train.train(task, tmp_path / "killed", SETTINGS, verbose=0)
    assert continued["chosen"] == kept.chosen()
    assert len(few_steps) == 2
    _assert_same(tmp_path / "whole", tmp_path / "killed")

    # The command that repeats the run needs neither budget nor measurement.
    _, config = RunDirectory(tmp_path / "whole").load_config()
    assert "budget" not in command_line(task, config)
    plain = {n: v for n, v in SETTINGS.items() if n != "budget"} | chosen["settings"]
    train.train(task, tmp_path / "plain", plain, verbose=0)
    _assert_same(tmp_path / "whole", tmp_path / "plain")

    for other, message in (
        ({"budget": "1h"}, "a run with budget=2h, not 1h"),
        ({"epochs": 3}, "a run with epochs=2, not 3"),
    ):
        with pytest.raises(ValueError, match=message):
            train.train(task, tmp_path / "whole", SETTINGS | other, verbose=0)


def _killing(callback, step):
    original, done = callback.on_train_batch_end, []

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        done.append(batch)
        if len(done) == step:
            raise Killed

    return on_train_batch_end


def _assert_same(one, other):
    """Apart from the record of the choice."""
    for run in (one, other):
        result = json.loads((run / "result.json").read_text())
        if result.pop("chosen", None):
            (run / "result.json").write_text(json.dumps(result))
    assert_same_run(one, other)


@pytest.mark.thorough
def test_a_dry_run_says_what_would_be_chosen(tmp_path, few_steps, capsys):
    settings = SETTINGS | {"epochs": 3, "model.filters": (2, 2)}
    found = train.train(TASK, tmp_path / "run", settings, dry_run=True)
    assert found["chosen"]["settings"] == {"steps_per_epoch": 5} and found["steps"] == 15
    assert "3 epochs of 5 steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_budget_that_is_too_short_names_the_time_it_needs(tmp_path):
    settings = {name: value for name, value in SETTINGS.items() if name != "save_freq"}
    with pytest.raises(ValueError, match=r"budget: '0\.1s' is too short, as the shortest"):
        train.train(TASK, tmp_path / "run", settings | {"budget": "0.1s"}, verbose=0)
    assert not list(tmp_path.iterdir())
