"""A learning rate that rises, stays, and falls."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate schedule: linear warm-up, constant, linear decay (a trapezoid).

    After Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations"
    (2024). Without a stable part it is the triangle of "one cycle" training.

    Args:
        learning_rate: Largest learning rate.
        steps: Number of training steps.
        warmup_steps: Steps from 0 to the largest learning rate.
        decay_steps: Steps from there to `final_rate`, at the end.
        final_rate: Last learning rate, as a fraction of the largest.

    Raises:
        ValueError: if warm-up and decay together are longer than the training.

    Example:

    >>> rate = bigmodels.optimizers.WarmupStableDecay(1.0, 10, warmup_steps=2, decay_steps=4)
    >>> [round(float(rate(step)), 2) for step in range(11)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        warmup_steps: int = 0,
        decay_steps: int = 0,
        final_rate: float = 0.0,
    ):
        if warmup_steps + decay_steps > steps:
            raise ValueError(
                f"decay_steps: {decay_steps!r} and warmup_steps={warmup_steps!r}, expected at most "
                f"steps={steps!r} together"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.final_rate = final_rate

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = step / max(self.warmup_steps, 1) if self.warmup_steps else 1.0
        left = (self.steps - step) / max(self.decay_steps, 1)
        fall = self.final_rate + (1 - self.final_rate) * ops.clip(left, 0.0, 1.0)
        # Training that goes on after the last step keeps the last rate.
        return self.learning_rate * ops.minimum(ops.minimum(rise, 1.0), fall)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "final_rate": self.final_rate,
        }
