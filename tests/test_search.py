"""The search of bits layer by layer: choices, surrogate, fronts, and searches that were killed."""

from __future__ import annotations

import csv
import itertools
import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import bitline as bl
from bitline.cost import Sar, Technology, Walden, adc_saving, cost
from bitline.encode import TwosComplementInput
from bitline.evaluate import over_chips
from bitline.macro import Macro
from bitline.nn import layers, moved
from bitline.report.charts import Axis
from bitline.report.search import _decades, search_picture, search_table, setting_table, write_search_csv
from bitline.search import Goal, Searched, Setting, Space, search
from bitline.search import screen as screening
from bitline.search.fronts import beats, front, greedy, spread
from bitline.search.options import options
from bitline.search.setting import key, uniform
from bitline.search.surrogate import fit, rise
from bitline.search.trials import added, tried

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(192, 12, generator=DRAW)
Y = (X @ torch.randn(12, 4, generator=DRAW)).argmax(1)
TRAIN = [(X[i : i + 32], Y[i : i + 32]) for i in (0, 32, 64, 96)]
TEST = [(X[128:], Y[128:])]
LAWS = Technology(name="two laws", cycle="20 ns", adc=(Walden(), Sar()))
SPACE = Space(
    adc_bits=(3, 6),
    input_bits=(2, 4),
    chips=2,
    images=64,
    trials=20,
    rounds=1,
    screened=4,
    finals=2,
    refined=1,
    window=40,
)
ALL: Any = {"chips": 2, "goal": Goal(lose=2), "technology": LAWS}


def macro(**changes: Any) -> Macro:
    config = {
        "name": "small",
        "rows": 32,
        "columns": 32,
        "inputs": {"kind": "twos_complement", "bits": 4},
        "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
        "cell": {"errors": [{"kind": "gaussian", "sigma": 0.04}]},
        "converter": {"bits": 6, "range": "calibrated"},
    }
    return Macro.model_validate(config | changes)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(20):
        for x, y in TRAIN:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return bl.calibrate(bl.convert(network(), macro()), TRAIN).eval()


@pytest.fixture(scope="module")
def found(model: nn.Module) -> Searched:
    return search(model, TRAIN, TEST, SPACE, **ALL)


# ------------------------------------------------------------------------------------------------------------- choices


def test_a_setting_is_laid_over_a_macro() -> None:
    setting = Setting.model_validate(
        {"input_bits": 3, "weight_bits": 3, "adc_bits": 5, "adc_range": {"kind": "calibrated", "rule": "percentile"}}
    )
    design = setting.on(macro(), "fc")
    assert (design.inputs.bits, design.weights.bits, design.converter.bits) == (3, 3, 5)  # type: ignore[union-attr]
    assert design.converter.range.rule == "percentile"  # type: ignore[union-attr]
    assert (design.cell, design.weights.cell_bits, design.name) == (macro().cell, 3, "small, fc")  # type: ignore[union-attr]
    assert setting.title == "in 3 w 3 ADC 5 percentile 99.9"
    assert Setting.of(design, setting.knobs) == setting
    own = macro()
    assert Setting.of(own, ("input_bits", "adc_bits")).on(own, "fc") is own


def test_inputs_driven_at_once_stay_so() -> None:
    at_once = macro(inputs={"kind": "unsigned", "bits": 4, "digit_bits": 4})
    assert Setting(input_bits=6).on(at_once, "fc").inputs.digit_bits == 6  # type: ignore[union-attr]
    serial = Setting(input_bits=6).on(macro(), "fc").inputs
    assert serial == TwosComplementInput(bits=6)


def test_a_space_needs_choices_that_differ() -> None:
    with pytest.raises(ValidationError, match="give one or more of input_bits, weight_bits"):
        Space()
    with pytest.raises(ValidationError, match="adc_bits has a choice twice: 4, 4"):
        Space(adc_bits=(4, 4))
    assert Space.model_validate({"adc_bits": 5, "adc_range": ["calibrated", "full"]}).knobs == ("adc_bits", "adc_range")
    assert len(list(SPACE.settings())) == 4


