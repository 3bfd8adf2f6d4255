"""S1 on the digits: every way to train for analog memory on the same chips, over the size of its error (A1.5).

Weights, biases and batch norms are on the array, ranges matched (ABS); the error is Gaussian, relative to half the
range of a layer. Methods train for sigma = 0.1 and are tested from 0 to 0.2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from benchmarks.seeds import at, demo
from bitline.evaluate import difference, hessian_traces, layer_gains, over_chips, recalibrated
from bitline.experiment import Experiment, Run
from bitline.macro import Macro
from bitline.methods import AnyMethod, Clip, Distillation, HaSgd, Injection, Qat, Ramp, Sam, Spread, training_chip
from bitline.nn import use

SIGMA, SIGMAS, CHIPS, SEEDS = 0.1, (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2), 20, (0, 1, 2)
CHANGES = ("network.channels=[16, 16, 32, 32]", "training.epochs=30", "training.lr=0.05", "test.details=false")
PLAIN, HESSIAN = Qat(), HaSgd()
METHODS: tuple[AnyMethod, ...] = (
    PLAIN,
    HaSgd(noise=None, clip=Clip(k=2)),
    HaSgd(noise=None, sam=Sam(rho=0.1)),
    HESSIAN,
    HaSgd(samples=4),
    HaSgd(levels=Ramp(share=0.5)),
    HaSgd(levels=Spread(low=0.0, high=2.0)),
    HaSgd(samples=4, noise=Injection(censor=1.0), percentile=90),
    HaSgd(sam=Sam(rho=0.1)),
    HaSgd(distil=Distillation()),
    HaSgd(clip=Clip(k=2)),
    HaSgd(clip=Clip(k=2), distil=Distillation()),
    HaSgd(clip=Clip(k=2), samples=4, levels=Ramp(share=0.5)),
)


def run() -> str:
    """The table of one seed, its checks over three, and what the mapping is worth."""
    found = {seed: compared(seed) for seed in SEEDS}
    parts = {
        f"All methods on the same {CHIPS} chips, means of {len(SEEDS)} seeds": table(list(found.values())),
        "A1.5, plain SGD and HA-SGD, by seed": shape(found),
        "The mapping, networks of the first seed": mapped(),
    }
    return "\n\n".join(f"**{head}**\n\n{text}" for head, text in parts.items())


def macro(sigma: float = SIGMA, **changes: object) -> Macro:
    """Analog memory with all parameters on it."""
    design = {"name": "analog memory", "rows": 128, "columns": 128, "bias": {}, "norm": {}}
    return Macro.model_validate(design | {"variation": {"kind": "range", "sigma": sigma}} | changes)


def experiment(seed: int) -> Experiment:
    """The demo's digits on it, by all methods."""
    return demo(CHANGES, seed).model_copy(update={"macro": (macro(),), "methods": METHODS})


class Compared:
    """What one method's network did: answers (chips, images) by sigma, and again with BN recalibrated; its flatness."""

    def __init__(self, model: nn.Module, walk: Run) -> None:
        self.right = dict(_swept(model, walk))
        few = [batch for batch, _ in zip(walk.plain(), range(16), strict=False)]
        fixed = recalibrated(model, few, partial(training_chip, walk.experiment.seed, use="batch norms"))
        self.fixed = dict(_swept(fixed, walk, (SIGMA,)))[SIGMA]
        self.trace = sum(t.value for t in hessian_traces(model, few, probes=8).values())
        self.noise = fmean(row.error or 0.0 for row in layer_gains(model))

    def mean(self, sigma: float) -> float:
        """Accuracy, %."""
        return 100 * float(self.right[sigma].double().mean())


def _swept(model: nn.Module, walk: Run, sigmas: Sequence[float] = SIGMAS) -> Iterator[tuple[float, Tensor]]:
    for sigma in sigmas:
        use(model, at(sigma))
        yield sigma, torch.stack([trial.right for trial in over_chips(model, walk.source, CHIPS, walk.experiment.seed)])
    use(model)


