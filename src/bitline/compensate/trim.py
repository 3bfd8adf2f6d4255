"""Per-chip trim: gain and offset of each output of each layer, fitted on what this very chip computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bitline.compensate.nested import paths_of
from bitline.compensate.path import Path, Stands, axis, outputs, per_channel
from bitline.macro import ideal
from bitline.nn import CimLayer, Read, ReadStep, SidePath, Steps, computing, kept, silicon


class Trim(Path):
    """F = gain · F~ + offset of each output, in digital. **A step on each chip**: ``Trimming`` fits them there; nothing
    is trained. It stores 2N numbers."""

    STANDS: ClassVar[Stands] = "around"
    WHY_NOT_TRAINED = "trim is fitted on each chip, not trained: ask for test.trim_per_chip"
    kind: Literal["trim"] = "trim"

    @property
    def title(self) -> str:
        return "trimmed per chip"

    def build(self, layer: CimLayer) -> TrimPath:
        return TrimPath(self, layer)


class TrimPath(SidePath):
    """Gains and offsets of one layer, (N,) each; the identity until they are fitted."""

    config: Trim
    gain: Tensor
    offset: Tensor

    def __init__(self, config: Trim, layer: CimLayer) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("gain", layer.weight.new_ones(outputs(layer)))
        self.register_buffer("offset", layer.weight.new_zeros(outputs(layer)))
        self.watch: Callable[[TrimPath, CimLayer, Tensor], None] | None = None  # called before it corrects

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        y = read(x)
        if self.watch is not None:
            self.watch(self, layer, y)
        if not layer.reads:
            return y
        return per_channel(layer, self.gain) * y + per_channel(layer, self.offset)

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        return steps.affine(read(x), self.gain, self.offset)

    def fit(self, layer: CimLayer, found: Tensor, wanted: Tensor) -> None:
        """The straight line from what was ``found`` to what was ``wanted``, by least squares."""
        x, y = (part.movedim(axis(layer), 0).flatten(1).double() for part in (found, wanted))
        spread = x.var(1, correction=0)
        slope = ((x - x.mean(1, keepdim=True)) * (y - y.mean(1, keepdim=True))).mean(1) / spread.clamp(min=1e-30)
        slope = torch.where(spread > 0, slope, 1.0)
        self.gain.copy_(slope)
        self.offset.copy_(y.mean(1) - slope * x.mean(1))

    @property
    def size(self) -> int:
        return self.gain.numel() + self.offset.numel()

    def macs(self, positions: int, inputs: int) -> int:
        return positions * self.gain.numel()

    def fetched(self, positions: int, inputs: int) -> int:
        return 0

    @property
    def terms(self) -> int:
        return 1


@dataclass(frozen=True)
class Trimming:
    """What is done on each chip before it is used: its trims fitted to the network on its ideal macro, over these
    batches, whose labels are not looked at.

    Layer after layer, each with those before it trimmed. Holds the outputs of all trimmed layers at once. Raises
    ValueError for a model without trims.
    """

    batches: Sequence[tuple[Tensor, ...]]

    @property
    def key(self) -> int:
        """What sets the step besides network and chip."""
        return len(self.batches)

    @torch.no_grad()
    def __call__(self, model: nn.Module, chip: int = 0) -> None:
        """Fit in place, on the die the model sits on now."""
        trims = paths_of(model, TrimPath)
        if not trims:
            raise ValueError("no layer of this model has a trim: attach(model, Trim()) first")
        wanted: dict[str, Tensor] = {}

        def remember(side: TrimPath, layer: CimLayer, y: Tensor) -> None:
            side.gain.fill_(1.0)
            side.offset.zero_()
            wanted[layer.site.name] = y

        def fit(side: TrimPath, layer: CimLayer, y: Tensor) -> None:
            side.fit(layer, y, wanted[layer.site.name])

        device = next(model.parameters()).device
        x = torch.cat([batch[0] for batch in self.batches]).to(device)
        try:
            with kept(model):
                model.eval()
                for watch in (remember, fit):
                    for side in trims.values():
                        side.watch = watch
                    with computing(model, ideal) if watch is remember else nullcontext():
                        silicon(model).begin(None, -1)
                        model(x)
        finally:
            for side in trims.values():
                side.watch = None
