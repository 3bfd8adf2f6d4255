"""A circuit to characterise: netlist, card, geometry, corner, what is measured, in one frozen description (YAML)."""

from __future__ import annotations

import hashlib
import math
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float, Integer
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from bitline import draws
from bitline.circuits.spice.card import CARD, GENERIC, HERE, Card, path_of
from bitline.circuits.spice.noise import AnyNoise
from bitline.circuits.spice.template import DRAWN, QUANTITIES, Template, parameters
from bitline.configuration import Frozen, Written, explain
from bitline.units import Kelvin, Metres, Volts

FIXED = ("models", "nmos", "pmos", "corner", "temperature", "supply", "rows", "input_high", "level_high")
CONDITIONS = {  # what stands at its default where a netlist has no place for it, and how a netlist takes it
    "temperature": ("K", "write `.temp {{temperature}}`"),
    "supply": ("V", "write {{supply}} where its sources say volts"),
    "corner": ("", "write {{corner}}, or let `card` load the models in place of {{models}}"),
}
MEASURED = re.compile(r"\s+(?:find|avg|max|min|pp|rms|(?P<integral>integ\w*))\s+(?P<of>[vi])\s*\(", re.I)
RIGHT = {"v": ("voltage", "charge"), "i": ("current",), "integral i": ("charge",)}
UNITS = {"voltage": "V", "charge": "C", "current": "A"}


def _volt_metres(value: Any) -> float:
    """A product such as ``2.5 mV*um``, in V·m."""
    if not isinstance(value, str):
        return float(value)
    parts = re.split(r"\s*[*·]\s*", value.strip())
    try:
        if len(parts) == 1:
            return float(parts[0])
        volts, metres = parts
        return QUANTITIES["V"].parse(volts) * QUANTITIES["m"].parse("1 " + metres)
    except ValueError:
        raise ValueError(
            f"{value!r} is no threshold times length; expected, for example, '2.5 mV*um' or 2.5e-9 (V·m)"
        ) from None


VoltMetres = Annotated[float, BeforeValidator(_volt_metres)]


class Transistor(Frozen):
    """Threshold mismatch by Pelgrom's law: σ(Vth) = A_VT / sqrt(W·L) (Pelgrom, Duinmaijer, Welbers, JSSC 1989)."""

    kind: Literal["transistor"] = "transistor"
    width: Metres = Field(gt=0)
    length: Metres = Field(gt=0)
    a_vt: VoltMetres = Field(gt=0, description="A_VT, such as 2.5 mV*um")

    @property
    def sigma(self) -> float:
        """Deviation of the threshold of one device, V."""
        return self.a_vt / math.sqrt(self.width * self.length)


class Relative(Frozen):
    """A relative deviation of a value, capacitance or resistance: the netlist multiplies by (1 + it)."""

    kind: Literal["relative"] = "relative"
    sigma: float = Field(gt=0, le=0.3)


Device = Annotated[Transistor | Relative, Field(discriminator="kind")]


class Measure(Frozen):
    """What a simulation gives: the name in its `.meas` line, and the quantity it is."""

    name: str
    quantity: Literal["voltage", "charge", "current"] = "voltage"

    @property
    def unit(self) -> str:
        """V, C or A."""
        return UNITS[self.quantity]


class Scale(Frozen):
    """The converter's scale: 2^bits codes over the swing between no count and ``counts`` counts."""

    bits: int = Field(default=7, ge=1, le=16)
    counts: int = Field(gt=0, description="counts that the used swing spans")


