"""The deploy bundle: all a board and a host need to run a network, in one folder, and nothing of the network's code.

``bundle.json`` says what there is (JSON schema: ``bitline schema bundle``) and names the one safetensors file with the
cell levels, scales, biases and digital parameters by size and hash. It is written last: a bundle is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import safetensors.torch
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from bitline.configuration import Frozen, explain
from bitline.files import write_atomic
from bitline.lab.errors import BundleError
from bitline.macro import Conv, Dense, Layout, Macro
from bitline.macro.geometry import Geometry

FORMAT = "bitline-bundle"
VERSION = 1
Name = Annotated[str, Field(pattern=r"^[^\n]{0,200}$")]
Pairs = tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], ...]
Positive = Annotated[int, Field(ge=1, le=1 << 24)]


class DenseShape(Frozen):
    """A linear layer: inputs (…, K)."""

    kind: Literal["dense"] = "dense"


class ConvShape(Frozen):
    """A convolution: inputs (B, C, …), padded with the code of zero."""

    kind: Literal["conv"] = "conv"
    kernel: tuple[Positive, ...] = Field(min_length=1, max_length=3)
    stride: tuple[Positive, ...]
    dilation: tuple[Positive, ...]
    pads: Pairs = Field(description="before and after, a pair a dimension")

    @model_validator(mode="after")
    def _dimensions(self) -> ConvShape:
        if not len(self.kernel) == len(self.stride) == len(self.dilation) == len(self.pads):
            raise ValueError(f"kernel {self.kernel}, stride {self.stride}, dilation, pads differ in length")
        return self


class Tile(Frozen):
    """The cells of one array that a layer fills: rows and columns from the array's corner on."""

    array: int = Field(ge=0, description="array of the board")
    group: int = Field(ge=0)
    tile: int = Field(ge=0, description="array below array: its inputs start at tile · rows")
    block: int = Field(ge=0, description="array beside array: its outputs start at block · outputs of an array")
    levels: Name = Field(description="tensor (rows, columns) uint8")


class Layer(Frozen):
    """One layer on the board: y = (Σ radix · (low + step · code) + corrections) · scale + bias."""

    name: Name
    inputs: Positive = Field(description="K of one group")
    outputs: Positive = Field(description="N of one group")
    groups: Positive = 1
    shape: Annotated[DenseShape | ConvShape, Field(discriminator="kind")]
    input_scale: float = Field(gt=0, description="x ≈ input_scale · (code − input_zero)")
    input_zero: int
    input_lower: float | None = Field(
        default=None, description="input of the lowest code, to which lower ones are clipped; absent in older bundles"
    )
    input_upper: float | None = Field(
        default=None, description="input of the highest code, to which higher ones are clipped; absent in older bundles"
    )
    low: float = Field(description="value of converter code 0, counts")
    step: float = Field(gt=0, description="counts a converter code")
    scale: Name = Field(description="tensor () or (G·N,): what counts are multiplied by")
    stored: Name = Field(description="tensor (G·N,): sum of each output's integer weights")
    bias: Name | None = Field(default=None, description="tensor (G·N,)")
    tiles: tuple[Tile, ...] = Field(min_length=1)

    @property
    def geometry(self) -> Geometry:
        """Which inputs meet which weights."""
        if isinstance(self.shape, DenseShape):
            return Dense()
        return Conv(self.shape.kernel, self.shape.stride, self.shape.dilation, self.groups)


class Node(Frozen):
    """A step of the network: an operation (``graph.OPERATIONS``) on the results of earlier steps."""

    op: Name
    inputs: tuple[int, ...] = Field(default=(), description="numbers of earlier steps; step 0 is the network's input")
    layer: Name | None = Field(default=None, description="for op layer: its name")
    settings: dict[str, int | float | bool | tuple[int, ...]] = Field(default_factory=dict)
    tensors: dict[str, Name] = Field(default_factory=dict)


