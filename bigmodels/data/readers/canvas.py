"""Place digits on canvases, as data for object detection that need no annotation by hand.

The digits are real. Their positions, sizes and brightness, and the noise, are drawn at random, and
the boxes follow from them. The digits hardly overlap and the background is plain, so the task is
easier than with photographs.
"""

import numpy as np
from scipy import ndimage

SIZE = 64  # Height and width of a canvas, in pixels.
_MOST = 5  # Largest number of digits on a canvas.
_SIDES = (12, 30)  # Range of the longer side of a digit, in pixels.
_INK = 64  # Darker pixels (0..255) are not part of a digit.
_OVERLAP = 0.1  # Largest overlap of two boxes, as a fraction of the smaller one.
_TRIES = 30
_LIGHT, _GROUND, _NOISE = (0.55, 1.0), (0.0, 0.2), (0.0, 0.08)


def canvases(
    digits: np.ndarray, labels: np.ndarray, rounds: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Make canvases with one to five digits each.

    Args:
        digits: uint8 `(n, height, width, 1)`, light on dark.
        labels: Integers `(n,)`.
        rounds: How often each digit is used, each time with another position and size.
        seed: Random seed.

    Returns:
        `(pixels, objects)`: uint8 `(canvases, 64, 64, 1)`, and for each canvas float32
        `(digits, 6)` with a row for each digit: left, top, right, bottom in pixels, its label,
        and 0.

    Example:

    >>> digits = np.full((1, 28, 28, 1), 255, "uint8")
    >>> pixels, objects = canvases(digits, np.array([7]), rounds=1, seed=0)
    >>> pixels.shape, objects[0].shape, objects[0][0, 4]
    ((1, 64, 64, 1), (1, 6), np.float32(7.0))
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
            if box is None:  # The digit is used on the next canvas.
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
    """The bounding box of a digit with a margin of one pixel."""
    rows, columns = (np.flatnonzero((digit >= _INK).any(axis)) for axis in (1, 0))
    padded = np.pad(digit, 1)  # This shifts all positions by one.
    return padded[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3].astype("float32")


def _place(shape, others, rng):
    """A random box that hardly overlaps others, or `None` if no room was found."""
    height, width = shape
    for _ in range(_TRIES):
        top, left = (int(rng.integers(SIZE - side + 1)) for side in shape)
        box = left, top, left + width, top + height
        if all(_shared(box, other) <= _OVERLAP for other in others):
            return box
    return None


def _shared(box, other):
    """The area of the intersection of two boxes, as a fraction of the smaller box."""
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)
