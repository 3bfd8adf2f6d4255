"""What input ranges cost, layer by layer: rounding against clipping, with an upper bound alone (PACT) and with two
bounds (E-PACT), where inputs come from ReLU and where they have both signs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dnat import four_columns
from benchmarks.seeds import EXAMPLES, missing
from benchmarks.signed import ACTIVATIONS, signed
from bitline.experiment import Experiment, Run, load
from bitline.nn import InputRange, Tradeoff, input_ranges
from bitline.nn.quantizers import Lsq

IMAGES, BITS = 16, 4
SHARES = tuple(i / 20 for i in range(2, 21))  # of the extremes
RESNET = ("data.train_images=512", "data.test_images=64", "convert.skip=[]", "convert.calibration_batches=1")


def run() -> str:
    """A table a network and number of bits."""
    pedestal = four_columns("generic-pedestal-sram")
    parts = {f"digits, {name}": tables(signed(pedestal, name, 0)) for name in ACTIVATIONS}
    if (why := missing()) is None:
        whole = load(EXAMPLES / "dnat-resnet20.yaml", RESNET)
        two = whole.convert.model_copy(update={"inputs": Lsq(asymmetric=True)})  # images have both signs
        parts["ResNet20, CIFAR-10"] = tables(whole.model_copy(update={"convert": two}))
    else:
        parts["ResNet20, CIFAR-10"] = why
    told = f"{IMAGES} test images, errors in dB of the inputs' power. Two bounds are one share of the two extremes."
    return "\n\n".join([told, *(f"**{head}**\n\n{text}" for head, text in parts.items())])


def tables(experiment: Experiment) -> str:
    """At the macro's own bits, with the range calibrated, and at ``BITS``."""
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment, Path(folder) / "run", lambda line: None, progress=False)
        model = walk.converted(walk.float_network(), experiment.on())
    some = [walk.testing[:IMAGES].images.float()]
    return "\n\n".join(table(input_ranges(model, some, bits=bits, shares=SHARES)) for bits in (None, BITS))


def table(found: Sequence[InputRange]) -> str:
    """A row a layer: each range with its rounding and its clipping error."""
    own = all(one.own is not None for one in found)
    names = [*(["calibrated"] if own else []), "least error, two bounds", "least error, one bound"]
    heads = [f"layer, {found[0].bits} bits", *(f"{name} | rounding | clipping" for name in names)]
    lines = [f"| {' | '.join([*heads, 'lower bound is worth, dB'])} |", "|---" * (3 * len(names) + 2) + "|"]
    for one in found:
        worth = float(one.two.decibels.max() - one.one.decibels.max())
        held = [*([one.own] if one.own is not None else []), one.two]
        cells = [one.layer, *(cell for range_ in held for cell in cells_of(range_))]
        cells += cells_of(one.one) if worth else ["the same", "", ""]
        lines.append(f"| {' | '.join([*cells, f'{worth:.1f}'])} |")
    return "\n".join(lines)


def cells_of(held: Tradeoff) -> list[str]:
    """The best range, and its two errors."""
    low, high, *errors = (float(v[held.best]) for v in (held.low, held.high, held.rounding, held.clipping))
    told = [f"{10 * math.log10(error / held.power):.1f}" if error else "none" for error in errors]
    return [f"{low:.2f} … {high:.2f}", *told]
