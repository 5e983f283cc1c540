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

flags.DEFINE_string("task", None, f"What to train: {', '.join(tasks.NAMES)}.")
flags.DEFINE_string("workdir", None, "The run's directory.")
flags.DEFINE_string(
    "dataset",
    None,
    "A TFDS name, or your own files (--list names the kinds); the embedded set by default.",
)
flags.DEFINE_string("data_dir", None, "Where TFDS finds prepared sets, else TFDS_DATA_DIR.")
flags.DEFINE_integer("epochs", None, "Passes over the training data; the task's by default.")
flags.DEFINE_integer("batch_size", None, "The global batch; the task's by default.")
flags.DEFINE_float("learning_rate", None, "The highest learning rate; the task's by default.")
flags.DEFINE_integer("seed", None, "Behind everything random; 0 by default.")
flags.DEFINE_string(
    "strategy", None, "auto, one_device, mirrored, multi_worker or tpu; auto by default."
)
flags.DEFINE_list(
    "workers", [], "host:port of every worker, chief first, where TF_CONFIG or Slurm name none."
)
flags.DEFINE_integer("worker", None, "Which of --workers this process is, from 0.")
flags.DEFINE_string(
    "precision", None, "float32, mixed_bfloat16, mixed_float16 or auto; float32 by default."
)
flags.DEFINE_string("jit_compile", None, "auto, true or false; auto by default.")
flags.DEFINE_bool(
    "deterministic", None, "The same bits each time on a GPU too, where it costs speed."
)
flags.DEFINE_integer(
    "devices", None, "Logical CPU devices to make, to try mirrored.", lower_bound=1
)
flags.DEFINE_string("init_from", None, "A run whose weights to start from.")
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, any setting of the task, for example model.dense_units=256."
)

flags.DEFINE_integer(
    "save_freq", None, "Steps between checkpoints, beside those at the ends of epochs."
)
flags.DEFINE_float(
    "grace",
    None,
    "Seconds from SIGTERM or Ctrl-C after which the process ends without a new checkpoint, should "
    "the step at hand take longer; it waits by default.",
)
flags.DEFINE_bool(
    "skip_bad_batches",
    None,
    "Leave out batches whose loss or gradients are NaN or infinite, which else end the training.",
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
    "list", False, "Show all tasks, data sets and models; with --task that task's settings."
)

_CONFIG_FLAGS = (
    "dataset",
    "data_dir",
    "epochs",
    "batch_size",
    "seed",
    "strategy",
    "precision",
    "jit_compile",
    "deterministic",
    "init_from",
    "save_freq",
    "grace",
    "skip_bad_batches",
)

_TOPICS = {
    "What": ("task", "workdir", "init_from", "set", "list"),
    "Data": ("dataset", "data_dir", "batch_size"),
    "Training": (
        "epochs",
        "learning_rate",
        "seed",
        "precision",
        "jit_compile",
        "deterministic",
        "skip_bad_batches",
    ),
    "Stopping and going on": ("save_freq", "grace"),
    "Speed": ("dry_run", "profile"),
    "Devices and machines": ("strategy", "devices", "workers", "worker"),
}


def main(write):
    """Train as the flags say."""
    given = flags.FLAGS
    if given.list:
        write(_listing(given.task, command.settings(given.set)))
        return
    values = command.training_settings(_CONFIG_FLAGS)
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
        lines = [f"Settings of {task}, for --set NAME=VALUE:"]
        for name, value in settings(task, chosen).items():
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            lines.append(f"  {name}={shown}")
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
