"""Per-chip patch: the weights that a chip holds worst, read back from it, corrected in digital."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline import draws
from bitline.compensate.attach import attach
from bitline.compensate.moments import Moments
from bitline.compensate.nested import paths_of
from bitline.compensate.path import Path, Stands, axis, inputs
from bitline.macro import Chip, Macro
from bitline.macro.kinds import TableColumn
from bitline.nn import CimLayer, Read, ReadStep, SidePath, Steps, kept, walk
from bitline.nn.calibrate import unlabelled


class Patch(Path):
    """F = F~ + D · x̂, x̂ the inputs as quantised: D is what the ``share`` of a layer's weights that err most on a chip
    lack, in digital memory.

    **A step on each chip**: ``Patching`` reads every weight of the chip back, as it is when the chip is tested, with an
    error of ``noise`` times the layer's largest weight, which a read or the converter that it goes through may have.
    Most are those whose error squared times the mean square of the input they meet is largest. Errors are from the
    weights times the slope of those held over those wanted, over the whole layer: what all weights have in common is
    not patched. The same share of each layer, as memory is laid out before the chip is known. It stores a value and a
    place for each. In log-normal weights of σ = 0.5 a twentieth has 61 % of the errors' power.

    Exact correction in place of the retraining on the chip of random sparse adaptation (Charan et al., JXCDC 2020), of
    chosen weights in place of random ones. It is for what the arrays make of weights, gains of columns included:
    nothing for offsets, curves and converters.
    """

    SIZE = "share"
    STANDS: ClassVar[Stands] = "inside"
    WHY_NOT_TRAINED = "patch is found on each chip, not trained: ask for test.patch_per_chip"
    kind: Literal["patch"] = "patch"
    share: float = Field(default=0.02, gt=0, lt=1, description="of a layer's weights, one or more")
    noise: float = Field(
        default=0.0, ge=0, lt=1, description="standard deviation of a weight read back, relative to the layer's largest"
    )

    @property
    def title(self) -> str:
        told = f", read back to {100 * self.noise:g} % of the largest," if self.noise else ""
        return f"{100 * self.share:g} % of the weights{told} patched per chip"

    def build(self, layer: CimLayer) -> PatchPath:
        return PatchPath(self, layer)

    def refuses(self, macro: Macro) -> str | None:
        if isinstance(macro.column, TableColumn):
            return "a measured table of codes holds no weights that could be read back"
        return None


class PatchPath(SidePath):
    """Mean square of each channel of inputs, (C,), and the correction D in the layout of the layer's weights: zero but
    in its places, and everywhere until it is found on a chip. It acts on that die alone, on the macro in use there (its
    age and corner): elsewhere it is found again. No part of a checkpoint, as the errors of a die are not."""

    config: Patch
    power: Tensor
    correction: Tensor

    def __init__(self, config: Patch, layer: CimLayer) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("power", layer.weight.new_ones(inputs(layer)))
        self.register_buffer("correction", layer.weight.detach().new_zeros(layer.weight.shape), persistent=False)
        self.groups = layer.matrix_shape[2]
        self.found: tuple[Chip, int, Macro] | None = None  # the die, how often it was written, and the macro in use

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        y = read(x)
        if not layer.reads or self.found != self._here(layer):
            return y
        met = layer.met(x)
        return y + layer.product(met, self.correction.to(met.dtype), None).to(y.dtype)

    def _here(self, layer: CimLayer) -> tuple[Chip, int, Macro]:
        return layer.silicon.chip, layer.silicon.write, layer.macro

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        raise ValueError("it is of a simulated die, and meets inputs as they are quantised, for which there is no step")

    @torch.no_grad()
    def fit(self, layer: CimLayer) -> None:
        """Find the correction for the die that the layer sits on."""
        column, scale = layer.program()
        scale = scale.double().view(-1, 1)
        wanted, held = column.wanted.double() * scale, column.weight.double() * scale
        if self.config.noise:
            stream = layer.silicon.chip.stream(f"read back {layer.silicon.write}", layer.site.name)
            seen = draws.normal(stream, torch.arange(wanted.numel(), device=wanted.device)).view_as(wanted)
            held = held + self.config.noise * wanted.abs().amax() * seen
        slope = (wanted * held).sum() / wanted.square().sum().clamp(min=1e-300)
        missing = layer.geometry.native((slope * wanted - held).to(layer.weight.dtype))
        _, columns, groups = layer.matrix_shape
        met = self.power.view(groups, 1, -1).expand(-1, columns, -1).flatten(0, 1)  # (N, C of a group)
        cost = missing.square() * met.view(*met.shape, *[1] * (missing.dim() - 2))
        chosen, flat = cost.flatten().topk(self.places).indices, missing.flatten()
        self.correction.copy_(torch.zeros_like(flat).index_copy(0, chosen, flat[chosen]).view(missing.shape))
        self.found = self._here(layer)

    @property
    def places(self) -> int:
        """Weights that are corrected."""
        return max(1, round(self.config.share * self.correction.numel()))

    @property
    def size(self) -> int:
        return 2 * self.places

    def macs(self, positions: int, inputs: int) -> int:
        return positions * self.places

    def fetched(self, positions: int, inputs: int) -> int:
        """Inputs that a chosen weight meets, on average: places are not known before the chip is."""
        per_row = len(self.correction) // self.groups
        rows = self.correction.numel() // per_row
        return round(positions * rows * (1 - (1 - self.places / self.correction.numel()) ** per_row))

    @property
    def terms(self) -> int:
        """All of an output's weights: which are chosen is not known before the chip is."""
        return self.correction[0].numel()

    def refuses(self, macro: Macro) -> str | None:
        return self.config.refuses(macro)


@torch.no_grad()
def patch(model: nn.Module, batches: Iterable[Any], path: Patch, at: Sequence[str] = ("*",)) -> nn.Module:
    """Give the layers whose names match room for a patch, in place, inside a side path if there is one; returns the
    model.

    How strong the inputs are that each weight meets is found over all ``batches`` (x or (x, …) each) on the float
    network. ``Patching`` then fills it on a chip. Raises ValueError as ``attach`` does, for no batch, and for NaN.
    """
    data = unlabelled(model, batches, "a patch")
    paths = paths_of(attach(model, path, at), PatchPath)
    found = {layer: Moments(covariance=False) for layer in paths}

    def see(layer: CimLayer, x: Tensor, y: Tensor) -> None:
        if layer in found:
            found[layer].add(layer.driven(x).square(), axis(layer))

    with kept(model):
        model.eval()
        walk(model, data, see)
    for layer, one in paths.items():
        one.power.copy_(found[layer]()[0])
    return model


@dataclass(frozen=True)
class Patching:
    """What is done on each chip before it is used: its worst weights found and corrected. Nothing is passed through."""

    key: ClassVar[int] = 0  # nothing sets the step besides network and chip

    def __call__(self, model: nn.Module, chip: int = 0) -> None:
        """Find in place, on the die the model sits on now. Raises ValueError for a model without patches."""
        paths = paths_of(model, PatchPath)
        if not paths:
            raise ValueError("no layer of this model has a patch: bitline.compensate.patch(model, …) first")
        for layer, path in paths.items():
            path.fit(layer)
