"""bigmodels-predict: predict with a trained run.

    bigmodels-predict --workdir=runs/digits --input=photo.png
    bigmodels-predict --workdir=runs/objects --input=photo.png --threshold=0.5 --output=boxes.png
    bigmodels-predict --workdir=runs/road --input=my_tub
    bigmodels-predict --workdir=runs/lstm --prompt="ROMEO:" --length=300 --temperature=0.8
    bigmodels-predict --workdir=runs/spanish --prompt="Where is the station?" --num_beams=4
    bigmodels-predict --workdir=runs/gan --count=64 --output=samples.png
    bigmodels-predict --workdir=runs/etth1 --input=ETTh1.csv
    bigmodels-predict --workdir=runs/photos --input=photo.png --mask=hole.png --output=whole.png
    bigmodels-predict --workdir=runs/speech --input=recording.wav

Text is printed to stdout as it is, everything else as one line of JSON per prediction.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "Directory of a trained run.")
flags.DEFINE_string(
    "input",
    None,
    "An image or a recording, or a directory of them; a tub; a text file to translate line by "
    "line; a CSV file to continue.",
)
flags.DEFINE_string("prompt", None, "Text to continue or to translate.")
flags.DEFINE_integer("length", None, "Number of characters to add; 300 by default.")
flags.DEFINE_float("temperature", None, "Sampling temperature; 0 is greedy, 1 by default.")
flags.DEFINE_integer("top_k", None, "Sample only from the k most likely characters.")
flags.DEFINE_float(
    "top_p",
    None,
    "Nucleus sampling: sample only from the most likely characters with this total probability.",
)
flags.DEFINE_string("stop", None, "Characters at any of which the text ends.")
flags.DEFINE_integer("num_beams", None, "Use beam search with this many beams, without sampling.")
flags.DEFINE_float(
    "length_penalty",
    None,
    "For beam search: 0 ranks by the sum of log-probabilities, 1 by their mean.",
)
flags.DEFINE_integer("count", None, "Number of images; 16 by default.")
flags.DEFINE_string(
    "output",
    None,
    "PNG file to write; by default samples.png or filled.png, and none for object detection.",
)
flags.DEFINE_float("threshold", None, "Score threshold of detected objects; 0.3 by default.")
flags.DEFINE_string("mask", None, "An image of the input's size, light where it is to be filled.")
flags.DEFINE_string(
    "box", None, "The part to fill, as TOP,LEFT,HEIGHT,WIDTH in pixels, instead of a mask."
)
flags.DEFINE_integer("seed", None, "Seed of generated text or images; 0 by default.")
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, any other option of the task's predict, for tasks of your own."
)

_TEXT = (
    "prompt",
    "length",
    "temperature",
    "top_k",
    "top_p",
    "stop",
    "num_beams",
    "length_penalty",
)
_OPTIONS = ("input", *_TEXT, "count", "output", "threshold", "mask", "box", "seed")

_TOPICS = {
    "General": ("workdir", "input", "seed", "set"),
    "Text generation and translation": _TEXT,
    "Image generation": ("count", "output"),
    "Object detection": ("threshold",),
    "Inpainting": ("mask", "box"),
}


def main(write: command.Output) -> None:
    """Predict with the run given by the flags."""
    given = flags.FLAGS
    if not given.workdir:
        raise ValueError("workdir: give --workdir=...")
    from bigmodels.commands.predict import predict

    options = {name: given[name].value for name in _OPTIONS} | command.settings(given.set)
    for item in predict(given.workdir, **options):
        write(item if isinstance(item, str) else command.to_json(item))


def run() -> None:
    """Run the console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
