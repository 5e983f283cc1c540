"""Digits laid out on canvases: object detection whose pictures need no annotator.

The digits are real; where they lie, how large and how bright they are, and the noise over them is
drawn. Their boxes follow from that. Digits lie side by side and hardly overlap, on nothing but a
flat ground: easier than any photograph.
"""

import numpy as np
from scipy import ndimage

SIZE = 64  # Pixels, of height and width.
_MOST = 5  # Digits a canvas.
_SIDES = (12, 30)  # Pixels, of a digit's longer side.
_INK = 64  # Of 255; what is darker does not belong to a digit.
_OVERLAP = 0.1  # Of the smaller box, at most.
_TRIES = 30
_LIGHT, _GROUND, _NOISE = (0.55, 1.0), (0.0, 0.2), (0.0, 0.08)


def canvases(digits, labels, rounds, seed):
    """Canvases with one to five digits each.

    Args:
        digits: uint8 `(n, height, width, 1)`, light on dark.
        labels: Integers `(n,)`.
        rounds: How often each of them is laid out, every time at another place and size.
        seed: The same seed draws the same canvases.

    Returns:
        `(pixels, objects)`: uint8 `(canvases, 64, 64, 1)`; for each canvas float32 `(digits, 6)`,
        a row for each digit: left, top, right, bottom in pixels, its label, and 0.
    """
    rng = np.random.default_rng(seed)
    crops = [_crop(digit[..., 0]) for digit in digits]
    waiting = np.concatenate([rng.permutation(len(crops)) for _ in range(rounds)]).tolist()
    pixels, objects = [], []
    while waiting:
        canvas, rows = np.zeros((SIZE, SIZE)), []
        for _ in range(rng.integers(1, _MOST + 1)):
            if not waiting:
                break
            crop = crops[waiting[-1]]
            digit = ndimage.zoom(crop, rng.uniform(*_SIDES) / max(crop.shape), order=1)
            box = _place(digit.shape, rows, rng)
            if box is None:  # It is the next canvas's first.
                break
            left, top, right, bottom = box
            part = canvas[top:bottom, left:right]
            np.maximum(part, digit / 255 * rng.uniform(*_LIGHT), out=part)
            rows.append((*box, labels[waiting.pop()], 0))
        canvas = np.maximum(canvas, rng.uniform(*_GROUND))
        canvas += rng.normal(0, rng.uniform(*_NOISE), canvas.shape)
        pixels.append(np.rint(255 * np.clip(canvas, 0, 1)).astype("uint8")[..., None])
        objects.append(np.array(rows, "float32"))
    return np.stack(pixels), objects


def _crop(digit):
    """The part of a picture in which a digit is, with a pixel around it."""
    rows, columns = (np.flatnonzero((digit >= _INK).any(axis)) for axis in (1, 0))
    padded = np.pad(digit, 1)  # By which all places move on by one.
    return padded[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3].astype("float32")


def _place(shape, others, rng):
    """A box of a shape that hardly overlaps others, or `None` if there seems to be no room."""
    height, width = shape
    for _ in range(_TRIES):
        top, left = (int(rng.integers(SIZE - side + 1)) for side in shape)
        box = left, top, left + width, top + height
        if all(_shared(box, other) <= _OVERLAP for other in others):
            return box
    return None


def _shared(box, other):
    """The area that two boxes have in common, as a share of the smaller one."""
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)
