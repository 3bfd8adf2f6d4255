"""Every kind of thing a macro, a network or a training run is described with, as examples.

``tests/test_contracts.py`` runs one behaviour matrix over them and refuses a kind that has no example here: whoever
adds a cell error, a curve, a column, a converter field, a quantizer, a gradient or a method adds a line below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from pydantic import BaseModel

from bitline.circuits.crossbar import Wires
from bitline.converters import Adc, CalibratedRange, Driver, FixedRange, FullRange
from bitline.devices import (
    CapacitorMismatch,
    Cell,
    Conductances,
    FlickerNoise,
    GaussianCell,
    LevelTable,
    Logarithm,
    LogNormalCell,
    LogNormalWeight,
    LogTimeDrift,
    MeasuredCell,
    Middle,
    OffsetRow,
    Power,
    PowerLawDrift,
    RangeWeight,
    Saturating,
    StateCell,
    StateConstant,
    StateNoise,
    StatePoints,
    StatePolynomial,
    StuckAt,
    StuckMap,
    UniformCell,
    WriteVerify,
)
from bitline.encode import (
    BinaryWeight,
    BipolarInput,
    DifferentialWeight,
    OffsetInput,
    OffsetWeight,
    TwoPhaseInput,
    TwosComplementInput,
    TwosComplementWeight,
    UnsignedInput,
    UnsignedWeight,
)
from bitline.macro import (
    Chip,
    Column,
    Compensation,
    Conv,
    Converters,
    Dense,
    Macro,
    Plan,
    Reads,
    Sampled,
    Site,
    Slope,
    SlopeExact,
    Ste,
    SteIdeal,
    mac,
    program,
)
from bitline.macro.curves import Compressive, Discharge, Points, Polynomial
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import ColumnTrim, CurveColumn, Feature, TableColumn
from bitline.macro.placement import Reload, Unbounded
from bitline.nn.quantizers import Lsq, MinMax, Mse, Pact, Percentile, Xnor


def members(union: Any) -> set[type]:
    """The classes of ``Annotated[A | B | …, …]`` (or of one class)."""
    inner = get_args(union)[0]
    return set(get_args(inner)) or {inner}


def fields_set(examples: list[Any]) -> set[tuple[type, str]]:
    """(class, field) of every field that some example gives a value other than its default."""
    found = set()
    for example in examples:
        for name, field in type(example).model_fields.items():
            if not np.array_equal(getattr(example, name), field.get_default(call_default_factory=True)):
                found.add((type(example), name))
    return found


BITS, DIGIT, CELL_BITS = 4, 2, 2
ROWS, ACTIVE = 24, 10
FULL = float(ACTIVE * 3 * 3)  # rows on × largest digit × largest level


def table(codes: int, spread: float, tables: int = 1) -> np.ndarray:
    """P(code | ideal) around the diagonal, one matrix a table; spread 0 is the identity."""
    if not spread:
        return np.tile(np.eye(codes), (tables, 1, 1))
    ideal, code, number = np.arange(codes)[:, None], np.arange(codes), np.arange(tables)[:, None, None]
    p = np.exp(-(((code - ideal) - 0.5 * number) ** 2) / (2 * spread**2))
    return p / p.sum(-1, keepdims=True)


def base(name: str, **changes: Any) -> Macro:
    """Neither rows nor columns a power of two; ragged tiles; two columns to a converter."""
    config: dict[str, Any] = {
        "name": name,
        "rows": ROWS,
        "active_rows": ACTIVE,
        "columns": 37,
        "columns_per_adc": 2,
        "inputs": UnsignedInput(bits=BITS, digit_bits=DIGIT),
        "weights": UnsignedWeight(bits=BITS, cell_bits=CELL_BITS),
    }
    return Macro.model_validate(config | changes)


LOSSLESS = Adc(bits=10)
SPREAD = CurveColumn(gain_sigma=0.03, offset_sigma=0.5)
NEAR = 1e-9  # the limit of a parameter that may not be zero


@dataclass(frozen=True)
class Example:
    """A macro with one effect, what is random in it, and the same macro with the effect's parameters at their limit."""

    macro: Macro
    limit: Macro
    frozen: bool = False  # a random part differs from die to die
    fresh: bool = False  # a random part differs from read to read

    @property
    def name(self) -> str:
        return self.macro.name


