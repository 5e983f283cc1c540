"""How near made images come to real ones: two clouds of points, of a network's features of each.

Every figure is as good as the network: it sees what the features tell apart and nothing else, and
figures are comparable where the features are the same. All depend on the number of points too (with
fewer, the Fréchet distance is larger), so both clouds should have as many, and what other real
images get should stand beside them.
"""

import numpy as np

# Of Kynkäänniemi et al. (2019), who take the smallest balls.
NEIGHBOURS = 3


def frechet_distance(a, b):
    """The Fréchet distance between two clouds, each taken for a Gaussian (Heusel et al., 2017).

    `|m - n|² + tr(A + B - 2 (A B)^½)`, of the means m, n and the covariances A, B: the square of
    what is a distance.

    There is no bootstrap interval for it: points drawn twice make a cloud narrower than any new one
    would be, which moves every draw away from the other cloud.

    Args:
        a: `(points, features)`.
        b: `(points, features)`, the same features; there may be another number of points.

    Returns:
        A float, 0 for clouds with the same mean and covariance.

    Raises:
        ValueError: naming the argument that is no such array, or holds what is no finite number.
    """
    a, b = _checked(a=a, b=b)
    (mean_a, spread_a, root_a), (mean_b, spread_b, root_b) = map(_moments, (a, b))
    # The trace of the root of A B is the sum of the singular values of A^½ B^½, which unlike A B
    # need not be taken the root of: it would make 1e-8 of what is 1e-16.
    common = np.linalg.norm(root_a @ root_b, "nuc")
    return max(0.0, float(np.square(mean_a - mean_b).sum() + spread_a + spread_b - 2 * common))


def within(points, centres, neighbours=NEIGHBOURS):
    """Which points lie in the balls around which centres.

    A ball reaches to the nearest, second nearest ... `neighbours`-th of the other centres.

    Of made images as points and real ones as centres, `any(1).mean()` is the *precision*: the share
    of made images that lie near a real one. The other way round it is the *recall*: the share of
    real images that lie near a made one (Kynkäänniemi et al., 2019). Both say yes too easily: a
    ball around a point that is far from all others reaches far. In that the balls are of real
    images alone, and are counted, two more are harder to please (Naeem et al., 2020): *density*,
    `sum(1).mean() / neighbours`, in how many balls of real images a made one lies, which is about 1
    for other real images; and *coverage*, `any(0).mean()`, the share of real images whose ball
    holds a made one.

    Args:
        points: `(points, features)`.
        centres: `(centres, features)`.
        neighbours: Which of its neighbours a ball reaches to; the last, where there are fewer.

    Returns:
        Booleans `(points, centres)`.

    Raises:
        ValueError: as `frechet_distance`, or if `neighbours` is not positive.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: {neighbours!r}, expected a positive number")
    points, centres = _checked(points=points, centres=centres)
    middle = centres.mean(0)  # About which the differences of squares lose least.
    points, centres = points - middle, centres - middle
    # The nearest of all is the centre itself.
    place = min(neighbours, len(centres) - 1)
    reach = np.partition(_squared_distances(centres, centres), place, axis=1)[:, place]
    return _squared_distances(points, centres) <= reach


def _moments(points):
    """Mean, trace of the covariance, and the covariance's root."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False, ddof=min(1, len(points) - 1)))
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return points.mean(0), np.trace(covariance), root


def _squared_distances(a, b):
    """`(a, b)`, of every point of the one from every point of the other."""
    return np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T


def _checked(**clouds):
    """The two arrays in float64."""
    found = {name: np.asarray(cloud, "float64") for name, cloud in clouds.items()}
    for name, cloud in found.items():
        if cloud.ndim != 2 or 0 in cloud.shape:
            raise ValueError(f"{name}: shape {cloud.shape}, expected (points, features)")
        if not np.isfinite(cloud).all():
            raise ValueError(f"{name}: holds NaN or infinity")
    (first, a), (second, b) = found.items()
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{second}: {b.shape[1]} features, but {first} has {a.shape[1]}")
    return a, b
