"""The macro: a frozen description of a compute-in-memory design, as written in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from bitline.circuits.crossbar.wires import Wires
from bitline.configuration import Changes, Value, Written, explain, from_yaml, near, whole, within
from bitline.converters import Adc, Driver
from bitline.devices import Cell, OffsetRow, WeightVariation
from bitline.encode import InputScheme, WeightScheme
from bitline.files import digest
from bitline.macro.compensation import Compensation
from bitline.macro.kinds import AnyColumn, ColumnTrim, CurveColumn, Feature, TableColumn
from bitline.macro.placement import Layout, Placement, Unbounded
from bitline.units import Volts

PRESETS = Path(__file__).parent / "presets"


class Macro(Written, Value):
    """Rows, columns, digits, and one inexact read. What is absent is ideal."""

    name: str
    source: str = Field(default="", description="where the figures come from")
    rows: int = Field(ge=1, le=1 << 16, description="rows of an array")
    active_rows: int | None = Field(default=None, ge=1, description="rows on at once; absent: all of them")
    columns: int = Field(ge=1, le=1 << 20, description="columns of an array")
    columns_per_adc: int = Field(default=1, ge=1, description="neighbouring columns that share a converter")
    inputs: InputScheme | None = Field(default=None, description="absent: inputs stay continuous")
    weights: WeightScheme | None = Field(default=None, description="absent: weights stay continuous")
    cell: Cell | None = None
    variation: WeightVariation | None = Field(default=None, description="error of the weight itself, instead of cells")
    bias: OffsetRow | None = Field(default=None, description="row that holds biases; absent: they are added digitally")
    norm: OffsetRow | None = Field(
        default=None, description="batch norms in analog, their shifts in this row; absent: digital (or folded)"
    )
    wires: Wires | None = Field(default=None, description="absent: wires without resistance")
    driver: Driver | None = None
    column: AnyColumn | None = None
    trim: ColumnTrim | None = None
    converter: Adc | None = Field(default=None, description="absent: the column's value is read as it is")
    compensation: Compensation | None = Field(default=None, description="of drift; absent: outputs drift as cells do")
    placement: Placement = Unbounded()
    volts_per_count: Volts | None = Field(
        default=None, gt=0, description="bit-line swing of one count, to print σ in volts"
    )
    corners: dict[str, Annotated[dict[str, Any], Changes()]] = Field(
        default_factory=dict, description="what differs at a temperature or supply corner, by name"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Macro:
        if self.active_rows is not None and self.active_rows > self.rows:
            raise ValueError(f"active_rows = {self.active_rows} exceeds rows = {self.rows}")
        if self.variation is not None and self.cell is not None:
            raise ValueError(
                "variation (of weights) and cell (of physical cells) both given: an error would count twice"
            )
        self._offsets()
        if self.cell is not None and self.weights is None:
            raise ValueError("cell needs weights with digits; for continuous weights describe `variation`")
        if self.wires is not None and (not self.sliced or self.cell is None or self.cell.g_max is None):
            raise ValueError("wires need weights in cells with conductances: give `weights`, cell.g_min and cell.g_max")
        if self.wires is not None and isinstance(self.column, TableColumn):
            raise ValueError("a measured table already contains the wires' resistance: remove `wires`")
        if isinstance(self.column, TableColumn):
            if self.converter is not None:
                raise ValueError("a measured table already contains its converter: remove `converter`")
            if self.cell is not None and (not self.cell.plain or self.cell.read_sigma):
                raise ValueError("a measured table already contains the cells' errors: remove `cell`")
            if self.variation is not None or self.trim is not None:
                raise ValueError("a measured table contains variation and trim: remove `variation` and `trim`")
            if self.column.bank and self.column.assign == "physical" and self.columns % self.column.bank:
                raise ValueError(f"column.bank = {self.column.bank} does not divide columns = {self.columns}")
        if self.trim is not None and not (
            isinstance(self.column, CurveColumn) and (self.column.gain_sigma or self.column.offset_sigma)
        ):
            raise ValueError("trim corrects gain_sigma and offset_sigma of a curve column: there is neither")
        if self.compensation is not None:
            if self.cell is None or not (self.cell.measured or self.cell.drift is not None):
                raise ValueError("compensation of drift: describe cell.drift, or measured cells; there is none")
            self.cell.young()
        if self.inputs is None and self.driver is not None:
            raise ValueError("driver has levels for input digits: describe `inputs`")
        if self.column is not None and (self.inputs is None or (self.weights is None and self.variation is None)):
            raise ValueError("a column's curve or table is indexed by sums of digits: describe `inputs` and `weights`")
        if isinstance(self.column, CurveColumn) and self.column.pattern is not None:
            self._fits(self.column.pattern)
        for name in self.corners:
            try:
                self.at(name)
            except ValidationError as error:
                raise within(error, "corners", name) from None
        return self

    def _offsets(self) -> None:
        """Raise ValueError where there is a row of offsets beside weights that are not read as they are."""
        for part in ("bias", "norm"):
            if getattr(self, part) is None:
                continue
            if self.variation is None:
                raise ValueError(f"{part} is a row beside weights with `variation`: describe that, or remove `{part}`")
            if self.converter is not None or self.column is not None:
                raise ValueError(f"{part} in analog joins values that are not converted: remove it, or the converter")

    def _fits(self, pattern: tuple[Feature, ...]) -> None:
        """Raise ValueError naming the first factor list of a pattern count that has another length than it should."""
        if self.inputs is None or self.inputs.digit_low < 0 or not self.sliced:
            raise ValueError(
                "column.pattern counts digits from 0 on and cell levels: neither signed digits nor variation"
            )
        lengths = {"digits": self.digit_high + 1, "levels": self.level_high + 1, "rows": self.on}
        for f, feature in enumerate(pattern):
            for name, wanted in lengths.items():
                given = getattr(feature, name)
                if given is not None and len(given) != wanted:
                    raise ValueError(
                        f"column.pattern[{f}].{name} has {len(given)} factors, the macro's {name} are {wanted}"
                    )

    @property
    def on(self) -> int:
        """Rows on at once."""
        return self.active_rows or self.rows

    @property
    def sliced(self) -> bool:
        """Whether weights are spread over cells by digit; a weight variation keeps each in one signed analog cell."""
        return self.weights is not None and self.variation is None

    @property
    def level_high(self) -> int:
        """Largest level of a cell, in counts a unit input."""
        if self.weights is None:
            return 1
        return self.weights.level_high if self.sliced else max(abs(self.weights.low), self.weights.high)

    @property
    def digit_high(self) -> int:
        """Largest input digit."""
        return self.inputs.digit_high if self.inputs else 1

    @property
    def full_scale(self) -> float:
        """Largest sum of one leg with ideal cells, counts."""
        return float(self.on * self.digit_high * self.level_high)

    @property
    def leg_signs(self) -> tuple[int, ...]:
        """Signs of the columns that meet before a conversion."""
        return self.weights.signs if self.weights and self.sliced else (1,)

    @property
    def signed_leg(self) -> bool:
        """Whether one column's sum can be negative."""
        return not self.sliced or (self.inputs is None or self.inputs.digit_low < 0)

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value of a conversion with ideal cells, counts."""
        signed = self.signed_leg or -1 in self.leg_signs
        return (-self.full_scale if signed else 0.0), self.full_scale

    def layout(self, inputs: int, outputs: int, groups: int = 1) -> Layout:
        """Where a layer of ``groups`` matrices, ``inputs`` × ``outputs`` each, sits; raises ValueError if it cannot."""
        weights = self.weights if self.sliced else None
        return Layout(
            inputs=inputs,
            outputs=outputs,
            groups=groups,
            conversions=len(weights.radix) if weights else 1,
            legs=len(weights.signs) if weights else 1,
            reference=bool(weights and weights.reference),
            rows=self.rows,
            active_rows=self.on,
            columns=self.columns,
            columns_per_adc=self.columns_per_adc,
        )

    def aged(self, seconds: float, kelvin: float = 300.0) -> Macro:
        """The macro read ``seconds`` after its arrays were programmed, kept at ``kelvin``.

        Raises ValueError where nothing in its cells ages, before the drift law starts, or outside what was measured.
        """
        try:
            return self.model_copy(update={"cell": (self.cell or Cell()).aged(seconds, kelvin)})
        except ValueError as error:
            raise ValueError(f"macro {self.name}: {error}") from None

    def at(self, corner: str) -> Macro:
        """The macro at one of its corners; raises ValueError naming the corners there are."""
        if corner not in self.corners:
            raise ValueError(f"macro {self.name} has no corner {corner!r}; it has: {', '.join(self.corners) or 'none'}")
        alone = self.model_copy(update={"corners": {}})
        return alone.laid(self.corners[corner], f"{self.name} @ {corner}")

    def laid(self, change: Mapping[str, Any], name: str) -> Macro:
        """The macro with keys changed, as in YAML: a part of another ``kind`` takes the place of this one's, else it
        changes the keys it names. Raises ValidationError for what a macro cannot be."""
        change = whole(dict(change), Macro)
        same = {key: getattr(self, key) for key in type(self).model_fields.keys() - change.keys()}
        config = same | merge(self.model_dump(include=set(change)), change)
        return Macro.model_validate(config | {"name": name})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that sets what the macro computes."""
        absent = {name for name in ("bias", "norm") if getattr(self, name) is None}  # younger than saved networks
        text = self.model_dump_json(exclude={"source", "volts_per_count"} | absent)
        return digest(text)

    def dump(self) -> dict[str, Any]:
        """Plain data for YAML and JSON, without what is absent."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=False)

    @staticmethod
    def load(path: str | Path) -> Macro:
        """Read a YAML file; raises ValueError naming the file, the key and what would be accepted.

        ``base``, a preset or a path beside the file, is another macro that the file's keys are laid over; null takes
        a part away.
        """
        return _load(Path(path), ())


def preset_names() -> list[str]:
    """The presets there are, in alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find(name: str, folder: Path = Path()) -> Path:
    """The YAML file of a macro, by a preset's name or by its path in ``folder``; raises ValueError for no preset."""
    if name.endswith((".yaml", ".yml")):
        return folder / name
    if name not in (names := preset_names()):
        raise ValueError(
            f"no preset {name!r}; {near(name, names)}there are: {', '.join(names)}; or give the path of a .yaml file"
        )
    return PRESETS / f"{name}.yaml"


