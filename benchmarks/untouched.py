"""A1.5 at scale: a Wide ResNet that nobody prepared for analog memory, by the size of its error and by what is on the
array: weights alone, or norms too, with their shifts in a row of the array's own scale or in one that is matched (ABS).
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from benchmarks.seeds import EXAMPLES, at, missing
from bitline.devices.weights import half_range
from bitline.evaluate import difference, over_chips, row
from bitline.experiment import Run, load
from bitline.nn import use
from bitline.nn.norms import AnalogNorm

SIGMAS, CHIPS, IMAGES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2), 20, 100
FACTORS = [2 ** (k / 16) for k in range(-64, 65)]  # amplitudes tried
ROWS: dict[str, tuple[str, ...]] = {
    "weights; norms digital": (),
    "weights and norms, one scale": ("macro.norm={amplitude: 1}", "macro.bias={amplitude: 1}"),
    "weights and norms, ranges matched (ABS)": ("macro.norm={amplitude: matched}", "macro.bias={amplitude: matched}"),
}


def run() -> str:
    """Accuracy by sigma, then what the norms' rows hold."""
    if why := missing():
        return why
    head = " | ".join(f"σ {sigma:g}" for sigma in SIGMAS)
    lines = [
        f"WRN-16-4 on CIFAR-100, {CHIPS} chips × {IMAGES} images: mean (5th percentile over chips), %.",
        "",
        f"| on the array | {head} | never rises |",
        "|---|" + "---|" * (len(SIGMAS) + 1),
    ]
    model: nn.Module = nn.Identity()
    for name, changes in ROWS.items():
        model, walk = placed(*changes)
        found = swept(model, walk)
        falls = all(difference(b, a, ("b", "a")).ci95[0] <= 0 for a, b in pairwise(found))
        told = [row(each, name, "analog memory") for each in found]
        cells = [f"{each.mean:.1f} ({each.reached('p5'):.0f})" for each in told]
        lines.append(f"| {name} | {' | '.join(cells)} | {'yes' if falls else 'no'} |")
    return "\n".join([*lines, "", *shifts(model)])


def placed(*changes: str) -> tuple[nn.Module, Run]:
    """The network of ``examples/wrn16x4-cifar100.yaml`` on its macro, changed."""
    experiment = load(EXAMPLES / "wrn16x4-cifar100.yaml", [*changes, f"data.test_images={IMAGES}"])
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment, Path(folder) / "run", lambda line: None, progress=False)
        return walk.converted(walk.float_network(), experiment.on()).eval(), walk


def swept(model: nn.Module, walk: Run) -> list[Tensor]:
    """Right answers (chips, images) at each sigma."""
    found = []
    for sigma in SIGMAS:
        use(model, at(sigma))
        found.append(torch.stack([trial.right for trial in over_chips(model, walk.source, CHIPS)]))
    use(model)
    return found


def shifts(model: nn.Module) -> list[str]:
    """What errors at sigma 0.1 of factors w and shifts b do to a norm's output, by the amplitude of the shifts' row."""
    told: dict[str, list[tuple[float, float]]] = {"matched (ABS)": [], "one scale": [], "that of least error": []}
    for norm in model.modules():
        if isinstance(norm, AnalogNorm):
            w, b = (each.detach().double() for each in norm.written())
            powers = {f: power(norm, w, b, f) for f in (float(norm.row.factor(w, b)), 1.0, *FACTORS)}
            for name, f in zip(told, (next(iter(powers)), 1.0, min(powers, key=powers.__getitem__)), strict=True):
                told[name].append((f, powers[f]))
    lines = [
        "| amplitude of the row of shifts | least … most | error's power over the output's, mean of norms |",
        "|---|---|---|",
    ]
    for name, found in told.items():
        of = [f for f, _ in found]
        lines.append(f"| {name} | {min(of):.2f} … {max(of):.2f} | {fmean(p for _, p in found):.3f} |")
    return lines


def power(norm: AnalogNorm, w: Tensor, b: Tensor, f: float) -> float:
    """Mean square error of a norm's outputs, R² σ² (E x² + f²) with R of w and b / f together, over their variance."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    spread = 0.1 * half_range(torch.cat([w, b / f]))
    return float(spread.square() * ((variance + mean.square()).mean() + f * f) / (w.square() * variance).mean())
