"""Sets in COCO's form as small as can be learnt from."""

import json

import numpy as np
import tensorflow as tf

NAMES = {7: "wide", 3: "tall"}  # The ids are in another order than the file has them.


def pictures(rng, count, size=(16, 20), most=2):
    """Dark images with light bars, each lying or standing, far from each other.

    Returns:
        `(pixels, objects)`: uint8 `(count, height, width, 3)`; for each a list of rows left, top,
        right, bottom, id of the class.
    """
    pixels = rng.integers(0, 60, (count, *size, 3), "uint8")
    objects = []
    for image in pixels:
        rows = []
        for part in range(rng.integers(1, most + 1)):
            label = int(rng.choice([*NAMES]))
            height, width = (3, 8) if label == 7 else (8, 3)
            top = int(rng.integers(size[0] - height + 1))
            left = part * 10 + int(rng.integers(10 - width))
            image[top : top + height, left : left + width] = 250
            rows.append((left, top, left + width, top + height, label))
        objects.append(rows)
    return pixels, objects


def content(objects, size=(16, 20), first=0, form="{}.png"):
    """What stands in the JSON file."""
    images = [
        {"id": i, "file_name": form.format(i), "height": size[0], "width": size[1]}
        for i in range(first, first + len(objects))
    ]
    annotations = [
        {
            "image_id": i,
            "category_id": label,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "segmentation": [[left, top, right, top, right, bottom]],
        }
        for i, rows in enumerate(objects, first)
        for left, top, right, bottom, label in rows
    ]
    annotations = [{"id": 5 * i} | row for i, row in enumerate(annotations)]
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_coco(root, count=40, size=(16, 20), split=None, first=0):
    """Images and annotations in a directory, as `images/` and `annotations/instances.json`.

    Args:
        root: A directory; it is made.
        count: Images.
        size: `(height, width)` of an image.
        split: What the JSON file's name ends in, if anything.
        first: Number of the first image.

    Returns:
        `(pixels, objects)` as of `pictures`.
    """
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels, objects = pictures(np.random.default_rng(first), count, size)
    for i, image in enumerate(pixels, first):
        (root / "images" / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    name = f"instances_{split}.json" if split else "instances.json"
    text = json.dumps(content(objects, size, first))
    (root / "annotations" / name).write_text(text)
    return pixels, objects
