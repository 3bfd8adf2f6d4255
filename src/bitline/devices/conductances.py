"""Measured conductances: how cells of each programmed level are distributed, by age and temperature.

A distribution is kept as its quantiles at ``NORMAL_SCORES``: g = q(z), straight lines between them, so that a standard
normal draws a cell. Beyond ±3 deviations the outermost quantile holds: no cell is drawn beyond those measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from bitline.configuration import Frozen
from bitline.units import Kelvin, Siemens, si


def normal_below(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Share of a standard normal below each of ``scores``."""
    return np.array([0.5 * (1 + math.erf(score / math.sqrt(2))) for score in scores])


NORMAL_SCORES = np.arange(-12, 13) / 4
NORMAL_SHARES = normal_below(NORMAL_SCORES)
ROOM = (288.15, 303.15)  # K: what counts as the room temperature of a measurement that says no more than that
REFERENCE = 298.15  # K


def _quantiles(value: Any) -> np.ndarray:
    array = np.array(value, dtype=np.float32).astype(np.float64)  # as files keep them
    if array.ndim != 3 or array.shape[2] != len(NORMAL_SCORES) or array.shape[1] < 2 or not len(array):
        raise ValueError(
            f"quantiles are (conditions, levels ≥ 2, {len(NORMAL_SCORES)}) of siemens, not of shape {array.shape}"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("quantiles are conductances: finite and ≥ 0 S")
    falling = np.argwhere(np.diff(array, axis=2) < 0)
    if len(falling):
        raise ValueError(f"quantiles of condition {falling[0][0]}, level {falling[0][1]} fall; they must not")
    array.setflags(write=False)
    return array


Quantiles = Annotated[
    np.ndarray,
    BeforeValidator(_quantiles),
    PlainSerializer(lambda array: array.tolist(), return_type=list),
    WithJsonSchema({"type": "array", "description": "S: conditions × levels × quantiles at ±3 σ in steps of 1/4"}),
]


class Bake(Frozen):
    """Cells kept at a temperature: read once, ``seconds`` after their first read."""

    kelvin: Kelvin = Field(gt=0)
    seconds: float = Field(gt=0, description="s")


class Conductances(Frozen):
    """Distributions of measured cells by programmed level, at room temperature by age, and after bakes.

    Levels are evenly spaced: level k aims at ``low + step · k``. ``quantiles``: (conditions, levels, 25) in siemens,
    the conditions being ``seconds`` at room temperature (0: as programmed), then ``bakes`` from cool to hot.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str
    source: str = Field(default="", description="who measured, licence, what was left out")
    low: Siemens = Field(ge=0, description="conductance that level 0 aims at")
    step: Siemens = Field(gt=0, description="from level to level")
    seconds: tuple[float, ...] = Field(default=(), description="ages measured at room temperature, rising, s")
    bakes: tuple[Bake, ...] = Field(default=(), description="rising in temperature")
    quantiles: Quantiles

    @model_validator(mode="after")
    def _conditions(self) -> Conductances:
        given = len(self.seconds) + len(self.bakes)
        if given != len(self.quantiles):
            raise ValueError(
                f"{self.name}: {given} conditions (ages and bakes), but {len(self.quantiles)} of quantiles"
            )
        for what, values in (("ages", self.seconds), ("bake temperatures", [bake.kelvin for bake in self.bakes])):
            if any(b <= a for a, b in pairwise(values)) or min(values, default=0) < 0:
                raise ValueError(f"{self.name}: {what} {list(values)} must rise, from 0 on")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conductances) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """A hash of everything that sets what cells hold; not kept, since copies with changes would take it along."""
        told = json.dumps(self.model_dump(mode="json", exclude={"quantiles", "source"}))
        return hashlib.blake2b(told.encode() + self.quantiles.tobytes(), digest_size=6).hexdigest()

    @property
    def levels(self) -> int:
        """Number of levels measured."""
        return self.quantiles.shape[1]

    @property
    def high(self) -> float:
        """Conductance that the highest level aims at, S."""
        return self.low + self.step * (self.levels - 1)

    @property
    def aims(self) -> Float[np.ndarray, " levels"]:
        """Conductance that each level aims at, S."""
        return self.low + self.step * np.arange(self.levels)

    def at(self, seconds: float, kelvin: float = REFERENCE) -> Float[np.ndarray, "levels quantiles"]:
        """Quantiles (S) of cells kept at ``kelvin`` for ``seconds``.

        Between ages measured they are interpolated in log time, between temperatures in 1/T (Arrhenius); at the age 0
        cells are as programmed. Raises ValueError outside what was measured.
        """
        if ROOM[0] <= kelvin <= ROOM[1]:
            return self._by_age(seconds, kelvin)
        return self._by_temperature(seconds, kelvin)

    def _by_age(self, seconds: float, kelvin: float) -> np.ndarray:
        given = f"{self.name}: {seconds:g} s at {kelvin:g} K"
        if not self.seconds:
            raise ValueError(f"{given}: nothing was measured at room temperature; accepted are {self._bakes()}")
        later = [t for t in self.seconds if t > 0]
        if seconds == 0 and self.seconds[0] == 0:
            return self.quantiles[0]
        if not later or not later[0] <= seconds <= later[-1]:
            ages = [f"{later[0]:g} … {later[-1]:g} s"] if later else []
            ages = ["0 s (as programmed)", *ages] if self.seconds[0] == 0 else ages
            raise ValueError(f"{given} was not measured; accepted at room temperature are {' and '.join(ages)}")
        first = len(self.seconds) - len(later)
        return _between(np.log(later), math.log(seconds), self.quantiles[first : len(self.seconds)])

    def _by_temperature(self, seconds: float, kelvin: float) -> np.ndarray:
        given = f"{self.name}: {seconds:g} s at {kelvin:g} K"
        room = f"room temperature ({ROOM[0]:g} … {ROOM[1]:g} K)"
        if not self.bakes:
            raise ValueError(f"{given}: measured at room temperature only; accepted are {room}")
        times = [bake.seconds for bake in self.bakes]
        hot, tables = [bake.kelvin for bake in self.bakes], self.quantiles[len(self.seconds) :]
        if self.seconds and min(times) <= self.seconds[-1] and max(times) >= self.seconds[0]:
            cold = self._by_age(min(max(seconds, min(times)), max(times)), REFERENCE)
            hot, tables = [REFERENCE, *hot], np.concatenate([cold[None], tables])
        if not hot[0] <= kelvin <= hot[-1] or not min(times) <= seconds <= max(times):
            raise ValueError(f"{given} was not measured; accepted are {self._bakes()}, and {room}")
        return _between(-1 / np.array(hot), -1 / kelvin, tables)

    def _bakes(self) -> str:
        times = [bake.seconds for bake in self.bakes]
        ends = f"{REFERENCE if self.seconds else self.bakes[0].kelvin:g} … {self.bakes[-1].kelvin:g} K"
        return f"{ends} for {min(times):g} … {max(times):g} s"

    def moments(self) -> tuple[Float[np.ndarray, "conditions levels"], Float[np.ndarray, "conditions levels"]]:
        """(mean, standard deviation) of each condition and level, S."""
        return moments(self.quantiles)

    def centred(self) -> Conductances:
        """The same spread around what the levels aim at, at every condition; scaled where it would pass below 0 S."""
        moved = np.maximum(self.quantiles + (self.aims - self.moments()[0])[:, :, None], 0.0)
        mean = np.maximum(moments(moved)[0], np.finfo(float).tiny)
        scale = np.where(moved[:, :, 0] > 0, 1.0, self.aims / mean)
        return self._with(moved * scale[:, :, None], "centred")

    def typical(self) -> Conductances:
        """Every cell at the mean of its level."""
        return self._with(np.broadcast_to(self.moments()[0][:, :, None], self.quantiles.shape), "typical")

    def _with(self, quantiles: np.ndarray, what: str) -> Conductances:
        return self.model_copy(update={"name": f"{self.name}, {what}", "quantiles": _quantiles(quantiles)})

    def save(self, path: str | Path) -> None:
        """Write a Parquet file: a row a condition and level, everything else in its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        told = json.dumps(self.model_dump(mode="json", exclude={"quantiles"}))
        flat = self.quantiles.reshape(-1, len(NORMAL_SCORES)).astype(np.float32)
        columns = {f"z{score:+.2f}": flat[:, i] for i, score in enumerate(NORMAL_SCORES)}
        table = pa.table(columns).replace_schema_metadata({"conductances": told})
        pq.write_table(table, path, compression="zstd", compression_level=19)

    @staticmethod
    def load(path: str | Path) -> Conductances:
        """Read what ``save`` wrote; raises ValueError naming the file and what is wrong with it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            told = json.loads((table.schema.metadata or {})[b"conductances"])
            columns = np.stack([column.to_numpy() for column in table.columns], axis=1)
            conditions = len(told["seconds"]) + len(told["bakes"])
            quantiles = columns.reshape(conditions, -1, columns.shape[1])
            return Conductances(**told, quantiles=quantiles)
        except OSError as error:
            raise ValueError(f"conductances {path}: {error.strerror or error}") from None
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{path} holds no conductances as `Conductances.save` writes them: {error}") from None


def _between(knots: np.ndarray, at: float, tables: np.ndarray) -> np.ndarray:
    """``tables`` (knots, …) at a place among ``knots``, by straight lines."""
    if len(knots) == 1:
        return np.asarray(tables[0])
    i = min(max(int(np.searchsorted(knots, at, side="right")) - 1, 0), len(knots) - 2)
    share = (at - knots[i]) / (knots[i + 1] - knots[i])
    return np.asarray(tables[i] + share * (tables[i + 1] - tables[i]))


def moments(quantiles: Float[np.ndarray, "*shape quantiles"]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of q(z) for a standard normal z, in closed form."""
    z, q = NORMAL_SCORES, quantiles
    rise = np.diff(q, axis=-1) / np.diff(z)
    start = q[..., :-1] - rise * z[:-1]
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    share, first = np.diff(NORMAL_SHARES), -np.diff(density)
    second = share - np.diff(z * density)
    mean = (start * share + rise * first).sum(-1) + NORMAL_SHARES[0] * (q[..., 0] + q[..., -1])
    square = (start**2 * share + 2 * start * rise * first + rise**2 * second).sum(-1)
    square = square + NORMAL_SHARES[0] * (q[..., 0] ** 2 + q[..., -1] ** 2)
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def join(name: str, source: str, parts: Sequence[Conductances]) -> Conductances:
    """Measurements of the same levels as one: ages of all parts, then bakes. Raises ValueError where levels differ."""
    first = parts[0]
    for part in parts[1:]:
        if (part.low, part.step, part.levels) != (first.low, first.step, first.levels):
            raise ValueError(
                f"{part.name} has {part.levels} levels from {si(part.low, 'S')} in steps of {si(part.step, 'S')}, "
                f"{first.name} {first.levels} from {si(first.low, 'S')} in steps of {si(first.step, 'S')}"
            )
    aged = [(t, part.quantiles[i]) for part in parts for i, t in enumerate(part.seconds)]
    baked = [(b.kelvin, b, part.quantiles[len(part.seconds) + i]) for part in parts for i, b in enumerate(part.bakes)]
    aged.sort(key=lambda each: each[0])
    baked.sort(key=lambda each: each[0])
    return Conductances(
        name=name,
        source=source,
        low=first.low,
        step=first.step,
        seconds=tuple(t for t, _ in aged),
        bakes=tuple(bake for _, bake, _ in baked),
        quantiles=np.stack([q for _, q in aged] + [q for _, _, q in baked]),
    )


def names() -> list[str]:
    """The measured cells that come with the library."""
    folder = files("bitline.devices") / "tables"
    return sorted(each.name.removesuffix(".parquet") for each in folder.iterdir() if each.name.endswith(".parquet"))


@cache
def shipped(name: str) -> Conductances:
    """Measured cells that come with the library; raises ValueError naming those there are."""
    if name not in names():
        raise ValueError(f"no measured cells {name!r}; there are: {', '.join(names())}; or give a .parquet file")
    with as_file(files("bitline.devices") / "tables" / f"{name}.parquet") as path:
        return Conductances.load(path)
