"""What an input range costs: the finer steps of a narrow one against what it clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bitline.nn.grid import Grid

SHARES = tuple(round(0.3 + 0.05 * i, 2) for i in range(15))


@dataclass(frozen=True)
class Tradeoff:
    """Mean squared errors of R ranges, from the narrowest to the widest as given; units of x and x²."""

    low: Float[Tensor, " R"]  # the snapped range, zero a code of it
    high: Float[Tensor, " R"]
    step: Float[Tensor, " R"]
    rounding: Float[Tensor, " R"]  # of values inside the range; step²/12 where values fill their steps evenly
    clipping: Float[Tensor, " R"]  # of values outside
    bounds: Literal["two", "symmetric", "one"]

    @property
    def total(self) -> Float[Tensor, " R"]:
        """Rounding and clipping together."""
        return self.rounding + self.clipping

    @property
    def best(self) -> int:
        """The range with the smallest total."""
        return int(self.total.argmin())

    def text(self) -> str:
        """The numbers as text, a line a range; the best is marked."""
        lines = ["       low       high       step   rounding   clipping      total"]
        for i in range(len(self.low)):
            values = (self.low, self.high, self.step, self.rounding, self.clipping, self.total)
            lines.append(" ".join(f"{float(v[i]):10.4g}" for v in values) + ("  best" if i == self.best else ""))
        return "\n".join(lines)


def range_tradeoff(
    x: Tensor,
    bits: int,
    *,
    bounds: Literal["two", "symmetric", "one"] = "two",
    shares: Sequence[float] = SHARES,
) -> Tradeoff:
    """Rounding and clipping error of ``x`` (any shape) in 2^bits codes over ranges that are ``shares`` of its extremes.

    ``bounds``: ``two`` moves a lower and an upper bound (E-PACT), ``symmetric`` has -alpha … alpha, ``one`` has
    0 … alpha (PACT). Zero is always a code, so the range is snapped as quantizers snap it. Raises ValueError for values
    that are not finite, for shares or bits out of range.
    """
    if not 1 <= bits <= 16 or not shares or min(shares) <= 0:
        raise ValueError(f"bits = {bits}, shares = {list(shares)}: 1 to 16 bits, shares above 0")
    if not x.numel() or not bool(torch.isfinite(x).all()):
        raise ValueError(f"{x.numel()} values, finite ones are needed")
    flat, grid = x.detach().flatten().double(), Grid(0, 2**bits - 1)
    rows = []
    for share in shares:
        low, high = share * flat.min().clamp(max=0), share * flat.max().clamp(min=0)
        if bounds == "symmetric":
            high = torch.maximum(high, -low)
            low = -high
        elif bounds == "one":
            low = torch.zeros_like(high)
        scale, zero = (v[0] for v in grid.fit(low[None], high[None], asymmetric=bounds != "one"))
        ends = (scale * (grid.low - zero), scale * (grid.high - zero))
        error = (scale * (grid.nearest(flat / scale + zero) - zero) - flat).square()
        inside = (flat >= ends[0] - scale / 2) & (flat <= ends[1] + scale / 2)
        of = [(error * where).sum() / len(flat) for where in (inside, ~inside)]
        rows.append(torch.stack([*ends, scale, *of]))
    lows, highs, steps, rounding, clipping = torch.stack(rows).unbind(1)
    return Tradeoff(lows, highs, steps, rounding, clipping, bounds)