def test_what_a_macro_lacks_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="adc_bits cannot be chosen: macro bare has no `converter`"):
        Setting.of(Macro(name="bare", rows=4, columns=4), ("adc_bits",))


def test_what_is_refused_is_left_out_and_told(model: nn.Module) -> None:
    """Two bits of weight and one of input are no differential pair and no input; the survey begins at four bits."""
    space = Space(weight_bits=(1, 4), adc_bits=(3, 4))
    some = options(model, X[:1], space, Technology.load("horowitz-45nm"))
    assert {name: [one.setting.title for one in each] for name, each in some.layers.items()} == {
        name: ["w 4 ADC 4"] for name in ("0", "2")
    }
    assert "greater than or equal to 2" in some.skipped["0: w 1 ADC 4"]
    assert "3 bits; the ADC energy model Murmann's survey, median holds from 4 to 16" in some.skipped["0: w 4 ADC 3"]
    with pytest.raises(ValueError, match=r"0: none of the choices is possible on macro small: .*holds from 4"):
        options(model, X[:1], Space(adc_bits=(2, 3)), Technology.load("horowitz-45nm"))


def test_energies_are_those_of_the_cost(model: nn.Module) -> None:
    technology = Technology.load("horowitz-45nm")
    some = options(model, X[:1], Space(adc_bits=(4, 5), input_bits=(2, 4)), technology)
    settings = {"0": Setting(input_bits=2, adc_bits=5), "2": some.own["2"].setting}
    priced = cost(moved(model, some.macros(settings)), X[:1], technology)
    for law, estimate in zip(some.laws, priced.estimates, strict=True):
        assert some.adc(settings)[law] == pytest.approx(estimate.energy.adc, rel=1e-12)
        assert some.total(settings)[law] == pytest.approx(estimate.energy.total, rel=1e-12)
    bits = dict.fromkeys(settings, 4)
    same = {layer: one.setting.model_copy(update={"adc_bits": 4}) for layer, one in some.own.items()}
    saving = adc_saving(cost(model, X[:1], technology).layers, bits, 6, technology.adc, technology.cycle)
    assert [some.adc(same)[law] for law in some.laws] == pytest.approx([one.joules for one in saving], rel=1e-12)


# ------------------------------------------------------------------------------------------------- fronts, surrogate


def test_a_front_is_what_none_beats() -> None:
    points = [tuple(pair) for pair in torch.randint(0, 9, (40, 2), generator=DRAW).tolist()]
    chosen = front(points)
    assert [points[i] for i in chosen] == sorted({p for p in points if not any(beats(q, p) for q in points)})


def toy(count: int = 4) -> list[list[tuple[float, float]]]:
    """Layers with options, cheapest first, of falling harm."""
    drawn = [torch.rand(2, 4, generator=DRAW).sort(1).values for _ in range(count)]
    return [[(float(c), float(h)) for c, h in zip(one[0], one[1].flip(0), strict=True)] for one in drawn]


def test_the_greedy_path_is_the_convex_hull() -> None:
    layers = toy()
    path = greedy(layers)
    everything = [added(layers, place) for place in itertools.product(range(4), repeat=4)]
    for price in torch.logspace(-3, 3, 60).tolist():
        best = min(harm + price * paid for paid, harm in everything)
        assert min(harm + price * paid for paid, harm in (added(layers, p) for p in path)) == pytest.approx(best)
    assert (path[0], path[-1]) == ((3, 3, 3, 3), (0, 0, 0, 0))


@pytest.mark.parametrize(("sampler", "trials"), [("nsga2", 400), ("tpe", 40)])
def test_optuna_finds_what_the_greedy_path_leaves_out(sampler: Any, trials: int) -> None:
    layers = toy()
    start = greedy(layers)
    places = tried(layers, start, trials, sampler, 1)
    points = [added(layers, place) for place in places]
    assert front(points) == list(range(len(points)))
    assert all(any(p == added(layers, s) or beats(p, added(layers, s)) for p in points) for s in start)
    assert tried(layers, start, trials, sampler, 1) == places
    if sampler == "nsga2":
        assert len(places) > len(start)


