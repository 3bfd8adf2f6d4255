"""What a network asks of its macros for one sample, counted: nothing here knows an energy.

Everything follows from the macro that sets the error: its digits, tiles, converters and placement. Rows are driven once
a pass and row group, and what the columns show is held while their converters take turns.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.compensate import remove, sides
from bitline.configuration import Frozen
from bitline.cost.activity import Activity
from bitline.macro import Layout, Macro, Site
from bitline.macro.kinds import TableColumn
from bitline.nn import CimLayer, SidePath, converted_layers, count_outputs, digital


class LayerCounts(Frozen):
    """One layer's work for one sample. Of a layer that stayed digital, and of a side path: its products, and what they
    take from memory."""

    layer: str
    macro: str | None = Field(description="null: the layer stayed digital")
    beside: str | None = Field(default=None, description="layer that this side path corrects; null: it is none")
    parameters: int = Field(
        default=0, description="numbers stored: weights and biases; off the macro each is read once a sample"
    )
    terms: int = Field(description="K, products of one output")
    outputs: int = Field(description="outputs of a sample, all positions")
    macs: int = Field(description="multiply–accumulates, of integers as they are encoded")
    input_bits: int = Field(default=0, description="of an encoded input")
    weight_bits: int = Field(default=0, description="of an encoded weight")
    adc_bits: int = 0
    digit_bits: int = Field(default=0, description="driven on a word line at once")
    conversions: int = 0
    drives: int = Field(default=0, description="word lines driven: arrays side by side share a driver")
    cells: int = Field(default=0, description="cells on driven rows, of columns that are converted")
    inputs: int = Field(default=0, description="inputs fetched, each again for every position that it meets")
    accumulations: int = Field(default=0, description="codes shifted and added to those before")
    accumulator_bits: int = 0
    input_sums: int = Field(default=0, description="additions of Σx, for weights with a digital offset")
    input_sum_bits: int = 0
    cycles: int = Field(default=0, description="conversions one after the other of the busiest converter")
    arrays: int = 0
    converters: int = Field(default=0, description="of those arrays")
    rows_written: int = Field(default=0, description="rows of arrays written again for each pass of the network")
    cells_written: int = 0
    activity: Activity | None = Field(default=None, description="what is skipped; null: nothing is")

    @property
    def one_bit_macs(self) -> int:
        """Multiply–accumulates of one bit by one bit."""
        return self.macs * self.input_bits * self.weight_bits


def count(model: nn.Module, x: Tensor, activity: Mapping[str, Activity] | None = None) -> tuple[LayerCounts, ...]:
    """The work of a converted model's layers for one sample, in the order of the network.

    ``x``: one sample or more, of which only the shape matters. ``activity``: what reads skip, by layer
    (``measure_activity``). Raises ValueError for a layer that nothing reaches, and for one whose macro has no converter
    or no digits of inputs and weights.
    """
    found, beside = converted_layers(model), sides(model)
    plain = digital(remove(copy.deepcopy(model)) if beside else model).eval()
    names = {module: name for name, module in plain.named_modules()}
    outputs = {names[module]: reached for module, reached in count_outputs(plain, x).items()}
    if silent := [name for name in found if name not in outputs]:
        raise ValueError(f"no sample reached {', '.join(silent)}: the model does not call them; skip them in convert")
    if unknown := [name for name in activity or () if name not in found]:
        raise ValueError(f"activity of {', '.join(unknown)}: the layers on the macro are {', '.join(found)}")
    held = _held(found)
    rows = []
    for name, (made, shape, taken) in outputs.items():
        terms, positions, module = shape[1:].numel(), made // shape[0], plain.get_submodule(name)
        stored = sum(p.numel() for p in module.parameters())
        if name in found:
            counted = _on_macro(found[name], made, held, (activity or {}).get(name))
        else:
            work = {"terms": terms, "outputs": made, "macs": made * terms}
            work["inputs"] = positions * getattr(module, "groups", 1) * terms
            counted = LayerCounts(layer=name, macro=None, **work)
        rows.append(counted.model_copy(update={"parameters": stored}))
        if name in beside:
            side = beside[name]
            rows.append(count_side(name, side, side.macs(positions, taken), side.fetched(positions, taken)))
    return tuple(rows)


def count_side(layer: str, side: SidePath, macs: int, inputs: int) -> LayerCounts:
    """The work of a layer's side path: it corrects outputs before they are stored, and stores none of its own."""
    work = {"terms": side.terms, "outputs": 0, "macs": macs, "parameters": side.size, "inputs": inputs}
    return LayerCounts(layer=f"{layer}.side", macro=None, beside=layer, **work)


def _held(found: Mapping[str, CimLayer]) -> Counter[int]:
    """How many arrays' worth of weights each shared array holds in turn."""
    held: Counter[int] = Counter()
    for layer in found.values():
        if layer.site.pool is not None:
            count = layer.design.layout(*layer.matrix_shape).arrays
            held.update((layer.site.first + i) % layer.site.pool for i in range(count))
    return held


