"""A netlist with named places for what changes from point to point.

A place is written ``{{name}}``; a parameter of the circuit says its unit, ``{{unit_time:s}}``. Lines between ``*[rows``
and ``*]`` are written once a row, in which ``{{row}}``, ``{{next}}`` (row + 1), ``{{x}}``, ``{{w}}``,
``{{mismatch.NAME}}`` and ``{{noise.NAME}}`` are those of the row; elsewhere a row is named, ``{{x[3]}}``. Single braces
stay ngspice's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline import units
from bitline.circuits.spice.card import includes

PLACE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*(?:\[(\d+)\])?\s*(?::\s*([^\s{}]+))?\s*\}\}")
BLOCK = re.compile(r"^\*\[rows[^\n]*\n(.*?)^\*\][^\n]*\n", re.MULTILINE | re.DOTALL)
OF_A_ROW = ("x", "w")
DRAWN = ("mismatch.", "noise.")  # what is drawn, for each row or not
QUANTITIES = {
    symbol: quantity
    for name in ("Seconds", "Volts", "Amperes", "Ohms", "Siemens", "Farads", "Kelvin", "Hertz", "Metres")
    for quantity in getattr(units, name).__metadata__
    for symbol in quantity.symbols
}

Number = Float[np.ndarray, " R"]


@dataclass(frozen=True)
class Place:
    """A ``{{name[row]:unit}}`` of a netlist; ``line``: where its name stands first."""

    name: str
    row: int | None
    unit: str | None
    line: int

    def __str__(self) -> str:
        return f"{{{{{self.name}{'' if self.row is None else f'[{self.row}]'}{f':{self.unit}' if self.unit else ''}}}}}"


@dataclass(frozen=True)
class Template:
    """A netlist cut at its places. ``source`` names it in messages."""

    source: str
    pieces: tuple[str | Place, ...]
    text: str

    @classmethod
    def of(cls, text: str, rows: int, source: str) -> Template:
        """Cut a netlist, its row blocks written out ``rows`` times.

        Raises ValueError naming a place that is not written as one, a row that is not there, and a block without end.
        """
        spread = BLOCK.sub(lambda found: "".join(_of_row(found[1], r) for r in range(rows)), text)
        for mark in ("*[rows", "*]"):
            if re.search(rf"^{re.escape(mark)}", spread, re.MULTILINE):
                raise ValueError(f"{source}: {mark!r} without its other end: a row block is '*[rows' … '*]'")
        lines = {found[1]: text.count("\n", 0, found.start()) + 1 for found in reversed([*PLACE.finditer(text)])}
        pieces: list[str | Place] = []
        at = 0
        for found in PLACE.finditer(spread):
            name, row, unit = found[1], found[2], found[3]
            place = Place(name, None if row is None else int(row), unit, lines[name])
            if place.row is not None and place.row >= rows:
                raise ValueError(f"{source}: {place} names row {place.row}; the circuit has {rows} rows, from 0 on")
            if place.row is None and name in (*OF_A_ROW, "row", "next"):
                raise ValueError(
                    f"{source}: {place} outside a row block says no row: write {{{{{name}[0]}}}}, or put the lines of "
                    "a row between '*[rows' and '*]'"
                )
            pieces += [spread[at : found.start()], place]
            at = found.end()
        pieces.append(spread[at:])
        for piece in pieces:
            if isinstance(piece, str) and (broken := re.search(r"\{\{\s*[A-Za-z_][^{}\n]*\}\}", piece)):
                raise ValueError(f"{source}: {broken[0]} is no placeholder: expected {{{{name}}}} or {{{{name:unit}}}}")
        return cls(source, tuple(pieces), text)

    @property
    def places(self) -> tuple[Place, ...]:
        """All places, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Place))

    @property
    def used(self) -> set[str]:
        """Names of the places outside comments, those that are filled in too."""
        lines = (line for line in self.text.splitlines() if not line.lstrip().startswith("*"))
        return {found[1] for line in lines for found in PLACE.finditer(line)}

    def bind(self, constants: Mapping[str, str]) -> Template:
        """With these places filled in, and text joined."""
        pieces: list[str | Place] = []
        for piece in self.pieces:
            if isinstance(piece, Place) and piece.name in constants:
                piece = constants[piece.name]
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            else:
                pieces.append(piece)
        return Template(self.source, tuple(pieces), self.text)

    def included(self) -> list[str]:
        """Names of the files that the netlist includes, each once."""
        texts = (piece for piece in self.pieces if isinstance(piece, str))
        return list(dict.fromkeys(found["name"] for text in texts for found in includes(text)))

    def reading(self, files: Mapping[str, str]) -> Template:
        """With these files included in place of those of the names."""

        def put(text: str) -> str:
            for found in reversed([*includes(text)]):
                line = f'{found["word"]}"{files[found["name"]]}"{found["rest"]}'
                text = text[: found.start()] + line + text[found.end() :]
            return text

        return Template(self.source, tuple(put(p) if isinstance(p, str) else p for p in self.pieces), self.text)

    def fill(
        self,
        x: Integer[np.ndarray, " R"],
        w: Integer[np.ndarray, " R"],
        mismatch: Mapping[str, Number] | None = None,
        noise: Mapping[str, Number] | None = None,
    ) -> str:
        """The deck of one point; ``mismatch`` has a value a row for each device (one value: not of a row), ``noise``
        alike; without it a read has none."""
        rows: dict[str, Callable[[int], str]] = {"x": lambda r: str(int(x[r])), "w": lambda r: str(int(w[r]))}
        for kind, given in (("mismatch", mismatch), ("noise", noise)):
            for name, values in (given or {}).items():
                rows[f"{kind}.{name}"] = lambda r, values=values: f"{float(values[r]):.9g}"  # type: ignore[misc]
        if noise is None:
            rows |= {place.name: lambda _: "0" for place in self.places if place.name.startswith("noise.")}
        return "".join(
            piece if isinstance(piece, str) else rows[piece.name](0 if piece.row is None else piece.row)
            for piece in self.pieces
        )


