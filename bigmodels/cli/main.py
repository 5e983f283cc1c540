"""bigmodels: all commands under one name.

    bigmodels train --task=image_classification --workdir=runs/digits
    bigmodels train --help

`python -m bigmodels train ...` does the same, and so does the program `bigmodels-train`.
"""

import sys

from bigmodels import __version__
from bigmodels.cli import command
from bigmodels.messages import did_you_mean

# The first line of each module. They define the same flags, so only one can be imported.
COMMANDS = {
    "train": "train a task, measure it on held-out data, write a report.",
    "evaluate": "measure a trained run again, on its own data or another set.",
    "predict": "use a trained run.",
    "tune": "search a task's settings for those that do best on validation data.",
    "export": "write a trained run for TensorFlow Serving, ONNX Runtime or LiteRT.",
    "compare": "put runs of one task side by side.",
    "launch": "start several workers of one training on this machine.",
}


def run():
    """The console script."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        command.run_subcommand("bigmodels", name)
    elif name in ("-h", "--help", "help"):
        lines = (f"  {name:<10}{line}" for name, line in COMMANDS.items())
        print("\n".join([__doc__.rstrip(), "", "Commands:", *lines]))
    elif name == "--version":
        print(__version__)
    else:
        hint = did_you_mean(name, COMMANDS)
        command.fail("bigmodels", f"{name!r} is not one of {', '.join(COMMANDS)}{hint}")
