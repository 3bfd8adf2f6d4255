"""What centred inputs win of networks as they are given, without a step on the chip and with one."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from benchmarks.s3 import COUNTED
from benchmarks.seeds import EXAMPLES, missing
from bitline.compensate import Centred, attach
from bitline.cost import side_costs
from bitline.evaluate import Row
from bitline.experiment import Experiment, Run, load, share_directions
from bitline.place import Budget

CHIPS, IMAGES, RANKS = 10, 200, (0, 1, 4, 16)
SHARED = (4, 16)  # of every layer: as many multiplications, layer by layer where they win most
NETWORKS = {
    "ResNet20, CIFAR-10, log-normal 0.5": "lognormal-resnet20",
    "VGG16, CIFAR-100, log-normal 0.5": "correctnet-vgg16",
    "WRN-16-4, CIFAR-100, 0.1 of the range": "wrn16x4-cifar100",
}


def run() -> str:
    """A row for what is done to the network, without training, and a column for each network."""
    if why := missing():
        return why
    paths = {title: {**each(), **shared(name)} for title, name in NETWORKS.items()}
    found = {title: rows(experiment(name, paths[title]), paths[title]) for title, name in NETWORKS.items()}
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
    return "\n".join([*lines, "", *costs(paths)])


FLOAT, IDEAL = "float", "ideal macro"


def each() -> dict[str, Centred]:
    """As many directions in every layer."""
    return {Centred(rank=rank).title.removeprefix("inputs centred"): Centred(rank=rank) for rank in RANKS}


def shared(name: str) -> dict[str, Centred]:
    """As many multiplications as with some directions in every layer, layer by layer where they win most."""
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment(name, {}), Path(folder), print, progress=False)
        model = walk.converted(walk.float_network(), walk.experiment.on())
        sample, found = walk.testing[:1].images.float(), {}
        for rank in SHARED:
            took = side_costs(attach(copy.deepcopy(model), Centred(rank=rank)), sample)[-1].mac_share
            path = share_directions(walk, Budget(share=took, of="macs"), model=model).path
            print(name, rank, path.ranks, flush=True)
            found[f", as many multiplications as of {rank}, layer by layer"] = path
    return found


def experiment(name: str, paths: dict[str, Centred]) -> Experiment:
    """The example's network on its macro, nothing trained."""
    changes = ["methods=[]", f"test.chips={CHIPS}", f"data.test_images={IMAGES}", "test.per_sample=null"]
    changes += ["test.recalibrate=true", "test.recalibrate_per_chip=true", "test.centre=[]", "test.patch_per_chip=[]"]
    what = load(EXAMPLES / f"{name}.yaml", changes)
    return what.model_copy(update={"test": what.test.model_copy(update={"centre": tuple(paths.values())})})


def rows(what: Experiment, paths: dict[str, Centred]) -> dict[str, Row]:
    """Each row of its test."""
    names = {path.title: f"inputs centred{name}" for name, path in paths.items()}
    with tempfile.TemporaryDirectory() as folder:
        found = Run(what, Path(folder) / "run", print, progress=False)().rows
    for title, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        found = tuple(row.model_copy(update={"method": row.method.replace(title, name)}) for row in found)
    return {row.method: row for row in found}


def costs(paths: dict[str, dict[str, Centred]]) -> list[str]:
    """What the digital part stores and multiplies, and its energy under the first ADC law."""
    columns = [name.removeprefix(", ") or "means" for name in next(iter(paths.values()))]
    lines = ["| digital part, % of the network's numbers; multiplications; energy (Murmann's survey) |"]
    lines[0] += " ".join(f" {column} |" for column in columns)
    lines.append("|" + "---|" * (1 + len(columns)))
    for title, name in NETWORKS.items():
        what = load(EXAMPLES / f"{name}.yaml")
        sample, cells = what.data.set.test()[:1].images.float(), []
        for path in paths[title].values():
            model = attach(what.place(what.network.build(0).eval(), COUNTED), path)
            total = side_costs(model, sample)[-1]
            energy = next(iter(total.energy_shares.values()))
            shares = (total.parameter_share, total.mac_share, energy)
            cells.append("; ".join(f"{100 * share:.1f}" for share in shares))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines
