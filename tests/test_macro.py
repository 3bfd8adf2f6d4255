"""Macros, placement, columns and tables: who shares silicon, what a die keeps, and what is refused."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from bitline.converters import Adc, Driver
from bitline.devices import Cell, GaussianCell, PowerLawDrift
from bitline.encode import BipolarInput
from bitline.macro import (
    Chip,
    Converters,
    Dense,
    Macro,
    Plan,
    Reads,
    Site,
    age,
    causes,
    choose,
    mac,
    nominal,
    program,
    without,
)
from bitline.macro.curves import Compressive, Discharge, Lookup, Points, Polynomial
from bitline.macro.kinds import ColumnTrim, CurveColumn, TableColumn
from bitline.macro.placement import Layout, Reload
from bitline.macro.probability import aliases
from contracts import base, table

CHIP = Chip(0, 0)


def simple(**changes: Any) -> Macro:
    """One count a row, one column an output."""
    config: dict[str, Any] = {
        "name": "simple",
        "rows": 64,
        "columns": 16,
        "inputs": {"kind": "unsigned", "bits": 1},
        "weights": {"kind": "unsigned", "bits": 1},
    }
    return Macro.model_validate(config | changes)


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowss": 3}, "rowss"),
        ({"rows": 0}, "greater than or equal to 1"),
        ({"active_rows": 65}, "active_rows = 65 exceeds rows = 64"),
        ({"cell": {}, "variation": {"kind": "lognormal", "sigma": 0.1}}, "count twice"),
        ({"cell": {}, "weights": None}, "cell needs weights with digits"),
        ({"column": {"kind": "table", "probability": [[1]]}, "converter": {"bits": 3}}, "remove `converter`"),
        (
            {
                "column": {"kind": "table", "probability": [[1]]},
                "cell": {"errors": [{"kind": "gaussian", "sigma": 0.1}]},
            },
            "remove `cell`",
        ),
        (
            {"column": {"kind": "table", "probability": [[1]]}, "variation": {"kind": "lognormal", "sigma": 0.1}},
            "remove `variation`",
        ),
        ({"column": {"kind": "table", "probability": [[0.5, 0.4]]}}, "ideal code 0 sum to 0.9, not 1"),
        ({"column": {"kind": "table", "probability": [[-0.5, 1.5]]}}, "numbers ≥ 0"),
        ({"column": {"kind": "table", "probability": [[[1]], [[1]]]}}, "a pooled column has one table, not 2"),
        ({"column": {"kind": "curves"}}, "'curve', 'table'"),
        ({"trim": {}}, "there is neither"),
        ({"inputs": None, "driver": {}}, "describe `inputs`"),
        ({"inputs": None, "column": {"kind": "curve"}}, "indexed by sums of digits"),
        ({"inputs": {"kind": "unsigned", "bits": 4, "digit_bits": 5}}, "inputs.digit_bits = 5 exceeds inputs.bits = 4"),
        ({"inputs": {"kind": "two_phase", "bits": 1}}, "greater than or equal to 2"),
        ({"weights": {"kind": "binary", "bits": 2}}, "Input should be 1"),
        ({"weights": {"kind": "ternary", "bits": 2}}, "'differential', 'offset', 'binary'"),
        ({"volts_per_count": "3 mA"}, "'3 mA' has the unit 'mA'; expected volts"),
        ({"placement": {"kind": "reload"}}, "arrays"),
        ({"corners": {"hot": {"converter": {"bitz": 3}}}}, "bitz"),
        ({"corners": {"hot": {"active_rows": 99}}}, "active_rows = 99 exceeds rows = 64"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        simple(**change)


def test_too_few_columns():
    narrow = simple(columns=6, weights={"kind": "offset", "bits": 4})
    with pytest.raises(ValueError, match="columns = 6: one output needs 4 columns beside 4 reference columns"):
        narrow.layout(10, 1)
    assert simple(columns=8, weights={"kind": "offset", "bits": 4}).layout(10, 1).per_array == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"layer: weight\[1, 2\] = nan is not an integer in \[0, 1\]"),
        (2.0, "= 2 is not"),
        (0.5, "= 0.5 is not"),
    ],
)
def test_weights_that_do_not_fit(value, message):
    w = torch.zeros(3, 5)
    w[1, 2] = value
    with pytest.raises(ValueError, match=message):
        program(w, simple(), CHIP, Site("layer"))


def test_continuous_weights_that_do_not_fit():
    w = torch.full((1, 2), float("inf"))
    with pytest.raises(ValueError, match=r"weight\[0, 0\] = inf is not a finite number"):
        program(w, simple(inputs=None, weights=None), CHIP, Site("layer"))


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "m.yaml"
    with pytest.raises(ValueError, match=r"macro file .*m\.yaml: No such file"):
        Macro.load(path)
    path.write_text("rows: [")
    with pytest.raises(ValueError, match="is not YAML"):
        Macro.load(path)
    path.write_text("name: x\nrows: many\ncolumns: 3\nconverter: {bits: 8, rang: 1}\n")
    with pytest.raises(ValueError, match=r"rows: .*\(given: 'many'\)[\s\S]*converter\.rang") as error:
        Macro.load(path)
    assert str(path) in str(error.value)


def test_plans_that_cannot_run():
    converted = simple(converter={"bits": 4})
    with pytest.raises(ValueError, match="plan folded cannot run macro simple: every column read is converted"):
        choose(converted, "folded")
    with pytest.raises(ValueError, match="no plan 'fastest'; there are: folded, fused, reference"):
        choose(converted, "fastest")
    assert "every column read is converted" in choose(converted).why


def test_noise_needs_the_samples():
    noisy = simple(cell={"read_sigma": 0.1})
    column = program(torch.ones(1, 4), noisy, CHIP, Site("layer"))
    for plan in ("folded", "reference"):
        with pytest.raises(ValueError, match="say which samples are read"):
            mac(torch.ones(1, 1, 4), column, Dense(), plan=Plan(plan))


# ----------------------------------------------------------------------------------------------------------- corners


def test_corners_merge():
    macro = simple(
        converter={"bits": 6, "noise": 0.5},
        cell={"errors": [{"kind": "gaussian", "sigma": 0.1}], "read_sigma": 0.01},
        corners={"hot": {"converter": {"noise": 1.5}, "cell": {"read_sigma": 0.03}}, "typical": {}},
    )
    hot = macro.at("hot")
    assert hot.converter == Adc(bits=6, noise=1.5)
    assert hot.cell == Cell(errors=(GaussianCell(sigma=0.1),), read_sigma=0.03)
    assert hot.name == "simple @ hot"
    assert macro.at("typical").model_copy(update={"name": "simple"}) == macro.model_copy(update={"corners": {}})
    with pytest.raises(ValueError, match="macro simple has no corner 'cold'; it has: hot, typical"):
        macro.at("cold")
    with pytest.raises(ValueError, match="it has: none"):
        simple().at("hot")


def test_causes_are_taken_out_one_by_one():
    macro = base(
        "all",
        cell=Cell(g_min=1e-6, g_max=9e-6, errors=(GaussianCell(sigma=0.1),), read_sigma=0.1),
        column=CurveColumn(mean=Compressive(compression=0.1), gain_sigma=0.1),
        converter=Adc(bits=5, noise=0.3),
    )
    assert causes(macro) == ["variation", "noise", "curve", "resolution", "clipping"]
    assert without(macro, "noise") == nominal(macro).model_copy(
        update={"cell": macro.cell.model_copy(update={"read_sigma": None}), "column": macro.column}
    )
    assert without(macro, "variation").cell.errors == ()
    assert without(macro, "variation").column.gain_sigma is None
    assert without(macro, "variation").column.mean == macro.column.mean
    assert causes(simple()) == []


# --------------------------------------------------------------------------------------------------------- placement


def layouts() -> list[Layout]:
    return [
        base("p", weights=weights, rows=rows, columns=columns).layout(k, n, g)
        for weights in (
            {"kind": "unsigned", "bits": 4, "cell_bits": 2},
            {"kind": "differential", "bits": 4},
            {"kind": "offset", "bits": 3},
        )
        for rows, columns in ((24, 13), (11, 37))
        for k, n, g in ((53, 6, 1), (9, 11, 3), (24, 1, 2))
    ]


@pytest.mark.parametrize("layout", layouts())
def test_addresses(layout):
    """No two weights share a cell, no two outputs a column (reference columns apart), all lie inside the arrays."""
    site = Site("layer")
    cells, columns = layout.cells_of(site), layout.columns_of(site)
    own = layout.legs - layout.reference
    for t, (_, count, _, _) in enumerate(layout.spans):
        on = cells[:, t, :count, :, :own]
        assert on.unique().numel() == on.numel()
    whole = torch.cat([cells[:, t, :count, :, :own].flatten() for t, (_, count, _, _) in enumerate(layout.spans)])
    assert (
        whole.unique().numel()
        == whole.numel()
        == layout.groups * layout.inputs * layout.outputs * layout.conversions * own
    )
    assert whole.max() < layout.arrays * layout.rows * layout.columns
    first = columns[:, :1, :, :own]
    assert first.unique().numel() == first.numel()
    assert columns.max() < layout.arrays * layout.columns
    if layout.reference:
        for block in range(layout.blocks):
            here = columns[:, :, :, -1, block * layout.per_array : (block + 1) * layout.per_array]
            assert (here == here[..., :1]).all()
    assert layout.utilisation <= 1
    spans = layout.spans
    assert spans[0][0] == 0
    assert all(a[0] + a[1] == b[0] for a, b in pairwise(spans))
    assert spans[-1][0] + spans[-1][1] == layout.inputs
    assert all(count <= layout.active_rows and row + count <= layout.rows for _, count, _, row in spans)


def test_scatter_and_gather():
    for layout in layouts():
        w = torch.arange(layout.groups * layout.outputs * layout.inputs, dtype=torch.float32)
        levels = w.view(1, 1, -1, layout.inputs).expand(layout.conversions, layout.legs, -1, -1).contiguous()
        cells = layout.scatter(levels)
        assert torch.equal(layout.gather(cells[:, :, :, -1, 0]), w.view(-1, layout.inputs))


def fabricated(site: Site, macro: Macro, chip: Chip = CHIP) -> torch.Tensor:
    return program(torch.zeros(5, 30), macro, chip, site).cells


def test_layers_share_silicon_only_where_arrays_are_reloaded():
    errors = ({"kind": "gaussian", "sigma": 0.1, "clock": "fabrication"},)
    macro = simple(cell={"errors": errors})
    assert not torch.equal(fabricated(Site("a"), macro), fabricated(Site("b"), macro))
    few = simple(cell={"errors": errors}, placement=Reload(arrays=2))
    a, b, c = (fabricated(Site(name, first, 2), few) for name, first in (("a", 0), ("b", 2), ("c", 1)))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_layers_of_a_network_share_silicon():
    from bitline.nn.convert import convert
    from bitline.nn.model import layers

    net = torch.nn.Sequential(torch.nn.Linear(60, 16), torch.nn.Linear(16, 3), torch.nn.Linear(3, 2))
    sites = {name: layer.site for name, layer in layers(convert(net, simple(placement=Reload(arrays=2)))).items()}
    assert [(site.first, site.pool) for site in sites.values()] == [(0, 2), (1, 2), (2, 2)]
    assert len({site.where for site in sites.values()}) == 1
    own = layers(convert(net, simple()))
    assert len({layer.site.where for layer in own.values()}) == 3


def test_a_reference_column_errs_for_the_whole_array():
    """Outputs of an array share the reference's error; another array has its own."""
    macro = simple(
        columns=21,
        inputs={"kind": "unsigned", "bits": 2, "digit_bits": 2},
        weights={"kind": "offset", "bits": 3, "cell_bits": 3},
        column={"kind": "curve", "offset_sigma": 1.0},
    )
    column = program(torch.zeros(40, 30), macro, CHIP, Site("layer"))
    assert column.layout.blocks == 2
    reference, own = column.spread.offset[0, 0, 0, 1], column.spread.offset[0, 0, 0, 0]
    assert (reference[:20] == reference[0]).all()
    assert (reference[20:] == reference[20]).all()
    assert reference[0] != reference[20]
    assert own.unique().numel() == 40
    y = mac(torch.zeros(1, 1, 30), column, Dense())[0, 0]
    assert torch.allclose(y, own - reference)


