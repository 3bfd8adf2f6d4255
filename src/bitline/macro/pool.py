"""Points, and dies, to simulate a circuit at, of which some fail: others take their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Integer

from bitline.circuits.spice import Circuit, SimulationError, Simulator, characterize
from bitline.macro.behaviour import DICE, Values, Vectors, sums_of
from bitline.samples import Samples

MANY = 20  # failures, more than there are points that worked, after which no other point is tried


class Changed(Exception):
    """Places of a pool hold other rows now: what was chosen by the old ones is to be chosen again."""


class Pool:
    """Vectors to choose from, a place for each row of (x, w). A place whose row failed holds another that was not asked
    for: of the nearest sum, those last at which a row has failed. ``x``, ``w`` and ``rows`` are what places hold.

    ``simulate`` gives samples of rows and what is wrong with the others, as ``tried`` does; ``values`` what they
    measured; ``what`` is named in errors.
    """

    def __init__(
        self,
        x: Vectors,
        w: Vectors,
        simulate: Callable[[Integer[np.ndarray, " m"]], tuple[Samples | None, SimulationError | None]],
        values: Callable[[Samples], Values],
        what: str,
    ) -> None:
        self.x, self.w, self.rows = x.copy(), w.copy(), np.arange(len(x))
        self.failures: dict[int, str] = {}
        self.lines: list[str] = []  # the failures as they are told
        self._x, self._w, self._simulate, self._values, self._what = x, w, simulate, values, what
        self._sums = sums_of(x, w)
        self._known: dict[int, float] = {}
        self._places: dict[int, int] = {}  # of the rows that were asked for
        self._tables: list[Samples] = []

    @property
    def samples(self) -> Samples | None:
        """All points that worked, in the order in which they were simulated."""
        return Samples.concat(self._tables) if self._tables else None

    def values(self, places: Integer[np.ndarray, " m"]) -> Values:
        """What the rows at these places measure.

        Raises Changed once a place holds another row than it did, and SimulationError where no row is left to take its
        place, or most have failed.
        """
        changed = self._settle(places)
        while todo := [row for row in self.rows[places].tolist() if row not in self._known]:
            self._run(np.array(todo))
            changed |= self._settle(places)
        if changed:
            raise Changed
        return np.array([self._known[row] for row in self.rows[places].tolist()])

    def _settle(self, places: Integer[np.ndarray, " m"]) -> bool:
        """Whether places got other rows, as theirs had failed or stand elsewhere."""
        moved = [p for p in places.tolist() if self._lost(p, int(self.rows[p]))]
        for place in moved:
            far = abs(self._sums - self._sums[self.rows[place]])
            bad = np.isin(self._sums, self._sums[list(self.failures)])
            free = [row for row in np.lexsort((far, bad)).tolist() if not self._taken(row)]
            if not free:
                raise self._error()
            self._places[free[0]], self.rows[place] = place, free[0]
            self.x[place], self.w[place] = self._x[free[0]], self._w[free[0]]
        return bool(moved)

    def _lost(self, place: int, row: int) -> bool:
        return row in self.failures or self._places.setdefault(row, place) != place

    def _taken(self, row: int) -> bool:
        return row in self.failures or row in self._places

    def _run(self, rows: Integer[np.ndarray, " m"]) -> None:
        found, wrong = self._simulate(rows)
        if wrong is not None:
            self.failures |= {int(rows[i]): message for i, message in wrong.failures.items()}
            self.lines += wrong.lines
            rows = np.delete(rows, list(wrong.failures))
        if found is not None:
            self._tables.append(found)
            self._known |= dict(zip(rows.tolist(), self._values(found).tolist(), strict=True))
        if len(self.failures) >= max(MANY, len(self._known) + 1):
            raise self._error()

    def _error(self) -> SimulationError:
        total = len(self.failures) + len(self._known)
        return SimulationError(self._what, self.failures, total, self.samples, lines=self.lines)


def check_dice(circuit: Circuit, dice: int, least: int) -> None:
    """Raise ValueError where all dies would be the same, or are fewer than ``least`` a device with mismatch."""
    devices, name = ", ".join(circuit.mismatch), circuit.name
    if dice and not devices:
        raise ValueError(f"{dice} dice: circuit {name} has no `mismatch` devices, so that all dies would be the same")
    if 0 < dice < least * len(circuit.mismatch):
        raise ValueError(f"{dice} dice: mismatch of {devices} needs {least * len(circuit.mismatch)} or more, or none")


def tried(
    circuit: Circuit, x: Vectors, w: Vectors, simulator: Simulator, **how: Any
) -> tuple[Samples | None, SimulationError | None]:
    """The samples of points that were finished, and what is wrong with the others."""
    try:
        return characterize(circuit, x, w, simulator, **how), None
    except SimulationError as error:
        return error.samples, error


def on_dice(
    circuit: Circuit,
    x: Vectors,
    w: Vectors,
    rows: np.ndarray,
    dice: int,
    samples: Samples,
    simulator: Simulator,
    how: dict[str, Any],
) -> tuple[Samples, list[str]]:
    """(Samples of ``dice`` dies, or of fewer where most fail; a line for each die that failed).

    Raises SimulationError with ``samples``, those without mismatch, where too few are left to fit mismatch to.
    """
    tables: list[Samples] = []
    failures: dict[int, str] = {}
    lines: list[str] = []
    chips = np.arange(dice)
    while len(chips):
        found, wrong = tried(circuit, x[chips], w[chips], simulator, chips=chips, points=rows[chips], **how)
        tables += [found] if found is not None else []
        if wrong is not None:
            failures |= {int(chips[i]): message for i, message in wrong.failures.items()}
            lines += wrong.lines
        chips = np.arange(chips[-1] + 1, min(dice + len(failures), len(x) if tables else 0))
    many = Samples.concat(tables) if tables else None
    if many is None or len(many) < DICE * len(circuit.mismatch):
        total = len(samples) + len(failures) + (len(many) if many is not None else 0)
        raise SimulationError(f"circuit {circuit.name}, dice", failures, total, samples, lines=lines, dice=many)
    return many, lines
