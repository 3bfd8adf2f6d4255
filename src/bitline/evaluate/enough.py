"""How many measurements a network needs: the error of its accuracy against the number of reads behind the tables.

The log is halved again and again; tables are fitted to its parts, and the network on each is compared with the network
on the table of the whole log, on the same chips, images and reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.evaluate.montecarlo import over_chips
from bitline.evaluate.simple import Source
from bitline.evaluate.statistics import REPLICATES, means, percentiles
from bitline.macro import fit_table
from bitline.macro.kinds import TableColumn
from bitline.nn import layers, use
from bitline.samples import Samples


class SizeError(Frozen):
    """The error of the accuracy that tables from ``reads`` reads give."""

    reads: int
    differences: tuple[float, ...] = Field(
        description="accuracy less the whole log's, of each part of this size, points"
    )
    mean: float = Field(description="of the differences, points")
    ci95: tuple[float, float] = Field(description="95 % interval of one part's difference, points")
    resolution: float = Field(description="half the 95 % interval that chips and images alone leave, points")
    bound: float = Field(description="farther end of ci95, against an endless log, points")


class AccuracyCurve(Frozen):
    """Accuracy error against reads, from the smallest part of the log to its halves."""

    whole: int = Field(description="reads of the whole log")
    accuracy: float = Field(description="with its table, %")
    tolerance: float = Field(description="points")
    sizes: tuple[SizeError, ...]
    refused: str | None = Field(default=None, description="why no table can be made of fewer reads")

    @property
    def enough(self) -> int | None:
        """The fewest reads from which on the bound is within the tolerance; None where half of the log is too few."""
        found = None
        for size in reversed(self.sizes):
            if size.bound > self.tolerance:
                break
            found = size.reads
        return found

    @property
    def sentence(self) -> str:
        """How many reads suffice, in words."""
        last, log = self.sizes[-1], f"the whole log ({self.whole} reads, {self.accuracy:.2f} %)"
        if self.enough is not None:
            bound = next(size.bound for size in self.sizes if size.reads == self.enough)
            return (
                f"{self.enough} reads are enough: the accuracy is that of {log} within {bound:.2f} points, "
                f"{self.tolerance:g} being allowed."
            )
        if last.resolution >= self.tolerance:
            return (
                f"The evaluation cannot tell: chips and images alone leave {last.resolution:.2f} points open, "
                f"{self.tolerance:g} being allowed; take more of them."
            )
        more = last.reads * (last.bound**2 - last.resolution**2) / (self.tolerance**2 - last.resolution**2)
        return (
            f"{last.reads} reads are too few: the accuracy may be {last.bound:.2f} points from that of {log}, "
            f"{self.tolerance:g} being allowed; about {more:.2g} would do, as the error falls with their root."
        )

    def text(self) -> str:
        """The numbers, a line a size, and the sentence."""
        lines = ["   reads  parts  difference  95 % interval     resolution   bound (points)"]
        lines += [
            f"{size.reads:8d}  {len(size.differences):5d}  {size.mean:+10.2f}  "
            f"[{size.ci95[0]:+6.2f}, {size.ci95[1]:+6.2f}]  {size.resolution:10.2f}  {size.bound:6.2f}"
            for size in self.sizes
        ]
        return "\n".join([*lines, *([f"fewer: {self.refused}"] if self.refused else []), self.sentence])


def accuracy_curve(
    model: nn.Module,
    data: Iterable[Any],
    samples: Samples,
    *,
    tolerance: float = 0.5,
    halvings: int = 6,
    parts: int = 4,
    chips: int = 4,
    seed: int = 0,
    **how: Any,
) -> AccuracyCurve:
    """How far the accuracy is off that a table from half of ``samples`` gives, from a quarter, an eighth …

    ``model``: a converted, calibrated network on a macro whose column is a table; tables are fitted as that one is
    (macro, bank or column, scale), ``how`` adds what else ``fit_table`` takes. ``data``: as for ``evaluate``.
    ``parts``: at most so many different parts of each size, whose differences to the whole log's accuracy are paired on
    ``chips`` dies, images and reads; the interval is that of one part, its chips and images resampled. ``tolerance``:
    error allowed, points. The curve ends where a part lacks reads for a table, and says why. A part's reads are in the
    whole log as well: its variance against an endless log is larger by 1/(1 - share), but for what chips and images
    leave open, which ``bound`` counts in. Valid where errors of tables move the accuracy in proportion.

    Costs (1 + parts · halvings) evaluations. The model is left on its own macro. Raises ValueError where the macro has
    no table, for a log whose halves cannot be fitted, and for what ``evaluate`` refuses.
    """
    if not tolerance > 0 or min(halvings, parts, chips) < 1:
        raise ValueError(
            f"tolerance = {tolerance:g} must be above 0; halvings = {halvings}, parts = {parts}, chips = {chips} at "
            "least 1"
        )
    if isinstance(data, Iterator):
        raise TypeError(f"data is a {type(data).__name__}, which can be walked once: give a loader or a list")
    tables = {layer.design.name: layer.design.column for layer in layers(model).values()}
    for name, column in tables.items():
        if not isinstance(column, TableColumn):
            raise ValueError(f"macro {name} has no measured table: give it `column` from bitline.fit_table(samples)")
    if len(tables) != 1:
        raise ValueError(f"the samples are of one macro; the network's layers sit on {sorted(tables)}")
    (own,) = tables.values()
    assert isinstance(own, TableColumn)
    kept = {name: getattr(own, name) for name in ("per", "low", "step", "codes", "assign", "bank")} | how
    source = Source(data)

    def right(table: TableColumn) -> Tensor:
        use(model, lambda macro: macro.model_copy(update={"column": table}))
        return torch.stack([trial.right for trial in over_chips(model, source, chips, seed)]).double() * 100

    order = np.random.default_rng(seed).permutation(len(samples))
    sizes, refused = list[SizeError](), None
    try:
        whole = right(fit_table(samples, **kept))
        for halving in range(1, halvings + 1):
            reads = len(samples) >> halving
            some = [order[part * reads : (part + 1) * reads] for part in range(min(parts, 1 << halving))]
            try:
                fitted = [fit_table(samples.take(rows), **kept) for rows in some]
            except ValueError as error:
                if not sizes:
                    raise
                refused = f"{reads} reads: {error}"
                break
            sizes.append(_error([right(table) - whole for table in fitted], reads, len(samples), seed))
    finally:
        use(model)
    return AccuracyCurve(
        whole=len(samples),
        accuracy=round(float(whole.mean()), 4),
        tolerance=tolerance,
        sizes=tuple(reversed(sizes)),
        refused=refused,
    )


def _error(away: list[Tensor], reads: int, whole: int, seed: int) -> SizeError:
    """From the differences (chips, images) of each part, points."""
    resampled = [means(part, seed, -(-REPLICATES // len(away))) for part in away]
    ci95 = percentiles(torch.cat(resampled))
    each = tuple(round(float(part.mean()), 4) for part in away)
    ends = [percentiles(part) for part in resampled]
    resolution = sum(high - low for low, high in ends) / len(ends) / 2
    of_tables = max(max(abs(ci95[0]), abs(ci95[1])) ** 2 - resolution**2, 0.0)
    return SizeError(
        reads=reads,
        differences=each,
        mean=round(sum(each) / len(each), 4),
        ci95=ci95,
        resolution=round(resolution, 4),
        bound=round(math.sqrt(resolution**2 + of_tables / (1 - reads / whole)), 4),
    )
