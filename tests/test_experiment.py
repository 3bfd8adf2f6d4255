"""Whole experiments: their YAML, errors that say what would do, equal bytes, and runs that were killed."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from bitline import presets
from bitline.data import Split
from bitline.encode import DifferentialWeight
from bitline.evaluate import ledger
from bitline.experiment import Run, load, parse
from bitline.experiment import config as experiments
from bitline.macro import Chip, Macro, Site, program
from bitline.methods import ErrorAware, Gaussian, Qat
from bitline.networks import Digits
from bitline.train import CheckpointError

NAME = "generic-8t-sram"
EXAMPLES = Path(__file__).parents[1] / "examples"
TINY: dict[str, Any] = {
    "title": "tiny",
    "data": {
        "set": {"kind": "sklearn_digits"},
        "normalise": False,
        "train_images": 96,
        "test_images": 70,
        "batch": 32,
    },
    "network": {"kind": "digits", "channels": [4, 4, 8]},
    "float_training": {"epochs": 2, "lr": 0.1, "checkpoint_every": 2},
    "macro": NAME,
    "training": {"epochs": 1, "lr": 0.05, "checkpoint_every": 2},
    "methods": [{"kind": "qat"}, {"kind": "error_aware"}],
    "test": {"chips": 2, "recalibration_batches": 1, "detail_chips": 1, "detail_images": 10},
}
PLAIN = {"methods": [{"kind": "error_aware"}], "test": TINY["test"] | {"details": False, "recalibrate": False}}


def config(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY) | changes


def quiet(line: str) -> None:
    """Say nothing."""


def carry_out(data: dict[str, Any], out: Path, **more: Any) -> bytes:
    Run(parse(data, "test"), out, quiet, progress=False, **more)()
    return ((more.get("into") or out) / "result.json").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    carry_out(config(), out)
    return out


def test_pixels_that_are_not_normalised_go_from_0_to_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    data = experiments.Data.model_validate({"set": {"kind": "mnist"}, "normalise": False})
    split = Split(images, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    (part,) = data.prepared(split)
    assert torch.equal(part.images.flatten(), torch.tensor([0.0, 0.2, 1.0]))


# ------------------------------------------------------------------------------------------------------------- the YAML


def test_a_configuration_survives_its_own_yaml() -> None:
    experiment = parse(config(), "test")
    text = yaml.safe_dump(experiment.model_dump(mode="json"))
    assert parse(yaml.safe_load(text), "again") == experiment
    assert experiment.macros == (presets.load(NAME),)
    assert [method.kind for method in experiment.methods] == ["qat", "error_aware"]
    assert parse({k: v for k, v in TINY.items() if k != "methods"}, "test").methods == (
        Qat(),
        Gaussian(),
        ErrorAware(),
    )


def test_the_demo_is_an_experiment() -> None:
    file = Path(experiments.__file__).with_name("demo.yaml")
    assert load(file).test.chips == 20


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(config(**changes)))
    return file


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*-gpu.yaml")), ids=lambda path: path.stem)
def test_what_waits_for_a_gpu_is_an_experiment(path: Path) -> None:
    """Nothing but its reading is tested: each method trains on the macro, every corner is a macro."""
    experiment = load(path)
    for macro in experiment.macros:
        assert all(method.refuses(macro) is None for method in experiment.methods)
        assert all(macro.at(corner) != macro for corner in macro.corners)


def test_changes_are_laid_over_the_yaml(tmp_path: Path) -> None:
    file = written(tmp_path)
    changes = ["test.chips=7", "network.channels=[2, 3]", "methods.1.kind=gaussian", "methods.1.chips=3"]
    changes += ["training.schedule.kind=constant", "convert.skip=[fc]", "data.train_images=", "title=a=b"]
    found = load(file, changes)
    assert found.test.chips == 7
    assert found.network == Digits(channels=(2, 3))
    assert found.methods == (Qat(), Gaussian(chips=3))
    assert found.training.schedule.kind == "constant"
    assert found.convert.skip == ("fc",)
    assert found.data.train_images is None
    assert found.title == "a=b"
    assert load(file) == parse(config(), "test")


def test_a_change_reaches_into_a_preset(tmp_path: Path) -> None:
    file = written(tmp_path)
    (macro,) = load(file, ["macro.converter.bits=5", "macro.name=mine"]).macros
    assert macro.converter is not None
    assert macro.converter.bits == 5
    assert macro.column == presets.load(NAME).column


def test_a_macro_stands_on_another(tmp_path: Path) -> None:
    base = presets.load(NAME)
    weights = {"kind": "differential", "bits": 5, "cell_bits": 1}
    file = written(
        tmp_path, macro={"base": NAME, "weights": weights, "converter": {"bits": 5}, "volts_per_count": None}
    )
    (macro,) = load(file).macros
    assert macro.name == f"{NAME} (converter, volts_per_count, weights)"
    assert macro.source.startswith(f"{NAME} with other converter, volts_per_count, weights. ")
    assert macro.weights == DifferentialWeight(**weights)  # of another kind: nothing of the base's is left
    assert base.converter is not None
    assert base.volts_per_count is not None
    assert macro.converter == base.converter.model_copy(update={"bits": 5})
    assert macro.volts_per_count is None
    assert macro.column == base.column
    (deeper,) = load(file, ["macro.converter.bits=6"]).macros
    assert deeper.converter is not None
    assert deeper.converter.bits == 6
    assert deeper.weights == macro.weights


def test_a_macro_file_stands_on_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(yaml.safe_dump({"base": NAME, "name": "a", "rows": 32}))
    (tmp_path / "sub" / "b.yaml").write_text(yaml.safe_dump({"base": "a.yaml"}))
    assert Macro.load(tmp_path / "sub" / "b.yaml") == presets.load(NAME).model_copy(
        update={"name": "a", "rows": 32, "source": f"{NAME} with other rows. {presets.load(NAME).source}"}
    )
    file = written(tmp_path, macro=[{"base": "sub/a.yaml", "columns": 64, "name": "narrow"}, NAME])
    assert [(macro.name, macro.rows) for macro in load(file).macros] == [
        ("narrow", 32),
        (NAME, presets.load(NAME).rows),
    ]


def test_a_macro_file_lies_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(presets.load(NAME).dump() | {"name": "mine"}))
    assert load(written(tmp_path, macro="mine.yaml")).macros[0].name == "mine"
    both = load(written(tmp_path, macro=["mine.yaml", NAME]))
    assert [macro.name for macro in both.macros] == ["mine", NAME]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_pattern_that_matches_nothing_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pattern 'conv9' matches no layer; the layers are: conv1, conv2, conv3, fc"):
        carry_out(config(convert={"skip": ["conv9"]}), tmp_path)
    assert not (tmp_path / "train").exists()


UNCONVERTED = {"name": "m", "rows": 8, "columns": 8, "variation": {"kind": "lognormal", "sigma": 0.1}}
TABLE = {"kind": "table", "mean": [0, 1, 2], "sigma": [0, 0, 0]}
PACT = {"kind": "dnat", "inputs": {"kind": "pact"}}
SIGNED = {"base": "generic-skewed-sram", "inputs": {"kind": "twos_complement", "bits": 4, "digit_bits": 4}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": [{"kind": "dnat"}]}, "dnat on generic-8t-sram: .* the macro has none"),
        ({"methods": [PACT], "macro": SIGNED}, "dnat on generic-skewed-sram .*it needs unsigned codes"),
        (
            {"methods": [{"kind": "gaussian"}], "macro": UNCONVERTED},
            "gaussian on m: .* converter, and the macro has none",
        ),
        ({"macro": {"base": NAME, "cell": {"errors": [TABLE]}}}, "cell table has 3 levels, but"),
        ({"macro": {"base": NAME, "driver": {"levels": [0, 1, 2]}}}, r"driver\.levels: 3 given, digits"),
        ({"data": TINY["data"] | {"normalise": True}}, "of the observed values are negative"),
    ],
)
def test_what_does_not_fit_is_told_before_training(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        carry_out(config(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_methods_follow_the_error_where_none_are_named(tmp_path: Path) -> None:
    """Errors relative to the range have their own recipe, and the report says why; methods named have no reason."""
    memory = {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": 0.1}}
    silent = {key: value for key, value in TINY.items() if key != "methods"}
    titles = [one.title for one in parse(silent | {"macro": memory}, "silent").methods]
    assert titles == ["untrained on chips", "HA-SGD", "HA-SGD (clipped at 2 std), distilled"]
    for other in (NAME, [memory, NAME]):
        assert [one.kind for one in parse(silent | {"macro": other}, "silent").methods] == [
            "qat",
            "gaussian",
            "error_aware",
        ]
    usual = Run(parse(silent | {"macro": memory}, "silent"), tmp_path / "silent", quiet, progress=False)
    assert "best of thirteen" in usual.facts()["methods"]
    named = Run(parse(TINY | {"macro": memory}, "named"), tmp_path / "named", quiet, progress=False)
    assert "methods" not in named.facts()


def test_norms_and_errors_of_weights_are_told(tmp_path: Path) -> None:
    """Where the weights themselves vary, how much each layer can make of an error is told of every network."""
    quiet = {"kind": "error_aware", "suppress": {"beta": 0.01}}
    untrained, trained = json.loads(carry_out(config(macro=UNCONVERTED, methods=[quiet]), tmp_path))["gains"].values()
    assert [row["layer"] for row in untrained] == [row["layer"] for row in trained]
    assert all(row["error"] == pytest.approx(0.1, rel=0.01) for row in (*untrained, *trained))  # σ, nearly
    assert all(row["wanted"] is None for row in untrained)
    assert all(row["wanted"] is not None for row in trained)


def test_shares_of_weights_are_verified(tmp_path: Path) -> None:
    """A row for each share; all of them is what the macro does anyway, and pulses are told."""
    said: list[str] = []
    test = TINY["test"] | {"details": False, "recalibrate": False, "verify": [0, 0.1, 1]}
    data = config(macro="generic-ctt-128", methods=[{"kind": "error_aware"}], test=test)
    Run(parse(data, "test"), tmp_path, said.append, progress=False)()
    rows = {row["method"]: row["per_chip"] for row in json.loads((tmp_path / "result.json").read_text())["rows"]}
    names = ["untrained on chips", "error-aware"]
    assert [name for name in rows if "verified" in name] == [
        f"{name} + {share} % verified" for name in names for share in (0, 10, 100)
    ]
    assert all(rows[name] == rows[f"{name} + 100 % verified"] for name in names)
    took = [int(re.search(r"verified: (\d+) pulses", line)[1]) for line in said if "pulses for" in line]  # type: ignore[index]
    assert took[0] < took[1] < took[2]
    with pytest.raises(ValueError, match=r"test\.verify on generic-8t-sram: its cells have no write–verify loop"):
        carry_out(config(test=test), tmp_path / "no loop")


def test_a_corner_that_does_not_fit_is_told_before_training(tmp_path: Path) -> None:
    macro = {"base": NAME, "corners": {"hot": {"driver": {"levels": [0, 1, 2]}}}}
    with pytest.raises(ValueError, match=r"driver\.levels: 3 given, digits"):
        carry_out(config(macro=macro, test=TINY["test"] | {"corners": True}), tmp_path)


@pytest.mark.parametrize("change", ["training.seed=3", "float_training.seed=3", "methods.1.seed=3"])
def test_parts_have_no_seed_of_their_own(tmp_path: Path, change: str) -> None:
    with pytest.raises(ValueError, match="seed = 3: give the experiment's `seed`"):
        load(written(tmp_path), [change])


def test_an_untrained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give float_training, or network.weights"):
        carry_out(config(float_training=None), tmp_path)


def float_weights(file: Path) -> dict[str, torch.Tensor]:
    state = {k: v.contiguous() for k, v in Digits(channels=(4, 4, 8)).build(seed=2).state_dict().items()}
    save_file(state, file)
    return state


def test_weights_that_are_nan_are_named(tmp_path: Path) -> None:
    state = float_weights(tmp_path / "w.safetensors")
    state["conv2.weight"][0, 0, 1, 1] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    network = TINY["network"] | {"weights": str(tmp_path / "w.safetensors")}
    with pytest.raises(ValueError, match=r"1 not finite: conv2.weight"):
        carry_out(config(network=network, float_training=None), tmp_path / "out")


def test_weights_outside_the_range_are_named() -> None:
    weights = torch.zeros(4, 9)
    weights[2, 5] = 9
    with pytest.raises(ValueError, match=r"conv1: weight\[2, 5\] = 9"):
        program(weights, presets.load(NAME), Chip(0, 0), Site("conv1"))


def test_data_that_are_nan_are_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    x[3, 2, 2] = np.nan
    y = np.arange(20) % 10
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = {"set": {"kind": "numpy", "file": str(tmp_path / "d.npz")}}
    with pytest.raises(ValueError, match=r"d.npz: sample 3 holds NaN"):
        carry_out(config(data=data), tmp_path / "out")


def test_a_truncated_checkpoint_is_named(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole / "train", tmp_path / "train")
    folder = tmp_path / "train" / "float"
    file = folder / json.loads((folder / "latest.json").read_text())["file"]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=rf"{file.name} is truncated: .*previous.json"):
        carry_out(config(), tmp_path)


def test_a_checkpoint_of_another_macro_is_refused(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole / "train", tmp_path / "train")
    other = presets.load(NAME).dump()
    other["column"]["gain_sigma"] = 0.01
    with pytest.raises(CheckpointError, match="belongs to another macro: fingerprint"):
        carry_out(config(macro=other), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(ValueError, match=rf"output folder {out} cannot be written"):
            carry_out(config(), out)


def test_a_folder_holds_one_experiment(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"holds another experiment .*--fresh to start over"):
        carry_out(config(seed=1), whole)
    with pytest.raises(ValueError, match="holds another experiment"):
        carry_out(config(data=TINY["data"] | {"batch": 16}), whole)
    with pytest.raises(ValueError, match="holds another experiment"):
        carry_out(config(macro="generic-rram-128"), whole)


# -------------------------------------------------------------------------------------------------------------- results


def test_methods_that_differ_in_no_word_have_folders_of_their_own(tmp_path: Path) -> None:
    """One alone, and one of the same title before another; titles longer than file names may be."""
    at = [f"{'*' * n}fc" for n in range(30)]
    methods = [
        {"kind": "gaussian", "chips": 1},
        {"kind": "compensate", "at": at, "after": {"kind": "gaussian", "chips": 2}},
    ]
    found = Run(parse(config(**PLAIN | {"methods": methods}), "test"), tmp_path, quiet, progress=False)()
    assert len(found.rows) == 5
    folders = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert [name.rpartition("-")[0] for name in folders].count("generic-8t-sram-gaussian-trained") == 2
    assert len(folders) == 4
    assert all(len(name) < 120 for name in folders)


def test_the_rows_of_a_result(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    names = ["float", "ideal macro", "untrained on chips", "untrained on chips + BN recalibrated"]
    names += ["error-aware", "error-aware + BN recalibrated"]
    assert [row["method"] for row in result["rows"]] == names
    assert [row["chips"] for row in result["rows"]] == [1, 1, 2, 2, 2, 2]
    assert [row["steps"] for row in result["rows"]] == [None, 3, 3, 3, 3, 3]
    assert {row["images"] for row in result["rows"]} == {70}
    means = {row["method"]: row["mean"] for row in result["rows"]}
    best = max(names[2:], key=means.__getitem__)
    pairs = [(one["of"], one["against"]) for one in result["differences"]]
    assert pairs == [*((best, name) for name in names[2:] if name != best), ("ideal macro", best)]
    for one in result["differences"]:
        assert one["mean"] == pytest.approx(means[one["of"]] - means[one["against"]], abs=1e-3)
    assert {one["layer"] for one in result["layers"]} == {"conv1", "conv2", "conv3", "fc"}
    assert {"variation", "noise", "curve", "resolution", "clipping"} == {one["cause"] for one in result["explanation"]}
    assert result["macros"][NAME] == json.loads(json.dumps(presets.load(NAME).dump()))
    assert result["sentence"]
    assert sorted(path.name for path in whole.iterdir() if path.is_file()) == [
        "experiment.yaml", "report.html", "result.json", "rows.csv", "run.json"
    ]  # fmt: skip


def test_the_order_of_the_methods_changes_no_difference(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    after = json.loads(carry_out(config(methods=TINY["methods"][::-1]), tmp_path))
    before = json.loads((whole / "result.json").read_text())
    for part in ("sentence", "differences", "sensitivity", "explanation"):
        assert after[part] == before[part]


def test_a_result_holds_no_time_path_or_host(whole: Path) -> None:
    text = (whole / "result.json").read_text()
    told = json.loads((whole / "run.json").read_text())
    for secret in (str(whole), "/tmp", str(Path.cwd()), platform.node(), told["finished"][:10], "seconds"):
        assert secret not in text
    assert {"command", "seconds", "finished", "host", "versions"} == told.keys()


def test_two_runs_are_equal_to_the_byte(tmp_path: Path, whole: Path) -> None:
    assert carry_out(config(), tmp_path) == (whole / "result.json").read_bytes()


def test_the_batch_size_changes_no_test(tmp_path: Path) -> None:
    """Without training, a whole experiment (calibration, batch norm and all) is the same for any batch."""
    float_weights(tmp_path / "w.safetensors")
    network = TINY["network"] | {"weights": str(tmp_path / "w.safetensors")}
    texts = set()
    for size in (7, 64):
        data = config(network=network, float_training=None, methods=[], data=TINY["data"] | {"batch": size})
        texts.add(carry_out(data, tmp_path / str(size)))
    assert len(texts) == 1
    rows = json.loads(texts.pop())["rows"]
    names = ["float", "ideal macro", "untrained on chips", "untrained on chips + BN recalibrated"]
    assert [row["method"] for row in rows] == names
    assert [row["steps"] for row in rows] == [None, 0, 0, 0]


def test_answers_are_kept(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run asks no chip again; more chips ask the new ones alone; other methods share the folder."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    asked = []
    original = ledger.over_chips

    def counted(model: Any, source: Any, chips: int, *rest: Any, known: Any, **more: Any) -> Any:
        asked.extend(number for number in range(chips) if number not in known)
        return original(model, source, chips, *rest, known=known, **more)

    monkeypatch.setattr(ledger, "over_chips", counted)
    assert carry_out(config(), tmp_path) == (whole / "result.json").read_bytes()
    assert asked == []
    more = carry_out(config(test=TINY["test"] | {"chips": 3}), tmp_path)
    assert asked == [2] * 4
    before, after = (json.loads(text)["rows"] for text in ((whole / "result.json").read_bytes(), more))
    assert all(new["per_chip"][:2] == old["per_chip"] for old, new in zip(before[2:], after[2:], strict=True))
    damaged = next(file for file in (tmp_path / "answers").iterdir() if len(ledger.read(file)) == 3)
    damaged.write_bytes(damaged.read_bytes()[:20])
    asked.clear()
    assert carry_out(config(), tmp_path) == (whole / "result.json").read_bytes()
    assert asked == [0, 1]
    asked.clear()
    own = PLAIN["test"] | {"recalibrate_per_chip": True}
    for most in (1, 2):  # other statistics, other answers
        carry_out(config(methods=PLAIN["methods"], test=own | {"recalibration_batches": most}), tmp_path)
    assert asked == [0, 1] * 5  # three new rows, then the two with statistics of their own


def test_corners_and_statistics_of_each_chip_are_rows(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    test = TINY["test"] | {"recalibrate": False, "recalibrate_per_chip": True, "corners": True, "details": False}
    data = config(test=test, methods=[{"kind": "error_aware"}])
    rows = json.loads(carry_out(data, tmp_path, into=tmp_path / "corners"))["rows"]
    told = [(row["method"], row["condition"]) for row in rows if row["method"].startswith("error-aware")]
    conditions = ["nominal", *presets.load(NAME).corners]
    assert told == [("error-aware", c) for c in conditions] + [
        ("error-aware + BN recalibrated per chip", c) for c in conditions
    ]
    assert (whole / "result.json").read_bytes() == (tmp_path / "result.json").read_bytes()


def test_two_macros_side_by_side(tmp_path: Path) -> None:
    small = presets.load(NAME).model_copy(update={"name": "small", "rows": 32})
    rows = json.loads(carry_out(config(macro=[small.dump(), NAME], **PLAIN), tmp_path))["rows"]
    names = ["ideal macro", "untrained on chips", "error-aware"]
    assert [row["method"] for row in rows[1:]] == [f"{n}, {m}" for m in ("small", NAME) for n in names]
    assert rows[2]["steps"] == 0
    assert rows[3]["steps"] == 3


# ------------------------------------------------------------------------------------------------------------- kill -9

DIES = """
import os, signal, sys
import {module} as module
original, left = module.{function}, [{after}]
def dying(*args, **named):
    original(*args, **named)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
module.{function} = dying
from bitline.cli import app
app()
"""


@pytest.mark.parametrize(
    ("module", "function", "after"),
    [("bitline.train.checkpoint", "save", 6), ("bitline.evaluate.ledger", "append", 3)],
    ids=["training", "evaluation"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, whole: Path, module: str, function: str, after: int
) -> None:
    file, out = written(tmp_path), tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = DIES.format(module=module, function=function, after=after)
    arguments = ["run", str(file), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (out / "train" / "float" / "latest.json").exists()
    assert not (out / "result.json").exists()
    assert (out / "answers").exists() == (module == "bitline.evaluate.ledger")
    Run(load(file), out, quiet, progress=False)()
    assert (out / "result.json").read_bytes() == (whole / "result.json").read_bytes()
