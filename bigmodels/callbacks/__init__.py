"""Callbacks that save a training run, resume it, and stop it at NaN or infinity."""

from bigmodels.callbacks.backup_and_restore import BackupAndRestore
from bigmodels.callbacks.finite_values import FiniteValues

__all__ = ["BackupAndRestore", "FiniteValues"]


def __dir__():
    return __all__
