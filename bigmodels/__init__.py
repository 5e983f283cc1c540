"""The article's four big models, corrected, with tools to train, evaluate and use them.

Submodules are imported on first use, so that `import bigmodels` and `--help` do not import
TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_FUNCTIONS = {
    "train": "commands.train",
    "evaluate": "commands.evaluate",
    "predict": "commands.predict",
    "tune": "tuning.tune",
    "export": "commands.export",
    "compare": "reports.compare",
}
_MODULES = {
    "callbacks": "callbacks",
    "data": "data",
    "distribute": "distribute",
    "forecasts": "evaluation.forecasts",
    "intervals": "evaluation.intervals",
    "layers": "layers",
    "losses": "losses",
    "models": "models",
    "optimizers": "optimizers",
    "plots": "reports.plots",
    "tasks": "tasks",
    "tokenizers": "tokenizers",
}

__all__ = ["Model", "__version__", *_FUNCTIONS, *_MODULES]


def __getattr__(name):
    if name == "Model":
        return importlib.import_module("bigmodels.distribute").Model
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"bigmodels.{_FUNCTIONS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"bigmodels.{_MODULES[name]}")
    raise AttributeError(f"module 'bigmodels' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
