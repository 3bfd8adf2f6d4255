"""What is known beforehand of the codes of a bundle's die, and whether the codes seen are as it says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitline.lab.agreement import Agreement, reconcile
from bitline.lab.bundle import Bundle
from bitline.lab.counts import Counts
from bitline.macro import causes
from bitline.macro.kinds import TableColumn


def compared(
    bundle: Bundle, seen: Mapping[str, Counts], simulated: Mapping[str, Counts], width: int, alpha: float
) -> tuple[Agreement | None, str]:
    """The codes ``seen`` in each layer against what is known of the die, or None and why there is nothing to compare.

    Known are, first of these: the codes characterised, where the bundle holds them; the macro's table, a sample as
    large as the reads that each of its rows was counted from; the codes ``simulated`` with the macro. ``width``:
    columns of an array.
    """
    if bundle.record.reference:
        parts = [bundle.tensors[f"reference/{name}"].numpy() for name in ("column", "ideal", "code")]
        expected = Counts(np.stack(parts, axis=1), bundle.tensors["reference/count"].numpy())
        return reconcile(expected, seen, width, alpha), ""
    if (why := unknown_die(bundle)) is not None:
        return None, why
    table, whole = bundle.macro.column, Counts()
    if not isinstance(table, TableColumn):
        for counts in simulated.values():
            whole.merge(counts)
        return reconcile(whole, seen, width, alpha), ""
    if table.reads is None:
        for counts in simulated.values():
            whole.merge(counts)
    else:
        whole = behind(table, seen, width)
    return reconcile(whole, seen, width, alpha, table.per, table.bank), ""


def unknown_die(bundle: Bundle) -> str | None:
    """Why the bundle's macro cannot predict the codes of one die; None where it can."""
    macro = bundle.macro
    if isinstance(macro.column, TableColumn):
        if macro.column.per == "pooled" or macro.column.assign == "physical":
            return None
        return f"the macro's tables are drawn from a lot; fit this die's: per {macro.column.per}, assign: physical"
    if "variation" in causes(macro):
        return "the macro says how dies differ, not how this one is: export with the samples of its characterisation"
    return None


def behind(table: TableColumn, seen: Mapping[str, Counts], width: int) -> Counts:
    """The reads behind a table, for the (column, ideal sum) that were ``seen``: one column stands for its table.

    A row that was borrowed from a neighbour counts as the reads it had of its own. Sums of one ideal code have the same
    row. Empty where the table does not say how often it was read.
    """
    whole = Counts()
    if table.reads is None:
        return whole
    places = np.concatenate([counts.settle().rows[:, :2] for counts in seen.values()])
    if table.per == "pooled":
        places[:, 0] = 0
    elif table.bank is not None:
        places[:, 0] -= places[:, 0] % table.bank
    places = np.unique(places, axis=0)
    which = table.table_of(places[:, 0], width) if table.per != "pooled" else places[:, 0]
    code = np.clip(np.floor((places[:, 1] - table.low) / table.step + 0.5), 0, table.probability.shape[1] - 1)
    row = code.astype(np.int64)
    counts = np.rint(table.probability[which, row] * np.array(table.reads)[which, row, None]).astype(np.int64)
    place, found = np.nonzero(counts)
    return Counts(np.column_stack([places[place], found]), counts[place, found])
