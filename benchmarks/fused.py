"""The fused plan against plain torch: forward, training step, peak memory, and chip after chip.

Bit-serial 4-bit inputs, 4-bit weights, 64-row tiles and a 6-bit ADC, all layers of a network but the first and the last
on the macro, unless a row says otherwise. Bounds stand in the names of the rows.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import side_by_side, table
from bitline.evaluate import over_chips
from bitline.macro import AnyGradient, Chip, Macro, Slope, Ste
from bitline.macro.fused import native
from bitline.methods.distil import Distillation
from bitline.networks import ResNet, Vgg
from bitline.nn import calibrate, convert, layers, on_chip, streamlined
from bitline.train import constrain

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
MACROS = {
    "clean (bound 0.8×)": BASE,
    "read noise (bound 1×)": NOISY,
    "cell variation and noise (bound 1.3×)": VARIED,
}
PLAIN, RESNET, VGG = "plain torch fp32", ("conv1", "fc"), ("0.0", "1.4")  # the layers that stay digital
BATCH, CODES, CHIPS, IMAGES = 64, 128, 5, 1000
A_DIGIT, MEMORY, OVER_CHIPS = 3.0, 1.5, 1.5  # bounds


def run() -> str:
    """All tables, on random images and weights."""
    torch.manual_seed(0)
    parts = (_resnet, _instruction_sets, _training, _vgg, _digits, _memory, _chips)
    return "\n\n".join(part() for part in parts)


def _images(count: int = BATCH) -> Tensor:
    return torch.rand(count, 3, 32, 32)


def on_macro(
    plain: nn.Module,
    config: dict[str, Any],
    x: Tensor | None = None,
    skip: Sequence[str] = RESNET,
    gradient: AnyGradient | None = None,
) -> nn.Module:
    """The network on a macro, its ranges from the first 8 samples, in eval mode."""
    model = convert(plain, Macro.model_validate(config), skip=skip, gradient=gradient or Ste())
    return calibrate(model, [(_images(8) if x is None else x)[:8]]).eval()


def forward_pass(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward pass as evaluation runs it."""

    def case() -> None:
        with torch.no_grad():
            net(x)

    return case


def _resnet() -> str:
    plain, x = ResNet(depth=20).build().eval(), _images()
    models = {name: on_macro(plain, config, x) for name, config in MACROS.items()}
    measured = {key: value for key, value in BASE.items() if key != "converter"} | {"column": _measured()}
    models[f"measured P(code, ideal code), {CODES}×{CODES} (bound 2.5×)"] = on_macro(plain, measured, x)
    cases = {PLAIN: forward_pass(plain, x)}
    cases |= {name: forward_pass(streamlined(model), x) for name, model in models.items()}
    cases["clean, module by module"] = forward_pass(next(iter(models.values())), x)
    return table(side_by_side(cases, rounds=9), f"ResNet20, batch {BATCH}, forward")


def _measured() -> dict[str, Any]:
    """A compressive column, and a spread that grows with the code."""
    ideal, code = np.arange(CODES)[:, None], np.arange(CODES)
    p = np.exp(-((code - 0.9 * ideal - 2) ** 2) / (2 * (0.5 + ideal / 60) ** 2))
    return {"kind": "table", "probability": (p / p.sum(1, keepdims=True)).tolist(), "low": -CODES / 2, "step": 1.0}


def _instruction_sets() -> str:
    plain, x, kernel = ResNet(depth=20).build().eval(), _images(), native.kernel()
    forward = forward_pass(streamlined(on_macro(plain, BASE, x)), x)
    best = kernel.bitline_use(99)  # takes the highest there is

    def by(level: int) -> Callable[[], None]:
        def case() -> None:
            kernel.bitline_use(level)
            forward()

        return case

    cases = {PLAIN: forward_pass(plain, x)}
    try:
        for level in range(best + 1):
            if kernel.bitline_use(level) == level:
                cases[f"clean, {native.cpu()}"] = by(level)
        return table(side_by_side(cases, rounds=3, warm=1), f"ResNet20, batch {BATCH}, forward, by instruction set")
    finally:
        kernel.bitline_use(best)


def training_step(net: nn.Module, amp: bool = False, distil: Distillation | None = None) -> Callable[[], None]:
    """A step of SGD as the training loop takes it, on a fresh chip where there is one; ``amp``: in bf16; ``distil``:
    with the network as it is for its teacher."""
    teacher = distil.teacher(net) if distil else None
    net.train()
    x, y = _images(), torch.randint(0, 10, (BATCH,))
    optimiser, chips = torch.optim.SGD(net.parameters(), lr=0.01), iter(range(10**9))

    def case() -> None:
        if layers(net):
            on_chip(net, Chip(0, next(chips)))
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            criterion = distil.around(cross_entropy, teacher, x) if distil and teacher else cross_entropy
            output = net(x)
        criterion(output.float(), y).backward()
        optimiser.step()
        constrain(net)  # as the loop does; scales that run away would make denormal numbers, which are slow

    return case


