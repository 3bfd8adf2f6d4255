"""From a log of conversions to the macro that a network is trained for: D-MAC-EM beside its analytic rival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bitline.macro.components import components
from bitline.macro.dmacem import coverage, fit_gaussian
from bitline.macro.enough import distance, reads_for
from bitline.macro.kinds import TableColumn
from bitline.macro.macro import Macro
from bitline.macro.tables import Per, fit_table
from bitline.samples import Samples

GEOMETRY = ("rows", "active_rows", "columns", "columns_per_adc", "inputs", "weights", "volts_per_count")
ABOUT = ("board", "serial")  # of the provenance, that a macro's source repeats
LINES = 8  # on coverage, of at most as many tables
CLOSE = 0.02  # total variation of a row that reads should bring it within


@dataclass(frozen=True)
class Fitted:
    """A macro with a measured table, and what is to be said of the table."""

    macro: Macro
    gaussian: TableColumn  # pooled, of the same variance about the ideal code
    told: str

    @property
    def column(self) -> TableColumn:
        """The measured table, or tables."""
        assert isinstance(self.macro.column, TableColumn)
        return self.macro.column


def fit_macro(
    samples: Samples,
    geometry: Macro,
    name: str,
    *,
    per: Per = "pooled",
    assign: Literal["drawn", "physical"] = "drawn",
    arrays: int | None = None,
    low: float | None = None,
    step: float | None = None,
    codes: int | None = None,
    **how: Any,
) -> Fitted:
    """The macro that ``samples`` are of: array and number formats of ``geometry``, and P(code | ideal code) in place of
    its cells' errors, column and converter.

    ``low``, ``step`` (counts) and ``codes`` are the converters'; absent: as the log says, else 0, 1 and the largest
    code seen. ``arrays``: a board's, rewritten as a network runs; absent: as many as a network needs. ``how`` goes to
    ``fit_table``. Raises ValueError as that does, and where there are no rows.
    """
    if not len(samples):
        raise ValueError("no rows to fit a macro to")
    held = samples.provenance
    scale: dict[str, Any] = {
        "low": float(held.get("low", 0.0)) if low is None else low,
        "step": float(held.get("step", 1.0)) if step is None else step,
        "codes": held.get("codes") if codes is None else codes,
    }
    over: Sequence[str] = how.get("over", ())
    table = fit_table(samples, per, assign=assign, **scale, **how)
    told = {key: how[key] for key in ("least", "reach", "bank", "over") if key in how}
    covered = coverage(samples, per, **scale, **told).text().split("\n")
    if len(covered) > LINES + 1:
        covered = [*covered[: LINES + 1], f"… and so on, of {len(covered) - 1} tables: `coverage` has them all"]
    gaussian = fit_gaussian(samples, **scale, over=over)
    about = ", ".join(str(held[key]) for key in ABOUT if key in held)
    kept = geometry.model_dump(include=set(GEOMETRY), exclude_none=True)
    placement = {} if arrays is None else {"placement": {"kind": "reload", "arrays": arrays}}
    source = f"Measured{f' on {about}' if about else ''}: {samples.summary()}"
    macro = Macro.model_validate({"name": name, "source": source, **kept, "column": table, **placement})
    return Fitted(macro, gaussian, "\n".join([*covered, _enough(table), _parts(samples), _rival(table, gaussian)]))


def _parts(samples: Samples) -> str:
    """How much of the error is frozen with a column, where the log can tell."""
    try:
        found = components(samples)
    except ValueError as error:
        return f"frozen and fresh error not told apart: {error}"
    frozen, fresh = (
        float(np.sqrt((part**2 * found.reads).sum() / found.reads.sum())) for part in (found.frozen, found.fresh)
    )
    return f"rms error about the mean code: frozen with a column {frozen:.3f} LSB, fresh at each read {fresh:.3f} LSB"


def _enough(table: TableColumn) -> str:
    """Whether rows were read often enough; those that were never read are ``coverage``'s."""
    assert table.reads is not None
    reads, wanted = np.asarray(table.reads), reads_for(table, CLOSE)
    few = (reads > 0) & (reads < wanted)
    return (
        f"{int(few.sum())} of {int((reads > 0).sum())} rows have fewer reads than bring them within {CLOSE:g} total "
        f"variation of the truth ({int(np.median(wanted))} on the median row, which has {int(np.median(reads))})"
    )


def _rival(table: TableColumn, gaussian: TableColumn) -> str:
    """What a Gaussian about the ideal code would miss."""
    away = table.mean - np.arange(table.mean.shape[1])
    return (
        f"mean code less ideal code: {away.min():+.2f} … {away.max():+.2f} LSB; a Gaussian about the ideal code of the "
        f"same variance is {100 * distance(table, gaussian).mean():.0f} % away (total variation, mean over rows)"
    )
