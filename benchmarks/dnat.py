"""D-NAT beyond its headline: where it must tie, what its parts do, what another chip costs, what a step costs."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from benchmarks import fused, timing
from benchmarks.seeds import demo, scores, table
from bitline import presets
from bitline.evaluate import interval, over_chips
from bitline.experiment import Experiment, Run
from bitline.macro import Macro, Ste
from bitline.methods import DNat, Gaussian, Qat
from bitline.networks import ResNet
from bitline.nn import requantise, use
from bitline.nn.quantizers import Pact

SEEDS = (0, 1, 2)
CHANGES = ("network.channels=[16, 16, 32]", "training.epochs=20", "test.details=false")
CODES, SPAN = 128, 2048.0  # of a table; counts
FOUR = {"kind": "twos_complement", "bits": 4, "cell_bits": 1}
NOISE = 1.5  # codes rms, of the Gaussian truth
COLUMNS, GAIN, OFFSET = 64, 0.1, 1.5  # of a chip; spread of its columns' gain, and of their offset in codes
TIME, MEMORY = 2.5, 1.5  # bounds against fp32 training


def run() -> str:
    """The four tables."""
    parts = {
        "A2.6, a macro whose truth is Gaussian noise, digits: D-NAT and Gaussian training must tie": tie(),
        "Parts of D-NAT, digits on generic-skewed-sram, four 1-bit columns a weight": ablations(),
        "A2.8, digits, accuracy in % on the columns of other chips (three reads of all images)": transfer(),
        "A2.7, cost of training": cost(),
    }
    return "\n\n".join(f"**{head}**\n\n{text}" for head, text in parts.items())


KEPT = DNat(inputs=None)  # quantizers as Gaussian training has them: the error model alone differs
ABLATIONS = (  # gradient, and the bounds of the inputs
    Qat(),
    Gaussian(),
    DNat(),
    DNat(gradient=Ste()),
    DNat(inputs=Pact()),
    DNat(inputs=Pact(asymmetric=True, residual=True)),
    KEPT,
    DNat(gradient=Ste(), inputs=None),
)


def tie() -> str:
    """Three seeds where nothing but zero-mean noise is wrong."""
    return table([scores(digits(macro(gaussian()), seed)) for seed in SEEDS], SEEDS, KEPT.title)


def ablations() -> str:
    """Three seeds of D-NAT with other gradients and other quantizers of the inputs."""
    design = presets.load("generic-skewed-sram").dump() | {"weights": FOUR}
    whole = [digits(Macro.model_validate(design), seed).model_copy(update={"methods": ABLATIONS}) for seed in SEEDS]
    return table([scores(one) for one in whole], SEEDS, DNat().title)


def macro(probability: np.ndarray, **how: Any) -> Macro:
    """The D-NAT macro's array, four bit columns a weight, with other tables."""
    design = presets.load("generic-skewed-sram").dump() | {"name": "benchmark", "source": ""}
    column = {"kind": "table", "probability": probability, "low": -SPAN / 8, "step": SPAN / CODES, **how}
    return Macro.model_validate(design | {"column": column, "weights": FOUR})


def law(mean: np.ndarray, sigma: float, skew: float = 0.0) -> np.ndarray:
    """P(code | ideal code) for mean codes ``mean`` (..., ideal codes): rounded, clipped, ``skew`` to one side."""
    shape = skew / np.sqrt(1 + skew**2)
    scale = sigma / np.sqrt(1 - 2 * shape**2 / np.pi)
    place = mean - scale * shape * np.sqrt(2 / np.pi)
    edges = stats.skewnorm.cdf((np.arange(CODES - 1) + 0.5 - place[..., None]) / scale, skew)
    return np.maximum(np.diff(edges, axis=-1, prepend=0.0, append=1.0), 0.0)  # the tail's rounding


def gaussian() -> np.ndarray:
    """Zero-mean noise alike at all codes; the table starts an eighth of its span below zero, so nothing is cut."""
    return law(np.arange(CODES, dtype=np.float64), NOISE)


