"""A macro with some of its imperfections taken out, to ask what each of them costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from bitline.converters import Adc
from bitline.devices import LogNormalWeight
from bitline.macro.kinds import TableColumn
from bitline.macro.macro import Macro
from bitline.macro.read import Converters

# What each cause of error is made of: part of the macro, and its fields that fall back to their ideal default.
CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "variation": {
        "column": ("gain_sigma", "offset_sigma"),
        "converter": ("gain_sigma", "offset_sigma", "gain_about", "gains", "offsets", "dnl_sigma"),
        "driver": ("inl_sigma",),
        "": ("trim",),
    },
    "wires": {"": ("wires",)},
    "noise": {"cell": ("read_sigma", "read_noise"), "column": ("sigma",), "converter": ("noise",)},
    "curve": {
        "cell": ("g_min", "g_max"),
        "column": ("mean", "pattern"),
        "converter": ("inl",),
        "driver": ("levels", "inl"),
        "": ("compensation",),
    },
}


def _without(macro: Macro, *causes: str) -> Macro:
    changes: dict[str, Any] = {}
    if "variation" in causes and macro.cell is not None:
        changes["cell"] = macro.cell.typical()
    if "curve" in causes and macro.cell is not None:
        changes["cell"] = changes.get("cell", macro.cell).centred()
    kept = changes.get("cell", macro.cell)
    for cause in causes:
        for part, fields in CAUSES[cause].items():
            holder: BaseModel | None = changes.get(part, getattr(macro, part)) if part else macro
            if holder is None or isinstance(holder, TableColumn):
                continue
            ideal = {name: type(holder).model_fields[name].default for name in fields}
            if part:
                changes[part] = holder.model_copy(update=ideal)
            else:
                changes |= ideal
    if "curve" in causes and "wires" not in causes and macro.wires is not None and kept is not None:
        changes["cell"] = changes["cell"].model_copy(update=kept.range_from_zero())  # wires need conductances
    error = macro.variation
    if error is not None and ("noise" if error.fresh else "variation") in causes:
        changes["variation"] = LogNormalWeight(sigma=0.0)  # not None: the weights stay unsliced
    return macro.model_copy(update=changes)


CONVERTER_CAUSES = ("resolution", "clipping")


def without(macro: Macro, cause: str) -> Macro:
    """The macro with one cause of error ideal: one of ``causes(macro)``.

    'resolution' and 'clipping' are not of the macro but of how its converters run: ``converters_without``. 'table'
    replaces a measured column by an ideal one with a converter on the same grid.
    """
    if cause == "table":
        return ideal(macro)
    return macro if cause in CONVERTER_CAUSES else _without(macro, cause)


def converters_without(cause: str, converters: Converters) -> Converters:
    """Converters that do not round ('resolution') or have no first and last code ('clipping'); all else as it was."""
    return replace(
        converters,
        rounds=converters.rounds and cause != "resolution",
        clips=converters.clips and cause != "clipping",
    )


def causes(macro: Macro) -> list[str]:
    """Which causes of error this macro has."""
    found = [cause for cause in CAUSES if without(macro, cause) != macro]
    if macro.converter is not None:
        found += CONVERTER_CAUSES
    return [*found, "table"] if isinstance(macro.column, TableColumn) else found


def nominal(macro: Macro) -> Macro:
    """The typical die, read without noise: mean curve and common INL stay, spread and noise go."""
    return _without(macro, "variation", "noise")


def ideal(macro: Macro) -> Macro:
    """Ideal cells, columns and converters of the same resolution: what the design computes on paper.

    A measured table becomes an ideal converter on its own grid.
    """
    column = macro.column
    if isinstance(column, TableColumn):
        codes = column.probability.shape[1]
        high = column.low + column.step * (codes - 1)
        bits = max(1, (codes - 1).bit_length())
        span = {"kind": "fixed", "low": column.low, "high": column.low + column.step * ((1 << bits) - 1)}
        if codes == 1 << bits:
            span["high"] = high
        return macro.model_copy(update={"column": None, "converter": Adc.model_validate({"bits": bits, "range": span})})
    clean = _without(macro, "variation", "wires", "noise", "curve")
    converter = clean.converter and Adc(bits=clean.converter.bits, range=clean.converter.range)
    return clean.model_copy(update={"converter": converter, "driver": None, "cell": None, "column": None})
