"""The folded plan: a column that is linear and has no converter is one ordinary product with this die's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from bitline import draws
from bitline.macro.column import Column
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.macro import Macro


def refuses(macro: Macro) -> str | None:
    """Why this macro cannot be folded; None if it can."""
    if macro.converter is not None:
        return "every column read is converted"
    if isinstance(macro.column, TableColumn):
        return "codes are drawn from a measured table"
    if isinstance(macro.column, CurveColumn):
        if macro.column.mean is not None:
            return "the column's mean curve is not linear"
        if macro.column.pattern is not None:
            return "the column answers to the pattern of its rows"
        if macro.column.sigma is not None:
            return "read noise depends on the sum"
    if macro.driver is not None and macro.driver.inl_sigma is not None:
        return "each word-line driver has its own error"
    return None


def run(x: Tensor, column: Column, geometry: Geometry, keys: Tensor | None, weight: Tensor) -> Tensor:
    """One product with ``weight`` (G·N, K); output in the layer's layout, differentiable in x and weight.

    Exact for integers in float32; float64 where sums could pass 2^24.
    """
    macro, layout = column.macro, column.layout
    inputs = macro.inputs
    dtype = torch.promote_types(x.dtype, torch.float32)
    if inputs is not None and macro.weights is not None:
        scale = max(abs(inputs.low), inputs.high) * max(abs(macro.weights.low), macro.weights.high)
        dtype = torch.float64 if layout.inputs * scale >= 1 << 24 else dtype
    x, matrix = x.to(dtype), weight.to(dtype)
    y = geometry.linear(column.driven(x), matrix)
    if column.weight_constant:  # the digital Σw is that of the weights asked for
        off = column.weight_constant * (column.wanted - column.weight).detach().double().sum(1)
        y = y + geometry.broadcast(off.to(y.dtype))
    if column.spread is not None:
        y = y + geometry.broadcast(_compensated(_offsets(column), column).to(y.dtype))
    if column.cell_variance is not None or column.variance is not None:
        y = y + _noise(x, column, geometry, keys, y)
    return y


def _compensated(each: Tensor, column: Column) -> Tensor:
    """One value an output, (G·N,), times the column's factor; the weights have it already."""
    return each if column.factor is None else each * column.factor


def _offsets(column: Column) -> Tensor:
    """What the columns' offsets add to each output, (G·N,)."""
    assert column.spread is not None
    radix = torch.tensor(column.radix, dtype=torch.float64, device=column.spread.offset.device).view(1, 1, -1, 1, 1)
    signs = torch.tensor(column.macro.leg_signs, dtype=torch.float64, device=radix.device).view(1, 1, 1, -1, 1)
    each = (column.spread.offset * radix * signs).sum((1, 2, 3))
    return (each * sum(column.pass_radix)).flatten()


def _noise(x: Tensor, column: Column, geometry: Geometry, keys: Tensor | None, y: Tensor) -> Tensor:
    """Fresh noise of the driven cells, summed over digits: exact, since independent Gaussians add their variances."""
    layout = column.layout
    if keys is None:
        raise ValueError(f"{column.site.name}: the macro has read noise; say which samples are read")
    planes = column.planes(x.detach())
    power = sum(radix**2 * plane.square() for radix, plane in zip(column.pass_radix, planes, strict=True))
    assert isinstance(power, Tensor)
    if column.variance is not None:
        radix = power.new_tensor([r**2 for r in column.radix])
        variance = geometry.linear(
            power, layout.gather(torch.einsum("gtrcln,c->gtrn", column.variance.to(radix), radix))
        )
    else:
        assert column.cell_variance is not None
        legs = layout.legs * sum(r**2 for r in column.radix)
        ones = power.new_full((layout.groups, layout.inputs), legs * column.cell_variance)
        variance = geometry.linear(power, ones).repeat_interleave(layout.outputs, dim=geometry.channel)
    noise = variance.sqrt() * draws.sample_normals(keys, y.shape).to(y.dtype)
    if column.factor is None:
        return noise
    return noise * (geometry.broadcast(column.factor) if column.factor.dim() else column.factor).to(y.dtype)
