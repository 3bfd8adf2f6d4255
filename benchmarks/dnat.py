"""D-NAT beyond its headline: where it must tie, what its parts do, what another chip costs, what a step costs."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from benchmarks import fused, seeds, timing
from benchmarks.seeds import demo, scores, table
from bitline import presets
from bitline.evaluate import difference, over_chips, recalibrate
from bitline.experiment import Experiment, Run
from bitline.macro import Macro, Sampled, Ste
from bitline.methods import DNat, Gaussian, Qat
from bitline.methods.distil import Distillation
from bitline.networks import ResNet
from bitline.nn import requantise, use
from bitline.nn.quantizers import Pact

SEEDS = (0, 1, 2)
CHANGES = ("network.channels=[16, 16, 32]", "training.epochs=20", "test.details=false")
CODES, SPAN = 128, 2048.0  # of a table; counts
FOUR = {"kind": "twos_complement", "bits": 4, "cell_bits": 1}
NOISE = 1.5  # codes rms, of the Gaussian truth
COLUMNS, GAIN, OFFSET = 64, 0.1, 1.5  # of a chip; spread of its columns' gain, and of their offset in codes
READS = 3  # of all images on a chip
TIME, MEMORY = 2.5, 1.5  # bounds against fp32 training


def run() -> str:
    """The four tables."""
    parts = {
        "A2.6, a macro whose truth is Gaussian noise, digits: D-NAT and Gaussian training must tie": tie(),
        "Parts of D-NAT, digits on generic-skewed-sram, four 1-bit columns a weight": ablations(),
        f"A2.8, digits, accuracy in % on the columns of other chips ({READS} reads of all images)": transfer(),
        "A2.7, cost of training": cost(),
    }
    return "\n\n".join(f"**{head}**\n\n{text}" for head, text in parts.items())


KEPT = DNat(inputs=None)  # quantizers as Gaussian training has them: the error model alone differs
ABLATIONS = (  # gradient, and the bounds of the inputs
    Qat(),
    Gaussian(),
    DNat(),
    DNat(gradient=Ste()),
    DNat(gradient=Sampled()),
    DNat(inputs=Pact()),
    DNat(inputs=Pact(asymmetric=True, residual=True)),
    KEPT,
    DNat(gradient=Ste(), inputs=None),
)
PAPER = (
    "The paper's own gains of its statistical gradient over the straight-through one, on its own chip's table: +0.55 "
    "points with ResNet20, +1.3 with VGG8; of E-PACT over other quantizers: +1.1 to +30.1 and +0.51 to +12.06."
)


def tie() -> str:
    """Three seeds where nothing but zero-mean noise is wrong."""
    return table([scores(digits(macro(gaussian()), seed)) for seed in SEEDS], SEEDS, KEPT.title)


def ablations() -> str:
    """Three seeds of D-NAT with other gradients and other quantizers of the inputs; what was done is kept."""
    design = four_columns("generic-skewed-sram")
    found = []
    for seed in SEEDS:
        whole = digits(design, seed)
        test = whole.test.model_copy(update={"recalibrate": False})
        changed = whole.model_copy(update={"methods": ABLATIONS, "test": test})
        found.append(scores(changed, seeds.KEPT / f"dnat-ablations-{seed}"))
    return f"{table(found, SEEDS, DNat().title)}\n\n{PAPER}"


def four_columns(preset: str) -> Macro:
    """A preset of 1-bit columns, four of them a weight."""
    return Macro.model_validate(presets.load(preset).dump() | {"weights": FOUR})


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


@cache
def chip(number: int) -> np.ndarray:
    """Tables of a chip's columns, one a column: compressed and skewed alike, each with its own gain and offset."""
    draw = np.random.default_rng([12, number]).normal(size=(2, COLUMNS, 1))
    zero = CODES / 8  # code of no count
    sums = np.arange(CODES) - zero
    common = sums - 0.3 * np.maximum(sums, 0) ** 2 / CODES
    return law(zero + (1 + GAIN * draw[0]) * common + OFFSET * draw[1], 0.5, -4.0)


def digits(on: Macro, seed: int) -> Experiment:
    """The demo's digits on a macro with a table."""
    return demo(CHANGES, seed).model_copy(update={"macro": (on,), "methods": (Qat(), Gaussian(), KEPT)})


