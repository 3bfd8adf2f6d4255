"""How many directions of its inputs each layer has in digital: a budget spent where a direction wins most."""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from pydantic import Field
from torch import Tensor, nn

from bitline.compensate import Centred, attach, centre, sides
from bitline.compensate.moments import Moments
from bitline.compensate.path import axis
from bitline.configuration import Frozen
from bitline.cost import DEFAULT, Technology, side_costs
from bitline.files import Saved
from bitline.macro import Chip, ideal
from bitline.nn import layers, on_chip, silicon, use, walk
from bitline.nn.calibrate import unlabelled
from bitline.place.budget import Budget
from bitline.place.result import brief
from bitline.place.space import Share

MOST = 1 << 30  # more directions than any layer has
Ends = tuple[float, float, float]  # with no direction, with one, and with all


class LayerDirections(Frozen):
    """Of one layer."""

    layer: str
    channels: int = Field(description="of its inputs")
    felt: float = Field(description="power of what its errors alone, inputs centred, do to the answers, over theirs")
    directions: int
    seen: int = Field(description="inputs that directions were found on; where they are few, more is left than told")
    left: float = Field(description="share of the power of its inputs, beside their mean, that the array is driven by")
    used: float = Field(description="of the network, in the budget's measure")


class Directions(Saved):
    """Directions layer by layer, and what they take in all."""

    FILE: ClassVar[str] = "centre.json"

    budget: Budget
    layers: tuple[LayerDirections, ...]

    @property
    def row(self) -> str:
        """The path as a line of YAML for a method, or for an experiment's ``test``."""
        told = yaml.safe_dump(brief(self.path), default_flow_style=True, sort_keys=False, width=10_000)
        return f"centre: {told.strip()}"

    @property
    def path(self) -> Centred:
        """The side path with them; layers that have no direction have their means alone."""
        return _path({row.layer: row.directions for row in self.layers})

    @property
    def scarce(self) -> tuple[str, ...]:
        """Layers whose directions were found on fewer inputs than four times their channels: more is left than told."""
        return tuple(row.layer for row in self.layers if row.directions and row.seen < 4 * row.channels)

    @property
    def used(self) -> float:
        """Of the network, in the budget's measure."""
        return sum(row.used for row in self.layers)

    @property
    def felt(self) -> float:
        """What the answers still feel of the layers' errors: the sum."""
        return sum(row.felt * row.left for row in self.layers)


@torch.no_grad()
def directions(
    model: nn.Module,
    batches: Iterable[Any],
    budget: Budget,
    chip: Callable[[int], Chip],
    *,
    chips: int = 8,
    technology: Technology | str | Path = DEFAULT,
) -> Directions:
    """How many directions of their inputs layers should have in digital (``compensate.Centred``); the model, converted
    and without side paths, stays as it is.

    A layer's errors have the power of what its array is driven by. What they do to the answers is measured, one layer
    erring at a time with its inputs centred: the variance of the answers over ``chips`` dies ``chip(0)``, …, relative
    to that of the right ones over samples, on the first of ``batches`` (x or (x, …) each, of which nothing but x is
    looked at). A direction wins of that the share of the inputs' power that it has. The one that wins most for its
    energy is next, while the budget has room. Errors that do not grow with what is driven, as those of converters,
    become smaller only as ranges do.

    Raises ValueError for fewer than two dies, samples that all have the same answers, a budget that the means alone
    exceed, one of energy where that of the network is not told, a technology without ``digital``, and as ``centre``.
    """
    technology = Technology.load(technology)
    if chips < 2:
        raise ValueError(f"chips = {chips}: a variance over dies needs two or more")
    if sides(model):
        raise ValueError("layers have side paths already: bitline.compensate.remove(model) first")
    data = unlabelled(model, batches, "a share of directions")
    priced = _priced(model, data[0][:1], budget, technology)
    centred = centre(copy.deepcopy(model), data, Centred(rank=0), chip=chip).eval()
    powers, felt = _powers(centred, data), _felt(centred, data[0], chip, chips)
    found = {name: _Layer(name, felt[name], *powers[name], *priced[name]) for name in felt}
    spent = sum(layer.takes(0) for layer in found.values())
    most = budget.share * (1 + 1e-9)  # sums of shares are rounded
    if spent > most:
        told = f"the means of all inputs alone take {100 * spent:.6g} % more {budget.of}"
        raise ValueError(f"{told}, beyond the budget of {100 * budget.share:g} %")
    offers = [(-layer.worth, name) for name, layer in found.items() if layer.worth]
    heapq.heapify(offers)
    while offers:
        layer = found[heapq.heappop(offers)[1]]
        if spent + layer.more > most:
            continue  # its later ones take as much
        spent, layer.number = spent + layer.more, layer.number + 1
        if layer.worth:
            heapq.heappush(offers, (-layer.worth, layer.name))
    return _told(model, data[0][:1], budget, found, technology)


