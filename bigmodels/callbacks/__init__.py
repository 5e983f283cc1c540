"""What happens beside a training: it is kept safe, watched, written down, and shown."""

from bigmodels.callbacks.backup_and_restore import BackupAndRestore
from bigmodels.callbacks.finite_values import FiniteValues
from bigmodels.callbacks.run import Keeper, Profile, Progress, TensorBoardLog

__all__ = ["BackupAndRestore", "FiniteValues", "Keeper", "Profile", "Progress", "TensorBoardLog"]
