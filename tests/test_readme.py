"""The README's Python walk, run as it stands; and the examples that help and documents name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import bitline as bl
from bitline.data import SklearnDigits, batches
from bitline.macro import Macro

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first code block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.S)
    assert found
    return found[1]


def test_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    macro = yaml.safe_load(block("yaml"))
    Path("macro.yaml").write_text(block("yaml"), encoding="utf-8")
    assert Macro.load("macro.yaml").name == macro["name"]
    data = SklearnDigits()
    names = {
        "net": bl.networks.Digits(channels=(2, 2, 4)).build(),
        "loader": list(batches(data.train()[:128], 64)),
        "test": list(batches(data.test()[:64], 64)),
    }
    code = block("python").replace("epochs=10", "epochs=1").replace("chips=50", "chips=2").replace('"conv1"', '"conv1"')
    exec(compile(code, "README.md", "exec"), names)  # the README is ours
    assert Path("report.html").stat().st_size > 1000
    assert names["result"].rows[1].chips == 2
    assert names["plain"](torch.rand(1, 1, 8, 8)).shape == (1, 10)
    bl.train(names["model"], names["loader"], config=bl.TrainConfig(steps=1, lr=1e-3), progress=False)  # twice


NAMING = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src" / "bitline").rglob("*.py")]


def test_examples_that_are_named_exist() -> None:
    """In documents, docstrings and the help of commands."""
    named = {
        (name, file.relative_to(ROOT))
        for file in NAMING
        for name in re.findall(r"examples/[\w./-]*\w", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert not [f"{name} in {file}" for name, file in sorted(named) if not (ROOT / name).is_file()]
