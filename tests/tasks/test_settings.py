"""A setting is one field: its check, its flag, its line in `--list` and its name in a search."""

import dataclasses
import shlex

import pytest

from bigmodels import distribute, tasks
from bigmodels.commands.catalogue import settings as listed
from bigmodels.fields import check_positive, check_settings, check_share, each, fields, setting
from bigmodels.tasks.settings import (
    STRATEGIES,
    Config,
    command_line,
    flags_of,
    flat_settings,
    meanings,
    with_settings,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    units: int = setting(4, "How wide.", check=check_positive)
    sizes: tuple[int, ...] = setting((1, 2), "How large.", check=each(check_positive))
    kind: str = setting("a", "Which.", choices=("a", "bee"))
    least: float | None = setting(None, "At least.", check=check_positive)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Checks itself, as a class of `bigmodels.data` does."""

    rate: float = setting(0.5, "How often.", check=check_share)

    def __post_init__(self):
        check_settings(self)


@dataclasses.dataclass(frozen=True)
class Own(Config):
    """Overrides a default, and adds a part."""

    epochs: int = 3
    inner: Inner = Inner()
    checked: Checked = Checked(rate=0.25)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inner.units", 0, "inner.units: 0, expected a positive number"),
        ("inner.sizes", "3,-1", "inner.sizes: -1, expected a positive number"),
        ("inner.kind", "be", "inner.kind: 'be' is not one of a, bee; did you mean bee"),
        ("inner.least", "-2", "inner.least: -2.0, expected a positive number"),
        # A part that checks itself knows only `rate`.
        ("checked.rate", "1", "checked.rate: 1.0, expected a share"),
        # What a subclass overrides is checked as before.
        ("epochs", "0", "epochs: 0, expected a positive number"),
        ("strategy", "mirored", "strategy: 'mirored' is not one of .* did you mean mirrored"),
        ("lr", "1", "no setting 'lr'; did you mean optimizer.learning_rate"),
        ("inner.unit", "1", "no setting 'inner.unit'; did you mean inner.units"),
    ],
)
def test_a_field_checks_its_values(name, value, message):
    with pytest.raises(ValueError, match=message):
        with_settings(Own(), {name: value})


def test_none_is_not_checked():
    assert with_settings(Own(), {"inner.least": "none"}).inner.least is None


def test_a_part_alone_is_checked_under_the_name_it_is_given():
    with pytest.raises(ValueError, match=r"model\.units: 0"):
        check_settings(Inner(units=0), "model.")


def test_what_a_field_says_outlives_another_default():
    assert fields(Own)["epochs"] == fields(Config)["epochs"]
    assert fields(Own())["epochs"]["check"] is check_positive


def test_a_setting_has_its_meaning_in_the_list():
    lines = meanings(Own())
    assert lines.keys() == flat_settings(Own()).keys()
    assert lines["inner.kind"] == "Which. One of a, bee."


@pytest.mark.parametrize("task", tasks.NAMES)
def test_every_setting_of_every_task_says_what_it_means(task):
    for name, (_, meaning) in listed(task).items():
        assert meaning.strip().endswith("."), name


def test_flags_are_settings():
    for command in ("train", "tune"):
        for name, _, about in flags_of(command).values():
            assert name in flat_settings(Config())
            assert about["topic"], name
    assert flags_of("train")["learning_rate"][0] == "optimizer.learning_rate"
    assert flags_of("train")["grace"][1] is float
    assert "grace" not in flags_of("tune")


def test_strategies_are_those_of_distribute():
    """They are named twice, as naming them must not import TensorFlow."""
    assert STRATEGIES == distribute.STRATEGIES


def test_defaults_may_depend_on_the_data_set():
    """And are those of the field where the kind of model is given, or the setting itself."""
    recipe = tasks.get("image_classification").config()
    cifar = with_settings(recipe, {"dataset": "cifar10"})
    assert (cifar.model.kind, cifar.optimizer.name) == ("residual", "sgd")
    assert with_settings(recipe, {"model.kind": "residual"}).mixing == cifar.mixing
    own = with_settings(recipe, {"dataset": "cifar10", "epochs": "3", "optimizer.momentum": 0.5})
    assert (own.epochs, own.optimizer.momentum, own.model.kind) == (3, 0.5, "residual")
    assert with_settings(recipe, {"dataset": "cifar10", "model.kind": "cnn"}) == (
        dataclasses.replace(recipe, dataset="cifar10")
    )
    assert with_settings(cifar, {"dataset": "digits"}).model.kind == "residual"


def test_the_modern_recipe_is_one_setting():
    """It chooses the kind, too; what is given stays, and an LSTM has no recipe."""
    recipe = tasks.get("text_generation").config()
    modern = with_settings(recipe, {"model.recipe": "modern"})
    assert (modern.model.kind, modern.model.position) == ("transformer", "rotary")
    assert (modern.data.length, modern.batch_size) == (256, 8)
    own = with_settings(recipe, {"model.recipe": "modern", "model.position": "sinusoidal"})
    assert own.model == dataclasses.replace(modern.model, position="sinusoidal")
    with pytest.raises(ValueError, match=r"there is no setting 'model\.recipe'"):
        with_settings(recipe, {"model.kind": "rnn", "model.recipe": "modern"})


@pytest.mark.parametrize(
    "given",
    [
        {"model.recipe": "modern"},
        {"model.recipe": "modern", "optimizer.name": "adamw", "model.num_layers": 2},
        {"model.kind": "transformer", "model.position": "rotary"},
        {"model.kind": "rnn", "dataset": "tiny_shakespeare"},
    ],
)
def test_the_command_repeats_a_run_of_a_recipe(given):
    task = tasks.get("text_generation")
    config = with_settings(task.config(), given)
    words = shlex.split(command_line(task, config))[3:]
    pairs = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
    assert with_settings(task.config(), pairs) == config
    assert len(pairs) <= len(given) + 1


@pytest.mark.parametrize("kind", [None, "cnn", "residual", "backbone"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_the_command_repeats_a_run_whose_defaults_depend_on_its_data(dataset, kind):
    task = tasks.get("image_classification")
    given = {"dataset": dataset, "epochs": 3} | ({"model.kind": kind} if kind else {})
    config = with_settings(task.config(), given)
    words = shlex.split(command_line(task, config))[3:]
    pairs = [word.removeprefix("--").split("=") for word in words if "=" in word]
    assert with_settings(task.config(), dict(pairs)) == config
    assert len(pairs) <= 3
