"""A3.5: what log-normal weights cost networks that nobody prepared for them, by depth and sigma: batch norms as they
were, folded into the weights before these vary, and estimated again over training chips.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.seeds import at, missing
from bitline.evaluate import over_chips, without_errors
from bitline.experiment import Run, parse
from bitline.nn import batch_norms, layers, use

SIGMAS, CHIPS, IMAGES = (0.1, 0.2, 0.3, 0.4, 0.5), 20, 100
MACRO = {"name": "log-normal weights", "rows": 128, "columns": 128, "variation": {"kind": "lognormal", "sigma": 0.5}}
FLOAT = {"epochs": 4, "lr": 0.05, "schedule": {"kind": "one_cycle"}}
CASES: dict[str, dict[str, Any]] = {
    "LeNet-5, MNIST": {"data": "mnist", "network": {"kind": "lenet5"}, "float_training": FLOAT},
    "VGG8, CIFAR-10": {"data": "cifar10", "network": {"kind": "vgg", "depth": 8, "weights": "vgg8-cifar10"}},
    "ResNet20, CIFAR-10": {
        "data": "cifar10",
        "network": {"kind": "resnet", "depth": 20, "weights": "resnet20-cifar10"},
    },
    "VGG16, CIFAR-100": {
        "data": "cifar100",
        "network": {"kind": "vgg", "depth": 16, "classes": 100, "weights": "vgg16-cifar100"},
    },
    "Wide ResNet 16-4, CIFAR-100": {
        "data": "cifar100",
        "network": {"kind": "wide_resnet", "depth": 16, "widen": 4, "classes": 100, "weights": "wrn16x4-cifar100"},
    },
}


def run() -> str:
    """Accuracy relative to the one without errors."""
    if why := missing():
        return why
    head = " | ".join(f"σ {sigma:g}" for sigma in SIGMAS)
    lines = [f"Of the accuracy without errors, %; {CHIPS} chips × {IMAGES} images, no training for errors.", ""]
    lines += [
        f"| network | layers | batch norms | without errors, % | {head} |",
        "|---|---|---|---|" + "---|" * len(SIGMAS),
    ]
    for name, case in CASES.items():
        for norms, cells in rows(case):
            lines.append(f"| {name} | {norms} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(case: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(layers and what is done with batch norms, its figures)."""
    found = []
    data = {"set": {"kind": case["data"]}, "train_images": 6000, "test_images": IMAGES}
    experiment = parse(
        case | {"title": "depth", "data": data, "macro": MACRO, "training": {"steps": 1}, "methods": ["qat"]}, "depth"
    )
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment, Path(folder) / "run", lambda line: None, progress=False)
        net = walk.float_network()
        model = walk.converted(net, experiment.on())
        count = len(layers(model))
        normed = bool(batch_norms(model))
        found.append((f"{count} | {'as they were' if normed else 'none'}", swept(model, walk)))
        if normed:
            convert = experiment.convert.model_copy(update={"fold_bn": True})
            walk.experiment = experiment.model_copy(update={"convert": convert})
            found.append((f"{count} | folded", swept(walk.converted(net, experiment.on()), walk)))
            found.append((f"{count} | estimated again", swept(model, walk, again=True)))
    return found


def swept(model: nn.Module, walk: Run, again: bool = False) -> list[str]:
    """Accuracy without errors, %, then the share of it that is left at each sigma, %."""
    clean = float(without_errors(model, walk.source()).double().mean())
    cells = [f"{100 * clean:.1f}"]
    for sigma in SIGMAS:
        use(model, at(sigma))
        one = walk.remedies.recalibrated(model) if again else model
        right = torch.stack([trial.right for trial in over_chips(one, walk.source, CHIPS)])
        cells.append(f"{100 * float(right.double().mean()) / clean:.0f}")
    use(model)
    return cells
