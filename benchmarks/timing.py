"""Side-by-side timing: the cases take turns, and each is quoted as the median of its ratios to the first.

With one thread it is the processor's time that counts, which other work on the machine takes nothing of.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timed:
    """Median time (s) of a case, and median, smallest and largest ratio to the first case of the same round."""

    seconds: float
    ratio: float
    low: float
    high: float


def side_by_side(cases: Mapping[str, Callable[[], object]], rounds: int = 15, warm: int = 2) -> dict[str, Timed]:
    """Run all cases in turn, round after round; the first is what the others are compared with."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + warm):
        for name, case in cases.items():
            start = clock()
            case()
            if turn >= warm:
                times[name].append(clock() - start)
    first = times[next(iter(cases))]
    found = {}
    for name, seconds in times.items():
        ratios = sorted(s / base for s, base in zip(seconds, first, strict=True))
        found[name] = Timed(statistics.median(seconds), statistics.median(ratios), ratios[0], ratios[-1])
    return found


def table(found: Mapping[str, Timed], what: str) -> str:
    """The cases as a Markdown table."""
    lines = [f"| {what} | ms | ratio (median) | ratio (range) |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {1000 * t.seconds:.1f} | {t.ratio:.2f} | {t.low:.2f} … {t.high:.2f} |" for name, t in found.items()
    ]
    return "\n".join(lines)
