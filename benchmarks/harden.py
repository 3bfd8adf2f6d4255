"""The whole walk of ``harden`` on LeNet-5 with log-normal weights and signed inputs: what each step wins, and costs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.seeds import EXAMPLES, missing
from bitline.cost import brief
from bitline.evaluate.hardened import Hardened
from bitline.experiment import HardenRun, load
from bitline.report.hardening import conclusion, sentence

TARGET = 0.98
SIGNED = ("macro.inputs.kind=twos_complement", "convert.inputs={kind: lsq}")  # they may be centred then


def run() -> str:
    """Steps, then what was verified."""
    if why := missing():
        return why
    with tempfile.TemporaryDirectory() as folder:
        experiment = load(EXAMPLES / "bits-lenet5.yaml", SIGNED)
        found = HardenRun(experiment, Path(folder) / "run", TARGET, tell=lambda line: None, progress=False)()
    return f"{sentence(found)}\n\n{story(found)}\n\n{verified(found)}"


def story(found: Hardened) -> str:
    """Every try of every step."""
    lines = [
        "| step | tried | mean, % | 5th percentile | steps | side paths: parameters, MACs, energy "
        f"| energy saved in all, %: {'; '.join(map(brief, found.untouched)) or found.unpriced} |",
        "|" + "---|" * 7,
    ]
    for step in found.steps:
        for one in step.attempts:
            cost = "–"
            if one.overhead is not None:
                shares = (one.overhead.parameter_share, one.overhead.mac_share)
                shares += tuple(one.overhead.energy_shares.values())[:1]
                cost = ", ".join(f"+{100 * share:.1f} %" for share in shares)
            name = f"**{one.name}**" if one == step.kept else one.name
            net = "; ".join(f"{100 * share:+.1f}" for share in found.net(one).values()) or "–"
            mean, low = one.row.mean, one.row.reached("p5")
            lines.append(f"| {step.name} | {name} | {mean:.2f} | {low:.2f} | {one.steps} | {cost} | {net} |")
        lines.append(f"| {step.name} | *{conclusion(found, step) or step.told}* | | | | | |")
    return "\n".join(lines)


def verified(found: Hardened) -> str:
    """On chips and images that decided nothing."""
    lines = ["| verified | mean, % | 5th percentile | worst | chips |", "|" + "---|" * 5]
    for row in found.verified:
        p5 = "–" if row.p5 is None else f"{row.p5:.2f}"
        lines.append(f"| {row.method} | {row.mean:.2f} | {p5} | {row.worst:.2f} | {row.chips} |")
    return "\n".join(lines)