def test_places_are_spread_evenly() -> None:
    assert spread(3, 5) == [0, 1, 2]
    assert spread(9, 3) == [0, 4, 8]
    assert spread(9, 1) == [4]
    assert spread(0, 3) == []


def test_the_surrogate_is_exact_where_losses_add_up() -> None:
    rises: Any = {
        name: {("adc_bits", 4): 0.3 + i, ("adc_bits", 5): 0.1, ("adc_bits", 6): 0.0} for i, name in enumerate("ab")
    }
    some = [
        dict(zip("ab", (Setting(adc_bits=b) for b in bits), strict=True))
        for bits in itertools.product((4, 5, 6), repeat=2)
    ]
    truth = [90 - 7 * rise(rises, one) for one in some]
    made = fit([(rise(rises, one), t) for one, t in zip(some, truth, strict=True)], 90.0, 50)
    assert [made(rise(rises, one)) for one in some] == pytest.approx(truth)
    assert made.residual == pytest.approx(0, abs=1e-9)
    assert made.rank == pytest.approx(1)
    assert rise(rises, {"a": Setting(adc_bits=7)}) == math.inf


def test_a_surrogate_without_measurements_says_so() -> None:
    assert fit([], 90.0, 10).model_dump() == {"accuracy": 90, "slope": 0, "settings": 0, "residual": None, "rank": None}
    far = fit([(0.1, 88.0), (0.2, 86.0), (0.3, 84.0), (9.0, 10.0)], 90.0, 10)
    assert (far.settings, far.slope) == (3, pytest.approx(20))


# -------------------------------------------------------------------------------------------------------------- search


def test_every_setting_is_there_with_its_energies(model: nn.Module, found: Searched) -> None:
    assert found.baseline.name == "as it is"
    assert found.baseline.settings == dict.fromkeys(("0", "2"), Setting(input_bits=4, adc_bits=6))
    same = [one for one in found.candidates if one.same]
    assert {uniform(one.settings) for one in same} == set(SPACE.settings())
    assert len({key(one.settings) for one in found.candidates}) == len(found.candidates) > len(same)
    assert len({one.name for one in found.candidates}) == len(found.candidates)
    some = options(model, X[:1], SPACE, LAWS)
    for one in found.candidates:
        assert one.adc == pytest.approx(some.adc(one.settings))
        assert one.screened.chips == 2
    assert {rise.choice for rise in found.rises} == {"in 2", "ADC 3"}
    assert all(one.tested.chips == 2 and one.tested.images == 64 for one in found.tested if one.tested)


@pytest.mark.parametrize("stage", ["tested", "screened"])
def test_no_setting_beats_the_front(found: Searched, stage: Any) -> None:
    for law in found.laws:
        line = found.front(law, stage)
        points = {
            one.name: (found.joules(one, law), -one.accuracy(stage)) for one in found.candidates if one.row(stage)
        }
        assert not any(beats(other, points[one.name]) for one in line for other in points.values())
        assert [points[one.name] for one in line] == sorted(points[one.name] for one in line)
        assert len(line) > 1


def test_the_cheapest_holds_its_accuracy(found: Searched) -> None:
    for law, by in itertools.product(found.laws, ("mean", "p5")):
        for at_least in (40.0, found.baseline.accuracy("tested", by) - 5):
            one = found.cheapest(at_least, law, by=by)
            good = [each for each in found.tested if each.accuracy("tested", by) >= at_least]
            assert one.accuracy("tested", by) >= at_least
            assert found.joules(one, law) == min(found.joules(each, law) for each in good)
    with pytest.raises(ValueError, match=r"no setting tested holds 100.5 % \(mean\): the best, .*, has "):
        found.cheapest(100.5)


