"""S3 at σ = 0.5: suppression, compensation and its rivals on the same chips, with what their digital part costs.

LeNet-5 on MNIST and CIFAR-10, which has no batch norm, and the digits' network, which has. All are small settings, of
minutes of a CPU core. Every method has one budget, a side path after another method one more.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.seeds import at, demo, missing
from bitline.compensate import AnyPath, Centred, CorrectNet, LowRank, Sparse, Trim, Vectors, attach
from bitline.cost import SideCost, brief, side_costs
from bitline.evaluate import error_gain, injected_from, layer_gains
from bitline.experiment import Experiment, Run, load
from bitline.macro import Macro
from bitline.methods import AnyMethod, Compensate, ErrorAware, Qat, Suppression

EXAMPLE = Path(__file__).parents[1] / "examples" / "correctnet-lenet5.yaml"
CIFAR = EXAMPLE.with_name("correctnet-lenet5-cifar10.yaml")
LENET = ("data.train_images=3000", "data.test_images=300")
DIGITS = ("network.channels=[8, 16, 16]", "training.epochs=8", "training.lr=0.05")
COUNTED = Macro.model_validate(  # what weights without digits are priced as
    {
        "name": "8-bit arrays",
        "rows": 128,
        "columns": 128,
        "inputs": {"kind": "twos_complement", "bits": 8, "digit_bits": 1},
        "weights": {"kind": "differential", "bits": 8, "cell_bits": 4},
        "converter": {"bits": 8},
    }
)
PRICED = (
    "Energy: side paths at 8 bits, against the network on 128 × 128 arrays with 8-bit inputs driven bit by bit, 8-bit "
    "weights in pairs of 4-bit cells and 8-bit converters, by `horowitz-45nm` with its ADC laws; cells are not counted."
)
SIGMAS, FEW = (0.1, 0.3, 0.5), 10
BETAS = (1e-4, 1e-3, 0.1)  # beside 0.01


def run() -> str:
    """The networks' tables, and how errors grow in LeNet-5."""
    if why := missing():
        return why
    return "\n\n".join(f"**{head}**\n\n{text}" for head, text in {**lenet(), **cifar(), **digits()}.items())


def methods(last: str) -> tuple[AnyMethod, ...]:
    """What is compared; ``last``: the last layer, exempt from suppression."""
    quiet, noisy = suppressed(last), ErrorAware()
    return (
        Qat(),
        quiet,
        *(suppressed(last, beta=beta) for beta in BETAS),
        suppressed(last, case="typical"),
        Compensate(),
        Compensate(after=quiet),
        noisy,
        ErrorAware(suppress=quiet.suppress),
        *(Compensate(path=path, after=noisy) for path in (CorrectNet(), LowRank(), Vectors(), Sparse())),
        Compensate(path=CorrectNet(weights="analog"), after=noisy),
        *(ErrorAware(centre=Centred(rank=rank)) for rank in (0, 4)),
    )


def suppressed(last: str, **changes: Any) -> Qat:
    """Suppression alone."""
    return Qat(suppress=Suppression.model_validate({"beta": 0.01, "exempt": (last,)} | changes))


def lenet() -> dict[str, str]:
    """LeNet-5 on MNIST: the comparison, then the untouched network's and the suppressed one's gains."""
    found = load(EXAMPLE, LENET)
    with tempfile.TemporaryDirectory() as folder:
        walk, text = compared(found.model_copy(update={"methods": methods("fc3")}), folder)
        nets = {"untouched": trained(walk, Qat()), "suppressed": trained(walk, suppressed("fc3"))}
        return {
            "LeNet-5 on MNIST": text,
            "LeNet-5: largest singular value of each layer, clean and on chips": norms(nets),
            f"LeNet-5: ‖f(x; w~) − f(x; w)‖ / ‖f(x; w)‖ by σ, {FEW} chips": gains(nets, walk),
            f"LeNet-5: accuracy with errors from a layer onward, {FEW} chips, %": onward(nets, walk),
        }


def cifar() -> dict[str, str]:
    """LeNet-5 on CIFAR-10: its example's methods on half of its images."""
    with tempfile.TemporaryDirectory() as folder:
        found = load(CIFAR, ("data.train_images=10000", "data.test_images=300"))
        return {"LeNet-5 on CIFAR-10": compared(found, folder)[1]}


def digits() -> dict[str, str]:
    """The digits' network, with batch norms."""
    lognormal = load(EXAMPLE, ["test.recalibrate_per_chip=true"])
    changes = {"macro": lognormal.macros, "methods": methods("fc"), "test": lognormal.test}
    found = demo(DIGITS, 0).model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        return {"Digits, a network with batch norms": compared(found, folder)[1]}


