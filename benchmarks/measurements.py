"""How many conversions of a chip to log: the error of a table from so many, and of a network's accuracy with it.

The log has as many reads of each ideal code, of a macro whose table is known; the network is D-NAT's on that table.
"""

from __future__ import annotations

import numpy as np

from benchmarks.dnat import digits, four_columns
from benchmarks.seeds import KEPT
from bitline.evaluate import AccuracyCurve, accuracy_curve, over_chips
from bitline.experiment import Run
from bitline.macro import Chip, Macro, distance, fit_table, simulate
from bitline.macro.enough import expected_distance
from bitline.macro.kinds import TableColumn
from bitline.methods import DNat
from bitline.samples import Samples

COLUMNS, READS = 64, 8  # of each ideal code
TOLERANCE = 1.0  # points
CHIPS, HALVINGS = 10, 9
RARE = {"least": 1, "reach": 128}  # rows without reads borrow from any distance


def run() -> str:
    """Sizes of a log, and the smallest that is enough to ``TOLERANCE``; the network is kept."""
    design = four_columns("generic-pedestal-sram")
    assert isinstance(design.column, TableColumn)
    walk = Run(digits(design, 0), KEPT / "measurements", lambda line: None, progress=False)
    model = walk.trained(walk.converted(walk.float_network(), design), design, DNat())
    samples = log(design, design.column)
    own = 100 * np.mean([trial.right.double().mean() for trial in over_chips(model, walk.source, CHIPS)])
    curve = accuracy_curve(model, walk.source(), samples, tolerance=TOLERANCE, halvings=HALVINGS, chips=CHIPS, **RARE)
    told = f"On the macro's own table the network has {own:.2f} %. {curve.sentence}"
    return f"{table(curve, samples, design.column)}\n\n{told}"


def log(design: Macro, column: TableColumn) -> Samples:
    """Reads of a chip's columns, each ideal code as often."""
    sums = (column.low + column.step * np.arange(column.codes)).astype(int)
    return simulate(design, Chip(seed=1, number=0), COLUMNS, READS, [int(s) for s in sums])


def table(curve: AccuracyCurve, samples: Samples, truth: TableColumn) -> str:
    """A row a size, the smallest first."""
    heads = ["reads", "of a code", "table's error, total variation", "expected"]
    heads += ["accuracy less the whole log's, points, part by part", "95 % of one part", "bound"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    order = np.random.default_rng(0).permutation(len(samples))  # as the curve cuts the log
    how = {"low": truth.low, "step": truth.step, "codes": truth.codes} | RARE
    for size in curve.sizes:
        parts = [samples.take(order[i * size.reads : (i + 1) * size.reads]) for i in range(len(size.differences))]
        away = np.mean([distance(fit_table(part, **how), truth).mean() for part in parts])
        each = np.full(truth.codes, size.reads / truth.codes)
        cells = [f"{size.reads}", f"{each[0]:g}", f"{away:.3f}"]
        cells += [f"{expected_distance(truth.probability[0], each).mean():.3f}"]
        cells += [", ".join(f"{part:+.2f}" for part in size.differences)]
        cells += [f"[{size.ci95[0]:+.2f}, {size.ci95[1]:+.2f}]", f"{size.bound:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
