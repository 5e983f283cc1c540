"""Checkpoint files of a training run."""

import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bigmodels.runs import atomic, untrusted

# The entry of a checkpoint with everything that is not an array.
_ABOUT = "about"
# Within it: the dtypes of arrays that are stored as integers.
_KINDS = "kinds"


class Checkpoints:
    """A directory of checkpoints, one file per saved step.

    A file is a NumPy archive (`.npz`) of named arrays and a JSON document. The archive has a
    checksum for every array, so damaged files are detected.

    Args:
        path: The directory.
        max_to_keep: Number of files to retain; older ones are removed.

    Example:

    >>> checkpoints = Checkpoints("checkpoints")
    >>> checkpoints.save(1, 0, {"kernel": np.ones(2)}, {"seed": 7})
    >>> arrays, about = checkpoints.unpack(checkpoints.newest())
    >>> about
    {'seed': 7}
    """

    def __init__(self, path: str | os.PathLike, max_to_keep: int = 2) -> None:
        self.path, self.max_to_keep = pathlib.Path(path), max_to_keep

    def save(self, epoch: int, step: int, arrays: Mapping[str, Any], about: dict[str, Any]) -> None:
        """Write a checkpoint and remove old ones.

        Args:
            epoch: Number of finished epochs.
            step: Number of finished steps in the next epoch.
            arrays: Arrays by name.
            about: A JSON-compatible dict of everything else.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_path(self.path / f"{epoch:06d}-{step:08d}.npz") as temporary:
            kinds, native = {}, {}
            for name, array in arrays.items():
                array = np.asarray(array)
                if array.dtype.kind == "V":  # bfloat16 and similar dtypes, which NumPy cannot save.
                    kinds[name] = array.dtype.name
                    array = array.view(f"uint{8 * array.dtype.itemsize}")
                native[name] = array
            about = about | {_KINDS: kinds}
            np.savez(temporary, **{_ABOUT: np.array(json.dumps(about))}, **native)
        for old in self._files()[: -self.max_to_keep]:
            old.unlink()

    def keep_best(self) -> None:
        """Copy the newest checkpoint to `best.npz`, which is retained."""
        with atomic.atomic_path(self.path / "best.npz") as temporary:
            shutil.copyfile(self._files()[-1], temporary)

    def newest(self, say: Callable[[str], None] = lambda line: None) -> bytes | None:
        """Read the newest file that is not damaged.

        Args:
            say: Function that is called with a message for each damaged file.

        Returns:
            Bytes for `unpack`, or `None` if there is no intact file.
        """
        for file in reversed(self._files()):
            content = file.read_bytes()
            try:
                self.unpack(content)
            except Exception as error:
                # zipfile, zlib, NumPy and JSON all raise errors of their own for damaged files.
                say(f"{file} is damaged ({untrusted.reason(error)}); trying the one before.")
                continue
            return content
        return None

    @staticmethod
    def unpack(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Parse a checkpoint file.

        Args:
            content: The bytes of the file.

        Returns:
            `(arrays, about)`.
        """
        with np.load(io.BytesIO(content)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop(_ABOUT)))
        for name, kind in about.pop(_KINDS, {}).items():
            arrays[name] = arrays[name].view(tf.as_dtype(kind).as_numpy_dtype)
        return arrays, about

    def clear(self) -> None:
        """Remove all checkpoints."""
        for file in self._files():
            file.unlink()

    def _files(self):
        return sorted(self.path.glob("[0-9]*-[0-9]*.npz"))