# ------------------------------------------------------------------------------------------------------------ clocks


def test_writing_again_keeps_mismatch():
    written = simple(cell={"errors": [{"kind": "gaussian", "sigma": 0.1}]})
    mismatch = simple(cell={"errors": [{"kind": "gaussian", "sigma": 0.1, "clock": "fabrication"}]})
    w = torch.ones(4, 30)
    one, two = (program(w, written, CHIP, Site("l"), n).cells for n in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([one[:, :, :30].flatten(), two[:, :, :30].flatten()]))[0, 1])) < 0.4
    assert torch.equal(*(program(w, mismatch, CHIP, Site("l"), n).cells for n in (0, 1)))
    other = torch.zeros(4, 30)
    errors = [program(v, mismatch, CHIP, Site("l")) for v in (w, other)]
    difference = errors[0].cells * errors[0].unit - errors[1].cells * errors[1].unit
    assert torch.allclose(difference[:, 0, :30], torch.ones(()), atol=2e-4)  # the same error whatever is stored


def test_ageing():
    macro = simple(cell=Cell(drift=PowerLawDrift(nu=0.1, t0=10.0)), column=CurveColumn(gain_sigma=0.1))
    column = program(torch.ones(2, 30), macro, CHIP, Site("l"))
    later = age(column, 1000.0)
    assert torch.allclose(later.weight, column.weight * 100**-0.1, rtol=1e-3)
    assert torch.allclose(later.cells[:, :, :30] * later.unit, torch.tensor(100**-0.1), rtol=1e-4)
    assert torch.equal(later.spread.gain, column.spread.gain)
    with pytest.raises(ValueError, match="before t0"):
        age(column, 1.0)
    with pytest.raises(ValueError, match=r"no drift law; describe cell\.drift"):
        age(program(torch.ones(2, 30), simple(), CHIP, Site("l")), 1000.0)


