"""The space of placements: layers that may get a side path, the widths there are, and what each costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from bitline.compensate import AnyPath, attach
from bitline.configuration import Value
from bitline.cost import DEFAULT, SideCost, Technology, side_costs
from bitline.nn import converted_layers, matches
from bitline.place.budget import Budget

Actions = tuple[int, ...]
"""Of each candidate, in their order: 0 for no side path, or the number of its width from 1."""


class Share(Value):
    """What side paths add, relative to the network."""

    parameters: float
    macs: float
    energy: float | None = Field(default=None, description="under the technology's first ADC law; null: not told")

    @classmethod
    def of(cls, row: SideCost, whole: SideCost) -> Share:
        """Of the network, ``whole``; None where energies are not told."""
        against = next(iter(whole.against.values()), None)
        return cls(
            parameters=row.side_parameters / whole.parameters,
            macs=row.side_macs / whole.macs,
            energy=None if row.joules is None or against is None else row.joules / against,
        )


class Candidate(Value):
    """A layer that may get a side path."""

    layer: str
    depth: float = Field(ge=0, le=1, description="place among the layers on the macro: 0 first, 1 last")
    channels: tuple[int, int] = Field(description="in, out")
    positions: int = Field(description="of its outputs")
    lost: float = Field(description="accuracy that its errors cost on top of those behind it, relative to the original")
    costs: tuple[Share, ...] = Field(description="of each width, relative to the network")


class Space(Value):
    """Candidates and widths: (widths + 1) ^ candidates placements."""

    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    widths: Annotated[tuple[float, ...], Field(min_length=1)]
    budget: Budget = Budget()
    original: float = Field(gt=0, description="accuracy without errors, 0 … 1")

    @property
    def actions(self) -> int:
        """Choices at each candidate."""
        return 1 + len(self.widths)

    @property
    def size(self) -> int:
        """How many placements there are."""
        return self.actions ** len(self.candidates)

    def named(self, actions: Actions) -> dict[str, float]:
        """A placement as {layer: width}, as ``Compensate.at`` takes it."""
        chosen = zip(self.candidates, actions, strict=True)
        return {one.layer: self.widths[action - 1] for one, action in chosen if action}

    def share(self, actions: Actions) -> Share:
        """What a placement costs. Costs of side paths add up."""
        chosen = [one.costs[action - 1] for one, action in zip(self.candidates, actions, strict=False) if action]
        energies = [cost.energy for cost in chosen]
        known = [joules for joules in energies if joules is not None]
        return Share(
            parameters=sum(cost.parameters for cost in chosen),
            macs=sum(cost.macs for cost in chosen),
            energy=sum(known) if len(known) == len(energies) and self._priced else None,
        )

    def overhead(self, actions: Actions) -> float:
        """What the budget is of, of a placement or of its first candidates."""
        value = getattr(self.share(actions), self.budget.of)
        return float(value)

    def within(self, actions: Actions) -> bool:
        """Whether a placement keeps the budget."""
        return self.overhead(actions) <= self.budget.share

    def reward(self, actions: Actions, accuracies: Sequence[float]) -> float:
        """R = (mean − std) / original − penalty, over the accuracies of chips, 0 … 1; the std of one chip is 0."""
        found = torch.tensor(accuracies, dtype=torch.float64)
        spread = float(found.std()) if len(found) > 1 else 0.0
        return (float(found.mean()) - spread) / self.original - self.budget.penalty(self.overhead(actions))

    def observe(self, actions: Actions) -> Tensor:
        """What is seen before the next candidate's action, (``observed``,) in 0 … 1: the action before and the
        candidate, one-hot; its depth, channels, positions, cost and loss; how much of the budget is used. Zeros after
        the last."""
        return self.observe_all(torch.tensor([actions], dtype=torch.long))[0]

    def observe_all(self, actions: Int[Tensor, "M l"]) -> Float[Tensor, "M D"]:
        """What is seen after the first l actions of M placements, each as of ``observe``."""
        count, step = actions.shape
        seen = torch.zeros(count, self.observed)
        if step == len(self.candidates):
            return seen
        one = self.candidates[step]
        if step:
            seen[torch.arange(count), actions[:, -1]] = 1
        seen[:, self.actions + step] = 1
        widest = float(self.costs[step, -1]) / self.budget.share
        inside = [math.log2(1 + count) / 16 for count in (*one.channels, one.positions)]
        seen[:, -7:-1] = torch.tensor([one.depth, *inside, widest / (1 + widest), one.lost]).clamp(0, 1)
        used = self.costs[torch.arange(step), actions].sum(1) / self.budget.share
        seen[:, -1] = (used / (1 + used)).clamp(0, 1)
        return seen

    @property
    def observed(self) -> int:
        """Numbers in an observation."""
        return self.actions + len(self.candidates) + 7

    @cached_property
    def costs(self) -> Float[Tensor, "L A"]:
        """What the budget is of, of each candidate and action."""
        rows = [[0.0, *(getattr(cost, self.budget.of) for cost in one.costs)] for one in self.candidates]
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def _priced(self) -> bool:
        return all(cost.energy is not None for one in self.candidates for cost in one.costs)


def early(curve: Mapping[str, float], original: float, keep: float = 0.95) -> tuple[str, ...]:
    """The layers before the one from which on errors still keep ``keep`` of the ``original`` accuracy, S3's candidates.

    ``curve``: accuracy with errors from each layer onward, in the order of the network (``injected_from``). Where not
    even errors of the last layer alone keep it, all.
    """
    names = list(curve)
    kept = len(names)
    while kept and curve[names[kept - 1]] >= keep * original:
        kept -= 1
    return tuple(names[:kept])


def space_of(
    model: nn.Module,
    x: Tensor,
    curve: Mapping[str, float],
    original: float,
    *,
    path: AnyPath,
    widths: Sequence[float],
    budget: Budget,
    keep: float = 0.95,
    at: Sequence[str] = ("*",),
    technology: Technology | str = DEFAULT,
) -> Space:
    """The space of a converted model: candidates by ``early`` among those that match ``at``, with what they cost.

    ``x``: a sample. Raises ValueError where there is no candidate, and for a budget of energy that cannot be told.
    """
    names = list(curve)
    chosen = [name for name in early(curve, original, keep) if matches(name, at)]
    if not chosen:
        raise ValueError(
            f"no layer needs a side path: with errors in all layers {100 * curve[names[0]] / original:.1f} % of the "
            f"original accuracy is kept, {100 * keep:g} % is asked; ask for more (keep), or at other layers"
        )
    costs = {width: _costs(model, x, path.sized(width), chosen, technology) for width in widths}
    whole = costs[widths[0]]["total"]
    if budget.of == "energy" and (whole.joules is None or not whole.against):
        raise ValueError(f"a budget of energy cannot be told: {whole.why or 'the technology has no `digital`'}")
    found = []
    for name in chosen:
        layer, place = converted_layers(model)[name], names.index(name)
        after = curve[names[place + 1]] if place + 1 < len(names) else original
        one = costs[widths[0]][name]
        found.append(
            Candidate(
                layer=name,
                depth=place / max(1, len(names) - 1),
                channels=(layer.matrix_shape[0] * layer.matrix_shape[2], len(layer.weight)),
                positions=one.macs // layer.weight.numel(),
                lost=max(0.0, after - curve[name]) / original,
                costs=tuple(Share.of(costs[width][name], whole) for width in widths),
            )
        )
    return Space(candidates=tuple(found), widths=tuple(widths), budget=budget, original=original)


def _costs(
    model: nn.Module, x: Tensor, path: AnyPath, at: Sequence[str], technology: Technology | str
) -> dict[str, SideCost]:
    rows = side_costs(attach(copy.deepcopy(model), path, at), x, technology)
    return {row.layer: row for row in rows}
