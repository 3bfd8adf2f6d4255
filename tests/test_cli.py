"""The command line: help that teaches, JSON alone where asked, one line for what a user can mend."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from typer.testing import CliRunner

from bitline import experiment, presets
from bitline.cli import app
from bitline.cost import Technology
from bitline.cost.technology import FOLDER
from bitline.evaluate import Priorities, Result
from bitline.macro import Macro
from bitline.nn import layers
from test_experiment import TINY

COMMANDS = [
    "run",
    "demo",
    "convert",
    "ranges",
    "cost",
    "harden",
    "train",
    "evaluate",
    "place",
    "verify",
    "curvature",
    "sweep",
    "search",
    "report",
    "presets",
    "schema",
    "export",
    "characterize",
    "fit",
    "enough",
    "export-spice",
    "centre",
]
NAME = "generic-8t-sram"


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished experiment `out` of `tiny.yaml`."""
    here = tmp_path_factory.mktemp("cli")
    (here / "tiny.yaml").write_text(yaml.safe_dump(copy.deepcopy(TINY)))
    done = call("run", here / "tiny.yaml", "--out", here / "out")
    assert done.exit_code == 0, done.output
    (here / "run.txt").write_text(done.stdout)
    return here


def refused(done: Any, *told: str) -> None:
    """Exit status 2, one message on standard error, no traceback, nothing on standard output."""
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr


# ----------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = call(command, "--help")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 8


def test_help_names_every_command() -> None:
    done = call("--help")
    assert all(command in done.stdout for command in COMMANDS)
    assert "bitline demo" in done.stdout  # where to start
    assert {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    } == set(COMMANDS)
    assert call("nonsense").exit_code == 2


LIGHT = """
import sys, time
start = time.perf_counter()
import bitline
took = time.perf_counter() - start
heavy = [name for name in ("torch", "numpy", "pydantic") if name in sys.modules]
assert not heavy, heavy
assert took < 1, took
from bitline.cli import app
assert "torch" not in sys.modules
"""


def python(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, **more)


def test_importing_costs_nothing() -> None:
    done = python("-c", LIGHT)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command() -> None:
    done = python("-m", "bitline", "presets", "nothing", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no preset 'nothing'; there are: ")
    assert len(done.stderr.strip().splitlines()) == 1  # not wrapped: another program may read it


# ------------------------------------------------------------------------------------------------------------------ run


def test_run_writes_results_and_says_so(folder: Path) -> None:
    out, said = folder / "out", (folder / "run.txt").read_text()
    for name in ("result.json", "report.html", "rows.csv", "run.json", "experiment.yaml"):
        assert (out / name).stat().st_size > 50
    assert "% on each chip:" in said
    assert f"report: {out / 'report.html'}" in said
    assert "error-aware + BN recalibrated" in said
    assert json.loads((out / "run.json").read_text())["command"].startswith("bitline")


def test_run_as_json_prints_json_alone(folder: Path) -> None:
    done = call("run", folder / "tiny.yaml", "--out", folder / "out", "--json")
    assert done.exit_code == 0
    assert done.stdout == (folder / "out" / "result.json").read_text()
    assert "% on each chip:" in done.stderr


def test_fresh_removes_what_bitline_left_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "result.json").write_text("{}")
    small = ["--set", "methods=[]", "--set", "test.chips=1", "--set", "test.details=false"]
    small += ["--set", "test.recalibrate=false", "--set", "float_training.epochs=1"]
    assert call("run", folder / "tiny.yaml", "--out", tmp_path, *small).exit_code == 0
    other = call("run", folder / "tiny.yaml", "--out", tmp_path, *small, "--set", "seed=1")
    refused(other, "holds another experiment", "--fresh to start over")
    done = call("run", folder / "tiny.yaml", "--out", tmp_path, *small, "--set", "seed=1", "--fresh")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert Result.load(tmp_path / "result.json").facts["seed"] == "1"


def test_the_demo_runs(tmp_path: Path) -> None:
    changes = ["data.train_images=96", "data.test_images=64", "float_training.epochs=1", "training.epochs=1"]
    changes += ["network.channels=[4, 4, 8]", "test.chips=1", "test.details=false", "test.recalibrate=false"]
    options = [part for change in changes for part in ("--set", change)]
    done = call("demo", "--out", tmp_path, *options, "--json")
    assert done.exit_code == 0, done.output
    rows = [row["method"] for row in json.loads(done.stdout)["rows"]]
    assert rows == ["float", "ideal macro", "untrained on chips", "gaussian-trained", "error-aware"]


# --------------------------------------------------------------------------------------------------- the single steps


def test_ranges_show_rounding_against_clipping(folder: Path) -> None:
    shown = call(
        "ranges", folder / "tiny.yaml", "--out", folder / "out", "--picture", folder / "r.svg", "--images", "32"
    )
    assert shown.exit_code == 0, shown.output
    assert "best, two bounds" in shown.stdout
    drawn = ElementTree.fromstring((folder / "r.svg").read_text())
    kinds = [line.get("class") for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    names = [row["layer"] for row in json.loads(call("convert", folder / "tiny.yaml", "--json").stdout) if row["tiles"]]
    assert kinds == ["rounding", "clipping", "two", "one"] * len(names)
    coarse, fine = (
        json.loads(call("ranges", folder / "tiny.yaml", "--out", folder / "out", "--json", "--bits", bits).stdout)
        for bits in ("2", "8")
    )
    assert [layer["layer"] for layer in fine] == names
    for rough, smooth in zip(coarse, fine, strict=True):
        errors = [
            [sum(pair) for pair in zip(r["two"]["rounding"], r["two"]["clipping"], strict=True)]
            for r in (rough, smooth)
        ]
        widths = [r["two"]["high"][errors[i].index(min(errors[i]))] for i, r in enumerate((rough, smooth))]
        assert min(errors[1]) < min(errors[0]) / 10
        assert widths[0] <= widths[1]  # the fewer the codes, the more is worth clipping
        assert rough["own"] is None
    learned = call("ranges", folder / "tiny.yaml", "--out", folder / "out", "--method", "error_aware", "--json")
    assert all(len(layer["own"]["step"]) == 1 for layer in json.loads(learned.stdout))
    refused(call("ranges", folder / "tiny.yaml", "--out", folder / "out", "--method", "dnat"), "has no such method")


def test_convert_shows_where_layers_sit(folder: Path) -> None:
    done = call("convert", folder / "tiny.yaml", "--set", "convert.skip=[fc]")
    assert done.exit_code == 0
    assert "conv3" in done.stdout
    two = call("convert", folder / "tiny.yaml", "--set", f"macro=[{NAME}, generic-rram-128]", "--json")
    rows = json.loads(two.stdout)
    assert [row["macro"] for row in rows if row["layer"] == "conv2"] == [NAME, "generic-rram-128"]
    assert all(row["conversions"] > 0 for row in rows if row["macro"])
    refused(call("convert", folder / "tiny.yaml", "--plan", "folded"), "plan folded cannot run macro")


def test_curvature_says_what_layers_deserve(folder: Path, tmp_path: Path) -> None:
    options = ["--out", folder / "out", "--batches", 1, "--probes", 2, "--share", 0.25, "--bits", 3]
    done = call("curvature", folder / "tiny.yaml", *options, "--write", tmp_path / "bits.yaml")
    assert done.exit_code == 0, done.output
    assert "Tr H" in done.stdout
    found = Priorities.load(folder / "out" / "curvature.json")
    assert [row.layer for row in found.layers] == ["conv1", "conv2", "conv3", "fc"]
    assert sum(row.bits * row.weights for row in found.layers) <= 3 * sum(row.weights for row in found.layers)
    own = experiment.load(tmp_path / "bits.yaml")
    placed = layers(own.place(own.network.build(0), own.on()))
    assert {name: layer.design.weights.bits for name, layer in placed.items()} == {
        r.layer: r.bits for r in found.layers
    }
    assert len({row.bits for row in found.layers}) > 1
    analog = [
        "--set",
        'macro={"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": 0.1}}',
    ]
    wrong = call(
        "curvature", folder / "tiny.yaml", *analog, *options[2:], "--out", tmp_path / "a", "--write", tmp_path / "x"
    )
    refused(wrong, "weight_bits cannot be chosen: macro memory has no `weights`")
    trained = call("curvature", folder / "tiny.yaml", *options, "--method", "error_aware", "--json")
    assert json.loads(trained.stdout)["layers"] != json.loads(found.model_dump_json())["layers"]
    refused(call("curvature", folder / "tiny.yaml", *options, "--method", "dnat"), "has no such method")
    twice = yaml.safe_load((folder / "tiny.yaml").read_text())
    twice["methods"] = [{"kind": "error_aware"}, {"kind": "error_aware", "distil": {}}]
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(twice))
    both = call("train", tmp_path / "twice.yaml", "--method", "error_aware")
    refused(both, "has 2 of them; choose by title: 'error-aware', 'error-aware, distilled'")


