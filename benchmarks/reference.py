"""The reference plan, the oracle: what a bit-true forward costs before there are fused kernels."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.timing import side_by_side, table
from bitline.macro import Macro
from bitline.networks import ResNet
from bitline.nn import calibrate, convert

BASE = {
    "name": "bit-serial",
    "rows": 64,
    "columns": 64,
    "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
    "converter": {"bits": 6, "range": {"kind": "calibrated"}},
}
NOISY = BASE | {"converter": {"bits": 6, "range": {"kind": "calibrated"}, "noise": 0.3}}
VARIED = NOISY | {"cell": {"errors": [{"kind": "gaussian", "sigma": 0.03}]}}


def run() -> str:
    """ResNet20, batch 8, all convolutions but the first on the macro."""
    torch.manual_seed(0)
    plain = ResNet(depth=20).build().eval()
    x = torch.rand(8, 3, 32, 32)
    cases: dict[str, nn.Module] = {"plain torch fp32": plain}
    for name, config in {"clean": BASE, "read noise": NOISY, "cell variation and noise": VARIED}.items():
        model = convert(plain, Macro.model_validate(config), skip=["conv1", "fc"])
        cases[f"4-bit serial, 64-row tiles, 6-bit ADC, {name}"] = calibrate(model, [x]).eval()

    def forward(net: nn.Module) -> None:
        with torch.no_grad():
            net(x)

    found = side_by_side({name: (lambda net=net: forward(net)) for name, net in cases.items()}, rounds=5, warm=1)
    return table(found, "forward, reference plan")
