"""Metrics of generated images: Fréchet distance, precision, recall, density and coverage.

They compare two sets of feature vectors, one of generated and one of real images. Values are
comparable only between sets of the same size whose features come from the same network. Report them
together with the values that held-out real images get.
"""

import numpy as np

# As Kynkäänniemi et al. (2019).
NEIGHBOURS = 3


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance between two Gaussians fitted to features (FID; Heusel et al., 2017).

    `|m - n|² + tr(A + B - 2 (A B)^½)`, with the means m, n and the covariances A, B. Like the FID
    it is the square of a distance.

    There is no bootstrap interval for it: drawing points with replacement narrows the distribution,
    so all draws are biased upwards.

    Args:
        a: Features `(points, features)`.
        b: Features `(points, features)`; the number of points may differ.

    Returns:
        A float, 0 if mean and covariance are the same.

    Raises:
        ValueError: naming the argument that has another shape or values that are not finite.

    Example:

    >>> features = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    >>> round(frechet_distance(features, features + 2), 3)
    8.0
    """
    a, b = _checked(a=a, b=b)
    (mean_a, spread_a, root_a), (mean_b, spread_b, root_b) = map(_moments, (a, b))
    # tr((A B)^½) is the sum of the singular values of A^½ B^½. A root of A B itself would turn
    # rounding errors of 1e-16 into 1e-8.
    common = np.linalg.norm(root_a @ root_b, "nuc")
    return max(0.0, float(np.square(mean_a - mean_b).sum() + spread_a + spread_b - 2 * common))


def within(points: np.ndarray, centres: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Which points lie in the nearest-neighbour ball of which centre.

    The ball of a centre reaches to its `neighbours`-th nearest neighbour among the centres.

    With generated images as points and real ones as centres, `any(1).mean()` is the *precision*,
    the share of generated images near a real one. With the roles exchanged it is the *recall*, the
    share of real images near a generated one (Kynkäänniemi et al., 2019). Outliers have large
    balls and raise both. *Density* and *coverage* are more robust (Naeem et al., 2020). Both use
    the balls of real images only: `sum(1).mean() / neighbours` is the density, about 1 for other
    real images; `any(0).mean()` is the coverage, the share of real images whose ball contains a
    generated one.

    Args:
        points: Features `(points, features)`.
        centres: Features `(centres, features)`.
        neighbours: Number of the neighbour that a ball reaches to; the farthest if there are fewer.

    Returns:
        Booleans `(points, centres)`.

    Raises:
        ValueError: as `frechet_distance`, or if `neighbours` is not positive.

    Example:

    >>> real, generated = np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [9.0]])
    >>> inside = within(generated, real, neighbours=1)
    >>> print("precision", inside.any(1).mean(), "coverage", inside.any(0).mean().round(2))
    precision 0.5 coverage 0.67
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: {neighbours!r}, expected a positive number")
    points, centres = _checked(points=points, centres=centres)
    middle = centres.mean(0)  # Centred, the differences of squares lose the fewest digits.
    points, centres = points - middle, centres - middle
    # At place 0 is the centre itself.
    place = min(neighbours, len(centres) - 1)
    reach = np.partition(_squared_distances(centres, centres), place, axis=1)[:, place]
    return _squared_distances(points, centres) <= reach


def _moments(points):
    """Mean, trace of the covariance, and square root of the covariance."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False, ddof=min(1, len(points) - 1)))
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return points.mean(0), np.trace(covariance), root


def _squared_distances(a, b):
    """Squared distances `(a, b)` between all pairs of points."""
    return np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T


def _checked(**arrays):
    """The two arrays in float64."""
    arrays = {name: np.asarray(array, "float64") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name}: shape {array.shape}, expected (points, features)")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: holds NaN or infinity")
    (first, a), (second, b) = arrays.items()
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{second}: {b.shape[1]} features, but {first} has {a.shape[1]}")
    return a, b
