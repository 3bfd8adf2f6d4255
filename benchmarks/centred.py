"""What centred inputs win of networks as they are given, without a step on the chip and with one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.s3 import COUNTED
from benchmarks.seeds import EXAMPLES, missing
from bitline.compensate import Centred, attach
from bitline.cost import side_costs
from bitline.evaluate import Row
from bitline.experiment import Experiment, Run, load

CHIPS, IMAGES, RANKS = 10, 200, (0, 1, 4, 16)
NETWORKS = {
    "ResNet20, CIFAR-10, log-normal 0.5": "lognormal-resnet20",
    "VGG16, CIFAR-100, log-normal 0.5": "correctnet-vgg16",
    "WRN-16-4, CIFAR-100, 0.1 of the range": "wrn16x4-cifar100",
}


def run() -> str:
    """A row for what is done to the network, without training, and a column for each network."""
    if why := missing():
        return why
    found = {title: rows(experiment(name)) for title, name in NETWORKS.items()}
    names = list(next(iter(found.values())))
    lines = [
        f"{CHIPS} chips × {IMAGES} images: mean (worst chip), %. Batch norms estimated again over chips that are not "
        "tested or, in italics, on each chip that is.",
        "",
        f"| as given | {' | '.join(found)} |",
        "|" + "---|" * (1 + len(found)),
        f"| float | {' | '.join(f'{by[FLOAT].mean:.1f}' for by in found.values())} |",
    ]
    for name in names:
        if name not in (FLOAT, IDEAL):
            told = f"*{name}*" if name.endswith("per chip") else name
            cells = [f"{by[name].mean:.1f} ({by[name].worst:.1f})" for by in found.values()]
            lines.append(f"| {told.replace('untrained on chips', '…')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *costs()])


FLOAT, IDEAL = "float", "ideal macro"


def experiment(name: str) -> Experiment:
    """The example's network on its macro, nothing trained."""
    changes = ["methods=[]", f"test.chips={CHIPS}", f"data.test_images={IMAGES}", "test.per_sample=null"]
    changes += ["test.recalibrate=true", "test.recalibrate_per_chip=true"]
    return load(EXAMPLES / f"{name}.yaml", [*changes, f"test.centre={[{'rank': rank} for rank in RANKS]}"])


def rows(what: Experiment) -> dict[str, Row]:
    """Each row of its test."""
    with tempfile.TemporaryDirectory() as folder:
        return {row.method: row for row in Run(what, Path(folder) / "run", print, progress=False)().rows}


def costs() -> list[str]:
    """What the digital part stores and multiplies, and its energy under the first ADC law."""
    lines = ["| digital part, % of the network's numbers; multiplications; energy (Murmann's survey) |"]
    lines[0] += " ".join(f" rank {rank} |" for rank in RANKS)
    lines.append("|" + "---|" * (1 + len(RANKS)))
    for title, name in NETWORKS.items():
        what = load(EXAMPLES / f"{name}.yaml")
        sample, cells = what.data.set.test()[:1].images.float(), []
        for rank in RANKS:
            model = attach(what.place(what.network.build(0).eval(), COUNTED), Centred(rank=rank))
            total = side_costs(model, sample)[-1]
            energy = next(iter(total.energy_shares.values()))
            shares = (total.parameter_share, total.mac_share, energy)
            cells.append("; ".join(f"{100 * share:.1f}" for share in shares))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines
