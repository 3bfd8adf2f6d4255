"""A bundle on a board: its cells written, its network run layer by layer, its codes reconciled with the prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bitline.configuration import Frozen
from bitline.lab.agreement import Agreement
from bitline.lab.board import Board
from bitline.lab.bundle import Bundle, ConvShape, Layer, Tile
from bitline.lab.counts import Counts
from bitline.lab.errors import BoardReset, BundleError
from bitline.lab.expected import compared
from bitline.lab.graph import evaluate
from bitline.lab.instrument import Instrument
from bitline.lab.sweep import weights
from bitline.macro import Chip

AT_ONCE = 1 << 21  # conversions held at once
BATCH = 1024  # images run through the layers together
RESTARTS = 3

Progress = Callable[[str, int, int], None]  # layer, tiles done, tiles


class Replayed(Frozen):
    """What a replay found."""

    board: str
    serial: str
    images: int
    accuracy: float = Field(description="%, on the board")
    interval: tuple[float, float] = Field(description="95 % Wilson interval of it, %")
    predicted: float = Field(description="%, of the bundle's own model of the board")
    rewritten: int = Field(description="blocks of cells written more than once")
    agreement: Agreement | None = Field(description="absent: there was nothing to compare codes with")
    why: str = Field(default="", description="why codes were not compared")

    @property
    def agrees(self) -> bool:
        """Whether codes and accuracy are as predicted."""
        low, high = self.interval
        return low <= self.predicted <= high and (self.agreement is None or self.agreement.agrees)


@dataclass
class Runner:
    """A bundle's network on an instrument; ``counts`` holds the codes seen, layer by layer, where they are kept."""

    bundle: Bundle
    instrument: Instrument
    tries: int = 2  # of write-verify
    keep: bool = True
    progress: Progress | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    rewritten: int = 0
    _holds: dict[int, str] = field(default_factory=dict)  # tensor that each array holds
    _ranges: dict[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fits(self.bundle, self.instrument)

    def __call__(self, images: Tensor) -> Tensor:
        """Scores (B, classes) of images (B, …)."""
        with torch.no_grad():
            return torch.cat([evaluate(self.bundle, part, self._layer) for part in images.float().split(BATCH)])

    def write(self, layer: Layer, tile: Tile) -> None:
        """Cells and range of a tile's array, unless it has them."""
        name = tile.levels
        if self._holds.get(tile.array) != name:
            self._holds.pop(tile.array, None)
            tries = self.tries if self.instrument.identity.verifies else 0
            levels = self.bundle.tensors[name].numpy()
            self.rewritten += self.instrument.program(tile.array, levels, tries=tries)
            self._holds[tile.array] = name
        if self._ranges.get(tile.array) != (layer.low, layer.step):
            self.instrument.configure(tile.array, layer.low, layer.step)
            self._ranges[tile.array] = (layer.low, layer.step)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        """A layer's output: quantised, read from the board, corrected, scaled."""
        bundle, layer = self.bundle, self.bundle.layers[name]
        layout, geometry, macro = bundle.layout(layer), layer.geometry, bundle.macro
        inputs, stored = macro.inputs, macro.weights
        assert inputs is not None
        assert stored is not None
        wanted, axis = _channels(layer)
        if x.dim() < 1 - axis or x.shape[axis] != wanted:
            raise BundleError(f"layer {name} of {wanted} input channels is given {tuple(x.shape)}")
        codes = (x / layer.input_scale + layer.input_zero + 0.5).floor_().clamp_(inputs.low, inputs.high)
        if isinstance(layer.shape, ConvShape):
            flat = [side for pair in reversed(layer.shape.pads) for side in pair]
            codes = F.pad(codes, flat, value=float(layer.input_zero))
        else:
            codes = codes.reshape(len(codes), -1, codes.shape[-1])
        rows = geometry.rows(codes)  # B positions G K
        extent = geometry.shape(codes, 1)[:-1]
        flat_rows = rows.flatten(0, 1).numpy().astype(np.int16)
        total = np.zeros((len(flat_rows), layer.groups, layer.outputs), dtype=np.int64)
        for number, tile in enumerate(layer.tiles):
            self._insisted(layer, tile, flat_rows, total)
            if self.progress is not None:
                self.progress(name, number + 1, len(layer.tiles))
        y = torch.from_numpy(total).flatten(1).double() * layer.step
        y += layer.low * sum(inputs.radix) * sum(stored.radix) * layout.reads
        sums = bundle.tensors[layer.stored].double()
        if stored.input_constant:
            of_inputs = rows.flatten(0, 1).double().sum(-1) * stored.input_constant
            y += of_inputs.repeat_interleave(layer.outputs, dim=1)
        y += inputs.constant * (sums - stored.input_constant * layer.inputs) - layer.input_zero * sums
        y = y.float() * bundle.tensors[layer.scale]
        if layer.bias is not None:
            y = y + bundle.tensors[layer.bias]
        y = geometry.restore(y.view(len(codes), -1, y.shape[1]), extent)
        return y if isinstance(layer.shape, ConvShape) else y.reshape(*x.shape[:-1], y.shape[-1])

    def _insisted(self, layer: Layer, tile: Tile, rows: np.ndarray, total: np.ndarray) -> None:
        """Add one tile's codes to ``total`` (M, G, N); begun again with its cells if the board was reset."""
        for attempt in range(RESTARTS + 1):
            try:
                found = np.zeros_like(total)
                seen = Counts()
                self.write(layer, tile)
                for column, ideal, code in self._read(layer, tile, rows, found):
                    if self.keep:
                        seen.add(column, ideal, code)
            except BoardReset:
                if attempt == RESTARTS:
                    raise
                self._holds.clear()
                self._ranges.clear()
                self.instrument.restart()
            else:
                total += found
                if self.keep:
                    kept = self.counts.setdefault(layer.name, Counts())
                    seen.settle()
                    kept.merge(seen)
                return

    def _read(
        self, layer: Layer, tile: Tile, rows: np.ndarray, total: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Read the row groups of a tile, chunk by chunk; yields (columns, ideal sums, codes), one an entry."""
        macro, layout, identity = self.bundle.macro, self.bundle.layout(layer), self.instrument.identity
        inputs, stored = macro.inputs, macro.weights
        assert inputs is not None
        assert stored is not None
        outputs = slice(tile.block * layout.per_array, min((tile.block + 1) * layout.per_array, layout.outputs))
        lanes = (outputs.stop - outputs.start) * layout.conversions
        w = weights(identity, self.bundle.tensors[tile.levels].numpy())[:, :lanes].astype(np.float32)
        address = tile.array * identity.columns + np.arange(lanes) * identity.stride
        step = max(1, AT_ONCE // (lanes * len(inputs.radix)))
        for start, count, of, row in layout.spans:
            if of != tile.tile:
                continue
            for first in range(0, len(rows), step):
                x = rows[first : first + step, tile.group, start : start + count]
                code = self.instrument.read(tile.array, row, x, "codes", 0, lanes)
                whole = np.tensordot(np.asarray(inputs.radix), code.astype(np.int64), axes=(0, 1))
                each = whole.reshape(len(x), -1, layout.conversions) @ np.asarray(stored.radix)
                total[first : first + step, tile.group, outputs] += each
                if self.keep:
                    driven = inputs.digits(torch.from_numpy(x.astype(np.float32))).transpose(0, 1).numpy()
                    ideal = (driven @ w[row : row + count]).astype(np.int64)  # vectors passes lanes
                    yield np.broadcast_to(address, ideal.shape), ideal, code


def _channels(layer: Layer) -> tuple[int, int]:
    """Channels of a layer's inputs, and their axis."""
    kernel = layer.shape.kernel if isinstance(layer.shape, ConvShape) else ()
    return layer.groups * layer.inputs // math.prod(kernel), -1 - len(kernel)


def fits(bundle: Bundle, instrument: Instrument) -> None:
    """Raise BundleError naming what a board has less of, or other than, a bundle needs."""
    wanted = asdict(Instrument(Board(bundle.macro, arrays=bundle.record.arrays)).identity)
    found = asdict(instrument.identity)
    if found["arrays"] < wanted["arrays"]:
        raise BundleError(
            f"the bundle needs {wanted['arrays']} arrays, the board has {found['arrays']}: export it with "
            f"--arrays {found['arrays']}, so that tiles take turns"
        )
    for name in wanted.keys() - {"arrays", "name", "serial", "verifies"}:
        if wanted[name] != found[name]:
            raise BundleError(
                f"the bundle is for macro {bundle.macro.name} with {name} = {wanted[name]}; board {found['name']} "
                f"has {found[name]}"
            )


def program(bundle: Bundle, instrument: Instrument, tries: int = 2) -> int:
    """Write a bundle's cells and ranges; returns how many blocks verifying made write again.

    Where tiles share an array, the first keeps it; ``replay`` rewrites it in turn. Raises BundleError where the board
    does not fit, LinkError where cells do not take their levels.
    """
    runner, taken = Runner(bundle, instrument, tries), set[int]()
    for layer in bundle.record.layers:
        for tile in layer.tiles:
            if tile.array not in taken:
                taken.add(tile.array)
                runner.write(layer, tile)
    return runner.rewritten


def model_of(bundle: Bundle, chip: Chip | None = None) -> Instrument:
    """The bundle's own model of its board, in this process."""
    return Instrument(Board(bundle.macro, chip or Chip(0, 0), bundle.record.arrays, serial="model"))


def predict(
    bundle: Bundle, images: Tensor, chip: Chip | None = None, counts: dict[str, Counts] | None = None
) -> Tensor:
    """Scores (B, classes) that the bundle's own model of the board gives; ``counts`` takes the codes, if given."""
    runner = Runner(bundle, model_of(bundle, chip), tries=0, keep=counts is not None)
    scores = runner(images)
    if counts is not None:
        counts |= runner.counts
    return scores


def replay(
    bundle: Bundle,
    instrument: Instrument,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    alpha: float = 0.01,
    tries: int = 2,
    progress: Progress | None = None,
) -> Replayed:
    """Run images through the board and say whether it behaves as predicted.

    ``images`` and ``labels``: absent: those of the bundle. Codes are compared with the characterised ones in the
    bundle, column by column, else with what its macro gives, where that describes this die: column by column, bank by
    bank or all together, as its table is. ``agreement`` is None where neither is there, and ``why`` says so.

    Raises BundleError as ``fits`` does, and what the link raises.
    """
    if images is None or labels is None:
        if not bundle.record.images:
            raise ValueError("the bundle has no images: give some, or export it with --images")
        images, labels = bundle.tensors["images"], bundle.tensors["labels"]
    runner = Runner(bundle, instrument, tries, progress=progress)
    right = runner(images).argmax(1) == labels
    simulated: dict[str, Counts] = {}
    predicted = predict(bundle, images, counts=simulated).argmax(1) == labels
    found, why = compared(bundle, runner.counts, simulated, instrument.identity.columns, alpha)
    return Replayed(
        board=instrument.identity.name,
        serial=instrument.identity.serial,
        images=len(images),
        accuracy=100 * float(right.double().mean()),
        interval=wilson(int(right.sum()), len(right)),
        predicted=100 * float(predicted.double().mean()),
        rewritten=runner.rewritten,
        agreement=found,
        why=why,
    )


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of ``n``, % (Wilson, J. Am. Stat. Assoc. 1927)."""
    share, wide = right / n, z * z / n
    centre, half = (share + wide / 2) / (1 + wide), z / (1 + wide) * math.sqrt(share * (1 - share) / n + wide / n / 4)
    return 100 * (centre - half), 100 * (centre + half)
