"""The files of a run: reading, writing and checking them.

Files are written under a temporary name and renamed when complete, so that a killed run leaves the
old file or the new one, never part of one.
"""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import pathlib
import platform
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodels import distribute, models, optimizers, tasks  # noqa: F401  (registers the classes that `.keras` files name)
from bigmodels.distribute.resume import training_state
from bigmodels.evaluation.intervals import Observations
from bigmodels.runs import atomic, untrusted
from bigmodels.runs.checkpoint import Checkpoints
from bigmodels.tasks.settings import command_line, flat_settings, with_settings

_PACKAGES = ("bigmodels", "tensorflow", "keras", "numpy", "tensorflow-datasets")
# Bytes for logs, pictures and the report.
_ROOM = 50_000_000
# Settings that may differ when a run is continued, as they do not change its numbers.
_NOT_THE_RUN = ("data_dir", "strategy", "save_freq", "grace")


def _is_number(value):
    # Neither NaN nor infinite as a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _has_intervals(value):
    return isinstance(value, dict) and all(
        isinstance(metrics, dict)
        and all(
            isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
            for ends in metrics.values()
        )
        for metrics in value.values()
    )


_TEXT = (lambda value: isinstance(value, str), "a string")
_OBJECT = (lambda value: isinstance(value, dict), "an object")
_NUMBER = (_is_number, "a finite number")
_NUMBERS = (
    lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "an object of finite numbers",
)
_INTERVALS = (_has_intervals, "pairs of numbers by split and metric")
_BUDGET = (
    lambda value: (
        isinstance(value, dict)
        and all(number is None or _is_number(number) for number in value.values())
    ),
    "an object of finite numbers",
)
_LINES = (
    lambda value: isinstance(value, list) and all(isinstance(line, str) for line in value),
    "a list of strings",
)
_CHOSEN = (
    lambda value: (
        isinstance(value, dict)
        and isinstance(value.get("settings"), dict)
        and _is_number(value.get("seconds"))
        and _LINES[0](value.get("why"))
    ),
    "an object with settings, seconds and why",
)
_OPTIONAL = ("machine", "imports", "chosen", "intervals", "left_out", "notes")
_FORMS = {
    "config.json": {"task": _TEXT, "config": _OBJECT, "versions": _OBJECT, "machine": _OBJECT}
    | {"imports": _LINES, "chosen": _CHOSEN},
    "result.json": {"task": _TEXT, "dataset": _TEXT}
    | dict.fromkeys(("seed", "parameters", "steps", "seconds", "throughput"), _NUMBER)
    | dict.fromkeys(("train", "validation", "test"), _NUMBERS)
    | {"intervals": _INTERVALS, "left_out": _NUMBERS, "notes": _LINES, "chosen": _CHOSEN},
    "search.json": {"task": _TEXT, "config": _OBJECT},
    "oracle.json": {"seconds": _NUMBER, "oracle": _OBJECT, "trials": _OBJECT},
}
_RESULT_OF_A_SEARCH = {"task": _TEXT, "dataset": _TEXT, "budget": _BUDGET}


