"""Mean and deviation of what is multiplied by the exponential of a normal number."""

from __future__ import annotations

import math


def lognormal(sigma: float, mu: float = 0.0) -> tuple[float, float]:
    """Mean and standard deviation of exp(theta), theta ~ N(mu, sigma²)."""
    mean = math.exp(mu + sigma**2 / 2)
    return mean, mean * math.sqrt(math.expm1(sigma**2))
