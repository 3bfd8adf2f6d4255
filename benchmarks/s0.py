"""S0's comparison: error-aware against Gaussian training on a macro from ngspice, and its falsifier, where both tie.

The macro was fixed before methods were compared. Handwritten digits, the demo's with a wider network, over three
seeds; ResNet20 on CIFAR-10 is ``s0_resnet20``.
"""

from __future__ import annotations

from benchmarks.seeds import demo, scores, table
from bitline import presets
from bitline.experiment import Experiment
from bitline.macro import Macro
from bitline.methods import ErrorAware, Gaussian, Qat

SEEDS = (0, 1, 2)
CHANGES = ("network.channels=[16, 32, 32]", "training.epochs=25", "test.details=false")
METHODS = (Qat(), Gaussian(), Gaussian(match="rms"), ErrorAware())


def run() -> str:
    """Both comparisons."""
    circuit, random = presets.load("generic-spice-sram-compact"), falsifier()
    parts = [
        f"**A0.4, digits, {circuit.name}, 20 chips**\n\n{compared(circuit)}",
        f"**A0.5, digits, zero-mean noise of {RANDOM:g} counts on each conversion and nothing else**\n\n"
        + compared(random),
    ]
    return "\n\n".join(parts)


RANDOM = 4.0  # counts rms


def falsifier() -> Macro:
    """The macro's digits and array with errors that are purely random, zero-mean and alike for all sums: no cell
    variation, no curve, a step of one count, and a range that noise does not leave."""
    design = presets.load("generic-spice-sram-compact").dump()
    for part in ("cell", "corners", "volts_per_count"):
        design.pop(part, None)
    design |= {
        "name": "random",
        "source": "Zero-mean noise alone: a falsifier.",
        "column": {"kind": "curve", "sigma": {"kind": "polynomial", "coefficients": [RANDOM]}},
        "converter": {"kind": "adc", "bits": 9, "range": {"kind": "fixed", "low": -64, "high": 447}},
    }
    return Macro.model_validate(design)


def digits(macro: Macro, seed: int) -> Experiment:
    """The demo's experiment on a macro, with both Gaussian rows."""
    return demo(CHANGES, seed).model_copy(update={"macro": (macro,), "methods": METHODS})


def compared(macro: Macro, seeds: tuple[int, ...] = SEEDS) -> str:
    """Each method's mean by seed; error-aware less each other, by seed and over seeds."""
    return table([scores(digits(macro, seed)) for seed in seeds], seeds, "error-aware")
