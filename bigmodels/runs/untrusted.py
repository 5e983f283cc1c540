"""Checks of files from untrusted sources, before anything acts on their content."""

import contextlib
import json
import math
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from bigmodels.messages import short_repr

_MODEL_PARTS = ["config.json", "metadata.json", "model.weights.h5"]
# Classes that make Keras run code from the file, or read files of the user who loads it.
_CARRIERS = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_PLAIN = ("__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__")
MAX_BYTES, _MAX_JSON_DEPTH = 1 << 28, 64


def contents(path: pathlib.Path, most: int = MAX_BYTES) -> bytes:
    """Read a regular file of limited size; opening a pipe could block forever.

    Args:
        path: A `pathlib.Path`.
        most: The largest number of bytes that is accepted.

    Returns:
        The content.

    Raises:
        ValueError: if it is not a regular file, or is larger.
        OSError: if it cannot be read.

    Example:

    >>> path = pathlib.Path("note.txt")
    >>> _ = path.write_text("hello")
    >>> contents(path, most=4)
    Traceback (most recent call last):
    ValueError: it has more than 4 bytes
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return path.read_bytes()


def parsed(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object of limited nesting, so that recursive functions can process it.

    Args:
        raw: JSON in UTF-8.

    Returns:
        A dict.

    Raises:
        ValueError: if it is not JSON, not an object, or nested too deeply.

    Example:

    >>> parsed(b'{"epochs": 3}')
    {'epochs': 3}
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
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        depth += 1
        if depth > _MAX_JSON_DEPTH:
            raise ValueError("it is nested too deeply")
    return content


def check_form(
    content: Mapping[str, Any],
    form: Mapping[str, tuple[Callable[[Any], bool], str]],
    optional: Collection[str] = (),
) -> None:
    """Refuse a JSON object with missing or invalid entries.

    Args:
        content: A dict.
        form: `{name: (function that tests a value, description of valid values)}`.
        optional: Names that may be missing.

    Raises:
        ValueError: naming the missing entry, or the invalid value.

    Example:

    >>> check_form({"seed": "a"}, {"seed": (lambda value: isinstance(value, int), "an integer")})
    Traceback (most recent call last):
    ValueError: seed: 'a', expected an integer
    """
    for name, (fits, expected) in form.items():
        if name not in content and name not in optional:
            raise ValueError(f"{spoken(name)} is missing")
        if name in content and not fits(content[name]):
            raise ValueError(f"{spoken(name)}: {short_repr(content[name])}, expected {expected}")


def spoken(value: Any) -> Any:
    """A value from a file for use in a message; strings that are safe to print stay unquoted."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 200
    return value if plain else short_repr(value)


def reason(error: Exception) -> str:
    """The first line of an error's message, or the error's type."""
    return (str(error).splitlines() or [""])[0][:500] or type(error).__name__


def check_model_file(path: pathlib.Path) -> None:
    """Refuse a `.keras` file that a run cannot have written, before Keras loads it.

    Args:
        path: A `pathlib.Path`.

    Raises:
        ValueError: naming the part that is not allowed.
        zipfile.BadZipFile: if it is damaged.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sorted(names) != _MODEL_PARTS:
            unexpected = [name for name in names if name not in _MODEL_PARTS] or names
            raise ValueError(f"it holds {unexpected[:3]}, expected {', '.join(_MODEL_PARTS)}")
        if max(part.file_size for part in archive.infolist()) > 10 * os.path.getsize(path):
            raise ValueError("it is compressed more than any model can be")
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
def no_larger_than_file(path: pathlib.Path) -> Iterator[None]:
    """Refuse to create variables that are much larger than the file they are loaded from.

    Args:
        path: The `.keras` file that is loaded in the body.

    Raises:
        ValueError: if its config claims more weights than it can hold.
    """
    left = 4 * os.path.getsize(path) + 1_000_000  # Optimizers may hold more than the file.

    def create(following, initial_value, **kwargs):
        nonlocal left
        with tf.Graph().as_default():  # Here a value has a shape but takes no memory.
            value = initial_value() if callable(initial_value) else initial_value
        left -= math.prod(getattr(value, "shape", ()))
        if left < 0:
            raise ValueError
        return following(initial_value=initial_value, **kwargs)

    try:
        with tf.variable_creator_scope(create):
            yield
    finally:
        if left < 0:  # Keras hides the error above, or replaces it with a vaguer one.
            raise ValueError("its config claims more weights than it can hold")


def _check_class(part):
    """Refuse a class in a model's config unless it is Keras' own or registered with Keras."""
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
