"""Counts priced by a technology: energy by term and layer under each ADC law, latency, area, and what follows.

An operation is half a multiply–accumulate: TOPS count 2 a MAC of integers as they are encoded, *1-bit* TOPS count each
MAC as input bits × weight bits. Layers run one after the other and a sample after a sample: nothing is pipelined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.cost.activity import Activity
from bitline.cost.counts import LayerCounts, count
from bitline.cost.technology import Digital, Technology
from bitline.macro import Macro
from bitline.macro.placement import Reload
from bitline.nn import layers

TERMS = ("adc", "driver", "array", "digital", "buffer", "write")
DEFAULT = "horowitz-45nm"


class Energy(Frozen):
    """Energy of a sample by term, J; null: the technology does not give the term."""

    adc: float = Field(description="conversions")
    driver: float | None = Field(description="DACs of word lines")
    array: float | None = Field(description="cells read")
    digital: float | None = Field(
        description="shift-add, Σx, requantisation; products of layers that stayed digital and of side paths"
    )
    buffer: float | None = Field(
        description="inputs fetched, outputs stored; numbers of layers that stayed digital and of side paths read"
    )
    write: float | None = Field(description="arrays written again, share of one sample")

    @property
    def total(self) -> float:
        """Of the terms there are, J."""
        return sum(getattr(self, term) or 0.0 for term in TERMS)


class Estimate(Frozen):
    """Energy under one ADC law."""

    adc: str = Field(description="the law and its parameters")
    layers: tuple[Energy, ...] = Field(description="in the order of the cost's layers")
    energy: Energy = Field(description="of all layers")
    tops_per_watt: float = Field(description="of the layers on the macro, their energy alone")
    one_bit_tops_per_watt: float
    network_tops_per_watt: float = Field(
        description="operations of all layers, digital ones too, over the energy of the network with its side paths, "
        "whose own operations are none of the network's"
    )


class Cost(Frozen):
    """What one inference takes, under several ADC laws side by side."""

    technology: Technology
    batch: int = Field(description="samples that go through a layer before its arrays are written for another")
    layers: tuple[LayerCounts, ...]
    seconds: tuple[float, ...] = Field(
        description="latency of each layer for one sample, s; digital ones and side paths: 0, it is not counted"
    )
    latency: float = Field(description="of one sample, s, layers on the macro one after the other")
    area: float | None = Field(description="of arrays, converters and drivers, m²; null: the technology gives no areas")
    tops: float
    one_bit_tops: float
    tops_per_mm2: float | None
    uncounted: tuple[str, ...] = Field(description="what latency, area, TOPS and TOPS/mm² leave out")
    estimates: tuple[Estimate, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Terms that the technology does not give."""
        return tuple(term for term in TERMS if getattr(self.estimates[0].energy, term) is None)


def cost(
    model: nn.Module,
    x: Tensor,
    technology: Technology | str | Path = DEFAULT,
    *,
    batch: int = 1,
    activity: Mapping[str, Activity] | None = None,
) -> Cost:
    """Energy, latency and area of a converted model for one sample.

    ``x``: one sample or more, of which only the shape matters. ``technology``: or the name of one that comes with the
    library, or a YAML file. ``batch``: samples between two writes of an array, where the placement reloads.
    ``activity``: what zeros skip, by layer (``measure_activity``); absent: nothing. It lowers energy, not latency.
    Raises ValueError where an ADC law or a term does not cover the macro.
    """
    technology = Technology.load(technology)
    macros = {name: layer.design for name, layer in layers(model).items()}
    return price(count(model, x, activity), macros, technology, batch)


def price(counted: Sequence[LayerCounts], macros: Mapping[str, Macro], technology: Technology, batch: int = 1) -> Cost:
    """What counts cost; ``macros``: of each layer that sits on one, by name. Errors as for ``cost``."""
    if batch < 1:
        raise ValueError(f"batch = {batch}: one sample or more is expected")
    rate = 1 / technology.cycle
    rest = [_but_adc(one, macros, technology, batch) for one in counted]
    macs, one_bit = (sum(getattr(one, name) for one in counted if one.macro) for name in ("macs", "one_bit_macs"))
    every = sum(one.macs for one in counted if one.beside is None)
    estimates = []
    for law in technology.adc:
        found = []
        for one, others in zip(counted, rest, strict=True):
            each = law.joules(one.adc_bits, rate, one.layer) if one.macro else 0.0
            found.append(Energy(adc=conversions(one) * each, **others))
        energy = _added(found)
        on_macro = sum(each.total for one, each in zip(counted, found, strict=True) if one.macro)
        estimates.append(
            Estimate(
                adc=law.title,
                layers=tuple(found),
                energy=energy,
                tops_per_watt=2 * macs / on_macro / 1e12,
                one_bit_tops_per_watt=2 * one_bit / on_macro / 1e12,
                network_tops_per_watt=2 * every / energy.total / 1e12,
            )
        )
    seconds = tuple(_seconds(one, technology, batch) for one in counted)
    latency = sum(seconds)
    area = _area(counted, macros, technology)
    tops = 2 * macs / latency / 1e12
    return Cost(
        technology=technology,
        batch=batch,
        layers=tuple(counted),
        seconds=seconds,
        latency=latency,
        area=area,
        tops=tops,
        one_bit_tops=2 * one_bit / latency / 1e12,
        tops_per_mm2=None if area is None else tops / (area * 1e6),
        uncounted=_uncounted(counted, area),
        estimates=tuple(estimates),
    )


