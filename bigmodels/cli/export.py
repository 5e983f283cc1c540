"""bigmodels-export: write a trained run for TensorFlow Serving, ONNX Runtime or LiteRT.

    bigmodels-export --workdir=runs/digits --format=saved_model
    bigmodels-export --workdir=runs/lstm --format=onnx --output=lstm.onnx

The file is tried in its runtime before it is put in its place. The last line on stdout is JSON:
path, signatures, size, and the largest difference from Keras.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "A trained run's directory.")
flags.DEFINE_string("format", "saved_model", "saved_model, onnx or litert.")
flags.DEFINE_string(
    "output",
    None,
    "saved_model: a directory, which gets a numbered version; else a file, .onnx or .tflite; "
    "in the run's directory export by default.",
)
flags.DEFINE_string("signature", None, "The only one to write; all that the format can hold.")

_TOPICS = {"What": ("workdir", "format", "output", "signature")}


def main(write):
    """Export as the flags say."""
    given = flags.FLAGS
    if not given.workdir:
        raise ValueError("workdir: give --workdir=...")
    from bigmodels.commands.export import export

    write(command.to_json(export(given.workdir, given.format, given.output, given.signature)))


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
