import subprocess
import sys

import pytest

from bigmodels import tasks
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings

TASK = tasks.get("image_classification")


@pytest.fixture
def run(tmp_path):
    """A run of two epochs."""
    run = RunDirectory(tmp_path / "run")
    run.create(TASK, with_settings(TASK.config(), {"epochs": 2, "model.filters": "4,8"}))
    return run


def _refusal(run, **settings):
    settings = {"epochs": 2, "model.filters": "4,8"} | settings
    with pytest.raises(ValueError) as error:
        run.check(TASK, with_settings(TASK.config(), settings))
    return str(error.value)


def test_more_epochs_of_a_finished_run_are_answered_with_the_command(run):
    run.write_text("result.json", "{}")
    assert _refusal(run, epochs=5, save_freq=3) == (
        f"workdir: '{run.path}' holds a run with epochs=2, not 5; choose another workdir, or train "
        "on from its weights with bigmodels-train --task=image_classification --workdir=DIR "
        f"--epochs=3 --save_freq=3 --init_from={run.path} --set model.filters=4,8"
    )


@pytest.mark.parametrize(
    ("finished", "settings"),
    [
        (False, {"epochs": 5}),  # The same command continues.
        (True, {"epochs": 1}),
        (True, {"seed": 3}),
        (True, {"epochs": 5, "seed": 3}),
    ],
)
def test_other_settings_are_another_run(run, finished, settings):
    if finished:
        run.write_text("result.json", "{}")
    assert _refusal(run, **settings).endswith("; choose another workdir")


@pytest.mark.thorough
def test_reading_a_model_knows_every_class_that_a_model_file_may_name():
    """In a process that has not trained: a schedule or an optimizer of ours is in the file too."""
    code = """
import importlib, pkgutil, keras, bigmodels, bigmodels.runs.directory
known = set(keras.saving.get_custom_objects())
for module in pkgutil.walk_packages(bigmodels.__path__, "bigmodels."):
    if "__main__" not in module.name and ".cli" not in module.name:  # Their flags exist once.
        importlib.import_module(module.name)
new = set(keras.saving.get_custom_objects()) - known
print(sorted(name for name in new if name.startswith("bigmodels>")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
