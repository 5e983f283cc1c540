"""bigmodels-train: train a task, measure it on held-out data, write a report.

    bigmodels-train --task=image_classification --workdir=runs/digits
    bigmodels-train --task=text_generation --dataset=tiny_shakespeare --data_dir=DIR \\
        --workdir=runs/lstm --epochs=12 --set model.rnn_units=512

Run again, it continues an unfinished run. It ends with a table on a terminal; in a pipe, or with
--json, with the result as one line of JSON.
"""

import os

from absl import flags

from bigmodels import tasks
from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "The run's directory.")
flags.DEFINE_list(
    "workers", [], "host:port of every worker, chief first, where TF_CONFIG or Slurm name none."
)
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, any setting of the task, for example model.dense_units=256."
)
flags.DEFINE_string(
    "profile",
    None,
    "START:STOP, the steps, counted from 1, that are recorded for TensorBoard's profile page.",
)
flags.DEFINE_bool(
    "dry_run",
    False,
    "Say what the training would take (parameters, arithmetic, memory, time), and do nothing.",
)
flags.DEFINE_bool(
    "list", False, "Show all tasks, data sets and models; with --task what each setting means."
)

_TOPICS = command.define_settings(
    "train",
    {
        "What": ("task", "workdir", "set", "list"),
        "Data": (),
        "Training": (),
        "Stopping and going on": (),
        "Speed": ("dry_run", "profile"),
        "Devices and machines": ("devices", "workers", "worker"),
    },
)


def main(write):
    """Train as the flags say."""
    given = flags.FLAGS
    if given.list:
        write(_listing(given.task, command.settings(given.set)))
        return
    values = command.training_settings("train")
    from bigmodels.commands.train import train

    result = train(
        given.task,
        given.workdir,
        values,
        workers=given.workers,
        worker=given.worker,
        profile=_steps(given.profile),
        dry_run=given.dry_run,
    )
    if result is not None:  # The chief's.
        write.result(result, lambda: _summary(result, given.workdir, given.dry_run))


def _summary(result, workdir, dry_run):
    from bigmodels.reports import pages, report

    if dry_run:
        return "\n".join(
            pages.aligned([[pages.words(k), pages.plain(v)] for k, v in result.items()])
        )
    task = tasks.get(result["task"])
    following = command.next_command("predict", f"--workdir={workdir}", *task.predict_flags)
    lines = {"Report:": os.path.join(workdir, "report.html"), "Next:": following}
    return "\n".join(["", report.summary(task, result), *pages.aligned(list(lines.items()))])


def _steps(profile):
    if profile is None:
        return None
    start, _, stop = profile.partition(":")
    if not (start.isdecimal() and stop.isdecimal()):
        raise ValueError(f"profile: {profile!r}, expected START:STOP, for example 20:30")
    return int(start), int(stop)


def _listing(task, chosen):
    from bigmodels.commands.catalogue import catalogue, settings

    if task:
        lines = [f"Settings of {task}, for --set NAME=VALUE:", ""]
        for name, (value, meaning) in settings(task, chosen).items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            lines += command.explained(f"  {name}={text}", meaning, 34)
        return "\n".join(lines)
    lines = []
    for kind, rows in catalogue().items():
        width = 2 + max(map(len, rows))
        lines += [f"{kind}:", *(f"  {name:<{width}}{line}" for name, line in rows.items()), ""]
    return "\n".join(lines) + "Settings of a task: bigmodels-train --list --task=TASK"


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