def _path(ranks: dict[str, int]) -> Centred:
    return Centred(rank=0, ranks={escape(name): rank for name, rank in ranks.items() if rank})


@dataclass
class _Layer:
    """A layer that directions are offered for, strongest first."""

    name: str
    felt: float
    powers: list[float]  # of each direction, of the power beside the mean
    seen: int  # inputs
    used: Ends  # of the network, in the budget's measure
    joules: Ends
    number: int = 0

    def takes(self, number: int) -> float:
        """So many, in the budget's measure."""
        return self._between(self.used, number)

    @property
    def more(self) -> float:
        """What the next direction takes."""
        return self.takes(self.number + 1) - self.takes(self.number)

    @property
    def worth(self) -> float:
        """What the next direction wins for its energy; 0: there is none, or it wins nothing."""
        if self.number == len(self.powers):
            return 0.0
        joules = self._between(self.joules, self.number + 1) - self._between(self.joules, self.number)
        return self.felt * self.powers[self.number] / joules

    def _between(self, ends: Ends, number: int) -> float:
        """On the line from one to all. Products cost more as sums become longer, in steps: energies are less than the
        line tells, or a thousandth more."""
        none, one, whole = ends
        return one + (whole - one) * (number - 1) / max(1, len(self.powers) - 1) if number else none


def _told(model: nn.Module, x: Tensor, budget: Budget, found: dict[str, _Layer], technology: Technology) -> Directions:
    path = _path({name: layer.number for name, layer in found.items()})
    *rows, total = side_costs(attach(copy.deepcopy(model), path), x, technology)
    each = [
        LayerDirections(
            layer=layer.name,
            channels=len(layer.powers) + 1,
            felt=layer.felt,
            directions=layer.number,
            seen=layer.seen,
            left=max(0.0, 1.0 - sum(layer.powers[: layer.number])),
            used=getattr(Share.of(row, total), budget.of),
        )
        for layer, row in zip(found.values(), rows, strict=True)
    ]
    return Directions(budget=budget, layers=tuple(each))


def _felt(model: nn.Module, x: Tensor, chip: Callable[[int], Chip], chips: int) -> dict[str, float]:
    """The variance of answers over dies, each layer erring alone, relative to that of the right ones over samples."""
    found = {}
    use(model, ideal)
    right = model(x).double()
    power = (right - right.mean(0)).square().sum()
    if not power:
        raise ValueError("all samples of the first batch have the same answers: give it more of them")
    for name, layer in layers(model).items():
        layer.use(layer.design)
        total, square = torch.zeros_like(right), torch.zeros_like(right)
        for i in range(chips):
            on_chip(model, chip(i))
            silicon(model).begin(None, -1 - i)
            away = model(x).double() - right
            total, square = total + away, square + away.square()
        layer.use(ideal(layer.design))
        found[name] = float((square - total.square() / chips).sum() / (chips - 1) / power)
        if not math.isfinite(found[name]):
            raise ValueError(f"answers with errors of {name} are not all finite numbers")
    return found


def _powers(model: nn.Module, data: list[Tensor]) -> dict[str, tuple[list[float], int]]:
    """Share of the power of a layer's inputs, beside their mean, in each direction that it could have; and how many
    inputs there were."""
    found = layers(model)
    moments = {layer: Moments(covariance=True) for layer in found.values()}
    walk(model, data, lambda layer, x, _: moments[layer].add(x, axis(layer)))
    return {name: (moments[layer].powers()[:-1].tolist(), moments[layer].count) for name, layer in found.items()}


def _priced(model: nn.Module, x: Tensor, budget: Budget, technology: Technology) -> dict[str, tuple[Ends, Ends]]:
    """What a layer's means, one direction and all of them take of the network, and their energy, J."""
    tries = [side_costs(attach(copy.deepcopy(model), Centred(rank=rank)), x, technology) for rank in (0, 1, MOST)]
    if technology.digital is None:
        raise ValueError(f"technology {technology.name}: directions are weighed by their energy: give its `digital`")
    if budget.used(tries[0][-1]) is None:
        raise ValueError(f"a budget of energy cannot be told: {tries[0][-1].why}")
    used = [[getattr(Share.of(row, total), budget.of) for row in rows] for *rows, total in tries]
    joules = [[row.joules for row in rows] for *rows, _ in tries]
    each = zip(layers(model), zip(*used, strict=True), zip(*joules, strict=True), strict=True)
    return {name: (one, other) for name, one, other in each}
