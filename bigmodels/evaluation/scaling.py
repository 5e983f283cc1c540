"""Scaling laws: how the loss falls with compute, and what a larger training will reach.

The form is that of Hoffmann et al. (2022, "Training Compute-Optimal Large Language Models", eq. 2):
a loss that no model goes below, and a power law for each quantity that grows,

    loss = E + (C0 / C)^alpha                         of the training's compute C, or
    loss = E + (N0 / N)^alpha + (D0 / D)^beta         of parameters N and tokens D.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from bigmodels.evaluation.intervals import LEVEL

# Beyond this multiple of the largest run, or below this part of the smallest, a prediction is far.
FAR = 10.0
# Exponents, and the share of the lowest loss that is E, from which the fit starts.
_STARTS = [(exponent, share) for exponent in (0.1, 0.3, 0.8) for share in (0.0, 0.3, 0.6, 0.9)]
_LARGEST_EXPONENT = 4.0
# Quantities whose logarithms correlate more than this cannot be told apart.
_TOGETHER = 0.98


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """A fitted law, `loss = irreducible + sum((scale / quantity) ** exponent)`.

    Attributes:
        irreducible: The loss that is left at infinite size, `E`.
        scales: `{quantity: the size at which its term is 1}`.
        exponents: `{quantity: exponent}`.
        fitted: `{quantity: (smallest, largest) of the runs}`.
        deviation: Standard deviation of the runs from the law, as a share of the loss.

    Example:

    >>> law = fit([5.0, 4.0, 3.5, 3.25], compute=[1, 2, 4, 8])
    >>> print(f"{law.irreducible:.2f} {law.exponents['compute']:.2f}")
    3.00 1.00
    """

    irreducible: float
    scales: dict[str, float]
    exponents: dict[str, float]
    fitted: dict[str, tuple[float, float]]
    deviation: float
    # Of `_values`: geometric means of the sizes, parameters, their covariance in units of the
    # deviation, and degrees of freedom.
    _centres: np.ndarray = dataclasses.field(repr=False)
    _parameters: np.ndarray = dataclasses.field(repr=False)
    _covariance: np.ndarray = dataclasses.field(repr=False)
    _freedom: int = dataclasses.field(repr=False)

    def predict(self, **sizes: float) -> float:
        """The loss at given sizes.

        Args:
            **sizes: A positive number for each quantity of the law, or arrays of them.

        Returns:
            The loss, in the unit of the fitted losses.

        Raises:
            ValueError: naming the quantity that is missing, unknown or not positive.

        Example:

        >>> round(fit([5.0, 4.0, 3.5, 3.25], compute=[1, 2, 4, 8]).predict(compute=16), 3)
        3.125
        """
        losses = _values(self._parameters, self._centred(sizes))
        return float(losses[0]) if np.ndim(next(iter(sizes.values()))) == 0 else losses

    def interval(self, **sizes: float) -> tuple[float, float]:
        """A 95% prediction interval of one more run, by the delta method and Student's t.

        It covers how far the runs lie from the law, and what they leave open about it; not that
        the law may end beyond them.

        Args:
            **sizes: As for `predict`, numbers.

        Returns:
            `(low, high)`.

        Raises:
            ValueError: as for `predict`.

        Example:

        >>> law = fit([5.1, 4.0, 3.5, 3.25], compute=[1, 2, 4, 8])
        >>> low, high = law.interval(compute=16)
        >>> low < law.predict(compute=16) < high
        True
        """
        logs = self._centred(sizes)
        slope = _slopes(self._parameters, logs)[0]
        spread = self.deviation * np.sqrt(1 + slope @ self._covariance @ slope)
        reach = np.exp(stats.t.ppf((1 + LEVEL) / 2, self._freedom) * spread)
        loss = float(_values(self._parameters, logs)[0])
        return loss / float(reach), loss * float(reach)

    def beyond(self, **sizes: float) -> dict[str, float]:
        """Which sizes are more than ten times outside the runs.

        Args:
            **sizes: As for `predict`, numbers.

        Returns:
            `{quantity: multiple of the largest run, or share of the smallest}`.

        Example:

        >>> fit([5.0, 4.0, 3.5, 3.25], compute=[1, 2, 4, 8]).beyond(compute=160)
        {'compute': 20.0}
        """
        far = {}
        for name, value in sizes.items():
            least, most = self.fitted[name]
            if value > FAR * most or value < least / FAR:
                far[name] = float(value / (most if value > most else least))
        return far

    @property
    def formula(self) -> str:
        """The law as a line of text."""
        terms = [
            f"({self.scales[name]:.3g} / {name})^{self.exponents[name]:.3f}" for name in self.scales
        ]
        return " + ".join([f"loss = {self.irreducible:.3f}", *terms])

    def _centred(self, sizes):
        """Logarithms of sizes over their centres, `(n, quantities)`."""
        if sizes.keys() != self.scales.keys():
            raise ValueError(f"sizes: {sorted(sizes)} given, expected {sorted(self.scales)}")
        columns = [_positive(name, np.ravel(sizes[name])) for name in self.scales]
        return np.log(np.stack(columns, 1)) - self._centres


def fit(losses: Sequence[float], **sizes: Sequence[float]) -> ScalingLaw:
    """Fit a scaling law by least squares of the logarithms of the losses.

    Args:
        losses: Final losses of the runs, `(n,)`.
        **sizes: `compute=`, floating-point operations of each run, `(n,)`; or `parameters=` and
            `tokens=`, `(n,)` each. The names are yours.

    Returns:
        A `ScalingLaw`.

    Raises:
        ValueError: if there are fewer than four different runs (six for two quantities), a number
            is not positive, two quantities grow together, or the losses do not fall.

    Example:

    >>> n, d = np.meshgrid([1e6, 4e6, 16e6], [1e8, 4e8, 16e8])
    >>> n, d = n.ravel(), d.ravel()
    >>> law = fit(1.7 + (2e6 / n) ** 0.3 + (3e8 / d) ** 0.4, parameters=n, tokens=d)
    >>> {name: round(exponent, 2) for name, exponent in law.exponents.items()}
    {'parameters': 0.3, 'tokens': 0.4}
    """
    losses = _positive("losses", losses)
    columns = [_positive(name, values, len(losses)) for name, values in sizes.items()]
    if not columns:
        raise ValueError("sizes: none given, expected compute=, or parameters= and tokens=")
    points = np.stack(columns, 1)  # (runs, quantities)
    least = 2 + 2 * len(columns)
    if (different := len(np.unique(points, axis=0))) < least:
        names = " and ".join(sizes)
        raise ValueError(
            f"runs: {different} of different {names}, expected {least} or more for a law with "
            f"{least - 1} unknowns"
        )
    logs = np.log(points)
    if len(columns) > 1 and np.abs(np.corrcoef(logs.T)[0, 1]) > _TOGETHER:
        raise ValueError(f"{' and '.join(sizes)}: they grow together; fit over compute instead")
    centres = logs.mean(0)
    logs = logs - centres

    def residuals(parameters):
        return np.log(_values(parameters, logs) / losses)

    count, lowest = len(columns), losses.min()
    # E, then a term's value at the centre and its exponent, for each quantity.
    lower = [0.0, *[1e-9 * lowest] * count, *[0.0] * count]
    upper = [lowest, *[100 * losses.max()] * count, *[_LARGEST_EXPONENT] * count]
    fits = [
        optimize.least_squares(
            residuals,
            [
                share * lowest,
                *[(np.median(losses) - share * lowest) / count] * count,
                *[exponent] * count,
            ],
            lambda parameters: _slopes(parameters, logs),
            bounds=(lower, upper),
            x_scale=[lowest, *[lowest] * count, *[0.3] * count],
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        )
        for exponent, share in _STARTS
    ]
    best = min(fits, key=lambda found: found.cost)
    values, exponents = best.x[1 : 1 + count], best.x[1 + count :]
    for name, exponent, value in zip(sizes, exponents, values, strict=True):
        if exponent < 1e-3 or value < 1e-6 * lowest:
            raise ValueError(f"losses: they do not fall as {name} grows, so no law fits")
    # At the bound E is not free.
    free = np.ones(len(best.x), bool)
    free[0] = best.x[0] > 1e-6 * lowest
    covariance = np.zeros((len(best.x), len(best.x)))
    slopes = _slopes(best.x, logs)[:, free]
    covariance[np.ix_(free, free)] = np.linalg.pinv(slopes.T @ slopes)
    freedom = len(losses) - int(free.sum())
    return ScalingLaw(
        irreducible=float(best.x[0]),
        scales={
            name: float(np.exp(centre) * value ** (1 / exponent))
            for name, centre, value, exponent in zip(sizes, centres, values, exponents, strict=True)
        },
        exponents=dict(zip(sizes, map(float, exponents), strict=True)),
        fitted={
            name: (float(min(column)), float(max(column)))
            for name, column in zip(sizes, columns, strict=True)
        },
        deviation=float(np.sqrt(2 * best.cost / freedom)),
        _centres=centres,
        _parameters=best.x,
        _covariance=covariance,
        _freedom=freedom,
    )


def _values(parameters, logs):
    """Losses `(n,)` at centred logarithms `(n, quantities)`."""
    return parameters[0] + _terms(parameters, logs).sum(1)


def _terms(parameters, logs):
    count = logs.shape[1]
    return parameters[1 : 1 + count] * np.exp(-parameters[1 + count :] * logs)


def _slopes(parameters, logs):
    """Derivatives of the logarithms of the losses, `(n, parameters)`."""
    terms = _terms(parameters, logs)
    values = parameters[1 : 1 + logs.shape[1]]
    columns = [np.ones((len(logs), 1)), terms / values, -terms * logs]
    return np.concatenate(columns, 1) / _values(parameters, logs)[:, None]


def _positive(name, values, count=None):
    array = np.asarray(values, "float64")
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise ValueError(f"{name}: shape {array.shape}, expected {count or 'a list of'} numbers")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name}: {array.tolist()}, expected positive numbers")
    return array
