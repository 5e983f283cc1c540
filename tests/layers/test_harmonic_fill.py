"""Against what is known of Laplace's equation."""

import numpy as np
import pytest

from bigmodels.layers import HarmonicFill


def _hole(size, top, left, height, width):
    mask = np.zeros((1, *size, 1), "float32")
    mask[:, top : top + height, left : left + width] = 1
    return mask


def _fill(image, mask, **kwargs):
    return np.asarray(HarmonicFill(**kwargs)(np.concatenate([image, mask], -1)))


@pytest.mark.parametrize("size", [(16, 16), (15, 9)])
def test_a_plane_is_continued_as_it_is(size):
    """Linear brightness is harmonic, so that the true pixels are the solution."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype("float32")
    image = (0.05 * rows - 0.03 * columns)[None, ..., None]
    mask = _hole(size, 4, 2, 6, 5)
    found = _fill(image * (1 - mask), mask, steps=60)
    np.testing.assert_allclose(found, image, atol=5e-3)
    roughly = _fill(image * (1 - mask), mask)
    assert np.abs(roughly - image).max() < 0.1


@pytest.mark.thorough
def test_it_is_the_solution_of_the_linear_system(rng):
    image, mask = rng.normal(size=(1, 12, 12, 1)).astype("float32"), _hole((12, 12), 3, 0, 5, 7)
    inside = np.argwhere(mask[0, ..., 0] > 0)
    numbers = {tuple(place): i for i, place in enumerate(inside)}
    matrix, right = np.zeros((len(inside),) * 2), np.zeros(len(inside))
    for i, (row, column) in enumerate(inside):
        for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if min(place) < 0 or max(place) > 11:
                continue
            matrix[i, i] += 1
            if place in numbers:
                matrix[i, numbers[place]] -= 1
            else:
                right[i] += image[0, place[0], place[1], 0]
    found = _fill(image, mask, steps=300)[0, ..., 0]
    np.testing.assert_allclose(found[tuple(inside.T)], np.linalg.solve(matrix, right), atol=1e-4)


def test_what_is_seen_stays_and_what_is_hidden_is_not_looked_at(rng):
    image, mask = rng.normal(size=(2, 8, 8, 3)).astype("float32"), _hole((8, 8), 2, 2, 3, 4)
    mask = np.concatenate([mask, np.zeros_like(mask)])
    filled = _fill(image, mask)
    hole = np.broadcast_to(mask > 0, image.shape)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    spoilt = np.where(hole, 9, image).astype("float32")
    np.testing.assert_array_equal(filled, _fill(spoilt, mask))
    around = image[0][~hole[0]]
    assert around.min() <= filled[0].min() and filled[0].max() <= around.max()


def test_an_image_that_is_all_hole_is_zero(rng):
    image = rng.normal(size=(1, 8, 8, 1)).astype("float32")
    assert (_fill(image, np.ones_like(image)) == 0).all()