def test_savings_are_told_against_the_baseline(found: Searched) -> None:
    law = "Walden, 1 fJ a step"
    one = next(one for one in found.candidates if uniform(one.settings) == Setting(input_bits=2, adc_bits=3))
    assert found.saved(found.baseline, law) == 0
    assert found.saved(one, law) == pytest.approx(1 - 0.5 * 2.0 ** (3 - 6))  # half the passes, three bits less
    assert found.saved(one, "wald") == found.saved(one, law)
    assert one.accuracy("screened", "p5") == one.screened.worst
    with pytest.raises(ValueError, match="no ADC law 'moore': the technology has Walden"):
        found.front("moore")


def test_mixed_settings_beat_uniform_ones(found: Searched) -> None:
    beaten, there = found.beaten(found.laws[0], "screened")
    assert there == 4
    assert 0 < beaten <= 4


def test_what_is_cheaper_than_the_same_bits_everywhere_is_tested_beside_them(found: Searched) -> None:
    mixed = [one for one in found.candidates if not one.same]
    for same in (one for one in found.tested if one.same):
        cheaper = [one for one in mixed if all(found.joules(one, law) < found.joules(same, law) for law in found.laws)]
        if cheaper:
            best = max(one.screened.mean for one in cheaper)
            assert any(one.tested for one in cheaper if one.screened.mean == best)
    assert sum(one.same for one in found.tested) > 1


def test_a_search_that_was_killed_ends_the_same(
    model: nn.Module, found: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], screening.measured

    def counted(*arguments: Any) -> Any:
        if len(asked) in stops:
            stops.discard(len(asked))
            raise KeyboardInterrupt
        asked.append(1)
        return real(*arguments)

    monkeypatch.setattr(screening, "measured", counted)
    stops = {3, 7, 10}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(model, TRAIN, TEST, SPACE, out=tmp_path, **ALL)
    with (tmp_path / "screened.jsonl").open("a") as file:
        file.write('{"key": "half of a li')
    again = search(model, TRAIN, TEST, SPACE, out=tmp_path, **ALL)
    assert again == found
    count = len(asked)
    assert search(model, TRAIN, TEST, SPACE, out=tmp_path, **ALL) == found
    assert len(asked) == count
    stops.add(count)  # other images are other measurements
    with pytest.raises(KeyboardInterrupt):
        search(model, TRAIN, TEST, SPACE.model_copy(update={"images": 32}), out=tmp_path, **ALL)


def test_weights_cells_and_ranges_are_searched_too() -> None:
    """What is chosen is what is measured: the cheapest setting, laid over the network by hand, has its accuracy."""
    few = {"chips": 2, "images": 64, "finals": 2, "rounds": 1, "trials": 10, "screened": 3, "window": 100}
    ranges = ["calibrated", {"kind": "calibrated", "rule": "percentile", "percentile": 99}]
    space = Space.model_validate({"weight_bits": (3, 4), "cell_bits": (1, 3), "adc_range": ranges} | few)
    base = macro(weights={"kind": "differential", "bits": 4, "cell_bits": 1})  # three cells a magnitude
    model = bl.calibrate(bl.convert(network(), base), TRAIN).eval()
    some = search(model, TRAIN, TEST, space, chips=2, technology=LAWS)
    assert {uniform(one.settings) for one in some.candidates if one.same} == set(space.settings())
    assert {rise.choice for rise in some.rises} >= {"w 3", "cell 3", "percentile 99"}
    one = some.cheapest(0.0, "walden")
    assert some.saved(one, "walden") == pytest.approx(2 / 3)
    for name, setting in one.settings.items():
        design = setting.on(base, name)
        assert Setting.of(design, setting.knobs) == setting
        assert design.weights is not None
        assert (design.weights.bits, design.weights.cell_bits) == (setting.weight_bits, setting.cell_bits)
    designs = {name: setting.on(base, name) for name, setting in one.settings.items()}
    placed = screening.placed(model, designs, [x for x, _ in TRAIN])
    assert one.adc == pytest.approx(options(model, X[:1], space, LAWS).adc(one.settings))
    assert one.tested is not None
    right = [trial.right for trial in over_chips(placed, lambda: [(*TEST[0], torch.arange(64))], 2)]
    assert one.tested.mean == pytest.approx(100 * float(torch.stack(right).double().mean()))


