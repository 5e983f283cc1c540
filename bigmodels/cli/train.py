"""bigmodels-train: train a task, evaluate it on held-out data, and write a report.

    bigmodels-train --task=image_classification --workdir=runs/digits
    bigmodels-train --task=text_generation --dataset=tiny_shakespeare --data_dir=DIR \\
        --workdir=runs/lstm --epochs=12 --set model.rnn_units=512

Run again, it continues an unfinished run. At the end it prints a table on a terminal; in a pipe, or
with --json, it prints the result as one line of JSON.
"""

import os
import time

from absl import flags

from bigmodels import tasks
from bigmodels.cli import command

# Before TensorFlow is imported, which takes seconds.
_STARTED = time.monotonic()

flags.DEFINE_string("workdir", None, "Directory of the run.")
flags.DEFINE_list(
    "workers",
    [],
    "host:port of every worker, the chief first, if neither TF_CONFIG nor Slurm names them.",
)
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, any setting of the task, for example model.dense_units=256."
)
flags.DEFINE_string(
    "profile",
    None,
    "START:STOP, the steps to record for TensorBoard's profiler, counted from 1.",
)
flags.DEFINE_bool(
    "dry_run",
    False,
    "Only estimate what the training would take: parameters, arithmetic, memory and time; with "
    "--budget what it would choose.",
)
flags.DEFINE_list(
    "predict_from",
    [],
    "With --dry_run: directories of four or more finished runs of other sizes on the same data, "
    "whose scaling law predicts the final validation loss.",
)
flags.DEFINE_bool(
    "list", False, "List all tasks, data sets and models; with --task all settings of the task."
)

_TOPICS = command.define_settings(
    "train",
    {
        "General": ("task", "workdir", "set", "list"),
        "Data": (),
        "Training": (),
        "Stopping and resuming": (),
        "Speed": ("dry_run", "predict_from", "profile"),
        "Devices and machines": ("devices", "workers", "worker"),
    },
)


def main(write: command.Output) -> None:
    """Train the task given by the flags."""
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
        predict_from=given.predict_from,
        started=_STARTED,
    )
    if result is not None:  # Only on the chief.
        write.result(result, lambda: _summary(result, given.workdir, given.dry_run))


def _summary(result, workdir, dry_run):
    from bigmodels.reports import pages, report

    if dry_run:
        lines = {pages.words(k): v for k, v in result.items() if k != "chosen"}
        lines |= result.get("chosen", {}).get("settings", {})
        return "\n".join(pages.aligned([[k, pages.plain(v)] for k, v in lines.items()]))
    task = tasks.get(result["task"])
    next_command = command.next_command("predict", f"--workdir={workdir}", *task.predict_flags)
    lines = {"Report:": os.path.join(workdir, "report.html"), "Next:": next_command}
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


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
