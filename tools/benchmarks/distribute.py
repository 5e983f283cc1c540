"""What `bigmodels.Model` and the strategies cost a step, of the article's CNN, batch 64.

All contestants take turns, round after round; a ratio is the median over the rounds of a
contestant's time by that of `keras.Model` on one device in the same round. `mirrored` here is two
logical CPUs and `multi_worker` two processes that share this machine's cores, so that the global
batch is the same work for all: what is above 1 is overhead.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import threading
import time

import keras
import numpy as np
import race

import bigmodels
from bigmodels import distribute
from bigmodels.commands.launch import launch

BATCH = 64


def build(base, strategy):
    """The article's CNN as a functional model of a base class, with a function that trains it."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    with strategy.scope():
        inputs = x = keras.Input((28, 28, 1))
        for filters in (32, 64):
            x = layers.Conv2D(filters, 3, activation="relu")(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
        model = base(inputs, layers.Dense(10)(x))
        model.compile(
            "adam",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    data = bigmodels.data.load_images("digits", BATCH).train_from(0)

    def train(steps):
        began = time.perf_counter()
        model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
        return time.perf_counter() - began

    train(3)  # Traces.
    return train


def worker(directory, steps):
    """One of two workers: trains whenever it is told to, and says how long it took."""
    strategy = distribute.strategy("multi_worker")
    train = build(bigmodels.Model, strategy)
    index = strategy.cluster_resolver.task_id
    for number in range(1 << 30):
        (directory / f"ready.{index}.{number}").touch()
        while not (go := directory / f"go.{number}").exists():
            time.sleep(0.01)
        if go.read_text() == "stop":
            return
        seconds = train(steps)
        part = directory / f".{index}"
        part.write_text(json.dumps(seconds))
        part.rename(directory / f"seconds.{index}.{number}")


class Workers:
    """Two worker processes as one contestant."""

    def __init__(self, directory, steps):
        self.directory, self.number = directory, 0
        command = [sys.executable, __file__, "--worker", str(directory), "--steps", str(steps)]
        self.thread = threading.Thread(target=launch, args=(command, 2))
        self.thread.start()
        self._await("ready")

    def _await(self, what):
        files = [self.directory / f"{what}.{i}.{self.number}" for i in range(2)]
        while not all(file.exists() for file in files):
            if not self.thread.is_alive():
                raise RuntimeError("the workers ended early")
            time.sleep(0.01)
        return files

    def _tell(self, what):
        (self.directory / ".go").write_text(what)
        (self.directory / ".go").rename(self.directory / f"go.{self.number}")

    def __call__(self, steps):
        self._tell("train")
        seconds = max(json.loads(file.read_text()) for file in self._await("seconds"))
        self.number += 1
        self._await("ready")
        return seconds

    def stop(self):
        """End the processes."""
        self._tell("stop")
        self.thread.join()


def main():
    """Measure and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=100, help="a round, for each contestant")
    parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.steps)
        return
    distribute.make_cpu_devices(2)
    with tempfile.TemporaryDirectory() as directory:
        one = distribute.strategy("one_device")
        contestants = {
            "keras.Model, one device": build(keras.Model, one),
            "bigmodels.Model, one device": build(bigmodels.Model, one),
            "bigmodels.Model, mirrored 2": build(bigmodels.Model, distribute.strategy("mirrored")),
            "bigmodels.Model, 2 workers": Workers(pathlib.Path(directory), given.steps),
        }
        times = {name: [] for name in contestants}
        for name in race.turns(contestants, given.rounds):
            times[name].append(contestants[name](given.steps))
        contestants["bigmodels.Model, 2 workers"].stop()
    baseline = np.array(times["keras.Model, one device"])
    for name, seconds in times.items():
        ratios = np.array(seconds) / baseline
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        per_step = 1e3 * np.median(seconds) / given.steps
        print(f"{name:30} {middle:.3f} ({low:.3f} to {high:.3f})  {per_step:.1f} ms a step")
    print(json.dumps({n: float(np.median(np.array(s) / baseline)) for n, s in times.items()}))


if __name__ == "__main__":
    main()