def based(data: Any, folder: Path = Path(), above: tuple[Path, ...] = ()) -> Any:
    """A macro's data laid over those of its ``base``; as given where there is none.

    A part of another ``kind`` takes the place of the base's, else it changes the keys it names. A name and a source of
    its own are made where none is given. ``above``: the files that stand on this one.
    """
    if not isinstance(data, dict) or "base" not in data:
        return data
    change = whole({key: value for key, value in data.items() if key != "base"}, Macro)
    if not isinstance(data["base"], str):
        raise ValueError(f"macro.base is {data['base']!r}: give a preset's name, or the path of a .yaml file")
    base = _load(find(data["base"], folder), above)
    parts = ", ".join(key for key in change if key not in ("name", "source"))
    own = {"name": f"{base.name} ({parts})", "source": f"{base.name} with other {parts}. {base.source}"}
    return merge(base.dump(), (own if parts else {}) | change)


def _load(path: Path, above: tuple[Path, ...]) -> Macro:
    """A macro's file; ``above`` are the files that it is the base of, the first one's first."""
    here = path.resolve()
    if here in above:
        circle = " → ".join(one.name for one in (*above[above.index(here) :], here))
        raise ValueError(f"{path}: `base` leads round in a circle: {circle}; one of them must stand on its own")
    try:
        data = from_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ValueError(f"macro file {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no macro: a mapping with name, rows, columns, or base, is expected")
    try:
        return Macro.model_validate(based(data, path.parent, (*above, here)))
    except ValidationError as error:
        raise ValueError(explain(error, Macro, path)) from None


def merge(config: Any, change: Any) -> Any:
    """``change`` laid over ``config``, dictionary by dictionary; one of another kind takes its place."""
    if not (isinstance(config, dict) and isinstance(change, dict)):
        return change
    if change.get("kind", config.get("kind")) != config.get("kind"):
        return change
    return config | {name: merge(config.get(name), value) for name, value in change.items()}
