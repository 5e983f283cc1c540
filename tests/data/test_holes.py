import sys

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import Augmentation, Holes, load_images
from bigmodels.data.readers.embedded import photos


def _masks(holes, seed=(1, 2), count=400, size=(28, 20), numbers=None):
    images = tf.ones((count, *size, 3))
    seed = None if numbers is not None else tf.constant(seed, tf.int64)
    inputs, same = holes(images, seed, numbers)
    assert same is images and inputs.shape == (count, *size, 4)
    mask = inputs.numpy()[..., -1]
    assert set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(inputs[..., :-1], np.repeat(1 - mask[..., None], 3, -1))
    return mask


def test_a_hole_is_a_rectangle_of_the_share_asked_for_anywhere():
    masks = _masks(Holes((0.1, 0.3)), count=3000)
    shares = masks.mean((1, 2))
    assert 0.08 < shares.min() < 0.12 and 0.27 < shares.max() < 0.33
    assert shares.mean() == pytest.approx(0.2, abs=0.01)
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)
        assert 0.4 < (len(rows) / 28) / (len(columns) / 20) < 2.5
    everywhere = masks.mean(0)
    assert everywhere.min() > 0.002 and everywhere[14, 10] > 0.3
    np.testing.assert_allclose(everywhere, everywhere[::-1, ::-1], atol=0.06)


def test_several_holes_share_the_area():
    masks = _masks(Holes((0.3, 0.3), count=3))
    assert masks.mean((1, 2)).max() < 0.36  # Each a tenth, but for rounding.
    assert masks.mean((1, 2)).min() < 0.25  # They overlap.
    whole = _masks(Holes((0.5, 0.5), count=8), size=(4, 4))
    assert whole.mean((1, 2)).max() < 1


def test_the_same_seed_or_number_cuts_the_same_hole_and_another_another():
    holes = Holes()
    np.testing.assert_array_equal(_masks(holes, (1, 2)), _masks(holes, (1, 2)))
    assert not np.array_equal(_masks(holes, (1, 2)), _masks(holes, (1, 3)))
    numbers = tf.range(400, dtype=tf.int64)
    of_numbers = _masks(holes, numbers=numbers)
    some = _masks(holes, count=3, numbers=numbers[17:20])
    np.testing.assert_array_equal(some, of_numbers[17:20])
    assert len({mask.tobytes() for mask in of_numbers}) > 390


def _all(batches):
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


@pytest.mark.thorough
def test_evaluation_always_has_the_same_holes_and_training_never():
    options = {"scale": (-1.0, 1.0), "holes": Holes()}
    data = load_images("digits", 64, seed=1, **options)
    other = load_images("digits", 100, seed=2, augmentation=Augmentation(zoom=0.1), **options)
    for split in ("train_sample", "validation", "test"):
        for mine, theirs in zip(
            _all(getattr(data, split)), _all(getattr(other, split)), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    inputs, images = _all(data.test)
    visible = inputs[..., -1] == 0
    assert inputs.shape == (500, 28, 28, 2) and images.min() == -1 and images.max() == 1
    np.testing.assert_array_equal(inputs[..., 0][visible], images[..., 0][visible])
    first, again, second = (_all(data.train_from(epoch).take(63)) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    masks = [
        {x.tobytes(): m for x, m in zip(b, a[..., 1], strict=True)} for a, b in (first, second)
    ]
    assert masks[0].keys() == masks[1].keys()  # The same digits, not in the same places.
    same = sum(np.array_equal(mask, masks[1][image]) for image, mask in masks[0].items())
    assert same < 50


def test_holes_are_not_cut_by_the_numbers_that_an_augmentation_draws():
    """Both are given the same seed."""
    holes, seed = Holes(), (3, 4)
    drawn = tf.random.stateless_uniform((400, 1, 4), seed)
    same = _masks(holes, seed) == holes._masks(drawn, 28, 20).numpy()
    assert same.all((1, 2)).mean() < 0.05


def test_photos_are_cut_into_regions_that_have_no_pixel_in_common(monkeypatch):
    from skimage import data

    def numbered():
        """Every column of pixels has a colour of its own."""
        columns = np.arange(300)
        row = np.stack([columns // 256, columns % 256, 0 * columns], -1).astype("uint8")
        return np.repeat(row[None], 64, 0)

    monkeypatch.setattr(data, "astronaut", numbered)
    splits, names = photos()
    label = names.index("astronaut")
    columns = {}
    for split, elements in splits.items():
        patches = [x for x, y in elements.as_numpy_iterator() if y == label]
        columns[split] = {
            int(c) for p in patches for c in (p[..., 0].astype(int) * 256 + p[..., 1]).flat
        }
    assert all(columns.values())
    assert max(columns["train"]) < min(columns["validation"])
    assert max(columns["validation"]) < min(columns["test"])


def test_photos_are_images_as_any_others():
    data = load_images("photos", 64)
    assert data.sizes == {"train": 5363, "validation": 259, "test": 259}
    assert data.image_shape == (32, 32, 3) and len(data.class_names) == 10
    assert all(counts.min() > 0 for counts in data.class_counts.values())
    for batches in (data.train_sample, data.validation, data.test):
        _, labels = next(iter(batches))
        assert len(np.unique(labels)) > 7  # The first few are of every photo.


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ValueError, match=r'skimage.*pip install "bigmodels\[inpainting\]"'):
        load_images("photos")
