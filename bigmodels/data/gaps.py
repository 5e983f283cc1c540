"""Fill in the missing values of windows, using only what was known at the end of each window."""

import copy
from typing import Self

import numpy as np
import tensorflow as tf


class Known:
    """A series with gaps, as it was known at each time.

    A gap inside a window is filled in from both sides. For a gap that reaches the end of the
    window, the last measured value is repeated, since the next one was not known then. A window
    thus never depends on later values, neither in training nor in testing and prediction.

    Args:
        values: Floats `(rows, variables)`, NaN for missing values. Each variable needs at least one
            value.
        fill: `linear` interpolates between the neighbours of a gap, `previous` repeats the value
            before it. Rows before the first value of a variable get that value.

    Attributes:
        values: As given.
        measured: bool `(rows, variables)`.
        complete: Whether no value is missing.
        first: The first row before which each variable was measured at least once.

    Example:

    >>> known = Known(np.array([[1.0], [np.nan], [3.0], [np.nan], [5.0]]), "linear")
    >>> known.windows(np.array([3, 4]), 3)[..., 0].tolist()  # The second one ends in the gap.
    [[1.0, 2.0, 3.0], [2.0, 3.0, 3.0]]
    """

    def __init__(self, values: np.ndarray, fill: str):
        self.values = self._filled = values
        self.measured = ~np.isnan(values)
        self.complete = bool(self.measured.all())
        self.first = int(self.measured.argmax(0).max()) + 1
        if self.complete:
            return
        rows = np.arange(len(values))
        # The row of the last measured value at or before each row; -1 where there is none yet.
        self._newest = np.maximum.accumulate(np.where(self.measured, rows[:, None], -1))
        sources = np.maximum(self._newest, self.measured.argmax(0))
        self._filled = self._held = np.take_along_axis(values, sources, axis=0)
        if fill == "linear":
            columns = zip(values.T, self.measured.T, strict=True)
            lines = [np.interp(rows, rows[known], column[known]) for column, known in columns]
            self._filled = np.stack(lines, axis=1)

    def windows(self, ends: np.ndarray | tf.Tensor, length: int) -> np.ndarray | tf.Tensor:
        """Return windows, filled in from what was known at their end.

        Args:
            ends: Row after each window, integers `(n,)`, each at least `length` and `first`.
            length: Rows of a window.

        Returns:
            `(n, length, variables)`.
        """
        rows = ends[:, None] + np.arange(-length, 0)
        filled = self._take(self._filled, rows)  # (n, length, variables)
        if self.complete:
            return filled
        newest = self._take(self._newest, ends - 1)[:, None]
        held = self._take(self._held, ends - 1)[:, None]
        return self._where(rows[:, :, None] > newest, held, filled)

    def targets(self, starts: np.ndarray | tf.Tensor, horizon: int) -> np.ndarray | tf.Tensor:
        """Return `horizon` rows from each of `starts` on, not filled in.

        Args:
            starts: First row of each target, integers `(n,)`.
            horizon: Rows of a target.

        Returns:
            `(n, horizon, variables)`, NaN for missing values.
        """
        return self._take(self.values, starts[:, None] + np.arange(horizon))

    def counts(self, starts: np.ndarray, horizon: int) -> np.ndarray:
        """Count the measured values of targets.

        Args:
            starts: First row of each target, integers `(n,)`.
            horizon: Rows of a target.

        Returns:
            int64 `(n, variables)`.
        """
        before = np.zeros((len(self.measured) + 1, self.measured.shape[1]), "int64")
        np.cumsum(self.measured, axis=0, out=before[1:])
        return before[starts + horizon] - before[starts]

    def as_tensors(self) -> Self:
        """Return a float32 copy whose `windows` and `targets` take row numbers as tensors."""
        other = copy.copy(self)
        for name in ("values", "_filled", "_held", "_newest"):
            if hasattr(self, name):
                array = getattr(self, name)
                dtype = "int64" if name == "_newest" else "float32"
                setattr(other, name, tf.constant(array, dtype))
        other._take, other._where = tf.gather, tf.where
        return other

    _where = staticmethod(np.where)

    @staticmethod
    def _take(values, rows):
        return values[rows]