def test_gradient_passes_through_programming():
    macro = simple(cell={"errors": [{"kind": "lognormal", "sigma": 0.2}]}, column={"kind": "curve", "gain_sigma": 0.1})
    w = torch.ones(2, 30, requires_grad=True)
    column = program(w, macro, CHIP, Site("l"))
    column.weight.sum().backward()
    assert torch.equal(w.grad, torch.ones(2, 30))


# ------------------------------------------------------------------------------------------------------------ curves


@pytest.mark.parametrize(
    ("curve", "oracle"),
    [
        (Polynomial(coefficients=(1.0, 60.0, -5.0)), lambda u: 1 + 60 * u / 64 - 5 * (u / 64) ** 2),
        (Points(u=(0.0, 10.0, 64.0), value=(1.0, 9.0, 50.0)), lambda u: np.interp(u, [0, 10, 64], [1, 9, 50])),
        (Compressive(compression=0.2, dead_zone=1, width=2), lambda u: u * (1 - 0.2 * u / 64) - np.tanh(u / 2)),
        (Discharge(rate=0.01), lambda u: (1 - np.exp(-0.01 * u)) / 0.01),
    ],
)
def test_mean_curves(curve, oracle):
    column = program(torch.ones(1, 64), simple(column=CurveColumn(mean=curve)), CHIP, Site("l"))
    x = torch.tril(torch.ones(65, 64), -1)[:, None]
    assert np.allclose(mac(x, column, Dense())[:, 0, 0].numpy(), oracle(np.arange(65.0)), atol=1e-4)


