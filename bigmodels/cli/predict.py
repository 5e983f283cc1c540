"""bigmodels-predict: use a trained run.

    bigmodels-predict --workdir=runs/digits --input=photo.png
    bigmodels-predict --workdir=runs/objects --input=photo.png --threshold=0.5 --output=boxes.png
    bigmodels-predict --workdir=runs/road --input=my_tub
    bigmodels-predict --workdir=runs/lstm --prompt="ROMEO:" --length=300 --temperature=0.8
    bigmodels-predict --workdir=runs/spanish --prompt="Where is the station?" --num_beams=4
    bigmodels-predict --workdir=runs/gan --count=64 --output=samples.png
    bigmodels-predict --workdir=runs/etth1 --input=ETTh1.csv
    bigmodels-predict --workdir=runs/photos --input=photo.png --mask=hole.png --output=whole.png
    bigmodels-predict --workdir=runs/speech --input=recording.wav

Text goes to stdout as it is, everything else as one line of JSON an item.
"""

from absl import flags

from bigmodels.cli import command

flags.DEFINE_string("workdir", None, "A trained run's directory.")
flags.DEFINE_string(
    "input",
    None,
    "An image, a recording or a directory of them, a tub, a text to translate line by line, a CSV "
    "file to go on from.",
)
flags.DEFINE_string("prompt", None, "The text to continue or to translate.")
flags.DEFINE_integer("length", None, "Characters to add; 300 by default.")
flags.DEFINE_float("temperature", None, "0 is greedy; 1 by default.")
flags.DEFINE_integer("top_k", None, "Draw from so many of the likeliest characters alone.")
flags.DEFINE_float("top_p", None, "Draw from the fewest likeliest that have this share together.")
flags.DEFINE_string("stop", None, "Characters any of which ends the text.")
flags.DEFINE_integer(
    "num_beams", None, "Search for the likeliest text, following so many at once; draws nothing."
)
flags.DEFINE_float(
    "length_penalty", None, "Of the search: 0 rates by the sum of log-probabilities, 1 by the mean."
)
flags.DEFINE_integer("count", None, "How many; 16 by default.")
flags.DEFINE_string(
    "output",
    None,
    "PNG to write; samples.png or filled.png by default, and none of the boxes that are found.",
)
flags.DEFINE_float("threshold", None, "Least score of an object that counts; 0.3 by default.")
flags.DEFINE_string("mask", None, "An image of the input's size, light where it is to be filled.")
flags.DEFINE_string("box", None, "Instead of a mask: what to fill, as TOP,LEFT,HEIGHT,WIDTH.")
flags.DEFINE_integer("seed", None, "Same seed, same text or images; 0 by default.")
flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, any other option of the task's predict, such as a task of your own has."
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
    "What": ("workdir", "input", "seed", "set"),
    "Text generation and translation": _TEXT,
    "Image generation": ("count", "output"),
    "Object detection": ("threshold",),
    "Inpainting": ("mask", "box"),
}


def main(write):
    """Predict as the flags say."""
    given = flags.FLAGS
    if not given.workdir:
        raise ValueError("workdir: give --workdir=...")
    from bigmodels.commands.predict import predict

    options = {name: given[name].value for name in _OPTIONS} | command.settings(given.set)
    for item in predict(given.workdir, **options):
        write(item if isinstance(item, str) else command.to_json(item))


def run():
    """The console script."""
    command.run(main, __doc__, _TOPICS)


if __name__ == "__main__":
    run()
