"""Naming things must not cost TensorFlow."""

import pathlib
import re
import subprocess
import sys

import pytest

from bigmodels import cli

COMMANDS = sorted(
    path.stem
    for path in pathlib.Path(cli.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "command", "main")
)


def _python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_importing_the_package_does_not_import_tensorflow():
    done = _python(
        "import sys, bigmodels, bigmodels.tasks; dir(bigmodels); bigmodels.tasks.NAMES;"
        "print([m for m in ('tensorflow', 'keras', 'numpy', 'tensorflow_datasets')"
        " if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_tensorflow(command):
    done = _python(
        "import sys, importlib, atexit;"
        "from absl import flags;"
        "own = lambda: [flag.name for module, found in"
        " flags.FLAGS.flags_by_module_dict().items() if 'bigmodels' in module for flag in found];"
        "atexit.register(lambda: print('tensorflow' in sys.modules, *own(), file=sys.stderr));"
        f"sys.argv = ['bigmodels-{command}', '--help'];"
        f"importlib.import_module('bigmodels.cli.{command}').run()"
    )
    assert done.returncode == 0
    loaded, *defined = done.stderr.split()
    assert loaded == "False"
    assert f"bigmodels-{command}" in done.stdout
    # Every flag of the command stands under a topic.
    listed = re.findall(r"^  --(\w+)", done.stdout, re.MULTILINE)
    assert defined and sorted(listed) == sorted([*defined, "verbosity"])


@pytest.mark.thorough
def test_models_bring_what_their_files_name():
    """A model that was trained is loaded by its class and its loss."""
    done = _python(
        "import keras, bigmodels.models;"
        "print(keras.saving.get_registered_object('bigmodels>SparseCategoricalCrossentropy'))"
    )
    assert "bigmodels.losses" in done.stdout, done.stderr


def test_public_names():
    import bigmodels

    for name in bigmodels.__all__:
        assert getattr(bigmodels, name) is not None
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = bigmodels.nothing_here
    assert bigmodels.Model is bigmodels.distribute.Model
    for function in ("train", "evaluate", "predict", "tune", "export", "compare"):
        assert callable(getattr(bigmodels, function))
