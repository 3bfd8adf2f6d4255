"""Calibration of a chip's columns, as NeuRRAM's software keeps it, to the converters of a macro.

Wan et al., *A compute-in-memory chip based on resistive random-access memory*, Nature 608, 504-512, 2022; the files
are ``calibrate_*.npz`` of github.com/weierwan/Neurram_48core: for each column and read voltage a straight line,
code = slope · ideal + intercept, and what is left, ``errors``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from bitline.converters import Adc

ARRAYS = ("slope", "intercept", "errors")


@dataclass(frozen=True)
class Calibration:
    """Lines of columns: K cores, H passes over each, V read voltages, N columns.

    ``slope`` in codes a unit of the ideal product, whose sign is that of the weights that were read; ``intercept`` in
    codes; ``errors``, what is left beside the line, in a unit that the file does not tell. A column that was not read
    has slope 0.
    """

    volts: Float[np.ndarray, " V"]
    slope: Float[np.ndarray, "K H V N"]
    intercept: Float[np.ndarray, "K H V N"]
    errors: Float[np.ndarray, "K H V N"]

    @property
    def read(self) -> Bool[np.ndarray, "K H V N"]:
        """Whether a column was read."""
        return self.slope != 0

    def voltage(self, volts: float) -> int:
        """Index of a read voltage; raises ValueError naming those measured."""
        near = int(np.abs(self.volts - volts).argmin())
        if abs(self.volts[near] - volts) > 1e-6:
            raise ValueError(
                f"read voltage {volts:g} V was not measured; there are {', '.join(f'{v:g}' for v in self.volts)}"
            )
        return near

    def balanced(self) -> float:
        """The read voltage at which the mean intercept is nearest to 0, V."""
        mean = np.where(self.read, self.intercept, 0).sum((0, 1, 3)) / self.read.sum((0, 1, 3))
        return float(self.volts[np.abs(mean).argmin()])

    def lines(self, volts: float, core: int, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(relative gain, offset in codes, error) of each column read in a core and pass.

        Gains are relative to their mean; signs of the weights are taken out. Raises ValueError for a core or pass that
        is not there.
        """
        cores, parts = self.slope.shape[:2]
        if not (0 <= core < cores and 0 <= part < parts):
            raise ValueError(f"core {core}, pass {part}: there are cores 0 … {cores - 1} and passes 0 … {parts - 1}")
        at = (core, part, self.voltage(volts))
        read = self.read[at]
        slope, offset = np.abs(self.slope[at][read]), (np.sign(self.slope[at]) * self.intercept[at])[read]
        return slope / slope.mean(), offset, self.errors[at][read]

    def converter(
        self, volts: float, core: int, part: int, bits: int = 8, errors: Literal["rms", "square"] | None = None
    ) -> Adc:
        """The converters of one measured core: gains and offsets of its columns.

        For a macro with as many converters as columns were read. ``errors``: what the file's are, root mean squares or
        mean squares in codes, to make them noise (rms over the columns); absent: they are left out.
        """
        gain, offset, error = self.lines(volts, core, part)
        square = None if errors is None else float((error**2 if errors == "rms" else error).mean())
        return Adc(
            bits=bits,
            gain_about="zero",
            gains=tuple(map(float, gain)),
            offsets=tuple(map(float, offset)),
            noise=None if square is None else math.sqrt(square),
        )

    def summary(self, volts: float) -> tuple[float, float]:
        """(gain spread, offset spread in codes): standard deviations within a core and pass, rms over them."""
        found = []
        for core in range(self.slope.shape[0]):
            for part in range(self.slope.shape[1]):
                gain, offset, _ = self.lines(volts, core, part)
                found.append((gain.var(ddof=1), offset.var(ddof=1)))
        gain_sigma, offset_sigma = np.sqrt(np.mean(found, axis=0))
        return float(gain_sigma), float(offset_sigma)


def read_calibration(path: str | Path) -> Calibration:
    """A calibration file (.npz); raises ValueError naming the file, the array and what would be accepted."""
    names = (*ARRAYS, "vpos_list")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"it has {', '.join(file)}; {', '.join(missing)} is missing")
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in names}
    except (OSError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no calibration (.npz with {', '.join(names)}): {error}") from None
    volts = arrays.pop("vpos_list")
    shape = arrays["slope"].shape
    for name, array in arrays.items():
        if array.ndim != 4 or array.shape != shape or volts.shape != (array.shape[2],):
            raise ValueError(
                f"{path}: {name} has the shape {array.shape} for {volts.shape} voltages; accepted is (cores, passes, "
                f"voltages, columns), alike for {', '.join(ARRAYS)}"
            )
        if not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{path}: {name}{list(place)} = {array[place]} is not a finite number")
    if (arrays["errors"] < 0).any():
        raise ValueError(f"{path}: errors down to {arrays['errors'].min():g} codes; accepted are 0 or more")
    if not (arrays["slope"] != 0).any(axis=3).all():
        raise ValueError(f"{path}: a core without any column read (all slopes 0)")
    return Calibration(volts=volts, **arrays)
