"""Drift compensation: outputs multiplied by what a reference read has lost since programming."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.configuration import Frozen
from bitline.macro.chip import Chip, Effect
from bitline.macro.placement import Layout, Site


class Compensation(Frozen):
    """Every row is driven by 1 just after programming and again at the age of the cells; the ratio of what the columns
    conduct, legs added, digits by their radix, multiplies the outputs in the digital domain.

    ``layer``: one factor for a layer (global drift compensation: Joshi et al., Nat. Commun. 2020; Le Gallo et al.,
    Adv. Electron. Mater. 2018); ``column``: one for the columns of each output. The converters' range stays, and the
    columns' own offsets and curves are left out of the measurement.
    """

    per: Literal["layer", "column"] = Field(default="layer", description="what has a factor of its own")
    reads: int | None = Field(
        default=None, ge=1, description="reads averaged, each with the cells' noise; absent: without noise"
    )


def factor(
    compensation: Compensation,
    before: Tensor,
    now: Tensor,
    variance: Tensor | None,
    radix: tuple[int, ...],
    layout: Layout,
    chip: Chip,
    site: Site,
) -> Tensor:
    """() or (G·N,) float32, from levels read just after programming and now, (G, T, R, C, L, N), from 0 S.

    ``variance``: fresh variance of cells at a read, levels², taken as that of both. 1 where nothing conducts.
    """
    first, last = (_sum(each, radix, layout, compensation.per) for each in (before, now))
    if compensation.reads is not None and variance is not None:
        squares = tuple(r**2 for r in radix)
        sigma = (_sum(variance.expand_as(now), squares, layout, compensation.per) / compensation.reads).sqrt()
        for time, into in (("before", first), ("now", last)):
            numbers = torch.arange(into.numel(), device=into.device).view(into.shape)
            into += sigma * Effect(chip.stream(f"compensation {time}", f"layer {site.name}"), numbers).normal()
    there = (first > 0) & (last > 0)
    return torch.where(there, first / torch.where(there, last, 1.0), 1.0).float()


def _sum(cells: Tensor, radix: tuple[int, ...], layout: Layout, per: str) -> Tensor:
    """What the columns of each output, or of the layer, add up to."""
    counts = torch.tensor([count for _, count, _, _ in layout.spans], device=cells.device)
    on = torch.arange(cells.shape[2], device=cells.device) < counts[:, None]
    weight = torch.tensor([abs(r) for r in radix], dtype=torch.float64, device=cells.device)
    total = torch.einsum("gtrcln,tr,c->gn", cells.double(), on.double(), weight).flatten()
    return total if per == "column" else total.sum()
