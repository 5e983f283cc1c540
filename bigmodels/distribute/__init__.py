"""Distribution strategies by name, and a `Model` that trains to the same weights under each."""

from bigmodels.distribute.accelerator import compile_quickly
from bigmodels.distribute.global_batch import share
from bigmodels.distribute.model import Model
from bigmodels.distribute.recognition import row_by_row
from bigmodels.distribute.replicas import (
    SharedSeedGenerator,
    all_gather,
    all_sum,
    of_batch,
    workers,
)
from bigmodels.distribute.strategies import (
    STRATEGIES,
    deterministic,
    is_chief,
    make_cpu_devices,
    resolve,
    strategy,
)

__all__ = [
    "STRATEGIES",
    "Model",
    "SharedSeedGenerator",
    "all_gather",
    "all_sum",
    "deterministic",
    "is_chief",
    "make_cpu_devices",
    "of_batch",
    "resolve",
    "row_by_row",
    "share",
    "strategy",
    "workers",
]

compile_quickly()


def __dir__():
    return __all__
