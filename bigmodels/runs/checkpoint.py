"""Where a training can go on from."""

import io
import json
import pathlib
import shutil

import numpy as np
import tensorflow as tf

from bigmodels.runs import atomic, untrusted

# The name in a checkpoint of what is no array.
_ABOUT = "about"
# In it: the dtypes of arrays that are stored as integers.
_KINDS = "kinds"


class Checkpoints:
    """Where a training can go on from: one file for each step that was kept.

    A file is a NumPy archive (`.npz`): arrays by name, and what JSON can hold. Every array has a
    check sum in it, so that a damaged file is found out.

    Args:
        path: The directory.
        max_to_keep: Older files than so many are removed.
    """

    def __init__(self, path, max_to_keep=2):
        self.path, self.max_to_keep = pathlib.Path(path), max_to_keep

    def save(self, epoch, step, arrays, about):
        """Write a checkpoint and remove those that are too old.

        Args:
            epoch: Finished epochs.
            step: Steps of the next one.
            arrays: Arrays by name.
            about: What else, as JSON can hold it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_path(self.path / f"{epoch:06d}-{step:08d}.npz") as temporary:
            kinds, native = {}, {}
            for name, array in arrays.items():
                array = np.asarray(array)
                if array.dtype.kind == "V":  # bfloat16 and such, which NumPy forgets.
                    kinds[name] = array.dtype.name
                    array = array.view(f"uint{8 * array.dtype.itemsize}")
                native[name] = array
            about = about | {_KINDS: kinds}
            np.savez(temporary, **{_ABOUT: np.array(json.dumps(about))}, **native)
        for old in self._files()[: -self.max_to_keep]:
            old.unlink()

    def keep_best(self):
        """Keep the newest checkpoint beyond its time, as `best.npz`."""
        with atomic.atomic_path(self.path / "best.npz") as temporary:
            shutil.copyfile(self._files()[-1], temporary)

    def newest(self, say=lambda line: None):
        """The content of the newest file that is not damaged.

        Args:
            say: Is told of each that is.

        Returns:
            Bytes for `unpack`, or `None` if there is no file.
        """
        for file in reversed(self._files()):
            content = file.read_bytes()
            try:
                self.unpack(content)
            except Exception as error:
                # Whatever byte is wrong, zipfile, zlib, NumPy and JSON have errors of their own.
                say(f"{file} is damaged ({untrusted.reason(error)}); trying the one before.")
                continue
            return content
        return None

    @staticmethod
    def unpack(content):
        """What `save` was given.

        Args:
            content: Bytes of a file.

        Returns:
            `(arrays, about)`.
        """
        with np.load(io.BytesIO(content)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop(_ABOUT)))
        for name, kind in about.pop(_KINDS, {}).items():
            arrays[name] = arrays[name].view(tf.as_dtype(kind).as_numpy_dtype)
        return arrays, about

    def clear(self):
        """Remove all checkpoints."""
        for file in self._files():
            file.unlink()

    def _files(self):
        return sorted(self.path.glob("[0-9]*-[0-9]*.npz"))
