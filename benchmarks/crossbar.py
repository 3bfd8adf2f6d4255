"""Exact IR drop: one array of each size, programming a whole network, and its inference beside the one without wires.

1 Ω a segment, cells of 1 to 100 µS. Bounds stand in the names of the rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.timing import side_by_side, table
from bitline.circuits.crossbar import Linearised, Wires, solve
from bitline.macro import Chip, Macro
from bitline.networks import ResNet
from bitline.nn import calibrate, convert, layers, on_chip, streamlined

WIRES = Wires(word_line=1.0, bit_line=1.0, driver=50.0, sense=20.0)
SIZES = {128: (0.2, 9), 256: (0.8, 7), 1024: (20.0, 3)}  # bound in seconds, rounds
BATCH, PROGRAMMING = 64, 15.0
CONFIG = {
    "name": "wired",
    "rows": 128,
    "columns": 128,
    "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
    "cell": {"g_min": "1 uS", "g_max": "100 uS", "errors": [{"kind": "gaussian", "sigma": 0.03}]},
    "converter": {"bits": 6, "range": {"kind": "calibrated"}},
}


def run() -> str:
    """All tables, on random conductances and a trained ResNet20 where there is one."""
    return "\n\n".join(part() for part in (_arrays, _training, _resnet))


def _seconds(case: Callable[[], object], rounds: int) -> float:
    case()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        case()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _cells(tiles: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return 1e-6 + 99e-6 * torch.rand(tiles, size, size, generator=generator, dtype=torch.float64)


def _arrays() -> str:
    lines = ["| exact solve of one array | s (median) | bound, s |", "|---|---|---|"]
    for size, (bound, rounds) in SIZES.items():
        g = _cells(1, size)
        lines.append(f"| {size}×{size} | {_seconds(lambda g=g: solve(g, WIRES), rounds):.3f} | {bound:g} |")
    g = _cells(16, 128)
    lines.append(f"| 16 of 128×128, each | {_seconds(lambda: solve(g, WIRES), 3) / 16:.3f} | |")
    return "\n".join(lines)


def _training() -> str:
    g = _cells(8, 128)
    x, up = g.clone().requires_grad_(), torch.randn_like(g)
    around = Linearised.of(g, WIRES, torch.float32)
    cases: dict[str, Callable[[], object]] = {
        "solve": lambda: solve(g, WIRES),
        "solve and its gradient": lambda: torch.autograd.grad(solve(x, WIRES), x, up),
        "refresh: solve, keeping the voltages": lambda: Linearised.of(g, WIRES, torch.float32),
        "first-order update": lambda: around.at(g),
        "first-order update and its gradient": lambda: torch.autograd.grad(around.at(x), x, up),
    }
    found = side_by_side(cases, rounds=5, warm=1)
    return table(found, "8 arrays of 128×128")


def _resnet() -> str:
    torch.manual_seed(0)
    plain, x = _network(), torch.rand(BATCH, 3, 32, 32)
    macros = {"without wires": CONFIG, "with wires": CONFIG | {"wires": WIRES.model_dump()}}
    models = {
        name: calibrate(convert(plain, Macro.model_validate(config), skip=("conv1", "fc")), [x[:8]]).eval()
        for name, config in macros.items()
    }
    arrays = sum(layer.macro.layout(*layer.matrix_shape).arrays for layer in layers(models["with wires"]).values())
    lines = [f"| ResNet20 on a die, {arrays} arrays of 128×128 | s (median) |", "|---|---|"]
    for name, model in models.items():
        bound = f" (bound {PROGRAMMING:g} s)" if name == "with wires" else ""
        lines.append(f"| programming, {name}{bound} | {_seconds(lambda m=model: _program(m), 3):.2f} |")

    def forward(model: nn.Module) -> Callable[[], None]:
        read = streamlined(model)

        def case() -> None:
            with torch.no_grad():
                read(x)

        return case

    for model in models.values():
        _program(model)
    cases = {f"macro {name}": forward(model) for name, model in models.items()}
    return "\n".join(lines) + "\n\n" + table(side_by_side(cases, rounds=15), f"ResNet20, batch {BATCH}, forward")


def _program(model: nn.Module) -> None:
    on_chip(model, Chip(0, 0))
    with torch.no_grad():
        for layer in layers(model).values():
            layer.program()


def _network() -> nn.Module:
    try:
        return ResNet(depth=20, weights="resnet20-cifar10").build().eval()
    except FileNotFoundError:
        return ResNet(depth=20).build().eval()
