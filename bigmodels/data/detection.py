"""Load images with bounding boxes for object detection: embedded, or from COCO annotations."""

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
from bigmodels.fields import check_settings, check_share, setting

_FEWEST = 10  # Smallest number of training images from which splits are split off.
# Sets up to this size (decoded) are held in memory; larger ones are read in every epoch.
_HELD_BYTES = 1 << 29
# An object is kept if at least this fraction of its area is still inside the shifted image.
_LEFT = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DetectionData(Splits):
    """Images with boxes ready for `fit`, as returned by `load_detection`.

    Batches are `(images, objects)`: float32 `(batch, height, width, channels)` in [0, 1], and
    float32 `(batch, most, 5)`. A row of objects is left, top, right, bottom in pixels (Keras'
    "xyxy") and the index of the class. Images with fewer than the most objects are padded with
    rows of class -1.

    Attributes (in addition to those of `Splits`):
        train: Shuffled, augmented batches; each iteration is a new epoch.
        train_sample: Training images without augmentation, as many as there are for validation.
        sizes: Number of images in each split.
        image_shape: `(height, width, channels)`.
        class_names: One name per class, in the order of their indices.
        class_counts: Number of objects per class in each split, `{split: (classes,)}`.
        objects: For each split, in order, float32 `(n, 6)` per image: a row as above for each
            object, and 1 if it is a crowd. Crowds are not targets, and detecting one is not a
            mistake.

    Example:

    >>> import json, pathlib
    >>> ids = range(10)
    >>> images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in ids]
    >>> boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 4, 4]} for i in ids]
    >>> for image in images:
    ...     keras.utils.save_img(image["file_name"], np.zeros((8, 8, 3)), scale=False)
    >>> categories = [{"id": 1, "name": "square"}]
    >>> annotations = {"images": images, "annotations": boxes, "categories": categories}
    >>> _ = pathlib.Path("train.json").write_text(json.dumps(annotations))
    >>> data = bigmodels.data.load_detection("coco:.")
    >>> data.class_names, data.image_shape, data.sizes
    (['square'], (8, 8, 3), {'train': 8, 'validation': 1, 'test': 1})
    >>> data.objects["test"][0].tolist()
    [[2.0, 2.0, 6.0, 6.0, 0.0, 0.0]]
    """

    image_shape: tuple[int, int, int]
    class_names: list[str]
    class_counts: dict[str, np.ndarray]
    objects: dict[str, list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class BoxAugmentation:
    """Random flips, shifts, zooms and brightness changes of training images and their boxes.

    A value of zero turns a transformation off. Half of the images are neither shifted nor zoomed,
    because both blur the image by interpolation. A model trained on blurred images alone takes the
    sharp edges of other images for smaller objects.

    Args:
        horizontal_flip: Whether to mirror half of the images, left to right.
        translation: Largest shift, as a fraction of height and width.
        zoom: Largest zoom in or out, as a fraction.
        brightness: Largest change of brightness, as a fraction.

    Raises:
        ValueError: naming the argument, if its value is invalid.

    Example:

    >>> augmentation = bigmodels.data.BoxAugmentation(translation=0.1, brightness=0.2)
    >>> images = tf.ones((2, 8, 8, 3))
    >>> objects = tf.constant([[[2.0, 2.0, 6.0, 6.0, 0.0]]] * 2)
    >>> images, objects = augmentation(images, objects, seed=(0, 1))
    >>> images.shape, objects.shape
    (TensorShape([2, 8, 8, 3]), TensorShape([2, 1, 5]))
    """

    horizontal_flip: bool = setting(False, "Whether to mirror half of the images.")
    translation: float = setting(
        0.0, "Largest shift, as a fraction of height and width.", check=check_share
    )
    zoom: float = setting(0.0, "Largest zoom in or out, as a fraction.", check=check_share)
    brightness: float = setting(
        0.0, "Largest change of brightness, as a fraction.", check=check_share
    )

    def __post_init__(self):
        check_settings(self)

    def __call__(
        self, images: tf.Tensor, objects: tf.Tensor, seed: tf.Tensor | tuple[int, int]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment a batch.

        Args:
            images: Floats in [0, 1], `(batch, height, width, channels)`.
            objects: Floats `(batch, most, 5)` as in `DetectionData`.
            seed: Two integers; the same seed gives the same result.

        Returns:
            `(images, objects)` of the same shapes. Objects of which less than 30 % of the area is
            left inside the image are removed.
        """
        if not (self.horizontal_flip or self.translation or self.zoom or self.brightness):
            return images, objects
        height, width = float(images.shape[1]), float(images.shape[2])
        draws = tf.random.stateless_uniform((6, tf.shape(images)[0]), seed, -1.0, 1.0)
        moved = tf.where(draws[5] > 0, draws[:3], 0.0)
        scale = 1 + moved[0] * self.zoom
        down, right = moved[1] * self.translation * height, moved[2] * self.translation * width
        mirror = tf.where((draws[3] > 0) & self.horizontal_flip, -1.0, 1.0)
        # Output pixel (x, y) is read from input pixel (a x + c, e y + f), both at pixel centres.
        a, e = mirror * scale, scale
        c = (width - 1) / 2 * (1 - a) + right
        f = (height - 1) / 2 * (1 - e) + down
        zero = tf.zeros_like(a)
        transform = tf.stack([a, zero, c, zero, e, f, zero, zero], axis=1)  # (batch, 8)
        images = ops.image.affine_transform(images, transform, "bilinear", "nearest")
        light = 1 + self.brightness * draws[4]
        images = tf.clip_by_value(images * light[:, None, None, None], 0.0, 1.0)
        # Boxes need the inverse transform, and their coordinates are those of pixel edges.
        shift, stretch = tf.stack([c, f], -1)[:, None], tf.stack([a, e], -1)[:, None]
        corners = [(objects[..., i : i + 2] - 0.5 - shift) / stretch + 0.5 for i in (0, 2)]
        size = tf.constant([width, height])
        boxes = tf.minimum(*corners), tf.maximum(*corners)  # A flip swaps left and right.
        clipped = [tf.clip_by_value(corner, 0.0, size) for corner in boxes]
        area, area_left = (tf.reduce_prod(box[1] - box[0], -1) for box in (boxes, clipped))
        classes = tf.where(area_left >= _LEFT * area, objects[..., 4], -1.0)
        return images, _padded(tf.concat([*clipped, classes[..., None]], -1))


def _padded(objects):
    """Objects with the coordinates of all rows without a class set to zero."""
    empty = tf.constant([0.0, 0.0, 0.0, 0.0, -1.0])
    return tf.where(objects[..., 4:] >= 0, objects, empty)


def load_detection(
    name: str = "digit_canvas",
    batch_size: int = 32,
    *,
    image_size: tuple[int, int] | None = None,
    max_objects: int = 100,
    augmentation: BoxAugmentation | None = None,
    skip_bad_files: bool = False,
    seed: int = 0,
) -> DetectionData:
    """Load images with bounding boxes by name: check, split and batch them.

    Args:
        name: `digit_canvas` (embedded) or `coco:DIR`, see `bigmodels.data.readers.coco`. A missing
            validation or test split takes 10 % of the training images, the same every time.
        batch_size: Global batch size, in images.
        image_size: `(height, width)` in pixels to resize images and boxes to; required if the
            images differ in size.
        max_objects: Largest number of objects that an image may have. Batches are only as wide as
            the largest number that occurs.
        augmentation: A `BoxAugmentation` for training, or `None`.
        skip_bad_files: Whether to leave out missing or unreadable images and invalid annotations,
            with a note on stderr. Otherwise the first one is an error.
        seed: Seed of the order and the augmentation of training; the splits do not depend on it.

    Returns:
        A `DetectionData`.

    Raises:
        ValueError: if an argument, a file or an annotation is invalid; the message names it.

    Example:

    >>> import json, pathlib
    >>> ids = range(10)
    >>> images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in ids]
    >>> boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 4, 4]} for i in ids]
    >>> for image in images:
    ...     keras.utils.save_img(image["file_name"], np.zeros((8, 8, 3)), scale=False)
    >>> categories = [{"id": 1, "name": "square"}]
    >>> annotations = {"images": images, "annotations": boxes, "categories": categories}
    >>> _ = pathlib.Path("train.json").write_text(json.dumps(annotations))
    >>> data = bigmodels.data.load_detection("coco:.", batch_size=2)
    >>> images, objects = next(iter(data.train))
    >>> objects.numpy().tolist()
    [[[2.0, 2.0, 6.0, 6.0, 0.0]], [[2.0, 2.0, 6.0, 6.0, 0.0]]]
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

    def read_element(path, rows):
        return read(path), rows

    def prepare(batch, batch_seed):
        images, rows = batch
        images = tf.cast(images, "float32") / 255
        if augmentation is not None and batch_seed is not None:
            return augmentation(images, rows, batch_seed)
        return images, rows

    def in_order(split, count):
        chosen = elements(split).take(count)
        if read is not None:
            chosen = chosen.map(read_element, tf.data.AUTOTUNE)
        return evaluation_batches(chosen, batch_size, prepare)

    train, train_from = training_batches(
        elements("train"),
        sizes["train"],
        batch_size,
        seed,
        prepare,
        read=None if read is None else read_element,
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
    """Objects of all images as one array `(images, most, 5)`, without crowds."""
    dense = np.zeros((len(objects), most, 5), "float32")
    dense[..., 4] = -1
    for padded, rows in zip(dense, objects, strict=True):
        single = rows[rows[:, 5] == 0, :5]
        padded[: len(single)] = single
    return dense


def _source(name, image_size, max_objects, skip_bad_files, notes):
    """`(splits, read, image shape, class names)`, after a check of every image.

    `splits` maps each split to `(images, objects)`. The images are pixels and `read` is `None`, or,
    if they are too large for memory, paths that `read` turns into pixels.
    """
    if name in embedded.OBJECTS:
        splits, class_names = embedded.OBJECTS[name]()
        if image_size is not None:
            splits = {split: _all_resized(*part, image_size) for split, part in splits.items()}
        return splits, None, splits["train"][0].shape[1:], class_names
    found = readers.find("objects", name)
    if found is None:
        raise unknown_name("objects", name, "not a set of images with boxes", embedded.OBJECTS)
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
    """Pictures for train, validation and test; missing splits are split off train."""
    missing = [split for split in SPLITS if split not in pictures]
    train = pictures["train"]
    if not missing:
        return pictures
    if len(train) < _FEWEST:
        raise ValueError(
            f"coco: {where!r} has {len(train)} images for train; at least {_FEWEST} are needed to "
            f"split off {' and '.join(missing)}"
        )
    # Not stratified, as an image has any number of classes.
    rows = stratified_split(np.zeros(len(train), int))
    new_rows = {split: rows[split] for split in missing}
    train_rows = np.setdiff1d(np.arange(len(train)), np.concatenate([*new_rows.values()]))
    new = {split: [train[i] for i in sorted(chosen)] for split, chosen in new_rows.items()}
    return pictures | new | {"train": [train[i] for i in train_rows]}


def _image(picture, reader):
    """An image of the size that its annotation says, or `None` if it was left out."""
    image = reader.read(picture.path)
    if image is None or tuple(image.shape[:2]) == picture.size:
        return image
    size = tuple(image.shape[:2])
    is_rotated = size == picture.size[::-1] and files.orientation(picture.path) > 1
    rotated = ", rotated by its EXIF orientation," if is_rotated else ","
    reason = f"is {size} pixels{rotated} but {picture.source!r} says {picture.size}"
    reader.refuse(picture.path, reason)
    return None


def _pixels(pictures, shape, held, first, reader):
    """Images of one shape, or their paths if they are not held in memory; and their objects."""
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


def _scaled(objects, size, new_size):
    """Scale objects with an image that is resized from `size` to `new_size`."""
    (height, width), (new_height, new_width) = size[:2], new_size[:2]
    across, down = new_width / width, new_height / height
    return objects * np.array([across, down, across, down, 1, 1], "float32")
