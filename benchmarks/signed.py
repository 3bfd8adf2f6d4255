"""E-PACT against PACT where inputs have both signs: D-NAT with two learned bounds and with an upper one alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from benchmarks.dnat import SEEDS, digits, four_columns
from benchmarks.seeds import KEPT, scores, table
from bitline.experiment import Experiment, slug
from bitline.macro import Macro
from bitline.methods import DNat
from bitline.networks import Digits
from bitline.nn.quantizers import Lsq, Pact

ACTIVATIONS, SLOPE = ("leaky ReLU", "tanh"), 0.1
CASES = (("leaky ReLU", 1), ("tanh", 1), ("tanh", 4))  # and counts a code of the table, times its own
METHODS = (DNat(), DNat(inputs=Pact()))


class Signed(Digits):
    """The digits network with another activation than ReLU: inputs of all layers but the first have both signs."""

    activation: Literal["leaky ReLU", "tanh"]

    def module(self) -> nn.Sequential:
        net = super().module()
        for name, layer in net.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(net, name, nn.Tanh() if self.activation == "tanh" else nn.LeakyReLU(SLOPE))
        return net


def run() -> str:
    """Three seeds of each on the macro of D-NAT's other ablations, as it is or wider; what was done is kept."""
    parts = []
    for activation, wide in CASES:
        told = activation + (f", codes of the table {wide} times as many counts" if wide > 1 else "")
        found = [one(activation, seed, wide) for seed in SEEDS]
        parts.append(f"**{told}**\n\n{table(found, SEEDS, DNat().title)}")
    return "\n\n".join(parts)


def one(activation: str, seed: int, wide: int = 1) -> dict[str, torch.Tensor]:
    """Right answers with two bounds and with one."""
    design = four_columns("generic-skewed-sram").dump()
    column = design["column"] | {"step": wide * design["column"]["step"]}
    whole = signed(Macro.model_validate(design | {"column": column}), activation, seed)
    changed = {"methods": METHODS, "test": whole.test.model_copy(update={"recalibrate": False})}
    kept = KEPT / slug(f"signed {activation} {seed}" + (f" {wide}x" if wide > 1 else ""))
    return scores(whole.model_copy(update=changed), kept)


def signed(on: Macro, activation: str, seed: int) -> Experiment:
    """The digits with such an activation on a macro, ranges of two bounds calibrated."""
    whole = digits(on, seed)
    network = Signed.model_validate(whole.network.model_dump() | {"activation": activation})
    two = whole.convert.model_copy(update={"inputs": Lsq(asymmetric=True)})
    return whole.model_copy(update={"network": network, "convert": two})
