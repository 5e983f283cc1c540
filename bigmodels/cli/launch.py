"""bigmodels-launch: start several workers of a training on this machine.

    bigmodels-launch --workers=2 -- bigmodels-train --task=image_classification --workdir=runs/two
    bigmodels-launch --workers=2 --devices=2 -- bigmodels-train --task=... --workdir=...

TF_CONFIG is set for every worker. The chief's stdout is forwarded; all other output goes to stderr,
with the worker's number in front. The exit status is that of the first worker to fail.
"""

import os
import sys
from collections.abc import Callable

from absl import flags

from bigmodels.cli import command

flags.DEFINE_integer("workers", 2, "Number of worker processes.", lower_bound=1)
flags.DEFINE_integer(
    "devices",
    None,
    "Number of logical CPU devices of each worker; passed on to the command.",
    lower_bound=1,
)
flags.DEFINE_float(
    "join_timeout", 180, "Seconds after which a worker that has not joined counts as lost.", 1
)

flags.DEFINE_integer(
    "max_restarts",
    0,
    "How often to restart all workers when one fails; they continue from the last checkpoint.",
    lower_bound=0,
)

_TOPICS = {
    "Workers": ("workers", "devices", "join_timeout", "max_restarts"),
}


def main(write: Callable[[str], None], rest: list[str]) -> None:
    """Launch the command after `--` with the flags before it."""
    from bigmodels.commands.launch import launch

    given = flags.FLAGS
    devices = [f"--devices={given.devices}"] if given.devices and rest else []
    os.environ[command.STARTED_AS] = command.as_typed()
    status = launch([*rest, *devices], given.workers, given.join_timeout, given.max_restarts)
    sys.exit(status)


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS, takes_command=True)


if __name__ == "__main__":
    run()