def test_train_then_evaluate_then_run_share_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("train", folder / "tiny.yaml", "--method", "error_aware", "--out", out)
    assert done.exit_code == 0, done.output
    assert str(out / "train") in done.stdout
    trained = sorted(path.relative_to(out) for path in (out / "train").rglob("step-*"))
    done = call("evaluate", folder / "tiny.yaml", "--method", "error_aware", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert sorted(path.relative_to(out) for path in (out / "train").rglob("step-*")) == trained
    rows = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
    wanted = {row.method: row for row in Result.load(folder / "out" / "result.json").rows}
    assert tuple(rows["error-aware"]["per_chip"]) == wanted["error-aware"].per_chip
    assert (out / "evaluate-error_aware" / "report.html").exists()
    done = call("run", folder / "tiny.yaml", "--out", out)
    assert done.exit_code == 0, done.output
    assert (out / "result.json").read_bytes() == (folder / "out" / "result.json").read_bytes()
    assert set(trained) <= {path.relative_to(out) for path in (out / "train").rglob("step-*")}


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_method_that_is_not_there(folder: Path, command: str) -> None:
    refused(
        call(command, folder / "tiny.yaml", "--method", "gaussian"),
        "--method gaussian",
        "it has: qat ('untrained on chips'), error_aware ('error-aware')",
    )


def test_report_writes_the_page_again(folder: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "new" / "page.html", tmp_path / "rows.csv"
    done = call("report", folder / "out" / "result.json", "--out", page, "--csv", table)
    assert done.exit_code == 0, done.output
    assert page.read_text() == (folder / "out" / "report.html").read_text()
    assert table.read_text() == (folder / "out" / "rows.csv").read_text()
    assert str(page) in done.stdout
    refused(call("report", tmp_path / "missing.json"), "missing.json")
    refused(call("report", table), "rows.csv", "expected a result.json written by Bitline")


def test_presets_are_listed_and_described() -> None:
    done = call("presets")
    assert done.exit_code == 0
    assert NAME.split("-")[0] in done.stdout
    assert json.loads(call("presets", "--json").stdout) == presets.names()
    assert "64" in call("presets", NAME).stdout
    assert Macro.model_validate(json.loads(call("presets", NAME, "--json").stdout)) == presets.load(NAME)
    refused(call("presets", "generic-9t"), "no preset 'generic-9t'", NAME)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "test.chip=5"], ["tiny.yaml", "test.chip: no such key; did you mean chips? known: centre, chips"]),
        (["--set", "macro=generic-9t"], ["no preset 'generic-9t'", NAME]),
        (["--set", "macro.volts_per_count=8 mA"], ["'8 mA' has the unit 'mA'; expected volts, for example '0.8 V'"]),
        (["--set", "convert.skip=[conv9]"], ["pattern 'conv9' matches no layer; the layers are: conv1"]),
        (["--set", "network.weights=/nowhere.safetensors"], ["no weights at /nowhere.safetensors"]),
        (["--set", "data.set={kind: cifar10, root: /nowhere}"], ["no folder /nowhere"]),
        (["--set", "title=["], ["--set 'title=['"]),
        (["--plan", "quick"], ["no plan 'quick'; there are: folded, fused, reference"]),
    ],
)
def test_bad_input_is_one_message(folder: Path, tmp_path: Path, arguments: list[str], told: list[str]) -> None:
    done = call("run", folder / "tiny.yaml", "--out", tmp_path / "o", *arguments)
    refused(done, *told)
    assert done.stdout == ""


def test_bad_files_are_one_message(folder: Path, tmp_path: Path) -> None:
    refused(call("run", tmp_path / "missing.yaml"), "missing.yaml: No such file or directory")
    refused(call("run", tmp_path), "Is a directory")
    (tmp_path / "file").write_text("a: [")
    refused(call("run", tmp_path / "file"), "is not YAML")
    done = call("run", folder / "tiny.yaml", "--out", tmp_path / "file" / "out")
    refused(done, f"output folder {tmp_path / 'file' / 'out'} cannot be written")


def test_a_truncated_checkpoint_is_one_message(folder: Path, tmp_path: Path) -> None:
    call("train", folder / "tiny.yaml", "--method", "qat", "--out", tmp_path)
    record = tmp_path / "train" / "float" / "latest.json"
    record.write_text(record.read_text()[:-20])
    refused(call("run", folder / "tiny.yaml", "--out", tmp_path), str(record), "is truncated", "previous.json")


def test_ctrl_c_says_how_to_go_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitline.experiment import run

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "calibrate", interrupted)
    done = call("run", folder / "tiny.yaml", "--out", tmp_path)
    assert done.exit_code == 130
    assert "run the same command again to go on" in done.stderr


DIES = """
import os, signal
from bitline.evaluate import ledger
append = ledger.append
def dying(path, trial):
    append(path, trial)
    os.kill(os.getpid(), signal.SIGKILL)
ledger.append = dying
from bitline.cli import app
app()
"""


def test_the_same_command_resumes_after_a_kill(folder: Path, tmp_path: Path) -> None:
    arguments = ["run", str(folder / "tiny.yaml"), "--out", str(tmp_path)]
    done = python("-c", DIES, *arguments, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = python("-m", "bitline", *arguments, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "result.json").read_bytes() == (folder / "out" / "result.json").read_bytes()


# --------------------------------------------------------------------------------------------------------------- schema


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.parametrize("what", ["experiment", "macro"])
def test_the_schema_is_whole(what: str) -> None:
    schema = json.loads(call("schema", what).stdout)
    found = set(references(schema))
    assert len(found) > 10
    assert {name.rpartition("/")[0] for name in found} == {"#/$defs"}
    assert {name.rpartition("/")[2] for name in found} <= schema["$defs"].keys()
    for part in schema["$defs"].values():
        if part.get("type") == "object":
            assert part.get("additionalProperties") is False, part["title"]
    assert schema["properties"].keys() >= {"title", "macro"} if what == "experiment" else {"rows", "columns"}


def fits(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> bool:
    """The part of JSON Schema that pydantic writes, as an editor reads it."""
    if "$ref" in node:
        return fits(value, schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    if choices := node.get("anyOf") or node.get("oneOf"):
        return any(fits(value, one, schema) for one in choices)
    if "const" in node:
        return bool(value == node["const"])
    if "enum" in node:
        return value in node["enum"]
    if isinstance(value, dict):
        known, extra = node.get("properties", {}), node.get("additionalProperties", True)
        return (
            node.get("type", "object") == "object"
            and set(node.get("required", ())) <= value.keys()
            and all(
                fits(v, known[k], schema) if k in known else bool(extra) and (extra is True or fits(v, extra, schema))
                for k, v in value.items()
            )
        )
    if isinstance(value, list):
        several = node.get("prefixItems", [node.get("items", {})] * len(value))
        return node.get("type") == "array" and all(map(fits, value, several, [schema] * len(value)))
    names = {bool: ["boolean"], int: ["integer", "number"], float: ["number"], str: ["string"], type(None): ["null"]}
    wanted = node.get("type", names[type(value)])
    return bool(set(names[type(value)]) & set(wanted if isinstance(wanted, list) else [wanted]))


def test_the_schema_accepts_what_is_written_and_refuses_what_is_wrong() -> None:
    schema = json.loads(call("schema").stdout)
    demo = yaml.safe_load(Path(experiment.__file__).with_name("demo.yaml").read_text())
    macro = yaml.safe_load(presets.find(NAME).read_text())
    assert isinstance(macro["volts_per_count"], str)  # with its unit
    for good in (demo, TINY, demo | {"macro": macro}, demo | {"macro": [NAME, macro]}):
        assert fits(good, schema, schema)
    for bad in ({"seeds": 1}, {"macro": macro | {"row": 1}}, {"macro": 5}, {"methods": [{"kind": "qad"}]}, {"test": 3}):
        assert not fits(demo | bad, schema, schema)
    for name in presets.names():
        own = json.loads(call("schema", "macro").stdout)
        assert fits(yaml.safe_load(presets.find(name).read_text()), own, own), name


@pytest.mark.parametrize("what", ["experiment", "macro", "technology", "bundle"])
def test_names_in_a_schema_are_those_of_classes(what: str) -> None:
    """Where two classes have one name, definitions are called by their modules."""
    assert not [name for name in json.loads(call("schema", what).stdout)["$defs"] if "__" in name]


def test_the_schema_of_a_technology_takes_short_forms() -> None:
    schema = json.loads(call("schema", "technology").stdout)
    assert schema["title"] == "Technology"
    written = yaml.safe_load((FOLDER / "horowitz-45nm.yaml").read_text())
    least = {"name": "mine", "cycle": "10 ns"}
    more = least | {"adc": ["sar", {"kind": "murmann", "level": "low"}], "driver": {"volts": 0.9}}
    for good in (written, least, more):
        assert fits(good, schema, schema)
        Technology.model_validate(good)
    for bad in ({"name": "mine"}, least | {"adcs": ["sar"]}, least | {"adc": ["sarr"]}, least | {"array": "ohmic"}):
        assert not fits(bad, schema, schema)


def test_a_schema_goes_to_a_file(tmp_path: Path) -> None:
    assert call("schema", "macro", "--out", tmp_path / "new" / "macro.json").exit_code == 0
    assert json.loads((tmp_path / "new" / "macro.json").read_text())["title"] == "Macro"
    refused(call("schema", "chip"), "no schema 'chip'; there are: experiment, macro, technology")


def test_a_command_leaves_random_states_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    assert call("run", folder / "tiny.yaml", "--out", folder / "out").exit_code == 0
    assert torch.equal(torch.get_rng_state(), before)
