"""bigmodels-compare: put runs of one task side by side.

    bigmodels-compare runs/lstm runs/transformer
    bigmodels-compare runs/a runs/b runs/c --output=abc.html

A table goes to stderr, a page with curves to --output. In a pipe, or with --json, the comparison is
printed as one line of JSON too.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("output", "compare.html", "HTML file to write.")


def main(write, words):
    """Compare as the flags and words say."""
    if len(words) < 2:
        raise ValueError(f"workdirs: {len(words)} given, expected two or more run directories")
    from bigmodels.reports.compare import compare

    output = flags.FLAGS.output
    write.result(compare(words, output), lambda: f"\nPage: {output}")


def run():
    """The console script."""
    command.run(main, __doc__, {"What": ("output",)}, takes_words=True)


if __name__ == "__main__":
    run()