def cells(name: str, error: Any, limit: Any, **more: Any) -> Example:
    return Example(
        base(name, cell=Cell(errors=(error,)), **more), base(name, cell=Cell(errors=(limit,)), **more), frozen=True
    )


def curves(name: str, curve: Any, limit: Any) -> Example:
    return Example(base(name, column=CurveColumn(mean=curve)), base(name, column=CurveColumn(mean=limit)))


def converter(name: str, adc: Adc, limit: Adc = LOSSLESS, **marks: bool) -> Example:
    return Example(base(name, converter=adc), base(name, converter=limit), **marks)


PROFILES = [
    StateConstant(value=0.02),
    StatePolynomial(coefficients=(0.01, 0.08, -0.05)),
    Saturating(most=0.0125, scale=0.11),
    Power(coefficient=0.0088, exponent=-0.65, most=0.2),
    Logarithm(slope=-0.0155, offset=0.0244, low=0.049, high=0.1),
    Middle(outer=0.02, middle=0.06, low=0.2, high=0.8),
    StatePoints(state=(0.0, 0.4, 1.0), value=(0.01, 0.06, 0.02)),
]
EXACT = Conductances(  # every cell at its aim
    name="exact",
    low=2.0**-20,
    step=2.0**-17,
    seconds=(0.0,),
    quantiles=np.tile((2.0**-20 + np.arange(4) * 2.0**-17)[None, :, None], (1, 1, 25)),
)
CELL_ERRORS = [
    cells("gaussian cell", GaussianCell(sigma=0.05, mu=0.01), GaussianCell(sigma=0)),
    cells("mismatched cell", GaussianCell(sigma=0.05, clock="fabrication"), GaussianCell(sigma=0, clock="fabrication")),
    cells("uniform cell", UniformCell(half_width=0.1, mu=0.01), UniformCell(half_width=0)),
    cells(
        "cell by state",
        StateCell(sigma=PROFILES[1], mu=Logarithm(slope=0.01, offset=0, low=-0.03, high=0)),
        StateCell(sigma=0.0),
    ),
    cells(
        "cell by state, from 0 S", StateCell(sigma=PROFILES[2], mu=PROFILES[0], floor=0.0), StateCell(sigma=0, floor=0)
    ),
    cells("spread by state", StateCell(sigma=0.1, floor=-0.05, keep="spread"), StateCell(sigma=0, floor=-0.05)),
    cells(
        "capacitors",
        CapacitorMismatch(farads=1.2e-15, coefficient=0.05),
        CapacitorMismatch(farads=1.2e-15, coefficient=0),
    ),
    cells("log-normal cell", LogNormalCell(sigma=0.1), LogNormalCell(sigma=0)),
    cells("shifted log-normal cell", LogNormalCell(sigma=0.1, mu=0.05), LogNormalCell(sigma=0)),
    cells(
        "table of levels",
        LevelTable(mean=(0.1, 1.0, 1.9, 3.1), sigma=(0.01, 0.05, 0.1, 0.2)),
        LevelTable(mean=(0, 1, 2, 3), sigma=(0, 0, 0, 0)),
    ),
    cells(
        "measured cell",
        MeasuredCell(table="rram-b", g_min=6e-6, g_max=122e-6, seconds=10.0, kelvin=300.0),
        MeasuredCell(table=EXACT),
    ),
    cells("stuck cells", StuckAt(low=0.05, high=0.02), StuckAt()),
    cells("stuck around the level", StuckAt(low=0.05, high=0.02, keep="spread"), StuckAt(keep="spread")),
    Example(
        base("fault map", cell=Cell(errors=(StuckMap(low=(2, 38, 77), high=(4, 41)),))),
        base("fault map", cell=Cell(errors=(StuckMap(),))),
    ),
    cells("stuck, differential", StuckAt(low=0.1), StuckAt(), weights=DifferentialWeight(bits=BITS, cell_bits=3)),
    cells("cell, reference column", GaussianCell(sigma=0.05), GaussianCell(sigma=0), weights=OffsetWeight(bits=BITS)),
]
ONE_BIT = UnsignedWeight(bits=BITS, cell_bits=1)
PEDESTAL = Example(  # of a whole level: no table over the sums of ideal cells holds them
    base("pedestal", weights=ONE_BIT, cell=Cell(g_min=50e-6, g_max=100e-6), converter=Adc(bits=10)),
    base("pedestal", weights=ONE_BIT, cell=Cell(), converter=LOSSLESS),
)
CELLS = [
    Example(
        base("leaking cell", cell=Cell(g_min=2e-6, g_max=40e-6)), base("leaking cell", cell=Cell(g_min=0, g_max=40e-6))
    ),
    PEDESTAL,
    Example(base("noisy cell", cell=Cell(read_sigma=0.05)), base("noisy cell", cell=Cell()), fresh=True),
    Example(
        base("noise by state", cell=Cell(g_min=0, g_max=25e-6, read_noise=StateNoise(sigma=PROFILES[2]))),
        base("noise by state", cell=Cell()),
        fresh=True,
    ),
    Example(
        base(
            "flicker, converted",
            converter=LOSSLESS,
            weights=OffsetWeight(bits=BITS, cell_bits=2),
            cell=Cell(read_noise=FlickerNoise(q=PROFILES[3], t0=1.0)),
        ),
        base(
            "flicker, converted",
            converter=LOSSLESS,
            weights=OffsetWeight(bits=BITS, cell_bits=2),
            cell=Cell(read_noise=FlickerNoise(q=0.0)),
        ),
        fresh=True,
    ),
    Example(
        base(
            "written and verified",
            weights=OffsetWeight(bits=BITS, cell_bits=2),
            cell=Cell(
                errors=(StuckAt(low=0.02), GaussianCell(sigma=0.1)),
                write_verify=WriteVerify(levels=0.1, most_pulses=5, sigma=0.05),
            ),
        ),
        base(
            "written and verified",
            weights=OffsetWeight(bits=BITS, cell_bits=2),
            cell=Cell(write_verify=WriteVerify(levels=0.1, most_pulses=5, sigma=0.05)),
        ),
        frozen=True,
    ),
    Example(
        base(
            "a year later",
            weights=DifferentialWeight(bits=BITS, cell_bits=3),
            cell=Cell(
                g_min=0.1e-6,
                g_max=25e-6,
                errors=(StateCell(sigma=PROFILES[1]),),
                drift=PowerLawDrift(nu=PROFILES[4], nu_sigma=0.01),
                seconds=3e7,
                kelvin=310.0,
                read_noise=FlickerNoise(q=PROFILES[3], window=1.0),
            ),
            compensation=Compensation(per="column", reads=100),
        ),
        base(
            "a year later",
            weights=DifferentialWeight(bits=BITS, cell_bits=3),
            cell=Cell(g_min=0, g_max=25e-6, drift=PowerLawDrift(nu=0)),
            compensation=Compensation(),
        ),
        frozen=True,
        fresh=True,
    ),
    Example(
        base(
            "compensated",
            weights=BinaryWeight(),
            converter=Adc(bits=8),
            column=SPREAD,
            inputs=OffsetInput(bits=4, digit_bits=2),
            compensation=Compensation(),
            cell=Cell(drift=LogTimeDrift(mu=-0.05, sigma=0.01, t0=1.0), seconds=1e3),
        ),
        base(
            "compensated",
            weights=BinaryWeight(),
            converter=LOSSLESS,
            inputs=OffsetInput(bits=4, digit_bits=2),
            cell=Cell(drift=LogTimeDrift(mu=0.0), seconds=1e3),
        ),
        frozen=True,
    ),
    Example(
        base(
            "everything in a cell",
            cell=Cell(
                g_min=1e-6,
                g_max=50e-6,
                errors=(GaussianCell(sigma=0.02), GaussianCell(sigma=0.02, clock="fabrication"), StuckAt(low=0.01)),
                read_sigma=0.01,
                drift=PowerLawDrift(nu=0.05, nu_sigma=0.01),
            ),
        ),
        base("everything in a cell", cell=Cell(g_min=0, g_max=50e-6, drift=PowerLawDrift(nu=0))),
        frozen=True,
        fresh=True,
    ),
]
OHMIC = Cell(g_min=0, g_max=40e-6)
WIRES = [
    Example(base("wires", cell=OHMIC, wires=Wires(word_line=2.0, bit_line=1.0, driver=100.0, sense=50.0)),
            base("wires", cell=OHMIC, wires=Wires())),
    Example(base("wires, both sides", weights=DifferentialWeight(bits=BITS, cell_bits=2), converter=Adc(bits=8),
                 cell=Cell(g_min=1e-6, g_max=40e-6, errors=(GaussianCell(sigma=0.03),), drift=PowerLawDrift(nu=0.05)),
                 wires=Wires(word_line=3.0, bit_line=2.0, driver=200.0, drive="both_sides", refresh=3)),
            base("wires, both sides", weights=DifferentialWeight(bits=BITS, cell_bits=2), converter=LOSSLESS,
                 cell=OHMIC, wires=Wires(drive="both_sides")), frozen=True),
    Example(base("wires, reference column", weights=OffsetWeight(bits=BITS, cell_bits=2), cell=OHMIC,
                 wires=Wires(bit_line=5.0, sense=20.0)),
            base("wires, reference column", weights=OffsetWeight(bits=BITS, cell_bits=2), cell=OHMIC, wires=Wires())),
]  # fmt: skip
DRIFTS = [
    PowerLawDrift(nu=0.05, nu_sigma=0.01, t0=10.0, activation_ev=0.3, kelvin=310.0, keep="spread", until=1e9),
    PowerLawDrift(nu=PROFILES[4], nu_sigma=Logarithm(slope=-0.0125, offset=-0.0059, low=0.008, high=0.045)),
    LogTimeDrift(mu=PROFILES[1], sigma=0.01, t0=10.0, activation_ev=0.3, kelvin=310.0, keep="mean", until=1e9),
    LogTimeDrift(mu=-0.03, sigma=PROFILES[2]),
]
READ_NOISES = [
    StateNoise(sigma=PROFILES[2]),
    FlickerNoise(q=PROFILES[3], t_read=1e-6, t0=1.0, window=10.0),
]
SIGNED = TwosComplementWeight(bits=BITS)
OFFSETS = {"inputs": None, "weights": None, "bias": OffsetRow(), "norm": OffsetRow(amplitude=1)}
VARIATIONS = [
    Example(base("log-normal weight", weights=SIGNED, variation=LogNormalWeight(sigma=0.3)),
            base("log-normal weight", weights=SIGNED, variation=LogNormalWeight(sigma=0)), frozen=True),
    Example(base("range weight", weights=SIGNED, variation=RangeWeight(sigma=0.1, mu=0.02)),
            base("range weight", weights=SIGNED, variation=RangeWeight(sigma=0)), frozen=True),
    Example(base("uniform weight", weights=SIGNED, variation=RangeWeight(sigma=0.1, distribution="uniform")),
            base("uniform weight", weights=SIGNED, variation=RangeWeight(sigma=0, distribution="uniform")),
            frozen=True),
    Example(base("converted weight", weights=SIGNED, variation=LogNormalWeight(sigma=0.3), converter=Adc(bits=7)),
            base("converted weight", weights=SIGNED, variation=LogNormalWeight(sigma=0), converter=LOSSLESS),
            frozen=True),
    Example(base("continuous", inputs=None, weights=None, variation=LogNormalWeight(sigma=0.3)),
            base("continuous", inputs=None, weights=None, variation=LogNormalWeight(sigma=0)), frozen=True),
    Example(base("censored and fine", weights=SIGNED, variation=RangeWeight(sigma=0.1, censor=1.0, fine=0.25)),
            base("censored and fine", weights=SIGNED, variation=RangeWeight(sigma=0, censor=1.0, fine=0.25)),
            frozen=True),
    Example(base("read by read", weights=SIGNED, variation=RangeWeight(sigma=0.1, clock="read"), converter=Adc(bits=7)),
            base("read by read", weights=SIGNED, variation=RangeWeight(sigma=0, clock="read"), converter=LOSSLESS),
            fresh=True),
    Example(base("unrolled", **OFFSETS, variation=RangeWeight(sigma=0.1, clock="read")),
            base("unrolled", **OFFSETS, variation=RangeWeight(sigma=0, clock="read")), fresh=True),
    Example(base("all in analog", **OFFSETS, variation=RangeWeight(sigma=0.1, mu=0.02)),
            base("all in analog", **OFFSETS, variation=RangeWeight(sigma=0)), frozen=True),
]  # fmt: skip
CURVES = [
    curves("polynomial", Polynomial(coefficients=(0.5, 80.0, -8.0)), Polynomial(coefficients=(0.0, FULL))),
    curves("points", Points(u=(0.0, 30.0, 90.0), value=(0.5, 28.0, 75.0)), Points(u=(0.0, 90.0), value=(0.0, 90.0))),
    curves("compressive", Compressive(compression=0.1, dead_zone=1.0, width=2.0), Compressive()),
    curves("discharge", Discharge(rate=0.003), Discharge(rate=1e-12)),
]


