"""bigmodels-tune: search a task's settings for those that do best on validation data.

    bigmodels-tune --task=image_classification --workdir=runs/search --trials=20
    bigmodels-tune --task=text_generation --workdir=runs/bands --tuner=hyperband --epochs=9
    bigmodels-launch --workers=3 -- bigmodels-tune --task=... --workdir=...   # two run trials

Run again, it continues an unfinished search; with more trials or hours, a finished one. It ends
with the best trial on a terminal; in a pipe, or with --json, with the result as one line of JSON.
"""

import os

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "The search's directory; its trials are runs in trials/.")
flags.DEFINE_string("tuner", "random", "random, hyperband, bayesian or grid.")
flags.DEFINE_integer(
    "trials",
    None,
    "How many trials at most; by default 10 for random and bayesian, one pass of hyperband, or the "
    "whole grid; none if --hours is given.",
)
flags.DEFINE_float(
    "hours", None, "No trial begins after so many hours of searching; those that run are finished."
)
flags.DEFINE_string(
    "objective",
    None,
    "What to go by, for example validation.accuracy; the task's by default. Never the test split.",
)
flags.DEFINE_string("direction", None, "min or max; by default as the objective's name says.")
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, a setting of all trials, which is then not searched."
)
flags.DEFINE_list(
    "workers",
    [],
    "host:port of every process, the one that hands out trials first, where TF_CONFIG"
    " or Slurm name none.",
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
        "What": ("task", "workdir", "set"),
        "Data": (),
        "Search": ("tuner", "trials", "hours", "objective", "direction"),
        "Training": (),
        "Devices and machines": ("devices", "workers", "worker", "timeout"),
    },
)


def main(write):
    """Search as the flags say."""
    given = flags.FLAGS
    values = command.training_settings("tune")
    from bigmodels.tuning.tune import tune

    options = {name: given[name].value for name in _SEARCH_FLAGS}
    result = tune(given.task, given.workdir, values, **options)
    if result is not None:  # Not on those who only run trials.
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


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