def transfer() -> str:
    """A2.8: trained on one chip, its pooled table, or a lot of eight chips; tested on that chip and on three others."""
    own = {"per": "column", "assign": "physical"}
    lot = np.concatenate([chip(number) for number in range(8)])
    taught = {
        "nothing: for the ideal macro": (macro(chip(0), **own), Qat()),
        "chip A's own columns": (macro(chip(0), **own), KEPT),
        "chip A's columns pooled": (macro(chip(0).mean(0)), KEPT),
        "columns of eight chips, drawn": (macro(lot, per="column"), KEPT),
    }
    tested = {"A": macro(chip(0), **own)} | {name: macro(chip(100 + i), **own) for i, name in enumerate("BCD")}
    heads = [*(f"chip {name}" for name in tested), "B, C, D less A, points [95 %, paired]"]
    lines = [f"| D-NAT trained on | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    with tempfile.TemporaryDirectory() as folder:
        start = None
        for name, (design, method) in taught.items():
            walk = Run(digits(design, 0), Path(folder) / name, lambda line: None, progress=False)
            start = start or walk.float_network()
            state = walk.trained(walk.converted(start, design), design, method).state_dict()
            for row, own_norms in ((name, False), (f"{name} + BN recalibrated on each chip", True)):
                found = [read_on(there, walk, start, state, own_norms) for there in tested.values()]
                drop = difference(torch.stack(found[1:]), found[0][None], ("others", "A"))
                cells = [f"{100 * float(right.mean()):.2f}" for right in found]
                cells.append(f"{drop.mean:+.2f} [{drop.ci95[0]:+.2f}, {drop.ci95[1]:+.2f}]")
                lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read_on(there: Macro, walk: Run, start: nn.Module, state: dict[str, torch.Tensor], own_norms: bool) -> torch.Tensor:
    """How often a trained network is right about each image on a die, over its reads; ``own_norms``: with the
    statistics of batch norm from training images on that very die."""
    model = walk.converted(start, there)
    model.load_state_dict(state)
    use(model.eval())
    if own_norms:
        recalibrate(model, walk.plain(), most=walk.experiment.test.recalibration_batches)
    return torch.stack([trial.right for trial in over_chips(model, walk.source, READS)]).double().mean(0)


def cost() -> str:
    """A2.7: time and peak memory of a training step of ResNet20 against fp32, on the skewed table with one-bit weights
    and as ``examples/dnat-resnet20.yaml`` has it: four one-bit columns a weight and a teacher, which fp32 then has too.
    """
    plain = ResNet(depth=20).build()
    skewed = presets.load("generic-skewed-sram").dump()
    four = four_columns("generic-pedestal-sram").dump()
    told = f"ResNet20, batch {fused.BATCH}, training step (bound {TIME:g}×)"
    times = []
    for name, design, distil in (
        ("", skewed, None),
        (", four columns a weight", four, None),
        (", four columns a weight, distilled", four, Distillation()),
    ):
        cases = {
            f"{fused.PLAIN}, distilled" if distil else fused.PLAIN: fused.training_step(
                copy.deepcopy(plain), False, distil
            ),
            f"D-NAT{name}": fused.training_step(taught(plain, design), False, distil),
            f"D-NAT{name}, amp: bf16": fused.training_step(taught(plain, design), True, distil),
        }
        times.append(timing.table(timing.side_by_side(cases, rounds=7), told))
    peaks = {
        fused.PLAIN: fused.peak("dnat.show_peak()", "dnat"),
        f"D-NAT (bound {MEMORY:g}×)": fused.peak("dnat.show_peak('generic-skewed-sram')", "dnat"),
        "D-NAT, four columns a weight": fused.peak(
            "dnat.show_peak('generic-pedestal-sram', weights=dnat.FOUR)", "dnat"
        ),
    }
    lines = ["| ResNet20, training, a process of its own | peak memory, MiB | ratio |", "|---|---|---|"]
    lines += [f"| {name} | {peak:.0f} | {peak / peaks[fused.PLAIN]:.2f} |" for name, peak in peaks.items()]
    return "\n\n".join([*times, "\n".join(lines)])


def taught(net: nn.Module, design: dict[str, Any]) -> nn.Module:
    """The network on a macro, as D-NAT trains it."""
    model = fused.on_macro(net, design, gradient=DNat().gradient)
    requantise(model, Pact(asymmetric=True))
    return model


def show_peak(preset: str | None = None, **changes: Any) -> None:
    """Print the peak memory of this process, kB, after three training steps, in float or on a preset."""
    torch.manual_seed(0)
    net = ResNet(depth=20).build()
    step = fused.training_step(taught(net, presets.load(preset).dump() | changes) if preset else net)
    for _ in range(3):
        step()
    fused.print_peak()
