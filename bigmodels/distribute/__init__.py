"""Where a model trains: strategies by name, and the `Model` that is the same under each."""

from bigmodels.distribute.exact import share
from bigmodels.distribute.model import Model
from bigmodels.distribute.replicas import SharedSeedGenerator, all_sum, of_batch
from bigmodels.distribute.strategies import (
    STRATEGIES,
    from_chief,
    is_chief,
    make_cpu_devices,
    members,
    resolve,
    strategy,
    writes,
)

__all__ = [
    "STRATEGIES",
    "Model",
    "SharedSeedGenerator",
    "all_sum",
    "from_chief",
    "is_chief",
    "make_cpu_devices",
    "members",
    "of_batch",
    "resolve",
    "share",
    "strategy",
    "writes",
]
