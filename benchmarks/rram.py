"""ResNet20 on CIFAR-10 with the cells of two fabricated RRAM arrays, against their age and after bakes.

Cells alone err: no converter, wires or read noise. Not trained for them; weights of 4 bits in cells of 8 levels, and of
8 bits in cells of 2, both in differential pairs of the preset's array.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.seeds import missing
from bitline import presets
from bitline.data import Cifar10, Split, batches
from bitline.evaluate import answers, over_chips, recalibrated
from bitline.macro import Macro, ideal
from bitline.methods import training_chip
from bitline.networks import ResNet
from bitline.nn import calibrate, convert, use

IMAGES, CHIPS, SEED = 300, 3, 0
STATISTICS = 4  # batches of 64 for batch norm
ROOM = 298.15
AGES = {"rram-a-128": (0.01, 1.0, 100.0, 1e4, 1e5), "rram-b-128": (0.01, 1.0, 100.0, 1e4)}
BAKES = {"rram-a-128": tuple((s, 273.15 + c) for s, c in ((7000.0, 100.0), (4500.0, 140.0), (5200.0, 180.0),
                                                         (4600.0, 220.0), (5200.0, 260.0)))}  # fmt: skip
WEIGHTS = {"8 levels": {"bits": 4, "cell_bits": 3}, "2 levels": {"bits": 8, "cell_bits": 1}}


def run() -> str:
    """Accuracy by age and bake temperature; a line where there are no data."""
    if why := missing():
        return why
    start = time.perf_counter()
    head = " | ".join(f"{name} | + BN" for name in WEIGHTS)
    lines = [f"| cells, accuracy % | {head} |", "|---|" + "---|---|" * len(WEIGHTS)]
    for name in AGES:
        states = [(seconds, ROOM) for seconds in AGES[name]] + list(BAKES.get(name, ()))
        found = [accuracies(on_cells(name, weights), states) for weights in WEIGHTS.values()]
        for row, (label, *_) in enumerate(found[0]):
            cells = " | ".join(f"{own} | {fixed}" for _, own, fixed in (column[row] for column in found))
            lines.append(f"| {name} {label} | {cells} |")
    minutes = (time.perf_counter() - start) / 60
    told = (
        f"{CHIPS} chips × {IMAGES} images (a chip's spread as ±), {minutes:.0f} min; + BN: batch norm over other chips"
    )
    return f"ResNet20, cells alone, not trained for them: {told}.\n\n" + "\n".join(lines)


def on_cells(name: str, weights: dict[str, int]) -> Macro:
    """The preset with cells alone, and weights as given."""
    design = presets.load(name).dump()
    return Macro.model_validate(
        {key: value for key, value in design.items() if key not in ("converter", "corners")}
        | {"weights": design["weights"] | weights}
    )


def accuracies(macro: Macro, states: list[tuple[float, float]]) -> list[tuple[str, str, str]]:
    """(state, accuracy, accuracy with batch norm estimated on other chips) of the ideal macro and at each state."""
    training, testing = _data()
    net = ResNet(depth=20, weights="resnet20-cifar10").build(SEED).eval()
    model = convert(net, macro, skip=["conv1", "fc"])
    calibrate(model, batches(training, 64, seed=SEED), 4)
    use(model, ideal)
    rows = [("ideal", f"{100 * float(answers(model, batches(testing, 64)).double().mean()):.1f}", "")]
    for seconds, kelvin in states:

        def later(design: Macro, seconds: float = seconds, kelvin: float = kelvin) -> Macro:
            assert design.cell is not None
            return design.model_copy(update={"cell": design.cell.aged(seconds, kelvin)})

        use(model, later)
        few = list(batches(training, 64, seed=SEED))[:STATISTICS]
        fixed = recalibrated(model, few, partial(training_chip, SEED, use="batch norms"))
        told = []
        for each in (model, fixed):
            trials = [t.right.double().mean() for t in over_chips(each, lambda: batches(testing, 64), CHIPS, SEED)]
            right = 100 * torch.stack(trials)
            told.append(f"{float(right.mean()):.1f} ± {float(right.std()):.1f}")
        where = f"{seconds:g} s" if kelvin == ROOM else f"{seconds / 3600:.1f} h at {kelvin - 273.15:.0f} °C"
        rows.append((where, told[0], told[1]))
    return rows


def _data() -> tuple[Split, Split]:
    data = Cifar10()
    moments = data.moments()
    training = data.train().subset(64 * 8, seed=SEED).normalised(*moments)
    return training, data.test().subset(IMAGES, seed=SEED).normalised(*moments)
