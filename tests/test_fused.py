"""The fused plan equals the reference plan bit for bit, whatever the macro, the layer, the processor and the cut."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from bitline import draws
from bitline.converters import Adc, FixedRange
from bitline.devices import Cell, GaussianCell, LevelTable, LogNormalCell, LogNormalWeight, PowerLawDrift, StuckAt
from bitline.encode import UnsignedInput, UnsignedWeight
from bitline.macro import (
    AnyGradient,
    Chip,
    Column,
    Conv,
    Converters,
    Macro,
    Plan,
    Reads,
    Site,
    Ste,
    choose,
    fused,
    mac,
    program,
    reference,
)
from bitline.macro.curves import Compressive, Discharge, Points, Polynomial
from bitline.macro.fused import cpu, native
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.read import Keep, Output
from contracts import DENSE, EXAMPLES, GROUPED, Example, base, converters_of, inputs_of, members, programmed

pytestmark = [
    pytest.mark.skipif(native.missing() is not None, reason=str(native.missing())),
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),  # the type checker does
]

CHIP = Chip(seed=11, number=3)
GRADIENTS = [kind() for kind in sorted(members(AnyGradient), key=lambda kind: kind.__name__)]
EVERYTHING = Keep(inside=True, slope=True, step=True)
NAMES = ("portable", "AVX2", "AVX-512 VNNI", "AMX")


def levels() -> list[int]:
    """Instruction sets of this machine, the best one last."""
    if native.missing():
        return []
    kernel = native.kernel()
    found = sorted({kernel.bitline_use(level) for level in range(len(NAMES))})
    kernel.bitline_use(found[-1])
    return found


LEVELS = levels()


@contextmanager
def instructions(level: int) -> Iterator[None]:
    """The kernel with another instruction set."""
    assert native.kernel().bitline_use(level) == level
    try:
        yield
    finally:
        native.kernel().bitline_use(LEVELS[-1])


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_equal(found: Output, expected: Output, where: str = "") -> None:
    """Bit for bit, and of the same type. Where nothing was clipped the kernel may say so at length."""
    if found.inside is not None and expected.inside is None and bool((found.inside == 1).all()):
        found = replace(found, inside=None)
    for field in fields(Output):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a is None) is (b is None), f"{field.name} {where}"
        if a is not None:
            assert a.dtype == b.dtype, f"{field.name} {where}"
            assert a.shape == b.shape, f"{field.name} {where}"
            assert torch.equal(a, b), f"{field.name} {where}: {int((a != b).sum())} of {a.numel()} differ"


# ------------------------------------------------------------------------------------------------ macros and layers


@dataclass(frozen=True)
class Case:
    """A read: everything but the plan."""

    column: Column
    geometry: Geometry
    x: torch.Tensor
    keys: torch.Tensor
    converters: Converters | None

    @property
    def by_output(self) -> bool:
        """Whether outputs have ranges of their own."""
        return self.converters is not None and self.converters.low.dim() + self.converters.step.dim() > 0

    def kept(self, keep: Keep) -> Keep:
        return replace(keep, step=False) if self.by_output else keep  # see test_gradient_of_steps_of_their_own

    def fused(self, keep: Keep = EVERYTHING) -> Output:
        return fused.run(self.x, self.column, self.geometry, self.keys, self.converters, self.kept(keep))

    def reference(self, keep: Keep = EVERYTHING) -> Output:
        return reference.run(self.x, self.column, self.geometry, self.keys, self.converters, self.kept(keep))


def codes(scheme: Any, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Integers of a scheme, its ends and zero (rows that are off, of bipolar inputs) more often than the others."""
    generator = torch.Generator().manual_seed(seed)
    steps = (scheme.high - scheme.low) // scheme.stride
    value = torch.randint(0, steps + 1, shape, generator=generator) * scheme.stride + scheme.low
    coin = torch.rand(shape, generator=generator)
    for share, fixed in ((0.1, scheme.low), (0.2, scheme.high), (0.3, scheme.low if scheme.kind == "binary" else 0)):
        value = torch.where((coin > share - 0.1) & (coin < share), fixed, value)
    return value.float()


def digits(scheme: Any) -> int:
    return sum(map(abs, scheme.radix))


@st.composite
def inputs(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["unsigned", "twos_complement", "offset", "two_phase", "bipolar"]))
    bits = draw(st.integers(2 if kind == "two_phase" else 1, 7 if kind == "bipolar" else 8))
    return {"kind": kind, "bits": bits, "digit_bits": bits if kind == "bipolar" else draw(st.integers(1, bits))}


@st.composite
def weights(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["unsigned", "twos_complement", "differential", "offset", "binary"]))
    scheme: dict[str, Any] = {"kind": kind}
    if kind == "binary":
        return scheme
    bits = draw(st.integers(2 if kind == "differential" else 1, 8) | st.integers(15, 16))  # 16: three limbs
    scheme |= {"bits": bits, "cell_bits": draw(st.integers(-(-bits // 4) if bits < 9 else bits - 1, bits))}
    if kind in ("differential", "offset"):
        scheme["subtract"] = draw(st.sampled_from(["analog" if kind == "differential" else "column", "digital"]))
    return scheme


@st.composite
def cells(draw: Any, level_high: int) -> dict[str, Any] | None:
    """Errors of cells, continuous or not, leakage, read noise."""
    errors = draw(
        st.lists(
            st.sampled_from(
                [
                    GaussianCell(sigma=0.05, mu=0.01),
                    GaussianCell(sigma=0.02, clock="fabrication"),
                    LogNormalCell(sigma=0.2),
                    StuckAt(low=0.1, high=0.05),
                ]
                + [LevelTable(mean=(0.1, 0.8), sigma=(0.01, 0.1))] * (level_high == 1)
            ),
            max_size=2,
        )
    )
    cell: dict[str, Any] = {"errors": errors}
    if draw(st.integers(0, 3)) == 0:
        cell |= {"g_min": 2e-6, "g_max": draw(st.sampled_from([4e-6, 37e-6]))}
    if draw(st.integers(0, 2)) == 0:
        cell["read_sigma"] = draw(st.sampled_from([0.01, 0.3]))
    return cell if len(cell) > 1 or errors else None


@st.composite
def curve(draw: Any, full: float) -> Any:
    """A mean curve, at most a few counts or a few percent from the sum itself."""
    return draw(
        st.sampled_from(
            [
                Polynomial(coefficients=(0.5, full, -0.1 * full)),
                Polynomial(coefficients=(0.0, 0.2 * full, 0.0, 0.4 * full)),
                Points(u=(0.0, full / 3, full), value=(0.5, 0.3 * full, 0.8 * full)),
                Compressive(compression=0.2, dead_zone=1.0, width=2.0),
                Discharge(rate=0.5 / full),
            ]
        )
    )


@st.composite
def kinds(draw: Any, full: float, signed: bool) -> dict[str, Any] | None:
    """A curve column, each part of which may be absent."""
    parts: dict[str, Any] = {}
    if draw(st.booleans()):
        parts["mean"] = draw(curve(full))
    if draw(st.booleans()):
        parts["sigma"] = Polynomial(coefficients=draw(st.sampled_from([(0.4,), (0.2, 0.05 * full)])))
    if draw(st.booleans()):
        parts["gain_sigma"] = 0.05
    if draw(st.booleans()):
        parts["offset_sigma"] = 0.02 * full
    return {"kind": "curve"} | parts if parts else None


@st.composite
def law(draw: Any, seed: int) -> dict[str, Any]:
    """A measured table, with codes that are never read and rows that are certain."""
    per = draw(st.sampled_from(["pooled", "column"]))
    tables = draw(st.integers(1, 3)) if per == "column" else 1
    ideal, read = draw(st.integers(1, 20)), draw(st.integers(1, 33))
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(read, 0.3), (tables, ideal))
    p[generator.random((tables, ideal)) < 0.2] = np.eye(read)[draw(st.integers(0, read - 1))]
    table = {"kind": "table", "probability": p, "per": per, "assign": draw(st.sampled_from(["drawn", "physical"]))}
    return table | {"low": draw(st.sampled_from([0.0, -3.5, 7.0])), "step": draw(st.sampled_from([1.0, 0.37, 3.0]))}


@st.composite
def macros(draw: Any, seed: int) -> Macro:
    """What the kernel may be asked to read, from an ideal converter to everything at once."""
    rows = draw(st.sampled_from([1, 5, 16, 40, 64, 65, 100, 130]))
    active = draw(st.none() | st.integers(1, rows))
    config: dict[str, Any] = {
        "name": "random",
        "rows": rows,
        "active_rows": active,
        "columns": draw(st.integers(40, 150)),
        "columns_per_adc": draw(st.integers(1, 9)),
        "inputs": draw(inputs()),
        "weights": draw(weights()),
    }
    bare = Macro.model_validate(config)
    room = 23 - (digits(bare.inputs) * digits(bare.weights)).bit_length()
    what = draw(st.sampled_from(["converter", "converter", "cells", "column", "variation", "table", "all"]))
    if what == "table":
        return Macro.model_validate(config | {"column": draw(law(seed))})
    converter: dict[str, Any] = {"bits": draw(st.integers(1, max(1, min(10, room - 3))))}
    if what in ("converter", "all"):
        for name, values in (
            ("gain_sigma", [0.05]),
            ("offset_sigma", [0.7]),
            ("dnl_sigma", [0.3]),
            ("inl", [(0.0, 0.7, -0.4), (1.0, -2.0)]),
        ):
            if draw(st.integers(0, 2)) == 0:
                converter[name] = draw(st.sampled_from(values))
    if draw(st.booleans()):
        converter["noise"] = draw(st.sampled_from([0.3, 3.0]))
    config["converter"] = converter
    if what in ("cells", "all"):
        config["cell"] = draw(cells(bare.level_high))
    if what in ("column", "all"):
        config["column"] = draw(kinds(bare.full_scale, bare.signed_leg))
    if what == "variation":
        config["variation"] = LogNormalWeight(sigma=draw(st.sampled_from([0.0, 0.3])))
    return Macro.model_validate(config)


def ranges(draw: Any, macro: Macro, outputs: int) -> Converters | None:
    """Ranges of converters that clip nothing, much, or all; common or one an output."""
    if macro.converter is None:
        return None
    low, high = macro.value_range
    wide = draw(st.sampled_from([1.0, 0.5, 0.13]))
    step = torch.tensor(wide * (high - low) / (macro.converter.codes - 1), dtype=torch.float64)
    if draw(st.booleans()):
        step = torch.exp2(step.log2().round())
    start = torch.tensor(wide * low, dtype=torch.float64)
    start = (start / step).round() * step if draw(st.booleans()) else start - 0.3
    each = 1 + torch.arange(outputs, dtype=torch.float64) / 10
    if draw(st.integers(0, 3)) == 0:
        step = step * each
    if draw(st.integers(0, 3)) == 0:
        start = start * each
    single = draw(st.integers(0, 3)) > 0
    return Converters(*(v.float() if single else v for v in (start, step)))


def shapes(draw: Any) -> tuple[Geometry, tuple[int, ...], int]:
    """(geometry, shape of the inputs, inputs of one group)."""
    dims, batch = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 3]))
    if not dims:
        k = draw(st.sampled_from([1, 2, 17, 53, 64, 65, 100, 130, 200]))
        return DENSE, (batch, draw(st.sampled_from([1, 5, 16, 21])), k), k

    def each(most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(1, most), min_size=dims, max_size=dims)))

    geometry = Conv(each(3), each(2), each(2), draw(st.integers(1, 3)))
    channels = draw(st.sampled_from([1, 2, 3, 8, 17])) if dims < 3 else draw(st.integers(1, 4))
    low = int(channels == 1 and dims == 2 and geometry.groups == 1)  # torch 2.13 leaves single columns unwritten
    room = tuple(draw(st.lists(st.integers(2 * low, 4), min_size=dims, max_size=dims)))
    size = [d * (k - 1) + 1 + extra for d, k, extra in zip(geometry.dilation, geometry.kernel, room, strict=True)]
    return geometry, (batch, channels * geometry.groups, *size), channels * geometry.taps


@st.composite
def cases(draw: Any) -> Case:
    """A read the kernel does not refuse."""
    seed = draw(st.integers(0, 2**31))
    macro = draw(macros(seed))
    geometry, shape, k = shapes(draw)
    groups = geometry.groups if isinstance(geometry, Conv) else 1
    outputs = draw(st.sampled_from([1, 2, 7, 15, 16, 17, 33]))
    layout = macro.layout(k, outputs, groups)
    assume(fused.refuses(macro, layout) is None)
    column = program(codes(macro.weights, (outputs * groups, k), seed), macro, CHIP, Site("layer"), groups=groups)
    assume(macro.on * macro.digit_high * len(macro.leg_signs) * float(column.cells.abs().max()) < 1 << 24)
    keys = Reads(5, CHIP, 0, torch.arange(shape[0]) * 7 + seed).keys("layer")
    x = codes(macro.inputs, shape, seed + 1)
    return Case(column, geometry, x, keys, ranges(draw, macro, outputs * groups))


keeps = st.builds(Keep, inside=st.booleans(), slope=st.booleans(), step=st.booleans())
random = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@settings(random, max_examples=220)
@given(case=cases(), keep=keeps)
def test_reads_are_those_of_the_reference_plan(case: Case, keep: Keep):
    assert_equal(case.fused(keep), case.reference(keep))


@settings(random, max_examples=80)
@given(case=cases(), keep=keeps)
def test_every_instruction_set_reads_the_same(case: Case, keep: Keep):
    expected = case.reference(keep)
    for level in LEVELS:
        with instructions(level):
            assert_equal(case.fused(keep), expected, f"by {NAMES[level]}")


@settings(random, max_examples=40)
@given(case=cases(), number=st.integers(2, 3), keep=keeps)
def test_threads_and_batches_change_nothing(case: Case, number: int, keep: Keep):
    whole = case.fused(keep)
    with threads(number), pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "SMALL", 1)
        assert_equal(case.fused(keep), whole, f"by {number} threads")
    one = [replace(case, x=case.x[i : i + 1], keys=case.keys[i : i + 1]).fused(keep) for i in range(len(case.x))]
    assert torch.equal(torch.cat([part.y for part in one]), whole.y)
    order = torch.arange(len(case.x)).flip(0)
    assert torch.equal(replace(case, x=case.x[order], keys=case.keys[order]).fused(keep).y, whole.y[order])


@settings(random, max_examples=60)
@given(case=cases(), gradient=st.sampled_from(GRADIENTS), learned=st.booleans(), scaled=st.sampled_from([0, 1, 2]))
def test_gradients_are_those_of_the_reference_plan(case: Case, gradient: Any, learned: bool, scaled: int):
    macro, geometry = case.column.macro, case.geometry
    assume(gradient.refuses("fused", macro) is None)
    up = None
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for plan in ("fused", "reference"):
        x, w = case.x.clone().requires_grad_(), case.column.wanted.detach().clone().requires_grad_()
        column = program(w, macro, CHIP, Site("layer"), groups=case.column.layout.groups)
        converters, wanted = case.converters, [x, w]
        if learned and converters is not None and not case.by_output:
            converters = replace(converters, step=converters.step.clone().requires_grad_())
            wanted.append(converters.step)
        factor = (None, torch.tensor(0.3), torch.linspace(0.1, 0.9, len(w)))[scaled]
        if factor is not None:
            wanted.append(factor.requires_grad_())
        y = mac(x, column, geometry, case.keys, converters, gradient, Plan(plan), None, factor)
        up = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype) if up is None else up
        found[plan] = (y.detach(), *torch.autograd.grad(y, wanted, up))
    single = isinstance(geometry, Conv) and case.x.shape[1] == geometry.groups  # torch may add up in another order
    names = ["y", "x", "weight", *["step"] * (len(wanted) - 2 - (scaled > 0)), *["factor"] * (scaled > 0)]
    for name, a, b in zip(names, *found.values(), strict=True):
        close = torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()) if b.numel() else 0)
        assert torch.equal(a, b) or (close and (name == "factor" or (single and name != "y"))), name


def test_a_column_that_goes_leaves_nothing():
    """Training programs a column a layer and step."""
    column = programmed(NOISY)
    case_of(NOISY, inputs_of(NOISY), column).fused()
    watched = weakref.ref(column)
    del column
    gc.collect()
    assert watched() is None


def test_outputs_that_are_written_over():
    """What follows may work in place; the gradient of the scale needs what was there, which is read again."""
    case = case_of(NOISY, inputs_of(NOISY, GROUPED), programmed(NOISY, GROUPED), GROUPED)
    found = []
    for change in (torch.relu, torch.relu_):
        factor = torch.tensor(0.3, requires_grad=True)
        y = mac(case.x, case.column, case.geometry, case.keys, case.converters, Ste(), Plan("fused"), None, factor)
        change(y).square().sum().backward()
        found.append(factor.grad)
    assert found[0] != 0
    assert torch.equal(*found)


def test_gradient_of_steps_of_their_own():
    plain = case_of(NOISY, inputs_of(NOISY), programmed(NOISY))
    step = torch.linspace(0.5, 1.5, 6)
    case = replace(plain, converters=Converters(torch.tensor(-3.0), step))
    arguments = (case.x, case.column, case.geometry, case.keys, case.converters, EVERYTHING)
    assert_equal(fused.run(*arguments), reference.run(*arguments))


# --------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("level", LEVELS, ids=[NAMES[level] for level in LEVELS])
@pytest.mark.parametrize("geometry", [DENSE, GROUPED], ids=["dense", "conv"])
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_examples(example: Example, geometry: Geometry, level: int):
    """Each effect alone; what the kernel refuses goes to another plan, which says so."""
    macro = example.macro
    column = programmed(macro, geometry)
    reason = fused.refuses(macro, column.layout)
    if reason is not None:
        plan = choose(macro, layout=column.layout)
        assert plan.name == "folded" or (plan.name == "reference" and f"not fused: {reason}" in plan.why)
        return
    x = inputs_of(macro, geometry)
    keys = Reads(5, CHIP, 0, torch.arange(len(x))).keys("layer")
    case = Case(column, geometry, x, keys, converters_of(macro))
    with instructions(level):
        for keep in (Keep(), EVERYTHING):
            assert_equal(case.fused(keep), case.reference(keep))


def test_the_examples_reach_the_kernel():
    taken = [e for e in EXAMPLES if fused.refuses(e.macro, programmed(e.macro).layout) is None]
    assert len(taken) > 20
    assert {choose(e.macro).name for e in taken} == {"fused"}


# -------------------------------------------------------------------------------------------------- noise, by itself


def one_bit(rows: int, **changes: Any) -> Macro:
    """One conversion a value: what is read is a code."""
    config = {
        "name": "one",
        "rows": rows,
        "columns": 64,
        "inputs": UnsignedInput(bits=1),
        "weights": UnsignedWeight(bits=1),
    }
    return Macro.model_validate(config | changes)


def many(macro: Macro, reads: int, converters: Converters | None, outputs: int = 32) -> tuple[Case, torch.Tensor]:
    """The same inputs again and again: output n sums to n."""
    rows = torch.arange(macro.rows)
    w = (rows < torch.arange(outputs)[:, None]).float()
    column = program(w, macro, CHIP, Site("layer"))
    keys = Reads(1, CHIP, 0, torch.arange(reads)).keys("layer")
    case = Case(column, DENSE, torch.ones(reads, 1, macro.rows), keys, converters)
    return case, case.fused(Keep()).y[:, 0].double()


def test_codes_of_a_noisy_converter():
    """How often each code is read, by chi-square: 32 places on the converter's scale."""
    sigma, low, step = 0.8, -0.4, 0.73
    macro = one_bit(32, converter=Adc(bits=6, noise=sigma))
    _, y = many(macro, 60_000, Converters(torch.tensor(low), torch.tensor(step)))
    seen = ((y - low) / step).round().long()
    for n in range(32):
        place = (n - low) / step
        codes = np.arange(max(0, round(place - 2.4 * sigma)), round(place + 2.4 * sigma) + 1)  # tails together
        p = np.diff(stats.norm.cdf(np.r_[-np.inf, codes + 0.5, np.inf], place, sigma))
        count = np.bincount((seen[:, n] - int(codes[0])).clamp(0, len(codes)), minlength=len(codes) + 1)
        assert stats.chisquare(count, p * len(y)).pvalue > 1e-4, n


@pytest.mark.parametrize(
    ("changes", "variance"),
    [
        ({"converter": Adc(bits=12, noise=40.0)}, lambda n: 0 * n + 40.0**2),
        (
            {
                "converter": Adc(bits=12),
                "column": CurveColumn(sigma=Polynomial(coefficients=(0.4, 0.8))),
            },
            lambda n: ((0.4 + 0.8 * n / 32) / 0.01) ** 2,
        ),
        ({"converter": Adc(bits=12), "cell": Cell(read_sigma=0.1)}, lambda n: 0 * n + 32 * (0.1 / 0.01) ** 2),
        (
            {"converter": Adc(bits=12, noise=30.0), "cell": Cell(read_sigma=0.1)},
            lambda n: 0 * n + 32 * (0.1 / 0.01) ** 2 + 30.0**2,
        ),
    ],
    ids=["converter", "column", "cells", "cells and converter"],
)
def test_noise_of_a_read(changes, variance):
    """Errors of codes, in a converter so fine that its steps do not show, are normal and as large as asked for."""
    low, step = -4.003, 0.01
    _, y = many(one_bit(32, **changes), 40_000, Converters(torch.tensor(low), torch.tensor(step)))
    n = torch.arange(32)
    sigma = torch.sqrt(variance(n.double()) + 1 / 12)  # and the rounding of codes
    dither = draws.uniform(4, torch.arange(y.numel())).view(y.shape) - 0.5  # codes to real numbers again
    error = ((y - n) / step + dither) / torch.sqrt(sigma**2 + 1 / 12)
    values = error.flatten().numpy()
    assert len(values) > 1_000_000
    assert abs(values.mean()) < 0.005
    assert abs(values.std() - 1) < 0.005
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert float((error.std(0) - 1).abs().max()) < 4 * 0.5**0.5 / len(y) ** 0.5
    assert float(error.mean(0).abs().max()) < 4 / len(y) ** 0.5
    across = np.corrcoef(error.T.numpy()) - np.eye(32)
    assert np.abs(across).max() < 4.5 / len(y) ** 0.5


@pytest.mark.parametrize("per", ["pooled", "column"])
def test_frequencies_of_a_measured_table(per):
    """P(code | ideal code), by chi-square for every ideal code of every table."""
    tables = 3 if per == "column" else 1
    p = np.random.default_rng(1).dirichlet(np.full(11, 0.7), (tables, 9))
    macro = one_bit(32, column=TableColumn(probability=p, low=1.0, step=2.0, per=per, assign="physical"))
    case, y = many(macro, 40_000, None)
    law = case.column.law
    which = law.which[0, 0, 0] if law.which is not None else torch.zeros(32, dtype=torch.int64)
    seen = ((y - 1) / 2).round().long()
    for n in range(32):
        ideal = int(np.clip(np.floor((n - 1) / 2 + 0.5), 0, 8))
        expected = p[int(which[n]), ideal] * len(y)
        count = np.bincount(seen[:, n], minlength=11)
        often = expected > 5
        assert (count[~often] <= 30).all()
        share = np.append(expected[often], max(expected[~often].sum(), 1e-9))
        kept = np.append(count[often], count[~often].sum())
        assert (
            stats.chisquare(kept[share > 1], share[share > 1] * kept[share > 1].sum() / share[share > 1].sum()).pvalue
            > 1e-4
        )
    assert len(set(which.tolist())) == tables


# --------------------------------------------------------------------------------------------------- odd sizes, cuts


def layer(macro: Macro, inputs: int, outputs: int, geometry: Geometry = DENSE, seed: int = 0) -> Column:
    groups = geometry.groups if isinstance(geometry, Conv) else 1
    return program(codes(macro.weights, (outputs, inputs), seed), macro, CHIP, Site("layer"), groups=groups)


def case_of(macro: Macro, x: torch.Tensor, column: Column, geometry: Geometry = DENSE) -> Case:
    keys = Reads(0, CHIP, 0, torch.arange(len(x))).keys("layer")
    return Case(column, geometry, x, keys, converters_of(macro))


NOISY = base("noisy", converter=Adc(bits=6, noise=0.6))
TALL = base("tall", rows=1152, active_rows=64, converter=Adc(bits=6, noise=0.6), inputs=UnsignedInput(bits=1))


def test_a_large_layer_is_cut_into_pieces():
    """Cells that no cache holds, blocks of positions in pieces, fewer pieces than threads: one result."""
    macro = TALL.model_copy(update={"weights": UnsignedWeight(bits=1)})
    column = layer(macro, 1152, 512)
    assert column.layout.inputs * 512 > 2 * cpu.CACHE
    case = case_of(macro, codes(macro.inputs, (2, 320, 1152), 1), column)
    expected = case.reference(Keep(inside=True))
    for number in (1, 2, 3):
        with threads(number):
            assert_equal(case.fused(Keep(inside=True)), expected, f"by {number} threads")
            few = replace(case, x=case.x[:1, :3], keys=case.keys[:1])
            assert torch.equal(few.fused(Keep()).y, expected.y[:1, :3])


def test_many_rows():
    macro = TALL.model_copy(update={"weights": UnsignedWeight(bits=2, cell_bits=2)})
    case = case_of(macro, codes(macro.inputs, (1, 2, 40_000), 1), layer(macro, 40_000, 3))
    assert case.column.layout.reads == 34 * 18 + 13
    assert_equal(case.fused(), case.reference())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 40), (64, 1), (63, 16)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_small_and_empty(inputs, outputs, batch):
    case = case_of(NOISY, codes(NOISY.inputs, (batch, 2, inputs), 1), layer(NOISY, inputs, outputs))
    assert_equal(case.fused(Keep()), case.reference(Keep()))
    assert case.fused().y.shape == (batch, 2, outputs)
    none = replace(case, x=case.x[:, :0])
    assert none.fused().y.shape == (batch, 0, outputs)


def layouts() -> dict[str, torch.Tensor]:
    x = codes(NOISY.inputs, (3, 8, 7, 6), 1)
    wide = codes(NOISY.inputs, (3, 16, 9, 6), 2)
    return {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "sliced": wide[:, ::2, 1:8],
        "sliced, channels last": wide.contiguous(memory_format=torch.channels_last)[:, 3:11, :7],
        "expanded": x[:1, :1].expand(3, 8, 7, 6),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "batch last": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "double": x.double(),
    }


@pytest.mark.parametrize("name", layouts())
def test_inputs_of_any_layout(name):
    x = layouts()[name]
    case = case_of(NOISY, x, programmed(NOISY, GROUPED), GROUPED)
    plain = replace(case, x=x.float().contiguous()).fused()
    assert_equal(case.fused(), plain)
    assert_equal(plain, case.reference())
    rows = x.flatten(1, 2)[:, :, :4]
    dense = case_of(NOISY, rows, layer(NOISY, 4, 5))
    assert_equal(dense.fused(), replace(dense, x=rows.float().contiguous()).fused())
    turned = replace(dense, x=rows.transpose(1, 2), column=layer(NOISY, rows.shape[1], 5))
    assert_equal(turned.fused(), turned.reference())


# -------------------------------------------------------------------------------------------------------- fallbacks


def test_without_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with_kernel = mac(inputs_of(NOISY), programmed(NOISY), DENSE, keys_of(5), converters_of(NOISY))
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    plan = choose(NOISY)
    assert plan.name == "reference"
    assert "not fused: the fused kernel was not built" in plan.why
    with pytest.raises(ValueError, match=r"plan fused cannot run macro noisy: the fused kernel was not built .* g\+\+"):
        choose(NOISY, "fused")
    assert torch.equal(mac(inputs_of(NOISY), programmed(NOISY), DENSE, keys_of(5), converters_of(NOISY)), with_kernel)


def keys_of(batch: int) -> torch.Tensor:
    return Reads(0, CHIP, 0, torch.arange(batch)).keys("layer")


def test_instruction_sets():
    """A processor without one takes the next below; each says its name."""
    kernel = native.kernel()
    try:
        for wanted in range(-1, len(NAMES) + 1):
            taken = kernel.bitline_use(wanted)
            assert taken == max(level for level in LEVELS if level <= max(wanted, 0))
            assert native.cpu() == NAMES[taken]
    finally:
        kernel.bitline_use(LEVELS[-1])


def test_inputs_that_are_no_numbers():
    x = inputs_of(NOISY)
    x[2, 1, 7] = torch.nan
    for level in LEVELS:
        with instructions(level), pytest.raises(ValueError, match="NaN"):
            mac(x, programmed(NOISY), DENSE, keys_of(5), converters_of(NOISY), plan=Plan("fused"))


def test_fresh_noise_needs_samples():
    with pytest.raises(ValueError, match="layer: the macro has fresh noise; say which samples are read"):
        fused.run(inputs_of(NOISY), programmed(NOISY), DENSE, None, converters_of(NOISY), Keep())


def test_a_converter_needs_a_range():
    with pytest.raises(ValueError, match="layer: macro noisy has a converter, whose range must be given"):
        fused.run(inputs_of(NOISY), programmed(NOISY), DENSE, keys_of(5), None, Keep())


def test_too_many_elements():
    """Sizes a kernel cannot count are refused before anything of that size exists."""
    column = layer(NOISY, 1, 4096)
    x = torch.zeros(1, 1, 1).expand(1 << 10, 1 << 9, 1)
    with pytest.raises(ValueError, match=r"layer: 1024 samples of 512 positions .* pass 2\^31 elements"):
        fused.run(x, column, DENSE, keys_of(1 << 10), converters_of(NOISY), Keep())
    words = fused.words_of(torch.zeros(1, 1, 128), NOISY, DENSE)
    many = words.data.expand(1 << 12, 1, 1, 1 << 12, 128)
    with pytest.raises(ValueError, match=r"pass 2\^31 elements"):
        fused.run(
            replace(words, data=many), layer(NOISY, 128, 1), DENSE, keys_of(1 << 12), converters_of(NOISY), Keep()
        )
    conv = Conv((33, 33), (1, 1), (1, 1), 1)
    wide = replace(words, data=words.data[..., :8].expand(64, 1, 224, 224, 8), dims=2)
    with pytest.raises(ValueError, match=r"pass 2\^31 elements"):
        fused.run(wide, layer(NOISY, 8 * 33 * 33, 1, conv), conv, keys_of(64), converters_of(NOISY), Keep())


@pytest.mark.parametrize(
    ("changes", "inputs", "reason"),
    [
        ({"inputs": UnsignedInput(bits=8), "weights": UnsignedWeight(bits=8)}, 4000, "totals of 400 row groups pass"),
        ({"rows": 1 << 16, "active_rows": 1 << 16, "weights": UnsignedWeight(bits=8, cell_bits=8)}, 8, "sums of 65536"),
        ({"driver": {"inl": (0.0, 0.1)}}, 8, "drivers have levels of their own"),
        ({"converter": None}, 8, "without a converter"),
        ({"converter": Adc(bits=1, levels=(0.0, 1.0))}, 8, "levels are uneven"),
        ({"inputs": {"kind": "bipolar", "bits": 3, "digit_bits": 2}}, 8, "do not fit a 16-bit word"),
        ({"inputs": UnsignedInput(bits=10, digit_bits=10)}, 8, "do not fit a byte"),
    ],
)
def test_what_the_kernel_leaves_to_the_reference_plan(changes, inputs, reason):
    macro = base("left", **({"rows": 10, "converter": Adc(bits=6, range=FixedRange(low=0, high=63))} | changes))
    layout = macro.layout(inputs, 2)
    plan = choose(macro, layout=layout)
    assert plan.name in ("reference", "folded")
    assert reason in str(fused.refuses(macro, layout))
    with pytest.raises(ValueError, match=f"plan fused cannot run macro left: .*{reason}"):
        choose(macro, "fused", layout)
    if plan.name == "reference":
        assert f"not fused: {fused.refuses(macro, layout)}" in plan.why
        column = layer(macro, inputs, 2)
        x = codes(macro.inputs, (1, 1, inputs), 1)
        y = mac(x, column, DENSE, None, converters_of(macro))
        assert torch.equal(y, reference.run(x, column, DENSE, None, converters_of(macro)).y.view_as(y))


def test_cells_after_years():
    """A column that has aged is lowered anew."""
    from bitline.macro import age

    macro = base(
        "old", cell=Cell(errors=(GaussianCell(sigma=0.05),), drift=PowerLawDrift(nu=0.05)), converter=Adc(bits=6)
    )
    young = case_of(macro, inputs_of(macro), programmed(macro))
    old = replace(young, column=age(young.column, 1e6))
    assert_equal(old.fused(), old.reference())
    assert not torch.equal(old.fused().y, young.fused().y)


def test_a_range_that_moves():
    """Constants of the last range are kept; another range, equal in part, has its own."""
    case = case_of(NOISY, inputs_of(NOISY), programmed(NOISY))
    for low, step in ((0.0, 1.0), (0.0, 2.0), (-3.0, 2.0), (0.0, 1.0)):
        moved = replace(case, converters=Converters(torch.tensor(low), torch.tensor(step)))
        assert_equal(moved.fused(), moved.reference())
