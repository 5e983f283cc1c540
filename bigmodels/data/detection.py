"""Images with boxes around what is in them, from wherever they come."""

import dataclasses
import os

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.data import files, readers
from bigmodels.data.names import unknown_name
from bigmodels.data.notes import Notes
from bigmodels.data.pipeline import evaluation_batches, training_batches
from bigmodels.data.readers import embedded
from bigmodels.data.splits import SPLITS, Splits, stratified_split

_FEWEST = 10  # Images from which validation and test are split off.
# Images whose pixels together take no more are held in memory; others are read in their turn.
_HELD_BYTES = 1 << 29
# Of an object, what must be left in a picture that was cut off for it to count as there.
_LEFT = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DetectionData(Splits):
    """Images with boxes ready for `fit`: floats in [0, 1], and objects `(batch, most, 5)`.

    A row of objects is left, top, right, bottom in pixels of the images (Keras' "xyxy") and the
    number of the class; images with fewer than the most are filled up with rows of class -1.

    Attributes (and those of `Splits`):
        train: Shuffled, augmented batches; each iteration is another epoch.
        train_sample: As many training images as there are for validation, as evaluation sees them.
        sizes: Number of images of each split.
        image_shape: `(height, width, channels)`.
        class_names: One name a class, in the order of their numbers.
        class_counts: Number of objects of each class, `(classes,)`, for each split.
        objects: For each split, in order, float32 `(n, 6)` an image: a row as above for each
            object, and 1 if it is a crowd of them, which is no target, and no mistake to find.
    """

    image_shape: tuple
    class_names: list
    class_counts: dict
    objects: dict


@dataclasses.dataclass(frozen=True)
class BoxAugmentation:
    """How training images and their boxes are varied; zero turns a kind off.

    Half the images are neither shifted nor zoomed: what is between pixels is blurred then, and who
    has seen nothing else takes the sharp edges of other images for smaller objects.

    Args:
        horizontal_flip: Whether half the images are mirrored left to right.
        translation: Largest shift, as a share of height and width.
        zoom: Largest change of size, as a share.
        brightness: Largest change of the light, as a share.
    """

    horizontal_flip: bool = False
    translation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0

    def __call__(self, images, objects, seed):
        """Vary a batch.

        Args:
            images: Floats in [0, 1], `(batch, height, width, channels)`.
            objects: `(batch, most, 5)` as in `DetectionData`.
            seed: Two integers; the same seed varies the same way.

        Returns:
            `(images, objects)` of the same shapes; objects most of which is cut off are gone.
        """
        if not (self.horizontal_flip or self.translation or self.zoom or self.brightness):
            return images, objects
        height, width = float(images.shape[1]), float(images.shape[2])
        draws = tf.random.stateless_uniform((6, tf.shape(images)[0]), seed, -1.0, 1.0)
        moved = tf.where(draws[5] > 0, draws[:3], 0.0)
        scale = 1 + moved[0] * self.zoom
        down, right = moved[1] * self.translation * height, moved[2] * self.translation * width
        mirror = tf.where((draws[3] > 0) & self.horizontal_flip, -1.0, 1.0)
        # Output pixel (x, y) is read from input pixel (a x + c, e y + f), counted at their middles.
        a, e = mirror * scale, scale
        c = (width - 1) / 2 * (1 - a) + right
        f = (height - 1) / 2 * (1 - e) + down
        zero = tf.zeros_like(a)
        transform = tf.stack([a, zero, c, zero, e, f, zero, zero], axis=1)  # (batch, 8)
        images = ops.image.affine_transform(images, transform, "bilinear", "nearest")
        light = 1 + self.brightness * draws[4]
        images = tf.clip_by_value(images * light[:, None, None, None], 0.0, 1.0)
        # Boxes go the other way round, and lie between the pixels.
        shift, stretch = tf.stack([c, f], -1)[:, None], tf.stack([a, e], -1)[:, None]
        corners = [(objects[..., i : i + 2] - 0.5 - shift) / stretch + 0.5 for i in (0, 2)]
        size = tf.constant([width, height])
        whole = tf.minimum(*corners), tf.maximum(*corners)  # A mirror has made left of right.
        seen = [tf.clip_by_value(corner, 0.0, size) for corner in whole]
        area, left = (tf.reduce_prod(box[1] - box[0], -1) for box in (whole, seen))
        classes = tf.where(left >= _LEFT * area, objects[..., 4], -1.0)
        return images, _padded(tf.concat([*seen, classes[..., None]], -1))


