"""What was known of a series before each of its rows: how the gaps of a window are filled in."""

import copy

import numpy as np
import tensorflow as tf


class Known:
    """A series with gaps, as it was known at each time.

    A gap is filled in from both of its sides once the second is known. At the end of a window it is
    not: there the last measured value is repeated. So a window knows nothing of what comes after
    it, in training, in testing and in prediction alike.

    Args:
        values: `(rows, variables)`, NaN where nothing was measured. Each variable has a value.
        fill: `linear` draws a line between the neighbours of a gap, `previous` repeats the value
            before it. Before its first value, a variable has that one.

    Attributes:
        values: As given.
        measured: bool `(rows, variables)`.
        complete: Whether nothing is missing.
        first: The first row before which each variable was measured at least once.
    """

    def __init__(self, values, fill):
        self.values = self._filled = values
        self.measured = ~np.isnan(values)
        self.complete = bool(self.measured.all())
        self.first = int(self.measured.argmax(0).max()) + 1
        if self.complete:
            return
        rows = np.arange(len(values))
        # The row of the last measured value at or before each row; -1 where there is none yet.
        self._newest = np.maximum.accumulate(np.where(self.measured, rows[:, None], -1))
        places = np.maximum(self._newest, self.measured.argmax(0))
        self._filled = self._held = np.take_along_axis(values, places, axis=0)
        if fill == "linear":
            columns = zip(values.T, self.measured.T, strict=True)
            lines = [np.interp(rows, rows[known], column[known]) for column, known in columns]
            self._filled = np.stack(lines, axis=1)

    def windows(self, ends, length):
        """The rows before some others, filled in from what was known there.

        Args:
            ends: Row numbers, `(n,)`, each at least `length` and `first`.
            length: How many rows.

        Returns:
            `(n, length, variables)`.
        """
        rows = ends[:, None] + np.arange(-length, 0)
        filled = self._take(self._filled, rows)  # (n, length, variables)
        if self.complete:
            return filled
        newest, held = (self._take(each, ends - 1)[:, None] for each in (self._newest, self._held))
        return self._where(rows[:, :, None] > newest, held, filled)

    def targets(self, starts, horizon):
        """The rows from some on, `(n, horizon, variables)`, NaN where nothing was measured."""
        return self._take(self.values, starts[:, None] + np.arange(horizon))

    def counts(self, starts, horizon):
        """How many values were measured in the rows from some on, `(n, variables)`."""
        before = np.zeros((len(self.measured) + 1, self.measured.shape[1]), "int64")
        np.cumsum(self.measured, axis=0, out=before[1:])
        return before[starts + horizon] - before[starts]

    def as_tensors(self):
        """The same in float32, for row numbers that are tensors."""
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
