"""Notes to the user about loaded data: what was left out, and how the rest was interpreted."""

import sys
from typing import Any

# How many of the items that were left out are named in a line.
_NAMED = 3


class Notes:
    """One line about everything that was left out or could have been interpreted differently.

    Each line is printed on stderr when it is added, and repeated in a run's report and
    `result.json`. A loader creates the object, passes it to its readers and returns it as
    `notes` of the loaded data.

    Attributes:
        lines: The distinct lines, a list of strings.
        left_out: `{what: count}` of everything that was left out.

    Example:

    >>> notes = Notes()
    >>> notes.say("csv: column 'id' is not used.")
    >>> notes.lines
    ["csv: column 'id' is not used."]
    """

    def __init__(self):
        self.lines, self.left_out = [], {}

    def say(self, line: str) -> None:
        """Add a line about how something was interpreted.

        Args:
            line: One sentence that begins with the argument: `"csv: column 'id' is not used."`.
        """
        if line not in self.lines:
            self.lines.append(line)
            print(line, file=sys.stderr)

    def leave_out(
        self, argument: str, what: str, items: dict | list, count: int | None = None
    ) -> None:
        """Add a line about items that were left out: their number, and the first of them.

        Args:
            argument: The argument or source that the items come from, for example `"images"`.
            what: What the items are, in the plural: `"files that cannot be read"`.
            items: `{name: reason}`, or a list of names if `what` says the reason. If it is empty,
                no line is added.
            count: Their number, if `items` are only the first of them.
        """
        if not items:
            return
        count = len(items) if count is None else count
        reasons = items if isinstance(items, dict) else dict.fromkeys(items, "")
        named = [
            f"{_quoted(name)} {reason}".rstrip() for name, reason in [*reasons.items()][:_NAMED]
        ]
        more = f", and {count - _NAMED:,} more" if count > _NAMED else ""
        self.left_out[what] = self.left_out.get(what, 0) + count
        # `what` is a plural, so "1" cannot come before it.
        counted = f"{count:,} {what}" if count > 1 else f"{what} (1)"
        self.say(f"{argument}: left out {counted}: {'; '.join(named)}{more}.")


def noted(data: Any) -> dict[str, Any]:
    """Return the notes of loaded data as they are saved in `result.json`.

    Args:
        data: Loaded data with an attribute `notes`, for example an `ImageData`.

    Returns:
        A dict with the keys `left_out` and `notes`.

    Example:

    >>> noted(bigmodels.data.load_images("digits"))
    {'left_out': {}, 'notes': []}
    """
    return {"left_out": dict(data.notes.left_out), "notes": list(data.notes.lines)}


def _quoted(name):
    # A path may hold line breaks, and bytes that are not UTF-8.
    return str(name) if isinstance(name, int) else repr(str(name))
