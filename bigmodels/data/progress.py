"""Progress of what takes longer than a few seconds."""

import sys
import time
from typing import Self

from tqdm import tqdm

# Seconds until progress is shown, and between two lines where stderr is no terminal.
_DELAY, _INTERVAL = 2.0, 10.0


class Progress:
    """Shows progress on stderr: a bar on a terminal, elsewhere a line every ten seconds.

    Nothing is shown for what is done within two seconds.

    Args:
        what: What is being done, for example `"text: encoding"`.
        total: Number of units in total; `None` if it is not known.
        unit: The unit, for example `"B"` for bytes.

    Example:

    >>> with Progress("text: reading", 100) as progress:
    ...     progress.update(60)
    >>> progress.done
    60
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "B"):
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._said = time.monotonic()
        # tqdm is silent where there is no terminal.
        self._bar = tqdm(
            total=total,
            desc=what,
            unit=unit,
            unit_scale=True,
            delay=_DELAY,
            leave=False,
            disable=None,
            file=sys.stderr,
        )

    def update(self, count: int) -> None:
        """Count units that are done.

        Args:
            count: Number of units since the last call.
        """
        self.done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said > _INTERVAL:
            self._said = time.monotonic()
            of = "" if self.total is None else f" of {self._written(self.total)}"
            print(f"{self.what}: {self._written(self.done)}{of}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def _written(self, count):
        return f"{count if count < 1000 else tqdm.format_sizeof(count)}{self.unit}"
