"""Mixed images carry the classes they are made of, in the shares in which they show."""

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import Mixing, load_images

BATCH, CLASSES = 6, 6


@pytest.fixture
def batch():
    """One image of each class, whose every pixel is the class's number."""
    images = tf.constant(np.arange(BATCH)[:, None, None, None] * np.ones((1, 8, 9, 2)), "float32")
    return images, tf.eye(BATCH)


def mixed(batch, seed, **kwargs):
    return [part.numpy() for part in Mixing(**kwargs)(*batch, tf.constant([seed, 3], "int64"))]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_what_the_images_show(batch, kind):
    shares = []
    for seed in range(20):
        images, targets = mixed(batch, seed, kind=kind, alpha=1.0)
        np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
        assert ((targets > 0).sum(-1) <= 2).all()
        # The mean pixel is the mean class number.
        np.testing.assert_allclose(images.mean((1, 2, 3)), targets @ np.arange(CLASSES), rtol=1e-5)
        whole = np.isin(images, np.arange(CLASSES))
        if kind == "cutmix":  # Every pixel is of one image.
            assert whole.all()
        shares.append(targets.max(-1))
    # Alpha of 1 makes all shares alike, so that the larger one is three quarters in the mean; a
    # sixth is mixed with itself, and CutMix loses what lies beyond the border.
    assert 0.73 < np.mean(shares) < (0.85 if kind == "mixup" else 0.93)


def test_cutmix_pastes_one_rectangle(batch):
    images, targets = mixed(batch, 5, kind="cutmix", alpha=1.0)
    pasted = 0
    for i, image in enumerate(images):
        other = image[..., 0] != i
        if not other.any():
            continue
        rows, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
        assert other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert targets[i].max() == pytest.approx(max(other.mean(), 1 - other.mean()))
        pasted += 1
    assert pasted > 2


def test_the_seed_decides(batch):
    first = mixed(batch, 1, kind="mixup", alpha=1.0)
    for a, b in zip(first, mixed(batch, 1, kind="mixup", alpha=1.0), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first[0], mixed(batch, 2, kind="mixup", alpha=1.0)[0])


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_small_alphas_leave_images_nearly_alone(batch, alpha):
    shares = [mixed(batch, seed, kind="mixup", alpha=alpha)[1].max(-1) for seed in range(20)]
    assert np.isfinite(shares).all() and np.mean(shares) > 0.95


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_beta_variates(alpha):
    count = 500
    _, targets = mixed((tf.zeros((count, 1, 1, 1)), tf.eye(count)), 1, kind="mixup", alpha=alpha)
    shares = np.diag(targets)
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_smoothing_is_spread_over_all_classes():
    targets = Mixing(label_smoothing=0.1).smoothed(tf.constant([[1.0, 0, 0, 0]])).numpy()
    np.testing.assert_allclose(targets, [[0.925, 0.025, 0.025, 0.025]])


@pytest.fixture
def folder(tmp_path):
    """Ten images of one class, thirty of another."""
    for name, count in (("few", 10), ("many", 30)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.full((6, 6, 1), 200 if name == "few" else 50, "uint8")
            (tmp_path / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return f"images:{tmp_path}"


@pytest.mark.thorough
def test_balanced_classes_count_alike(folder):
    data = load_images(folder, 8, balance_classes=True)
    weight, images = np.zeros(2), 0
    for _, labels, weights in data.train:
        np.add.at(weight, labels.numpy(), weights.numpy())
        images += len(labels)
    np.testing.assert_allclose(weight, images / 2)
    assert len(data.test.element_spec) == 2


@pytest.mark.thorough
def test_training_alone_is_mixed_and_smoothed(folder):
    mixing = Mixing("mixup", 1.0, 0.1)
    data = load_images(folder, 8, mixing=mixing, balance_classes=True)
    for images, targets, weights in data.train:
        # Undo the smoothing: the mean pixel is the mix of 50 and 200.
        few = (targets[:, 0] - 0.05) / 0.9
        pixels = tf.reduce_mean(images, (1, 2, 3)) * 255
        np.testing.assert_allclose(pixels, 50 + 150 * few, atol=1e-3)
        np.testing.assert_allclose(weights, few * 32 / 16 + (1 - few) * 32 / 48, rtol=1e-5)
    labels = np.concatenate([y for _, y in data.test])
    assert labels.dtype == "float32" and set(labels.ravel()) == {0.0, 1.0}
    assert load_images(folder, 8, mixing=Mixing()).train.element_spec[1].dtype == tf.int64