def column(name: str, kind: Any, limit: Any, **more: Any) -> Example:
    marks = {mark: more.pop(mark, False) for mark in ("frozen", "fresh")}
    near = {k: v for k, v in more.items() if k != "trim"}
    return Example(base(name, column=kind, **more), base(name, column=limit, **near), **marks)


COLUMNS = [
    column("noise curve", CurveColumn(sigma=Polynomial(coefficients=(0.5, 1.0))),
           CurveColumn(sigma=Polynomial(coefficients=(0.0,))), fresh=True),
    column("columns apart", CurveColumn(gain_sigma=0.05, offset_sigma=1.0), CurveColumn(gain_sigma=1e-12), frozen=True),
    column("columns apart, converted",
           CurveColumn(mean=Compressive(compression=0.1), gain_sigma=0.05, offset_sigma=1.0),
           CurveColumn(offset_sigma=1e-12), frozen=True, converter=LOSSLESS),
    column("trimmed",
           CurveColumn(gain_sigma=0.05, offset_sigma=1.0, sigma=Polynomial(coefficients=(0.2,))), CurveColumn(),
           trim=ColumnTrim(reads=16, gain_bits=5, offset_bits=5, gain_range=0.2, offset_range=3.0),
           frozen=True, fresh=True),
    column("pattern counts",
           CurveColumn(mean=Compressive(compression=0.1), pattern=(
               Feature(digits=(0.0, 1.0, 1.0, 1.0), levels=(-0.2, 0.3, 0.1, 0.2)),
               Feature(digits=(0.0, 1.0, 2.0, 3.0), levels=(0.0, 0.1, 0.1, 0.1), rows=(0.0, 0.3) * (ACTIVE // 2)),
               Feature(digits=(0.0, 1.0, 1.0, 1.0), levels=(0.0, 0.5, 0.2, 0.4), inner=True))),
           CurveColumn(pattern=(Feature(digits=(0.0, 1.0, 2.0, 3.0), levels=(0.0, 0.0, 0.0, 0.0)),))),
    column("pooled table", TableColumn(probability=table(91, 2.0)), TableColumn(probability=table(91, 0)), fresh=True),
    column("coarse table", TableColumn(probability=table(24, 0.7), low=2.0, step=4.0),
           TableColumn(probability=table(91, 0)), fresh=True),
    column("tables drawn", TableColumn(probability=table(91, 2.0, 3), per="column"),
           TableColumn(probability=table(91, 0, 3), per="column"), frozen=True, fresh=True),
    column("tables by column", TableColumn(probability=table(91, 2.0, 3), per="column", assign="physical"),
           TableColumn(probability=table(91, 0, 3), per="column", assign="physical"), fresh=True),
    column("table an array",
           TableColumn(probability=table(91, 2.0, 2), per="bank", bank=37, assign="physical", places=(0, 1),
                       reads=((9,) * 91,) * 2),
           TableColumn(probability=table(91, 0, 2), per="bank", bank=37, assign="physical", places=(0, 1)), fresh=True),
    column("table a bank", TableColumn(probability=table(91, 2.0, 3), per="bank", bank=5),
           TableColumn(probability=table(91, 0, 3), per="bank", bank=5), frozen=True, fresh=True),
    column("table of differences", TableColumn(probability=table(91, 2.0), low=-45),
           TableColumn(probability=table(181, 0), low=-90), fresh=True,
           weights=DifferentialWeight(bits=BITS, cell_bits=2)),
]  # fmt: skip
STEPPED = tuple(float(level) for level in np.cumsum(np.r_[0, 1 + np.arange(31) / 31]) / np.sum(1 + np.arange(31) / 31))
RANGES = [FullRange(), FixedRange(low=1.5, high=70.0), CalibratedRange(rule="percentile", percentile=99.0, learn=True)]
ADCS = [
    converter("plain converter", Adc(bits=5)),
    converter("many bits", Adc(bits=12), Adc(bits=16)),
    converter("fixed range", Adc(bits=6, range=FixedRange(low=1.5, high=70.0)),
              Adc(bits=7, range=FixedRange(low=0, high=127))),
    converter("mse range", Adc(bits=6, range=CalibratedRange()), Adc(bits=7, range=FixedRange(low=-20, high=107))),
    converter("learned range", Adc(bits=6, range=RANGES[2])),
    converter("gain and offset", Adc(bits=6, gain_sigma=0.02, offset_sigma=0.7), Adc(bits=10, gain_sigma=1e-12),
              frozen=True),
    converter("one die's converters", Adc(bits=6, gains=(0.9, 1.1, 1.0), offsets=(0.5, -1.0), gain_about="zero"),
              Adc(bits=10, gains=(1.0, 1.0), offsets=(0.0,))),
    converter("random steps", Adc(bits=6, dnl_sigma=0.2), Adc(bits=10, dnl_sigma=NEAR), frozen=True),
    converter("bent converter", Adc(bits=6, inl=(0.0, 1.3, -0.4, 0.2)), Adc(bits=10, inl=(0.0, 0.0))),
    converter("stepped converter", Adc(bits=5, levels=STEPPED),
              Adc(bits=7, levels=tuple(i / 127 for i in range(128)), range=FixedRange(low=0, high=127))),
    converter("all of a converter", Adc(bits=5, levels=STEPPED, dnl_sigma=0.1, inl=(0.5, -0.5), gain_sigma=0.01,
                                        offset_sigma=0.5, noise=0.4), frozen=True, fresh=True),
    converter("noisy converter", Adc(bits=6, noise=0.6), Adc(bits=10, noise=NEAR), fresh=True),
]  # fmt: skip
DRIVERS = [
    Example(base("driver levels", driver=Driver(levels=(0.0, 0.9, 2.1, 3.0))),
            base("driver levels", driver=Driver(levels=(0, 1, 2, 3)))),
    Example(base("driver curve", driver=Driver(inl=(0.0, 0.1, 0.0)), converter=Adc(bits=7)),
            base("driver curve", driver=Driver(inl=(0.0, 0.0)), converter=LOSSLESS)),
    Example(base("drivers apart", driver=Driver(inl_sigma=0.05)),
            base("drivers apart", driver=Driver(inl_sigma=NEAR), converter=LOSSLESS), frozen=True),
    Example(base("bipolar driver", inputs=BipolarInput(bits=3, digit_bits=2), driver=Driver(inl=(0.1, 0.0, 0.05))),
            base("bipolar driver", inputs=BipolarInput(bits=3, digit_bits=2), driver=Driver(inl=(0.0, 0.0)))),
]  # fmt: skip
INPUTS = [
    Example(base(f"inputs {scheme.kind}", inputs=scheme, column=SPREAD, converter=Adc(bits=8)),
            base(f"inputs {scheme.kind}", inputs=scheme, converter=LOSSLESS), frozen=True)
    for scheme in (
        UnsignedInput(bits=5, digit_bits=5),
        TwosComplementInput(bits=5, digit_bits=3),
        OffsetInput(bits=4, digit_bits=2),
        TwoPhaseInput(bits=4, digit_bits=2),
        BipolarInput(bits=3, digit_bits=2),
    )
] + [
    Example(base(f"unconverted inputs {scheme.kind}", inputs=scheme, cell=Cell(errors=(GaussianCell(sigma=0.05),))),
            base(f"unconverted inputs {scheme.kind}", inputs=scheme), frozen=True)
    for scheme in (OffsetInput(bits=4, digit_bits=2), BipolarInput(bits=3, digit_bits=2))
]  # fmt: skip
STORED = (
    UnsignedWeight(bits=4, cell_bits=3),
    TwosComplementWeight(bits=4, cell_bits=2),
    DifferentialWeight(bits=4, cell_bits=2),
    DifferentialWeight(bits=4, cell_bits=2, subtract="digital"),
    OffsetWeight(bits=4, cell_bits=2),
    OffsetWeight(bits=4, cell_bits=2, subtract="digital"),
    BinaryWeight(),
)
WEIGHTS = [
    Example(base(f"weights {i} {scheme.kind}", weights=scheme, **({} if i % 2 else {"column": SPREAD})),
            base(f"weights {i} {scheme.kind}", weights=scheme), frozen=not i % 2)
    for i, scheme in enumerate(STORED)
]  # fmt: skip
PLACEMENTS = [
    Example(base("own arrays", placement=Unbounded(), column=SPREAD), base("own arrays"), frozen=True),
    Example(base("few arrays", placement=Reload(arrays=2),
                 cell=Cell(errors=(GaussianCell(sigma=0.1, clock="fabrication"),))),
            base("few arrays", placement=Reload(arrays=2)), frozen=True),
    Example(base("documented", source="a test", volts_per_count=1e-3,
                 corners={"hot": {"converter": {"noise": 1.0}}}, converter=Adc(bits=6)),
            base("documented", converter=LOSSLESS)),
]  # fmt: skip

EXAMPLES = [
    *CELL_ERRORS, *CELLS, *WIRES, *VARIATIONS, *CURVES, *COLUMNS, *ADCS, *DRIVERS, *INPUTS, *WEIGHTS, *PLACEMENTS,
]  # fmt: skip

QUANTIZERS = [Lsq(), Lsq(init=None), Pact(), MinMax(), Percentile(p=99.0), Mse(), Xnor()]
GRADIENTS = [Ste(), SteIdeal(), Slope(), Sampled(), SlopeExact()]


def methods() -> list[BaseModel]:
    """An example of each training method that has a default; the list follows ``bitline.methods``."""
    import bitline.methods

    union = getattr(bitline.methods, "AnyMethod", None)
    kinds = members(union) if union is not None else set()
    return [METHODS.get(kind.__name__, kind)() for kind in sorted(kinds, key=lambda kind: kind.__name__)]


METHODS: dict[str, Callable[[], BaseModel]] = {}  # how to make a method that needs arguments


# ------------------------------------------------------------------------------------------------------- one layer

INPUTS_K, OUTPUTS_N = 53, 6  # two whole tiles and a ragged one
DENSE = Dense()
GROUPED = Conv((3, 2), (2, 1), (1, 2), 2)
CHIP = Chip(seed=11, number=3)


def integers(scheme: Any, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random integers of a scheme (float32); normal numbers where there is none."""
    generator = torch.Generator().manual_seed(seed)
    if scheme is None:
        return torch.randn(shape, generator=generator)
    steps = (scheme.high - scheme.low) // scheme.stride
    return torch.randint(0, steps + 1, shape, generator=generator).float() * scheme.stride + scheme.low


def inputs_of(macro: Macro, geometry: Geometry = DENSE, batch: int = 5, seed: int = 1) -> torch.Tensor:
    """Inputs of a layer, (B, 3, K) or (B, 8, 7, 6)."""
    shape = (batch, 3, INPUTS_K) if isinstance(geometry, Dense) else (batch, 8, 7, 6)
    return integers(macro.inputs, shape, seed)


def weights_of(macro: Macro, geometry: Geometry = DENSE, seed: int = 2) -> torch.Tensor:
    """Weights of a layer, (G·N, K)."""
    shape = (OUTPUTS_N, INPUTS_K) if isinstance(geometry, Dense) else (OUTPUTS_N, 4 * GROUPED.taps)
    return integers(macro.weights, shape, seed)


def programmed(
    macro: Macro,
    geometry: Geometry = DENSE,
    chip: Chip = CHIP,
    n: int = 0,
    w: torch.Tensor | None = None,
    name: str = "layer",
) -> Column:
    """A layer on a die."""
    w = weights_of(macro, geometry) if w is None else w
    pool = macro.placement.arrays if isinstance(macro.placement, Reload) else None
    return program(w, macro, chip, Site(name, 0, pool), n, geometry.groups)


def converters_of(macro: Macro) -> Converters | None:
    """The range of the macro's converters before any calibration."""
    if macro.converter is None:
        return None
    low, step = macro.converter.range.start(macro.converter, *macro.value_range)
    return Converters(torch.tensor(low), torch.tensor(step))


def read(
    macro: Macro,
    geometry: Geometry = DENSE,
    *,
    column: Column | None = None,
    chip: Chip = CHIP,
    x: torch.Tensor | None = None,
    samples: torch.Tensor | None = None,
    time: int = 0,
    plan: str | None = None,
    gradient: Any = GRADIENTS[0],
) -> torch.Tensor:
    """The product of a layer of the example macro, read for the ``time``-th time."""
    column = programmed(macro, geometry, chip) if column is None else column
    x = inputs_of(macro, geometry) if x is None else x
    keys = Reads(5, column.chip, time, torch.arange(len(x)) if samples is None else samples).keys("layer")
    chosen = None if plan is None else Plan(plan)
    return mac(x, column, geometry, keys, converters_of(macro), gradient, chosen)
