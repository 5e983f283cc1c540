"""What a run leaves on disk, and how it goes on from there.

Files are written under another name and renamed when whole, so that a killed run leaves the old
file or the new one, never half of one.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import zipfile

import keras
import numpy as np
import tensorflow as tf

from bigmodels import (
    models,  # noqa: F401  (registers the classes that `.keras` files name)
    tasks,
)
from bigmodels.intervals import Observations
from bigmodels.tasks.task import flat_settings, with_settings

_PACKAGES = ("bigmodels", "tensorflow", "keras", "numpy", "tensorflow-datasets")
# Where a run may be moved to without becoming another run: the numbers are the same everywhere.
_NOT_THE_RUN = ("data_dir", "strategy")


class RunDirectory:
    """A run's directory: `config.json`, `metrics.jsonl`, `result.json`, `model.keras`, ...

    Args:
        path: The directory; made by `create`.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.samples = self.path / "samples"
        self.logs = self.path / "logs"
        self._checkpoints = self.path / "checkpoints"

    def check(self, task, config):
        """See that the directory is free for a run, or holds this very run. Writes nothing.

        Args:
            task: A `Task`.
            config: Its config.

        Raises:
            ValueError: if the directory holds a run with other settings, or is something else.
        """
        self.check_is("run", "config.json", {"task": task.name, "config": plain(config)})

    def check_is(self, kind, name, content):
        """See that the directory is free, or holds what a JSON file of it says. Writes nothing.

        Args:
            kind: How the user calls it, for example "run".
            name: The JSON file.
            content: What stands in it; its settings are under "config".

        Raises:
            ValueError: as `check`.
        """
        if not (self.path / name).exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(
                    f"workdir: {str(self.path)!r} exists and is no {kind}; choose another workdir"
                )
            parent = next(p for p in self.path.absolute().parents if p.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK)):
                raise ValueError(f"workdir: {str(self.path)!r} cannot be made in {str(parent)!r}")
            return
        stored = self.read_json(name)
        before, now = (
            {key: given.get(key) for key in content} | flat_settings(given.get("config", {}))
            for given in (stored, content)
        )
        for key in sorted({*before, *now} - {"config", *_NOT_THE_RUN}, key=lambda k: k != "task"):
            if before.get(key) != now.get(key):
                raise ValueError(
                    f"workdir: {str(self.path)!r} holds a {kind} with {key}={before.get(key)}, "
                    f"not {now.get(key)}; choose another workdir"
                )

    def create(self, task, config):
        """Make the directory and `config.json`, unless they are there."""
        if (self.path / "config.json").exists():
            return
        for directory in (self.path, self.samples, self.logs, self._checkpoints):
            directory.mkdir(parents=True, exist_ok=True)
        content = {
            "task": task.name,
            "config": plain(config),
            "versions": versions(),
            "machine": _machine(),
        }
        self.write_json("config.json", content)

    def load_config(self):
        """The task and config of the run.

        Returns:
            `(task, config)`.

        Raises:
            ValueError: if there is no run, or its config is not readable.
        """
        stored = self.read_json("config.json")
        try:
            task = tasks.get(stored["task"])
            config = with_settings(task.config(), flat_settings(stored["config"]))
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"workdir: {str(self.path / 'config.json')!r} is not a run's config"
            ) from None
        return task, config

    def load_model(self):
        """The trained model.

        Returns:
            A `bigmodels.Model`.

        Raises:
            ValueError: if there is none, or the file is damaged.
        """
        path = self.path / "model.keras"
        if not path.exists():
            raise ValueError(f"workdir: {str(self.path)!r} holds no model.keras (not trained yet?)")
        try:
            return keras.models.load_model(path)
        except Exception as error:
            # zipfile, h5py, json and Keras each raise their own kind for a damaged file.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"workdir: {str(path)!r} cannot be loaded: {reason}") from error

    def save_model(self, model):
        """Write `model.keras`, whole or not at all."""
        temporary = self.path / f".model.{os.getpid()}.keras"
        model.save(temporary)
        os.replace(temporary, self.path / "model.keras")

    def read_json(self, name):
        """A JSON file of the run.

        Raises:
            ValueError: if it is missing or damaged.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"workdir: {str(self.path)!r} holds no {name}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"workdir: {str(path)!r} cannot be read: {error}") from None

    def write_json(self, name, content):
        """Write a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name, text):
        """Write a text file, whole or not at all."""
        temporary = self.path / f".{name}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path / name)

    def has_result(self):
        """Whether the run is finished."""
        return (self.path / "result.json").exists()

    def history(self):
        """The lines of `metrics.jsonl`, one dict an epoch."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def write_history(self, rows):
        """Write `metrics.jsonl`."""
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def samples_in_order(self):
        """What was drawn while training.

        Returns:
            `{"epoch 1": path of a PNG, or a text, ...}`.
        """
        return {
            f"epoch {int(path.stem.partition('_')[2])}": (
                path.read_text(encoding="utf-8") if path.suffix == ".txt" else path
            )
            for path in sorted(self.samples.glob("epoch_*"))
        }

    def write_observations(self, observed):
        """Write `test_examples.npz`: what the test figures rest on, example by example.

        Args:
            observed: `{metric: Observations}`; only those with keys are kept.
        """
        arrays = {
            f"{name}/{part}": np.asarray(getattr(what, part))
            for name, what in observed.items()
            if what.keys is not None
            for part in ("values", "unit", "weights", "keys")
            if getattr(what, part) is not None
        }
        if not arrays:
            return
        temporary = self.path / f".test_examples.{os.getpid()}.npz"
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, self.path / "test_examples.npz")

    def observations(self):
        """What `write_observations` wrote.

        Returns:
            `{metric: Observations}`, empty if there is nothing.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path / "test_examples.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path) as stored:
                found = {}
                for key in stored.files:
                    name, part = key.rsplit("/", 1)
                    found.setdefault(name, {})[part] = stored[key]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"workdir: {str(path)!r} cannot be read: {error}") from None
        return {
            name: Observations(**parts | {"unit": str(parts["unit"])})
            for name, parts in found.items()
        }

    def checkpoints(self, model):
        """The run's `tf.train.CheckpointManager` over everything that training changes."""
        checkpoint = tf.train.Checkpoint(state=[v.value for v in training_state(model)])
        # Made now: only the chief restores, and to make a variable takes all workers.
        _ = checkpoint.save_counter
        return tf.train.CheckpointManager(
            checkpoint, str(self._checkpoints), max_to_keep=2, checkpoint_name="epoch"
        )


def _machine():
    """What a run's time depends on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(": ")[2] for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass  # Not Linux, or a processor that Linux has no name for.
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        "system": platform.platform(),
        "processor": processor,
        "cores": os.cpu_count(),
        "GPUs": ", ".join(gpus) or "none",
    }


def plain(config):
    """A config as JSON has it: nested dicts, and lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def versions():
    """The versions of what a run's numbers depend on, by package."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}


def training_state(model):
    """Weights, random states and optimizers' variables, in a fixed order, each once."""
    variables = [*model.variables, *(v for o in model.optimizers for v in o.variables)]
    return list({id(v): v for v in variables}.values())


def transfer_weights(source, target):
    """Start a model from another's weights, layer by layer where name and shape agree.

    Args:
        source: A trained model.
        target: A built model; its weights are overwritten.

    Returns:
        `(taken, left)`: names of the target's weights that were taken over, and that were not.
    """
    # Paths begin with the model's own name, which may differ.
    given = {v.path.partition("/")[2]: v for v in source.weights}
    taken, left = [], []
    for variable in target.weights:
        name = variable.path.partition("/")[2]
        found = given.get(name)
        if found is not None and found.shape == variable.shape:
            variable.assign(found)
            taken.append(name)
        else:
            left.append(name)
    return taken, left