def _padded(objects):
    """Objects in which the rows without a class are of zeros, as everywhere."""
    empty = tf.constant([0.0, 0.0, 0.0, 0.0, -1.0])
    return tf.where(objects[..., 4:] >= 0, objects, empty)


def load_detection(
    name="digit_canvas",
    batch_size=32,
    *,
    image_size=None,
    max_objects=100,
    augmentation=None,
    skip_bad_files=False,
    seed=0,
):
    """Load images with boxes by name, check them, split them, batch them.

    Args:
        name: `digit_canvas` (embedded) or `coco:DIR`, see `bigmodels.data.readers.coco`; what of
            validation and test is not there is split off training, 10 % each, the same every time.
        batch_size: The global batch.
        image_size: `(height, width)` to resize to, and the boxes with them; needed if the images
            differ in size.
        max_objects: Objects that an image may have. Batches are as wide as the most that one has.
        augmentation: A `BoxAugmentation` for training, or `None`.
        skip_bad_files: Whether images that are not there or cannot be read, and annotations that
            do not fit, are left out, counted and named on stderr; else the first is an error.
        seed: Decides the order and the augmentation of training, nothing else.

    Returns:
        A `DetectionData`.

    Raises:
        ValueError: naming the argument, file or annotation that does not fit.
    """
    notes = Notes()
    for argument, value in {"batch_size": batch_size, "max_objects": max_objects}.items():
        if value < 1:
            raise ValueError(f"{argument}: {value!r}, expected a positive integer")
    splits, read, shape, class_names = _source(name, image_size, max_objects, skip_bad_files, notes)
    objects = {split: splits[split][1] for split in SPLITS}
    counts = {}
    for split, rows in objects.items():
        classes = np.concatenate([row[row[:, 5] == 0, 4] for row in rows]).astype(int)
        counts[split] = np.bincount(classes, minlength=len(class_names))
        if not counts[split].any():
            raise ValueError(f"dataset: {name!r} has no object for {split}")
    most = max(int((row[:, 5] == 0).sum()) for rows in objects.values() for row in rows)
    sizes = {split: len(objects[split]) for split in SPLITS}

    def elements(split):
        images, rows = splits[split]
        return tf.data.Dataset.from_tensor_slices((images, _dense(rows, most)))

    def looked_up(image, rows):
        return read(image), rows

    def prepare(batch, batch_seed):
        images, rows = batch
        images = tf.cast(images, "float32") / 255
        if augmentation is not None and batch_seed is not None:
            return augmentation(images, rows, batch_seed)
        return images, rows

    def in_order(split, count):
        chosen = elements(split).take(count)
        if read is not None:
            chosen = chosen.map(looked_up, tf.data.AUTOTUNE)
        return evaluation_batches(chosen, batch_size, prepare)

    train, train_from = training_batches(
        elements("train"),
        sizes["train"],
        batch_size,
        seed,
        prepare,
        read=None if read is None else looked_up,
    )
    return DetectionData(
        name=name,
        train=train,
        train_from=train_from,
        train_sample=in_order("train", min(sizes["train"], sizes["validation"])),
        validation=in_order("validation", sizes["validation"]),
        test=in_order("test", sizes["test"]),
        sizes=sizes,
        image_shape=shape,
        class_names=class_names,
        class_counts=counts,
        objects=objects,
        notes=notes,
    )


def _dense(objects, most):
    """Objects of images as one array `(images, most, 5)`, without the crowds."""
    dense = np.zeros((len(objects), most, 5), "float32")
    dense[..., 4] = -1
    for row, found in zip(dense, objects, strict=True):
        single = found[found[:, 5] == 0, :5]
        row[: len(single)] = single
    return dense