def _of_row(block: str, row: int) -> str:
    """A block's lines for one row: places of a row get its number."""

    def numbered(found: re.Match[str]) -> str:
        name, given, unit = found[1], found[2], found[3]
        if name in ("row", "next") and given is None:
            return str(row if name == "row" else row + 1)
        if given is None and (name in OF_A_ROW or name.startswith(DRAWN)):
            return f"{{{{{name}[{row}]{f':{unit}' if unit else ''}}}}}"
        return found[0]

    return PLACE.sub(numbered, block)


def parameters(template: Template, given: Mapping[str, float | str], known: Sequence[str]) -> dict[str, str]:
    """The text of each parameter ``{{name:unit}}``, in SI units.

    Raises ValueError naming a parameter without a value, with a wrong unit, one that no place takes, or a place that
    is neither a parameter nor ``known``.
    """
    found: dict[str, str] = {}
    wanted = {place.name: place for place in template.places if place.unit is not None and place.name not in known}
    for place in template.places:
        if place.unit is None and place.name not in known:
            raise ValueError(
                f"{template.source}, line {place.line}: unknown placeholder {place}; there are: "
                f"{', '.join(known)}; a parameter of your own says its unit: {{{{{place.name}:V}}}}"
            )
    for name, place in wanted.items():
        unit = str(place.unit)
        quantity = QUANTITIES.get(unit)
        if quantity is None and unit != "1":
            raise ValueError(
                f"{template.source}, line {place.line}: {place} has the unit {unit!r}; there are: 1 (a plain number), "
                f"{', '.join(QUANTITIES)}"
            )
        if name not in given:
            raise ValueError(f"{template.source} needs the parameter {name!r} ({unit}): give it under `parameters`")
        value = given[name]
        try:
            number = float(value) if quantity is None else quantity.parse(value)
        except ValueError as error:
            raise ValueError(f"parameters.{name} (of {template.source}): {error}") from None
        found[name] = f"{number:.12g}"
    if unused := sorted(set(given) - set(wanted)):
        raise ValueError(
            f"parameters.{unused[0]}: {template.source} has no place for it; it has: {', '.join(wanted) or 'none'}"
        )
    return found
