"""S0's comparison on ResNet20 and CIFAR-10: the small CPU setting of ``examples/s0-resnet20.yaml``, one seed."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.s0 import table
from bitline.experiment import Run, load

EXPERIMENT = Path(__file__).parents[1] / "examples" / "s0-resnet20.yaml"


def run() -> str:
    """Accuracy of each method, and error-aware less each other; a line where there are no data."""
    missing = [name for name in ("BITLINE_DATA", "BITLINE_NETWORKS") if name not in os.environ]
    if missing:
        return f"Not run: {' and '.join(missing)} not set."
    experiment = load(EXPERIMENT)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        walk = Run(experiment, Path(folder) / "run", lambda line: None, progress=False)
        walk()
    minutes = (time.perf_counter() - start) / 60
    test, budget = experiment.test, experiment.training.steps
    size = f"{budget} steps a method, {test.chips} chips × {len(walk.testing)} images, {minutes:.0f} min"
    return f"**A0.4, {experiment.title}: {size}**\n\n{table([walk.found], (experiment.seed,))}"
