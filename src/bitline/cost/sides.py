"""What side paths cost beside their layers and their network: numbers, products and energy."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from bitline.compensate import Overhead, overhead, sides
from bitline.cost.counts import count_side
from bitline.cost.estimate import DEFAULT, Cost, cost, off_macro
from bitline.cost.technology import Technology
from bitline.nn import SidePath


class SideCost(Overhead):
    """Of one layer with a side path, or of all together (``total``), for one sample."""

    joules: float | None = Field(
        description="energy of the side path: products, and with `buffer` of the technology its numbers and inputs "
        "read; null: it has no `digital`"
    )
    against: dict[str, float] = Field(
        description="energy of the layer, or of the network, without side paths under each ADC law, J; empty: not told"
    )
    why: str = Field(default="", description="why `against` is empty")
    technology: str = Field(default=DEFAULT, description="that priced it")

    @property
    def energy_shares(self) -> dict[str, float]:
        """Energy of the side path relative to the layer's under each ADC law; empty where one is not told."""
        if self.joules is None:
            return {}
        return {law: self.joules / joules for law, joules in self.against.items()}


def side_costs(
    model: nn.Module, x: Tensor, technology: Technology | str | Path = DEFAULT, *, batch: int = 1
) -> tuple[SideCost, ...]:
    """``compensate.overhead`` with energies, last of all the ``total`` against the whole network.

    Products, stored numbers and inputs of a side path are priced as those of a layer that stayed digital; what a seed
    gives again (random matrices of ``vectors``, places of ``sparse``) costs nothing here. The network without them is
    priced as by ``cost``; where that cannot be, as for a macro without a converter, ``why`` says so and shares of
    energy are absent. ``technology``, ``batch``: as of ``cost``.
    """
    technology = Technology.load(technology)
    *rows, total = overhead(model, x)
    found: Cost | None = None
    why = ""
    try:
        found = cost(model, x, technology, batch=batch)
    except ValueError as error:
        why = str(error)
    beside = sides(model)
    said = {"why": why, "technology": technology.name}
    each = [_joules(row, beside[row.layer], technology) for row in rows]
    told = [
        SideCost(**row.model_dump(), joules=joules, against=_against(found, row.layer), **said)
        for row, joules in zip(rows, each, strict=True)
    ]
    joules = None if technology.digital is None else sum(one or 0.0 for one in each)
    return (*told, SideCost(**total.model_dump(), joules=joules, against=_against(found, None), **said))


def _joules(row: Overhead, side: SidePath, technology: Technology) -> float | None:
    """Energy of a side path, J; None where its products have no price."""
    found = off_macro(count_side(row.layer, side, row.side_macs, row.side_inputs), technology)
    return None if found["digital"] is None else found["digital"] + (found["buffer"] or 0.0)


def _against(found: Cost | None, layer: str | None) -> dict[str, float]:
    """Energy under each law of a layer; of all but side paths where none is named."""
    if found is None:
        return {}
    counted = [one.beside is None and layer in (None, one.layer) for one in found.layers]
    return {
        estimate.adc: sum(energy.total for energy, wanted in zip(estimate.layers, counted, strict=True) if wanted)
        for estimate in found.estimates
    }