def test_curves_are_mirrored_for_negative_sums():
    lookup = Lookup.of(Compressive(compression=0.2), 64.0, True, False, torch.device("cpu"))
    u = torch.linspace(-70, 70, 400)
    assert torch.allclose(lookup.at(*lookup.place(u.clone())), -lookup.at(*lookup.place(-u)), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "points", "u": [0, 1], "value": [1]}, "2 sums but 1 values"),
        ({"kind": "points", "u": [0, 0], "value": [1, 2]}, "sums must rise"),
        ({"kind": "line"}, "'polynomial', 'points', 'compressive', 'discharge'"),
    ],
)
def test_bad_curves(config, message):
    with pytest.raises(ValidationError, match=message):
        simple(column={"kind": "curve", "mean": config})


def test_read_noise_follows_its_curve():
    sigma = Polynomial(coefficients=(0.5, 2.0))
    column = program(torch.ones(16, 64), simple(column=CurveColumn(sigma=sigma)), CHIP, Site("l"))
    x = torch.tril(torch.ones(65, 64), -1)[[0, 16, 64]][:, None].repeat(2000, 1, 1)
    y = mac(x, column, Dense(), Reads(0, CHIP, 0, torch.arange(6000)).keys("l"))
    error = (y.view(2000, 3, 16) - torch.tensor([0.0, 16, 64])[:, None]).permute(1, 0, 2).flatten(1)
    assert torch.allclose(error.std(1).float(), torch.tensor([0.5, 1.0, 2.5]), rtol=0.02)


