"""Where a model trains: strategies by name, and the `Model` that is the same under each."""

from bigmodels.distribute.accelerator import compile_quickly
from bigmodels.distribute.finite import Watch
from bigmodels.distribute.global_batch import share
from bigmodels.distribute.model import Model
from bigmodels.distribute.recognition import row_by_row
from bigmodels.distribute.repeatable import new_seed
from bigmodels.distribute.replicas import (
    SharedSeedGenerator,
    all_gather,
    all_sum,
    of_batch,
    workers,
)
from bigmodels.distribute.resume import Resumable, get_state, set_state, training_state
from bigmodels.distribute.strategies import (
    STRATEGIES,
    bytes_from_chief,
    deterministic,
    from_any_worker,
    from_chief,
    is_chief,
    make_cpu_devices,
    members,
    resolve,
    strategy,
    writes,
)
from bigmodels.distribute.variables import dtype_of, named_variables

__all__ = [
    "STRATEGIES",
    "Model",
    "Resumable",
    "SharedSeedGenerator",
    "Watch",
    "all_gather",
    "all_sum",
    "bytes_from_chief",
    "deterministic",
    "dtype_of",
    "from_any_worker",
    "from_chief",
    "get_state",
    "is_chief",
    "make_cpu_devices",
    "members",
    "named_variables",
    "new_seed",
    "of_batch",
    "resolve",
    "row_by_row",
    "set_state",
    "share",
    "strategy",
    "training_state",
    "workers",
    "writes",
]

compile_quickly()
