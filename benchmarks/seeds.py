"""One experiment over several seeds: each network's accuracy, and one method less each other, paired."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import torch

from bitline.evaluate import Difference, changed, difference
from bitline.experiment import Experiment, Run, load
from bitline.macro import Macro

EXAMPLES = Path(__file__).parents[1] / "examples"
KEPT = Path("out") / "bench"
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by the number of seeds


def missing() -> str | None:
    """Why experiments on downloaded data cannot run here."""
    names = [name for name in ("BITLINE_DATA", "BITLINE_NETWORKS") if name not in os.environ]
    return f"Not run: {' and '.join(names)} not set." if names else None


def example(name: str, mine: str, seeds: Sequence[int], changes: Sequence[str] = ()) -> str:
    """An example's table for ``seeds``; what a run finished is kept in ``out/bench``, and not done again."""
    if why := missing():
        return why
    found, start = [], time.perf_counter()
    for seed in seeds:
        experiment = load(EXAMPLES / f"{name}.yaml", [*changes, f"seed={seed}"])
        kept = KEPT / f"{name}-{seed}" if not changes else None
        found.append(scores(experiment, kept))
    minutes = (time.perf_counter() - start) / 60
    test, budget = experiment.test, experiment.training
    length = f"{budget.steps} steps" if budget.steps else f"{budget.epochs} epochs"
    images = experiment.data.test_images or "all"
    size = f"{length} a method, {test.chips} chips × {images} images, {minutes:.0f} min here"
    return f"**{experiment.title}: {size}**\n\n{table(found, seeds, mine)}"


def demo(changes: Sequence[str], seed: int) -> Experiment:
    """The demo's experiment, changed."""
    with as_file(files("bitline.experiment") / "demo.yaml") as file:
        return load(file, [*changes, f"seed={seed}"])


def at(sigma: float) -> Callable[[Macro], Macro]:
    """A macro whose weights vary by another σ."""
    return lambda macro: changed(macro, {"macro.variation.sigma": sigma})


def scores(experiment: Experiment, kept: Path | None = None) -> dict[str, torch.Tensor]:
    """Right answers of each network by chip and image."""
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment, kept or Path(folder) / "run", lambda line: None, progress=False)
        walk()
    return walk.found


def table(found: Sequence[dict[str, torch.Tensor]], seeds: Sequence[int], mine: str) -> str:
    """Rows of accuracy, and of paired differences of ``mine`` less each other."""
    head = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| network, % | {head} |", "|---|" + "---|" * len(seeds)]
    for name in found[0]:
        means = [f"{100 * float(f[name].double().mean()):.2f}" for f in found]
        lines += [f"| {name} | {' | '.join(means)} |"]
    t = T95.get(len(seeds))
    lines += ["", f"| {mine} less …, points [95 %, paired] | {head} | over seeds | {t or 't'} s/√n of the seeds |"]
    lines.append("|---|" + "---|" * (len(seeds) + 2))
    for name in found[0]:
        if name in ("float", mine):
            continue
        pairs = [_less(f, mine, name) for f in found]
        whole = _less({key: torch.cat([f[key].expand_as(f[mine]) for f in found]) for key in (mine, name)}, mine, name)
        cells = [f"{p.mean:+.2f} [{p.ci95[0]:+.2f}, {p.ci95[1]:+.2f}]" for p in (*pairs, whole)]
        spread = f"±{t * statistics.stdev(p.mean for p in pairs) / math.sqrt(len(pairs)):.2f}" if t else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {spread} |")
    return "\n".join(lines)


def _less(found: dict[str, torch.Tensor], mine: str, other: str) -> Difference:
    return difference(found[mine], found[other], (mine, other), 0)
