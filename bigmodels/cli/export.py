"""bigmodels-export: export a trained run for TensorFlow Serving, ONNX Runtime or LiteRT.

    bigmodels-export --workdir=runs/digits --format=saved_model
    bigmodels-export --workdir=runs/lstm --format=onnx --output=lstm.onnx

The exported file is compared with Keras in its runtime before it is saved. The last line on stdout
is JSON: path, signatures, size, and the largest difference from Keras.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "Directory of a trained run.")
flags.DEFINE_string("format", "saved_model", "Format: saved_model, onnx or litert.")
flags.DEFINE_string(
    "output",
    None,
    "For saved_model a directory, in which a numbered version is made; otherwise a file, .onnx or "
    ".tflite. By default in export in the run's directory.",
)
flags.DEFINE_string(
    "signature",
    None,
    "The only signature to export; by default all that the format supports (for onnx the first).",
)

_TOPICS = {"General": ("workdir", "format", "output", "signature")}


def main(write: command.Output) -> None:
    """Export the run given by the flags."""
    given = flags.FLAGS
    if not given.workdir:
        raise ValueError("workdir: give --workdir=...")
    from bigmodels.commands.export import export

    write(command.to_json(export(given.workdir, given.format, given.output, given.signature)))


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
