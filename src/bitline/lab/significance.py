"""How likely a statistic is by chance: tails of χ² and F, and Holm's correction for many."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

TINY = 1e-300


def survival(chi2: float, freedom: int) -> float:
    """Probability that χ² with ``freedom`` degrees exceeds ``chi2``; 1 without any."""
    if freedom == 0:
        return 1.0
    half = torch.tensor([freedom / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def f_survival(ratio: float, above: float, below: float) -> float:
    """Probability that F with ``above`` and ``below`` degrees exceeds ``ratio``; 1 where either has none.

    I_x(below/2, above/2) at x = below/(below + above · ratio) (Abramowitz and Stegun 26.6.2).
    """
    if above == 0 or below == 0 or ratio <= 0:
        return 1.0
    return beta_share(below / (below + above * ratio), below / 2, above / 2)


def beta_share(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Press et al., Numerical Recipes,
    6.4); ``x`` 0 … 1, ``a`` and ``b`` above 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _off_zero(1 + term * d), _off_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * value / a


def _off_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Adjusted probabilities (Holm, Scand. J. Statist. 1979): those below α are significant together at level α."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted
