"""Searches of whole experiments: layers that differ from their macro, the command, and the experiment it writes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from bitline.cli import app
from bitline.evaluate import Result
from bitline.experiment import Run, SearchRun, allocated, clear, load, parse, written
from bitline.nn import layers
from bitline.search import Searched, Setting
from test_experiment import EXAMPLES, config, quiet

SEARCH = {
    "adc_bits": [4, 6],
    "chips": 1,
    "images": 32,
    "trials": 8,
    "rounds": 1,
    "screened": 4,
    "finals": 1,
    "refined": 1,
    "window": 90,
}
GOAL = ("--lose", "30", "--law", "walden", "--images", "64")
MACRO = {"base": "generic-8t-sram", "name": "own", "converter": {"bits": 6, "range": "calibrated"}}


def tiny(**changes: Any) -> dict[str, Any]:
    plain = {"chips": 2, "details": False, "recalibrate": False}
    return config(macro=MACRO, methods=["error_aware"], test=plain, search=SEARCH) | changes


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search `out` of `tiny.yaml`."""
    here = tmp_path_factory.mktemp("search")
    (here / "laws.yaml").write_text("{name: two laws, cycle: 20 ns, adc: [walden, sar]}")
    (here / "tiny.yaml").write_text(yaml.safe_dump(tiny(technology="laws.yaml")))
    done = call("search", here / "tiny.yaml", *GOAL, "--out", here / "out")
    assert done.exit_code == 0, done.output
    (here / "told.txt").write_text(done.stdout)
    return here


# ---------------------------------------------------------------------------------------------- layers of their own


def test_layers_may_differ_from_their_macro() -> None:
    own = {"conv*": {"converter": {"bits": 5}}, "fc": {"inputs": {"bits": 3}}}
    experiment = parse(tiny(convert={"layers": own}), "test")
    model = experiment.place(experiment.network.build(0), experiment.macros[0])
    found = {name: layer.design for name, layer in layers(model).items()}
    assert [one.converter.bits for one in found.values() if one.converter] == [5, 5, 5, 6]
    assert [one.inputs.bits for one in found.values() if one.inputs] == [4, 4, 4, 3]
    assert (found["conv1"].name, found["fc"].name) == ("own, conv*", "own, fc")
    assert found["conv1"].cell == experiment.macros[0].cell


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (
            {"fc": {"converter": {"bits": 40}}},
            r"convert\.layers\.fc: of own: converter\.bits: .*less than or equal to 16",
        ),
        ({"fc": {"convertor": {"bits": 4}}}, r"convert\.layers\.fc: of own: convertor: .*did you mean converter"),
    ],
)
def test_what_a_layers_macro_cannot_be_is_told(own: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(tiny(convert={"layers": own}), "test")


def test_a_pattern_that_matches_no_layer_is_refused(tmp_path: Path) -> None:
    experiment = parse(tiny(convert={"layers": {"conv9": {"converter": {"bits": 4}}}}), "test")
    with pytest.raises(ValueError, match="pattern 'conv9' matches no layer; the layers are: conv1"):
        Run(experiment, tmp_path, quiet, progress=False)


def test_settings_are_laid_over_what_layers_have() -> None:
    given = {"conv*": {"inputs": {"bits": 3}}}
    experiment = parse(tiny(convert={"layers": given}), "test")
    one = allocated(
        experiment, {"conv1": Setting(adc_bits=4), "fc": Setting(adc_bits=6), "conv2": Setting(input_bits=3)}
    )
    assert one.convert.layers == {"conv1": {"inputs": {"bits": 3}, "converter": {"bits": 4}}} | given
    assert allocated(experiment, {"fc": Setting(adc_bits=6)}) == experiment
    assert parse(yaml.safe_load(written(one)), "again") == one
    with pytest.raises(ValueError, match="settings: pattern 'conv9' matches no layer"):
        allocated(experiment, {"conv9": Setting(adc_bits=4)})


@pytest.mark.parametrize("name", ["bits-lenet5", "correctnet-lenet5", "digits-two-macros", "digits-pcm"])
def test_an_experiment_written_reads_as_itself(name: str, tmp_path: Path) -> None:
    experiment = load(EXAMPLES / f"{name}.yaml")
    (tmp_path / "again.yaml").write_text(written(experiment), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == experiment


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_what_it_found(folder: Path) -> None:
    found = Searched.load(folder / "out" / "search.json")
    told = " ".join((folder / "told.txt").read_text().split())
    floor = found.baseline.accuracy("tested") - 30
    winner = found.cheapest(floor, "walden")
    assert f"{winner.name} holds {floor:.2f} %" in told
    assert f"{100 * found.saved(winner, 'walden'):.1f} % by Walden" in told
    assert "bitline run" in told
    assert {path.name for path in (folder / "out").glob("search.*")} == {
        "search.csv",
        "search.json",
        "search.svg",
        "search.yaml",
    }
    assert found.facts["network"] == "digits"


def test_the_winner_runs_as_it_was_tested(folder: Path, tmp_path: Path) -> None:
    """The experiment that the search wrote gives the accuracies that the search told, chip by chip."""
    found = Searched.load(folder / "out" / "search.json")
    winner = found.cheapest(found.baseline.accuracy("tested") - 30, "walden")
    experiment = load(folder / "out" / "search.yaml")
    assert experiment.search is None
    assert experiment.convert.layers
    done = call("run", folder / "out" / "search.yaml", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    result = Result.load(tmp_path / "result.json")
    row = next(one for one in result.rows if one.method == "error-aware")
    assert found.verified is not None
    assert found.verified.chosen.method == winner.name
    assert row.per_chip == found.verified.chosen.per_chip
    assert {"own", *(f"own, {name}" for name in experiment.convert.layers)} <= set(result.macros)


def test_finals_are_chosen_apart_and_verified_once(folder: Path) -> None:
    """Chosen on images that nothing was trained on and dies of another lot; told with the paired difference."""
    found = Searched.load(folder / "out" / "search.json")
    assert found.facts["decided by"] == "2 dies, 64 training images of no other use"
    walk = SearchRun(load(folder / "tiny.yaml"), folder / "out", tell=quiet, progress=False, images=64)
    judges, _ = walk._apart()
    decided = torch.cat([index for _, _, index in judges.source()])
    assert len(decided) == 64
    assert not torch.isin(decided, walk.base.training.index).any()
    assert judges.seed != walk.experiment.seed
    verified = found.verified
    assert verified is not None
    winner = found.cheapest(found.baseline.accuracy("tested") - 30, "walden")
    assert (verified.baseline.method, verified.chosen.method) == ("as it is", winner.name)
    assert verified.chosen.images == len(walk.base.testing)
    pair = verified.difference
    assert (pair.of, pair.against) == (winner.name, "as it is")
    assert pair.mean == pytest.approx(verified.chosen.mean - verified.baseline.mean, abs=1e-3)
    assert pair.ci95[0] <= pair.mean <= pair.ci95[1]
    told = " ".join((folder / "told.txt").read_text().split())
    assert f"verified on {verified.chosen.images} test images and 2 dies that decided nothing: {winner.name}" in told
    assert f"{pair.mean:+.2f} points [{pair.ci95[0]:+.2f}, {pair.ci95[1]:+.2f}], paired" in told


def test_a_search_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitline.search import screen

    before = (folder / "out" / "search.json").read_bytes()
    monkeypatch.setattr(screen, "measured", lambda *arguments: pytest.fail("measured again"))
    done = call("search", folder / "tiny.yaml", *GOAL, "--out", folder / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["title"] == "tiny"
    assert (folder / "out" / "search.json").read_bytes() == before


def test_an_accuracy_that_nothing_holds_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    done = call("search", folder / "tiny.yaml", "--hold", "100", "--images", "64", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert Searched.load(tmp_path / "out" / "search.json").verified is None
    assert "no setting tested holds 100 % (mean): the best," in done.output


def test_a_technology_is_found_again_from_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a search or `harden` writes into its own folder is an experiment too."""
    monkeypatch.chdir(folder)
    experiment = load(Path("tiny.yaml"))
    (tmp_path / "again.yaml").write_text(written(experiment))
    assert load(tmp_path / "again.yaml") == experiment


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"search": None}, "declares no choices: give them as `search: {adc_bits: [4, 5, 6]}`"),
        ({"search": SEARCH | {"method": "dnat"}}, "search.method = dnat: the experiment has no such method; it has: "),
        ({"macro": [MACRO, "generic-8t-sram"]}, "several macros: choose one with --set macro=…"),
        ({"search": {"adc_bit": 4}}, "search.adc_bit: no such key; did you mean adc_bits?"),
        ({"search": {"chips": 2}}, "search: a search needs choices: give one or more of input_bits"),
        ({"technology": "horowitz"}, "technology: no technology 'horowitz'; did you mean horowitz-45nm?"),
        ({"macro": MACRO | {"converter": None}}, "adc_bits cannot be chosen: macro own has no `converter`; "),
    ],
)
def test_what_cannot_be_searched_is_one_message(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Before anything is trained."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny(**changes)))
    done = call("search", tmp_path / "tiny.yaml", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_law_that_is_not_there_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny()))
    done = call("search", tmp_path / "tiny.yaml", "--law", "moore", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no ADC law 'moore': the technology has Murmann's survey, median; SAR, " in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny()))
    for command in ("search", "harden"):
        done = call(command, tmp_path / "tiny.yaml", "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert "pip install 'bitline[search]'" in done.output
    assert not (tmp_path / "out").exists()


def test_clear_removes_a_search_and_nothing_else(tmp_path: Path) -> None:
    for name in ("search.json", "search.yaml", "mine.txt", "search/screened.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_baseline_is_the_network_of_the_experiment(folder: Path) -> None:
    """The macro as it is needs no training of its own: it is what `bitline train` trains."""
    experiment = load(folder / "tiny.yaml")
    walk = SearchRun(experiment, folder / "out", tell=quiet, progress=False)
    own = {name: Setting() for name in ("conv1", "fc")}
    assert walk.winner(own).convert == experiment.convert
    base = Run(experiment, folder / "out", quiet, progress=False)
    macro = experiment.macros[0]
    model = base.trained(base.converted(base.float_network(), macro), macro, walk.method)
    right = base.ledger().over_chips(model, "again", base.source, 2, experiment.seed)
    found = Searched.load(folder / "out" / "search.json")
    assert found.verified is not None
    assert torch.allclose(
        100 * right.double().mean(1), torch.tensor(found.verified.baseline.per_chip).double(), atol=1e-4
    )