class Circuit(Written, Frozen):
    """A column circuit of R rows, and how it is read.

    ``netlist``: a shipped one's name or a path. Every ``{{name:unit}}`` in it takes its value from ``parameters``. A
    ``mismatch`` device NAME fills ``{{mismatch.NAME}}``: volts for a transistor, a ratio otherwise; a ``noise`` NAME
    fills ``{{noise.NAME}}`` anew at each read. Raises ValueError naming what is missing, unknown or in a wrong unit.
    See docs/circuits.md.
    """

    name: str
    source: str = ""
    netlist: str
    rows: int = Field(ge=1, le=1 << 14)
    input_bits: int = Field(ge=1, le=8)
    weight_levels: int = Field(default=2, ge=2, le=256)
    measure: Measure
    scale: Scale
    card: Card | None = Field(default=GENERIC, description="model cards; null: the netlist brings its own")
    corner: str = "tt"
    temperature: Kelvin = Field(default=300.15, gt=0)
    supply: Volts = Field(default=1.0, gt=0)
    parameters: dict[str, float | str] = Field(default_factory=dict)
    mismatch: dict[str, Device] = Field(default_factory=dict)
    noise: dict[str, AnyNoise] = Field(default_factory=dict)
    beside: Path = Field(default=Path(), exclude=True, description="folder that relative paths start from")

    @model_validator(mode="after")
    def _complete(self) -> Circuit:
        if self.scale.counts > self.full:
            raise ValueError(f"scale.counts = {self.scale.counts} exceeds the {self.full} counts that all rows make")
        self.template  # noqa: B018  checked when made
        return self

    @property
    def input_high(self) -> int:
        """Largest input code."""
        return (1 << self.input_bits) - 1

    @property
    def full(self) -> int:
        """Largest sum, counts."""
        return self.rows * self.input_high * (self.weight_levels - 1)

    @cached_property
    def template(self) -> Template:
        """The netlist with everything filled in that is the same at each point; files by a stand-in."""
        return self._filled[0]

    @property
    def included(self) -> dict[str, Path]:
        """The files that the netlist includes, beside its cards, by the name it gives them."""
        return self._filled[1]

    @cached_property
    def _filled(self) -> tuple[Template, dict[str, Path]]:
        path = HERE / "netlists" / f"{self.netlist}.cir"
        if not path.is_file():
            path = self.beside / self.netlist
        if not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in (HERE / "netlists").glob("*.cir")))
            raise ValueError(f"netlist {self.netlist!r} is neither shipped ({shipped}) nor a file at {path}")
        template = Template.of(path.read_text(encoding="utf-8"), self.rows, path.name)
        names = {place.name for place in template.places}
        mismatches = [*(f"mismatch.{name}" for name in self.mismatch), *(f"noise.{name}" for name in self.noise)]
        for name in (*(("models",) if self.card else ()), "x", "w", *mismatches):
            if name not in names:
                hint = "; a netlist that brings its own cards needs `card: null`" if name == "models" else ""
                raise ValueError(f"{path.name} has no placeholder {{{{{name}}}}}, which the circuit needs{hint}")
        self._check_conditions(template)
        seen = {(place.name, place.row) for place in template.places}
        for name in ("x", "w"):
            missing = [r for r in range(self.rows) if (name, r) not in seen]
            if missing:
                raise ValueError(
                    f"{path.name} has no placeholder {{{{{name}[{missing[0]}]}}}}: row {missing[0]} lacks it"
                )
        devices = {name for name in names if name.startswith(DRAWN)}
        absent = dict.fromkeys(devices.difference(mismatches), "0")
        self._check_measure(template)
        own = parameters(template, self.parameters, (*FIXED, "x", "w", *sorted(devices)))
        return self._with_files(template.bind(own | absent | self._constants()), path.parent)

    def _check_measure(self, template: Template) -> None:
        """Where a `.meas` line is of v(…) or i(…), its quantity is known; a node of an integrator may hold a charge."""
        name, quantity = self.measure.name, self.measure.quantity
        lines = re.findall(rf"^\s*\.?meas\w*\s+\w+\s+{re.escape(name)}\b([^\n]*)", template.text, re.M | re.I)
        if not lines:
            raise ValueError(f"{template.source} measures nothing called {name!r}: it needs a `.meas` line of it")
        for line in lines:
            found = MEASURED.match(line)
            right = RIGHT.get(("integral " if found["integral"] else "") + found["of"].lower()) if found else None
            if found and right and quantity not in right:
                raise ValueError(
                    f"measure.quantity is {quantity}, and {template.source} measures {name} as "
                    f"`{found[0].strip()}…)`: that is a {' or a '.join(right)}"
                )

    def _check_conditions(self, template: Template) -> None:
        for key, (unit, remedy) in CONDITIONS.items():
            value = getattr(self, key)
            there = key in template.used or (key == "corner" and self.card is not None)
            if not there and value != type(self).model_fields[key].default:
                told = f"{value:g} {unit}" if unit else repr(value)
                raise ValueError(
                    f"{key} {told} would change nothing: {template.source} has no placeholder {{{{{key}}}}}; {remedy}"
                )

    def _with_files(self, template: Template, folder: Path) -> tuple[Template, dict[str, Path]]:
        """The template, with a stand-in for each file that it includes from a folder; and these files."""
        found = {name: path_of(name, folder) for name in template.included()}
        for name, path in found.items():
            if not path.is_file():
                raise ValueError(
                    f"{template.source} includes {name!r}, and there is no file at {path}: relative paths start from "
                    "the netlist's folder"
                )
        first = len(self.card.files) if self.card else 0
        return template.reading({name: CARD.format(first + i) for i, name in enumerate(found)}), found

    def _constants(self) -> dict[str, str]:
        fixed = {
            "corner": self.corner,
            "temperature": f"{self.temperature - 273.15:.9g}",
            "supply": f"{self.supply:.9g}",
            "rows": str(self.rows),
            "input_high": str(self.input_high),
            "level_high": str(self.weight_levels - 1),
        }
        if self.card is not None:
            line = '.lib "{}" ' + self.corner if self.card.corners is None else '.include "{}"'
            fixed["models"] = "\n".join(line.format(CARD.format(i)) for i in range(len(self.card.files)))
            fixed |= {"nmos": self.card.nmos, "pmos": self.card.pmos}
        return fixed

    def told(self) -> dict[str, Any]:
        """The circuit as its samples tell of it: its card apart, and noise where there is some."""
        return self.model_dump(mode="json", exclude={"card"} if self.noise else {"card", "noise"})

    def cards(self) -> list[Path]:
        """The card files at this corner, then those that the netlist includes; raises as ``Card.paths``."""
        cards = self.card.paths(self.corner, self.beside) if self.card is not None else []
        return [*cards, *self.included.values()]

    def drawn(self, seed: int, chip: int, column: int = 0) -> dict[str, Float[np.ndarray, " R"]]:
        """The mismatch of each device in each row of a column of a die: volts, or ratios. Keyed, not streamed."""
        return {
            name: device.sigma * standard(seed, chip, name, self.rows, column) for name, device in self.mismatch.items()
        }

    def fresh(
        self, seed: int, read: int, of: tuple[int, int], x: Integer[np.ndarray, " R"], w: Integer[np.ndarray, " R"]
    ) -> dict[str, Float[np.ndarray, " R"]]:
        """The noise of a read of (x, w) on ``of`` (die, column), in each row, as placeholders take it. Keyed, not
        streamed: another number, point, die or column is another draw."""
        point = hashlib.blake2b(np.stack([x, w]).astype(np.int64).tobytes(), digest_size=8).hexdigest()
        rows = torch.arange(self.rows)
        return {
            name: noise.sigma(self.temperature)
            * draws.normal(draws.key("spice noise", seed, *of, name, point, read), rows).numpy()
            for name, noise in self.noise.items()
        }

    def reference(self, counts: int) -> tuple[Integer[np.ndarray, " R"], Integer[np.ndarray, " R"]]:
        """(x, w) of the pattern that defines the scale: rows from the first on hold the largest level and input until
        their sum is ``counts``, the last of them with less input. Raises ValueError where no such pattern is."""
        x, w = np.zeros(self.rows, dtype=np.int64), np.zeros(self.rows, dtype=np.int64)
        top, left = self.weight_levels - 1, counts
        for r in range(self.rows):
            x[r] = min(self.input_high, left // top)
            w[r] = top if x[r] else 0
            left -= x[r] * w[r]
            if left and left < top:
                x[r + 1 : r + 2], w[r + 1 : r + 2], left = 1, left, 0
                break
        if left or int((x * w).sum()) != counts:
            raise ValueError(f"no pattern of {self.rows} rows sums to {counts} counts")
        return x, w

    @staticmethod
    def load(path: str | Path) -> Circuit:
        """A circuit from its YAML file, or a shipped one by name; raises ValueError naming file, key and remedy."""
        given = Path(path)
        shipped = HERE / "circuits" / f"{path}.yaml"
        file = shipped if shipped.is_file() and not given.is_file() else given
        if not file.is_file():
            raise ValueError(f"no circuit {path}: neither a file nor shipped; shipped: {', '.join(names())}")
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not YAML: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{file} holds no circuit: expected keys such as name, netlist, rows")
        try:
            return Circuit.model_validate(data | {"beside": file.parent})
        except ValidationError as error:
            raise ValueError(explain(error, Circuit, file)) from None

    def at(self, **changes: Any) -> Circuit:
        """The circuit, changed: ``at(corner="ff", temperature="125 degC")``; raises ValueError naming the key."""
        try:
            return Circuit.model_validate(self.model_dump() | {"beside": self.beside} | changes)
        except ValidationError as error:
            raise ValueError(explain(error, Circuit, f"circuit {self.name}")) from None


def standard(seed: int, chip: int, device: str, rows: int, column: int = 0) -> Float[np.ndarray, " R"]:
    """Standard normal deviations of a device in each row of a column of a die."""
    place = torch.arange(column * rows, (column + 1) * rows)
    return draws.normal(draws.key("spice", seed, chip, device), place).numpy()


def names() -> list[str]:
    """The circuits that come with Bitline."""
    return sorted(path.stem for path in (HERE / "circuits").glob("*.yaml"))