# -------------------------------------------------------------------------------------------------------------- trim


def after_trim(**settings: Any) -> tuple[float, float]:
    """(spread of gains, spread of offsets in counts) left over 4000 columns."""
    macro = simple(
        columns=4000,
        column={
            "kind": "curve",
            "gain_sigma": 0.03,
            "offset_sigma": 1.0,
            "sigma": {"kind": "polynomial", "coefficients": [2.0]},
        },
        trim=settings or None,
    )
    spread = program(torch.zeros(4000, 64), macro, CHIP, Site("l")).spread
    return float(spread.gain.std()), float(spread.offset.std())


def test_trim_takes_out_the_spread():
    gain, offset = after_trim()
    assert (gain, offset) == (pytest.approx(0.03, rel=0.05), pytest.approx(1.0, rel=0.05))
    wide = {"gain_range": 0.15, "offset_range": 5.0}
    few, many = (after_trim(reads=n, gain_bits=10, offset_bits=10, **wide) for n in (16, 1024))
    coarse, fine = (after_trim(reads=1024, gain_bits=bits, offset_bits=bits, **wide) for bits in (3, 6))
    assert gain / 2 > few[0] > many[0]
    assert offset > few[1] > many[1]
    assert coarse[0] > fine[0] > many[0]
    assert coarse[1] > fine[1] > many[1]
    # 16 reads of sigma 2 at two sums 48 apart leave sqrt(2)·2/4/48 of gain
    assert few[0] == pytest.approx(2**0.5 * 0.5 / 48, rel=0.1)


def test_trim_through_a_curve_and_a_converter():
    """A converter without noise is off by its rounding however often it is read; noise is averaged out, and dithers."""
    spread = CurveColumn(mean=Compressive(compression=0.2), gain_sigma=0.03, offset_sigma=1.0)
    noisy = spread.model_copy(update={"sigma": Polynomial(coefficients=(1.0,))})
    trim = ColumnTrim(reads=400, gain_bits=10, offset_bits=10, gain_range=0.2, offset_range=6.0)
    left = []
    for column, setting in ((spread, None), (spread, trim), (noisy, trim)):
        macro = base("t", columns=2000, column=column, converter=Adc(bits=9), trim=setting)
        found = program(torch.zeros(500, 10), macro, CHIP, Site("l")).spread
        left.append((float(found.gain.std()), float(found.offset.std())))
    for before, rounded, dithered in zip(*left, strict=True):
        assert before > 2 * rounded > 4 * dithered


