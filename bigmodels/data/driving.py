"""Camera frames with the steering that a driver gave at that moment, from wherever they come."""

import dataclasses
import itertools
import os

import numpy as np
import tensorflow as tf

from bigmodels.data import files, readers
from bigmodels.data.names import unknown_name
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import Augmentation, evaluation_batches, training_batches
from bigmodels.data.readers import embedded
from bigmodels.data.splits import SPLITS, Splits

# Of a drive, for each of validation and test; in stretches of about so many frames.
_SHARE, _STRETCH = 0.15, 50
# Where drives are too short to be cut, these are whole drives, in turns.
_IN_TURNS = ("train", "train", "validation", "train", "train", "test", "train")
# Frames that take no more, decoded and resized, are kept in memory; else each is read in its turn.
_HELD_BYTES = 1 << 29


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DrivingData(Splits):
    """Frames ready for `fit`: floats in 0..255, and angles `(batch, 1)` from -1 to 1.

    Attributes (and those of `Splits`):
        train: Shuffled, augmented batches; each iteration is another epoch.
        train_sample: As many training frames as there are for validation, evenly spread over them,
            as evaluation sees them.
        validation: Batches in order of time.
        test: Batches in order of time.
        sizes: Number of frames of each split.
        image_shape: `(height, width, 3)`.
        angles: True angles of each split in its order, float32 `(frames,)`.
        places: For each split, where its frames stand in the recording: whose numbers follow one
            another are neighbours in time.
        previous: For each split, the true angle of the frame before each; NaN where there is none.
        drives: How many drives there are.
        between: How many frames lie in no split, as they keep apart those that do.
        deleted: How many frames the recording marks as deleted; they are in none of the above.
    """

    image_shape: tuple
    angles: dict
    places: dict
    previous: dict
    drives: int
    between: int
    deleted: int


@dataclasses.dataclass(frozen=True)
class SteeringAugmentation:
    """How training frames are varied; zero turns a kind off. Evaluation never uses it.

    Args:
        horizontal_flip: Whether half the frames are mirrored left to right, and their angles with
            them.
        brightness: Largest change of the light, as a share.
        translation: Largest shift, as a share of height and width; the angle stays.
    """

    horizontal_flip: bool = True
    brightness: float = 0.3
    translation: float = 0.04

    def __call__(self, images, angles, seed):
        """Vary a batch.

        Args:
            images: Floats in 0..255, `(batch, height, width, channels)`.
            angles: `(batch, 1)`.
            seed: Two integers; the same seed varies the same way.

        Returns:
            `(images, angles)` of the same shapes.
        """
        shift = Augmentation(translation=self.translation)
        images = shift(images, tf.random.experimental.stateless_fold_in(seed, 1))
        draws = tf.random.stateless_uniform((2, tf.shape(images)[0]), seed, -1.0, 1.0)
        mirrored = (draws[0] > 0) & self.horizontal_flip
        light = 1 + self.brightness * draws[1]
        images = tf.where(mirrored[:, None, None, None], tf.reverse(images, [2]), images)
        images = tf.clip_by_value(images * light[:, None, None, None], 0.0, 255.0)
        return images, tf.where(mirrored[:, None], -angles, angles)


