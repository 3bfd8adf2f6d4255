"""The digits on the described 8T macro, with a longer budget and three seeds: error-aware within one point of ideal."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.seeds import demo
from bitline.experiment import Run

CHANGES = ("macro=generic-8t-sram", "training.epochs=40", "network.channels=[16, 16, 32]", "test.details=false")


def run(seeds: tuple[int, ...] = (0, 1, 2)) -> str:
    """A row a seed and method."""
    lines = ["| seed | method | mean, % | 95 % interval | worst chip, % |", "|---|---|---|---|---|"]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            result = Run(demo(CHANGES, seed), Path(folder) / "run", lambda line: None, progress=False)()
        for row in result.rows:
            low, high = row.ci95
            lines.append(f"| {seed} | {row.method} | {row.mean:.2f} | {low:.2f} … {high:.2f} | {row.worst:.2f} |")
        for pair in result.differences:
            low, high = pair.ci95
            lines.append(f"| {seed} | *{pair.of} − {pair.against}* | {pair.mean:+.2f} | {low:.2f} … {high:.2f} | |")
    return "\n".join(lines)
