"""Files that may come from elsewhere, looked at before anything follows what they say."""

import contextlib
import json
import math
import os
import stat
import zipfile

import keras
import tensorflow as tf

from bigmodels.messages import short_repr

_MODEL_PARTS = ["config.json", "metadata.json", "model.weights.h5"]
# What Keras would take code, or files of whoever loads it, from.
_CARRIERS = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_PLAIN = ("__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__")
MAX_BYTES, _MAX_JSON_DEPTH = 1 << 28, 64


def contents(path, most=MAX_BYTES):
    """The bytes of a file of bearable size; to open a pipe could take for ever.

    Args:
        path: A `pathlib.Path`.
        most: How many bytes are borne.

    Returns:
        Bytes.

    Raises:
        ValueError: if it is no regular file, or has more bytes.
        OSError: if it cannot be read.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return path.read_bytes()


def parsed(raw):
    """The JSON object that bytes hold, in which nothing is nested too deeply for a recursion.

    Args:
        raw: UTF-8.

    Returns:
        A dict.

    Raises:
        ValueError: if they hold something else.
    """
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected an object")
    level, depth = [content], 0
    while level:
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, (dict, list))
        ]
        depth += 1
        if depth > _MAX_JSON_DEPTH:
            raise ValueError("it is nested too deeply")
    return content


def check_form(content, form, optional=()):
    """Refuse an object in which something is missing or is not what it has to be.

    Args:
        content: A dict.
        form: `{name: (whether a value fits, what is expected, in words)}`.
        optional: Names that may be missing.

    Raises:
        ValueError: naming what is missing, or the value that does not fit.
    """
    for name, (fits, expected) in form.items():
        if name not in content and name not in optional:
            raise ValueError(f"{spoken(name)} is missing")
        if name in content and not fits(content[name]):
            raise ValueError(f"{spoken(name)}: {short_repr(content[name])}, expected {expected}")


def spoken(value):
    """What stands in somebody's file, as a message says it."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 200
    return value if plain else short_repr(value)


def reason(error):
    """What an error of whichever library says, on one line."""
    return (str(error).splitlines() or [""])[0][:500] or type(error).__name__


def check_model_file(path):
    """Refuse a `.keras` file that is not what a run leaves, before Keras follows what it says.

    Args:
        path: A `pathlib.Path`.

    Raises:
        ValueError: naming what in it is not.
        zipfile.BadZipFile: if it is damaged.
    """
    if not path.is_file():
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sorted(names) != _MODEL_PARTS:
            strange = [name for name in names if name not in _MODEL_PARTS] or names
            raise ValueError(f"it holds {strange[:3]}, expected {', '.join(_MODEL_PARTS)}")
        if max(part.file_size for part in archive.infolist()) > 10 * os.path.getsize(path):
            raise ValueError("it is packed tighter than any model")
        if archive.getinfo("config.json").file_size > MAX_BYTES:
            raise ValueError(f"its config.json has more than {MAX_BYTES:,} bytes")
        waiting = [parsed(archive.read("config.json"))]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                _check_class(part)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


@contextlib.contextmanager
def no_larger_than_file(path):
    """Refuse variables by the gigabyte, before they take any memory, for a file of a few bytes."""
    left = 4 * os.path.getsize(path) + 1_000_000  # An optimizer may have more than the file does.

    def create(following, initial_value, **kwargs):
        nonlocal left
        with tf.Graph().as_default():  # Where a value has a shape and takes no memory.
            value = initial_value() if callable(initial_value) else initial_value
        left -= math.prod(getattr(value, "shape", ()))
        if left < 0:
            raise ValueError
        return following(initial_value=initial_value, **kwargs)

    try:
        with tf.variable_creator_scope(create):
            yield
    finally:
        if left < 0:  # Of which Keras makes an error that says less, or none.
            raise ValueError("its config claims more weights than it can hold")


def _check_class(part):
    """Refuse what a model's config names, unless it is Keras' own or registered with Keras."""
    name, module = part["class_name"], part.get("module")
    registered = part.get("registered_name") or name
    if name in _CARRIERS:
        raise ValueError(f"it holds a {name}, which could run any code")
    known = isinstance(registered, str) and keras.saving.get_registered_object(registered)
    builtin = isinstance(module, str) and module.partition(".")[0] in ("keras", "builtins")
    if not (known or builtin or name in _PLAIN):
        raise ValueError(
            f"it names {module}.{name} ({registered!r}), which is neither Keras' own nor registered"
        )
