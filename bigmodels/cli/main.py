"""bigmodels: all commands under one name.

    bigmodels train --task=image_classification --workdir=runs/digits
    bigmodels train --help

`python -m bigmodels train ...` and `bigmodels-train ...` do the same.
"""

import sys

from bigmodels import __version__
from bigmodels.cli import command
from bigmodels.messages import did_you_mean

# The first line of each module. They cannot all be imported, as they define the same flags.
COMMANDS = {
    "train": "train a task, evaluate it on held-out data, and write a report.",
    "evaluate": "evaluate a trained run again, on its own or another data set.",
    "predict": "predict with a trained run.",
    "tune": "search the settings of a task for the best validation score.",
    "export": "export a trained run for TensorFlow Serving, ONNX Runtime or LiteRT.",
    "compare": "compare runs of one task.",
    "launch": "start several workers of a training on this machine.",
}


def run() -> None:
    """Run the console script `bigmodels`."""
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
