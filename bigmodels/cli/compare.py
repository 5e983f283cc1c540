"""bigmodels-compare: compare runs of one task.

    bigmodels-compare runs/lstm runs/transformer
    bigmodels-compare runs/a runs/b runs/c --output=abc.html

A table is printed to stderr, and a page with learning curves is written to --output. In a pipe, or
with --json, the comparison is also printed as one line of JSON.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("output", "compare.html", "HTML file to write.")


def main(write: command.Output, words: list[str]) -> None:
    """Compare the runs given as words."""
    if len(words) < 2:
        raise ValueError(f"workdirs: {len(words)} given, expected two or more run directories")
    from bigmodels.reports.compare import compare

    output = flags.FLAGS.output
    write.result(compare(words, output), lambda: f"\nPage: {output}")


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, {"General": ("output",)}, takes_words=True)


if __name__ == "__main__":
    run()
