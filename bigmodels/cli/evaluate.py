"""bigmodels-evaluate: evaluate a trained run again, on its own or another data set.

    bigmodels-evaluate --workdir=runs/digits

It prints a table on a terminal; in a pipe, or with --json, it prints the result as one line of
JSON. The run is not changed.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "Directory of a finished run.")
flags.DEFINE_string("dataset", None, "Data set to evaluate on, instead of the run's own.")
flags.DEFINE_string(
    "data_dir", None, "Directory of prepared TFDS data sets, if it has changed since the training."
)
flags.DEFINE_integer("batch_size", None, "Batch size; the run's by default.")
flags.DEFINE_multi_string("set", [], "NAME=VALUE, a setting that differs from the run's.")

_TOPICS = {
    "General": ("workdir", "set"),
    "Data": ("dataset", "data_dir", "batch_size"),
}


def main(write: command.Output) -> None:
    """Evaluate the run given by the flags."""
    given = flags.FLAGS
    if not given.workdir:
        raise ValueError("workdir: give --workdir=...")
    names = ("dataset", "data_dir", "batch_size")
    values = {n: given[n].value for n in names if given[n].value is not None}
    from bigmodels import tasks
    from bigmodels.commands.evaluate import evaluate
    from bigmodels.reports import report

    result = evaluate(given.workdir, values | command.settings(given.set))
    write.result(result, lambda: report.summary(tasks.get(result["task"]), result))


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
