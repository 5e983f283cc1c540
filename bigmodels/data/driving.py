"""Load camera frames with steering angles: rendered, or from a Donkeycar tub."""

import dataclasses
import itertools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bigmodels.data import files, readers
from bigmodels.data.augmentation import Augmentation
from bigmodels.data.names import unknown_name
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded
from bigmodels.data.readers.road_drives import recovery_views as render_views
from bigmodels.data.splits import SPLITS, Splits
from bigmodels.fields import check_settings, check_share, setting

# Fraction of a drive for each of validation and test, and the approximate length of their
# stretches in frames.
_SHARE, _STRETCH = 0.15, 50
# Drives that are too short to be cut are assigned to splits as a whole, in this order.
_IN_TURNS = ("train", "train", "validation", "train", "train", "test", "train")
# Sets up to this size (decoded, resized) are held in memory; larger ones are read in every epoch.
_HELD_BYTES = 1 << 29


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DrivingData(Splits):
    """Frames ready for `fit`, as returned by `load_driving`.

    Batches are `(images, angles)`: float32 `(batch, height, width, 3)` in 0..255, and steering
    angles, float32 `(batch, 1)`, from -1 (left) to 1 (right).

    Attributes (in addition to those of `Splits`):
        train: Shuffled, augmented batches; each iteration is a new epoch.
        train_sample: Training frames without augmentation, as many as there are for validation,
            evenly spaced.
        validation: Batches in order of time.
        test: Batches in order of time.
        sizes: Number of frames in each split.
        image_shape: `(height, width, 3)`.
        angles: True angles of each split, in order, float32 `(frames,)`.
        places: Positions of each split's frames in the recording. Consecutive positions are
            neighbours in time.
        previous: For each split, the true angle of the frame before each frame; NaN if there is
            none.
        drives: Number of drives.
        between: Number of frames left out as gaps between the splits.
        deleted: Number of frames that the recording marks as deleted; no split has them.
        recovery_views: Number of rendered views from which `train` is drawn in addition to the
            recorded frames. No other attribute has them.

    Example:

    >>> import json, pathlib
    >>> root = pathlib.Path("tub")
    >>> (root / "images").mkdir(parents=True)
    >>> frames = []
    >>> for i in range(24):  # Six drives of four frames.
    ...     keras.utils.save_img(root / f"images/{i}.png", np.zeros((8, 8, 3)), scale=False)
    ...     frame = {"_index": i, "cam/image_array": f"{i}.png", "user/angle": i / 25}
    ...     frames.append(json.dumps(frame | {"_session_id": i // 4}))
    >>> _ = (root / "0.catalog").write_text("\\n".join(frames))
    >>> inputs, types = ["cam/image_array", "user/angle"], ["image_array", "float"]
    >>> manifest = [inputs, types, {}, {}, {"paths": ["0.catalog"]}]
    >>> _ = (root / "manifest.json").write_text("\\n".join(map(json.dumps, manifest)))
    >>> data = bigmodels.data.load_driving("tub:tub")
    >>> data.sizes, data.drives
    ({'train': 16, 'validation': 4, 'test': 4}, 6)
    >>> data.places["test"], data.angles["test"]
    (array([20, 21, 22, 23]), array([0.8 , 0.84, 0.88, 0.92], dtype=float32))
    """

    image_shape: tuple[int, int, int]
    angles: dict[str, np.ndarray]
    places: dict[str, np.ndarray]
    previous: dict[str, np.ndarray]
    drives: int
    between: int
    deleted: int
    recovery_views: int = 0