def conversions(counted: LayerCounts) -> float:
    """Conversions of a sample that are made: those that zeros do not skip."""
    return counted.conversions * (counted.activity.reads if counted.activity else 1.0)


def _but_adc(
    one: LayerCounts, macros: Mapping[str, Macro], technology: Technology, batch: int
) -> dict[str, float | None]:
    """Every term of a layer but its conversions, J; None where the technology does not give it."""
    driver, array, digital, buffer = (getattr(technology, term) for term in TERMS[1:5])
    write = technology.write
    if one.macro is None:
        return {"driver": 0.0, "array": 0.0, "write": 0.0} | off_macro(one, technology)
    if one.cells_written and write is None:
        raise ValueError(
            f"{one.layer}: macro {one.macro} is written again as the network runs: give `write` of the technology, "
            "or more arrays of `placement`"
        )
    driven = one.activity.drives if one.activity else 1.0
    words = one.inputs + one.outputs
    return {
        "driver": None if driver is None else one.drives * driven * driver.joules(one.digit_bits),
        "array": None if array is None else one.cells * driven * array.read(macros[one.layer].cell, one.layer),
        "digital": None if digital is None else _sums(one, digital, technology.scale_bits),
        "buffer": None if buffer is None else words * one.input_bits * buffer.bit,
        "write": 0.0 if write is None else one.cells_written * write.cell / batch,
    }


def off_macro(one: LayerCounts, technology: Technology) -> dict[str, float | None]:
    """Energy of a layer that stayed digital, or of a side path, J; None where the technology does not give a term.

    Stored numbers are read once a sample, inputs fetched and outputs stored as those of layers on the macro, all of
    ``digital_bits``. What a seed gives again costs nothing here: the random matrices of ``vectors``, the places of
    ``sparse``.
    """
    digital, buffer, bits = technology.digital, technology.buffer, technology.digital_bits
    words = one.parameters + one.inputs + one.outputs
    return {
        "digital": None if digital is None else one.macs * digital.mac(bits, bits, one.terms),
        "buffer": None if buffer is None else words * bits * buffer.bit,
    }


def _sums(one: LayerCounts, digital: Digital, scale_bits: int) -> float:
    """Energy of what follows a layer's conversions, J: shift-add, Σx, bias and requantisation of each output."""
    read = one.activity.reads if one.activity else 1.0
    wide = digital.addition(one.accumulator_bits)
    output = digital.multiplication(one.accumulator_bits, scale_bits) + wide
    return (
        one.accumulations * read * wide + one.input_sums * digital.addition(one.input_sum_bits) + one.outputs * output
    )


def _added(parts: Sequence[Energy]) -> Energy:
    """Energies of layers added up; a term that one lacks is absent."""
    columns = {term: [getattr(part, term) for part in parts] for term in TERMS}
    return Energy.model_validate({term: None if None in each else sum(each) for term, each in columns.items()})


def _seconds(one: LayerCounts, technology: Technology, batch: int) -> float:
    """Latency of a layer for one sample, s; rows of all its arrays are written one after the other."""
    written = one.rows_written * technology.write.row / batch if technology.write is not None else 0.0
    return one.cycles * technology.cycle + written


def _uncounted(counted: Sequence[LayerCounts], area: float | None) -> tuple[str, ...]:
    """What latency and area leave out, in words."""
    digital = any(one.macro is None and one.beside is None for one in counted)
    beside = any(one.beside is not None for one in counted)
    found = [f"latency of {what}" for what, there in (("digital layers", digital), ("side paths", beside)) if there]
    return (*found, *(["area of all but arrays, converters and drivers"] if area is not None else []))


def _area(counted: Sequence[LayerCounts], macros: Mapping[str, Macro], technology: Technology) -> float | None:
    """Area of arrays, their converters and drivers, m²; arrays that layers share count once."""
    areas = technology.areas
    if areas is None:
        return None
    silicon: dict[str, tuple[Macro, int]] = {}
    for one in counted:
        if one.macro is not None:
            macro = macros[one.layer]
            shared = isinstance(macro.placement, Reload)
            number = macro.placement.arrays if isinstance(macro.placement, Reload) else one.arrays
            silicon[f"pool {one.macro}" if shared else f"layer {one.layer}"] = (macro, number)
    return sum(
        number
        * (
            macro.rows * macro.columns * areas.cell
            + -(-macro.columns // macro.columns_per_adc) * areas.converter
            + macro.rows * areas.row
        )
        for macro, number in silicon.values()
    )
