"""Gradients through every conversion's own slope: what ``SlopeExact`` passes back."""

from __future__ import annotations

import torch
from torch import Tensor

from bitline.macro import reference
from bitline.macro.column import Column
from bitline.macro.conversion import Reader
from bitline.macro.geometry import Geometry
from bitline.macro.program import with_cells
from bitline.macro.read import Converters, Keep
from bitline.macro.sums import Gathered


def backward(
    grad: Tensor,
    x: Tensor,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x (its shape) and of the effective weights (G·N, K) from that of the outputs, float64.

    The conversion of pass p and digit c in row group t sums s = Σ_k x_pk w_ck and has the slope f'; of the outputs
    y = Σ_tpc r_p r_c f(s), ∂y/∂x_k = Σ_pc |r_p|/Σ|r_p| · r_c f' w_ck and ∂y/∂w_k = Σ_pc |r_c|/Σ|r_c| · r_p f' x_pk.
    Reads as the forward pass did, with the same ``keys``. Slopes of legs that have one each are averaged.
    """
    column = with_cells(column)
    assert column.cells is not None
    layout, groups = column.layout, column.layout.groups
    outputs = groups * layout.outputs
    reader = Reader(column, converters, Keep(slope=True), None, x.device)
    reader.needs_rows = True  # gathered one by one
    cells, passes, digits = _signed(column), _radix(reader.passes, x), _radix(reader.conversions, x)
    up = grad.movedim(geometry.channel, -1).reshape(len(x), -1, outputs).double()
    positions = up.shape[1]
    grad_rows = torch.zeros(len(x), positions, groups, layout.inputs, dtype=torch.float64, device=x.device)
    grad_w = torch.zeros(groups, layout.outputs, layout.inputs, dtype=torch.float64, device=x.device)
    for samples, part, found in reference.chunks(x, reader, geometry, positions):
        assert isinstance(found, Gathered)
        piece = up[samples, part]
        g = piece.reshape(-1, groups, layout.outputs).movedim(1, 0)  # G m N
        into = grad_rows[samples, part]

        def passed(t: int, slope: Tensor, found: Gathered = found, g: Tensor = g, into: Tensor = into) -> None:
            start, count, _, _ = layout.spans[t]
            each = slope.double() * g[:, None, :, None]  # G P m C N
            if needs[0]:
                shared = torch.einsum("gpmcn,p,c,grcn->mgr", each, _shares(passes), digits, cells[:, t, :count])
                into[..., start : start + count] += shared.reshape(*into.shape[:3], count)
            if needs[1]:
                driven = found.driven(t).double().unflatten(1, (len(passes), -1))  # G P m R
                grad_w[:, :, start : start + count] += torch.einsum(
                    "gpmcn,p,c,gpmr->gnr", each, passes, _shares(digits), driven
                )

        reader.each = passed
        first = None
        if keys is not None and reader.draws:
            first = reference.row_keys(keys[samples], part, positions, reader.words)
        reader.read(found, len(piece.flatten(0, 1)), first)
    if column.input_constant:  # Σx and Σw are added up digitally
        grad_rows += column.input_constant * up.view(*up.shape[:2], groups, -1).sum(-1, keepdim=True)
    if column.weight_constant:
        grad_w += column.weight_constant * up.sum((0, 1)).view(groups, -1, 1)
    return _folded_back(grad_rows, x, geometry) if needs[0] else None, grad_w.flatten(0, 1) if needs[1] else None


def _signed(column: Column) -> Tensor:
    """What each conversion's cells count, legs by their signs, gains of the columns included: (G, T, R, C, N)."""
    assert column.cells is not None
    layout, cells = column.layout, column.cells.double() * column.unit
    if column.spread is not None:
        cells = cells * column.spread.gain[:, :, None]
    if column.factor is not None:
        cells = cells * (column.factor.view(layout.groups, 1, 1, 1, 1, -1) if column.factor.dim() else column.factor)
    return (cells * cells.new_tensor(column.macro.leg_signs).view(-1, 1)).sum(4)


def _radix(radix: tuple[int, ...], x: Tensor) -> Tensor:
    return torch.tensor(radix, dtype=torch.float64, device=x.device)


def _shares(radix: Tensor) -> Tensor:
    return radix.abs() / radix.abs().sum()


def _folded_back(rows: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Gradient of x from that of its rows (B, positions, G, K)."""
    with torch.enable_grad():
        inputs = torch.zeros(x.shape, dtype=torch.float64, device=x.device, requires_grad=True)
        found = geometry.rows(inputs)
    return torch.autograd.grad(found, inputs, rows.reshape(found.shape))[0]
