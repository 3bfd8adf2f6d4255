"""From a trained network on a macro to a deploy bundle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitline.lab.bundle import Bundle, Layer, Record, Tensors, Tile
from bitline.lab.graph import trace
from bitline.lab.lowered import shape_of
from bitline.macro import Macro
from bitline.macro.kinds import TableColumn
from bitline.macro.placement import Layout, Reload
from bitline.nn import CimLayer, computing, layers
from bitline.samples import Samples
from bitline.version import version


def export(
    model: torch.nn.Module,
    *,
    name: str = "network",
    arrays: int | None = None,
    images: tuple[Tensor, Tensor] | None = None,
    samples: Samples | None = None,
    provenance: dict[str, str] | None = None,
) -> Bundle:
    """All of a converted, calibrated network that a board and a host need.

    ``arrays``: arrays of the board; tiles take them in turn and are rewritten where they share one. Absent: the
    macro's ``reload``, or as many as there are tiles. ``images`` (B, …) and labels (B,) come with the bundle to replay
    it with. ``samples``: single conversions characterised on the very board, which replay compares codes with. Side
    paths are written as the digital steps that they are (``SidePath.lower``), on the macros as designed.

    Raises ValueError for layers on different macros, continuous or uncalibrated layers, quantizers that are no scale
    and zero point, side paths that have no such steps, and for what ``graph.trace`` cannot follow.
    """
    found = layers(model)
    macros = {layer.design.fingerprint: layer.design for layer in found.values()}
    if len(macros) != 1:
        raise ValueError(f"a bundle is for one macro; the network's layers sit on {len(macros)}")
    macro = next(iter(macros.values()))
    if macro.inputs is None or macro.weights is None or not macro.sliced:
        raise ValueError(f"macro {macro.name} has no digits in cells: there is nothing to write to a board")
    if macro.compensation is not None:
        raise ValueError(f"macro {macro.name}: a bundle holds no drift compensation; remove macro.compensation")
    if arrays is None and isinstance(macro.placement, Reload):
        arrays = macro.placement.arrays
    model.eval()
    tensors: dict[str, Tensor] = {}
    parts, first = [], 0
    with torch.no_grad(), computing(model, lambda designed: designed):
        for layer in found.values():
            part = _layer(layer, macro, first, arrays, tensors)
            parts.append(part)
            first += len(part.tiles)
        nodes, own = trace(model)
    tensors |= own
    if images is not None:
        tensors |= {"images": images[0].float().cpu(), "labels": images[1].long().cpu()}
    if samples is not None:
        tensors |= _reference(samples)
    record = Record(
        name=name,
        macro=macro,
        arrays=arrays or first,
        layers=tuple(parts),
        nodes=nodes,
        reference=samples is not None,
        images=0 if images is None else len(images[0]),
        provenance={"bitline": version(), "macro": macro.fingerprint} | (provenance or {}),
        tensors=Tensors(file="bundle.safetensors", bytes=0, blake2b="0" * 32),  # as `save` will find them
    )
    return Bundle(record, {key: value.detach().clone().contiguous() for key, value in tensors.items()})


def _layer(layer: CimLayer, macro: Macro, first: int, arrays: int | None, tensors: dict[str, Tensor]) -> Layer:
    name, quantizer = layer.site.name, layer.input_quantizer
    inputs, outputs, groups = layer.matrix_shape
    assert macro.weights is not None
    if quantizer is None or not quantizer.calibrated:
        raise ValueError(f"{name}: inputs are not calibrated; call bitline.calibrate(model, loader)")
    affine = quantizer.affine(torch.zeros(1, inputs))
    if affine is None or (macro.inputs is not None and macro.inputs.stride != 1):
        raise ValueError(f"{name}: {quantizer} is no scale and zero point; a bundle holds only those")
    column, weight_scale = layer.program()
    if isinstance(macro.column, TableColumn):
        low, step = macro.column.low, macro.column.step
    else:
        converters = layer.readout()
        if converters is None:
            raise ValueError(f"{name}: macro {macro.name} has no converter: a board cannot be read")
        low, step = float(converters.low), float(converters.step)
    levels = column.layout.scatter(macro.weights.levels(column.wanted.detach()))  # G T R C L N
    tiles = _tiles(levels, column.layout, f"layer/{name}", first, arrays, tensors)
    tensors[f"layer/{name}/scale"] = (affine.scale * weight_scale).detach().float()
    tensors[f"layer/{name}/stored"] = column.wanted.detach().double().sum(1)
    if layer.bias is not None:
        tensors[f"layer/{name}/bias"] = layer.bias.detach().float()
    assert macro.inputs is not None
    scale, zero = float(affine.scale), int(affine.zero)
    return Layer(
        name=name,
        inputs=inputs,
        outputs=outputs,
        groups=groups,
        shape=shape_of(layer),
        input_scale=scale,
        input_zero=zero,
        input_lower=scale * (macro.inputs.low - zero),
        input_upper=scale * (macro.inputs.high - zero),
        low=low,
        step=step,
        scale=f"layer/{name}/scale",
        stored=f"layer/{name}/stored",
        bias=f"layer/{name}/bias" if layer.bias is not None else None,
        tiles=tiles,
    )


def _tiles(
    levels: Tensor, layout: Layout, prefix: str, first: int, arrays: int | None, tensors: dict[str, Tensor]
) -> tuple[Tile, ...]:
    """Pictures of the arrays that hold ``levels`` (G, T, R, C, L, N), by physical row and column."""
    columns, found = layout.column(), list[Tile]()
    for group in range(layout.groups):
        for tile in range(layout.tiles):
            rows = min(layout.rows, layout.inputs - tile * layout.rows)
            for block in range(layout.blocks):
                some = slice(block * layout.per_array, min((block + 1) * layout.per_array, layout.outputs))
                picture = torch.zeros(rows, layout.columns, dtype=torch.uint8)
                for t, (_, count, of, row) in enumerate(layout.spans):
                    if of == tile:
                        held = levels[group, t, :count, :, :, some].to(torch.uint8).flatten(1)
                        picture[row : row + count, columns[:, :, some].flatten()] = held
                number = first + len(found)
                tensor = f"{prefix}/{group}.{tile}.{block}"
                tensors[tensor] = picture
                place = number % arrays if arrays else number
                found.append(Tile(array=place, group=group, tile=tile, block=block, levels=tensor))
    return tuple(found)


def _reference(samples: Samples) -> dict[str, Tensor]:
    """How often each code was read for each ideal sum on each physical column."""
    if samples.column is None:
        raise ValueError("the samples do not tell columns apart: characterise with `bitline lab characterize`")
    if samples.chip is not None and len(np.unique(samples.chip)) > 1:
        raise ValueError("the samples are of several chips: select the one that the bundle is for")
    rows = np.stack([samples.column, samples.ideal, samples.code], axis=1)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    names = ("column", "ideal", "code")
    found = {f"reference/{name}": torch.from_numpy(kinds[:, i].copy()) for i, name in enumerate(names)}
    return found | {"reference/count": torch.from_numpy(counts)}