def _training() -> str:
    plain = ResNet(depth=20).build()
    cases = {PLAIN: training_step(copy.deepcopy(plain))}
    for name, gradient in {"Ste (bound 1.7×)": Ste(), "Slope (bound 2×)": Slope()}.items():
        model = on_macro(plain, VARIED, gradient=gradient)
        cases[f"cell variation and noise, a fresh chip each step, gradient {name}"] = training_step(model)
    return table(side_by_side(cases, rounds=7), f"ResNet20, batch {BATCH}, training step")


def _vgg() -> str:
    plain, x = Vgg(depth=8).build().eval(), _images()
    cases = {PLAIN: forward_pass(plain, x)}
    cases |= {name: forward_pass(streamlined(on_macro(plain, config, x, VGG)), x) for name, config in MACROS.items()}
    return table(side_by_side(cases, rounds=5, warm=1), f"VGG8, batch {BATCH}, forward")


def _digits() -> str:
    """Layers and macros of their own, each against plain torch, by digits: passes × conversions of an output."""
    resnet, linear, x = ResNet(depth=20).build().eval(), nn.Sequential(nn.Linear(1024, 1024)), _images()
    cases: dict[str, tuple[nn.Module, dict[str, Any], Tensor, Sequence[str]]] = {
        "Linear, 2048×1024×1024": (linear, BASE, torch.rand(2048, 1024), ()),
        "ResNet20, batch 1": (resnet, BASE, x[:1], RESNET),
        "ResNet20, 100-row tiles": (resnet, BASE | {"rows": 100}, x, RESNET),
        "ResNet20, 8-bit inputs": (resnet, BASE | {"inputs": {"kind": "unsigned", "bits": 8}}, x, RESNET),
        "ResNet20, weights in bit slices": (
            resnet,
            BASE | {"weights": {"kind": "differential", "bits": 4, "cell_bits": 1}},
            x,
            RESNET,
        ),
    }
    lines = [
        "| clean, forward | digits | plain, ms | ms | ratio (median) | ratio / digits |",
        "|---|---|---|---|---|---|",
    ]
    for name, (plain, config, data, skip) in cases.items():
        model = on_macro(plain, config, data, skip)
        macro = next(iter(layers(model).values())).macro
        digits = len(macro.inputs.radix) * len(macro.weights.radix)
        turns = {PLAIN: forward_pass(plain, data), name: forward_pass(streamlined(model), data)}
        found = side_by_side(turns, rounds=7)
        base, own = found[PLAIN], found[name]
        lines.append(
            f"| {name} (bound {A_DIGIT:g}× a digit) | {digits} | {1000 * base.seconds:.1f} | "
            f"{1000 * own.seconds:.1f} | {own.ratio:.2f} | {own.ratio / digits:.2f} |"
        )
    return "\n".join(lines)


def _memory() -> str:
    cases = {PLAIN: "False", f"clean (bound {MEMORY:g}×)": "True"}
    peaks = {name: peak(f"fused.show_peak({on})", "fused") for name, on in cases.items()}
    lines = [f"| ResNet20, batch {BATCH}, forward, a process of its own | peak memory, MiB | ratio |", "|---|---|---|"]
    lines += [f"| {name} | {peak:.0f} | {peak / peaks[PLAIN]:.3f} |" for name, peak in peaks.items()]
    return "\n".join(lines)


def peak(call: str, module: str) -> float:
    """MiB that a process of its own held at most, as ``call`` to a benchmark's ``module`` prints it."""
    command = [sys.executable, "-c", f"from benchmarks import {module}; {call}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def show_peak(macro: bool) -> None:
    """Print the peak memory of this process, kB, after forward passes."""
    torch.manual_seed(0)
    net, x = ResNet(depth=20).build().eval(), _images()
    forward = forward_pass(streamlined(on_macro(net, BASE, x)) if macro else net, x)
    for _ in range(3):
        forward()
    print_peak()


def print_peak() -> None:
    """Of the process itself: ``ru_maxrss`` would count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _chips() -> str:
    """Fewer chips than an evaluation has: time is linear in them."""
    plain, x, y = ResNet(depth=20).build().eval(), _images(IMAGES), torch.randint(0, 10, (IMAGES,))
    model, data = on_macro(plain, VARIED, x), [(x, y, torch.arange(IMAGES))]

    def often() -> None:
        with torch.no_grad():
            for batch in x.split(BATCH) * CHIPS:
                plain(batch)

    def chips() -> None:
        for _ in over_chips(model, lambda: data, CHIPS):
            pass

    cases = {f"{PLAIN}, {CHIPS} times": often, f"{CHIPS} chips (bound {OVER_CHIPS:g}×)": chips}
    what = f"ResNet20, {IMAGES} images, cell variation and noise, {CHIPS} chips for 50: the rest is linear"
    return table(side_by_side(cases, rounds=3, warm=1), what)
