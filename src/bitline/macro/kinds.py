"""Kinds of column: how a sum in a column becomes a value, on average, frozen with the die, and fresh at each read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_serializer, model_validator

from bitline.configuration import Value
from bitline.macro.curves import AnyCurve
from bitline.macro.probability import Probability, RowReads, aliases


class Feature(Value):
    """A pattern count, u_f = Σ_r digits[x_r] · levels[w_r] · rows[r]: how what rows hold and do moves a column beyond
    its sum. In counts, its coefficient included; nothing where a row neither is on nor holds anything. It adds to the
    mean curve's value; ``inner``: to the sum that the curve takes, so that it bends with it."""

    digits: tuple[float, ...] = Field(min_length=2, description="factor of each input digit, 0, 1, …")
    levels: tuple[float, ...] = Field(min_length=2, description="factor of each cell level, 0, 1, …; counts")
    rows: tuple[float, ...] | None = Field(default=None, description="factor of each row; absent: 1")
    inner: Literal[True] | None = Field(default=None, description="adds to the sum before the curve; absent: after it")

    @model_serializer(mode="wrap")
    def _plain(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without ``inner`` where it is absent: younger than saved networks."""
        return {key: value for key, value in serialize(self).items() if key != "inner" or value}

    @model_validator(mode="after")
    def _silent(self) -> Feature:
        if self.digits[0] and self.levels[0]:
            raise ValueError(
                f"a pattern feature counts rows that are off at level 0 (digits[0] = {self.digits[0]:g}, levels[0] = "
                f"{self.levels[0]:g}): put what they give into the column's mean curve"
            )
        return self


class CurveColumn(Value):
    """Value = mean(gain · u + offset) + Σ_f u_f + sigma(u) · noise, gain and offset frozen per physical column; inner
    pattern counts add to u.

    An S0 behavioural column (Chang, Liu, Kuster, SMACD 2022, as far as published) in the library's canonical form; the
    features u_f go by the levels that cells were meant to hold, and only the reference plan reads them.
    """

    kind: Literal["curve"] = "curve"
    mean: AnyCurve | None = Field(default=None, description="value (counts) for a sum u; absent: the sum itself")
    sigma: AnyCurve | None = Field(default=None, description="fresh noise (counts rms) at sum u, a leg and read")
    gain_sigma: float | None = Field(default=None, gt=0, le=1, description="frozen relative gain spread of columns")
    offset_sigma: float | None = Field(default=None, gt=0, description="frozen offset spread of columns, counts")
    pattern: tuple[Feature, ...] | None = Field(
        default=None, min_length=1, description="pattern counts that add to the mean; absent: the sum says it all"
    )


class TableColumn(Value):
    """Code ~ P(code | ideal code), measured: column, converter and all. D-NAT's error model (Lin et al., JETCAS 2022).

    The ideal sum of the legs is first quantised: ideal code = (sum - low)/step, half up, clipped. A code stands for
    low + step · code. ``pooled``: one table for all columns, drawn anew at each read, so that no part of the error is
    frozen. ``column``: a table a column; a die takes its columns from the measured ones, ``drawn`` at random for each
    die or by their ``physical`` number (the measured die itself). ``bank``: alike, a table for each ``bank`` columns
    side by side, which share converters or drivers; what differs between the columns of a bank counts as fresh. Where
    columns of the measured die lack a table (those that no conversion begins at), ``places`` numbers the others.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    kind: Literal["table"] = "table"
    probability: Probability
    low: float = 0.0
    step: float = Field(default=1.0, gt=0, description="counts a code")
    per: Literal["pooled", "bank", "column"] = "pooled"
    assign: Literal["drawn", "physical"] = "drawn"
    bank: int | None = Field(default=None, ge=2, description="columns of a bank, where there is a table for each bank")
    places: tuple[int, ...] | None = Field(
        default=None, description="physical columns (banks) that the tables are of, in order; absent: 0, 1, 2, …"
    )
    reads: RowReads | None = Field(default=None, description="reads that each row was counted from; absent: not known")

    @model_validator(mode="after")
    def _one_if_pooled(self) -> TableColumn:
        if (self.per == "bank") != (self.bank is not None):
            raise ValueError(f"bank = {self.bank}, per: {self.per}: say how many columns a bank has, and only there")
        if self.per == "pooled" and len(self.probability) != 1:
            raise ValueError(f"a pooled column has one table, not {len(self.probability)}; say per: column")
        if self.reads is not None and np.shape(self.reads) != self.probability.shape[:2]:
            raise ValueError(f"reads are one a row, {self.probability.shape[:2]}, not of shape {np.shape(self.reads)}")
        if self.places is not None:
            if self.assign != "physical" or len(self.places) != len(self.probability):
                raise ValueError(
                    f"places numbers the tables of a die, assign: physical: {len(self.places)} places for "
                    f"{len(self.probability)} tables, assign: {self.assign}"
                )
            if min(self.places) < 0 or list(self.places) != sorted(set(self.places)):
                raise ValueError(f"places must rise from 0 or more, not {self.places}")
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TableColumn):
            return False
        pairs = ((getattr(self, name), getattr(other, name)) for name in type(self).model_fields)
        return self is other or all(
            np.array_equal(mine, yours) if isinstance(mine, np.ndarray) else mine == yours for mine, yours in pairs
        )

    def __hash__(self) -> int:
        return hash((self.probability.tobytes(), self.low, self.step, self.per, self.assign, self.bank, self.places))

    def table_of(self, column: np.ndarray, columns: int) -> np.ndarray:
        """The table of each physical column of the measured die, in arrays of ``columns``; arrays beyond those measured
        are those measured over again. Raises ValueError naming the first column, or bank, that has none."""
        number, each = (column, columns) if self.bank is None else (column // self.bank, columns // self.bank)
        if self.places is None:
            return np.asarray(number % len(self.probability))
        places = np.array(self.places)
        number = number % ((places[-1] // each + 1) * each)
        found = np.minimum(np.searchsorted(places, number), len(places) - 1)
        if (places[found] != number).any():
            missing = int(number[places[found] != number].min())
            raise ValueError(
                f"{self.per} {missing} was never read, and the macro has a conversion there: measure it, or use "
                f"assign: drawn; {len(places)} have tables, from {places[0]} to {places[-1]}"
            )
        return np.asarray(found)

    @property
    def codes(self) -> int:
        """Number of codes read."""
        return self.probability.shape[2]

    @cached_property
    def alias(self) -> np.ndarray:
        """How a code is drawn in each row: the words of ``column.Law``, (tables · ideal codes, 2^k) int32."""
        return aliases(self.probability)

    @cached_property
    def laws(self) -> dict[Any, Any]:
        """What ``program`` makes of the tables once on each device, for all columns."""
        return {}

    @cached_property
    def slope(self) -> np.ndarray:
        """Derivative of the mean code by the ideal code, (tables · ideal codes,): central, one-sided at the ends."""
        mean = self.mean
        rise = np.asarray(np.gradient(mean, axis=1)) if mean.shape[1] > 1 else np.ones_like(mean)
        return rise.reshape(-1)

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean code, (tables, ideal codes)."""
        return np.asarray(self.probability @ np.arange(self.codes))

    @cached_property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the code, (tables, ideal codes)."""
        away = np.arange(self.codes) - self.mean[:, :, None]
        return np.sqrt((self.probability * away**2).sum(axis=2))

    @cached_property
    def stretch(self) -> np.ndarray:
        """Derivative of the deviation by the ideal code over the deviation, (tables · ideal codes,): a code drawn moves
        by this much a code of the mean it is away from. 0 where the code is certain."""
        v = self.deviation
        rise = np.asarray(np.gradient(v, axis=1)) if v.shape[1] > 1 else np.zeros_like(v)
        return np.where(v > 1e-9, rise / np.maximum(v, 1e-9), 0.0).reshape(-1)


AnyColumn = Annotated[CurveColumn | TableColumn, Field(discriminator="kind")]


class ColumnTrim(Value):
    """Calibration of each column after fabrication: two trim DACs take out gain and offset, measured in noisy reads.

    Known sums (an eighth and seven eighths of full scale, from a row of calibration cells) are read ``reads`` times
    each through the column's own curve, noise and converter step; what is estimated is quantised to the trim DACs.
    """

    reads: int = Field(default=64, ge=1, description="reads at each of the two sums, a column")
    gain_bits: int = Field(default=6, ge=1, le=16)
    offset_bits: int = Field(default=6, ge=1, le=16)
    gain_range: float = Field(default=0.1, gt=0, le=1, description="largest relative gain correction, ±")
    offset_range: float = Field(default=4.0, gt=0, description="largest offset correction, counts, ±")
