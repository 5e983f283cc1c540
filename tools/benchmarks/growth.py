"""How time and memory of a training step grow with length, width, batch and vocabulary.

Every point is a process of its own, so that its peak of memory is its own. By which power a
figure grows is printed, and beside it by which power the arithmetic of the step does,
which is all that is expected of time as soon as products fill the machine.
"""

import argparse
import json
import math
import pathlib
import resource
import subprocess
import sys
import time

SIZES = {
    "length": (64, 128, 256, 512),
    "width": (64, 128, 256, 512),
    "batch": (8, 16, 32, 64),
    "vocabulary": (1000, 2000, 4000, 8000),
}
BASE = {"length": 128, "width": 128, "batch": 16, "vocabulary": 1000}
STEPS = 6
_UNIT = 1 if sys.platform == "darwin" else 1024  # Bytes of what the system counts memory in.
MODELS = ("transformer", "lstm")


def flops(model, length, width, batch, vocabulary):
    """Arithmetic of a step, forwards and backwards."""
    if model == "lstm":
        each = 4 * width * 2 * width + width * vocabulary
    else:
        each = 2 * (12 * width**2 + 2 * length * width) + width * vocabulary
    return 6 * batch * length * each


def measure(model, length, width, batch, vocabulary):
    """Seconds of a step, best of three times some, and bytes above those of TensorFlow alone."""
    from training import by_fit, compiled, text_batch

    from bigmodels import models

    if model == "lstm":
        network = models.RNN(vocabulary, width, width, mask_zero=False)
    else:
        network = models.Transformer(
            vocabulary, width, 4, 4 * width, 0.0, num_layers=2, max_length=length
        )
    x, y = text_batch(vocabulary, batch, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit = by_fit(compiled(network), x, y, STEPS)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        fit()
        seconds.append((time.perf_counter() - began) / STEPS)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "memory": (after - before) * _UNIT}


def main():
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--plot", type=pathlib.Path, help="PNG file to draw")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(measure(**json.loads(given.point))))
        return
    rows = []
    for model in MODELS:
        for what, sizes in SIZES.items():
            points = [_point(model, BASE | {what: size}) for size in sizes]
            rows.append({"model": model, "what": what, "sizes": sizes, "points": points})
            print(_line(rows[-1]), flush=True)
    if given.plot:
        draw(rows, given.plot)
    text = json.dumps(rows)
    if given.output:
        given.output.write_text(text + "\n")
    print(text)


def _point(model, sizes):
    command = [sys.executable, __file__, "--point", json.dumps({"model": model} | sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) | {"flops": flops(model, **sizes)}


def powers(row, name):
    """By which power a figure grows between neighbouring sizes."""
    values = [point[name] for point in row["points"]]
    return [
        math.log(values[i + 1] / values[i], row["sizes"][i + 1] / row["sizes"][i])
        for i in range(len(values) - 1)
    ]


def _line(row):
    shown = {
        name: " ".join(f"{power:5.2f}" for power in powers(row, name))
        for name in ("seconds", "flops", "memory")
    }
    return (
        f"{row['model']:12} {row['what']:10} {row['sizes'][0]:5} to {row['sizes'][-1]:5}: time ^"
        f"{shown['seconds']}, arithmetic ^{shown['flops']}, memory ^{shown['memory']}"
    )


def draw(rows, path):
    """Time and memory over each size, on logarithmic axes, and the arithmetic, dotted."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure = Figure((14, 6), layout="constrained")
    axes = figure.subplots(2, len(SIZES))
    for column, what in enumerate(SIZES):
        for row in (row for row in rows if row["what"] == what):
            for line, (name, scale) in enumerate((("seconds", 1e3), ("memory", 1e-6))):
                values = [point[name] * scale for point in row["points"]]
                (drawn,) = axes[line, column].loglog(row["sizes"], values, "o-", label=row["model"])
                if line == 0:  # Through the last point, where products fill the machine.
                    work = [point["flops"] / row["points"][-1]["flops"] for point in row["points"]]
                    work = [share * values[-1] for share in work]
                    axes[0, column].loglog(row["sizes"], work, ":", color=drawn.get_color())
        for each in axes[:, column]:
            each.set_xticks(SIZES[what], SIZES[what])
            each.minorticks_off()
            each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            each.yaxis.set_major_formatter(ScalarFormatter())
        axes[0, column].set_title(f"{what}; dotted: arithmetic")
        axes[1, column].set_xlabel(what)
        axes[0, column].legend()
    axes[0, 0].set_ylabel("milliseconds a step")
    axes[1, 0].set_ylabel("megabytes above TensorFlow's")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
