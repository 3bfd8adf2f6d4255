"""What writing cost, in pulses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bitline.macro.column import Column


@dataclass(frozen=True)
class Pulses:
    """Programming pulses of ``cells`` cells that hold weights or references, of which ``verified`` were verified."""

    cells: int
    verified: int
    total: int
    mean: float  # a cell
    percentiles: dict[int, int]  # pulses that 50, 90, 99 and 100 % of the cells needed at most
    outside: float  # share of the verified cells that the last verify still read outside the tolerance

    def __str__(self) -> str:
        shown = ", ".join(f"{share} %: {count}" for share, count in self.percentiles.items())
        return (
            f"{self.total} pulses for {self.cells} cells, {self.mean:.3g} each ({shown}); {self.verified} verified, "
            f"{100 * self.outside:.3g} % of them outside the tolerance"
        )


def pulses(columns: Column | Iterable[Column]) -> Pulses:
    """What programming these columns took, all together; a reference cell of an array counts once.

    Raises ValueError naming a column whose macro has no write–verify loop.
    """
    columns = [columns] if isinstance(columns, Column) else list(columns)
    parts = [_cells(column) for column in columns]
    count, verified, outside = (np.concatenate([part[i] for part in parts]) for i in range(3))
    shares = {share: int(np.percentile(count, share, method="higher")) for share in (50, 90, 99, 100)}
    failed = int(outside.sum()) / max(1, int(verified.sum()))
    return Pulses(len(count), int(verified.sum()), int(count.sum()), float(count.mean()), shares, failed)


def _cells(column: Column) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    writes, layout = column.writes, column.layout
    if writes is None:
        raise ValueError(
            f"{column.site.name}: macro {column.macro.name} has no write–verify loop; describe cell.write_verify"
        )
    rows = torch.arange(layout.active_rows)
    there = torch.stack([rows < count for _, count, _, _ in layout.spans])[None, :, :, None, None, None]
    address = layout.cells_of(column.site)
    there = there.expand_as(address)
    _, first = np.unique(address[there].numpy(), return_index=True)
    found = (each.cpu()[there].numpy()[first] for each in (writes.pulses, writes.verified, writes.outside))
    pulse, verified, outside = found
    return pulse.astype(np.int64), verified, outside
