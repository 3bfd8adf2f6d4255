"""What a macro is, in words and numbers with units: for the command line and the report."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import BaseModel

from bitline.converters import Adc
from bitline.devices import Cell, MeasuredCell, Profile, StateConstant
from bitline.macro.curves import AnyCurve
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.macro import Macro
from bitline.macro.placement import Reload
from bitline.units import si


def describe(macro: Macro) -> list[tuple[str, str]]:
    """(what, how much) of a macro, in reading order; what is absent is ideal and is said to be.

    Counts are input steps times cell levels, LSB the converter's step, volts those of the bit line where the macro
    has ``volts_per_count``. Noise and spread are standard deviations of one conversion, all active rows driven with
    the largest digit; a calibrated range counts with the one that it starts from, which covers every sum.
    """
    facts = [("macro", macro.name)]
    facts += [("source", " ".join(macro.source.split()))] if macro.source else []
    facts += _geometry(macro) + _digits(macro) + _cells(macro)
    facts.append(("full scale of a column", _value(macro, macro.full_scale)))
    facts += _converter(macro) + _column(macro) + _noise(macro)
    if macro.placement != type(macro).model_fields["placement"].default and isinstance(macro.placement, Reload):
        facts.append(("placement", f"{_many(macro.placement.arrays, 'array')}, rewritten as the network runs"))
    if macro.corners:
        facts.append(("corners", ", ".join(macro.corners)))
    return facts


def _geometry(macro: Macro) -> list[tuple[str, str]]:
    active = "all on at once" if macro.on == macro.rows else f"{macro.on} on at once"
    facts = [("rows of an array", f"{macro.rows}, {active}")]
    scheme = macro.weights if macro.sliced else None
    width = len(scheme.radix) * (len(scheme.signs) - scheme.reference) if scheme else 1
    outputs = macro.layout(macro.rows, 1).per_array
    facts.append(("columns of an array", f"{macro.columns}, {width} an output: {_many(outputs, 'output')}"))
    if macro.converter is not None:
        converters = -(-macro.columns // macro.columns_per_adc)
        facts.append(("converters of an array", f"{converters}, each for {_many(macro.columns_per_adc, 'column')}"))
    return facts


def _digits(macro: Macro) -> list[tuple[str, str]]:
    facts, passes, slices = [], 1, 1
    if macro.inputs is None:
        facts.append(("inputs", "continuous"))
    else:
        i, passes = macro.inputs, len(macro.inputs.radix)
        digits = f"{_many(i.digit_bits, 'bit')} at a time: {_many(passes, 'pass', 'passes')}"
        facts.append(("inputs", f"{_many(i.bits, 'bit')}, {_words(i.kind)} ({i.low} … {i.high}), {digits}"))
    if macro.weights is None:
        facts.append(("weights", "continuous"))
    else:
        w = macro.weights
        text = f"{_many(w.bits, 'bit')}, {_words(w.kind)} ({w.low} … {w.high})"
        if macro.sliced:
            slices = len(w.radix)
            text += f", {_many(w.cell_bits, 'bit')} a cell: {_many(slices, 'conversion')}"
            text += " of two columns each, subtracted before it" if len(w.signs) == 2 else ""
        else:
            text += ", each in one analog cell"
        facts.append(("weights", text))
    if macro.converter is not None or isinstance(macro.column, TableColumn):
        groups = macro.layout(macro.rows, 1).reads
        product = f"{_many(passes, 'pass', 'passes')} × {_many(slices, 'digit')} × {_many(groups, 'row group')}"
        facts.append(("conversions of an output", f"{passes * slices * groups} a full array ({product})"))
    return facts


def _cells(macro: Macro) -> list[tuple[str, str]]:
    facts = []
    if macro.variation is not None:
        fresh = ", fresh at each read" if macro.variation.fresh else ""
        facts.append(("weight variation", _error(macro.variation) + fresh))
        rows = {"biases": macro.bias, "batch norms": macro.norm}
        facts += [(n, "digital" if r is None else f"analog, in a row of amplitude {r.told}") for n, r in rows.items()]
    cell = macro.cell or Cell()
    if cell.g_min is not None and cell.g_max is not None:
        facts.append(("conductance", f"{si(cell.g_min, 'S')} … {si(cell.g_max, 'S')}, {macro.level_high + 1} levels"))
    facts += [("frozen error of a cell", f"{_error(error)}, drawn at {error.clock}") for error in cell.errors]
    measured = [error for error in cell.errors if isinstance(error, MeasuredCell)]
    facts += [("measured cells", f"{error.table.name}: {error.table.source}") for error in measured]
    if (loop := cell.write_verify) is not None:
        span = None if cell.g_min is None or cell.g_max is None else cell.g_max - cell.g_min
        within = f"± {loop.tolerance(macro.level_high, span):.3g} levels"
        facts.append(("write and verify", f"until a cell reads within {within}, {loop.most_pulses} pulses at most"))
    if cell.read_sigma is not None:
        facts.append(("fresh noise of a driven cell", f"{cell.read_sigma:.3g} of its range"))
    if cell.read_noise is not None:
        low, high = (_cell_noise(macro, share) / macro.level_high for share in (0.0, 1.0))
        facts.append(("fresh noise of a driven cell", f"{low:.3g} of its range at level 0, {high:.3g} at the highest"))
    if cell.drift is not None:
        facts.append(("drift of a cell", _error(cell.drift)))
    if cell.seconds is not None:
        facts.append(("age of the cells", f"{cell.seconds:.4g} s at {cell.kelvin:.4g} K"))
    if macro.compensation is not None:
        factors = "one factor a layer" if macro.compensation.per == "layer" else "one factor an output"
        facts.append(("compensation of drift", factors))
    if (wires := macro.wires) is not None:
        segment = f"word line {si(wires.word_line, 'Ω')}, bit line {si(wires.bit_line, 'Ω')} a cell"
        ends = f"driver {si(wires.driver, 'Ω')}, sense {si(wires.sense, 'Ω')}"
        sides = "one side" if wires.drive == "one_side" else "both sides"
        facts.append(("wires", f"{segment}; {ends}; rows driven from {sides}"))
    return facts


def _converter(macro: Macro) -> list[tuple[str, str]]:
    if isinstance(macro.column, TableColumn):
        t = macro.column
        return [
            ("codes", f"{t.codes} (measured table)"),
            ("LSB", _value(macro, t.step)),
            ("range", f"{t.low:g} … {t.low + t.step * (t.codes - 1):g} counts"),
        ]
    adc = macro.converter
    if adc is None:
        return [("converter", "none: a column's value is read as it is")]
    low, step = adc.range.start(adc, *macro.value_range)
    start = " before calibration" if adc.range.calibrated else ""
    facts = [
        ("converter", f"{_many(adc.bits, 'bit')}, {_words(adc.range.kind)} range"),
        ("LSB", _value(macro, step) + start),
        ("range", f"{low:g} … {low + step * (adc.codes - 1):g} counts{start}"),
    ]
    facts += _inl(adc)
    return facts


def _inl(adc: Adc) -> list[tuple[str, str]]:
    facts = []
    if adc.inl is not None:
        facts.append(("INL of the converters", f"{max(map(abs, adc.inl)):.3g} LSB"))
    if adc.levels is not None:
        facts.append(("levels of the converters", f"{len(adc.levels)}, unevenly spaced"))
    own = {"gain": adc.gains, "offset": adc.offsets}
    told = [f"{name} {min(values):.3g} … {max(values):.3g}" for name, values in own.items() if values is not None]
    facts += [("converters of this die", ", ".join(told))] if told else []
    spread = {"gain": adc.gain_sigma, "offset": adc.offset_sigma, "steps": adc.dnl_sigma}
    parts = [
        f"{name} {100 * sigma:.3g} %" if name == "gain" else f"{name} {sigma:.3g} LSB"
        for name, sigma in spread.items()
        if sigma is not None
    ]
    return [*facts, ("frozen spread of converters", ", ".join(parts))] if parts else facts


def _column(macro: Macro) -> list[tuple[str, str]]:
    column = macro.column
    if isinstance(column, TableColumn):
        tables = len(column.probability)
        text = "one table for all columns, no error frozen" if column.per == "pooled" else _many(tables, "table")
        if column.per != "pooled":
            text += ", drawn for each die" if column.assign == "drawn" else ", by physical column"
        codes = np.arange(column.codes)
        mean = column.probability @ codes
        return [
            ("column", text),
            ("largest mean error", f"{np.abs(mean.mean(0) - np.arange(mean.shape[1])).max():.3g} LSB"),
            ("frozen spread of columns", f"up to {mean.std(0).max():.3g} LSB"),
        ]
    if not isinstance(column, CurveColumn):
        return [("column", "ideal")]
    facts = []
    if column.mean is None:
        facts.append(("mean of a column", "the sum itself"))
    else:
        inl, gain, at = _bend(column.mean, macro.full_scale)
        kind = _words(column.mean.kind)
        facts.append(("mean of a column", f"{kind} curve, {100 * gain:.3g} % of the sum at full scale"))
        facts.append(("INL of a column", f"{_value(macro, inl)} from the end-point line, at {at:g} counts"))
    if column.pattern is not None:
        facts.append(("pattern of a column's rows", f"{_many(len(column.pattern), 'feature')} beside the sum"))
    parts = [f"gain {100 * column.gain_sigma:.3g} %"] if column.gain_sigma else []
    parts += [f"offset {_value(macro, column.offset_sigma)}"] if column.offset_sigma else []
    note = " before trimming" if macro.trim else ""
    facts.append(("frozen spread of columns", ", ".join(parts) + note if parts else "none"))
    if macro.trim is not None:
        trim = macro.trim
        bits = f"{trim.gain_bits} bits of gain, {trim.offset_bits} bits of offset"
        facts.append(("trim of columns", f"{bits}, {2 * trim.reads} reads a column"))
    return facts


def _noise(macro: Macro) -> list[tuple[str, str]]:
    """Fresh noise of one conversion at 0, half and full scale."""
    if isinstance(macro.column, TableColumn):
        t = macro.column
        codes = np.arange(t.codes)
        square = t.probability @ codes**2 - (t.probability @ codes) ** 2
        sigma = np.sqrt(np.maximum(square, 0).mean(0))
        rows = {"0": 0, "half scale": (len(sigma) - 1) // 2, "full scale": len(sigma) - 1}
        return [(f"fresh noise at {name}", _value(macro, t.step * float(sigma[i]), t.step)) for name, i in rows.items()]
    if macro.variation is not None and macro.variation.fresh:
        return [("fresh noise of a driven weight", f"{macro.variation.sigma:.3g} of half their range")]
    adc, legs = macro.converter, len(macro.leg_signs)
    step = adc.range.start(adc, *macro.value_range)[1] if adc else None
    curve = macro.column.sigma if isinstance(macro.column, CurveColumn) else None
    cells = macro.cell is not None and (macro.cell.read_sigma is not None or macro.cell.read_noise is not None)
    converter = adc.noise if adc else None
    if curve is None and not cells and converter is None:
        return [("fresh noise", "none")]
    fixed = ((converter or 0.0) * (step or 0.0)) ** 2
    facts = []
    full = macro.full_scale
    for name, share in (("0", 0.0), ("half scale", 0.5), ("full scale", 1.0)):  # the other leg, if any, at 0
        own = _at(curve, share * full, full) ** 2 + (legs - 1) * _at(curve, 0.0, full) ** 2 if curve else 0.0
        of_cells = _cell_noise(macro, share) ** 2 + (legs - 1) * _cell_noise(macro, 0.0) ** 2
        own += macro.on * macro.digit_high**2 * of_cells
        facts.append((f"fresh noise at {name}", _value(macro, math.sqrt(fixed + own), step)))
    return facts


def _cell_noise(macro: Macro, share: float) -> float:
    """Fresh noise, counts rms, of a typical cell driven by 1 that should hold this share of the highest level."""
    cell, high = macro.cell or Cell(), macro.level_high
    if cell.read_noise is None:
        return high * (cell.read_sigma or 0.0)
    state = torch.tensor([share], dtype=torch.float64)
    levels = state * high + cell.pedestal(high)
    if cell.drift is not None and cell.seconds is not None:
        levels = cell.drift.moments(levels, state, high, cell.seconds, cell.kelvin)[0]
    return float(cell.read_noise.variance(levels, state, high, cell.seconds).sqrt())


def _at(curve: AnyCurve, u: float, full: float) -> float:
    return float(curve.at(torch.tensor([u], dtype=torch.float64), full)[0])


def _bend(curve: AnyCurve, full: float) -> tuple[float, float, float]:
    """(largest distance from the end-point line in counts, value over sum at full scale, the sum of that distance)."""
    u = torch.linspace(0, full, 1025, dtype=torch.float64)
    value = curve.at(u, full)
    away = (value - (value[0] + (value[-1] - value[0]) * u / full)).abs()
    return float(away.max()), float(value[-1]) / full, float(u[away.argmax()])


def _value(macro: Macro, counts: float, step: float | None = None) -> str:
    """Counts, LSB where a step is given, and volts where the macro knows them."""
    text = f"{counts:.3g} {'count' if counts == 1 else 'counts'}"
    text = f"{counts:.0f} counts" if counts >= 1000 and counts == round(counts) else text
    text += f" = {counts / step:.3g} LSB" if step else ""
    return text + (f" = {si(counts * macro.volts_per_count, 'V', 3)}" if macro.volts_per_count else "")


def _error(model: BaseModel) -> str:
    """Kind and parameters of an error, each with what it means; a zero that is the default is off, and is left out."""
    shown = [_words(str(getattr(model, "kind", "")))]
    for name, field in type(model).model_fields.items():
        value, own = (
            one.value if isinstance(one, StateConstant) else one for one in (getattr(model, name), field.default)
        )
        if isinstance(value, Profile):
            ends = value.at(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
            shown.append(
                f"{_words(name)} {ends[0]:.3g} at level 0 to {ends[1]:.3g} at the highest ({field.description})"
            )
        elif isinstance(value, int | float) and (value or own != 0):
            shown.append(f"{_words(name)} {value:.3g}" + (f" ({field.description})" if field.description else ""))
    return ", ".join(shown)


def _many(number: int, one: str, more: str | None = None) -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _words(kind: str) -> str:
    return kind.replace("_", " ")
