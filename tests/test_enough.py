"""How many measurements are enough for a network's accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import bitline as bl
from bitline.cli import app
from bitline.evaluate import AccuracyCurve
from bitline.evaluate.enough import SizeError
from bitline.macro import Macro, fit_table
from bitline.nn import Lsq, layers
from bitline.report.sample_curve import accuracy_picture
from bitline.samples import Samples
from test_experiment import TINY

CODES, COLUMNS = 17, 8
KEPT = {"name": "m", "rows": 16, "columns": COLUMNS, "inputs": {"kind": "unsigned", "bits": 2}}


def log(reads: int, seed: int = 0) -> Samples:
    """Reads of columns with an offset of their own, noisier at higher sums."""
    rng = np.random.default_rng(seed)
    offset = np.random.default_rng(1).normal(0, 0.3, COLUMNS)
    ideal, column = rng.integers(0, CODES, reads), rng.integers(0, COLUMNS, reads)
    code = ideal + offset[column] + (0.1 + 0.03 * ideal) * rng.standard_normal(reads)
    return Samples(ideal=ideal, code=np.clip(np.round(code), 0, CODES - 1).astype(int), column=column)


def network(macro: Macro) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Two layers that separate four clouds, and clouds that lie close enough for errors to matter."""
    torch.manual_seed(0)
    centre = torch.rand(4, 16)
    y = torch.arange(1600) % 4
    x = (centre[y] + 0.15 * torch.randn(1600, 16)).clamp(0, 1)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    start = Lsq(init=None)  # ranges that clip, where errors of columns matter
    model = bl.convert(net.eval(), macro, inputs=start, weights=start)
    bl.calibrate(model, [x], 1)
    return model, [(x, y)]


def on(samples: Samples, per: str = "pooled", **how: object) -> Macro:
    table = fit_table(samples, per, codes=CODES, **how)  # type: ignore[arg-type]
    return Macro.model_validate({**KEPT, "weights": {"kind": "twos_complement", "bits": 4}, "column": table})


@pytest.mark.parametrize("per", ["pooled", "bank", "column"])
def test_the_error_of_the_accuracy_falls_with_the_reads(per: str) -> None:
    samples = log(64_000)
    how = {"pooled": {}, "bank": {"bank": 2, "assign": "physical"}, "column": {"assign": "physical"}}[per]
    model, data = network(on(samples, per, **how))
    found = bl.accuracy_curve(model, data, samples, halvings=9, chips=1, tolerance=6.0, least=2, reach=6)
    print(found.text())
    reads = [size.reads for size in found.sizes]
    assert reads == sorted(reads)
    assert reads[-1] == 32_000
    assert [len(size.differences) for size in found.sizes[-2:]] == [4, 2]
    for size in found.sizes:
        assert size.ci95[0] <= size.mean <= size.ci95[1]
        assert size.bound >= max(map(abs, size.ci95)) - 1e-3
    assert found.sizes[0].bound > 1.5 * found.sizes[-1].bound
    assert found.enough is not None
    assert found.enough >= 250
    if per == "column":  # 125 reads of 136 rows
        assert found.refused is not None
        assert found.refused.startswith("125 reads: ")
    assert all(layer.macro == layer.design for layer in layers(model).values())
    assert AccuracyCurve.model_validate_json(found.model_dump_json()) == found


def curve(bounds: list[float], resolution: float = 0.1) -> AccuracyCurve:
    """As found, from the smallest part on."""
    sizes = [
        SizeError(
            reads=64_000 >> (len(bounds) - i), differences=(0.1, -bound / 2), mean=0.0, ci95=(-bound, bound / 2),
            resolution=resolution, bound=bound,
        )
        for i, bound in enumerate(bounds)
    ]  # fmt: skip
    return AccuracyCurve(whole=64_000, accuracy=91.25, tolerance=0.5, sizes=tuple(sizes))


