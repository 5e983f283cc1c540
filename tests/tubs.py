"""Donkeycar tubs as small as can be learnt from."""

import json

import numpy as np
import tensorflow as tf

INPUTS = ["cam/image_array", "user/angle", "user/throttle", "user/mode"]
TYPES = ["image_array", "float", "float", "str"]


def write_tub(root, count, size=(12, 16), sessions=None, deleted=(), catalogs=2):
    """A tub whose frames show a bright column, as far to the right as the angle says.

    Args:
        root: A directory; it is made.
        count: Frames.
        size: `(height, width)` of a frame.
        sessions: A session for each frame, or `None` for a tub without them.
        deleted: Numbers of frames that are marked as deleted.
        catalogs: Files that the frames' lines are in.

    Returns:
        float32 `(count,)`, the angles.
    """
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    angles = np.sin(np.arange(count) / 5).astype("float32")
    height, width = size
    rows = []
    for i, angle in enumerate(angles):
        pixels = rng.integers(0, 60, (height, width, 3), "uint8")
        column = round(float(angle + 1) / 2 * (width - 3))
        pixels[:, column : column + 3] = 250
        name = f"{i}_cam_image_array_.jpg"
        (root / "images" / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
        row = {"_index": i, "cam/image_array": name, "user/angle": float(angle)}
        if sessions is not None:
            row["_session_id"] = sessions[i]
        rows.append(json.dumps(row | {"user/throttle": 0.5, "user/mode": "user"}) + "\n")
    paths = [f"catalog_{i}.catalog" for i in range(catalogs)]
    for name, part in zip(paths, np.array_split(rows, catalogs), strict=True):
        (root / name).write_text("".join(part))
    last = {"paths": paths, "current_index": count, "max_len": 1000}
    lines = [INPUTS, TYPES, {}, {"created_at": 0.0}, last | {"deleted_indexes": list(deleted)}]
    (root / "manifest.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return angles
