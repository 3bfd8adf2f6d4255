"""Where LeNet-5's compensators pay: every placement of a small space, then searchers at equal numbers of evaluations.

S3's network at σ = 0.5 after suppression, 4 layers, none or two widths each: 81 placements, each trained for 120 steps
on fresh chips and tested on 8 others and 500 training images of no other use. Measured once; searchers share them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from statistics import fmean, stdev

from torch import nn

from bitline.compensate import overhead
from bitline.data import batches
from bitline.evaluate import over_chips
from bitline.experiment import Run, load
from bitline.experiment.placing import apart
from bitline.methods import Compensate, Qat, Suppression
from bitline.place import AnySearcher, Budget, Exhaustive, Greedy, Placed, Ppo, Random, Reinforce, Space, place, search
from bitline.place.placing import FEW
from bitline.place.trials import Measure

EXAMPLE = Path(__file__).parents[1] / "examples" / "placement-lenet5.yaml"
LAYERS, WIDTHS, BUDGET = ("conv1", "conv2", "fc1", "fc2"), (0.125, 0.25), Budget(share=0.15, of="macs")
CHIPS, IMAGES, SEEDS, FEW_SEEDS, COUNTS, TESTED = 8, 500, 200, 5, (8, 16, 24), 30
BASE = Qat(suppress=Suppression(beta=0.01, exempt=("fc3",)))
SEARCHERS: dict[str, AnySearcher] = {
    "random": Random(),
    "random, within the budget": Random(within=True),
    "REINFORCE": Reinforce(within=False),
    "REINFORCE, within the budget": Reinforce(),
    "PPO": Ppo(),
}


def run() -> str:
    """All placements, the searchers, and the best placement trained in full."""
    if absent := {name: why for name, searcher in SEARCHERS.items() if (why := searcher.missing())}:
        print(*(f"{name} left out: {why}" for name, why in absent.items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(load(EXAMPLE), Path(folder), print, progress=False)
        macro = walk.experiment.macros[0]
        start = walk.trained(walk.converted(walk.float_network(), macro), macro, BASE)
        training, validation, _ = apart(walk, IMAGES)
        found = place(
            start,
            lambda epoch: batches(training, 64, seed=0, epoch=epoch),
            batches(validation, 64),
            budget=BUDGET,
            searcher=Exhaustive(),
            widths=WIDTHS,
            at=LAYERS,
            keep=1.0,
            training=FEW,
            chips=CHIPS,
            tell=print,
        )
        return "\n\n".join([tried(found), searched(found, absent), final(walk, start, found)])


def tried(found: Placed) -> str:
    """The best placements, and what is known about all."""
    kept = sorted((one for one in found.tried if one.within), key=lambda one: -one.reward)
    most = max(found.tried, key=lambda one: one.reward)
    lines = [
        f"{100 * found.space.original:.1f} % without errors. Of {len(found.tried)} placements {len(kept)} keep the "
        f"budget, {100 * BUDGET.share:g} % more MACs; the largest reward of all {'is' if most.within else 'is not'} "
        "among them. The best five, and no side path:",
        "",
        f"| {' | '.join(LAYERS)} | mean, % | std | reward | parameters, % | MACs, % |",
        "|" + "---|" * (len(LAYERS) + 5),
    ]
    for one in [*kept[:5], found.tried[0]]:
        widths = " | ".join(f"{one.at[name]:g}" if name in one.at else "–" for name in LAYERS)
        share = one.overhead
        told = f"{one.mean:.2f} | {one.std:.2f} | {one.reward:.4f}"
        lines.append(f"| {widths} | {told} | +{100 * share.parameters:.1f} | +{100 * share.macs:.1f} |")
    return "\n".join(lines)


def searched(found: Placed, absent: Collection[str] = ()) -> str:
    """How far the best reward that each searcher found falls short of the exhaustive one.

    ``absent``: searchers that cannot run here.
    """
    space, known = found.space, {tuple(sorted(one.at.items())): one for one in found.tried}

    def measure(at: dict[str, float]) -> list[float]:
        return [one / 100 for one in known[tuple(sorted(at.items()))].accuracies]

    top = found.best.reward
    lines = [
        f"The best reward within the budget, short of the exhaustive {top:.4f}, in points (0.01): mean of {SEEDS} "
        f"seeds and its 95 % interval; mean of the first {FEW_SEEDS}; worst.",
        "",
        f"| searcher | {' | '.join(f'{count} evaluations' for count in COUNTS)} |",
        "|" + "---|" * (1 + len(COUNTS)),
    ]
    for name, searcher in SEARCHERS.items():
        if name in absent:
            lines.append(f"| {name} | not installed{' |' * len(COUNTS)}")
            continue
        cells = short(space, measure, searcher, top)
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    greedy = [search(space, measure, Greedy(evaluations=count)) for count in COUNTS]
    cells = [f"{100 * (top - one.best.reward):.2f} ({len(one.tried) - 1} used)" for one in greedy]
    return "\n".join([*lines, f"| greedy, no seeds | {' | '.join(cells)} |"])


def short(space: Space, measure: Measure, searcher: AnySearcher, top: float) -> list[str]:
    """At each count; what a search asks for does not depend on how much it may still ask."""
    each: dict[int, list[float]] = {count: [] for count in COUNTS}
    for seed in range(SEEDS):
        one = searcher.model_copy(update={"evaluations": max(COUNTS), "seed": seed})
        tried = list(search(space, measure, one).tried.values())
        for count in COUNTS:
            each[count].append(100 * (top - max(t.reward for t in tried[: 1 + count] if t.within)))
    return [
        f"{fmean(one):.3f} ± {1.96 * stdev(one) / SEEDS**0.5:.3f}; {fmean(one[:FEW_SEEDS]):.2f}; {max(one):.2f}"
        for one in each.values()
    ]


def final(walk: Run, start: nn.Module, found: Placed) -> str:
    """The experiment's whole budget for the best placement and for two without a search, on test chips and images."""
    macro, x = walk.experiment.macros[0], walk.testing[:1].images.float()
    rows: dict[str, Compensate | None] = {
        "no side path": None,
        "the best placement": found.method,
        "width 0.125 beside all four": Compensate(at=dict.fromkeys(LAYERS, 0.125)),
        "width 0.25 beside all four": Compensate(at=dict.fromkeys(LAYERS, 0.25)),
    }
    lines = [
        f"Trained in full ({walk.steps()} steps), {TESTED} test chips and {len(walk.testing)} test images, %:",
        "",
        "| | mean | std | worst | parameters | MACs |",
        "|" + "---|" * 6,
    ]
    for name, method in rows.items():
        model = start if method is None else walk.trained(start, macro, method)
        each = [100 * float(trial.right.double().mean()) for trial in over_chips(model, walk.source, TESTED)]
        total = overhead(model, x)[-1]
        mean = fmean(each)
        std = (sum((one - mean) ** 2 for one in each) / (len(each) - 1)) ** 0.5
        shares = f"+{100 * total.parameter_share:.1f} | +{100 * total.mac_share:.1f}" if method else "– | –"
        lines.append(f"| {name} | {mean:.2f} | {std:.2f} | {min(each):.2f} | {shares} |")
    return "\n".join(lines)
