"""What a reader tells the user about data: what was left out, and how the rest was understood."""

import sys

# How many of what was left out are named in a line.
_NAMED = 3


class Notes:
    """One line for everything that is left out, or could have been read in another way.

    Each line is printed on stderr when it is noted; a run's report and `result.json` repeat it. A
    loader makes one, hands it to its readers and keeps it in `notes` of what it returns.

    Attributes:
        lines: The lines, a list of strings, each once.
        left_out: `{what: count}` of everything that was left out.
    """

    def __init__(self):
        self.lines, self.left_out = [], {}

    def say(self, line):
        """Note how something was understood.

        Args:
            line: One sentence that begins with the argument: `"csv: column 'id' is not used."`.
        """
        if line not in self.lines:
            self.lines.append(line)
            print(line, file=sys.stderr)

    def leave_out(self, argument, what, items):
        """Note what was left out: how many, and the first of them.

        Args:
            argument: How the user calls the source, for example `"images"`.
            what: What the items are, a plural: `"files that cannot be read"`.
            items: `{name: reason}`, or names whose reason `what` gives already. None is no line.
        """
        if not items:
            return
        reasons = items if isinstance(items, dict) else dict.fromkeys(items, "")
        named = [
            f"{_quoted(name)} {reason}".rstrip() for name, reason in [*reasons.items()][:_NAMED]
        ]
        more = f", and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
        self.left_out[what] = self.left_out.get(what, 0) + len(items)
        # `what` is a plural, which "1" does not go with.
        counted = f"{len(items):,} {what}" if len(items) > 1 else f"{what} (1)"
        self.say(f"{argument}: left out {counted}: {'; '.join(named)}{more}.")


def noted(data):
    """What was noted of loaded data, as `result.json` holds it: `left_out` and `notes`."""
    return {"left_out": dict(data.notes.left_out), "notes": list(data.notes.lines)}


def _quoted(name):
    # A path may hold line breaks, and bytes that are not UTF-8.
    return str(name) if isinstance(name, int) else repr(str(name))
