"""Optimizers and learning rate schedules that Keras lacks."""

from bigmodels.optimizers.multipliers import SGD, Adam, AdamW
from bigmodels.optimizers.muon import Muon
from bigmodels.optimizers.warmup_stable_decay import WarmupStableDecay

__all__ = ["SGD", "Adam", "AdamW", "Muon", "WarmupStableDecay"]


def __dir__():
    return __all__