def trained(walk: Run, method: AnyMethod) -> nn.Module:
    """A method's network, from its checkpoint if it has one."""
    macro = walk.experiment.macros[0]
    return walk.trained(walk.converted(walk.float_network(), macro), macro, method)


def compared(experiment: Experiment, folder: str) -> tuple[Run, str]:
    """The experiment, done, and its table: accuracy and what the side paths store and multiply."""
    walk = Run(experiment, Path(folder) / "run", print, progress=False)
    result = walk()
    clean = next(row for row in result.rows if row.method == "ideal macro").mean
    costs = {row.method: cost_of(experiment, row.method) for row in result.rows if row.chips > 1}
    laws = "; ".join(map(brief, next(iter(costs.values())).against))
    lines = [f"Without errors {clean:.1f} %; {experiment.test.chips} chips with errors.", ""]
    head = "network, %|mean|of the one without errors|5th percentile|worst chip|parameters|MACs"
    lines += [f"| {f'{head}|energy: {laws}'.replace('|', ' | ')} |", "|" + "---|" * 8]
    for row in result.rows:
        if row.chips > 1:
            told = shares(costs[row.method])
            name = f"*{row.method}*" if row.method.endswith("per chip") else row.method
            figures = [f"{value:.1f}" for value in (row.mean, 100 * row.mean / clean, row.p5 or 0.0, row.worst)]
            lines.append(f"| {' | '.join([name, *figures, *told])} |")
    return walk, "\n".join([*lines, "", "*In italics:* with a step on each chip that is tested. " + PRICED])


def cost_of(experiment: Experiment, row: str) -> SideCost:
    """What a row's side paths, its trims among them, add to the experiment's network, on arrays that can be priced."""
    title, *remedies = row.split(" + ")
    (method,) = experiment.named(title)
    model = experiment.place(experiment.network.build(0).eval(), COUNTED)
    if isinstance(method, Compensate):
        method.model_copy(update={"path": digital(method.path)}).put(model)
    done = [remedy.removesuffix(", BN recalibrated") for remedy in remedies]
    offered = (*experiment.test.centre, Trim(), *experiment.test.patch_per_chip)
    for path in [*([method.centre] if method.centre else []), *(one for one in offered if one.title in done)]:
        attach(model, path)
    return side_costs(model, experiment.data.set.test()[:1].images.float())[-1]


def digital(path: AnyPath) -> AnyPath:
    """The kind with digital weights: in analog they need a variation, which these arrays have not."""
    return path.model_copy(update={"weights": "digital"})


def shares(cost: SideCost) -> list[str]:
    """Parameters, MACs and, under each ADC law, energy on top of the network's, %; nothing without side paths."""
    if not cost.side_macs:
        return ["", "", ""]
    energy = [f"+{100 * share:.1f}" for share in cost.energy_shares.values()]
    return [f"+{100 * cost.parameter_share:.1f}", f"+{100 * cost.mac_share:.1f}", "; ".join(energy)]


def norms(nets: dict[str, nn.Module]) -> str:
    """Spectral norms beside λ."""
    suppress = suppressed("fc3").suppress
    found = {name: layer_gains(net, suppress) for name, net in nets.items()}
    lines = ["| layer | λ | " + " | ".join(f"{name} | on chips" for name in nets) + " |", "|" + "---|" * 6]
    for rows in zip(*found.values(), strict=True):
        cells = [f"{row.norm:.2f} | {row.on_chips:.2f}" for row in rows]
        wanted = "–" if rows[0].wanted is None else f"{rows[0].wanted:.2f}"
        lines.append(f"| {rows[0].layer} | {wanted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(nets: dict[str, nn.Module], walk: Run) -> str:
    """The end-to-end error gain at each σ."""
    batches = list(islice(walk.source(), 4))
    lines = [f"| network | {' | '.join(f'σ {sigma:g}' for sigma in SIGMAS)} |", "|" + "---|" * (1 + len(SIGMAS))]
    for name, net in nets.items():
        cells = [f"{float(error_gain(net, batches, FEW, variant=at(sigma)).mean()):.2f}" for sigma in SIGMAS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def onward(nets: dict[str, nn.Module], walk: Run) -> str:
    """Accuracy with errors from each layer onward."""
    found: dict[str, dict[str, Tensor]] = {name: injected_from(net, walk.source, FEW) for name, net in nets.items()}
    places = list(next(iter(found.values())))
    lines = [f"| network | {' | '.join(f'from {place}' for place in places)} |", "|" + "---|" * (1 + len(places))]
    for name, curve in found.items():
        cells = [f"{100 * float(right.double().mean()):.1f}" for right in curve.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
