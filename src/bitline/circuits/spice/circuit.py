"""A circuit to characterise: netlist, card, geometry, corner, what is measured, in one frozen description (YAML)."""

from __future__ import annotations

import hashlib
import math
import re
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float, Integer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bitline import draws
from bitline.circuits.spice.noise import AnyNoise
from bitline.circuits.spice.template import DRAWN, QUANTITIES, Template, parameters
from bitline.configuration import Written, explain
from bitline.units import Kelvin, Metres, Volts

HERE = Path(str(files("bitline.circuits.spice")))
FIXED = ("models", "nmos", "pmos", "corner", "temperature", "supply", "rows", "input_high", "level_high")
CARD = "\x00card {}\x00"  # stands for a card's path, so that a deck's text is the same wherever the card lies
UNITS = {"voltage": "V", "charge": "C", "current": "A"}


class Part(BaseModel):
    """A frozen part of a circuit's description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Card(Part):
    """Model cards: files that are included, and what the models in them are called.

    ``{corner}`` in a path is the corner's name in ``corners``. A card without ``corners`` has `.lib` sections named as
    the corners are.
    """

    files: tuple[str, ...] = Field(min_length=1, description="paths, relative ones to the circuit's own file")
    corners: dict[str, str] | None = Field(default=None, description="what each corner is called in the paths")
    nmos: str = Field(description="name of the n-channel model")
    pmos: str = Field(description="name of the p-channel model")

    def paths(self, corner: str, beside: Path) -> list[Path]:
        """The files at a corner; raises ValueError for a corner that is not there, FileNotFoundError for a file."""
        if self.corners is not None and corner not in self.corners:
            raise ValueError(f"corner {corner!r}: the card has {', '.join(self.corners)}")
        name = corner if self.corners is None else self.corners[corner]
        found = [beside / file.replace("{corner}", name) for file in self.files]
        for path in found:
            if not path.is_file():
                raise FileNotFoundError(f"no model card at {path} (corner {corner}): give `card.files` that exist")
        return found


GENERIC = Card(files=(str(HERE / "cards" / "generic45.lib"),), nmos="generic_n", pmos="generic_p")


class Transistor(Part):
    """Threshold mismatch by Pelgrom's law: σ(Vth) = A_VT / sqrt(W·L) (Pelgrom, Duinmaijer, Welbers, JSSC 1989)."""

    kind: Literal["transistor"] = "transistor"
    width: Metres = Field(gt=0)
    length: Metres = Field(gt=0)
    a_vt: VoltMetres = Field(gt=0, description="A_VT, such as 2.5 mV*um")

    @property
    def sigma(self) -> float:
        """Deviation of the threshold of one device, V."""
        return self.a_vt / math.sqrt(self.width * self.length)


class Relative(Part):
    """A relative deviation of a value, capacitance or resistance: the netlist multiplies by (1 + it)."""

    kind: Literal["relative"] = "relative"
    sigma: float = Field(gt=0, le=0.3)


Device = Annotated[Transistor | Relative, Field(discriminator="kind")]


class Measure(Part):
    """What a simulation gives: the name in its `.meas` line, and the quantity it is."""

    name: str
    quantity: Literal["voltage", "charge", "current"] = "voltage"

    @property
    def unit(self) -> str:
        """V, C or A."""
        return UNITS[self.quantity]


class Scale(Part):
    """The converter's scale: 2^bits codes over the swing between no count and ``counts`` counts."""

    bits: int = Field(default=7, ge=1, le=16)
    counts: int = Field(gt=0, description="counts that the used swing spans")


class Circuit(Written):
    """A column circuit of R rows, and how it is read.

    ``netlist``: a shipped one's name or a path. Every ``{{name:unit}}`` in it takes its value from ``parameters``. A
    ``mismatch`` device NAME fills ``{{mismatch.NAME}}``: volts for a transistor, a ratio otherwise; a ``noise`` NAME
    fills ``{{noise.NAME}}`` anew at each read. Raises ValueError naming what is missing, unknown or in a wrong unit.
    See docs/circuits.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """The netlist with everything filled in that is the same at each point; cards by a stand-in."""
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
        seen = {(place.name, place.row) for place in template.places}
        for name in ("x", "w"):
            missing = [r for r in range(self.rows) if (name, r) not in seen]
            if missing:
                raise ValueError(
                    f"{path.name} has no placeholder {{{{{name}[{missing[0]}]}}}}: row {missing[0]} lacks it"
                )
        devices = {name for name in names if name.startswith(DRAWN)}
        absent = dict.fromkeys(devices.difference(mismatches), "0")
        if not re.search(rf"^\s*\.?meas\w*\s+\w+\s+{re.escape(self.measure.name)}\b", template.text, re.M | re.I):
            raise ValueError(
                f"{path.name} measures nothing called {self.measure.name!r}: it needs a `.meas` line of it"
            )
        own = parameters(template, self.parameters, (*FIXED, "x", "w", *sorted(devices)))
        return template.bind(own | absent | self._constants())

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
        """The card files at this corner; raises as ``Card.paths``."""
        return self.card.paths(self.corner, self.beside) if self.card is not None else []

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
