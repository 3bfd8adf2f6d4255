"""Networks larger than the chip: evaluation holds what the chip's arrays do, and the answers stay the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from bitline.evaluate import over_chips
from bitline.macro import Macro
from bitline.nn import calibrate, convert, layers, silicon
from bitline.nn.die import Silicon

DATA = torch.rand(70, 20, generator=torch.Generator().manual_seed(0)), torch.arange(70) % 4, torch.arange(70)


def macro(arrays: int | None) -> Macro:
    placement = {"kind": "unbounded"} if arrays is None else {"kind": "reload", "arrays": arrays}
    return Macro.model_validate(
        {
            "name": "m", "rows": 16, "columns": 32, "inputs": {"kind": "unsigned", "bits": 4},
            "weights": {"kind": "twos_complement", "bits": 4}, "placement": placement,
            "cell": {"errors": [{"kind": "gaussian", "sigma": 0.1}], "read_sigma": 0.05}, "converter": {"bits": 7},
        }
    )  # fmt: skip


def network() -> nn.Module:
    """Layers of 6, 2, 4 and 2 arrays."""
    torch.manual_seed(0)
    sizes = ((20, 24), (24, 8), (8, 32), (32, 4))
    parts = [part for inputs, outputs in sizes for part in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def on_chips(model: nn.Module) -> Tensor:
    return torch.stack([trial.right for trial in over_chips(model, lambda: [DATA], 2)])


@pytest.mark.parametrize("arrays", [1, 4, 7, 100])
def test_no_more_than_the_arrays_are_held(arrays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = calibrate(convert(network(), macro(arrays)), [DATA[0]]).eval()
    most, seen = 0, []

    def watched(layer: nn.Module, *_: object) -> None:
        nonlocal most
        held = [other for other in layers(model).values() if other._column is not None]
        assert layer in held
        seen.append(len(held))
        taken = [array for other in held for array in other.arrays]
        assert len(taken) == len(set(taken))  # no array holds two layers
        most = max(most, len(taken))

    hooks = [layer.register_forward_hook(watched) for layer in layers(model).values()]
    answers = on_chips(model)
    for hook in hooks:
        hook.remove()
    assert most <= arrays
    assert max(seen) == {1: 1, 4: 1, 7: 2, 100: 4}[arrays]
    assert torch.equal(on_chips(model), answers)
    monkeypatch.setattr(Silicon, "write_arrays", lambda self, layer: None)
    assert torch.equal(on_chips(model), answers)  # as if all layers were held
    assert [layer.macro.layout(*layer.matrix_shape).arrays for layer in layers(model).values()] == [6, 2, 4, 2]


def test_layers_with_arrays_of_their_own_stay() -> None:
    model = calibrate(convert(network(), macro(None)), [DATA[0]]).eval()
    on_chips(model)
    with torch.no_grad():
        model(DATA[0])
    assert all(layer._column is not None for layer in layers(model).values())
    assert silicon(model).written == {}


PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from bitline.evaluate import over_chips
from bitline.macro import Macro
from bitline.nn import calibrate, convert

torch.set_num_threads(1)
size, depth = 512, 12
placement = {"kind": "reload", "arrays": 64} if sys.argv[1] == "reload" else {"kind": "unbounded"}
macro = Macro.model_validate({
    "name": "m", "rows": 128, "columns": 256, "inputs": {"kind": "unsigned", "bits": 4}, "placement": placement,
    "weights": {"kind": "differential", "bits": 5, "cell_bits": 1},
    "cell": {"errors": [{"kind": "gaussian", "sigma": 0.1}]}, "converter": {"bits": 8},
})
net = nn.Sequential(*[nn.Sequential(nn.Linear(size, size), nn.ReLU()) for _ in range(depth)])
x = torch.rand(64, size)
model = calibrate(convert(net, macro), [x])
for trial in over_chips(model, lambda: [(x, torch.zeros(64, dtype=torch.int64), torch.arange(64))], 1):
    pass
status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def test_the_peak_does_not_grow_with_the_layers() -> None:
    """12 layers of 512 × 512 weights in 8 cells each: 8 MiB of cells a layer, of which one fits the chip."""

    def peak(placement: str) -> int:
        command, path = [sys.executable, "-c", PEAK, placement], os.pathsep.join(sys.path)
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    cells = 8 * 1024  # kB a layer
    assert peak("unbounded") - peak("reload") > 9 * cells
