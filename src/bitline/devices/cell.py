"""The memory cell: everything that goes wrong with it, in the order it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.draw import Draw
from bitline.devices.drift import AnyDrift
from bitline.devices.errors import CapacitorMismatch, GaussianCell, LevelTable, LogNormalCell, UniformCell
from bitline.devices.faults import StuckAt, StuckMap
from bitline.devices.measured import MeasuredCell
from bitline.devices.noise import AnyReadNoise
from bitline.devices.states import StateCell
from bitline.devices.verify import Writes, WriteVerify
from bitline.units import Kelvin, Seconds, Siemens, si

AnyCellError = Annotated[
    GaussianCell
    | UniformCell
    | LogNormalCell
    | StateCell
    | LevelTable
    | MeasuredCell
    | CapacitorMismatch
    | StuckAt
    | StuckMap,
    Field(discriminator="kind"),
]
Draws: TypeAlias = Callable[[str, Literal["fabrication", "programming"]], Draw]
"""The draws of a named effect that belongs to a clock."""


@dataclass(frozen=True)
class Held:
    """What cells hold when they are read."""

    levels: Tensor  # from 0 S
    programmed: Tensor  # before a drift law moved them
    variance: Tensor | None  # levels², fresh, of a cell driven by 1, where it differs from cell to cell
    writes: Writes | None  # where there is a write–verify loop


class Cell(Frozen):
    """A memory cell: conductance range and everything that goes wrong with it, in the order it happens."""

    g_min: Siemens | None = Field(default=None, ge=0, description="conductance of level 0; leaks into every read")
    g_max: Siemens | None = Field(default=None, gt=0, description="conductance of the highest level")
    errors: tuple[AnyCellError, ...] = Field(default=(), description="frozen errors, applied in this order")
    write_verify: WriteVerify | None = Field(default=None, description="corrects what the errors leave, faults apart")
    drift: AnyDrift | None = None
    seconds: Seconds | None = Field(default=None, gt=0, description="age when read; absent: as programmed")
    kelvin: Kelvin = Field(default=300.0, gt=0, description="temperature that cells are kept at until then")
    read_sigma: float | None = Field(
        default=None, gt=0, le=1, description="fresh noise of each driven cell at each read, relative to the range"
    )
    read_noise: AnyReadNoise | None = Field(default=None, description="the same by state and age, instead")

    @model_validator(mode="after")
    def _range(self) -> Cell:
        if (self.g_min is None) != (self.g_max is None):
            raise ValueError("cell: give both g_min and g_max, or neither")
        if self.g_min is not None and self.g_max is not None and self.g_min >= self.g_max:
            raise ValueError(f"cell: g_min = {si(self.g_min, 'S')} must be below g_max = {si(self.g_max, 'S')}")
        for error in self.errors:
            if error.span is not None and self.g_min is not None and self.g_max is not None:
                low, high = error.span
                if abs(low - self.g_min) + abs(high - self.g_max) > 1e-9 * high:
                    raise ValueError(
                        f"cell: g_min = {si(self.g_min, 'S')}, g_max = {si(self.g_max, 'S')}, but its measured cells "
                        f"aim at {si(low, 'S')} … {si(high, 'S')}: give both the same"
                    )
        return self

    @model_validator(mode="after")
    def _together(self) -> Cell:
        if self.measured and self.drift is not None:
            raise ValueError("cell: measured cells hold what they drifted to: remove cell.drift")
        if self.measured and self.write_verify is not None:
            raise ValueError("cell: measured cells were verified before they were measured: remove cell.write_verify")
        if self.write_verify is not None and self.write_verify.siemens is not None and self.g_max is None:
            raise ValueError("cell: a tolerance in siemens needs conductances: give g_min and g_max, or it in levels")
        if self.read_sigma is not None and self.read_noise is not None:
            raise ValueError("cell: read_sigma and read_noise are both fresh noise of a read: give one")
        if self.seconds is not None:
            if self.drift is None and not (self.read_noise is not None and self.read_noise.ages):
                raise ValueError(
                    f"cell: seconds = {self.seconds:g}, but neither drift nor read noise depends on it"
                    + (": give the age to the measured cells" if self.measured else "")
                )
            if self.drift is not None:
                self.drift.since(self.seconds, self.kelvin)
        return self

    @property
    def measured(self) -> bool:
        """Whether cells hold what was measured, at the ages measured."""
        return any(error.span is not None for error in self.errors)

    @property
    def ages(self) -> bool:
        """Whether a later read differs from one just after programming."""
        return self.measured or self.drift is not None or (self.read_noise is not None and self.read_noise.ages)

    @property
    def plain(self) -> bool:
        """Whether cells hold exactly what they should, from 0 S, and are as noisy as one another."""
        moved = self.g_min or self.errors or self.write_verify is not None or self.seconds is not None
        return not moved and self.read_noise is None

    def aged(self, seconds: float, kelvin: float = 300.0) -> Cell:
        """The cell as it is read ``seconds`` after programming, kept at ``kelvin``.

        Raises ValueError where it has nothing that ages, before its drift law starts, or outside what was measured.
        """
        if not self.ages:
            raise ValueError("its cells have no drift law; describe cell.drift, or measured cells, to age them")
        if self.drift is not None:
            self.drift.since(seconds, kelvin)
        update = {"errors": tuple(error.aged(seconds, kelvin) for error in self.errors)}
        if self.drift is not None or (self.read_noise is not None and self.read_noise.ages):
            return self.model_copy(update=update | {"seconds": seconds, "kelvin": kelvin})
        return self.model_copy(update=update)

    def young(self) -> Cell:
        """The cell as programmed; raises ValueError where that was not measured."""
        errors = tuple(error.young() for error in self.errors)
        return self.model_copy(update={"errors": errors, "seconds": None})

    def range_from_zero(self) -> dict[str, float | None]:
        """Conductances of the same range that start at 0 S, as an update."""
        if self.g_min is None or self.g_max is None:
            return {"g_min": None, "g_max": None}
        return {"g_min": 0.0, "g_max": self.g_max - self.g_min}

    def pedestal(self, level_high: int) -> float:
        """What level 0 conducts, in levels."""
        if self.g_min is None or self.g_max is None:
            return 0.0
        return level_high * self.g_min / (self.g_max - self.g_min)

    def typical(self) -> Cell:
        """The cell without spread between cells; what all cells have in common stays."""
        errors = tuple(typical for error in self.errors if (typical := error.typical()) is not None)
        drift = self.drift.typical() if self.drift is not None and self.seconds is not None else self.drift
        loop = self.write_verify and self.write_verify.exact()
        return self.model_copy(update={"errors": errors, "write_verify": loop, "drift": drift})

    def centred(self) -> Cell:
        """The cell with its spread, but without what all cells have in common."""
        errors = tuple(error.centred() for error in self.errors)
        drift = self.drift.centred() if self.drift is not None and self.seconds is not None else self.drift
        return self.model_copy(update={"errors": errors, "drift": drift})

    def held(self, levels: Tensor, draws: Draws, level_high: int, chosen: Tensor | None = None) -> Held:
        """What cells hold that should hold ``levels`` (float64), written, verified and aged.

        ``chosen``: the cells that take part in the write–verify loop, of their shape; absent: all.
        """
        state, writes = levels / level_high, None
        if self.write_verify is None:
            held = self._with(levels, draws, level_high, (False, True))
        else:
            first = self._with(levels, draws, level_high, (False,))
            span = None if self.g_max is None or self.g_min is None else self.g_max - self.g_min
            tolerance = self.write_verify.tolerance(level_high, span)
            draw = draws("cell write verify", "programming")
            moved, writes = self.write_verify.correct(first, levels, draw, level_high, tolerance, chosen)
            held = self._with(moved, draws, level_high, (True,))
            self.write_verify.give_up(writes, (held != moved) & ((held - levels).abs() > tolerance))
        programmed = held = held + self.pedestal(level_high)
        if self.drift is not None and self.seconds is not None:
            draw = draws("cell drift", "fabrication")
            held = self.drift.apply(held, state, draw, level_high, self.seconds, self.kelvin)
        if self.read_noise is None:
            return Held(held, programmed, None, writes)
        variance = self.read_noise.variance(held, state, level_high, self.seconds)
        frozen = self.read_noise.frozen(held, state, level_high, self.seconds)
        if frozen is not None:
            held = held + frozen.sqrt() * draws("cell read noise", "programming").normal()
        return Held(held, programmed, variance, writes)

    def _with(self, levels: Tensor, draws: Draws, level_high: int, permanent: tuple[bool, ...]) -> Tensor:
        """Levels with the errors that are permanent, or not."""
        seen = Counter[str]()
        for error in self.errors:
            seen[error.kind] += 1
            if error.permanent in permanent:
                levels = error.apply(levels, draws(f"cell {error.kind} {seen[error.kind]}", error.clock), level_high)
        return levels
