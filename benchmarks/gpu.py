"""The fused plan on a GPU: a product of 4096³ in 64-row tiles, 4 bits serial, and a training step of ResNet20."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import side_by_side, table
from bitline.macro import Chip, Converters, Dense, Macro, Reads, Site, fused, program
from bitline.macro.read import Keep
from bitline.methods import ErrorAware, Progress
from bitline.networks import ResNet
from bitline.nn import calibrate, convert
from bitline.train import constrain

BOUNDS = {"clean": 2.0, "noisy": 5.0}  # of input bits times the bf16 product
SIZE, BITS, TURNS = 4096, 4, 10
STEPS = 10**9  # of a training run that does not end
MACRO = {
    "name": "bit-serial",
    "rows": 64,
    "columns": 64,
    "inputs": {"kind": "unsigned", "bits": BITS},
    "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
    "converter": {"bits": 6, "range": {"kind": "calibrated"}},
}
NOISY = MACRO | {"converter": {"bits": 6, "range": {"kind": "calibrated"}, "noise": 0.3}}


def run() -> str:
    """Both, bounds beside them; one line where there is no GPU."""
    if not torch.cuda.is_available():
        return "no CUDA device: not run"
    name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}\n\n{_product()}\n\n{_training()}"


def _waited(work: Callable[[], object], turns: int = TURNS) -> Callable[[], None]:
    """Work done so many times, until the device has done it."""

    def case() -> None:
        for _ in range(turns):
            work()
        torch.cuda.synchronize()

    return case


def _product() -> str:
    x = torch.randint(0, 1 << BITS, (1, SIZE, SIZE), device="cuda").float()
    w = torch.randint(-7, 8, (SIZE, SIZE), device="cuda").float()
    a, b = x[0].bfloat16(), w.bfloat16()
    cases: dict[str, Callable[[], None]] = {
        f"{BITS} × bf16 product": _waited(lambda: a @ b.t(), TURNS * BITS),
    }
    for name, config in (("clean", MACRO), ("noisy", NOISY)):
        macro = Macro.model_validate(config)
        column = program(w, macro, Chip(seed=1), Site("layer", 0, None), 0, 1)
        keys = Reads(1, column.chip, 0, torch.zeros(1, dtype=torch.int64)).keys("layer").cuda()
        low, step = (torch.tensor(v, device="cuda") for v in (-64.0, 2.0))
        converters, words = Converters(low, step), fused.words_of(x, macro, Dense())

        read = partial(fused.run, words, column, Dense(), keys, converters)
        cases[f"macro, {name} (bound {BOUNDS[name]}×)"] = _waited(partial(read, Keep()))
        cases[f"macro, {name}, with what training keeps"] = _waited(partial(read, Keep(inside=True)))
    return table(side_by_side(cases), f"{SIZE}³, 64-row tiles, {BITS} bits serial, {TURNS} reads")


def _training() -> str:
    torch.manual_seed(0)
    plain = ResNet(depth=20).build().cuda()
    x, y = torch.rand(512, 3, 32, 32, device="cuda"), torch.randint(0, 10, (512,), device="cuda")
    index, method, steps = torch.arange(512), ErrorAware(), iter(range(STEPS))

    def step(net: nn.Module, on_macro: bool) -> Callable[[], None]:
        net = copy.deepcopy(net).train()
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

        def work() -> None:
            optimiser.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                if on_macro:
                    method.before_step(net, Progress(next(steps), STEPS))
                    loss = method.loss(net, x, y, index, cross_entropy)
                else:
                    loss = cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
            constrain(net)

        return _waited(work, 1)

    cases = {"plain torch bf16": step(plain, False)}
    for name, config in (("clean", MACRO), ("noisy", NOISY)):
        model = convert(plain, Macro.model_validate(config), skip=["conv1", "fc"])
        cases[f"macro, {name}"] = step(calibrate(model, [x]), True)
    return table(side_by_side(cases, rounds=10), "training step of ResNet20, batch 512")
