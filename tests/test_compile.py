"""The folded plan is ordinary torch: it compiles without a break, exports, and maps over inputs."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from bitline.macro import Macro
from bitline.nn.calibrate import calibrate
from bitline.nn.convert import convert

pytestmark = pytest.mark.usefixtures("without_shape_checks")

MACROS = {
    "log-normal weights": {"variation": {"kind": "lognormal", "sigma": 0.3}},
    "cells": {
        "inputs": {"kind": "unsigned", "bits": 4, "digit_bits": 2},
        "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
        "cell": {"errors": [{"kind": "gaussian", "sigma": 0.05}]},
    },
    "columns and drivers": {
        "inputs": {"kind": "offset", "bits": 4},
        "weights": {"kind": "offset", "bits": 4, "cell_bits": 2},
        "column": {"kind": "curve", "gain_sigma": 0.05, "offset_sigma": 0.5},
        "driver": {"inl": [0.0, 0.02]},
    },
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, padding_mode="circular")
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=MACROS.values(), ids=MACROS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    macro = Macro.model_validate({"name": "m", "rows": 20, "columns": 30, **request.param})
    converted = calibrate(convert(Net(), macro), [images(8)]).eval()
    with torch.no_grad():
        converted(images(2))  # programs the arrays
    return converted


def test_compiles_whole(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for batch in (4, 7):
            x = images(batch, seed=batch)
            assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("strict", [False, True])
def test_exports(model, strict):
    dynamic = {"x": {0: torch.export.Dim("batch", min=2)}}
    with torch.no_grad():
        exported = torch.export.export(model, (images(4),), dynamic_shapes=dynamic, strict=strict).module()
        for batch in (4, 7):
            x = images(batch, seed=batch)
            assert torch.equal(exported(x), model(x))


def test_maps_over_inputs(model):
    x = torch.stack([images(4, seed) for seed in range(3)])
    with torch.no_grad():
        mapped = torch.vmap(model)(x)
        looped = torch.stack([model(each) for each in x])
    torch.testing.assert_close(mapped, looped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [MACROS["log-normal weights"]], indirect=True)
def test_training_step_compiles(model):
    """The step of a network with noise on its weights. The check of the weights is Python: the graph may break."""
    x, results = images(4), []
    for run in (model, torch.compile(model, backend="eager")):
        model.zero_grad()
        run(x).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code(model: nn.Module) -> None:
    if model.first.macro.weights is not None:
        pytest.skip("one network is enough for the slow backend")
    model.eval()
    with torch.no_grad():
        want = model(images(4))
        torch.testing.assert_close(torch.compile(model)(images(4)), want, rtol=1e-4, atol=1e-5)
