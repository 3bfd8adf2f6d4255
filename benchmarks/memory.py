"""Peak memory of evaluating 1 and 20 chips, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, sys, torch
from bitline import presets
from bitline.data import SklearnDigits, batches
from bitline.evaluate import over_chips
from bitline.networks import Digits
from bitline.nn import calibrate, convert
test = SklearnDigits().test()
model = convert(Digits().build(), presets.load("generic-8t-sram"))
calibrate(model, batches(test, 64))
for trial in over_chips(model, lambda: batches(test, 64), int(sys.argv[1])):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run() -> str:
    """The two peaks and their ratio (bound 1.1×)."""
    peaks = [int(_peak(chips)) / 1024 for chips in (1, 20)]
    lines = ["| chips | peak memory, MiB | ratio (bound 1.1×) |", "|---|---|---|"]
    lines += [f"| {n} | {peak:.0f} | {peak / peaks[0]:.3f} |" for n, peak in zip((1, 20), peaks, strict=True)]
    return "\n".join(lines)


def _peak(chips: int) -> str:
    command = [sys.executable, "-c", SCRIPT, str(chips)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
