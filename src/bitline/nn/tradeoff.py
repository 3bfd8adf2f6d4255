"""What an input range costs: the finer steps of a narrow one against what it clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitline.nn.calibrate import walk
from bitline.nn.cim import CimLayer
from bitline.nn.grid import Grid
from bitline.nn.kept import kept
from bitline.nn.model import layers

Bounds = Literal["two", "symmetric", "one"]
SHARES = tuple(round(0.3 + 0.05 * i, 2) for i in range(15))


@dataclass(frozen=True)
class Tradeoff:
    """Mean squared errors of R ranges, from the narrowest to the widest as given; units of x and x²."""

    low: Float[Tensor, " R"]  # the snapped range, zero a code of it
    high: Float[Tensor, " R"]
    step: Float[Tensor, " R"]
    rounding: Float[Tensor, " R"]  # of values inside the range; step²/12 where values fill their steps evenly
    clipping: Float[Tensor, " R"]  # of values outside
    power: float  # mean square of the values

    @property
    def total(self) -> Float[Tensor, " R"]:
        """Rounding and clipping together."""
        return self.rounding + self.clipping

    @property
    def best(self) -> int:
        """The range with the smallest total."""
        return int(self.total.argmin())

    @property
    def decibels(self) -> Float[Tensor, " R"]:
        """Signal to quantisation noise, dB."""
        return 10 * torch.log10(self.power / self.total.clamp(min=1e-300))

    def dump(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}

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
    bounds: Bounds = "two",
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
    scale = torch.tensor(shares, dtype=torch.float64, device=x.device)
    low, high = scale * flat.min().clamp(max=0), scale * flat.max().clamp(min=0)
    if bounds == "symmetric":
        high = torch.maximum(high, -low)
        low = -high
    elif bounds == "one":
        low = torch.zeros_like(high)
    return _errors(flat, grid, *grid.fit(low, high, asymmetric=bounds != "one"))


def _errors(flat: Tensor, grid: Grid, scales: Float[Tensor, " R"], zeros: Float[Tensor, " R"]) -> Tradeoff:
    rows = []
    for scale, zero in zip(scales, zeros, strict=True):
        ends = (scale * (grid.low - zero), scale * (grid.high - zero))
        error = (scale * (grid.nearest(flat / scale + zero) - zero) - flat).square()
        half = scale * grid.step / 2
        inside = (flat >= ends[0] - half) & (flat <= ends[1] + half)
        of = [(error * where).sum() / len(flat) for where in (inside, ~inside)]
        rows.append(torch.stack([*ends, scale, *of]))
    low, high, step, rounding, clipping = torch.stack(rows).cpu().unbind(1)
    return Tradeoff(low, high, step, rounding, clipping, float(flat.square().mean()))


@dataclass(frozen=True)
class InputRange:
    """What one layer's input range costs, beside ranges that it could have."""

    layer: str
    bits: int
    two: Tradeoff  # a lower and an upper bound, as E-PACT learns them
    one: Tradeoff  # 0 … alpha, as PACT learns it
    own: Tradeoff | None  # the range the layer has, R = 1; None without a quantizer of as many bits

    def dump(self) -> dict[str, Any]:
        """Plain data for JSON."""
        parts = {name: getattr(self, name) for name in ("two", "one", "own")}
        return {"layer": self.layer, "bits": self.bits} | {
            name: None if part is None else part.dump() for name, part in parts.items()
        }


@torch.no_grad()
def input_ranges(
    model: nn.Module, data: Iterable[Tensor], *, bits: int | None = None, shares: Sequence[float] = SHARES
) -> list[InputRange]:
    """The trade-off of each layer on the macro, for what reaches it as ``data`` passes through the float network.

    ``bits``: of the codes; absent: those of the macro's inputs. Layers whose inputs stay continuous are left out,
    unless ``bits`` are given. Raises ValueError naming the layers that no sample reached, and a layer whose inputs are
    not finite.
    """
    found = layers(model)
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in found.values()}

    def see(layer: CimLayer, x: Tensor, y: Tensor) -> None:
        seen[layer].append(layer.driven(x).flatten())

    with kept(model):
        model.eval()
        walk(model, data, see)
    rows = []
    for name, layer in found.items():
        scheme, quantizer, own = layer.macro.inputs, layer.input_quantizer, None
        width = bits or (scheme.bits if scheme is not None else None)
        if width is None:
            continue
        x = torch.cat(seen[layer])
        try:
            two, one = (range_tradeoff(x, width, bounds=bounds, shares=shares) for bounds in ("two", "one"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if quantizer is not None and scheme is not None and width == scheme.bits:
            _, scale, zero = quantizer(x[:1])
            own = _errors(x.double(), quantizer.grid, scale.double().reshape(1), zero.double().reshape(1))
        rows.append(InputRange(name, width, two, one, own))
    return rows