def test_the_sentence_says_how_many_suffice() -> None:
    assert curve([2.0, 0.4, 0.9, 0.45, 0.2]).enough == 16_000  # a small part may be right by chance
    assert curve([2.0, 0.45]).sentence == (
        "32000 reads are enough: the accuracy is that of the whole log (64000 reads, 91.25 %) within 0.45 points, 0.5 "
        "being allowed."
    )
    few = curve([4.0, 2.0])
    assert few.enough is None
    assert few.sentence.startswith(
        "32000 reads are too few: the accuracy may be 2.00 points from that of the whole log"
    )
    assert "about 5.3e+05 would do" in few.sentence  # 32 000 · (2² - 0.1²)/(0.5² - 0.1²)
    assert "cannot tell: chips and images alone leave 0.80 points" in curve([4.0, 2.0], 0.8).sentence
    assert curve([2.0, 0.45]).text().count("\n") == 3


def test_the_picture_of_the_curve() -> None:
    svg = accuracy_picture(curve([2.0, 0.9, 0.4]), "a <log>")
    ElementTree.fromstring(svg)
    assert "a &lt;log&gt;" in svg
    assert svg.count('class="part"') == 6
    assert svg.count('class="whisker"') == 3
    assert "32000 reads are enough" in svg
    assert len(svg) < 10_000


def test_the_command_tells_it_of_an_experiment(tmp_path: Path) -> None:
    """A log, the macro that `bitline fit` makes of it, an experiment on that macro."""

    def call(*arguments: str | Path) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    samples, file = tmp_path / "chip.parquet", tmp_path / "net.yaml"
    log(16_000).save(samples)
    bare = KEPT | {"weights": {"kind": "twos_complement", "bits": 4}, "converter": {"kind": "adc", "bits": 5}}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(bare))
    file.write_text(yaml.safe_dump(TINY | {"macro": "chip.yaml", "methods": [{"kind": "dnat"}]}))
    done = call("fit", samples, tmp_path / "bare.yaml", "--low", "0", "--step", "1", "--out", tmp_path / "chip.yaml")
    assert done.exit_code == 0, done.output
    few = ("--out", tmp_path / "out", "--halvings", "2", "--parts", "2", "--chips", "1", "--tolerance", "50")
    done = call("enough", samples, file, *few, "--method", "dnat", "--picture", tmp_path / "enough.svg")
    assert done.exit_code == 0, done.output
    assert "reads are enough" in done.output
    ElementTree.fromstring((tmp_path / "enough.svg").read_text())
    found = json.loads(call("enough", samples, file, *few, "--where", "column=0", "--json").stdout)
    assert found["whole"] < 4_000
    assert [size["reads"] for size in found["sizes"]] == [found["whole"] // 4, found["whole"] // 2]
    other = ("--out", tmp_path / "other", "--set", "macro=generic-8t-sram", "--set", "methods=[]")
    refused = call("enough", samples, file, *other)
    assert refused.exit_code == 2
    assert "has no measured table" in refused.stderr


def test_what_cannot_be_told_is_refused() -> None:
    samples = log(4_000)
    model, data = network(on(samples))
    with pytest.raises(ValueError, match=r"tolerance = 0 must be above 0; halvings = 6"):
        bl.accuracy_curve(model, data, samples, tolerance=0.0)
    with pytest.raises(ValueError, match="code 16 in row"):
        bl.accuracy_curve(model, data, samples, codes=16)
    with pytest.raises(ValueError, match="fewer than least = 200"):
        bl.accuracy_curve(model, data, samples, least=200)
    with pytest.raises(TypeError, match="can be walked once"):
        bl.accuracy_curve(model, iter(data), samples)
    assert all(layer.macro == layer.design for layer in layers(model).values())
    exact = {**KEPT, "weights": {"kind": "twos_complement", "bits": 4}, "converter": {"kind": "adc", "bits": 5}}
    with pytest.raises(ValueError, match="macro m has no measured table"):
        bl.accuracy_curve(network(Macro.model_validate(exact))[0], data, samples)
