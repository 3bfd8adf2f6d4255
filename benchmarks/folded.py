"""The folded plan against plain torch: ResNet20, batch 64, weights that vary, a fresh chip each step."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import side_by_side, table
from bitline.macro import Macro
from bitline.methods import ErrorAware, Progress
from bitline.networks import ResNet
from bitline.nn import convert
from bitline.train import constrain

BOUNDS = {"forward": 1.3, "training step": 1.3}
STEPS = 10**9  # of a run that does not end
PLAIN = "plain torch fp32"
ARRAY = {"name": "benchmark", "rows": 128, "columns": 128}
MATCHED = {"amplitude": "matched"}
MACROS = {
    "log-normal weights": {"variation": {"kind": "lognormal", "sigma": 0.3}},
    "errors relative to the range": {"variation": {"kind": "range", "sigma": 0.1}},
    "the same, biases and batch norms on the array": {
        "variation": {"kind": "range", "sigma": 0.1},
        "bias": MATCHED,
        "norm": MATCHED,
    },
}


def run() -> str:
    """Forward and training step, bounds beside them."""
    torch.manual_seed(0)
    plain = ResNet(depth=20).build()
    models = {name: convert(plain, Macro.model_validate(ARRAY | part)) for name, part in MACROS.items()}
    x, y, index = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,)), torch.arange(64)

    def forward(net: nn.Module) -> None:
        net.eval()
        with torch.no_grad():
            net(x)

    method, steps = ErrorAware(), iter(range(STEPS))

    def step(net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        net.train()
        optimiser.zero_grad()
        if net is trained[PLAIN][0]:
            loss = cross_entropy(net(x), y)
        else:
            method.before_step(net, Progress(next(steps), STEPS))  # a fresh chip
            loss = method.loss(net, x, y, index, cross_entropy)
        loss.backward()
        optimiser.step()
        constrain(net)

    nets = {PLAIN: plain} | models
    trained = {name: _optimised(net) for name, net in nets.items()}
    first = side_by_side({name: partial(forward, net) for name, net in nets.items()})
    second = side_by_side({name: partial(step, *pair) for name, pair in trained.items()})
    return "\n\n".join(
        [
            table(first, f"one chip: forward (bound {BOUNDS['forward']}×)"),
            table(second, f"a fresh chip each step: training step (bound {BOUNDS['training step']}×)"),
        ]
    )


def _optimised(net: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = copy.deepcopy(net)
    return net, torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
