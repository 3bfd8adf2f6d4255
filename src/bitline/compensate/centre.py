"""Inputs centred: what they have in common is multiplied in digital, exactly, and the array driven by the rest."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from bitline.compensate.attach import attach
from bitline.compensate.moments import Moments
from bitline.compensate.nested import paths_of
from bitline.compensate.path import Path, axis, dimensions, inputs, outputs
from bitline.macro import Chip, Macro, ideal
from bitline.nn import (
    CimLayer,
    Read,
    ReadStep,
    SidePath,
    Steps,
    calibrate,
    computing,
    kept,
    matches,
    on_chip,
    silicon,
    walk,
)
from bitline.nn.calibrate import unlabelled

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
    ``ranks``: those of single layers, as ``place.directions`` finds them for a budget.
    The inputs of the array have both signs, and W·m is added where padding is not. Not of a paper: this library's.
    """

    SIZE = "rank"
    WHY_NOT_TRAINED = "centred is found on inputs, not trained: give a method that trains the network `centre`"
    kind: Literal["centred"] = "centred"
    rank: int = Field(default=1, ge=0, description="directions of the inputs' channels in digital, beside their mean")
    ranks: dict[str, NonNegativeInt] = Field(
        default={}, description="of single layers, by dotted-name patterns of which the first that matches counts"
    )

    @property
    def title(self) -> str:
        many = {0: "", 1: ", 1 direction digital"}.get(self.rank, f", {self.rank} directions digital")
        if self.ranks:
            least, most = min(self.ranks.values()), max(self.ranks.values())
            single = not self.rank and all(pattern == glob.escape(pattern) for pattern in self.ranks)
            rest = f"{sum(self.ranks.values())} in all" if single else f"{self.rank} of others"
            span = f"{least} to {most}" if least < most else f"{most}"
            many = f", {span} directions digital by layer, {rest}"
        return f"inputs centred{many}"

    def __eq__(self, other: object) -> bool:
        """The same ranks, in the same order."""
        return super().__eq__(other) and isinstance(other, Centred) and list(self.ranks) == list(other.ranks)

    def __hash__(self) -> int:
        return hash((self.rank, *self.ranks.items()))

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(self.ranks)

    def rank_of(self, layer: CimLayer) -> int:
        """Directions of one layer: ``rank`` or its own, fewer than it has channels."""
        own = (rank for pattern, rank in self.ranks.items() if matches(layer.site.name, [pattern]))
        return min(next(own, self.rank), inputs(layer) - 1)

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
    """Mean (C,), directions (C, R) and gain () of one layer; nothing is taken off before they are found.

    ``gain``: of the array as designed, but for how weights grow on average, which the variation in use says itself; 1
    where the macro in use is ideal, and for what is not read from an array.
    """

    config: Centred
    mean: Tensor
    directions: Tensor
    gain: Tensor

    def __init__(self, config: Centred, layer: CimLayer) -> None:
        super().__init__()
        self.config = config
        channels, weight = inputs(layer), layer.weight
        self.register_buffer("mean", weight.new_zeros(channels))
        self.register_buffer("directions", weight.new_zeros(channels, config.rank_of(layer)))
        self.register_buffer("gain", weight.new_ones(()))
        self.outputs, self.taps = outputs(layer), math.prod(getattr(layer.geometry, "kernel", ()))
        pads = getattr(layer, "_reversed_padding_repeated_twice", ())
        self.padded = any(pads) and getattr(layer, "padding_mode", "") == "zeros"
        self.watch: Callable[[CentredPath, CimLayer, Tensor, Tensor], None] | None = None  # sees rests and readings
        self._growth: tuple[Macro, float] | None = None  # of the macro in use

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        known, rest = self.parts(layer, x)
        y = read(rest)
        if self.watch is not None:
            self.watch(self, layer, rest, y)
        product = self.product(layer, known)
        if layer.reads:
            product = product * self.scale(layer)
        return y + product.to(y.dtype)

    def driven(self, layer: CimLayer, x: Tensor) -> Tensor:
        return self.parts(layer, x)[1]

    def scale(self, layer: CimLayer) -> Tensor | float:
        """What a typical array makes of a product, with the macro in use."""
        macro = layer.macro
        if self._growth is None or self._growth[0] is not macro:
            self._growth = (macro, 0.0 if macro == ideal(macro) else growth(macro))
        return self.gain * self._growth[1] if self._growth[1] else 1.0

    def parts(self, layer: CimLayer, x: Tensor) -> tuple[Tensor, Tensor]:
        """(coordinates of p, R + 1 channels of which the last is 1; x - p), laid out as the inputs."""
        number = dimensions(layer)
        with torch.autocast(x.device.type, enabled=False):  # what one part loses the other would have to have
            wide = x if x.dtype == torch.float64 else x.float()
            mean, directions = self.mean.to(wide.dtype), self.directions.to(wide.dtype)
            if not number:
                centred = wide - mean
                along = centred @ directions
                rest = centred - along @ directions.T
                return torch.cat([along, torch.ones_like(rest[..., :1])], -1), rest.to(x.dtype)
            centred = wide.flatten(-number) - mean[:, None]
            along = directions.T @ centred
            rest = centred - directions @ along
        known = torch.cat([along, torch.ones_like(rest[..., :1, :])], -2)
        return known.unflatten(-1, x.shape[-number:]), rest.view(x.shape).to(x.dtype)

    def product(self, layer: CimLayer, known: Tensor) -> Tensor:
        """W · p from the coordinates of p, as the layer itself would have it, without its bias."""
        with torch.autocast(known.device.type, enabled=False):
            seen, (_, _, groups) = self.weights(layer, known.dtype), layer.matrix_shape
            return layer.product(torch.cat([known] * groups, axis(layer)), seen, None)

    def weights(self, layer: CimLayer, dtype: torch.dtype) -> Tensor:
        """What the layer's weights make of the coordinates of p, (N, R + 1, …); all groups have the same."""
        basis = torch.cat([self.directions, self.mean[:, None]], 1).to(dtype)
        weight, (_, _, groups) = layer.wanted().to(dtype), layer.matrix_shape
        shape = (groups, len(weight) // groups, len(basis) // groups, -1)
        seen = torch.einsum("gnct,gcr->gnrt", weight.view(shape), basis.view(groups, shape[2], -1))
        return seen.reshape(len(weight), -1, *weight.shape[2:])

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        centred, one = steps.affine(x, shift=-self.mean), torch.eye(self.rank + 1)[-1].to(self.mean)
        along = torch.cat([self.directions, torch.zeros_like(self.mean)[:, None]], 1)  # and beside them a 1
        known = steps.pointwise(centred, along.T, one)
        rest = steps.add(centred, steps.pointwise(known, -along)) if self.rank else centred
        product = steps.product(known, self.scale(layer) * self.weights(layer, torch.float32))
        return steps.add(read(rest), product)

    @torch.no_grad()
    def fit(self, moments: Moments) -> None:
        """The mean and the directions of most variance."""
        mean, covariance = moments()
        self.mean.copy_(mean)
        if covariance is not None:
            vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
            self.directions.copy_(vectors[:, : self.directions.shape[1]])

    @property
    def rank(self) -> int:
        """Directions that there are: fewer than channels."""
        return self.directions.shape[1]

    @property
    def size(self) -> int:
        offsets = self.taps if self.padded else 1  # at an edge those of padding are not added
        return len(self.mean) * (self.rank + 1) + self.outputs * (self.taps * self.rank + offsets)

    def macs(self, positions: int, inputs: int) -> int:
        return self.rank * (2 * inputs + positions * self.outputs * self.taps)

    def fetched(self, positions: int, inputs: int) -> int:
        return inputs + positions * self.rank * self.taps if self.rank else 0  # a mean goes as inputs are driven

    @property
    def terms(self) -> int:
        return max(len(self.mean), self.rank * self.taps) if self.rank else 1

    def refuses(self, macro: Macro) -> str | None:
        return self.config.refuses(macro)

    def take_back(self, layer: CimLayer) -> None:
        layer.forget_ranges()


def growth(macro: Macro) -> float:
    """What its variation makes of weights on average."""
    return 1.0 if macro.variation is None else macro.variation.growth


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
    data = unlabelled(model, batches, "centring")
    paths = paths_of(model, CentredPath)
    moments = {layer: Moments(covariance=path.rank > 0) for layer, path in paths.items()}
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
    """What the arrays make of a product on average: the slope of outputs over those of an exact one, as x passes. On
    macros as designed, whichever are in use, and before their converters, whose steps and ends are not of the array."""
    found: dict[CentredPath, list[Tensor]] = {path: [] for path in paths.values()}

    def watch(path: CentredPath, layer: CimLayer, rest: Tensor, y: Tensor) -> None:
        wanted = layer.computed(rest)
        a, b = (part.movedim(axis(layer), 0).flatten(1).double() for part in (wanted, y))
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        found[path].append(torch.stack([(a * b).sum(), a.square().sum()]))

    try:
        for path in found:
            path.watch = watch
        with computing(model, lambda macro: macro.model_copy(update={"converter": None, "trim": None})):
            for i in range(CHIPS if chip is not None else 1):
                if chip is not None:
                    on_chip(model, chip(i))
                silicon(model).begin(None, -1 - i)
                model(x)
    finally:
        for path in found:
            path.watch = None
    for layer, path in paths.items():
        product, square = torch.stack(found[path]).sum(0)
        slope = torch.where(square > 0, product / square, 1.0) / growth(layer.design)
        path.gain.copy_(torch.where(slope > 0, slope, 1.0))
