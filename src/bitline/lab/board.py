"""A virtual board: silicon behind the commands of ``commands``, whatever protocol they came by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bitline import draws
from bitline.lab.commands import BAD_COMMAND, BAD_FIELD, MODES, NOT_THERE, Command, Reply, Request, Values
from bitline.lab.errors import Refused
from bitline.lab.link import MOST
from bitline.lab.silicon import Silicon, finite, in_bounds
from bitline.macro import Chip, Macro
from bitline.macro.kinds import TableColumn


class Board:
    """A board with a die drawn from hidden parameters. It is a link too: ``Instrument(Board(macro))`` needs no wire.

    ``missed``: share of cells that a write leaves as they were, for write-verify to find; without ``verifies`` cells
    are not read back. ``reset`` is what pulling the plug does: cells, ranges and counters are gone, the die stays.
    Raises ValueError as ``Silicon`` does.
    """

    most = MOST

    def __init__(
        self,
        macro: Macro,
        chip: Chip | None = None,
        arrays: int = 1,
        *,
        drifted: Mapping[int, float] | None = None,
        missed: float = 0.0,
        verifies: bool = True,
        serial: str = "virtual",
    ) -> None:
        self.macro, self.chip, self.arrays = macro, chip or Chip(0, 0), arrays
        self.drifted, self.missed, self.serial = dict(drifted or {}), missed, serial
        self.verifies = verifies
        self.boots = 0
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.boots += 1
        self.silicon = Silicon(self.macro, self.chip, self.arrays, self.drifted)
        self.writes = self.errors = 0

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As ``Link``: every request by way of its bytes, so that what fits no frame fits no board."""
        for request in requests:
            values, data = request.command.asks.unpack(request.command.asks.pack(request.values, request.data))
            yield self.answer(request.command, values, data)

    def restart(self) -> None:
        """Nothing to do: nothing is under way."""

    def close(self) -> None:
        """Nothing to let go of."""

    def answer(self, command: Command, values: Values, data: np.ndarray | None) -> Reply:
        """Do what is asked; raises Refused."""
        tasks = {
            "identify": self._identify,
            "status": self._status,
            "write": self._write,
            "recall": self._recall,
            "converter": self._converter,
            "driver": self._driver,
            "read": self._read,
        }
        if command.name not in tasks:
            raise Refused(BAD_COMMAND, command.name)
        whole = {name: value for name, value in values.items() if isinstance(value, int)}
        try:
            return tasks[command.name](whole, values, data if data is not None else np.zeros(0, np.uint8))
        except Refused:
            self.errors += 1
            raise

    def _identify(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        macro, silicon = self.macro, self.silicon
        layout, inputs = silicon.layout, silicon.inputs
        found: Values = {
            "boots": self.boots,
            "arrays": self.arrays,
            "rows": macro.rows,
            "active_rows": macro.on,
            "columns": macro.columns,
            "lanes": silicon.lanes,
            "conversions": layout.conversions,
            "legs": layout.legs,
            "reserved": layout.reserved,
            "level_high": macro.level_high,
            "digit_low": inputs.digit_low,
            "digit_high": inputs.digit_high,
            "input_low": inputs.low,
            "input_high": inputs.high,
            "passes": len(inputs.radix),
            "codes": silicon.codes,
            "verifies": int(self.verifies),
        }
        text = f"{macro.name[:100]}\n{self.serial[:100]}".encode()
        return Reply(found, np.frombuffer(text, dtype=np.uint8))

    def _status(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        made = self.silicon.conversions
        return Reply({"boots": self.boots, "writes": self.writes, "errors": self.errors, "conversions": made})

    def _place(self, n: dict[str, int]) -> tuple[slice, slice]:
        rows, columns = slice(n["row"], n["row"] + n["rows"]), slice(n["column"], n["column"] + n["columns"])
        if n["array"] >= self.arrays or rows.stop > self.macro.rows or columns.stop > self.macro.columns:
            size = f"{self.arrays} arrays of {self.macro.rows} × {self.macro.columns}"
            raise Refused(NOT_THERE, f"cells {n} on a board of {size}")
        return rows, columns

    def _write(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        rows, columns = self._place(n)
        if data.size != n["rows"] * n["columns"]:
            raise Refused(BAD_FIELD, f"{data.size} levels for {n['rows']} x {n['columns']} cells")
        if data.size and data.max() > self.macro.level_high:
            raise Refused(BAD_FIELD, f"level {data.max()} where cells hold 0 to {self.macro.level_high}")
        levels = data.reshape(n["rows"], n["columns"])
        if self.missed:
            rng = np.random.default_rng([abs(draws.key("missed", self.chip.seed)), self.writes])
            before = self.silicon.held[n["array"]].levels[rows, columns]
            levels = np.where(rng.random(levels.shape) < self.missed, before, levels)
        self.silicon.write(n["array"], n["row"], n["column"], levels)
        self.writes += 1
        return Reply({})

    def _recall(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        if not self.verifies:
            raise Refused(BAD_COMMAND, "cells are not read back")
        rows, columns = self._place(n)
        levels = self.silicon.held[n["array"]].levels[rows, columns]
        return Reply({"rows": n["rows"], "columns": n["columns"]}, levels.reshape(-1).copy())

    def _converter(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        low, step = float(values["low"]), float(values["step"])
        if n["array"] >= self.arrays:
            raise Refused(NOT_THERE, f"array {n['array']} on a board of {self.arrays}")
        held = self.silicon.held[n["array"]]
        if not finite(low, step) or step <= 0:
            raise Refused(BAD_FIELD, f"low = {low:g}, step = {step:g}: step must be above 0")
        if isinstance(self.macro.column, TableColumn) and (low, step) != (held.low, held.step):
            raise Refused(BAD_FIELD, f"the range is fixed at low = {held.low:g}, step = {held.step:g}")
        held.low, held.step = low, step
        return Reply({})

    def _driver(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        if not np.isfinite(data).all():
            raise Refused(BAD_FIELD, "driver levels must be finite")
        try:
            self.silicon.drive(tuple(float(level) for level in data))
        except ValueError as error:
            raise Refused(BAD_FIELD, str(error)) from None
        return Reply({})

    def _read(self, n: dict[str, int], values: Values, data: np.ndarray) -> Reply:
        silicon = self.silicon
        if (
            n["array"] >= self.arrays
            or n["row"] + n["rows"] > self.macro.rows
            or n["first"] + n["lanes"] > silicon.lanes
        ):
            raise Refused(NOT_THERE, f"{n}: {self.arrays} arrays, {self.macro.rows} rows, {silicon.lanes} lanes")
        if not in_bounds(n["row"], n["rows"], self.macro.on):
            raise Refused(BAD_FIELD, f"rows {n['row']} + {n['rows']} are not one group of {self.macro.on}")
        if n["mode"] >= len(MODES) or data.size != n["rows"] * n["vectors"] or not n["vectors"]:
            raise Refused(BAD_FIELD, f"mode {n['mode']}, {data.size} inputs for {n['vectors']} x {n['rows']}")
        mode, inputs = MODES[n["mode"]], silicon.inputs
        digits = mode == "digits"
        low, high = (inputs.digit_low, inputs.digit_high) if digits else (inputs.low, inputs.high)
        if data.min() < low or data.max() > high:
            raise Refused(BAD_FIELD, f"inputs {data.min()} to {data.max()} where {low} to {high} are driven")
        size = n["vectors"] * n["lanes"] * (len(inputs.radix) if mode == "codes" else 1)
        if 4 * size > self.most - 64:
            raise Refused(BAD_FIELD, f"{size} codes do not fit one reply of {self.most} bytes")
        x = data.reshape(n["vectors"], n["rows"])
        codes = silicon.read(n["array"], n["row"], x, digits, n["first"], n["lanes"])
        if mode == "sums":
            codes = np.tensordot(np.asarray(inputs.radix), codes, axes=(0, 1))[:, None]
        shape = {"vectors": n["vectors"], "passes": codes.shape[1], "lanes": n["lanes"]}
        return Reply(dict(shape), np.ascontiguousarray(codes, dtype=np.int32).reshape(-1))
