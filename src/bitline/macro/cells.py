"""What the cells of a layer hold on a die: levels by the weights, errors and draws by the physical addresses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bitline.devices import Cell, Draw, Held
from bitline.macro.chip import Chip, Effect
from bitline.macro.placement import Layout, Site


def stored(
    levels: Tensor, cell: Cell, level_high: int, layout: Layout, chip: Chip, site: Site, n: int, verified: Tensor | None
) -> Held:
    """What cells hold that should hold ``levels``, (G, T, R, C, L, N) float64, in their ``n``-th writing.

    ``verified``: (G·N, K) bool, the weights whose cells take part in the write–verify loop; absent: all. Cells of a
    reference column always do.
    """
    address = layout.cells_of(site).to(levels.device)

    def draws(name: str, clock: Literal["fabrication", "programming"]) -> Draw:
        again = f" write {n} of {site.name}" if clock == "programming" else ""
        return Effect(chip.stream(name + again, site.where), address)

    chosen = None
    if verified is not None and cell.write_verify is not None:
        shape = (layout.groups * layout.outputs, layout.inputs)
        if tuple(verified.shape) != shape or verified.dtype != torch.bool:
            raise ValueError(
                f"{site.name}: verified is {verified.dtype} of shape {tuple(verified.shape)}; accepted is a mask of "
                f"its weights, bool {shape}"
            )
        chosen = layout.scatter(verified.expand(layout.conversions, layout.legs, *verified.shape)).contiguous()
        if layout.reference:
            chosen[..., -1, :] = True
    return cell.held(levels, draws, level_high, chosen)
