"""How likely a statistic is by chance: tails of χ² and F, and Holm's correction for many."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import special


def survival(chi2: float, freedom: int) -> float:
    """Probability that χ² with ``freedom`` degrees exceeds ``chi2``; 1 without any."""
    return float(special.chdtrc(freedom, chi2)) if freedom else 1.0


def f_survival(ratio: float, above: float, below: float) -> float:
    """Probability that F with ``above`` and ``below`` degrees exceeds ``ratio``; 1 where either has none."""
    return 1.0 if above == 0 or below == 0 or ratio <= 0 else float(special.fdtrc(above, below, ratio))


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Adjusted probabilities (Holm, Scand. J. Statist. 1979): those below α are significant together at level α."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted
