"""The behaviour matrix: what every macro, quantizer, gradient and method keeps, whatever it is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from bitline.converters import Adc, Driver, Range
from bitline.devices import (
    AnyCellError,
    AnyDrift,
    AnyProfile,
    AnyReadNoise,
    Cell,
    CellError,
    Draw,
    LogNormalWeight,
    OffsetRow,
    RangeWeight,
    WeightVariation,
)
from bitline.encode import InputScheme, WeightScheme
from bitline.macro import AnyGradient, Chip, Macro, SteIdeal, age, choose, ideal, reference
from bitline.macro.chip import Effect
from bitline.macro.curves import AnyCurve
from bitline.macro.ideals import CAUSES
from bitline.macro.kinds import AnyColumn, ColumnTrim, CurveColumn, TableColumn
from bitline.macro.placement import Placement
from bitline.methods import Method, Progress
from bitline.nn.calibrate import calibrate
from bitline.nn.convert import convert
from bitline.nn.model import layers, on_chip, silicon
from bitline.nn.quantizers import AnyQuantizer, Observer
from bitline.nn.ranges import ConverterRange
from bitline.train import TrainConfig, train
from contracts import (
    ADCS,
    CELL_ERRORS,
    CELLS,
    CHIP,
    COLUMNS,
    CURVES,
    DENSE,
    DRIFTS,
    DRIVERS,
    EXAMPLES,
    GRADIENTS,
    GROUPED,
    INPUTS,
    PLACEMENTS,
    PROFILES,
    QUANTIZERS,
    RANGES,
    READ_NOISES,
    VARIATIONS,
    WEIGHTS,
    Example,
    fields_set,
    inputs_of,
    members,
    methods,
    programmed,
    read,
    weights_of,
)

each = pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
GEOMETRIES = [DENSE, GROUPED]


each_method = pytest.mark.parametrize("method", methods(), ids=lambda method: method.kind)


def folds(macro: Macro) -> bool:
    return choose(macro).name == "folded"


def quiet(macro: Macro) -> Macro:
    """The macro without read noise of cells, which the plans draw in different places."""
    silent = {"read_sigma": None, "read_noise": None}
    return macro.model_copy(update={"cell": macro.cell and macro.cell.model_copy(update=silent)})


folded = pytest.mark.parametrize("example", [e for e in EXAMPLES if folds(e.macro)], ids=lambda e: e.name)
digital = pytest.mark.parametrize("example", [e for e in EXAMPLES if e.macro.inputs is not None], ids=lambda e: e.name)
in_both_plans = pytest.mark.parametrize(
    "example",
    [e for e in EXAMPLES if folds(e.macro) and (e.macro.sliced or e.macro.column is not None)],
    ids=lambda e: e.name,
)


# ------------------------------------------------------------------------------------------------------ completeness


@pytest.mark.parametrize(
    ("union", "examples"),
    [
        (AnyCellError, [error for example in CELL_ERRORS for error in example.macro.cell.errors]),
        (WeightVariation, [example.macro.variation for example in VARIATIONS]),
        (AnyDrift, DRIFTS),
        (AnyProfile, PROFILES),
        (AnyReadNoise, READ_NOISES),
        (AnyCurve, [example.macro.column.mean for example in CURVES]),
        (AnyColumn, [example.macro.column for example in COLUMNS]),
        (Range, [example.macro.converter.range for example in ADCS]),
        (InputScheme, [example.macro.inputs for example in INPUTS]),
        (WeightScheme, [example.macro.weights for example in WEIGHTS]),
        (Placement, [example.macro.placement for example in PLACEMENTS]),
        (AnyGradient, GRADIENTS),
        (AnyQuantizer, QUANTIZERS),
        (Observer, QUANTIZERS),
    ],
)
def test_each_kind_has_an_example(union, examples):
    missing = members(union) - {type(example) for example in examples}
    assert not missing, f"no example in tests/contracts.py of {missing}"


@pytest.mark.parametrize("rule", [rule for rule in RANGES if rule.calibrated], ids=lambda rule: rule.kind)
def test_a_calibrated_range_is_what_its_rule_makes_of_what_was_seen(rule):
    """Each field of it counts, beside those that say what is trained."""
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 9

    def found(one):
        module = ConverterRange(Adc(bits=5, range=one), -64.0, 64.0)
        module.observe(values)
        module.freeze()
        return float(module.step.detach()), float(module.zero)

    low, step = rule.fit(Adc(bits=5), values, signed=True)
    assert found(rule) == pytest.approx((step, round(low / step)))
    for name in rule.model_fields_set - {"kind", "learn"}:
        other = rule.model_copy(update={name: type(rule).model_fields[name].default})
        assert found(other) != found(rule), f"{name} of a {rule.kind} range changes nothing"


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        (Adc, [example.macro.converter for example in EXAMPLES if example.macro.converter]),
        (Driver, [example.macro.driver for example in DRIVERS]),
        (Cell, [example.macro.cell for example in [*CELLS, *CELL_ERRORS]]),
        (CurveColumn, [c.macro.column for c in [*COLUMNS, *CURVES] if isinstance(c.macro.column, CurveColumn)]),
        (TableColumn, [c.macro.column for c in COLUMNS if isinstance(c.macro.column, TableColumn)]),
        (ColumnTrim, [example.macro.trim for example in EXAMPLES if example.macro.trim]),
        (Macro, [example.macro for example in EXAMPLES]),
        *[(kind, RANGES) for kind in sorted(members(Range), key=lambda kind: kind.__name__)],
        *[(kind, DRIFTS) for kind in sorted(members(AnyDrift), key=lambda kind: kind.__name__)],
        *[(kind, [e.macro.variation for e in VARIATIONS]) for kind in (LogNormalWeight, RangeWeight)],
        (OffsetRow, [e.macro.norm for e in VARIATIONS if e.macro.norm]),
        *[(kind, READ_NOISES) for kind in sorted(members(AnyReadNoise), key=lambda kind: kind.__name__)],
        *[(kind, PROFILES) for kind in sorted(members(AnyProfile), key=lambda kind: kind.__name__)],
    ],
)
def test_each_field_is_exercised(kind, examples):
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    fields = set(kind.model_fields) - required - {"kind"}
    if kind is TableColumn:  # its dump is compared, not its array
        fields -= {"probability"}
    missing = fields - {name for owner, name in fields_set(examples) if owner is kind}
    assert not missing, f"no example in tests/contracts.py sets {kind.__name__}.{missing}"


@pytest.mark.parametrize("example", [*ADCS, *DRIVERS], ids=lambda example: example.name)
def test_each_field_of_a_converter_changes_what_is_read(example):
    """A field that an example sets and nothing reads would pass all else."""
    for part in ("converter", "driver"):
        if (holder := getattr(example.macro, part)) is None:
            continue
        unlike = {"bits", "range", "gain_about"}  # ranges may agree, and gains about 0 where the first code is 0
        for name in sorted({name for _, name in fields_set([holder])} - unlike):
            default = type(holder).model_fields[name].get_default(call_default_factory=True)
            other = example.macro.model_copy(update={part: holder.model_copy(update={name: default})})
            assert not torch.equal(read(example.macro), read(other)), f"{part}.{name} changes nothing"


@pytest.mark.parametrize(
    ("part", "kind", "design"),
    [("converter", Adc, {"bits", "range", "levels"}), ("driver", Driver, set()), ("column", CurveColumn, set())],
)
def test_each_effect_has_a_cause(part, kind, design):
    """What no cause names is in no explanation, and stays in a die that should be nominal."""
    named = {name for cause in CAUSES.values() for name in cause.get(part, ())}
    assert named == set(kind.model_fields) - design - {"kind"}


def test_names_are_unique():
    names = [example.name for example in EXAMPLES]
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------------------------------------- draws


@pytest.fixture
def parts_once(monkeypatch):
    """A second draw of a part of an effect fails: it is the same number, and normal and uniform are one number too.

    What the fixture gives forgets what was drawn: the same cells are programmed once more."""
    drawn = set()

    def once(draw):
        def checked(effect: Effect, part: str = "") -> torch.Tensor:
            assert (effect.stream, part) not in drawn, f"part {part!r} of an effect is drawn twice"
            drawn.add((effect.stream, part))
            return draw(effect, part)

        return checked

    for name in ("normal", "uniform"):
        monkeypatch.setattr(Effect, name, once(getattr(Effect, name)))
    return drawn.clear


@each
def test_no_part_is_drawn_twice(example: Example, parts_once):
    column = programmed(example.macro)
    if example.macro.cell and example.macro.cell.drift and not example.macro.cell.seconds:
        parts_once()
        age(column, 1e4)


class Telegraph(CellError):
    """A cell in one of two states, apart by an amplitude of its own."""

    state: str
    amplitude: str

    def apply(self, levels: torch.Tensor, draw: Draw, level_high: int) -> torch.Tensor:
        return levels + (draw.uniform(self.state) < 0.5) * draw.normal(self.amplitude)

    def moments(self, levels: torch.Tensor, level_high: int) -> tuple[torch.Tensor, torch.Tensor]:
        return levels, torch.full_like(levels, 0.5**0.5)

    def centred(self) -> CellError:
        return self

    def typical(self) -> None:
        return None


def test_a_part_drawn_twice_is_found(parts_once):
    levels, draw = torch.zeros(100_000, dtype=torch.float64), Effect(7, torch.arange(100_000))
    held = Telegraph(state="state", amplitude="amplitude").apply(levels, draw, 1)
    assert abs(float(held.mean())) < 4 * float(held.std()) / 100_000**0.5
    with pytest.raises(AssertionError, match="part 'both' of an effect is drawn twice"):
        Telegraph(state="both", amplitude="both").apply(levels, draw, 1)


@pytest.mark.parametrize("example", CELL_ERRORS, ids=lambda e: e.name)
def test_mean_and_spread_of_cell_errors(example: Example):
    """``centred`` holds the level on average, ``typical`` the mean in every cell; a second time changes nothing."""
    n, high = 200_000, example.macro.level_high
    draw = Effect(CHIP.stream("cell", "mean"), torch.arange(n))

    def held(error: CellError | None, level: int) -> torch.Tensor:
        wanted = torch.full((n,), float(level), dtype=torch.float64)
        return wanted if error is None else error.apply(wanted, draw, high)

    def mean_is(values: torch.Tensor, mean: float) -> bool:
        return abs(float(values.mean()) - mean) < 4 * float(values.std()) / n**0.5 + 1e-6

    for error in example.macro.cell.errors:
        for level in range(high + 1):
            whole, spread, common = (held(e, level) for e in (error, error.centred(), error.typical()))
            assert mean_is(spread, level)
            assert mean_is(whole, float(common[0]))
            assert float(common.max() - common.min()) < 1e-6
            assert torch.allclose(held(error.centred().centred(), level), spread, rtol=0, atol=1e-6)
            assert torch.allclose(held(error.centred().typical(), level), held(None, level), rtol=0, atol=1e-6)
            if (typical := error.typical()) is not None:
                assert torch.allclose(held(typical.typical(), level), common, rtol=0, atol=1e-6)
                assert torch.allclose(held(typical.centred(), level), held(None, level), rtol=0, atol=1e-6)


@pytest.mark.parametrize("example", VARIATIONS, ids=lambda e: e.name)
def test_mean_and_spread_of_weight_errors(example: Example):
    """``centred`` holds the weight on average, ``typical`` the average in every one; a second time changes nothing.
    The average is the mean, of a log-normal error the median."""
    n, error = 200_000, example.macro.variation
    draw = Effect(CHIP.stream("weight", "mean"), torch.arange(n))
    w = torch.cat([torch.tensor([-1.0, 1.0]), torch.full((n - 2,), 0.5)]).double()  # half their range is 1

    def held(error: RangeWeight | LogNormalWeight) -> torch.Tensor:
        found: torch.Tensor = error.apply(w, error.sample(draw) if error.varies else None)
        return found[2:]

    whole, spread, common = held(error), held(error.centred()), held(error.typical())
    if isinstance(error, LogNormalWeight):
        whole, spread = whole.median()[None], spread.median()[None]
        within = 4 * 1.2533 * 0.5 * error.sigma / n**0.5
    else:
        within = 4 * float(whole.std()) / n**0.5 + 1e-9
    assert float(spread.mean()) == pytest.approx(0.5, abs=within)
    assert float(whole.mean()) == pytest.approx(float(common[0]), abs=within)
    assert float(common.max() - common.min()) < 1e-12
    assert torch.allclose(held(error.centred().centred()), held(error.centred()), rtol=0, atol=1e-12)
    assert torch.allclose(held(error.typical().typical()), common, rtol=0, atol=1e-12)
    for none in (error.centred().typical(), error.typical().centred()):
        assert torch.allclose(held(none), w[2:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("example", CELL_ERRORS, ids=lambda e: e.name)
def test_moments_of_cell_errors(example: Example):
    """In closed form, within 1 % over a million draws, at every level; also of the parts."""
    n, high = 1_000_000, example.macro.level_high
    draw = Effect(CHIP.stream("cell", "moments"), torch.arange(100, n + 100))  # beyond the cells of a fault map
    for error in example.macro.cell.errors:
        for each in (error, error.centred(), error.typical()):
            for level in range(0, high + 1, max(1, high // 2)):
                if each is not None:
                    wanted = torch.full((n,), float(level), dtype=torch.float64)
                    held = each.apply(wanted, draw, high)
                    mean, sigma = (float(moment) for moment in each.moments(wanted[:1], high))
                    assert float(held.mean()) == pytest.approx(mean, rel=0.01, abs=4 * sigma / n**0.5 + 1e-9)
                    assert float(held.std()) == pytest.approx(sigma, rel=0.01, abs=1e-6)


@pytest.mark.parametrize("drift", DRIFTS, ids=repr)
def test_moments_of_drifts(drift):
    n, high = 1_000_000, 7
    draw = Effect(CHIP.stream("cell", "drift"), torch.arange(n))
    for level in (0.5, 3.0, 7.0):
        held, state = (torch.full((n,), v, dtype=torch.float64) for v in (level + 0.5, level / high))
        for each in (drift, drift.centred(), drift.typical()):
            for age_s in (each.t0, 1e7):
                later = each.apply(held, state, draw, high, age_s, 320.0)
                mean, sigma = (float(m) for m in each.moments(held[:1], state[:1], high, age_s, 320.0))
                assert float(later.mean()) == pytest.approx(mean, rel=0.01, abs=4 * sigma / n**0.5 + 1e-9)
                assert float(later.std()) == pytest.approx(sigma, rel=0.01, abs=1e-6)
        centred, typical = (
            part.moments(held[:1], state[:1], high, 1e7, 320.0) for part in (drift.centred(), drift.typical())
        )
        assert float(centred[0]) == pytest.approx(level + 0.5)
        assert float(typical[1]) == 0


# ----------------------------------------------------------------------------------------------------------- machine


@each
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["dense", "conv"])
def test_ideal_limit_is_the_integer_product(example: Example, geometry):
    macro = example.limit
    x, w = inputs_of(macro, geometry), weights_of(macro, geometry)
    exact = geometry.linear(x.double(), w.double())
    tolerance = {"rtol": 0, "atol": 0} if macro.inputs else {"rtol": 1e-5, "atol": 1e-5}
    for plan in ("folded", "reference") if folds(macro) and macro.sliced else (choose(macro).name,):
        torch.testing.assert_close(read(macro, geometry, plan=plan).double(), exact, **tolerance)


@each
def test_the_effect_is_there(example: Example):
    macro = example.macro
    exact = DENSE.linear(inputs_of(macro).double(), weights_of(macro).double())
    if macro != example.limit and example.name not in ("many bits", "weights 1 twos_complement", "documented"):
        assert (read(macro).double() - exact).abs().max() > 0


@each
def test_ideal_of_the_example(example: Example):
    """``ideal`` takes every error out, and leaves the resolution."""
    macro = ideal(example.macro)
    if macro.converter is not None:
        macro = macro.model_copy(update={"converter": Adc(bits=10)})
    x, w = inputs_of(macro), weights_of(macro)
    tolerance = {"rtol": 0, "atol": 0} if macro.inputs else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(read(macro).double(), DENSE.linear(x.double(), w.double()), **tolerance)


@each
def test_same_seed_same_chip(example: Example):
    macro = example.macro
    one, again = (read(macro, chip=Chip(seed=4, number=2)) for _ in range(2))
    assert torch.equal(one, again)
    for other in (Chip(seed=4, number=1), Chip(seed=5, number=2)):
        a, b = programmed(macro, chip=Chip(seed=4, number=2)), programmed(macro, chip=other)
        same = _frozen_parts_equal(a, b)
        assert same is not example.frozen


def _frozen_parts_equal(a: Any, b: Any) -> bool:
    def equal(x: Any, y: Any) -> bool:
        if x is None or y is None:
            return x is y
        if isinstance(x, torch.Tensor):
            return torch.equal(x, y)
        if hasattr(x, "__dataclass_fields__"):
            return all(equal(getattr(x, name), getattr(y, name)) for name in x.__dataclass_fields__)
        return bool(x == y)

    parts = ("weight", "cells", "spread", "drive", "drive_error", "code", "law")
    return all(equal(getattr(a, part), getattr(b, part)) for part in parts)


@each
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["dense", "conv"])
def test_frozen_part_stays_and_fresh_part_does_not(example: Example, geometry):
    macro = example.macro
    column = programmed(macro, geometry)
    first, second = (read(macro, geometry, column=column, time=time) for time in (0, 1))
    assert torch.equal(first, second) is not example.fresh
    assert torch.equal(first, read(macro, geometry, column=column, time=0))


@each
def test_writing_again(example: Example):
    """Programming errors are drawn anew; mismatch, converters, columns and drivers are the die's."""
    macro = example.macro
    first, second = programmed(macro, n=0), programmed(macro, n=1)
    errors = macro.cell.errors if macro.cell else ()
    redrawn = (macro.variation is not None and macro.variation.varies) or any(
        e.clock == "programming" and e.kind != "stuck" for e in errors
    )
    assert _frozen_parts_equal(first, second) is not redrawn
    for part in ("spread", "drive_error", "code", "law"):
        assert repr(getattr(first, part)) == repr(getattr(second, part))


@in_both_plans
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["dense", "conv"])
def test_plans_agree(example: Example, geometry):
    macro = quiet(example.macro)
    for gradient in GRADIENTS:
        seen = {}
        for plan in ("folded", "reference"):
            x, w = (t.clone().requires_grad_() for t in (inputs_of(macro, geometry), weights_of(macro, geometry)))
            y = read(macro, geometry, x=x, column=programmed(macro, geometry, w=w), plan=plan, gradient=gradient)
            up = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)
            seen[plan] = (y.detach().double(), *(g.double() for g in torch.autograd.grad(y, (x, w), up)))
        for fast, slow in zip(*seen.values(), strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5 * float(slow.abs().max()))


@pytest.mark.parametrize("driver", [None, Driver(levels=(0.0, 0.5, 2.5, 3.4))])
@pytest.mark.parametrize("plan", ["folded", "reference"])
def test_noise_of_cells_is_as_large_in_both_plans(plan, driver):
    macro = next(example.macro for example in CELLS if example.name == "noisy cell")
    macro = macro.model_copy(update={"driver": driver})
    column = programmed(macro)
    x = inputs_of(macro, batch=1).expand(4000, -1, -1).contiguous()
    clean = read(quiet(macro), x=x, plan=plan)
    error = read(macro, column=column, x=x, plan=plan) - clean
    driven = torch.tensor(driver.levels if driver else (0.0, 1.0, 2.0, 3.0), dtype=torch.float64)
    digits = driven[macro.inputs.digits(x[:1].double()).long()]
    radix = torch.tensor(column.pass_radix).view(-1, 1, 1, 1)
    power = (digits.square() * radix.square()).sum((0, 3))[0]
    expected = power.sqrt() * 0.05 * 3 * sum(r**2 for r in column.radix) ** 0.5
    assert torch.allclose(error.double().std((0, 2)), expected, rtol=0.02)


# ------------------------------------------------------------------------------------- batches, chunks, threads, keys


@each
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["dense", "conv"])
def test_batch_chunks_and_order_change_nothing(example: Example, geometry, monkeypatch):
    macro = example.macro
    column = programmed(macro, geometry)
    x, samples = inputs_of(macro, geometry, batch=7), torch.tensor([4, 0, 900, 17, 3, 2**40, 8])
    plan = "reference" if column.cells is not None or folds(macro) else None  # the folded plan's rounding: below
    whole = read(macro, geometry, column=column, x=x, samples=samples, plan=plan)

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.equal(a, b) if macro.inputs else torch.allclose(a, b, rtol=1e-5, atol=1e-5)

    parts = [slice(0, 1), slice(1, 4), slice(4, 7)]
    by_part = [read(macro, geometry, column=column, x=x[p], samples=samples[p], plan=plan) for p in parts]
    assert same(torch.cat(by_part), whole)
    order = torch.tensor([6, 2, 0, 3, 1, 5, 4])
    assert same(read(macro, geometry, column=column, x=x[order], samples=samples[order], plan=plan), whole[order])
    for chunk in (1, 300):
        monkeypatch.setattr(reference, "CHUNK", chunk)
        assert same(read(macro, geometry, column=column, x=x, samples=samples, plan=plan), whole)


@folded
def test_batch_changes_nothing_in_the_folded_plan(example: Example):
    macro = example.macro
    for geometry in GEOMETRIES:
        column, x = programmed(macro, geometry), inputs_of(macro, geometry, batch=6)
        whole = read(macro, geometry, column=column, x=x)
        parts = [read(macro, geometry, column=column, x=x[i : i + 1], samples=torch.tensor([i])) for i in range(6)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@each
def test_threads_change_nothing(example: Example):
    macro = example.macro
    before = torch.get_num_threads()
    try:
        seen = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seen.append(read(macro, GROUPED))
    finally:
        torch.set_num_threads(before)
    if macro.inputs is None or (folds(macro) and macro.variation):
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-4)
    else:
        assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.fresh], ids=lambda e: e.name)
def test_noise_is_keyed_by_the_sample(example: Example):
    """Equal inputs at different indices are read with different noise; the place in the batch does not count."""
    macro = example.macro
    column = programmed(macro)
    x = inputs_of(macro, batch=1).expand(3, -1, -1).contiguous()
    for plan in ("folded", "reference") if folds(macro) else (None,):
        y = read(macro, column=column, x=x, samples=torch.tensor([1, 2, 1]), plan=plan)
        rounding = 1e-5 * float(y.abs().max()) if plan == "folded" else 0  # of one product: rows are blocked by place
        torch.testing.assert_close(y[0], y[2], rtol=0, atol=rounding if macro.inputs else 1e-5)
        assert not torch.allclose(y[0], y[1], rtol=0, atol=1e-3)


# ------------------------------------------------------------------------------------------------------ configuration


@each
def test_configuration_round_trip(example: Example, tmp_path):
    macro = example.macro
    assert Macro.model_validate_json(macro.model_dump_json()) == macro
    assert Macro.model_validate(macro.dump()) == macro
    path = tmp_path / "macro.yaml"
    path.write_text(yaml.safe_dump(macro.dump(), sort_keys=False))
    loaded = Macro.load(path)
    assert loaded == macro
    assert loaded.fingerprint == macro.fingerprint
    assert loaded.fingerprint != Macro.model_validate(macro.dump() | {"rows": 25}).fingerprint
    assert torch.equal(read(loaded), read(macro))


@each
def test_unknown_keys_are_refused(example: Example):
    for part in (None, "cell", "column", "converter", "driver", "inputs", "weights", "variation", "placement", "trim"):
        config = example.macro.dump()
        if part is None:
            config["rowz"] = 1
        elif config.get(part) is not None:
            config[part]["rowz"] = 1
        else:
            continue
        with pytest.raises(ValidationError, match="rowz"):
            Macro.model_validate(config)


@pytest.mark.parametrize(
    ("adapter", "values"),
    [
        *((AnyQuantizer, QUANTIZERS), (AnyGradient, GRADIENTS), (AnyDrift, DRIFTS), (AnyProfile, PROFILES)),
        (AnyReadNoise, READ_NOISES),
    ],
)
def test_other_configurations_round_trip(adapter, values):
    adapter = TypeAdapter(adapter)
    for value in values:
        assert adapter.validate_json(adapter.dump_json(value)) == value


@each_method
def test_methods_round_trip(method):
    assert type(method).model_validate_json(method.model_dump_json()) == method


# ---------------------------------------------------------------------------------------------------------- networks


class Block(nn.Module):
    """A convolution inside a block inside a network, with a batch norm beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu()


def net(signed: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(Block(), nn.Sequential(nn.Flatten(), nn.Linear(6 * 25, 5)))
    if not signed:
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.data.abs_()
    return model.eval()


def images(batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


def on_macro(example: Example, **options: Any) -> nn.Module:
    scheme = example.macro.weights
    model = convert(net(scheme is None or scheme.low < 0), example.macro, **options)
    calibrate(model, [images()])
    silicon(model).begin(torch.arange(4))
    return model


@each
def test_saved_and_loaded(example: Example, tmp_path):
    with torch.no_grad():
        model = on_macro(example)
        silicon(model).begin(torch.arange(4))
        expected = model(images())
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        fresh = convert(net().apply(_scrambled), example.macro)
        fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
        silicon(fresh).begin(torch.arange(4))
        assert torch.equal(fresh.eval()(images()), expected)


def _scrambled(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.normal_()


@each
def test_double_precision(example: Example):
    """A float64 network keeps its type and computes the same thing."""
    with torch.no_grad():
        model = on_macro(example)
        silicon(model).begin(torch.arange(4))
        single = model(images())
        model.double()
        silicon(model).begin(torch.arange(4))
        double = model(images().double())
    assert double.dtype == torch.float64
    close = (double - single).abs() <= 1e-4 * single.abs().max()
    assert close.double().mean() >= 0.9  # a value on the edge of two codes may fall either way


@digital
def test_autocast_reads_the_same_integers(example: Example):
    """Mixed precision is the digital side's: sums of codes stay exact."""
    macro = example.macro
    column = programmed(macro)
    plain = read(macro, column=column)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read(macro, column=column), plain)
        model = on_macro(example)
        y = model(images())
        y.float().square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_quantizers_in_a_network(quantizer, tmp_path):
    binary = quantizer.kind == "xnor"
    example = next(
        e for e in WEIGHTS if (e.macro.weights.kind == "binary") is binary and e.macro.weights.kind != "unsigned"
    )
    which = {"weights": quantizer} if binary else {"inputs": quantizer}
    model = on_macro(example, **which)
    x = images()
    model(x).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith("conv.weight"))
    again = convert(net(), example.macro, **which)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def trainable(method: Method) -> nn.Module:
    """A network that the method can train: on a macro whose conversions differ from die to die, or a plain one."""
    (example,) = (e for e in COLUMNS if e.name == "tables drawn")
    if method.refuses(example.macro):
        return net()
    model = on_macro(example, gradient=SteIdeal())
    silicon(model).begin(None)
    return model


def image_batches(epochs: int):
    """One batch an epoch; after so many, the data are gone."""

    def source(epoch: int):
        if epoch == epochs:
            raise OSError("the data are gone")
        yield images(seed=epoch), torch.arange(4), torch.arange(4) + epoch

    return source


def state_of(model: nn.Module) -> list[Any]:
    """What each layer computes with, weights and quantizers apart."""
    return [
        (layer.macro, layer.gradient, layer.plan, layer.added_noise, layer.probe, replace(layer.silicon, passes=0))
        for layer in layers(model).values()
    ]


@each_method
def test_a_method_leaves_the_model_as_it_found_it(method):
    model = trainable(method)
    before = state_of(model)
    source = image_batches(2)
    method.begin(model, source)
    for step in range(2):
        ((x, y, index),) = source(step)
        method.before_step(model, Progress(step, 2))
        value = method.loss(model, x, y, index, nn.functional.cross_entropy)
        value.backward()
        assert value.isfinite()
    method.end(model)
    assert state_of(model) == before


@each_method
def test_a_method_resumes_as_if_it_had_not_stopped(method, tmp_path):
    config = TrainConfig(steps=4, lr=0.01, checkpoint_every=1)
    whole, resumed = trainable(method), trainable(method)
    train(whole, image_batches(4), config=config, method=method, progress=False)
    with pytest.raises(OSError, match="gone"):
        train(trainable(method), image_batches(2), config=config, method=method, out=tmp_path, progress=False)
    history = train(resumed, image_batches(4), config=config, method=method, out=tmp_path, progress=False)
    assert history.resumed == 2
    found, wanted = resumed.state_dict(), whole.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_chips_of_a_network():
    example = CELL_ERRORS[0]
    with torch.no_grad():
        model = on_macro(example)
        first = model(images())
        on_chip(model, Chip(0, 1))
        second = model(images())
        on_chip(model, Chip(0, 0))
        assert torch.equal(model(images()), first)
        on_chip(model, Chip(0, 0), write=1)
        assert not torch.equal(model(images()), first)
    assert not torch.equal(first, second)


def test_drifted_column():
    example = next(e for e in CELLS if e.name == "everything in a cell")
    column = programmed(example.macro)
    later = age(column, 1e4)
    assert not torch.equal(later.weight, column.weight)
    assert later.weight.sum() < column.weight.sum()


def test_variation_keeps_zeros_and_signs():
    macro = VARIATIONS[0].macro.model_copy(update={"variation": LogNormalWeight(sigma=0.5)})
    w = weights_of(macro)
    assert torch.equal(programmed(macro, w=w).weight.sign(), w.sign())
