"""The walk of ``harden``: where it stops, what it keeps, what it writes."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from bitline.cli import app
from bitline.cli.options import folder_of, loaded
from bitline.compensate import AnyPath, LowRank, Trimming, attach, sides
from bitline.cost import brief
from bitline.evaluate.hardened import Hardened
from bitline.experiment import HardenRun, Placing, Run, load, parse
from bitline.experiment.folder import record
from bitline.experiment.ladder import RIVALS, Ladder, Network
from bitline.methods import Compensate, ErrorAware, Qat
from bitline.place import Budget, Greedy
from bitline.report.hardening import render_hardened, sentence
from bitline.units import share
from test_experiment import TINY, quiet
from test_search_experiment import SEARCH, tiny

PLACING = Placing(budget=Budget(share=5.0), searcher=Greedy(evaluations=2), tries=2, chips=2, images=64)
NOISY = {
    "base": "generic-8t-sram",
    "name": "noisy",
    "variation": {"kind": "lognormal", "sigma": 1.0},
    "converter": {"bits": 6, "range": "calibrated"},
}


LEARNED = {  # a network that has something to lose
    "macro": NOISY,
    "data": TINY["data"] | {"train_images": 512},
    "network": {"kind": "digits", "channels": [8, 8, 16]},
    "float_training": {"epochs": 6, "lr": 0.1, "schedule": {"kind": "one_cycle"}},
}


def hardened(data: dict[str, Any], out: Path, target: float, **more: Any) -> Hardened:
    return HardenRun(parse(data, "test"), out, target, placing=PLACING, tell=quiet, progress=False, **more)()


def names(found: Hardened) -> list[str]:
    return [step.name for step in found.steps]


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hardened]:
    """A target that the network holds as it is."""
    out = tmp_path_factory.mktemp("easy")
    return out, hardened(tiny(), out, 0.2)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hardened]:
    """A target that nothing holds."""
    out = tmp_path_factory.mktemp("hard")
    return out, hardened(tiny(**LEARNED), out, 1.0, per_chip=True)


def test_it_stops_as_soon_as_the_target_holds_and_gives_bits_away(easy: tuple[Path, Hardened]) -> None:
    out, found = easy
    assert names(found) == ["measure", "allocate"]
    assert not list((out / "train").glob("own-error-aware*"))  # nobody trained what was not needed
    measured, given = found.steps
    assert measured.holds
    assert given.holds
    assert given.kept is not None
    assert given.kept.row.mean >= found.at_least
    assert all(0 <= saved < 1 for saved in found.saved().values())
    assert max(found.saved().values()) > 0
    own = next(one for one in given.attempts if one.name == "as it is")
    assert own.energy == pytest.approx(found.untouched)
    assert measured.attempts[0].energy == found.untouched
    assert given.kept.energy is not None
    assert given.kept.adc is not None
    assert own.adc is not None
    for law, saved in found.net(given.kept).items():  # fewer bits of converters: less for conversions, sums no larger
        assert saved >= (own.adc[law] - given.kept.adc[law]) / found.untouched[law] - 1e-9
        assert f"{100 * saved:+.1f} % by {brief(law)}".replace("-", "−") in sentence(found)


def test_what_it_wrote_is_what_it_found_and_an_experiment(easy: tuple[Path, Hardened], tmp_path: Path) -> None:
    out, found = easy
    assert Hardened.load(out / "hardened.json") == found
    again = load(out / "hardened.yaml")
    assert again.search is None
    assert [method.kind for method in again.methods] == ["qat"]  # trained for its bits, without errors
    result = Run(again, tmp_path, quiet, progress=False)()
    assert next(row for row in result.rows if row.chips > 1).per_chip == found.final.per_chip
    page = (out / "hardened.html").read_text(encoding="utf-8")
    assert sentence(found).split(":")[0].replace(" %", "\u00a0%") in page


def test_every_step_is_tried_before_it_gives_up(hard: tuple[Path, Hardened]) -> None:
    _, found = hard
    assert names(found) == ["measure", "train", "centre", "compensate", "per chip", "allocate"]
    assert not any(step.holds for step in found.steps)
    assert found.steps[-1].told.startswith("left out: the target does not hold")
    kept = [step.kept.row.mean for step in found.steps if step.kept is not None]
    assert kept == sorted(kept)  # nothing worse takes the place of what there is
    trained = [one.name for one in found.steps[1].attempts]
    assert "error-aware" in trained
    assert any("suppressed" in name and name.startswith("without errors") for name in trained)
    assert {one.row.chips for step in found.steps for one in step.attempts} == {PLACING.chips}
    assert not found.holds
    assert "does not hold" in sentence(found)
    assert not found.saved()


def test_side_paths_are_told_with_what_they_cost(hard: tuple[Path, Hardened]) -> None:
    out, found = hard
    beside = [one for one in found.steps[3].attempts if one.overhead is not None]
    for one in beside:
        assert one.overhead is not None
        assert one.overhead.mac_share > 0
        assert 0 < one.overhead.parameter_share <= PLACING.budget.share
        assert all(share > 0 for share in one.overhead.energy_shares.values())
        assert one.energy is not None  # without fewer bits all that a side path takes is lost
        assert found.net(one) == pytest.approx({law: -share for law, share in one.overhead.energy_shares.items()})
    methods = load(out / "hardened.yaml").methods
    assert len(methods) == 1
    last = found.steps[3].kept
    assert last is not None
    assert isinstance(methods[0], Compensate) == (last.overhead is not None)


def test_every_kind_that_is_trained_is_a_rival() -> None:
    """Each with sizes that it can have."""
    kinds = set(get_args(get_args(AnyPath)[0]))
    wanted = {kind for kind in kinds if kind.SIZE is not None and kind.WHY_NOT_TRAINED is None}
    assert {type(path) for path in RIVALS} == wanted, "its place in RIVALS of experiment/ladder.py"
    for path in RIVALS:
        assert len(path.SIZES) > 1
        for size in path.SIZES:
            assert getattr(path.sized(size), str(path.SIZE)) == size


def test_a_step_without_tries_says_so(hard: tuple[Path, Hardened], tmp_path: Path) -> None:
    """No side path is as small as this budget."""
    shutil.copytree(hard[0], tmp_path / "again")
    told: list[str] = []
    few = PLACING.model_copy(update={"budget": Budget(share=1e-6)})
    again = HardenRun(
        parse(tiny(**LEARNED), "test"), tmp_path / "again", 1.0, placing=few, tell=told.append, progress=False
    )()
    assert names(again) == ["measure", "train", "centre", "compensate", "allocate"]
    assert not again.steps[3].attempts
    assert again.steps[3].told.endswith(": none of them left to try")
    assert any("of the placements tried within the budget, none is best" in line for line in told)
    assert "none of them left to try" in render_hardened(again)


def test_the_command_that_made_it_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["harden", "my network.yaml", "--searcher", "{kind: random, within: true}"]
    monkeypatch.setattr(sys, "argv", ["/bin/bitline", *given])
    assert shlex.split(record(0.0)["command"]) == ["bitline", *given]


def test_a_walk_goes_on_to_the_same_bytes(hard: tuple[Path, Hardened]) -> None:
    out, found = hard
    before = (out / "hardened.json").read_bytes()
    (out / "hardened.json").unlink()
    told: list[str] = []
    again = HardenRun(
        parse(tiny(**LEARNED), "test"), out, 1.0, per_chip=True, placing=PLACING, tell=told.append, progress=False
    )()
    for words in ("generator and compensator", "low rank", "vectors, rank", "% of the weights"):
        assert any(words in line for line in told)  # tried, or left out with its reason
    assert again == found
    assert (out / "hardened.json").read_bytes() == before


def test_what_is_done_on_each_chip_is_not_searched_with(hard: tuple[Path, Hardened], tmp_path: Path) -> None:
    """Trims may lift a network over the target: then it holds, and bits stay."""
    folder, found = hard
    kept = {step.name: step.kept.row.mean / found.original for step in found.steps if step.kept is not None}
    assert kept["compensate"] < kept["per chip"]
    between = (kept["compensate"] + kept["per chip"]) / 2
    shutil.copytree(folder, tmp_path / "again")
    again = hardened(tiny(**LEARNED), tmp_path / "again", between, per_chip=True)
    assert names(again) == ["measure", "train", "centre", "compensate", "per chip", "allocate"]
    assert again.steps[-1].told == "left out: what is done on each chip is not done in a search"
    assert load(tmp_path / "again" / "hardened.yaml").test.trim_per_chip  # and is done by what was written


def test_trims_are_tried_where_side_paths_were_kept(tmp_path: Path) -> None:
    """Around them; patches inside, as many as the budget allows by itself."""
    how = PLACING.model_copy(update={"budget": Budget(share=0.05, of="parameters")})
    changes = {"macro": {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 0.5}}}
    experiment, told = parse(tiny(**changes, search=None), "test"), list[str]()
    run = HardenRun(experiment, tmp_path, 0.2, per_chip=True, placing=how, tell=told.append, progress=False)
    ladder = Ladder(run.walk, run.macro, how, True, 0.95, told.append)
    kept = Network("kept", attach(copy.deepcopy(ladder.start), LowRank()), Compensate(path=LowRank()), steps=14)
    found = {one.name: one for one in ladder.on_each_chip(kept)}
    each = ["trimmed", "1 % of the weights patched", "2 % of the weights patched", "BN recalibrated"]
    assert list(found) == [f"kept + {what} per chip" for what in each]
    assert re.search(r"5 % of the weights patched per chip: left out: takes [\d.]+ % more parameters", "\n".join(told))
    trimmed = found["kept + trimmed per chip"]
    assert isinstance(trimmed.prepare, Trimming)
    assert (trimmed.method, trimmed.steps) == (kept.method, 14)
    assert {side.config.outer.kind for side in sides(trimmed.model).values()} == {"trim"}
    assert {side.config.inner.kind for side in sides(found[f"kept + {each[1]} per chip"].model).values()} == {"patch"}


def test_side_paths_are_wanted_where_the_target_does_not_hold(tmp_path: Path) -> None:
    """Not where 95 % do: layers are candidates by the share that is asked."""
    memory = {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 0.02}}
    experiment, told = parse(tiny(macro=memory, search=None), "test"), list[str]()
    run = HardenRun(experiment, tmp_path, 1.0, placing=PLACING, tell=told.append, progress=False)
    kept = Network("kept", run.walk.float_network(), Qat())
    for asked in (0.5, 0.99):
        ladder = Ladder(run.walk, run.macro, PLACING, False, asked, told.append)
        assert not list(ladder.compensate(kept))
        assert f"{100 * asked:g} % is asked" in told[-1]


def test_inputs_are_centred_where_they_may_have_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean alone, and the most directions within the budget; what is kept is an experiment. Paths stand beside the
    network without."""
    memory = {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 1.0}}
    changes = LEARNED | {"macro": memory, "methods": [{"kind": "error_aware"}], "search": None}
    found = hardened(tiny(**changes), tmp_path / "out", 1.0)
    centred, beside = found.steps[2], found.steps[3]
    names = [one.name for one in centred.attempts if "recalibrated" not in one.name]
    assert [name.partition(", inputs ")[2].partition(",")[0] for name in names] == ["centred", "centred"]
    assert re.search(r", \d+ to \d+ directions digital by layer, \d+ in all$", names[1])
    used = [one.overhead.parameter_share for one in centred.attempts if one.overhead is not None]
    assert used[0] < used[-1] <= PLACING.budget.share
    assert all(one.overhead is not None for one in centred.attempts)
    assert not any("centred" in one.name for one in beside.attempts)
    (method,) = load(tmp_path / "out" / "hardened.yaml").methods
    last = found.steps[-1].kept
    assert last is not None
    assert ("centred" in last.name) == (getattr(method, "centre", None) is not None)
    few = PLACING.model_copy(update={"budget": Budget(share=1e-6)})
    told: list[str] = []
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    run = HardenRun(parse(tiny(**changes), "test"), tmp_path / "again", 1.0, placing=few, tell=told.append)
    kept = Network("kept", run.walk.float_network(), ErrorAware())
    assert not list(Ladder(run.walk, run.macro, few, False, 0.95, told.append).centre(kept))
    assert told[0].startswith("inputs centred: left out: takes ")

    def nothing(*_: object, **__: object) -> None:
        raise ValueError("no direction wins anything")

    monkeypatch.setattr("bitline.experiment.ladder.share_directions", nothing)
    names = [one.name for one in Ladder(run.walk, run.macro, PLACING, False, 0.95, told.append).centre(kept)]
    assert told[1] == "directions layer by layer: left out: no direction wins anything"
    assert all("inputs centred" in name and "by layer" not in name for name in names)
    assert names


def test_a_search_that_cannot_be_is_left_out_and_nothing_is_lost(tmp_path: Path) -> None:
    found = hardened(tiny(search=SEARCH | {"adc_bits": [3]}), tmp_path / "out", 0.2)  # the survey's law begins at 4
    assert found.steps[-1].told.startswith("left out: ")
    assert "none of the choices is possible" in found.steps[-1].told
    assert found.holds
    assert [method.kind for method in load(tmp_path / "out" / "hardened.yaml").methods] == ["qat"]


@pytest.mark.parametrize("target", [0.0, 1.2, -1.0])
def test_a_target_is_a_share(target: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a share of the accuracy without errors, up to 100 %"):
        HardenRun(parse(tiny(), "test"), tmp_path, target, tell=quiet)


@pytest.mark.parametrize("text", ["95 percent", "", "0", "-5%", "inf", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"target .*: a share above 0 is expected, such as 5% or 0.05"):
        share(text, "target")
    assert share(" 95%", "target") == share("0.95", "target") == 0.95


def test_without_choices_converters_give_bits(tmp_path: Path) -> None:
    """An experiment that declares no search: fewer bits of its converters; an analog macro has none to give."""
    plain = tiny(search=None)
    run = HardenRun(parse(plain, "test"), tmp_path, 0.5, placing=PLACING, tell=quiet)
    space = run._space()
    assert space is not None
    assert space.adc_bits == (4, 5, 6)
    analog = {"name": "analog", "rows": 32, "columns": 32, "variation": {"kind": "lognormal", "sigma": 0.1}}
    run = HardenRun(parse(plain | {"macro": analog}, "test"), tmp_path / "b", 0.05, placing=PLACING, tell=quiet)
    assert run._space() is None
    run.progress = run.walk.progress = False
    found = run()  # which has no energy, and says why
    assert found.holds
    assert (found.untouched, found.net(found.kept)) == ({}, {})
    assert "macro analog has continuous inputs or weights" in found.unpriced
    assert f"Energy is not told: {found.unpriced}." in sentence(found)
    assert "Saved in all" not in render_hardened(found)


def test_a_network_is_hardened_on_another_macro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset or a file from here takes the place of the experiment's macro, changes laid over it."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump(NOISY))
    Path("nets").mkdir()
    Path("nets/tiny.yaml").write_text(yaml.safe_dump(tiny()))
    file = Path("nets/tiny.yaml")
    assert loaded(file, None, macro="generic-8t-sram").on().name == "generic-8t-sram"
    changed = loaded(file, ["macro.converter.bits=5"], macro="own.yaml").on()
    assert (changed.name, changed.converter.bits) == ("noisy", 5)
    assert folder_of(file, None, "own.yaml") == Path("out/tiny-own")
    assert folder_of(file, None) == Path("out/tiny")
    done = CliRunner().invoke(app, ["harden", "nets/tiny.yaml", "generic-8t-sra"])
    assert done.exit_code == 2
    assert "did you mean generic-8t-sram" in " ".join(done.output.split())
    assert not Path("out").exists()


def test_the_command(easy: tuple[Path, Hardened], tmp_path: Path) -> None:
    out, found = easy
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny(search=SEARCH)))
    arguments = ["harden", str(tmp_path / "tiny.yaml"), "--out", str(out), "--target", "20%", "--chips", "2"]
    arguments += ["--images", "64", "--steps", "2", "--budget", "500%", "--searcher", "{kind: greedy, evaluations: 2}"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == json.loads(found.model_dump_json(by_alias=True))["steps"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "Verified" in done.stdout
    assert "the target of 20 % holds" in " ".join(done.stdout.split())
    assert "Reproduce with" in render_hardened(found, {"command": "bitline harden"})