def _source(name, image_size, max_objects, skip_bad_files, notes):
    """`(splits, read, image shape, class names)`, every image looked at.

    `splits` maps each split to `(images, objects)`. The images are pixels, or, for more than memory
    should hold, what `read` makes an image of; `read` is then not `None`.
    """
    if name in embedded.OBJECTS:
        splits, class_names = embedded.OBJECTS[name]()
        if image_size is not None:
            splits = {split: _all_resized(*part, image_size) for split, part in splits.items()}
        return splits, None, splits["train"][0].shape[1:], class_names
    found = readers.find("objects", name)
    if found is None:
        raise unknown_name("objects", name, "no images with boxes", embedded.OBJECTS)
    source, where = found
    pictures, class_names = source.read(where, notes=notes, skip_bad_files=skip_bad_files)
    pictures = _three_splits(pictures, where)
    everything = [picture for split in SPLITS for picture in pictures[split]]
    for picture in everything:
        single = int((picture.objects[:, 5] == 0).sum())
        if single > max_objects:
            raise ValueError(
                f"coco: {picture.source!r}: {str(picture.path)!r} has {single} objects, more than "
                f"data.max_objects={max_objects}"
            )
    reader = files.ImageReader("coco", 3, skip_bad_files)
    first = (
        None if image_size else next((p for p in everything if _image(p, reader) is not None), None)
    )
    if not image_size and first is None:
        raise ValueError(f"coco: {where!r} has no image that can be read")
    shape = (*(image_size or first.size), 3)
    held = len(everything) * np.prod(shape) <= _HELD_BYTES
    splits = {split: _pixels(pictures[split], shape, held, first, reader) for split in SPLITS}
    reader.tell(notes)

    def read(path):
        image = files.read_file(path, 3)
        return tf.ensure_shape(_resized(image, shape), shape)

    return splits, None if held else read, shape, class_names


def _three_splits(pictures, where):
    """Pictures for train, validation and test; what is missing is cut from train."""
    missing = [split for split in SPLITS if split not in pictures]
    train = pictures["train"]
    if not missing:
        return pictures
    if len(train) < _FEWEST:
        raise ValueError(
            f"coco: {where!r} has {len(train)} images for train; at least {_FEWEST} are needed to "
            f"split off {' and '.join(missing)}"
        )
    # Every image has several classes, or none: they are not told apart.
    rows = stratified_split(np.zeros(len(train), int))
    cut = {split: rows[split] for split in missing}
    kept = np.setdiff1d(np.arange(len(train)), np.concatenate([*cut.values()]))
    found = {split: [train[i] for i in sorted(chosen)] for split, chosen in cut.items()}
    return pictures | found | {"train": [train[i] for i in kept]}


def _image(picture, reader):
    """A checked image, or `None` if it was left out."""
    image = reader.read(picture.path)
    if image is None or tuple(image.shape[:2]) == picture.size:
        return image
    size = tuple(image.shape[:2])
    turned = size == picture.size[::-1] and files.orientation(picture.path) > 1
    reason = (
        f"is {size} pixels{', turned as its EXIF orientation says,' if turned else ','} but "
        f"{picture.source!r} says {picture.size}"
    )
    reader.refuse(picture.path, reason)
    return None


def _pixels(pictures, shape, held, first, reader):
    """Images of one shape, or their paths if they are not to be held; and their objects."""
    pixels, kept = np.empty((len(pictures) if held else 0, *shape), "uint8"), []
    for picture in pictures:
        image = _image(picture, reader)
        if image is None:
            continue
        if first is not None and image.shape != shape:
            raise ValueError(
                f"coco: {str(picture.path)!r} is {picture.size} pixels but {str(first.path)!r} is "
                f"{first.size}; set data.image_size=HEIGHT,WIDTH to resize them"
            )
        if held:
            pixels[len(kept)] = _resized(image, shape)
        kept.append(picture)
    objects = [_scaled(picture.objects, picture.size, shape) for picture in kept]
    if held:
        return pixels[: len(kept)], objects
    return np.array([os.fsencode(picture.path) for picture in kept]), objects


def _resized(image, shape):
    return image if image.shape == shape else files.resize(image, shape[:2])


def _all_resized(pixels, objects, size):
    whole = pixels.shape[1:3]
    return files.resize(pixels, size).numpy(), [_scaled(rows, whole, size) for rows in objects]


def _scaled(objects, size, wanted):
    """Objects in an image of one size, for the same at another."""
    (height, width), (new_height, new_width) = size[:2], wanted[:2]
    across, down = new_width / width, new_height / height
    return objects * np.array([across, down, across, down, 1, 1], "float32")
