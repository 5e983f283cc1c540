"""Likeness of two clouds of points, against closed forms and counting by hand."""

import numpy as np
import pytest
import scipy.linalg

from bigmodels.evaluation import fidelity


def cloud(rng, count, mean, covariance):
    """Points whose own mean and covariance are exactly these."""
    points = rng.normal(size=(count, len(mean)))
    points -= points.mean(0)
    points = points @ np.linalg.inv(scipy.linalg.cholesky(np.cov(points, rowvar=False)))
    return points @ scipy.linalg.cholesky(np.asarray(covariance)) + mean


def test_distance_between_gaussians_that_stretch_the_same_axes(rng):
    a = cloud(rng, 50, [0, 0, 0], np.diag([1.0, 4, 9]))
    b = cloud(rng, 80, [3, 0, 4], np.diag([4.0, 4, 1]))
    # The squared distance of the means, and of the standard deviations.
    assert fidelity.frechet_distance(a, b) == pytest.approx(25 + 1 + 0 + 4)
    assert fidelity.frechet_distance(b, a) == pytest.approx(30)


def test_distance_between_gaussians_of_any_kind(rng):
    """As the paper has it, with the root of a product that is not symmetric."""
    first, second = (m @ m.T for m in rng.normal(size=(2, 6, 6)))
    means = rng.normal(size=(2, 6))
    a, b = cloud(rng, 40, means[0], first), cloud(rng, 40, means[1], second)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(first + second - 2 * root)
    assert fidelity.frechet_distance(a, b) == pytest.approx(expected)
    # A rotation of both changes nothing, nor does it matter where the origin is.
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert fidelity.frechet_distance(a @ turn + 7, b @ turn + 7) == pytest.approx(expected)


def test_the_same_points_are_at_no_distance_and_all_within_each_other(rng):
    for count in (1, 3, 60):  # The first two fill fewer dimensions than there are features.
        points = rng.normal(size=(count, 8)).astype("float32") * 100
        assert fidelity.frechet_distance(points, points) == pytest.approx(0, abs=1e-8)
        inside = fidelity.within(points, points)
        assert inside.any(0).all() and inside.any(1).all()


def test_far_clouds_are_not_within_each_other(rng):
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(50, 4), loc=100)
    assert not fidelity.within(a, b).any() and not fidelity.within(b, a).any()
    assert fidelity.frechet_distance(a, b) == pytest.approx(4e4, rel=0.05)


def test_a_collapse_shows_in_the_recall_and_not_in_the_precision(rng):
    middles = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])
    real = np.concatenate([rng.normal(size=(50, 2)) + middle for middle in middles])
    made = rng.normal(size=(200, 2)) * 0.5  # One of four kinds, in the middle of it.
    near_real = fidelity.within(made, real)
    assert near_real.any(1).mean() > 0.95 and near_real.any(0).mean() <= 0.25
    assert near_real.sum(1).mean() / fidelity.NEIGHBOURS > 1
    assert fidelity.within(real, made).any(1).mean() < 0.25
    assert fidelity.frechet_distance(real, made) > 1000
    one_image = np.repeat(real[:1], 200, axis=0)
    assert fidelity.within(one_image, real).any(1).all()
    assert fidelity.within(real, one_image).any(1).sum() == 1


def test_density_and_coverage_are_harder_to_please_than_precision_and_recall(rng):
    """One real point that is far from all others, with a ball as large; made ones in between."""
    real = np.concatenate([rng.normal(size=(50, 2)), [[40.0, 0.0]]])
    near_real = fidelity.within(rng.normal(size=(50, 2)) * 0.1 + [20.0, 0.0], real)
    assert near_real.any(1).all()
    assert near_real.sum(1).mean() / fidelity.NEIGHBOURS < 0.5 and near_real.any(0).sum() == 1
    other = fidelity.within(rng.normal(size=(50, 2)), real)
    assert 0.6 < other.sum(1).mean() / fidelity.NEIGHBOURS < 1.4


@pytest.mark.parametrize("neighbours", [1, 3, 99])
def test_within_is_what_one_would_count(rng, neighbours):
    points, others = rng.normal(size=(30, 3)) * 1.5, rng.normal(size=(20, 3))
    reach = [
        sorted(np.linalg.norm(other - each) for each in others)[min(neighbours, 19)]
        for other in others
    ]
    expected = [
        [np.linalg.norm(p - o) <= r for o, r in zip(others, reach, strict=True)] for p in points
    ]
    np.testing.assert_array_equal(fidelity.within(points, others, neighbours), expected)
    assert 0 < np.mean(expected) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: fidelity.frechet_distance(a[0], a),
            "a: shape (3,), expected (points,",
        ),
        (lambda a: fidelity.frechet_distance(a, a[:0]), "b: shape (0, 3)"),
        (lambda a: fidelity.frechet_distance(a, a * np.nan), "b: holds NaN"),
        (lambda a: fidelity.within(a, a[:, :2]), "centres: 2 features, but points has 3"),
        (lambda a: fidelity.within(a, a, 0), "neighbours: 0, expected a positive number"),
    ],
)
def test_errors_name_argument_and_value(rng, call, message):
    with pytest.raises(ValueError) as error:
        call(rng.normal(size=(5, 3)))
    assert message in str(error.value)