@dataclasses.dataclass(frozen=True)
class SteeringAugmentation:
    """Random flips, brightness changes and shifts of training frames and their angles.

    A value of zero turns a transformation off. Evaluation data are never augmented.

    Args:
        horizontal_flip: Whether to mirror half of the frames, with their angles, which are negated.
        brightness: Largest change of brightness, as a fraction.
        translation: Largest shift, as a fraction of height and width; the angle stays the same.

    Raises:
        ValueError: naming the argument, if its value is invalid.

    Example:

    >>> augmentation = bigmodels.data.SteeringAugmentation(brightness=0.2)
    >>> images, angles = tf.zeros((2, 8, 8, 3)), tf.constant([[0.5], [-0.5]])
    >>> images, angles = augmentation(images, angles, seed=(0, 1))
    >>> images.shape, tf.abs(angles).numpy().tolist()
    (TensorShape([2, 8, 8, 3]), [[0.5], [0.5]])
    """

    horizontal_flip: bool = setting(
        True, "Whether to mirror half of the frames, with their angles."
    )
    brightness: float = setting(
        0.3, "Largest change of brightness, as a fraction.", check=check_share
    )
    translation: float = setting(
        0.04,
        "Largest shift, as a fraction of height and width; the angle stays the same.",
        check=check_share,
    )

    def __post_init__(self):
        check_settings(self)

    def __call__(
        self, images: tf.Tensor, angles: tf.Tensor, seed: tf.Tensor | tuple[int, int]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment a batch.

        Args:
            images: Floats in 0..255, `(batch, height, width, channels)`.
            angles: Floats from -1 to 1, `(batch, 1)`.
            seed: Two integers; the same seed gives the same result.

        Returns:
            `(images, angles)` of the same shapes.
        """
        shift = Augmentation(translation=self.translation)
        images = shift(images, tf.random.experimental.stateless_fold_in(seed, 1))
        draws = tf.random.stateless_uniform((2, tf.shape(images)[0]), seed, -1.0, 1.0)
        flip = (draws[0] > 0) & self.horizontal_flip
        light = 1 + self.brightness * draws[1]
        images = tf.where(flip[:, None, None, None], tf.reverse(images, [2]), images)
        images = tf.clip_by_value(images * light[:, None, None, None], 0.0, 255.0)
        return images, tf.where(flip[:, None], -angles, angles)


def load_driving(
    name: str = "synthetic_road",
    batch_size: int = 64,
    *,
    image_size: tuple[int, int] | None = None,
    gap: int = 20,
    recovery_views: int = 0,
    augmentation: SteeringAugmentation | None = None,
    skip_bad_files: bool = False,
    seed: int = 0,
) -> DrivingData:
    """Load a recording of driving by name: check it, split it by time, batch it.

    Args:
        name: `synthetic_road` (rendered, embedded) or `tub:DIR`, a Donkeycar tub.
        batch_size: Global batch size, in frames.
        image_size: `(height, width)` in pixels to resize to; required if the frames differ in size.
        gap: Number of frames left out between frames of different splits.
        recovery_views: Number of views to render for each training frame of `synthetic_road`, as a
            car sees them that has strayed, with the angle that leads back. An epoch is drawn from
            frames and views, as many as there are frames. Recordings have none.
        augmentation: A `SteeringAugmentation` for training, or `None`.
        skip_bad_files: Whether to leave out damaged lines of a tub and frames with an unreadable
            image, with a note on stderr. Otherwise the first one is an error.
        seed: Seed of the order and the augmentation of training; the splits do not depend on it.

    Returns:
        A `DrivingData`.

    Raises:
        ValueError: if an argument, a file or a line is invalid; the message names it.

    Example:

    >>> import json, pathlib
    >>> root = pathlib.Path("drives")
    >>> (root / "images").mkdir(parents=True)
    >>> frames = []
    >>> for i in range(24):  # Six drives of four frames.
    ...     keras.utils.save_img(root / f"images/{i}.png", np.zeros((8, 8, 3)), scale=False)
    ...     frame = {"_index": i, "cam/image_array": f"{i}.png", "user/angle": i / 25}
    ...     frames.append(json.dumps(frame | {"_session_id": i // 4}))
    >>> _ = (root / "0.catalog").write_text("\\n".join(frames))
    >>> inputs, types = ["cam/image_array", "user/angle"], ["image_array", "float"]
    >>> manifest = [inputs, types, {}, {}, {"paths": ["0.catalog"]}]
    >>> _ = (root / "manifest.json").write_text("\\n".join(map(json.dumps, manifest)))
    >>> data = bigmodels.data.load_driving("tub:drives", batch_size=4)
    >>> images, angles = next(iter(data.train))
    >>> images.shape, angles.shape
    (TensorShape([4, 8, 8, 3]), TensorShape([4, 1]))
    """
    notes = Notes()
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    if recovery_views < 0:
        raise ValueError(f"recovery_views: {recovery_views!r}, expected 0 or a positive integer")
    frames, read, shape, angles, drives, deleted = _source(name, image_size, skip_bad_files, notes)
    rows = split_in_time(drives, gap)
    for split in SPLITS:
        if len(rows[split]) < 2:
            raise ValueError(
                f"dataset: {name!r} has {len(angles)} frames in {_drives(drives)} drives, too few "
                f"to hold out frames for {split} with gaps of data.gap={gap} frames"
            )
    # Evenly spaced, so that comparing it with validation shows overfitting on all of the training.
    spread = np.linspace(0, len(rows["train"]) - 1, len(rows["validation"])).astype(int)
    rows["train_sample"] = rows["train"][spread]

    def elements(split):
        return tf.data.Dataset.from_tensor_slices((frames[rows[split]], angles[rows[split], None]))

    train_elements, views = elements("train"), 0
    if recovery_views and name in embedded.DRIVES:
        train_elements, views = _with_recovery_views(
            train_elements, rows["train"], recovery_views, image_size
        )

    def read_element(path, angle):
        return read(path), angle

    def prepare(batch, batch_seed):
        images, batch_angles = batch
        images = tf.cast(images, "float32")
        if augmentation is not None and batch_seed is not None:
            return augmentation(images, batch_angles, batch_seed)
        return images, batch_angles

    def evaluated(split):
        in_order = elements(split)
        if read is not None:
            in_order = in_order.map(read_element, tf.data.AUTOTUNE)
        return evaluation_batches(in_order, batch_size, prepare)

    train, train_from = training_batches(
        train_elements,
        len(rows["train"]),
        batch_size,
        seed,
        prepare,
        read=None if read is None else read_element,
    )
    previous = np.concatenate([[np.nan], angles[:-1]]).astype("float32")
    first_frames = [i for i in range(1, len(drives)) if drives[i] != drives[i - 1]]
    previous[first_frames] = np.nan
    return DrivingData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=evaluated("train_sample"),
        validation=evaluated("validation"),
        test=evaluated("test"),
        sizes={split: len(rows[split]) for split in SPLITS},
        image_shape=shape,
        angles={split: angles[chosen] for split, chosen in rows.items()},
        places=rows,
        previous={split: previous[chosen] for split, chosen in rows.items()},
        drives=_drives(drives),
        between=len(angles) - sum(len(rows[split]) for split in SPLITS),
        deleted=deleted,
        recovery_views=views,
        notes=notes,
    )


def split_in_time(drives: Sequence[str], gap: int) -> dict[str, np.ndarray]:
    """Split frames by time such that no two frames of different splits are neighbours.

    Consecutive frames look the same, so with a random split the model would be tested on what it
    was trained on. Each drive is therefore cut into stretches of time (training, validation, test,
    and so on), with a gap after each. A drive that is too short for that belongs to one split as a
    whole.

    Args:
        drives: Name of each frame's drive, in order of time; a new drive begins where it changes.
        gap: Number of frames left out between the stretches of a drive.

    Returns:
        `{"train": rows, "validation": rows, "test": rows}`, arrays of frame indices in order; the
        same for the same drives.

    Example:

    >>> rows = split_in_time(["a"] * 1000, gap=20)
    >>> {split: len(indices) for split, indices in rows.items()}
    {'train': 544, 'validation': 148, 'test': 148}
    """
    rows = {split: [] for split in SPLITS}
    ends = [i for i in range(1, len(drives)) if drives[i] != drives[i - 1]] + [len(drives)]
    begin, short = 0, 0
    for end in ends:
        count = end - begin
        times = max(1, round(_SHARE * count / _STRETCH))
        if (1 - 2 * _SHARE) * count / times - 3 * gap < 2 * _SHARE * count / times:
            rows[_IN_TURNS[short % len(_IN_TURNS)]].append(np.arange(begin, end))
            short += 1
        else:
            bounds = np.linspace(begin, end, times + 1).astype(int)
            for first, last in itertools.pairwise(bounds):
                held = int(_SHARE * (last - first))
                stop = last - (gap if last < end else 0)  # No gap before another drive.
                rows["test"].append(np.arange(stop - held, stop))
                stop -= held + gap
                rows["validation"].append(np.arange(stop - held, stop))
                rows["train"].append(np.arange(first, stop - held - gap))
        begin = end
    return {split: np.concatenate([*parts, np.arange(0)]) for split, parts in rows.items()}


def _drives(drives):
    return 1 + sum(a != b for a, b in itertools.pairwise(drives))


def _source(name, image_size, skip_bad_files, notes):
    """`(frames, read, image shape, angles, drives, number deleted)`, after a check of every image.

    `frames` are the images and `read` is `None`, or, if they are too large for memory, `frames` are
    paths that `read` turns into images.
    """
    if name in embedded.DRIVES:
        pixels, angles, drives = embedded.DRIVES[name]()
        pixels = _of_size(pixels, image_size)
        return pixels, None, pixels.shape[1:], angles, drives, 0
    found = readers.find("driving", name)
    if found is None:
        raise unknown_name("driving", name, "not a recording of driving", embedded.DRIVES)
    source, where = found
    recorded = source.read(where, notes=notes, skip_bad_files=skip_bad_files)
    reader = files.ImageReader("tub", 3, skip_bad_files)
    frames, read, shape, kept = _tub_frames(recorded.paths, image_size, reader)
    reader.tell(notes)
    angles = np.array(recorded.angles, "float32")[kept]
    return frames, read, shape, angles, [recorded.sessions[i] for i in kept], recorded.deleted


def _with_recovery_views(recorded, rows, per_frame, image_size):
    """`(elements, number of views)`, where elements of an epoch are drawn from frames and views."""
    pixels, angles = render_views(rows, per_frame)
    views = tf.data.Dataset.from_tensor_slices((_of_size(pixels, image_size), angles[:, None]))
    pool = recorded.concatenate(views)

    def drawn(epoch_seed):
        # As many as there are frames, so that an epoch costs the same with any number of views.
        return pool.shuffle(len(rows) + len(angles), epoch_seed).take(len(rows))

    return drawn, len(angles)


def _of_size(pixels, image_size):
    if image_size is None or pixels.shape[1:3] == tuple(image_size):
        return pixels
    return files.resize(pixels, image_size).numpy()


def _tub_frames(paths, image_size, reader):
    """`(frames, read, shape, indices of the readable paths)`."""
    first, held, kept = None, None, []
    for i, path in enumerate(paths):
        image = reader.read(path)
        if image is None:
            continue
        if first is None:
            first = path
            height, width = image_size or image.shape[:2]
            shape = (int(height), int(width), 3)
            if len(paths) * np.prod(shape) <= _HELD_BYTES:
                held = np.empty((len(paths), *shape), "uint8")
        if image_size is None and image.shape != shape:
            raise ValueError(
                f"tub: {str(path)!r} is {tuple(image.shape[:2])} pixels but {str(first)!r} is "
                f"{shape[:2]}; set data.image_size=HEIGHT,WIDTH to resize them"
            )
        if held is not None:
            held[len(kept)] = _resized(image, shape)
        kept.append(i)
    if first is None:
        path, reason = next(iter(reader.bad.items()))
        raise ValueError(f"tub: no frame is left; for example, {str(path)!r} {reason}")
    if held is not None:
        return held[: len(kept)], None, shape, kept

    def read(path):
        image = files.read_file(path, 3)
        return tf.ensure_shape(_resized(image, shape), shape)

    return np.array([os.fsencode(paths[i]) for i in kept]), read, shape, kept


def _resized(image, shape):
    return image if image.shape == shape else files.resize(image, shape[:2])
