"""The folded plan against plain torch: ResNet20, batch 64, weights that vary, a fresh chip each step."""

from __future__ import annotations

import copy

import torch

from benchmarks import fused
from benchmarks.timing import side_by_side, table
from bitline.macro import Macro
from bitline.networks import ResNet
from bitline.nn import convert

BOUNDS = {"forward": 1.3, "training step": 1.3}
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
    x = torch.randn(fused.BATCH, 3, 32, 32)
    nets = {fused.PLAIN: plain} | models
    steps = {name: fused.training_step(copy.deepcopy(net)) for name, net in nets.items()}
    first = side_by_side({name: fused.forward_pass(net.eval(), x) for name, net in nets.items()})
    second = side_by_side(steps)
    return "\n\n".join(
        [
            table(first, f"one chip: forward (bound {BOUNDS['forward']}×)"),
            table(second, f"a fresh chip each step: training step (bound {BOUNDS['training step']}×)"),
        ]
    )
