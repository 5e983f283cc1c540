"""bigmodels-evaluate: measure a trained run again, on its own data or another set.

    bigmodels-evaluate --workdir=runs/digits

It ends with a table on a terminal; in a pipe, or with --json, with the result as one line of JSON.
Nothing on disk changes.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "A finished run's directory.")
flags.DEFINE_string("dataset", None, "Measure on this set instead of the run's own.")
flags.DEFINE_string("data_dir", None, "Where TFDS finds prepared sets, if not where it was.")
flags.DEFINE_integer("batch_size", None, "The batch; the run's by default.")
flags.DEFINE_multi_string("set", [], "NAME=VALUE, any setting that is to differ from the run's.")

_TOPICS = {
    "What": ("workdir", "set"),
    "Data": ("dataset", "data_dir", "batch_size"),
}


def main(write):
    """Evaluate as the flags say."""
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


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