def _on_macro(layer: CimLayer, made: int, held: Counter[int], activity: Activity | None) -> LayerCounts:
    macro, name = layer.design, layer.site.name
    layout = macro.layout(*layer.matrix_shape)
    inputs, weights = macro.inputs, macro.weights
    if inputs is None or weights is None:
        raise ValueError(f"{name}: macro {macro.name} has continuous inputs or weights: give both digits to count them")
    positions = made // (layout.groups * layout.outputs)
    codes = code_count(macro)
    passes, rows = len(inputs.radix), layout.groups * layout.inputs  # rows: driven at one position in one pass
    each = layout.reads * passes * layout.conversions  # conversions of one output
    columns = layout.conversions * layout.legs * layout.outputs
    constant = weights.input_constant if macro.sliced else 0
    largest = max(-inputs.low, inputs.high)
    arrays = min(layout.arrays, layer.site.pool or layout.arrays)
    written = _written(layout, layer.site, held)
    return LayerCounts(
        layer=name,
        macro=macro.name,
        terms=layout.inputs,
        outputs=made,
        macs=made * layout.inputs,
        input_bits=inputs.bits,
        weight_bits=weights.bits,
        adc_bits=(codes - 1).bit_length(),
        digit_bits=inputs.digit_high.bit_length(),
        conversions=made * each,
        drives=positions * passes * rows,
        cells=positions * passes * rows * columns,
        inputs=positions * rows,
        accumulations=made * (each - 1),
        accumulator_bits=accumulator_bits(macro, layout, codes),
        input_sums=positions * layout.groups * (layout.inputs - 1) + made if constant else 0,
        input_sum_bits=width(layout.inputs * min(inputs.low, 0), layout.inputs * largest) if constant else 0,
        cycles=positions * passes * busiest(layout, layer.site),
        arrays=arrays,
        converters=arrays * -(-macro.columns // macro.columns_per_adc),
        rows_written=sum(rows for rows, _ in written),
        cells_written=sum(rows * columns for rows, columns in written),
        activity=activity,
    )


def code_count(macro: Macro) -> int:
    """Codes of a macro's converters; raises ValueError where it has none."""
    if isinstance(macro.column, TableColumn):
        return macro.column.codes
    if macro.converter is None:
        raise ValueError(f"macro {macro.name} has no converter, whose energy could be told: give it one")
    return macro.converter.codes


def width(low: int, high: int) -> int:
    """Bits of a register that holds every integer from ``low`` to ``high``; two's complement where low is negative."""
    return high.bit_length() if low >= 0 else 1 + max(high.bit_length(), (-low - 1).bit_length())


def accumulator_bits(macro: Macro, layout: Layout, codes: int) -> int:
    """Width of the register that holds Σ radix · code of one output, exactly: whatever codes come, in whatever order.

    Codes run from 0 to ``codes`` - 1; the range's low end, Δ and other constants are joined when it is requantised.
    """
    inputs = macro.inputs.radix if macro.inputs else (1,)
    weights = macro.weights.radix if macro.weights and macro.sliced else (1,)
    radices = [p * c for p in inputs for c in weights]
    most = layout.reads * (codes - 1)
    return width(most * sum(r for r in radices if r < 0), most * sum(r for r in radices if r > 0))


def busiest(layout: Layout, site: Site) -> int:
    """Conversions that the busiest converter makes for one position and pass.

    All arrays work at once; row groups of an array, the columns that share a converter, and matrices that share an
    array take turns.
    """
    converter = layout.column()[:, 0] // layout.columns_per_adc  # C N
    block = torch.arange(layout.outputs) // layout.per_array
    per_array = -(-layout.columns // layout.columns_per_adc)
    load = torch.bincount((block * per_array + converter).flatten(), minlength=layout.blocks * per_array)
    turns = load.view(layout.blocks, per_array).amax(1)
    array = layout.array(site)[:, :, 0, :: layout.per_array]  # G T blocks
    total = torch.zeros(int(array.max()) + 1, dtype=turns.dtype)
    return int(total.index_add_(0, array.flatten(), turns.expand_as(array).flatten()).max())


def _written(layout: Layout, site: Site, held: Counter[int]) -> list[tuple[int, int]]:
    """(rows, columns) of each of the layer's arrays that other weights were written over since."""
    if site.pool is None:
        return []
    found = []
    for i in range(layout.arrays):
        if held[(site.first + i) % site.pool] < 2:
            continue
        tile, block = i // layout.blocks % layout.tiles, i % layout.blocks
        outputs = min(layout.per_array, layout.outputs - block * layout.per_array)
        rows = min(layout.rows, layout.inputs - tile * layout.rows)
        found.append((rows, outputs * layout.width + layout.reserved))
    return found