def test_trim_refuses_a_curve_that_falls():
    falling = CurveColumn(mean=Polynomial(coefficients=(0, 40.0, -60.0)), gain_sigma=0.1)
    with pytest.raises(ValueError, match="rises everywhere"):
        program(torch.zeros(1, 5), simple(column=falling, trim={}), CHIP, Site("l"))


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_is_written_a_line_a_row() -> None:
    p = table(91, 2.0, 3)[..., :90]
    p /= p.sum(-1, keepdims=True)
    column = TableColumn(probability=np.concatenate([p, np.zeros((*p.shape[:2], 2))], 2), per="column")
    written = column.model_dump(mode="json")["probability"]
    assert (written["codes"], len(written["rows"])) == (92, 3)
    assert all(isinstance(row, str) for row in written["rows"][0])
    again = TableColumn.model_validate({"per": "column", "probability": written})
    assert np.array_equal(again.probability, column.probability)
    assert np.array_equal(TableColumn(probability={"codes": 2, "rows": ["0: 1", "1: 1"]}).probability[0], np.eye(2))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            {"codes": 4, "rows": ["0: 1", "3: 0.5 0.5"]},
            "ideal code 1: codes 3 … 4 of '3: 0.5 0.5' are not all in 0 … 3",
        ),
        ({"codes": 4, "rows": ["0 1"]}, "'0 1' is no row; write the first code read, a colon"),
        ({"codes": 4, "rows": [["0: 1"], ["0: 1", "1: 1"]]}, "tables differ in ideal codes"),
        ({"codes": 4}, "has `codes`, a number, and `rows`"),
        ({"codes": 4, "rows": ["0: 0.5"]}, "probabilities of ideal code 0 sum to 0.5, not 1"),
    ],
)
def test_a_wrongly_written_table_is_told(written: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        TableColumn(probability=written)


def walker(whole: np.ndarray, bits: int) -> list[int]:
    """Words of one row, a bin at a time: the one with the least is filled up from the one with the most."""
    bins = 1 << bits
    left, words, room = [int(n) for n in whole] + [0] * (bins - len(whole)), [0] * bins, (1 << 32) // bins
    still = list(range(bins))
    while still:
        low, high = min(still, key=lambda b: left[b]), max(still, key=lambda b: left[b])
        own = min(left[low], room)
        words[low] = low if own == room else own << bits | high
        left[high] -= room - own
        still.remove(low)
    return words


@pytest.mark.parametrize("codes", [1, 2, 11, 64, 90])
def test_alias_tables_hold_the_probabilities_to_two_to_the_minus_32(codes: int) -> None:
    generator = np.random.default_rng(codes)
    dense = generator.dirichlet(np.full(codes, 0.5), (2, 9))
    sparse = np.where(generator.random((2, 9, codes)) < 0.1, dense, 0)
    sparse[..., :1] += sparse.sum(2, keepdims=True) == 0
    tables = np.concatenate([dense, sparse / sparse.sum(2, keepdims=True), np.eye(codes)[None, np.arange(9) % codes]])
    words = aliases(tables).view(np.uint32).astype(np.int64)
    bits = words.shape[1].bit_length() - 1
    own, alias = np.broadcast_to(np.arange(words.shape[1]), words.shape), words & (1 << bits) - 1
    held = np.zeros(words.shape, dtype=np.int64)
    row = np.arange(len(words))[:, None]
    np.add.at(held, (row, own), words >> bits)
    np.add.at(held, (row, alias), (1 << 32 - bits) - (words >> bits))
    share = tables.reshape(-1, codes) * 2.0**32
    assert not held[:, codes:].any()
    assert (np.abs(held[:, :codes] - share) < 1).all()
    assert (held.sum(1) == 1 << 32).all()
    assert words.tolist() == [walker(whole, bits) for whole in held[:, :codes]]  # seeds give the codes they always gave


def test_what_is_worked_out_from_a_table_is_shared_by_columns_dies_and_copies() -> None:
    m = simple(column=TableColumn(probability=table(17, 1.0, 5), per="column", step=4.0))
    again = copy.deepcopy(m)
    laws = [
        program(torch.ones(8, 64), macro, Chip(0, number), Site(name)).law
        for macro, number, name in ((m, 0, "a"), (m, 1, "a"), (again, 0, "b"))
    ]
    assert len({law.words.data_ptr() for law in laws if law is not None}) == 1
    other = m.column.model_copy(update={"probability": table(17, 2.0, 5)})
    assert not np.array_equal(other.mean, m.column.mean)
    changed = m.model_copy(update={"column": other})
    assert changed.fingerprint == Macro.model_validate(changed.dump()).fingerprint != m.fingerprint
    assert m == again
    assert m == Macro.model_validate(m.dump())
    assert m != changed


def drawn(probability: np.ndarray, reads: int = 20_000) -> np.ndarray:
    """Counts (ideal code, code) of a pooled table, each ideal code read ``reads`` times."""
    codes = len(probability)
    macro = simple(rows=codes - 1, column=TableColumn(probability=probability))
    column = program(torch.ones(8, codes - 1), macro, CHIP, Site("l"))
    x = torch.tril(torch.ones(codes, codes - 1), -1)[:, None].repeat(reads // 8, 1, 1)
    y = mac(x, column, Dense(), Reads(0, CHIP, 0, torch.arange(len(x))).keys("l"))
    seen = y.view(-1, codes, 8).permute(1, 0, 2).flatten(1).long().numpy()
    return np.stack([np.bincount(row, minlength=codes) for row in seen])


def p_values(counts: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Holm-corrected p of each row's chi-square; rare codes are pooled."""
    found = []
    for seen, p in zip(counts, probability, strict=True):
        expected = p * seen.sum()
        rare = expected < 8
        assert not seen[p == 0].any()
        observed, wanted = np.r_[seen[~rare], seen[rare].sum()], np.r_[expected[~rare], expected[rare].sum()]
        kept = wanted > 0
        found.append(stats.chisquare(observed[kept], wanted[kept]).pvalue if kept.sum() > 1 else 1.0)
    order = np.sort(found)
    return np.maximum.accumulate(np.minimum(1, order * np.arange(len(order), 0, -1)))


def test_codes_follow_the_table():
    """A2.2: chi-square of each row, Holm-corrected, and a planted error of 2 % is caught."""
    probability = table(24, 2.5)[0]
    counts = drawn(probability)
    assert (counts.sum(1) == 20_000).all()
    assert p_values(counts, probability).min() > 0.01
    shifted = probability.copy()
    shifted[10] = 0.98 * probability[10] + 0.02 * np.eye(24)[16]
    assert p_values(drawn(shifted), probability).min() < 1e-6


def test_certain_and_uncertain_rows():
    p = np.eye(16)
    p[3], p[5] = 1 / 16, 0
    p[5, [0, 15]] = 0.25, 0.75
    counts = drawn(p, 16_000)
    assert (np.delete(counts, (3, 5), axis=0) == 16_000 * np.delete(np.eye(16), (3, 5), axis=0)).all()
    assert counts[5, 0] + counts[5, 15] == 16_000
    assert counts[5, 0] == pytest.approx(4000, abs=4 * (16_000 * 3 / 16) ** 0.5)


@pytest.mark.parametrize("codes", [2, 5, 64, 65])
def test_identity_table_is_ideal(codes):
    assert np.array_equal(drawn(np.eye(codes), 80), 80 * np.eye(codes, dtype=int))


def test_tables_by_column():
    shift = np.stack([np.roll(np.eye(33), k, axis=1) for k in range(4)])
    macro = simple(rows=32, columns=400, column=TableColumn(probability=shift, per="column"))
    x = torch.ones(2, 1, 16)

    def codes(design: Macro, chip: Chip) -> torch.Tensor:
        y = mac(
            x,
            program(torch.ones(400, 16), design, chip, Site("l")),
            Dense(),
            Reads(0, chip, 0, torch.arange(2)).keys("l"),
        )
        assert torch.equal(y[0], y[1])  # frozen: which column it is
        return y[0, 0] - 16

    first, second = (codes(macro, Chip(0, i)) for i in (0, 1))
    assert not torch.equal(first, second)
    assert torch.bincount(first.long(), minlength=4).min() > 60
    itself = macro.model_copy(update={"column": TableColumn(probability=shift, per="column", assign="physical")})
    for chip in (Chip(0, 0), Chip(0, 1)):
        assert torch.equal(codes(itself, chip), torch.arange(400.0) % 4)


def test_reads_of_a_pooled_table_are_independent():
    p = np.full((2, 2), 0.5)
    macro = simple(rows=1, column=TableColumn(probability=p))
    column = program(torch.ones(13, 1), macro, CHIP, Site("l"))
    reads = Reads(0, CHIP, 0, torch.arange(3000)).keys("l")
    y = mac(torch.ones(3000, 2, 1), column, Dense(), reads).flatten(1).numpy()
    off = np.corrcoef(y.T) - np.eye(26)
    assert np.abs(off).max() < 4.5 / 3000**0.5


# ------------------------------------------------------------------------------------------------------- fresh noise


def noise(
    macro: Macro, chip: Chip = CHIP, layer: str = "l", read: int = 0, call: int = 0, plan: str = "reference"
) -> np.ndarray:
    column = program(torch.ones(7, 30), macro, chip, Site(layer))
    x = torch.ones(400, 3, 30)
    y = mac(
        x,
        column,
        Dense(),
        Reads(0, chip, read, torch.arange(400)).keys(layer, call),
        _converters(macro),
        plan=Plan(plan),
    )
    return (y - y.mean()).flatten(1).numpy().astype(np.float64)


def _converters(macro: Macro) -> Converters | None:
    if macro.converter is None:
        return None
    low, step = macro.converter.range.start(macro.converter, *macro.value_range)
    return Converters(torch.tensor(low), torch.tensor(step))


@pytest.mark.parametrize("plan", ["folded", "reference"])
def test_noise_is_independent_of_position_sample_read_layer_and_chip(plan):
    macro = simple(cell={"read_sigma": 0.1})
    base_noise = noise(macro, plan=plan)
    assert base_noise.std() == pytest.approx(0.1 * 30**0.5, rel=0.02)
    assert np.abs(np.corrcoef(base_noise.T) - np.eye(21)).max() < 4.5 / 400**0.5
    assert np.abs(np.corrcoef(base_noise) - np.eye(400)).max() < 0.95
    others = [
        noise(macro, read=1, plan=plan),
        noise(macro, layer="m", plan=plan),
        noise(macro, call=1, plan=plan),
        noise(macro, chip=Chip(0, 1), plan=plan),
    ]
    for other in others:
        assert abs(np.corrcoef(base_noise.flatten(), other.flatten())[0, 1]) < 4.5 / base_noise.size**0.5


def test_memory_of_a_chunk_is_bounded(monkeypatch):
    """No call of the reference plan's reader sees more conversions than ``CHUNK``, where one position fits."""
    from bitline.macro import reference
    from bitline.macro.conversion import Reader

    seen = []
    original = Reader.read

    def spy(self: Any, found: Any, m: int, keys: Any) -> Any:
        layout = self.column.layout
        seen.append(len(self.passes) * m * layout.groups * layout.conversions * layout.outputs)
        return original(self, found, m, keys)

    monkeypatch.setattr(Reader, "read", spy)
    monkeypatch.setattr(reference, "CHUNK", 500)
    macro = base("m", converter=Adc(bits=7))
    column = program(torch.ones(6, 53), macro, CHIP, Site("l"))
    mac(torch.ones(40, 9, 53), column, Dense(), None, _converters(macro), plan=Plan("reference"))
    assert max(seen) <= 500
    assert len(seen) > 1


def test_gathering_and_convolving_give_the_same_sums(monkeypatch):
    """Few tiles of a 2-d convolution are read by one convolution: bit for bit what gathering gives."""
    from bitline.macro import Conv, sums

    macro = base("m", cell=Cell(errors=(GaussianCell(sigma=0.05),)), converter=Adc(bits=7, noise=0.4))
    geometry = Conv((3, 3), (2, 1), (1, 2), 1)
    x = torch.randint(0, macro.inputs.high + 1, (5, 3, 9, 11)).float()
    column = program(torch.randint(0, macro.weights.high + 1, (6, 27)).float(), macro, CHIP, Site("l"))
    keys = Reads(0, CHIP, 0, torch.arange(5)).keys("l")
    assert column.layout.reads <= sums.MOST_TILES
    one = mac(x, column, geometry, keys, _converters(macro))
    monkeypatch.setattr(sums, "MOST_TILES", 0)
    assert torch.equal(one, mac(x, column, geometry, keys, _converters(macro)))


def test_arrays_written_for_two_layers_are_written_twice():
    """Layers that share arrays share the die's mismatch, not the errors of each programming."""
    weights = torch.full((4, 6), 5.0)

    def cells(clock: str, name: str) -> torch.Tensor:
        macro = base("m", placement=Reload(arrays=1), cell=Cell(errors=(GaussianCell(sigma=0.1, clock=clock),)))
        return program(weights, macro, CHIP, Site(name, 0, 1)).cells

    assert torch.equal(cells("fabrication", "a"), cells("fabrication", "b"))
    assert not torch.equal(cells("programming", "a"), cells("programming", "b"))


def test_a_bipolar_row_that_is_off_drives_nothing():
    macro = base(
        "m",
        inputs=BipolarInput(bits=3, digit_bits=2),
        driver=Driver(inl=(0.0, 0.7, 0.0), inl_sigma=0.3),
        converter=None,
    )
    column = program(torch.ones(3, 7), macro, CHIP, Site("l"))
    assert not mac(torch.zeros(2, 1, 7), column, Dense()).any()


def test_an_aged_column_is_not_aged_again():
    macro = base("m", cell=Cell(drift=PowerLawDrift(nu=0.1, t0=1.0)))
    aged = age(program(torch.ones(3, 7), macro, CHIP, Site("l")), 100.0)
    with pytest.raises(ValueError, match="100 s old already"):
        age(aged, 200.0)