def test_a_network_may_be_trained_for_each_setting(model: nn.Module) -> None:
    wanted: list[dict[str, Setting]] = []

    def trained(settings: dict[str, Setting]) -> nn.Module:
        wanted.append(settings)
        return model

    few = Space(adc_bits=(4, 6), chips=1, images=32, finals=1, rounds=1, trials=4, screened=2, window=100)
    one = search(model, TRAIN, TEST, few, chips=1, trained=trained, technology=LAWS)
    assert sorted(map(key, wanted)) == sorted(key(each.settings) for each in one.tested)
    assert len({each.tested.mean for each in one.tested if each.tested}) == 1
    assert one.how == "trained for each setting"


def test_ranges_are_fitted_to_each_setting(model: nn.Module) -> None:
    own = layers(model)
    design = Setting(input_bits=6).on(own["0"].design, "0")  # converters meet sums of other digits in the same range
    here = layers(screening.placed(model, {"0": design}, [x for x, _ in TRAIN]))
    assert here["0"].design == design
    assert float(here["0"].converters.step) != float(own["0"].converters.step)  # type: ignore[union-attr]
    assert float(here["2"].converters.step) == float(own["2"].converters.step)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="macros for nine: the layers on a macro are 0, 2"):
        moved(model, {"nine": design})


def test_without_optuna_one_line_says_what_to_install(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ImportError, match=r"a search needs Optuna, which is not installed: pip install 'bitline\[search"
    ):
        bl.search(model, TRAIN, TEST, SPACE)


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ({"hold": 90, "lose": 1}, "both given"),
        ({"hold": 0.9}, "did you mean 90"),
        ({"hold": 120}, "0 … 100"),
        ({"lose": -1}, "0 or more"),
    ],
)
def test_a_goal_that_cannot_be_is_refused(goal: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Goal(**goal)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- reports


def test_what_was_found_is_written_and_read(found: Searched, tmp_path: Path) -> None:
    found.save(tmp_path / "search.json")
    assert Searched.load(tmp_path / "search.json") == found
    (tmp_path / "other.json").write_text('{"title": 3}')
    with pytest.raises(ValueError, match=r"other.json: .*expected a search.json written by Bitline"):
        Searched.load(tmp_path / "other.json")
    write_search_csv(found, tmp_path / "search.csv")
    rows = list(csv.DictReader((tmp_path / "search.csv").open()))
    assert [row["setting"] for row in rows] == [one.name for one in found.candidates]
    assert [float(row["ADC, J, Walden, 1 fJ a step"]) for row in rows] == [
        found.joules(one, "walden") for one in found.candidates
    ]
    assert [row["tested_mean"] != "" for row in rows] == [one.tested is not None for one in found.candidates]


@pytest.mark.parametrize("joules", [(4.3e-9, 4.9e-9), (4e-12,), (1.5e-12, 3e-12), (1e-12, 1e-6)])
def test_every_axis_of_energies_has_figures(joules: tuple[float, ...]) -> None:
    axis = Axis.around([math.log10(one) for one in joules])
    marks = _decades(axis)
    assert len(marks) >= 2
    assert all(axis.low <= math.log10(one) <= axis.high for one in marks)


def test_the_picture_shows_every_setting_tested(found: Searched) -> None:
    tree = ElementTree.fromstring(search_picture(found))
    shown = [one.text or "" for one in tree.iter("{http://www.w3.org/2000/svg}title")]
    for one in found.tested:
        assert sum(text.startswith(f"{one.name}: {one.accuracy('tested'):.2f} %") for text in shown) == len(found.laws)
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}polyline"))) == len(found.laws)
    for circle in tree.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.attrib["cx"]) < float(tree.attrib["width"])
        assert 0 < float(circle.attrib["cy"]) < float(tree.attrib["height"])


def test_tables_hold_what_was_tested(found: Searched) -> None:
    assert search_table(found).row_count == len(found.tested)
    table = setting_table(found, found.candidates[1])
    assert [str(column.header) for column in table.columns] == ["layer", "in bits", "ADC bits"]
    assert table.row_count == 2