def chip(number: int) -> np.ndarray:
    """Tables of a chip's columns: compressed and skewed alike, each with its own gain and offset."""
    draw = np.random.default_rng([12, number]).normal(size=(2, COLUMNS, 1))
    zero = CODES / 8  # code of no count
    sums = np.arange(CODES) - zero
    common = sums - 0.3 * np.maximum(sums, 0) ** 2 / CODES
    return law(zero + (1 + GAIN * draw[0]) * common + OFFSET * draw[1], 0.5, -4.0)


def digits(on: Macro, seed: int) -> Experiment:
    """The demo's digits on a macro with a table."""
    return demo(CHANGES, seed).model_copy(update={"macro": (on,), "methods": (Qat(), Gaussian(), KEPT)})


def transfer() -> str:
    """A2.8: trained on one chip, its pooled table, or a lot of eight chips; tested on that chip, and on others."""
    lot = np.concatenate([chip(number) for number in range(8)])
    one = {"per": "column", "assign": "physical"}
    taught = {
        "ideal macro (untrained on chips)": (macro(chip(0), **one), Qat()),
        "chip A's own columns": (macro(chip(0), **one), KEPT),
        "chip A's columns pooled": (macro(chip(0).mean(0)), KEPT),
        "columns of eight chips, drawn": (macro(lot, per="column"), KEPT),
    }
    tested = {"chip A": 0, "chip B": 100, "chip C": 101}
    lines = [f"| D-NAT trained on | {' | '.join(tested)} |", "|---|" + "---|" * len(tested)]
    for name, (design, method) in taught.items():
        with tempfile.TemporaryDirectory() as folder:
            walk = Run(digits(design, 0), Path(folder) / "run", lambda line: None, progress=False)
            start = walk.float_network()
            state = walk.trained(walk.converted(start, design), design, method).state_dict()
            cells = []
            for number in tested.values():
                there = macro(chip(number), **one)
                model = walk.converted(start, there)
                model.load_state_dict(state)
                use(model.eval())
                right = torch.stack([trial.right for trial in over_chips(model, walk.source, 3)]).double().mean(0)
                low, high = interval(right[None])
                cells.append(f"{100 * right.mean():.2f} [{100 * low:.2f}, {100 * high:.2f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost() -> str:
    """A2.7: a training step of ResNet20 on the skewed table against fp32, time and peak memory."""
    plain = ResNet(depth=20).build()
    cases = {
        fused.PLAIN: fused.training_step(copy.deepcopy(plain)),
        "plain torch, amp: bf16": fused.training_step(copy.deepcopy(plain), amp=True),
    }
    for name, amp in (("", False), (", amp: bf16", True)):
        cases[f"D-NAT{name} (bound {TIME:g}×)"] = fused.training_step(taught(plain), amp)
    took = timing.table(timing.side_by_side(cases, rounds=7), f"ResNet20, batch {fused.BATCH}, training step")
    peaks = [fused.peak(f"dnat.show_peak({on})", "dnat") for on in (False, True)]
    lines = ["| ResNet20, training, a process of its own | peak memory, MiB | ratio |", "|---|---|---|"]
    for name, peak in zip((fused.PLAIN, f"D-NAT (bound {MEMORY:g}×)"), peaks, strict=True):
        lines.append(f"| {name} | {peak:.0f} | {peak / peaks[0]:.2f} |")
    return f"{took}\n\n" + "\n".join(lines)


def taught(net: nn.Module) -> nn.Module:
    """The network on the macro of the skewed table with its one-bit weights, as D-NAT trains it."""
    model = fused.on_macro(net, presets.load("generic-skewed-sram").dump(), gradient=DNat().gradient)
    requantise(model, Pact(asymmetric=True))
    return model


def show_peak(on_macro: bool) -> None:
    """Print the peak memory of this process, kB, after three training steps."""
    torch.manual_seed(0)
    net = ResNet(depth=20).build()
    step = fused.training_step(taught(net) if on_macro else net)
    for _ in range(3):
        step()
    fused.print_peak()
