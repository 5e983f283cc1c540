"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import inspect
import pkgutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodels

# What an example may use without an import.
_NAMES = {"bigmodels": bigmodels, "keras": keras, "np": np, "tf": tf}
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def _modules():
    # A command's module defines flags, which only one of them can.
    found = pkgutil.walk_packages(bigmodels.__path__, "bigmodels.")
    return sorted(m.name for m in found if not m.name.startswith("bigmodels.cli"))


def _examples(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = finder.find(module, name, globs=vars(module) | _NAMES)
    return [test for test in tests if test.examples]


def _marked():
    """The models' examples are run by default, those of all other rooms by the thorough tests."""
    for name in _modules():
        marks = [] if name.startswith("bigmodels.models") else [pytest.mark.thorough]
        if name != "bigmodels.__main__":
            yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", _marked())
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(verbose=False, optionflags=_FLAGS)
    said = []
    for test in _examples(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


def _public():
    """What users import: the members of the package's public modules that are defined here."""
    for module_name in bigmodels.__all__:
        module = getattr(bigmodels, module_name)
        if callable(module):
            yield module_name, module
        elif inspect.ismodule(module):
            names = getattr(module, "__all__", None) or [
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            ]
            for name in names:
                if callable(value := getattr(module, name)):
                    yield f"{module_name}.{name}", value


def test_everything_public_has_an_example():
    without = [name for name, value in _public() if ">>>" not in (inspect.getdoc(value) or "")]
    assert without == []