class RunDirectory:
    """A run's directory: `config.json`, `metrics.jsonl`, `result.json`, `model.keras`, ...

    Args:
        path: The directory, which `create` creates.

    Attributes:
        path: The directory, a `pathlib.Path`.
        samples: The directory of samples drawn while training.
        logs: The directory of TensorBoard logs.
        checkpoints: The `Checkpoints` of the run.

    Example:

    >>> task = tasks.get("image_classification")
    >>> run = RunDirectory("runs/example")
    >>> run.create(task, task.config())
    >>> run.load_config()[0].name
    'image_classification'
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self.samples = self.path / "samples"
        self.logs = self.path / "logs"
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    def check(self, task: Any, config: Any) -> None:
        """Check that the directory is free for a run, or holds the same run. Writes nothing.

        Args:
            task: A `bigmodels.tasks.record.Task`.
            config: The run's config.

        Raises:
            ValueError: if the directory holds a run with other settings, or something else.
        """
        try:
            self.check_is("run", "config.json", {"task": task.name, "config": plain(config)})
        except ValueError as error:
            raise ValueError(f"{error}{self._how_to_go_on(task, config)}") from None

    def _how_to_go_on(self, task, config):
        """The end of the message when a finished run is asked for more epochs; else ""."""
        if not self.has_result():
            return ""
        stored, before = self.load_config()
        if stored.name != task.name or config.epochs <= before.epochs:
            return ""
        longer = dataclasses.replace(before, epochs=config.epochs)
        if longer != dataclasses.replace(config, **{n: getattr(before, n) for n in _NOT_THE_RUN}):
            return ""
        # Its learning rate has decayed to the end, so more epochs need a run of their own.
        more = dataclasses.replace(
            config, epochs=config.epochs - before.epochs, init_from=str(self.path)
        )
        return f", or train on from its weights with {command_line(task, more)}"

    def check_is(self, kind: str, name: str, content: dict[str, Any]) -> None:
        """Check that the directory is free, or its JSON file has given content. Writes nothing.

        Args:
            kind: The user's word for such a directory, for example "run".
            name: The JSON file.
            content: The expected content, with settings under "config".

        Raises:
            ValueError: as for `check`.
        """
        if not (self.path / name).exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(
                    f"workdir: {str(self.path)!r} exists and is not a {kind}; choose another "
                    "workdir"
                )
            parent = next(p for p in self.path.absolute().parents if p.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK)):
                raise ValueError(
                    f"workdir: {str(self.path)!r} cannot be created in {str(parent)!r}"
                )
            return
        stored = self.read_json(name)
        before, now = (
            {key: given.get(key) for key in content} | flat_settings(given.get("config", {}))
            for given in (stored, content)
        )
        for key in sorted({*before, *now} - {"config", *_NOT_THE_RUN}, key=lambda k: k != "task"):
            if before.get(key) != now.get(key):
                setting, old, new = map(untrusted.spoken, (key, before.get(key), now.get(key)))
                raise ValueError(
                    f"workdir: {str(self.path)!r} holds a {kind} with {setting}={old}, not {new}; "
                    "choose another workdir"
                )

    def create(self, task: Any, config: Any, chosen: dict[str, Any] | None = None) -> None:
        """Create the directory and `config.json`, unless they exist.

        Args:
            task: A `bigmodels.tasks.record.Task`.
            config: The run's config.
            chosen: What a budget has chosen of it, as `chosen` returns it, or `None`.
        """
        if (self.path / "config.json").exists():
            return
        for directory in (self.path, self.samples, self.logs, self.checkpoints.path):
            directory.mkdir(parents=True, exist_ok=True)
        content = {
            "task": task.name,
            "config": plain(config),
            "versions": versions(),
            "machine": _machine(),
        }
        if chosen:
            content["chosen"] = chosen
        if tasks.imported():  # Only for messages: a file never decides what is imported.
            content["imports"] = list(tasks.imported())
        self.write_json("config.json", content)

    def chosen(self) -> dict[str, Any] | None:
        """Read what a budget has chosen for the run.

        Returns:
            `{"settings": {dotted name: value}, "seconds": ..., "why": [sentence, ...]}`, with the
            planned time; `None` if there is no run yet or it has no budget.

        Raises:
            ValueError: if `config.json` is damaged.
        """
        if not (self.path / "config.json").exists():
            return None
        return self.read_json("config.json").get("chosen")

    def load_config(self) -> tuple[Any, Any]:
        """Load the task and config of the run.

        Returns:
            `(task, config)`: a `bigmodels.tasks.record.Task` and its config.

        Raises:
            ValueError: if there is no run, or its config is not readable.
        """
        stored = self.read_json("config.json")
        try:
            task = tasks.get(stored["task"])
            config = with_settings(task.config(), flat_settings(stored["config"]))
        except ValueError as error:
            path = self.path / "config.json"
            missing = [name for name in stored.get("imports", ()) if name not in tasks.imported()]
            if missing and stored["task"] not in tasks.names():
                modules = untrusted.spoken(",".join(missing))
                raise ValueError(
                    f"workdir: {str(path)!r} is of a task that is not part of bigmodels; it was "
                    f"trained with --import={modules}"
                ) from None
            raise ValueError(f"workdir: {str(path)!r} is not a run's config: {error}") from None
        return task.of(config), config

    def load_model(self) -> distribute.Model:
        """Load the trained model. The file can only name code of this package and Keras.

        Returns:
            A `bigmodels.Model`.

        Raises:
            ValueError: if there is no model, or the file is damaged or not written by a run.
        """
        path = self.path / "model.keras"
        if not os.path.exists(path):
            raise ValueError(f"workdir: {str(self.path)!r} holds no model.keras (not trained yet?)")
        try:
            untrusted.check_model_file(path)
            with untrusted.no_larger_than_file(path), warnings.catch_warnings():
                # Keras only warns if a model cannot be built, and loads part of it.
                warnings.simplefilter("error", UserWarning)
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                model = keras.models.load_model(path, safe_mode=True)
            if not isinstance(model, distribute.Model):
                raise ValueError(f"it is a {type(model).__name__}, not a model of this package")
            if not model.built:
                raise ValueError("it holds a model without weights")
            return model
        except Exception as error:
            # zipfile, h5py, json and Keras all raise errors of their own for damaged files.
            raise ValueError(
                f"workdir: {str(path)!r} cannot be loaded: {untrusted.reason(error)}"
            ) from error

    def save_model(self, model: keras.Model) -> None:
        """Write `model.keras` atomically."""
        with atomic.atomic_path(self.path / "model.keras") as temporary:
            model.save(temporary)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Args:
            name: The file's name.

        Returns:
            Its content.

        Raises:
            ValueError: if it is missing or damaged, or has invalid content.
        """
        path = self.path / name
        try:
            content = untrusted.parsed(untrusted.contents(path))
            of_search = name == "result.json" and self._is_search()
            form = _RESULT_OF_A_SEARCH if of_search else _FORMS.get(name, {})
            untrusted.check_form(content, form, _OPTIONAL)
            return content
        except FileNotFoundError:
            if not self.path.exists():
                raise ValueError(f"workdir: {str(self.path)!r} does not exist") from None
            hint = "; it is a search, whose runs are in trials/" if self._is_search() else ""
            raise ValueError(f"workdir: {str(self.path)!r} holds no {name}{hint}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"workdir: {str(path)!r} cannot be read: {error}") from None

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        atomic.write_text(self.path / name, text)

    def _is_search(self):
        return (self.path / "search.json").exists()

    def has_result(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "result.json").exists()

    def history(self) -> list[dict[str, float]]:
        """Read `metrics.jsonl`.

        Returns:
            One dict per epoch, or an empty list if the file does not exist.

        Raises:
            ValueError: naming the line that is not a record of an epoch.
        """
        path, rows = self.path / "metrics.jsonl", []
        try:
            for line in untrusted.contents(path).splitlines() if path.exists() else []:
                row = untrusted.parsed(line)
                untrusted.check_form(
                    row, dict.fromkeys(["epoch", "seconds", *row, *(rows or [{}])[0]], _NUMBER)
                )
                if row["epoch"] != len(rows) + 1:
                    raise ValueError(f"epoch: {row['epoch']}, expected {len(rows) + 1}")
                rows.append(row)
        except (OSError, ValueError) as error:
            where = f"{str(path)!r}, line {len(rows) + 1}"
            raise ValueError(f"workdir: {where} cannot be read: {error}") from None
        return rows

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl` atomically, one line per epoch."""
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def samples_in_order(self) -> dict[str, str | pathlib.Path]:
        """List the samples drawn while training.

        Returns:
            `{"epoch 1": path of a PNG file, or a text, ...}`.
        """
        return {
            f"epoch {int(path.stem.partition('_')[2])}": (
                path.read_text(encoding="utf-8") if path.suffix == ".txt" else path
            )
            for path in sorted(self.samples.glob("epoch_*"))
        }

    def write_observations(self, observed: dict[str, Observations]) -> None:
        """Write `test_examples.npz`: the values of every test example that metrics are based on.

        Args:
            observed: `{metric: Observations}`; those without keys are not written.
        """
        arrays = {
            f"{name}/{part}": np.asarray(getattr(observations, part))
            for name, observations in observed.items()
            if observations.keys is not None
            for part in ("values", "unit", "weights", "keys")
            if getattr(observations, part) is not None
        }
        if not arrays:
            return
        with atomic.atomic_path(self.path / "test_examples.npz") as temporary:
            np.savez_compressed(temporary, **arrays)

    def observations(self) -> dict[str, Observations]:
        """Read `test_examples.npz`.

        Returns:
            `{metric: Observations}`, or an empty dict if the file does not exist.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path / "test_examples.npz"
        if not path.exists():
            return {}
        try:
            with np.load(io.BytesIO(untrusted.contents(path))) as stored:
                if sum(part.file_size for part in stored.zip.infolist()) > untrusted.MAX_BYTES:
                    raise ValueError(f"it claims more than {untrusted.MAX_BYTES:,} bytes")
                metrics = {}
                for key in stored.files:
                    name, _, part = key.rpartition("/")
                    metrics.setdefault(name, {})[part] = stored[key]
            return {name: _observations(name, **parts) for name, parts in metrics.items()}
        except Exception as error:
            # NumPy, zipfile and zlib all raise errors of their own for damaged files.
            raise ValueError(
                f"workdir: {str(path)!r} cannot be read: {untrusted.reason(error)}"
            ) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory against other training processes, at most until this process ends.

        Raises:
            ValueError: if another process is training in it.
        """
        try:
            descriptor = atomic.lock(self.path)
        except BlockingIOError:
            raise ValueError(
                f"workdir: another process is training in {str(self.path)!r}"
            ) from None
        try:
            for directory in (self.path, self.samples, self.checkpoints.path):
                atomic.remove_left_over(directory)
            yield
        finally:
            os.close(descriptor)

    def check_space(self, model: keras.Model) -> None:
        """Check that the disk has room for everything the run will write.

        Args:
            model: A compiled and built model.

        Raises:
            ValueError: naming the space needed and the free space.
        """
        state = sum(v.dtype.size * math.prod(v.shape) for v in training_state(model))
        # Besides the retained checkpoints: the best one, one being written, and the model.
        needed = state * (self.checkpoints.max_to_keep + 3) + _ROOM
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ValueError(
                f"workdir: {str(self.path)!r} has {free / 1e6:,.0f} MB free, but the run may need "
                f"{needed / 1e6:,.0f} MB"
            )


def _observations(name, values, unit, keys, weights=None):
    """`Observations` from arrays in a file that may have been modified."""
    columns = [values, keys] if weights is None else [values, keys, weights]
    numbers = all(column.dtype.kind in "fiub" for column in columns)
    if not (numbers and values.shape == (len(values),) and len(values)):
        raise ValueError(f"{untrusted.spoken(name)}: expected a number for each example")
    if not all(c.shape == values.shape and np.isfinite(c).all() for c in columns):
        raise ValueError(f"{untrusted.spoken(name)}: expected finite numbers, as many of each kind")
    if weights is not None and not (weights > 0).all():
        raise ValueError(f"{untrusted.spoken(name)}: expected weights above zero")
    return Observations(values, str(unit), weights, keys)


def _machine():
    """The machine, on which a run's time depends."""
    processor = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(": ")[2] for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass  # Not Linux, or a processor without a name.
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


def plain(config: Any) -> dict[str, Any]:
    """Convert a config to JSON types: nested dicts, and lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run's numbers depend on, by name."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}


def transfer_weights(source: keras.Model, target: keras.Model) -> tuple[list[str], list[str]]:
    """Copy the weights of a model to another one where names and shapes agree.

    Args:
        source: A trained model.
        target: A built model, whose weights are overwritten.

    Returns:
        `(taken, left)`: names of the target's weights that were copied, and of those that were not.

    Example:

    >>> one, two = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    ...             for _ in range(2))
    >>> transfer_weights(one, two)
    (['out/kernel', 'out/bias'], [])
    """
    # Paths begin with the model's own name, which may differ.
    available = {v.path.partition("/")[2]: v for v in source.weights}
    taken, left = [], []
    for variable in target.weights:
        name = variable.path.partition("/")[2]
        weight = available.get(name)
        if weight is not None and weight.shape == variable.shape:
            variable.assign(weight)
            taken.append(name)
        else:
            left.append(name)
    return taken, left