def compared(seed: int) -> dict[str, Compared]:
    """Each method's network on the same chips."""
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment(seed), Path(folder) / "run", lambda line: None, progress=False)
        start = walk.converted(walk.float_network(), macro())
        return {method.title: Compared(walk.trained(start, macro(), method), walk) for method in METHODS}


def table(found: Sequence[dict[str, Compared]]) -> str:
    """Accuracy by sigma; at the training sigma the worst chip, BN recalibrated over training chips, Tr H, and the noise
    over the rms of weights."""
    head = " | ".join(f"σ {sigma:g}" for sigma in SIGMAS)
    lines = [f"| trained by, % | {head} | worst chip, {SIGMA:g} | + BN, {SIGMA:g} | Tr H | noise / rms w |"]
    lines.append("|---|" + "---|" * (len(SIGMAS) + 4))
    for name in found[0]:
        rows = [each[name] for each in found]

        def over(value: Callable[[Compared], float], rows: list[Compared] = rows) -> float:
            return sum(map(value, rows)) / len(rows)

        cells = [f"{over(lambda row, s=sigma: row.mean(s)):.1f}" for sigma in SIGMAS]
        worst = over(lambda row: 100 * float(row.right[SIGMA].double().mean(1).min()))
        fixed = over(lambda row: 100 * float(row.fixed.double().mean()))
        title = "plain SGD" if name == PLAIN.title else name
        tail = f"{worst:.1f} | {fixed:.1f} | {over(lambda r: r.trace):.3g} | {over(lambda r: r.noise):.2f}"
        lines.append(f"| {title} | {' | '.join(cells)} | {tail} |")
    return "\n".join(lines)


def shape(found: dict[int, dict[str, Compared]]) -> str:
    """HA-SGD less plain SGD by sigma and seed, paired; whether curves fall."""
    lines = [f"| seed | {' | '.join(f'σ {sigma:g}' for sigma in SIGMAS)} | curves never rise |"]
    lines.append("|---|" + "---|" * (len(SIGMAS) + 1))
    for seed, each in found.items():
        plain, ours = each[PLAIN.title], each[HESSIAN.title]
        pairs = [difference(ours.right[s], plain.right[s], ("ours", "plain"), seed) for s in SIGMAS]
        cells = [f"{p.mean:+.1f} [{p.ci95[0]:+.1f}, {p.ci95[1]:+.1f}]" for p in pairs]
        falls = all(not _rises(row.right) for row in (plain, ours))
        lines.append(f"| {seed} | {' | '.join(cells)} | {'yes' if falls else 'no'} |")
    return "\n".join(lines)


def _rises(right: dict[float, Tensor]) -> bool:
    """Whether accuracy at a larger sigma is higher, beyond the 95 % interval of the difference."""
    order = [right[sigma] for sigma in SIGMAS]
    return any(difference(b, a, ("b", "a")).ci95[0] > 0 for a, b in pairwise(order))


def mapped() -> str:
    """Networks trained plainly and by HA-SGD, each for its mapping: ABS, one scale, digital offsets, the finer bank."""
    rows = {"amplitude": 1}
    designs = {
        "ABS (ranges matched)": macro(),
        "one scale for weights and offsets": macro(bias=rows, norm=rows),
        "biases and norms digital": macro(bias=None, norm=None),
        "H2: small weights in a bank a quarter as coarse": macro(
            variation={"kind": "range", "sigma": SIGMA, "fine": 0.25}
        ),
    }
    lines = [f"| mapping, % at σ {SIGMA:g} | plain SGD | HA-SGD |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, design) in enumerate(designs.items()):
            part = experiment(0).model_copy(update={"macro": (design,)})
            walk = Run(part, Path(folder) / str(number), lambda line: None, progress=False)
            start = walk.converted(walk.float_network(), design)
            cells = []
            for method in (PLAIN, HESSIAN):
                ((_, right),) = _swept(walk.trained(start, design, method), walk, (SIGMA,))
                cells.append(f"{100 * float(right.double().mean()):.1f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
