"""bigmodels-tune: search the settings of a task for the best validation score.

    bigmodels-tune --task=image_classification --workdir=runs/search --trials=20
    bigmodels-tune --task=text_generation --workdir=runs/bands --tuner=hyperband --epochs=9
    bigmodels-launch --workers=3 -- bigmodels-tune --task=... --workdir=...   # two run trials

Run again, it continues an unfinished search; with more trials or hours, a finished one. At the end
it prints the best trial on a terminal; in a pipe, or with --json, the result as one line of JSON.
"""

import os

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "Directory of the search; its trials are runs in trials/.")
flags.DEFINE_string("tuner", "random", "random, hyperband, bayesian or grid.")
flags.DEFINE_integer(
    "trials",
    None,
    "Largest number of trials; by default 10 for random and bayesian, one pass of hyperband, or "
    "the whole grid; unlimited if --hours is given.",
)
flags.DEFINE_float(
    "hours",
    None,
    "Hours of searching after which no new trial starts; running trials are finished.",
)
flags.DEFINE_string(
    "objective",
    None,
    "Metric to optimise, for example validation.accuracy; by default the task's own. The test "
    "split is not allowed.",
)
flags.DEFINE_string("direction", None, "min or max; by default derived from the objective.")
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, a setting of all trials, which is then not searched."
)
flags.DEFINE_list(
    "workers",
    [],
    "host:port of every process, first the one that assigns trials, if neither TF_CONFIG nor Slurm "
    "names them.",
)
flags.DEFINE_float(
    "timeout", 120, "Seconds without a sign of life after which another process counts as lost."
)

_SEARCH_FLAGS = (
    "tuner",
    "trials",
    "hours",
    "objective",
    "direction",
    "workers",
    "worker",
    "timeout",
)

_TOPICS = command.define_settings(
    "tune",
    {
        "General": ("task", "workdir", "set"),
        "Data": (),
        "Search": ("tuner", "trials", "hours", "objective", "direction"),
        "Training": (),
        "Devices and machines": ("devices", "workers", "worker", "timeout"),
    },
)


def main(write: command.Output) -> None:
    """Search the settings of the task given by the flags."""
    given = flags.FLAGS
    values = command.training_settings("tune")
    from bigmodels.tuning.tune import tune

    options = {name: given[name].value for name in _SEARCH_FLAGS}
    result = tune(given.task, given.workdir, values, **options)
    if result is not None:  # `None` on processes that only run trials.
        write.result(result, lambda: _summary(result))


def _summary(result):
    from bigmodels.reports import pages

    best = result["best"]
    settings = [[f"  {name}", pages.plain(value)] for name, value in best["settings"].items()]
    return "\n".join(
        [
            "",
            f"Best of {pages.counted(len(result['trials']), 'trial')}: {best['trial']}, "
            f"{result['objective']} {best['score']:.4g}",
            *pages.aligned(settings),
            f"Report: {os.path.join(flags.FLAGS.workdir, 'report.html')}",
            f"Next:   {best['command']}",
        ]
    )


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
