"""Save the state of a callback as JSON and arrays, and restore it."""

import collections
import dataclasses
import datetime
import enum
import functools
import logging
import pathlib
import re
import sys
import types
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Attributes that belong to the process, not to the training. Keras flips the sign of `min_delta`
# once in each process.
_OF_PROCESS = {
    keras.callbacks.Callback: ("params", "_model", "monitor_op"),
    keras.callbacks.EarlyStopping: ("min_delta",),
    keras.callbacks.ReduceLROnPlateau: ("min_delta",),
    keras.callbacks.ModelCheckpoint: ("min_delta",),
    keras.callbacks.CSVLogger: ("csv_file", "writer", "append_header", "keys"),
    keras.callbacks.ProgbarLogger: ("seen", "progbar", "target", "_called_in_fit"),
    keras.callbacks.TensorBoard: (
        "_batch_start_time",
        "_batch_trace_context",
        "_epoch_start_time",
        "_is_tracing",
        "_prev_summary_state",
        "_previous_epoch_iterations",
        "_profiler_started",
        "_should_write_train_graph",
        "_summary_module",
        "_train_accumulated_time",
        "_writers",
    ),
}
if hasattr(keras.callbacks, "OrbaxCheckpoint"):
    _OF_PROCESS[keras.callbacks.OrbaxCheckpoint] = ("_async_futures", "checkpointer", "min_delta")
# Types whose values do not change during training. They need not be saved unless the attribute is
# assigned another value.
_FIXED = (
    enum.Enum,
    logging.Logger,
    re.Pattern,
    tf.data.Dataset,
    tf.DType,
    type,
    types.BuiltinFunctionType,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
)
_MANY = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_TIMES = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}


class Kept:
    """The state of one callback, carried from process to process.

    It is the value of `get_state()`, which is passed to `set_state(state)`. For a callback without
    these methods it consists of all attributes of the callback and its class that have changed
    since `on_train_begin` and that `packed` accepts; other attributes are named in a warning. A
    list or other container that was changed in place is restored in place, as other objects may
    refer to it.

    Args:
        callback: A `keras.callbacks.Callback` whose `on_train_begin` was called.
        model: The model being trained.
    """

    def __init__(self, callback: keras.callbacks.Callback, model: keras.Model) -> None:
        self.callback, self._model = callback, model
        self._own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
        self._warned, self._stored = set(), set()
        self._begun = {} if self._own else self._values()
        self._fresh = {} if self._own else self._attributes()

    def state(self) -> dict[str, Any]:
        """Return the current state.

        Returns:
            A dict that `packed` accepts.

        Raises:
            TypeError: if `packed` does not accept an attribute's value.
        """
        if self._own:
            return {"own": self.callback.get_state()}
        changed = {
            name: value
            for name, value in self._attributes().items()
            if name in self._stored or not _same(value, self._fresh.get(name, self))
        }
        values = self._values()
        filled = [n for n in changed if values[n] is self._begun.get(n)]
        state = {"attributes": changed, "filled": filled}
        if isinstance(self.callback, keras.callbacks.CSVLogger):
            state["csv"] = _csv_state(self.callback)
        return state

    def put_back(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned in this or another process."""
        if "own" in state and self._own:
            self.callback.set_state(state["own"])
        holders = dict(self._holders())
        for name, value in state.get("attributes", {}).items():
            owner, _, attribute = name.rpartition(".")
            if owner not in holders:
                continue
            self._stored.add(name)
            now = getattr(holders[owner], attribute, None)
            if not (name in state.get("filled", ()) and _filled(now, value)):
                setattr(holders[owner], attribute, _like(now, value))
        if "csv" in state:
            _put_back_csv(self.callback, state["csv"])

    def _holders(self):
        """`(name, holder)`: the callback, named "", and the user's classes that it derives from."""
        yield "", self.callback
        for cls in type(self.callback).__mro__:
            if cls.__module__.partition(".")[0] not in ("keras", "bigmodels", "builtins"):
                yield cls.__qualname__, cls

    def _values(self):
        """All attributes by name; those of a class are prefixed with its name."""
        return {
            f"{owner}.{name}" if owner else name: value
            for owner, holder in self._holders()
            for name, value in vars(holder).items()
            if not (owner and name.startswith("__"))
        }

    def _attributes(self):
        """Copies of the attributes that can be saved."""
        of_process = {
            n for c, names in _OF_PROCESS.items() if isinstance(self.callback, c) for n in names
        }
        copies = {}
        for name, value in self._values().items():
            if name in of_process or value is self._model:
                continue
            try:
                copies[name] = unpacked(*packed(value))
            except TypeError:
                as_before = value is self._begun.get(name)
                if not (as_before and ("." in name or isinstance(value, _FIXED))):
                    self._warn(name, value)
        return copies

    def _warn(self, name, value):
        if name not in self._warned:
            self._warned.add(name)
            own = type(self.callback).__name__
            warnings.warn(
                f"{own}.{name} ({type(value).__name__}) cannot be saved, so it is lost when "
                f"another process continues the training; give {own} get_state() and "
                "set_state(state), which BackupAndRestore calls",
                stacklevel=2,
            )


def key_of(callback: keras.callbacks.Callback, before: list[keras.callbacks.Callback]) -> str:
    """The name of a callback in a checkpoint: its class and its number among that class."""
    same = sum(type(other) is type(callback) for other in before)
    return f"{type(callback).__name__}#{same}"


def packed(value: Any) -> tuple[Any, list[np.ndarray]]:
    """Convert a value to JSON and arrays.

    Args:
        value: Numbers, strings, bytes, arrays, dates, paths, enumeration members, and lists,
            tuples, sets, deques, dicts and dataclasses of them.

    Returns:
        `(content, arrays)`: a JSON-compatible value, and a list of arrays that it refers to.

    Raises:
        TypeError: for any other type, which it names.

    Example:

    >>> packed({"best": (0.5, np.zeros(3))})
    ({'dict': [['best', {'tuple': [0.5, {'array': 0}]}]]}, [array([0., 0., 0.])])
    """
    arrays = []

    def pack(value):
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        for name, time_type in _TIMES.items():
            if kind is time_type:
                return {name: value.isoformat()}
        if kind is datetime.timedelta:
            return {"timedelta": [value.days, value.seconds, value.microseconds]}
        if isinstance(value, pathlib.PurePath):
            return {"path": str(value)}
        if isinstance(value, enum.Enum) and _imported_class(*_class_path(kind)) is kind:
            return {"member": [*_class_path(kind), value.name]}
        if dataclasses.is_dataclass(kind) and _imported_class(*_class_path(kind)) is kind:
            names = [field.name for field in dataclasses.fields(kind)]
            fields = {n: pack(getattr(value, n)) for n in names if hasattr(value, n)}
            return {"dataclass": [*_class_path(kind), fields]}
        if isinstance(value, np.ndarray | np.generic | tf.Tensor):
            array = np.asarray(value)
            if array.dtype.hasobject or array.dtype.names:
                raise TypeError(f"array of {array.dtype}")
            arrays.append(array)
            name = {np.ndarray: "array"}.get(kind, "scalar" if array.ndim == 0 else "array")
            return {"tensor" if isinstance(value, tf.Tensor) else name: len(arrays) - 1}
        for name, container in _MANY.items():
            if kind is container:
                return {name: [pack(v) for v in value]}
        if isinstance(value, collections.deque):
            return {"deque": [pack(v) for v in value], "maxlen": value.maxlen}
        if isinstance(value, dict):
            return {"dict": [[pack(k), pack(v)] for k, v in value.items()]}
        if isinstance(value, list | tuple):  # A tracked list or tuple of Keras.
            return {"list" if isinstance(value, list) else "tuple": [pack(v) for v in value]}
        raise TypeError(kind.__name__)

    return pack(value), arrays


def unpacked(content: Any, arrays: list[np.ndarray]) -> Any:
    """Convert the result of `packed` back to the value.

    Args:
        content: As from `packed`.
        arrays: As from `packed`.

    Returns:
        A copy of the value, which shares no objects with it.

    Example:

    >>> unpacked({"tuple": [0.5, {"array": 0}]}, [np.zeros(3)])
    (0.5, array([0., 0., 0.]))
    """
    if not isinstance(content, dict):
        return content
    kind, value = next(iter(content.items()))
    if kind == "bytes":
        return bytes.fromhex(value)
    if kind == "complex":
        return complex(*value)
    if kind in _TIMES:
        return _TIMES[kind].fromisoformat(value)
    if kind == "timedelta":
        return datetime.timedelta(*value)
    if kind == "path":
        return pathlib.Path(value)
    if kind == "member":
        *path, name = value
        return _imported_class(*path)[name]
    if kind == "dataclass":
        *path, fields = value
        instance = object.__new__(_imported_class(*path))
        for name, field in fields.items():
            object.__setattr__(instance, name, unpacked(field, arrays))
        return instance
    if kind == "array":
        return np.array(arrays[value])
    if kind == "scalar":
        return np.array(arrays[value])[()]
    if kind == "tensor":
        return tf.convert_to_tensor(arrays[value])
    if kind == "deque":
        return collections.deque((unpacked(v, arrays) for v in value), content["maxlen"])
    if kind == "dict":
        return {unpacked(k, arrays): unpacked(v, arrays) for k, v in value}
    return _MANY[kind](unpacked(v, arrays) for v in value)


def _class_path(kind):
    return kind.__module__, kind.__qualname__


def _imported_class(module, name):
    """The enumeration or dataclass with a name in an imported module, or `None`."""
    value = functools.reduce(
        lambda within, part: getattr(within, part, None), name.split("."), sys.modules.get(module)
    )
    is_kind = isinstance(value, type) and (
        issubclass(value, enum.Enum) or dataclasses.is_dataclass(value)
    )
    return value if is_kind else None


def _filled(now, value):
    """Copy the content of a value into the current one, in place, and return whether it fits."""
    if isinstance(now, list) and isinstance(value, list):
        now[:] = value
    elif isinstance(now, dict | set) and isinstance(value, dict | set):
        now.clear()
        now.update(value)
    elif isinstance(now, collections.deque) and isinstance(value, collections.deque):
        now.clear()
        now.extend(value)
    elif isinstance(now, np.ndarray) and now.shape == np.shape(value) and now.flags.writeable:
        now[...] = value
    elif type(now) is type(value) and dataclasses.is_dataclass(now):
        for field in dataclasses.fields(now):
            if hasattr(value, field.name):
                object.__setattr__(now, field.name, getattr(value, field.name))
    else:
        return False
    return True


def _like(now, value):
    """The value as the current attribute's kind of dict, such as a Counter or a defaultdict."""
    if isinstance(now, dict) and type(now) is not dict and isinstance(value, dict):
        like = now.copy()
        like.clear()
        like.update(value)
        return like
    return value


def _same(a, b):
    try:
        (one, ones), (other, others) = packed(a), packed(b)
    except TypeError:
        return False
    return repr(one) == repr(other) and all(
        x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")
        for x, y in zip(ones, others, strict=True)
    )


def _csv_state(logger):
    """The rows so far, as a new process would overwrite the file or append to all of it."""
    if logger.csv_file is None or not pathlib.Path(logger.filename).is_file():
        return None
    if not logger.csv_file.closed:
        logger.csv_file.flush()
    with open(logger.filename, newline="", encoding="utf-8") as file:
        return {"rows": file.read(), "keys": logger.keys}


def _put_back_csv(logger, state):
    if state is None or logger.csv_file is None:
        return
    logger.csv_file.close()
    with open(logger.filename, "w", newline="", encoding="utf-8") as file:
        file.write(state["rows"])
    logger.csv_file = open(logger.filename, "a", encoding="utf-8")
    logger.keys, logger.writer, logger.append_header = state["keys"], None, not state["rows"]
