"""Wrong configurations: each is told with its file, the key as it was written, and what would do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import ConfigDict, Field, ValidationError
from typer.testing import CliRunner

from bitline.circuits.spice import Circuit
from bitline.cli import app
from bitline.configuration import Written, explain
from bitline.experiment import Experiment, load, parse
from bitline.macro import Macro
from bitline.macro.placement import Reload
from bitline.methods import ErrorAware, Gaussian, Qat
from bitline.nn import convert
from bitline.train.schedules import Cosine
from test_cli import fits
from test_experiment import NAME, TINY, config, written
from test_spice import described

MACRO: dict[str, Any] = {
    "name": "m",
    "rows": 64,
    "columns": 64,
    "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "differential", "bits": 4},
    "converter": {"bits": 6},
}
EXPERIMENT = (
    "convert, data, float_training, macro, methods, network, plan, search, seed, technology, test, title, training"
)
TRUTH = "a number is expected, not a truth value (YAML reads yes, no, on and off as such) (given: true)"


def told(folder: Path, **changes: Any) -> str:
    """The message of an experiment, without its file."""
    file = written(folder, **changes)
    with pytest.raises(ValueError, match=re.escape(str(file))) as found:
        load(file)
    return str(found.value).removeprefix(f"{file}:").strip()


def described_macro(folder: Path, name: str = "m.yaml", /, **macro: Any) -> Path:
    file = folder / name
    file.write_text(yaml.safe_dump(macro))
    return file


# ----------------------------------------------------------------------------------------------------------- the macro


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"corners": {"hot": {"converter": {"bits": 99}}}},
            "macro.corners.hot.converter.bits: Input should be less than or equal to 16 (given: 99)",
        ),
        ({"corners": {"hot": {"active_rows": 99}}}, "macro.corners.hot: active_rows = 99 exceeds rows = 64"),
        ({"corners": {"hot": {"rows": True}}}, f"macro.corners.hot.rows: {TRUTH}"),
        ({"active_rows": 99}, "macro: active_rows = 99 exceeds rows = 64"),
        ({"placement": "reload"}, "macro.placement.arrays: required, but missing: arrays on the chip"),
        (
            {"placement": "unbound"},
            "macro.placement: no kind 'unbound'; did you mean unbounded? there are: unbounded, reload",
        ),
        ({"placement": 3}, "macro.placement: a mapping is expected, such as {kind: unbounded} (given: 3)"),
        (
            {"cell": {"errors": [{"sigma": 0.1}]}},
            "macro.cell.errors.0: `kind` is missing; there are: gaussian, uniform, lognormal, "
            "state, table, measured, capacitor, stuck, stuck_map",
        ),
        ({"cell": {"errors": {"sigma": 0.1}}}, "macro.cell.errors: a list is expected, such as [{sigma: …}]"),
        (
            {"converter": {"bits": 6, "noise": 0}},
            "macro.converter.noise: Input should be greater than 0, or leave it out (given: 0)",
        ),
        (
            {"converter": {"bits": 2, "levels": [0, 1]}},
            "macro.converter: levels: 2 given, 2^bits = 4 needed",
        ),
        (
            {"converter": {"bits": 2, "levels": [0, 0.3, 0.5, 0.9]}},
            "macro.converter: levels must run from 0 to 1, not 0 to 0.9",
        ),
        (
            {"converter": {"bits": 6, "gains": [1.0], "gain_sigma": 0.1}},
            "macro.converter: gains tell this die's converters, gain_sigma draws others: give one",
        ),
        (
            {"corners": {"hot": {"converter": {"gains": [-1.0]}}}},
            "macro.corners.hot.converter: gains must be above 0, not -1",
        ),
        (
            {"converter": {"bits": 6, "range": {"kind": "fixed", "low": 3, "high": 1}}},
            "macro.converter.range: low = 3 must be below high = 1",
        ),
        (
            {"inputs": {"kind": "unsigned", "bits": 2, "digit_bits": 3}},
            "macro.inputs: digit_bits = 3 exceeds inputs.bits = 2",
        ),
        ({"rows": 0}, "macro.rows: Input should be greater than or equal to 1 (given: 0)"),
        ({"converter": {"bits": True}}, f"macro.converter.bits: {TRUTH}"),
        (
            {"converter": {"bits": 6, "range": {"kind": "full", "low": 3}}},
            "macro.converter.range.low: no such key; kind fixed has it; known: kind",
        ),
        (
            {"volts_per_count": "3 mA"},
            "macro.volts_per_count: '3 mA' has the unit 'mA'; expected volts, for example '0.8 V'",
        ),
    ],
)
def test_a_macro_of_an_experiment(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert told(tmp_path, macro=MACRO | changes) == says
    number = told(tmp_path, macro=[NAME, MACRO | changes])  # a number where a list was written
    assert number == says.replace("macro", "macro.1", 1)


def test_a_macro_file_is_told_like_an_experiment(tmp_path: Path) -> None:
    file = described_macro(tmp_path, **MACRO, rowz=3)
    with pytest.raises(ValueError, match=r"rowz") as found:
        Macro.load(file)
    says = f"{file}: rowz: no such key; did you mean rows? known: active_rows, bias, cell, column, columns, "
    assert str(found.value).startswith(says)
    assert told(tmp_path, macro="m.yaml").startswith(f"macro: {says}")
    described_macro(tmp_path, **MACRO | {"columns": 0}, rowz=3)
    lines = told(tmp_path, macro="m.yaml").splitlines()
    assert lines[0] == f"macro: {file}:"
    assert lines[1].strip() == "columns: Input should be greater than or equal to 1 (given: 0)"
    assert lines[2].strip().startswith("rowz: no such key")
    described_macro(tmp_path, **MACRO, corners={"hot": {"converter": {"bitz": 3}}})
    with pytest.raises(ValueError, match=r"m\.yaml: corners\.hot\.converter\.bitz: no such key; did you mean bits\?"):
        Macro.load(file)
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"m\.yaml holds no macro: a mapping with name, rows"):
        Macro.load(file)


@pytest.mark.parametrize(
    ("macro", "says"),
    [
        ({"base": "generic-8t-sran"}, "no preset 'generic-8t-sran'; did you mean generic-8t-sram? there are:"),
        ({"base": 3}, "macro: base is 3: give a preset's name, or the path of a .yaml file"),
        ({"base": NAME, "row": 3}, "macro.row: no such key; did you mean rows? known: "),
        ({"base": NAME, "rows": True}, f"macro.rows: {TRUTH}"),
        ({"base": "none.yaml"}, "none.yaml: No such file"),
        (5, "macro: a preset's name, the path of a .yaml file or a mapping with rows, columns … is expected"),
    ],
)
def test_a_base_that_does_not_fit(tmp_path: Path, macro: Any, says: str) -> None:
    assert says in told(tmp_path, macro=macro)


def test_a_macro_that_stands_on_itself(tmp_path: Path) -> None:
    alone = described_macro(tmp_path, "m4.yaml", base="m4.yaml")
    with pytest.raises(ValueError, match=r"`base` leads round in a circle: m4\.yaml → m4\.yaml; one of them must"):
        Macro.load(alone)
    assert "m4.yaml → m4.yaml" in told(tmp_path, macro="m4.yaml")
    assert "m4.yaml → m4.yaml" in told(tmp_path, macro={"base": "m4.yaml", "rows": 3})
    (tmp_path / "sub").mkdir()
    described_macro(tmp_path, "b.yaml", base="sub/../a.yaml")
    with pytest.raises(ValueError, match=r"circle: a\.yaml → b\.yaml → a\.yaml"):
        Macro.load(described_macro(tmp_path, "a.yaml", base="b.yaml"))
    with pytest.raises(ValueError, match=r"circle: b\.yaml → a\.yaml → b\.yaml"):
        Macro.load(described_macro(tmp_path, "c.yaml", base="b.yaml"))


# ------------------------------------------------------------------------------------------------------ the experiment


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": "error_aware"}, "methods: a list is expected, such as [error_aware] (given: 'error_aware')"),
        ({"convert": {"skip": "conv1"}}, "convert.skip: a list is expected, such as [conv1] (given: 'conv1')"),
        (
            {"network": {"kind": "digits", "channels": 8}},
            "network.channels: a list is expected, such as [8] (given: 8)",
        ),
        (
            {"methods": ["qat", {"kind": "qat", "warmup": 3}]},
            "methods.1.warmup: no such key; known: centre, distil, kind, per_sample, ranges, seed, suppress",
        ),
        ({"methods": ["plain"]}, "methods.0: no kind 'plain'; there are: qat, error_aware, "),
        ({"methods": ["qad"]}, "methods.0: no kind 'qad'; did you mean qat? there are: qat, error_aware, "),
        ({"methods": ["qat", "qat"]}, "methods: 2 of them are called 'untrained on chips': rows of the result could"),
        ({"data": 3}, "data: a mapping is expected, such as {set: …} (given: 3)"),
        ({"data": None}, "data: a mapping is expected, such as {set: …} (given: null)"),
        ({"data": {"set": {"root": "x"}}}, "data.set: `kind` is missing; there are: cifar10, cifar100, mnist, "),
        ({"ttle": "x"}, f"ttle: no such key; did you mean title? known: {EXPERIMENT}"),
        ({"training": {}}, "training: give either epochs or steps, not epochs=None and steps=None"),
        (
            {"training": {"epochs": 1, "amp": "bf61"}},
            "training.amp: Input should be 'bf16' or 'fp16'; did you mean bf16? (given: 'bf61')",
        ),
        ({"convert": {"weights": {"kind": "pact"}}}, "convert.weights: Pact is for inputs; for weights choose Lsq, "),
        ({"convert": {"inputs": "xnor"}}, "convert.inputs: Xnor on inputs with codes 0..15 step 1: only weights of"),
        ({"plan": "fast"}, "plan: no plan 'fast'; there are: folded, fused, reference"),
        ({"plan": "fuse"}, "plan: no plan 'fuse'; did you mean fused? there are: folded, fused, reference"),
        ({"test": {"target": 0.95}}, "test.target: accuracies are in percent, 0 … 100: did you mean 95? (given: 0.95)"),
        ({"test": {"target": 1}}, "test.target: accuracies are in percent, 0 … 100: did you mean 100? (given: 1)"),
        ({"test": {"chips": True}}, f"test.chips: {TRUTH}"),
        ({"macro": []}, "macro: List should have at least 1 item after validation, not 0 (given: [])"),
    ],
)
def test_an_experiment(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert told(tmp_path, **changes).startswith(says)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("test.chips", "expected key=value, such as test.chips=5"),
        ("=5", "expected key=value"),
        ("methods.9.kind=qat", "'9' is no place in a list of 2"),
        ("methods.x=1", "'x' is no place in a list of 2"),
        ("title.x=1", "title is 'tiny', which has no parts"),
        ("title=[", r"'\[' is not YAML"),
        ("test.chip=5", r"test\.chip: no such key; did you mean chips\? known: centre, chips, corners, detail_chips"),
        ("tests.chips=5", rf"tests: no such key; did you mean test\? known: {EXPERIMENT}"),
        ("test.chips=0", r"test\.chips: .*greater than or equal to 1 \(given: 0\)"),
        ("test.chips=many", r"test\.chips: .*integer.*'many'"),
        (
            "macro=generic-8t-sran",
            r"macro: no preset 'generic-8t-sran'; did you mean generic-8t-sram[?] there are: .*generic-8t-sram",
        ),
        ("macro=nowhere.yaml", r"macro file .*nowhere\.yaml: No such file"),
        ("macro.converter.bit=3", r"macro\.converter\.bit: no such key; did you mean bits\? known: bits, dnl_sigma"),
        (
            "macro.column.mean.compresion=3",
            r"macro\.column\.mean\.compresion: no such key; did you mean compression\? known: compression, dead_zone",
        ),
        ("methods.0.kind=qad", r"methods\.0: no kind 'qad'; did you mean qat\? there are: qat, error_aware, ga"),
        (
            "methods.0.sigma=1",
            r"methods\.0\.sigma: no such key; known: centre, distil, kind, per_sample, ranges, seed, suppress",
        ),
        ("methods.0.kind=error_aware", "2 of them are called 'error-aware'"),
        ("macro=[generic-8t-sram, generic-8t-sram]", "2 of them are called 'generic-8t-sram'"),
        ("macro=[]", r"macro: .*at least 1"),
        ("training.epochs=", "give either epochs or steps"),
        ("data.set.kind=cifar", r"data\.set: no kind 'cifar'; did you mean cifar10\? there are: cifar10, cifar100, "),
        ("plan=quick", r"plan: no plan 'quick'; there are: folded, fused, reference"),
    ],
)
def test_errors_say_where_and_what_would_do(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path), [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no experiment: a mapping"),
        ("a: [", "is not YAML"),
        ("", "holds no experiment"),
        ("{}", "title: required, but missing\n"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as found:
        load(file)
    assert str(file) in str(found.value)
    with pytest.raises(ValueError, match="No such file"):
        load(tmp_path / "missing.yaml")


def test_layers_that_all_stay_digital(tmp_path: Path) -> None:
    experiment = load(written(tmp_path, convert={"skip": ["*"]}))
    says = r"no layer was converted: skip = \['\*'\] leaves out all there are: conv1, conv2, conv3, fc"
    with pytest.raises(ValueError, match=says):
        experiment.place(experiment.network.build(), experiment.macros[0])
    with pytest.raises(ValueError, match="no layer was converted: no pattern of `macro` matches one: conv1"):
        convert(experiment.network.build(), {})
    with pytest.raises(ValueError, match="skip: pattern 'conv9' matches no layer; the layers are: conv1"):
        convert(experiment.network.build(), experiment.macros[0], skip=["conv9"])


# --------------------------------------------------------------------------------------------------------- bare names


def test_a_bare_name_stands_for_its_kind(tmp_path: Path) -> None:
    short = config(
        data=TINY["data"] | {"set": "sklearn_digits"},
        methods=["qat", "error_aware"],
        convert={"inputs": "lsq", "weights": "minmax", "gradient": "slope"},
        training=TINY["training"] | {"schedule": "cosine"},
        macro=MACRO | {"converter": {"bits": 6, "range": "calibrated"}, "corners": {"hot": {"column": "curve"}}},
    )
    whole = config(
        methods=[{"kind": "qat"}, {"kind": "error_aware"}],
        convert={"inputs": {"kind": "lsq"}, "weights": {"kind": "minmax"}, "gradient": {"kind": "slope"}},
        training=TINY["training"] | {"schedule": {"kind": "cosine"}},
        macro=MACRO
        | {
            "converter": {"bits": 6, "range": {"kind": "calibrated"}},
            "corners": {"hot": {"column": {"kind": "curve"}}},
        },
    )
    experiment = load(written(tmp_path, **short))
    assert experiment == parse(whole, "test")
    assert experiment.methods == (Qat(), ErrorAware())
    changed = load(written(tmp_path, **short), ["methods.0.kind=gaussian", "training.schedule.warmup=0.2"])
    assert changed.methods == (Gaussian(), ErrorAware())
    assert changed.training.schedule == Cosine(warmup=0.2)
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    assert fits(short, schema, schema)
    assert fits(whole, schema, schema)
    for bad in ({"methods": ["qad"]}, {"plan": "fast"}, {"macro": MACRO | {"placement": "reload"}}):
        assert not fits(config(**bad), schema, schema)


def test_a_bare_name_changes_a_base(tmp_path: Path) -> None:
    base = described_macro(tmp_path, **MACRO, placement={"kind": "reload", "arrays": 3})
    kept = Macro.load(described_macro(tmp_path, "same.yaml", base=base.name, placement="reload"))
    assert kept.placement == Reload(arrays=3)  # the same kind: nothing is taken away
    assert Macro.load(described_macro(tmp_path, "other.yaml", base=base.name, placement="unbounded")) != kept
    assert Macro.model_validate(MACRO | {"placement": "unbounded"}) == Macro.model_validate(MACRO)


# ------------------------------------------------------------------------------------------------- circuits, all models


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cornr": "tt"}, "cornr: no such key; did you mean corner? known: card, corner, input_bits, measure, "),
        ({"measure": "out"}, "measure: a mapping is expected, such as {name: …} (given: 'out')"),
        ({"scale": {"bits": True, "counts": 12}}, f"scale.bits: {TRUTH}"),
        ({"mismatch": {"cell": {"sigma": 0.1}}}, "mismatch.cell: `kind` is missing; there are: transistor, relative"),
        ({"mismatch": {"cell": "relative"}}, "mismatch.cell.sigma: required, but missing"),
        (
            {"parameters": {"unit": [1]}},
            "parameters.unit: Input should be a valid number, or a valid string (given: [1",
        ),
        ({"scale": {"bits": 4, "counts": 13}}, "scale.counts = 13 exceeds the 12 counts that all rows make"),
    ],
)
def test_a_circuit(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = described(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {says}")):
        Circuit.load(file)


def test_a_change_of_a_circuit(tmp_path: Path) -> None:
    circuit = Circuit.load(described(tmp_path))
    with pytest.raises(ValueError, match=r"^circuit own: temperature: '3 V' has the unit 'V'; expected kelvin"):
        circuit.at(temperature="3 V")


class Part(Written):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["part"] = "part"
    pair: tuple[int, int] = (0, 0)
    many: tuple[int, ...] = Field(default=(), min_length=2)
    either: int | str = 0
    named: dict[str, float] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"pair": 8}, "pair: a list is expected, such as [8, 8] (given: 8)"),
        (
            {"many": [1, "x"]},
            "many.1: Input should be a valid integer, unable to parse string as an integer (given: 'x",
        ),
        ({"many": [1]}, "many: List should have at least 2 items after validation, not 1 (given: [1])"),
        ({"either": [1]}, "either: Input should be a valid integer, or a valid string (given: [1])"),
        ({"named": {"a\nb": "x"}}, "named.a\nb: Input should be a valid number"),
        ({"named": 3}, "named: a mapping is expected, such as {key: …} (given: 3)"),
        ({"named": {"a": True}}, f"named.a: {TRUTH}"),
        ({"many": "x" * 200}, "many: a list is expected, such as ["),
        (3, "a mapping is expected, such as {pair: …}"),
    ],
)
def test_any_model(data: Any, says: str) -> None:
    with pytest.raises(ValidationError) as found:
        Part.model_validate(data)
    message = explain(found.value, Part, "file")
    assert " ".join(says.split()) in " ".join(message.split())
    assert len(message) < 400


def test_messages_repeat_no_mapping(tmp_path: Path) -> None:
    assert "{" not in told(tmp_path, macro=MACRO | {"active_rows": 99})
    with pytest.raises(ValidationError) as found:
        Experiment.model_validate(config(macro=MACRO | {"trim": {}}))
    assert explain(found.value, Experiment, "e.yaml") == (
        "e.yaml: macro: trim corrects gain_sigma and offset_sigma of a curve column: there is neither"
    )