def load_driving(
    name="synthetic_road",
    batch_size=64,
    *,
    image_size=None,
    gap=20,
    augmentation=None,
    skip_bad_files=False,
    seed=0,
):
    """Load a recording by name, check it, split it in time, batch it.

    Args:
        name: `synthetic_road` (rendered, embedded) or `tub:DIR`, a Donkeycar tub.
        batch_size: The global batch.
        image_size: `(height, width)` to resize to; needed if the frames differ in size.
        gap: Frames left out between those of different splits.
        augmentation: A `SteeringAugmentation` for training, or `None`.
        skip_bad_files: Whether damaged lines of a tub and frames whose image cannot be read are
            left out, counted and named on stderr; else the first of them is an error.
        seed: Decides the order and the augmentation of training, nothing else.

    Returns:
        A `DrivingData`.

    Raises:
        ValueError: naming the argument, file or line that does not fit.
    """
    notes = Notes()
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    frames, read, shape, angles, drives, deleted = _source(name, image_size, skip_bad_files, notes)
    rows = split_in_time(drives, gap)
    for split in SPLITS:
        if len(rows[split]) < 2:
            raise ValueError(
                f"dataset: {name!r} has {len(angles)} frames in {_drives(drives)} drives, too few "
                f"to hold out frames for {split} with gaps of data.gap={gap} frames"
            )
    # Evenly spread: its frames beside those of validation are to say how far it overfits.
    spread = np.linspace(0, len(rows["train"]) - 1, len(rows["validation"])).astype(int)
    rows["train_sample"] = rows["train"][spread]

    def elements(split):
        return tf.data.Dataset.from_tensor_slices((frames[rows[split]], angles[rows[split], None]))

    def looked_up(frame, angle):
        return read(frame), angle

    def prepare(batch, batch_seed):
        images, batch_angles = batch
        images = tf.cast(images, "float32")
        if augmentation is not None and batch_seed is not None:
            return augmentation(images, batch_angles, batch_seed)
        return images, batch_angles

    def evaluated(split):
        in_order = elements(split)
        if read is not None:
            in_order = in_order.map(looked_up, tf.data.AUTOTUNE)
        return evaluation_batches(in_order, batch_size, prepare)

    train, train_from = training_batches(
        elements("train"),
        len(rows["train"]),
        batch_size,
        seed,
        prepare,
        read=None if read is None else looked_up,
    )
    previous = np.concatenate([[np.nan], angles[:-1]]).astype("float32")
    begins = [place for place in range(1, len(drives)) if drives[place] != drives[place - 1]]
    previous[begins] = np.nan
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
        notes=notes,
    )


def split_in_time(drives, gap):
    """Frame numbers of a split in which no two frames of different parts are neighbours.

    Frames a moment apart show the same: drawn at random, the test's would have been trained on. So
    each drive is cut into stretches of time (training, validation, test, and again), with a gap
    after each. A drive that is too short for that is in one part as a whole.

    Args:
        drives: A name for each frame, in order of time; where it changes another drive begins.
        gap: Frames left out between the stretches of a drive.

    Returns:
        `{"train": rows, "validation": rows, "test": rows}`, in order; the same for the same drives.
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
                stop = last - (gap if last < end else 0)  # What follows is another drive.
                rows["test"].append(np.arange(stop - held, stop))
                stop -= held + gap
                rows["validation"].append(np.arange(stop - held, stop))
                rows["train"].append(np.arange(first, stop - held - gap))
        begin = end
    return {split: np.concatenate([*parts, np.arange(0)]) for split, parts in rows.items()}


def _drives(drives):
    return 1 + sum(a != b for a, b in itertools.pairwise(drives))


def _source(name, image_size, skip_bad_files, notes):
    """`(frames, read, image shape, angles, drives, number deleted)`, every image looked at.

    `frames` are the images themselves, or, for more than memory should hold, what `read` makes an
    image of; `read` is then not `None`.
    """
    if name in embedded.DRIVES:
        pixels, angles, drives = embedded.DRIVES[name]()
        if image_size is not None and pixels.shape[1:3] != tuple(image_size):
            pixels = files.resize(pixels, image_size).numpy()
        return pixels, None, pixels.shape[1:], angles, drives, 0
    found = readers.find("driving", name)
    if found is None:
        raise unknown_name("driving", name, "no recording of driving", embedded.DRIVES)
    source, where = found
    recorded = source.read(where, notes=notes, skip_bad_files=skip_bad_files)
    reader = files.ImageReader("tub", 3, skip_bad_files)
    frames, read, shape, kept = _tub_frames(recorded.paths, image_size, reader)
    reader.tell(notes)
    angles = np.array(recorded.angles, "float32")[kept]
    return frames, read, shape, angles, [recorded.sessions[i] for i in kept], recorded.deleted


def _tub_frames(paths, image_size, reader):
    """`(frames, read, shape, which of the paths were kept)`."""
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
        raise ValueError(f"tub: no frame is left; {str(path)!r}, for one, {reason}")
    if held is not None:
        return held[: len(kept)], None, shape, kept

    def read(path):
        image = files.read_file(path, 3)
        return tf.ensure_shape(_resized(image, shape), shape)

    return np.array([os.fsencode(paths[i]) for i in kept]), read, shape, kept


def _resized(image, shape):
    return image if image.shape == shape else files.resize(image, shape[:2])
