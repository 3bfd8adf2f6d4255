"""Inputs centred: what they have in common is multiplied in digital, exactly, and the array driven by the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.compensate.attach import attach
from bitline.compensate.path import Path, axis, dimensions, inputs, outputs
from bitline.macro import Chip, Macro
from bitline.nn import CimLayer, Read, SidePath, calibrate, kept, layers, on_chip, silicon, walk

CHIPS = 4  # that tell the arrays' gain


class Centred(Path):
    """F = F~(x - p) + g · W · p with p = m + U Uᵀ(x - m): the mean m of the inputs' channels and their first ``rank``
    principal directions U are multiplied in digital, exactly, and the array is driven by what is left.

    An error of the weights then acts on x - p alone. What all inputs share, which a chip turns into an offset of each
    output, is never driven: what a step on each chip measures and takes away does not arise. Where weights err by
    themselves and alike, of all subspaces of its rank this one leaves the least power (Eckart and Young, 1936).

    Nothing is trained: ``centre`` finds m and U from unlabelled inputs, and g, the gain of a typical array, on dies of
    the training lot. They hold for any weights that the layer comes to have. ``rank`` 0 takes the mean alone, which
    costs no multiplication. A layer of C channels has at most C - 1 directions; one of a single channel has its mean.
    The inputs of the array have both signs, and W·m is added where padding is not. Not of a paper: this library's.
    """

    SIZE = "rank"
    kind: Literal["centred"] = "centred"
    rank: int = Field(default=1, ge=0, description="directions of the inputs' channels in digital, beside their mean")

    @property
    def title(self) -> str:
        many = {0: "", 1: ", 1 direction digital"}.get(self.rank, f", {self.rank} directions digital")
        return f"inputs centred{many}"

    def build(self, layer: CimLayer) -> CentredPath:
        return CentredPath(self, layer)

    def refuses(self, macro: Macro) -> str | None:
        scheme = macro.inputs
        if scheme is None or (scheme.low < 0 and scheme.constant == 0 and scheme.stride == 1):
            return None
        return (
            "centred inputs have both signs, and nothing may be driven for zero: inputs of kind "
            f"{scheme.kind!r} have no such codes; use twos_complement or two_phase"
        )


CENTRED = Centred()


class CentredPath(SidePath):
    """Mean (C,), directions (C, R) and gain () of one layer; nothing is taken off before they are found."""

    config: Centred
    mean: Tensor
    directions: Tensor
    gain: Tensor

    def __init__(self, config: Centred, layer: CimLayer) -> None:
        super().__init__()
        self.config = config
        channels, weight = inputs(layer), layer.weight
        self.register_buffer("mean", weight.new_zeros(channels))
        self.register_buffer("directions", weight.new_zeros(channels, min(config.rank, channels - 1)))
        self.register_buffer("gain", weight.new_ones(()))
        self.outputs, self.taps = outputs(layer), math.prod(getattr(layer.geometry, "kernel", ()))
        self.padded = any(getattr(layer, "_reversed_padding_repeated_twice", ()))
        self.stride = math.prod(getattr(layer.geometry, "stride", ()))
        self.watch: Callable[[CentredPath, CimLayer, Tensor, Tensor], None] | None = (
            None  # sees what the array is given
        )

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        known, rest = self.parts(layer, x)
        y = read(rest)
        if self.watch is not None:
            self.watch(self, layer, rest, y)
        return y + (self.gain * self.product(layer, known)).to(y.dtype)

    def parts(self, layer: CimLayer, x: Tensor) -> tuple[Tensor, Tensor]:
        """(coordinates of p, R + 1 channels of which the last is 1; x - p), laid out as the inputs."""
        positions = x.shape[x.dim() - dimensions(layer) :]
        with torch.autocast(x.device.type, enabled=False):  # what one part loses the other would have to have
            wide = x if x.dtype == torch.float64 else x.float()
            centred = wide.reshape(*x.shape[: x.dim() - len(positions)], -1) - self.mean[:, None]
            along = self.directions.T @ centred
            rest = centred - self.directions @ along
        known = torch.cat([along, torch.ones_like(rest[..., :1, :])], -2)
        return known.unflatten(-1, positions or (1,)), rest.view(x.shape)

    def product(self, layer: CimLayer, known: Tensor) -> Tensor:
        """W · p from the coordinates of p, as the layer itself would have it, without its bias."""
        basis, weight = torch.cat([self.directions, self.mean[:, None]], 1), layer.wanted()
        _, _, groups = layer.matrix_shape
        shape = (groups, len(weight) // groups, len(basis) // groups, -1)
        seen = torch.einsum("gnct,gcr->gnrt", weight.view(shape), basis.view(groups, shape[2], -1))
        seen = seen.reshape(len(weight), -1, *weight.shape[2:])
        if not dimensions(layer):
            return layer._exact(known.squeeze(-1), seen, None)
        return layer._exact(torch.cat([known] * groups, axis(layer)), seen, None)

    def fit(self, moments: Moments) -> None:
        """The mean and the directions of most variance."""
        mean, covariance = moments()
        vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        self.mean.copy_(mean)
        self.directions.copy_(vectors[:, : self.directions.shape[1]])

    @property
    def size(self) -> int:
        channels, rank = self.directions.shape
        offsets = self.taps if self.padded else 1  # at an edge those of padding are not added
        return channels * (rank + 1) + self.outputs * (self.taps * rank + offsets)

    def macs(self, positions: int) -> int:
        channels, rank = self.directions.shape
        return positions * rank * (2 * channels * self.stride + self.outputs * self.taps)

    def fetched(self, positions: int, inputs: int) -> int:
        rank = self.directions.shape[1]
        return inputs + positions * rank * self.taps if rank else 0  # a mean is taken off as inputs are driven

    @property
    def terms(self) -> int:
        channels, rank = self.directions.shape
        return max(channels if rank else 1, rank * self.taps, 1)


class Moments:
    """Mean and covariance of the channels of what passes."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor, channel: int) -> None:
        """Count inputs, whose channels are on this axis."""
        flat = x.movedim(channel, -1).flatten(0, -2).float()
        self.count += len(flat)
        self.sum = self.sum + flat.sum(0).double()
        self.square = self.square + (flat.T @ flat).double()

    def __call__(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        return mean, self.square / self.count - torch.outer(mean, mean)


@torch.no_grad()
def centre(
    model: nn.Module,
    batches: Iterable[Any],
    path: Centred = CENTRED,
    at: Sequence[str] = ("*",),
    chip: Callable[[int], Chip] | None = None,
) -> nn.Module:
    """Centre the inputs of the layers whose names match, in place; returns the model.

    Means and directions come from the float network, over all ``batches`` (x or (x, …) each, of which nothing but x is
    looked at); ranges of quantizers and converters, where calibrated, from what is left for the array, again; the gain
    from four dies, ``chip(0)`` … ``chip(3)``, absent: the one the model sits on. Raises ValueError as ``attach`` and
    ``calibrate`` do, and for no batch.
    """
    return fit(attach(model, path, at), batches, chip)


@torch.no_grad()
def fit(model: nn.Module, batches: Iterable[Any], chip: Callable[[int], Chip] | None = None) -> nn.Module:
    """Find what the paths that are there take off, as ``centre``."""
    device = next(model.parameters()).device
    data = [(batch[0] if isinstance(batch, tuple | list) else batch).to(device) for batch in batches]
    if not data:
        raise ValueError("centring needs at least one batch of inputs: the loader is empty")
    paths = {layer: layer.side for layer in layers(model).values() if isinstance(layer.side, CentredPath)}
    moments = {layer: Moments() for layer in paths}
    with kept(model):
        model.eval()
        walk(model, data, lambda layer, x, _: moments[layer].add(x, axis(layer)) if layer in moments else None)
        for layer, path in paths.items():
            path.fit(moments[layer])
            layer.forget_ranges()
        calibrate(model, data, len(data))
        _gains(model, paths, data[0], chip)
    return model


def _gains(model: nn.Module, paths: dict[CimLayer, CentredPath], x: Tensor, chip: Callable[[int], Chip] | None) -> None:
    """What the arrays make of a product on average: the slope of outputs over those of an exact one, as x passes."""
    found: dict[CentredPath, list[Tensor]] = {path: [] for path in paths.values()}

    def watch(path: CentredPath, layer: CimLayer, rest: Tensor, y: Tensor) -> None:
        wanted = layer._computed(rest)
        a, b = (part.movedim(axis(layer), 0).flatten(1).double() for part in (wanted, y))
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        found[path].append(torch.stack([(a * b).sum(), a.square().sum()]))

    try:
        for path in found:
            path.watch = watch
        for i in range(CHIPS if chip is not None else 1):
            if chip is not None:
                on_chip(model, chip(i))
            silicon(model).begin(None, -1 - i)
            model(x)
    finally:
        for path in found:
            path.watch = None
    for path, seen in found.items():
        product, square = torch.stack(seen).sum(0)
        path.gain.copy_(torch.where(square > 0, product / square, 1.0))
