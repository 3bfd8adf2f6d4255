"""The folded plan against plain torch: ResNet20, batch 64, log-normal weight variation, a fresh chip each step."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import side_by_side, table
from bitline.macro import Macro
from bitline.methods import ErrorAware, Progress
from bitline.networks import ResNet
from bitline.nn import convert
from bitline.train import constrain

BOUNDS = {"forward": 1.3, "training step": 1.5}
STEPS = 10**9  # of a run that does not end


def run() -> str:
    """Forward and training step, bounds beside them."""
    torch.manual_seed(0)
    plain = ResNet(depth=20).build()
    macro = Macro.model_validate(
        {"name": "lognormal", "rows": 128, "columns": 128, "variation": {"kind": "lognormal", "sigma": 0.3}}
    )
    model = convert(plain, macro)
    x, y, index = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,)), torch.arange(64)

    def forward(net: nn.Module) -> None:
        net.eval()
        with torch.no_grad():
            net(x)

    method, steps = ErrorAware(), iter(range(STEPS))
    plain_step, macro_step = _optimised(plain), _optimised(model)

    def train_plain() -> None:
        net, optimiser = plain_step
        net.train()
        optimiser.zero_grad()
        cross_entropy(net(x), y).backward()
        optimiser.step()

    def train_macro() -> None:
        net, optimiser = macro_step
        net.train()
        optimiser.zero_grad()
        method.before_step(net, Progress(next(steps), STEPS))  # a fresh chip
        method.loss(net, x, y, index, cross_entropy).backward()
        optimiser.step()
        constrain(net)

    first = side_by_side({"plain torch fp32": lambda: forward(plain), "folded, one chip": lambda: forward(model)})
    second = side_by_side({"plain torch fp32": train_plain, "folded, a fresh chip each step": train_macro})
    return "\n\n".join(
        [
            table(first, f"forward (bound {BOUNDS['forward']}×)"),
            table(second, f"training step (bound {BOUNDS['training step']}×)"),
        ]
    )


def _optimised(net: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = copy.deepcopy(net)
    return net, torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
