"""bigmodels-launch: start several workers of one training on this machine.

    bigmodels-launch --workers=2 -- bigmodels-train --task=image_classification --workdir=runs/two
    bigmodels-launch --workers=2 --devices=2 -- bigmodels-train --task=... --workdir=...

Every worker is told by TF_CONFIG who they all are. The chief's stdout is passed on, all else goes
to stderr with the worker's number in front. The exit status is that of the first worker to fail.
"""

import os
import sys

from absl import flags

from bigmodels.cli import command

flags.DEFINE_integer("workers", 2, "How many worker processes.", lower_bound=1)
flags.DEFINE_integer(
    "devices", None, "Logical CPU devices of each worker; passed on to the command.", lower_bound=1
)
flags.DEFINE_float(
    "join_timeout", 180, "Seconds after which a worker that has not joined is given up.", 1
)

flags.DEFINE_integer(
    "max_restarts",
    0,
    "How often all workers are started again when one fails; they go on from the last checkpoint.",
    lower_bound=0,
)

_TOPICS = {
    "Workers": ("workers", "devices", "join_timeout", "max_restarts"),
}


def main(write, rest):
    """Launch as the flags say."""
    from bigmodels.commands.launch import launch

    given = flags.FLAGS
    devices = [f"--devices={given.devices}"] if given.devices and rest else []
    os.environ[command.STARTED_AS] = command.as_typed()
    status = launch([*rest, *devices], given.workers, given.join_timeout, given.max_restarts)
    sys.exit(status)


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS, takes_command=True)


if __name__ == "__main__":
    run()
