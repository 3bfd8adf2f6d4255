"""From a macro, a die and weights to a programmed column."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bitline.circuits.crossbar import Linearised
from bitline.converters import Adc
from bitline.devices import WeightVariation
from bitline.macro import compensation
from bitline.macro.cells import stored
from bitline.macro.chip import Chip, Effect
from bitline.macro.column import Code, Column, Law, Spread
from bitline.macro.curves import Lookup
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout, Site
from bitline.macro.trim import trimmed
from bitline.macro.wired import wired

FIXED_POINT_HIGH = 8127  # cells off the integer grid: 14 bits, so that a pair's difference is two signed 8-bit limbs
PATTERN_BITS = 24  # of a row's pattern counts, behind the point: likewise exact
DRIVE_BITS = 20  # driven values likewise: times cells, over 2^16 rows, they add up exactly in float64


def program(
    weights: Float[Tensor, "outputs inputs"],
    macro: Macro,
    chip: Chip,
    site: Site,
    n: int = 0,
    groups: int = 1,
    sample: Tensor | None = None,
    around: Linearised | None = None,
    beside: Tensor | None = None,
    verified: Tensor | None = None,
) -> Column:
    """Write a layer's weights on a die, for the ``n``-th time.

    ``weights``: (G·N, K), integers of ``macro.weights``, or real numbers if that is absent; the result's ``weight`` is
    differentiable in them. ``sample``: the draws of a weight variation, if already at hand. ``around``: the arrays
    solved before (``wired.linearised``), from which the effect of wires follows to first order. ``beside``: what else
    sits in the weights' physical range. ``verified``: (G·N, K) bool, the weights that a write–verify loop corrects;
    absent: all. Raises ValueError naming the first weight that is NaN or out of range.
    """
    outputs, inputs = weights.shape[0] // groups, weights.shape[1]
    layout = macro.layout(inputs, outputs, groups)
    check(weights.detach(), macro, site.name)
    if macro.sliced:
        return replace(_sliced(weights, macro, layout, chip, site, n, around, verified), n=n)
    effective, deviation = weights, None
    if macro.variation is not None:
        sample = sampled(macro.variation, weights.shape, chip, site, n, weights.device) if sample is None else sample
        effective = macro.variation.apply(weights, sample, beside)
        deviation = macro.variation.deviation(weights, beside)
    cells, unit = None, 1.0
    if macro.converter is not None or macro.column is not None:
        cells, unit = fixed_point(layout.scatter(effective.detach().double()[None, None]), macro)
    column = _assembled(effective, weights, cells, unit, macro, layout, chip, site)
    return column if deviation is None else replace(column, cell_variance=float(deviation) ** 2)


def with_cells(column: Column) -> Column:
    """The column with its cells written out, where the folded plan did without."""
    if column.cells is not None:
        return column
    cells, unit = fixed_point(column.layout.scatter(column.weight.detach().double()[None, None]), column.macro)
    return replace(column, cells=cells, unit=unit)


def check(weights: Tensor, macro: Macro, name: str) -> None:
    """Raise ValueError naming the first weight that is NaN or that the macro cannot store."""
    if macro.weights is not None:
        macro.weights.check(weights, f"{name}: weight")
    elif not bool(weights.isfinite().all()):
        first = (~weights.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name}: weight{first} = {weights[tuple(first)].item()} is not a finite number")


def sampled(
    variation: WeightVariation,
    shape: torch.Size,
    chip: Chip,
    site: Site,
    n: int,
    device: torch.device,
    what: str = "weights",
) -> Tensor | None:
    """The draws of a weight variation on a die, float64; None where dies do not differ.

    One a weight of a (G·N, K) matrix, or one an output for its row of offsets (``what``: bias).
    """
    if not variation.varies:
        return None
    index = torch.arange(shape.numel(), device=device).view(shape)
    return variation.sample(Effect(chip.stream(f"weight {variation.kind} write {n}", f"{what} {site.name}"), index))


def _sliced(
    weights: Tensor,
    macro: Macro,
    layout: Layout,
    chip: Chip,
    site: Site,
    n: int,
    around: Linearised | None,
    verified: Tensor | None,
) -> Column:
    """Weights as digits in cells."""
    scheme, cell = macro.weights, macro.cell
    assert scheme is not None
    cells = layout.scatter(scheme.levels(weights.detach()))
    unit, held, soft, variance, writes, factor = 1.0, None, weights, None, None, None
    if cell is not None and not cell.plain:
        where = (scheme.level_high, layout, chip, site, n, verified)
        found = stored(cells.double(), cell, *where)
        held, variance, writes = found.levels, found.variance, found.writes
        if macro.compensation is not None and (young := cell.young()) != cell:
            before = stored(cells.double(), young, *where).levels if cell.measured else found.programmed
            fresh = variance
            if fresh is None and cell.read_sigma is not None:
                fresh = held.new_tensor((cell.read_sigma * scheme.level_high) ** 2)
            now = held
            if macro.wires is not None:
                before, now = (wired(each, macro, layout) for each in (before, now))
            factor = compensation.factor(macro.compensation, before, now, fresh, scheme.radix, layout, chip, site)
    if macro.wires is not None:
        held = cells.double() if held is None else held
        moving = held
        if torch.is_grad_enabled() and weights.requires_grad:  # straight through digits, but not through the wires
            move = scheme.slopes(weights.detach()) * (weights - weights.detach())
            moving = held + layout.scatter(move.double())
        left = wired(moving, macro, layout, around)
        soft = combined(left, 1.0, macro, layout).to(weights.dtype)
        cells, unit = fixed_point(left.detach(), macro)
    elif held is not None:
        cells, unit = fixed_point(held, macro)
    read = combined(cells, unit, macro, layout).to(weights.dtype)
    effective = soft + (read - soft).detach()
    column = _assembled(effective, weights, cells, unit, macro, layout, chip, site, factor)
    column = replace(column, variance=variance, writes=writes, verified=verified)
    return replace(column, held=held) if macro.wires is not None else column


def fixed_point(held: Tensor, macro: Macro) -> tuple[Tensor, float]:
    """Cells as whole multiples (float32) of a power of two; integers stay as they are.

    The multiples use 14 bits, or as many of them as keep all sums exact in float32 where ten bits do.
    """
    most = float(held.abs().max()) if held.numel() else 0.0
    if most <= FIXED_POINT_HIGH and bool((held == held.round()).all()):
        return held.float(), 1.0
    exact = (1 << 24) // (macro.on * macro.digit_high * len(macro.leg_signs)) - 1
    high = min(FIXED_POINT_HIGH, exact) if exact >= 1 << 10 else FIXED_POINT_HIGH
    unit = 2.0 ** -math.floor(math.log2(high / most))
    return (held / unit + 0.5).floor_().clamp_(-high, high).float(), unit


def combined(cells: Tensor, unit: float, macro: Macro, layout: Layout, spread: Spread | None = None) -> Tensor:
    """Effective weights (G·N, K) of cells: legs by sign, digits by radix, the columns' gains and the digital Σx
    correction included."""
    scheme = macro.weights if macro.sliced else None
    total = torch.zeros_like(cells[:, :, :, 0, 0], dtype=torch.float64)
    for c, radix in enumerate(scheme.radix if scheme else (1,)):
        for leg, sign in enumerate(macro.leg_signs):
            read = cells[:, :, :, c, leg].double()
            total.add_(read if spread is None else read * spread.gain[:, :, None, c, leg], alpha=unit * radix * sign)
    return layout.gather(total) + (scheme.input_constant if scheme else 0)


def _assembled(
    effective: Tensor,
    wanted: Tensor,
    cells: Tensor | None,
    unit: float,
    macro: Macro,
    layout: Layout,
    chip: Chip,
    site: Site,
    factor: Tensor | None = None,
) -> Column:
    device = wanted.device
    curve = macro.column if isinstance(macro.column, CurveColumn) else CurveColumn()
    spread = _spread(curve, macro, layout, chip, site, device)
    signed = macro.signed_leg
    tables = {
        name: Lookup.of(kind, macro.full_scale, signed, name == "sigma", device)
        for name in ("mean", "sigma")
        if (kind := getattr(curve, name)) is not None
    }
    if spread is not None and macro.trim is not None:
        spread = trimmed(spread, macro, chip, layout.columns_of(site).to(device), site.where, tables)
    if spread is not None and cells is not None:
        gained = combined(cells, unit, macro, layout, spread).to(effective.dtype)
        effective = effective + (gained - effective).detach()
    if factor is not None:
        constant = macro.weights.input_constant if macro.weights is not None else 0
        compensated = ((effective.detach().double() - constant) * factor.view(-1, 1) + constant).to(effective.dtype)
        effective = effective + (compensated - effective).detach()
    cell_noise = macro.cell.read_sigma if macro.cell else None
    drive, drive_error = _drive(macro, layout, chip, site, device)
    return Column(
        macro=macro,
        layout=layout,
        site=site,
        chip=chip,
        wanted=wanted,
        weight=effective,
        cells=cells,
        unit=unit,
        spread=spread,
        mean=tables.get("mean"),
        noise=tables.get("sigma"),
        cell_variance=(cell_noise * macro.level_high) ** 2 if cell_noise else None,
        drive=drive,
        drive_error=drive_error,
        code=_code(macro.converter, layout, chip, site, device) if macro.converter else None,
        law=_law(macro.column, layout, chip, site, device) if isinstance(macro.column, TableColumn) else None,
        pattern=_pattern(curve, macro, None, device),
        inner=_pattern(curve, macro, True, device) if any(f.inner for f in curve.pattern or ()) else None,
        factor=factor,
    )


def _pattern(curve: CurveColumn, macro: Macro, inner: bool | None, device: torch.device) -> Tensor | None:
    """What each row adds for what it holds and gets, (R, levels, digits) counts, in fixed point: sums are exact."""
    if curve.pattern is None:
        return None
    total = torch.zeros(macro.on, macro.level_high + 1, macro.digit_high + 1, dtype=torch.float64)
    for feature in curve.pattern:
        if feature.inner is not inner:
            continue
        rows = feature.rows if feature.rows is not None else (1.0,) * macro.on
        row, level, digit = (torch.tensor(f, dtype=torch.float64) for f in (rows, feature.levels, feature.digits))
        total += row[:, None, None] * level[:, None] * digit
    return ((total * 2.0**PATTERN_BITS + 0.5).floor_() * 2.0**-PATTERN_BITS).to(device)


def _spread(
    curve: CurveColumn, macro: Macro, layout: Layout, chip: Chip, site: Site, device: torch.device
) -> Spread | None:
    if not (curve.gain_sigma or curve.offset_sigma):
        return None
    address = layout.columns_of(site).to(device)

    def frozen(name: str, sigma: float | None, centre: float) -> Tensor:
        if not sigma:
            return torch.full(address.shape, centre, device=device)
        return (centre + sigma * Effect(chip.stream(f"column {name}", site.where), address).normal()).float()

    return Spread(frozen("gain", curve.gain_sigma, 1.0), frozen("offset", curve.offset_sigma, 0.0))


def _drive(
    macro: Macro, layout: Layout, chip: Chip, site: Site, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if macro.driver is None or macro.inputs is None:
        return None, None
    low, high = macro.inputs.digit_low, macro.inputs.digit_high
    table = macro.driver.table(low, high).to(device)
    unit = 2.0 ** (math.ceil(math.log2(max(float(table.abs().max()), 1.0))) - DRIVE_BITS)
    table = (table / unit + 0.5).floor_().mul_(unit)
    if macro.driver.inl_sigma is None:
        return table, None
    address = layout.rows_of(site).to(device)[..., None] * len(table) + torch.arange(len(table), device=device)
    error = macro.driver.inl_sigma * Effect(chip.stream("driver", site.where), address).normal()
    error[..., -low] = 0.0  # digit 0 is a row that is off
    return table, (error / unit + 0.5).floor_().mul_(unit)


def _code(adc: Adc, layout: Layout, chip: Chip, site: Site, device: torch.device) -> Code:
    which = layout.converters_of(site).to(device)

    def frozen(name: str, sigma: float | None, centre: float, own: tuple[float, ...] | None) -> Tensor | None:
        if own is not None:
            return torch.tensor(own, device=device)[which % len(own)]
        if sigma is None:
            return None
        return (centre + sigma * Effect(chip.stream(f"converter {name}", site.where), which).normal()).float()

    thresholds = index = None
    if not adc.uniform:
        walks = None
        if adc.dnl_sigma is not None:
            converters, flat = torch.unique(which, return_inverse=True)
            index = flat
            steps = converters[:, None] * adc.codes + torch.arange(adc.codes - 2, device=device)
            walks = Effect(chip.stream("converter dnl", site.where), steps).normal()
        thresholds = adc.thresholds(walks, device)
    return Code(
        most=adc.codes - 1,
        gain=frozen("gain", adc.gain_sigma, 1.0, adc.gains),
        offset=frozen("offset", adc.offset_sigma, 0.0, adc.offsets),
        noise=adc.noise,
        thresholds=thresholds,
        which=index,
        values=adc.values(device),
        about_zero=adc.gain_about == "zero",
    )


def _law(table: TableColumn, layout: Layout, chip: Chip, site: Site, device: torch.device) -> Law:
    if device not in table.laws:
        _, ideal_codes, codes = table.probability.shape
        slope, mean, stretch = (
            torch.from_numpy(part.reshape(-1)).float().to(device) for part in (table.slope, table.mean, table.stretch)
        )
        words = torch.from_numpy(table.alias).to(device)
        table.laws[device] = Law(table.low, table.step, ideal_codes, codes, words, slope, None, mean, stretch)
    which = None
    if table.per != "pooled":
        address = layout.columns_of(site)[:, :, :, 0]
        if table.assign == "drawn":
            number = (address if table.bank is None else address // table.bank).to(device)
            tables = len(table.probability)
            which = (Effect(chip.stream("column table", site.where), number).uniform() * tables).long()
        else:
            which = torch.from_numpy(table.table_of(address.numpy(), layout.columns)).to(device)
    return replace(table.laws[device], which=which)