class Tensors(Frozen):
    """The safetensors file beside ``bundle.json``."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+\.safetensors$")]
    bytes: int = Field(ge=0)
    blake2b: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Record(Frozen):
    """``bundle.json``."""

    format: Literal["bitline-bundle"] = "bitline-bundle"
    version: Literal[1] = 1
    name: Name
    macro: Macro
    arrays: Positive = Field(description="arrays the board must have")
    layers: tuple[Layer, ...] = Field(min_length=1)
    nodes: tuple[Node, ...] = Field(min_length=1, description="in order; the last is the result")
    reference: bool = Field(default=False, description="whether characterised codes are there to compare with")
    images: int = Field(default=0, ge=0, description="images and labels that come with it")
    provenance: dict[str, str] = Field(default_factory=dict)
    tensors: Tensors


class Bundle:
    """A bundle in memory: its record and its tensors. Raises BundleError for what does not fit together."""

    def __init__(self, record: Record, tensors: dict[str, Tensor]) -> None:
        self.record, self.tensors, self.macro = record, tensors, record.macro
        self.layers = {layer.name: layer for layer in record.layers}
        self._check()

    def layout(self, layer: Layer) -> Layout:
        """Where the layer sits on the macro."""
        return self.macro.layout(layer.inputs, layer.outputs, layer.groups)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape; raises BundleError naming it where it is missing or another."""
        found = self.tensors.get(name)
        if found is None:
            raise BundleError(f"tensor {name!r} is missing")
        if tuple(found.shape) != shape:
            raise BundleError(f"tensor {name!r} has the shape {tuple(found.shape)}, {shape} is needed")
        return found

    def _check(self) -> None:
        record, macro = self.record, self.macro
        if macro.inputs is None or macro.weights is None or not macro.sliced:
            raise BundleError(f"macro {macro.name} has no digits in cells")
        if len(self.layers) < len(record.layers):
            raise BundleError("two layers have the same name")
        for layer in record.layers:
            try:
                self._check_layer(layer)
            except ValueError as error:
                raise BundleError(f"layer {layer.name}: {error}") from None
        for number, node in enumerate(record.nodes):
            if any(not 0 <= i < max(number, 1) for i in node.inputs) or (number == 0) != (node.op == "input"):
                raise BundleError(f"step {number} ({node.op}) does not follow from earlier steps: {node.inputs}")
            if node.op == "layer" and node.layer not in self.layers:
                raise BundleError(f"step {number} runs layer {node.layer!r}; there are: {', '.join(self.layers)}")
            for name in node.tensors.values():
                if name not in self.tensors:
                    raise BundleError(f"step {number} ({node.op}): tensor {name!r} is missing")

    def _check_layer(self, layer: Layer) -> None:
        self._check_bounds(layer)
        layout, outputs, high = self.layout(layer), layer.groups * layer.outputs, self.macro.level_high
        wanted = [(g, t, b) for g in range(layer.groups) for t in range(layout.tiles) for b in range(layout.blocks)]
        if sorted((tile.group, tile.tile, tile.block) for tile in layer.tiles) != wanted:
            raise ValueError(f"{len(layer.tiles)} tiles, where its {len(wanted)} (group, tile, block) have one each")
        for tile in layer.tiles:
            if tile.array >= self.record.arrays:
                raise ValueError(f"array {tile.array} of a bundle for {self.record.arrays} arrays")
            rows = min(layout.rows, layer.inputs - tile.tile * layout.rows)
            levels = self.tensor(tile.levels, rows, layout.columns)
            if levels.dtype != torch.uint8 or int(levels.max()) > high:
                raise ValueError(f"tensor {tile.levels!r} must hold levels 0 … {high} as uint8")
        scale = self.tensors.get(layer.scale)
        self.tensor(layer.scale, *(() if scale is not None and scale.dim() == 0 else (outputs,)))
        self.tensor(layer.stored, outputs)
        if layer.bias is not None:
            self.tensor(layer.bias, outputs)

    def _check_bounds(self, layer: Layer) -> None:
        inputs, step = self.macro.inputs, layer.input_scale
        assert inputs is not None
        for name, code in (("input_lower", inputs.low), ("input_upper", inputs.high)):
            bound, wanted = getattr(layer, name), step * (code - layer.input_zero)
            if bound is not None and abs(bound - wanted) > 1e-6 * step:
                raise ValueError(f"{name} = {bound:g}, but code {code} stands for {wanted:g}")


def save(bundle: Bundle, folder: Path) -> None:
    """Write a bundle; an older one in the folder is replaced, and stays whole if this is interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    payload = safetensors.torch.save({name: tensor.contiguous() for name, tensor in bundle.tensors.items()})
    digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
    file = f"bundle-{digest[:8]}.safetensors"
    partial = folder / f"{file}.partial"
    partial.write_bytes(payload)
    partial.replace(folder / file)
    tensors = Tensors(file=file, bytes=len(payload), blake2b=digest)
    record = bundle.record.model_copy(update={"tensors": tensors})
    write_atomic(folder / "bundle.json", record.model_dump_json(indent=1, exclude_none=True) + "\n")
    for stale in folder.glob("bundle-*.safetensors"):
        if stale.name != file:
            stale.unlink()


def load(folder: Path) -> Bundle:
    """Read a bundle. Raises BundleError naming file and field, where it is damaged, altered or of another version."""
    path = folder / "bundle.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{path} is no deploy bundle: its format is not {FORMAT!r}")
    if data.get("version") != VERSION:
        raise BundleError(f"{path} has version {data.get('version')!r}; this release reads {VERSION}")
    try:
        record = Record.model_validate(data)
    except ValidationError as error:
        raise BundleError(explain(error, Record, path)) from None
    file = folder / record.tensors.file
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}, which {path.name} names: {error.strerror or error}") from None
    if len(payload) != record.tensors.bytes:
        raise BundleError(f"{file} is truncated: {len(payload)} bytes, {record.tensors.bytes} were written")
    if hashlib.blake2b(payload, digest_size=16).hexdigest() != record.tensors.blake2b:
        raise BundleError(f"{file} was altered: its BLAKE2 hash is not the one {path.name} states")
    try:
        return Bundle(record, safetensors.torch.load(payload))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
