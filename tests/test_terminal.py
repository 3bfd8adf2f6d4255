"""Tables for the terminal at 80 columns: heads, words and figures are whole, on networks that people have."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from bitline import convert, presets
from bitline.compensate import CorrectNet, attach
from bitline.cost import Cost, SideCost, Technology, cost, side_costs
from bitline.evaluate import Priorities
from bitline.evaluate.budget import LayerCurvature
from bitline.evaluate.hardened import Attempt, Hardened, Step
from bitline.evaluate.result import Row
from bitline.networks import LeNet5, ResNet
from bitline.nn import calibrate, input_ranges, mapping, walk
from bitline.place import Budget, Directions, Placed
from bitline.place.directions import LayerDirections
from bitline.place.result import Tried
from bitline.place.space import Candidate, Share, Space
from bitline.report.costs import cost_tables, overheads_table
from bitline.report.hardening import hardened_tables
from bitline.report.placement import directions_table, placement_table
from bitline.report.search import search_table, setting_table
from bitline.report.tables import (
    facts_table,
    mapping_table,
    priorities_table,
    ranges_table,
    summary_table,
    verification_tables,
)
from bitline.report.terminal import Table
from bitline.search import Candidate as Found
from bitline.search import Searched, Setting
from bitline.search import Space as SearchSpace
from test_report import sample, verified

LAYERS = [f"layers.{i}.{j}.conv{k}" for i in range(3) for j in range(2) for k in (1, 2)] + ["layers.1.0.shortcut.0"]
LAWS = ("Murmann's survey, median", "SAR, 100 fJ · b + 1 aJ · 4^b", "Walden, 1 fJ a step",
        "Schreier, 185 dB (a lower bound below 10 bits)")  # fmt: skip
TECHNOLOGY = Technology.model_validate(
    {
        "name": "mine",
        "cycle": "25 ns",
        "adc": ["murmann", "sar", "walden", "schreier"],
        "driver": {"volts": 0.9},
        "digital": {},
        "buffer": {},
    }
)
X = torch.rand(1, 3, 32, 32)


def row(method: str, macro: str = "generic-rram-128-dac4") -> Row:
    told = {"mean": 91.42, "ci95": (90.88, 91.97), "p5": 90.1, "worst": 89.75, "chips": 20, "images": 1000}
    return Row(method=method, macro=macro, per_chip=(91.42,) * 20, target=90.0, yield_=100.0, **told)


@cache
def resnet() -> nn.Module:
    """A ResNet20 on an array, its first and last layers digital, with side paths beside the others."""
    model = convert(ResNet(depth=20).build().eval(), presets.load("generic-rram-128"), skip=["conv1", "fc"])
    walk(model, [X])
    return model


@cache
def costs() -> tuple[Cost, tuple[SideCost, ...]]:
    model = attach(resnet(), CorrectNet())
    return cost(model, X, TECHNOLOGY), side_costs(model, X, TECHNOLOGY)


def placed() -> Placed:
    share = Share(parameters=0.0123, macs=0.1042, energy=0.0871)
    candidates = tuple(
        Candidate(layer=name, depth=0, channels=(16, 16), positions=1024, lost=0.1, costs=(share, share))
        for name in LAYERS
    )
    space = Space(candidates=candidates, widths=(0.125, 0.25), original=0.92)
    at = [{}, {LAYERS[0]: 0.125}, {LAYERS[1]: 0.25, LAYERS[2]: 0.125}, dict.fromkeys(LAYERS, 0.25)]
    tried = [Tried(at=one, accuracies=(81.25, 83.5), overhead=share, within=len(one) < 9, reward=0.8) for one in at]
    return Placed(space=space, searcher={"kind": "reinforce"}, tried=tuple(tried), best=tried[2], method=None)


def directions() -> Directions:
    rows = [
        LayerDirections(layer=name, channels=64, felt=0.01234, directions=16, seen=9, left=0.421, used=0.0031)
        for name in LAYERS
    ]
    return Directions(budget=Budget(of="macs"), layers=tuple(rows))


def searched() -> Searched:
    own = Setting.model_validate({"input_bits": 8, "adc_bits": 8, "cell_bits": 3, "adc_range": {"kind": "full"}})
    span = {"kind": "calibrated", "rule": "percentile", "percentile": 99.5}
    less = Setting.model_validate(own.model_dump() | {"adc_bits": 4, "adc_range": span})
    names = {"as it is": own, "finals 12": less, "in 6 cell 3 ADC 5 mse everywhere": less}
    found = [
        Found.model_construct(
            name=name,
            settings=dict.fromkeys(LAYERS, one),
            adc=dict.fromkeys(LAWS, 1.0 / len(name)),
            screened=row(name),
            tested=row(name),
        )
        for name, one in names.items()
    ]
    choices = {"input_bits": (8,), "cell_bits": (3,), "adc_bits": (4,), "adc_range": (own.adc_range,)}
    space = SearchSpace.model_construct(price="adc", **choices)
    return Searched.model_construct(how="trained for it, 200 steps", laws=LAWS, space=space, candidates=tuple(found))


def hardened() -> Hardened:
    overhead = costs()[1][-1]
    energy = dict.fromkeys(LAWS, 2.0)
    path = "error-aware, suppressed, beta 0.01, then compensated (generator and compensator, width 0.25)"
    one = Attempt(name=path, row=row(path), steps=12000, overhead=overhead, energy=energy)
    steps = (
        Step(name="measure", told="as it is", attempts=(one,), kept=one, holds=False),
        Step(name="compensate", told="left out: a layer has room for one side path", holds=False),
        Step(name="per chip", told="patched", attempts=(one, one), kept=one, holds=True),
    )
    rows = tuple(map(row, ("float", "as converted", path)))
    untouched = dict(zip(LAWS, (1.0, 1.5, 3.0, 9.0), strict=True))
    return Hardened(
        title="ResNet20 on CIFAR-10", macro="m", target=0.95, by="mean", original=92, steps=steps, verified=rows,
        untouched=untouched,
    )  # fmt: skip


def priorities() -> Priorities:
    rows = [
        LayerCurvature(
            layer=name, weights=36864, trace=1.2e4, trace_error=512.3, gauss_newton=1.17e4, error=0.101,
            rise=1.23e-5, verify=0.0831, bits=4,
        )
        for name in LAYERS
    ]  # fmt: skip
    return Priorities(macro="generic-rram-128", samples=512, probes=8, share=0.1, mean_bits=4, layers=tuple(rows))


def ranges() -> Iterable[Any]:
    model = convert(LeNet5().build().eval(), presets.load("generic-rram-128"))
    return input_ranges(calibrate(model, [X[:, :1, :28, :28]], 1), [X[:, :1, :28, :28]])


TABLES: dict[str, Callable[[], Iterable[Any]]] = {
    "summary": lambda: [summary_table(sample())],
    "summary of conditions": lambda: [
        summary_table(
            sample().model_copy(
                update={
                    "rows": (
                        row("error-aware, compensated (width 0.25)", "rram-a-128"),
                        row("qat").model_copy(update={"condition": "hot"}),
                    )
                }
            )
        )
    ],
    "verification": lambda: verification_tables(verified()),
    "priorities": lambda: [priorities_table(priorities())],
    "mapping": lambda: [mapping_table(mapping(resnet()))],
    "mapping by hand": lambda: [mapping_table(sample(layer="layers.0.{}.conv1").mapping)],
    "ranges": lambda: [ranges_table(ranges())],
    "cost": lambda: cost_tables(costs()[0], "generic-rram-128"),
    "overheads": lambda: [overheads_table(costs()[1])],
    "placement": lambda: [placement_table(placed())],
    "directions": lambda: [directions_table(directions())],
    "search": lambda: [search_table(searched()), setting_table(searched(), searched().tested[1])],
    "harden": lambda: hardened_tables(hardened()),
    **{f"facts of {name}": lambda name=name: [facts_table(presets.load(name))] for name in presets.names()},
}


def lines(table: Any, width: int = 80) -> list[str]:
    """The table without the lines between its columns."""
    return [re.sub(r"[┃│━─┏┓┳┡╇┩└┴┘┌┐┬]", " ", line) for line in drawn(table, width)]


def drawn(table: Any, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text().splitlines()


def words(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in text.split())


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_whole_at_80_columns(name: str) -> None:
    for table in TABLES[name]():
        found = lines(table)
        assert max(map(len, found)) <= 80
        cells = [str(cell) for column in table.columns for cell in column.cells]
        heads = [str(column.header) for column in table.columns] if table.show_header else []
        expected = words([str(table.title or ""), *heads, *cells, str(table.caption or "")])
        assert words(found) == expected
        for column in table.columns:  # a figure stays on its line
            if column.justify == "right":
                for cell in column.cells:
                    assert all(any(part in line for line in found) for part in str(cell).splitlines())


def test_presets_are_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitline.cli import catalogue

    told: list[Any] = []
    monkeypatch.setattr(catalogue.console, "print", told.append)
    catalogue.presets()
    found = lines(told[0])
    assert max(map(len, found)) <= 80
    for name in presets.names():
        assert sum(line.split()[0:1] == [name] for line in found) == 1  # a line each


def test_what_cannot_be_whole_is_folded_and_nothing_is_cut() -> None:
    table = Table("names")
    table.words("layer", "a long head of words")
    table.figures("a figure")
    table.add_row("a" * 60, "b" * 30, "1.25 … 7.5")
    found = lines(table, 50)
    assert max(map(len, found)) <= 50
    letters = Counter("".join(found)) - Counter("names layer a long head of words a figure")
    assert (letters["a"], letters["b"]) == (60, 30)
    assert any("1.25 … 7.5" in line for line in found)
    narrow = lines(table, 12)
    assert max(map(len, narrow)) <= 12


def test_a_table_has_lines_where_there_is_room() -> None:
    table = Table("names")
    table.words("layer")
    table.figures("a figure")
    table.add_row("conv1", "1.25 … 7.5")
    assert "┃" in "".join(drawn(table, 80))
    assert "│" not in "".join(drawn(mapping_table(mapping(resnet())), 80))
