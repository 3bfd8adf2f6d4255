"""An array as a SPICE netlist, so that anyone can check the solver."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bitline.circuits.crossbar.solve import check
from bitline.circuits.crossbar.wires import Wires


def netlist(
    conductances: Float[Tensor, "R C"], wires: Wires, sources: Float[Tensor, " R"], title: str = "crossbar"
) -> str:
    """The array with its row sources (V), for ngspice: ``ngspice -b`` prints ``i(vsense0)`` … in amperes.

    17 digits a value. A wire of 0 ohms is no element but one node, as SPICE knows no resistor of 0 ohms; cells of 0 S
    are left out, and those below 0, as an additive error may make of a cell that is off, are current sources controlled
    by their own voltage. Raises ValueError for shapes that do not fit.
    """
    check(conductances)
    rows, columns = conductances.shape
    if tuple(sources.shape) != (rows,):
        raise ValueError(f"{rows} rows need {rows} source voltages, not {tuple(sources.shape)}")
    lines = [
        f"* {' '.join(title.split())}",
        f"* {rows} rows, {columns} columns; ohms: word line {wires.word_line!r}, bit line {wires.bit_line!r} a cell,"
        f" driver {wires.driver!r} ({wires.drive}), sense {wires.sense!r}",
    ]
    word = [_Line(f"w{r}_", columns, wires.word_line) for r in range(rows)]
    bit = [_Line(f"b{c}_", rows, wires.bit_line) for c in range(columns)]
    for r, (line, volts) in enumerate(zip(word, sources.tolist(), strict=True)):
        lines.append(f"vrow{r} s{r} 0 dc {volts!r}")
        lines += line.elements()
        lines += _end(f"dl{r}", f"s{r}", line.node(0), wires.driver + wires.word_line)
        if wires.drive == "both_sides" and wires.word_line + wires.driver > 0:
            lines += _end(f"dr{r}", f"s{r}", line.node(columns - 1), wires.driver + wires.word_line)
    for c, line in enumerate(bit):
        lines += line.elements()
        lines += _end(f"sense{c}", line.node(rows - 1), f"g{c}", wires.bit_line + wires.sense)
        lines.append(f"vsense{c} g{c} 0 dc 0")
    for r, row in enumerate(conductances.tolist()):
        lines += [_cell(f"cell{r}_{c}", word[r].node(c), bit[c].node(r), g) for c, g in enumerate(row) if g]
    lines += [".options reltol=1e-9 abstol=1e-18 vntol=1e-15", ".op", ".control", "set numdgt=16", "run"]
    lines += [f"print i(vsense{c})" for c in range(columns)]
    return "\n".join([*lines, "quit", ".endc", ".end", ""])


class _Line:
    """Nodes and segments of one word or bit line; without resistance, one node."""

    def __init__(self, name: str, cells: int, ohms: float) -> None:
        self.name, self.cells, self.ohms = name, cells, ohms

    def node(self, cell: int) -> str:
        """Node at a cell."""
        return f"{self.name}{cell if self.ohms else 0}"

    def elements(self) -> list[str]:
        """The segments between cells."""
        count = self.cells - 1 if self.ohms else 0
        return [f"r{self.name}{i} {self.node(i)} {self.node(i + 1)} {self.ohms!r}" for i in range(count)]


def _cell(name: str, word: str, bit: str, g: float) -> str:
    """A resistor, or a source of the current g V where that is none."""
    return f"r{name} {word} {bit} {1 / g!r}" if g > 0 else f"g{name} {word} {bit} {word} {bit} {g!r}"


def _end(name: str, one: str, other: str, ohms: float) -> list[str]:
    """A resistor, or a source of 0 V where there is no resistance."""
    return [f"r{name} {one} {other} {ohms!r}"] if ohms else [f"vshort{name} {one} {other} dc 0"]
