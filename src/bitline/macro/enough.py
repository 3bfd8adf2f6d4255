"""How many reads a measured table needs: its error against their number, from the log itself and in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.kinds import TableColumn
from bitline.macro.tables import count_codes, fit_table
from bitline.samples import Samples


def distance(a: TableColumn, b: TableColumn) -> Float[np.ndarray, "T I"]:
    """Total variation between rows, ½ Σ_j |P_a - P_b|, 0 … 1; a single table is compared with each of several. Raises
    ValueError where shapes or scales differ."""
    shapes = a.probability.shape, b.probability.shape
    alike = shapes[0][1:] == shapes[1][1:] and (shapes[0][0] == shapes[1][0] or 1 in (shapes[0][0], shapes[1][0]))
    if not alike or (a.low, a.step) != (b.low, b.step):
        raise ValueError(
            f"tables of {a.probability.shape} from {a.low:g} by {a.step:g} and of {b.probability.shape} from {b.low:g} "
            f"by {b.step:g} cannot be compared"
        )
    return np.asarray(0.5 * np.abs(a.probability - b.probability).sum(axis=2))


def expected_distance(
    probability: Float[np.ndarray, "*rows J"], reads: Float[np.ndarray, "*rows"]
) -> Float[np.ndarray, "*rows"]:
    """Total variation to expect between a row and its estimate from so many reads: ½ Σ_j sqrt(2 p (1 - p)/(π n)), the
    mean deviation of each share (normal law; a share seen less than once on average counts 2 p)."""
    n = np.maximum(reads, 1e-9)[..., None]
    deviation = np.sqrt(2 * probability * (1 - probability) / (np.pi * n))
    return np.asarray(0.5 * np.minimum(deviation, 2 * probability).sum(-1))


def reads_for(column: TableColumn, tolerance: float = 0.02) -> Integer[np.ndarray, "T I"]:
    """Reads of each ideal code for an expected total variation of ``tolerance``: (Σ_j sqrt(p (1 - p)))²/(2 π tol²)."""
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance = {tolerance:g}: a total variation between 0 and 1")
    spread = np.sqrt(column.probability * (1 - column.probability)).sum(axis=2)
    return np.ceil(spread**2 / (2 * np.pi * tolerance**2)).astype(np.int64)


@dataclass(frozen=True)
class Learning:
    """The error of a pooled table against the number of reads it was fitted to, one entry a size.

    Total variation is between the fit and the held-out half of the log, which has an error of its own: ``expected``
    counts both, so that ``mean`` follows it where reads are independent and lies above it where they are not.
    """

    reads: Integer[np.ndarray, " S"]
    mean: Float[np.ndarray, " S"]  # over ideal codes, weighted by how often they occur
    worst: Float[np.ndarray, " S"]  # of the ideal codes read ``least`` times in the held-out half
    expected: Float[np.ndarray, " S"]  # of ``mean``
    score: Float[np.ndarray, " S"] | None  # what ``score`` gave for each table, accuracy for example
    held_out: float | None  # what it gave for the held-out table

    def text(self) -> str:
        """The numbers as text, a line a size."""
        lines = ["   reads  mean TV  expected  worst TV" + ("" if self.score is None else "     score")]
        for i, reads in enumerate(self.reads):
            line = f"{reads:8d}  {self.mean[i]:7.4f}  {self.expected[i]:8.4f}  {self.worst[i]:8.4f}"
            lines.append(line + ("" if self.score is None else f"  {self.score[i]:8.4f}"))
        return "\n".join(lines)


def learning_curve(
    samples: Samples,
    sizes: Sequence[int],
    *,
    score: Callable[[TableColumn], float] | None = None,
    seed: int = 0,
    least: int = 8,
    **scale: Any,
) -> Learning:
    """Fit tables to ``sizes`` random reads of one half of the log, and compare with the other half.

    ``score``: what a table is worth, say the accuracy of a network on a macro that has it; ``scale``: ``low``, ``step``
    and ``codes`` of ``fit_table``. Rows without reads borrow from any distance. Raises ValueError for a size that is
    more than half of the log.
    """
    half = len(samples) // 2
    if not sizes or min(sizes) < 1 or max(sizes) > half:
        raise ValueError(f"sizes {list(sizes)}: numbers from 1 to {half}, half of the log's {len(samples)} reads")
    order = np.random.default_rng(seed).permutation(len(samples))
    codes = scale.pop("codes", None) or int(samples.code.max()) + 1

    def fitted(of: Samples) -> TableColumn:
        return fit_table(of, codes=codes, least=1, reach=codes, **scale)

    other = samples.take(order[half:])
    truth, held = fitted(other), count_codes(other, codes=codes, **scale).reads[0]
    weight, known = held / held.sum(), held >= least
    rows = []
    for size in sizes:
        some = samples.take(order[:size])
        table, reads = fitted(some), count_codes(some, codes=codes, **scale).reads[0]
        away = distance(table, truth)[0]
        both = 1 / (1 / np.maximum(reads, 1e-9) + 1 / np.maximum(held, 1e-9))  # two estimates, one against the other
        expected = expected_distance(truth.probability[0], both)
        worst = float(away[known].max()) if known.any() else float("nan")
        worth = score(table) if score is not None else float("nan")
        rows.append(((away * weight).sum(), worst, (expected * weight).sum(), worth))
    mean, worst_of, expected_of, scores = (np.array(v, dtype=np.float64) for v in zip(*rows, strict=True))
    return Learning(
        np.array(sizes, dtype=np.int64),
        mean,
        worst_of,
        expected_of,
        scores if score is not None else None,
        score(truth) if score is not None else None,
    )
