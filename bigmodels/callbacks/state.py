"""What a callback has counted so far, as JSON and arrays, and how it is put back."""

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

import keras
import numpy as np
import tensorflow as tf

# Attributes of the process, not of the training. `min_delta`: its sign is turned once in each.
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
# What does not change itself while a training runs: lost is only what takes its place.
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
    """What one callback is to take along from process to process.

    That is what its `get_state()` gives, given back to `set_state(state)`; without these, every
    attribute of its own or of its class that has changed since `on_train_begin`, if `packed` takes
    it. What it has of other kinds is named in a warning. A list or the like that was changed, not
    replaced, is filled again, as others may hold it too.

    Args:
        callback: A `keras.callbacks.Callback` whose `on_train_begin` was called.
        model: The model that is trained.
    """

    def __init__(self, callback, model):
        self.callback, self._model = callback, model
        self._own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
        self._warned, self._stored = set(), set()
        self._begun = {} if self._own else self._values()
        self._fresh = {} if self._own else self._attributes()

    def state(self):
        """The state now.

        Returns:
            A dict that `packed` takes.

        Raises:
            TypeError: if `get_state` gives what a checkpoint cannot hold.
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

    def put_back(self, state):
        """Give the callback a state that `state` gave in another process, or this one."""
        if "own" in state and self._own:
            self.callback.set_state(state["own"])
        holders = dict(self._holders())
        for name, value in state.get("attributes", {}).items():
            of, _, attribute = name.rpartition(".")
            if of not in holders:
                continue
            self._stored.add(name)
            now = getattr(holders[of], attribute, None)
            if not (name in state.get("filled", ()) and _filled(now, value)):
                setattr(holders[of], attribute, _like(now, value))
        if "csv" in state:
            _put_back_csv(self.callback, state["csv"])

    def _holders(self):
        """`(name, holder)`: the callback itself, "", and those of its classes that may change."""
        yield "", self.callback
        for each in type(self.callback).__mro__:
            if each.__module__.partition(".")[0] not in ("keras", "bigmodels", "builtins"):
                yield each.__qualname__, each

    def _values(self):
        """All attributes by name, those of a class behind its own name."""
        return {
            f"{of}.{name}" if of else name: value
            for of, holder in self._holders()
            for name, value in vars(holder).items()
            if not (of and name.startswith("__"))
        }

    def _attributes(self):
        """Copies of those attributes that can be taken along."""
        of_process = {
            n for c, names in _OF_PROCESS.items() if isinstance(self.callback, c) for n in names
        }
        found = {}
        for name, value in self._values().items():
            if name in of_process or value is self._model:
                continue
            try:
                found[name] = unpacked(*packed(value))
            except TypeError:
                as_before = value is self._begun.get(name)
                if not (as_before and ("." in name or isinstance(value, _FIXED))):
                    self._warn(name, value)
        return found

    def _warn(self, name, value):
        if name not in self._warned:
            self._warned.add(name)
            own = type(self.callback).__name__
            warnings.warn(
                f"{own}.{name} ({type(value).__name__}) will not be what it was when a stopped "
                f"training goes on in another process; give {own} get_state() and "
                "set_state(state), which BackupAndRestore calls",
                stacklevel=2,
            )


def key_of(callback, before):
    """The name of a callback in a checkpoint: its class, and which of that class it is."""
    same = sum(type(each) is type(callback) for each in before)
    return f"{type(callback).__name__}#{same}"


def packed(value):
    """A value as JSON and arrays.

    Args:
        value: Numbers, strings, bytes, arrays, dates, paths, members of enumerations, and lists,
            tuples, sets, deques, dicts and dataclasses of them.

    Returns:
        `(content, arrays)`: what JSON can hold, and a list of arrays that it refers to.

    Raises:
        TypeError: naming the type that is none of these.
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
        for name, each in _TIMES.items():
            if kind is each:
                return {name: value.isoformat()}
        if kind is datetime.timedelta:
            return {"timedelta": [value.days, value.seconds, value.microseconds]}
        if isinstance(value, pathlib.PurePath):
            return {"path": str(value)}
        if isinstance(value, enum.Enum) and _found(*_place(kind)) is kind:
            return {"member": [*_place(kind), value.name]}
        if dataclasses.is_dataclass(kind) and _found(*_place(kind)) is kind:
            names = [field.name for field in dataclasses.fields(kind)]
            fields = {n: pack(getattr(value, n)) for n in names if hasattr(value, n)}
            return {"dataclass": [*_place(kind), fields]}
        if isinstance(value, np.ndarray | np.generic | tf.Tensor):
            array = np.asarray(value)
            if array.dtype.hasobject or array.dtype.names:
                raise TypeError(f"array of {array.dtype}")
            arrays.append(array)
            name = {np.ndarray: "array"}.get(kind, "scalar" if array.ndim == 0 else "array")
            return {"tensor" if isinstance(value, tf.Tensor) else name: len(arrays) - 1}
        for name, each in _MANY.items():
            if kind is each:
                return {name: [pack(v) for v in value]}
        if isinstance(value, collections.deque):
            return {"deque": [pack(v) for v in value], "maxlen": value.maxlen}
        if isinstance(value, dict):
            return {"dict": [[pack(k), pack(v)] for k, v in value.items()]}
        if isinstance(value, list | tuple):  # Keras' tracked ones.
            return {"list" if isinstance(value, list) else "tuple": [pack(v) for v in value]}
        raise TypeError(kind.__name__)

    return pack(value), arrays


def unpacked(content, arrays):
    """What `packed` was given.

    Args:
        content: As from `packed`.
        arrays: As from `packed`.

    Returns:
        A value that shares nothing with what was packed.
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
        *place, name = value
        return _found(*place)[name]
    if kind == "dataclass":
        *place, fields = value
        made = object.__new__(_found(*place))
        for name, field in fields.items():
            object.__setattr__(made, name, unpacked(field, arrays))
        return made
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


def _place(kind):
    return kind.__module__, kind.__qualname__


def _found(module, name):
    """The enumeration or dataclass of a name in what is imported, or `None`."""
    found = functools.reduce(
        lambda within, part: getattr(within, part, None), name.split("."), sys.modules.get(module)
    )
    is_kind = isinstance(found, type) and (
        issubclass(found, enum.Enum) or dataclasses.is_dataclass(found)
    )
    return found if is_kind else None


def _filled(now, value):
    """Whether what stands in a value's place could be given the same content."""
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
    """A value in the kind of dict that stands in its place: a Counter, a defaultdict."""
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
    """The rows so far; it begins its file anew in every process, or adds to what is there."""
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
