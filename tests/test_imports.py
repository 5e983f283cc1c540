"""Naming things must not cost TensorFlow."""

import subprocess
import sys

import pytest

COMMANDS = ("train", "evaluate", "predict")


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
        "atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr));"
        f"sys.argv = ['bigmodels-{command}', '--help'];"
        f"importlib.import_module('bigmodels.cli.{command}').run()"
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "False"
    assert "--workdir" in done.stdout and f"bigmodels-{command}" in done.stdout


def test_public_names():
    import bigmodels

    for name in bigmodels.__all__:
        assert getattr(bigmodels, name) is not None
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = bigmodels.nothing_here
    assert bigmodels.Model is bigmodels.distribute.Model
    for module in ("train", "evaluate", "predict"):
        assert callable(getattr(getattr(bigmodels, module), module))
