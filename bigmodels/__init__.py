"""The article's four big models, corrected, with one way to train, evaluate and use them.

Everything is loaded when first used, so importing the package (or asking a command for
``--help``) does not import TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "callbacks",
    "checkpoint",
    "checks",
    "compare",
    "data",
    "distribute",
    "evaluate",
    "export",
    "intervals",
    "layers",
    "losses",
    "models",
    "pages",
    "plots",
    "predict",
    "report",
    "tasks",
    "train",
    "tune",
)

__all__ = ["Model", "__version__", *_MODULES]


def __getattr__(name):
    if name == "Model":
        return importlib.import_module("bigmodels.distribute").Model
    if name in _MODULES:
        return importlib.import_module(f"bigmodels.{name}")
    raise AttributeError(f"module 'bigmodels' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
