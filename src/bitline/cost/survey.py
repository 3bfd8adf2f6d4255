"""Murmann's ADC survey: read from its workbook, and envelopes of energy fitted to it.

B. Murmann, "ADC Performance Survey 1997-2025", https://github.com/bmurmann/ADC-survey, BSD 3-Clause licence,
Copyright (c) 2022, Boris Murmann. The workbook is read with the standard library: its tables are plain cells.
"""

from __future__ import annotations

import re
import zipfile
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field

from bitline.configuration import Frozen, from_yaml
from bitline.units import Hertz, Joules

FITTED = Path(__file__).with_name("survey.yaml")
BITS = (4, 16)  # effective bits of the converters fitted
RATES = (1e6, 1e11)  # Hz; below it, converters of sensors, whose references and leakage dominate
YEARS = 10
QUANTILES = {"low": 0.05, "median": 0.5, "high": 0.95}
COLUMNS = ("YEAR", "ARCHITECTURE", "SNDR_plot [dB]", "P [W]", "fsnyq [Hz]")
SHEETS = ("xl/worksheets/sheet2.xml", "xl/worksheets/sheet3.xml")  # ISSCC, VLSI
XML = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


class Curve(Frozen):
    """a · 2^b · √(1 + (f/f_a)²) + c · 4^b · √(1 + (f/f_c)²): energy of a conversion from effective bits and rate."""

    step: Joules = Field(gt=0, description="a, J: of each step of the scale, at low speed")
    step_corner: Hertz = Field(gt=0, description="f_a, Hz: beyond it this part's power grows as the speed's square")
    noise: Joules = Field(gt=0, description="c, J: of 4^b, at low speed")
    noise_corner: Hertz = Field(gt=0, description="f_c, Hz")

    def joules(
        self, bits: Float[np.ndarray, " n"] | float, rate: Float[np.ndarray, " n"] | float
    ) -> Float[np.ndarray, " n"] | np.floating:
        """Energy of one conversion, J."""
        steps = self.step * np.exp2(bits) * np.hypot(1, np.divide(rate, self.step_corner))
        return steps + self.noise * np.exp2(np.multiply(2, bits)) * np.hypot(1, np.divide(rate, self.noise_corner))


class Survey(Frozen):
    """The curves fitted to a survey, and what they were fitted to."""

    source: str
    licence: str
    years: tuple[int, int]
    converters: int = Field(description="converters fitted")
    rms: float = Field(description="residual of the median curve, decades rms")
    curves: dict[str, Curve]


class Converters(BaseModel):
    """Published converters, one an entry."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    year: Float[np.ndarray, " n"]
    bits: Float[np.ndarray, " n"]  # effective: (SNDR - 1.76 dB) / 6.02 dB
    joules: Float[np.ndarray, " n"]  # power over Nyquist rate
    rate: Float[np.ndarray, " n"]  # Nyquist rate, Hz

    def recent(self, years: int = YEARS) -> Converters:
        """Those of the last ``years`` years inside ``BITS`` and ``RATES``."""
        inside = self.year > self.year.max() - years
        for values, (low, high) in ((self.bits, BITS), (self.rate, RATES)):
            inside &= (values >= low) & (values <= high)
        return Converters(**{name: getattr(self, name)[inside] for name in type(self).model_fields})


@cache
def shipped() -> Survey:
    """The curves that come with the library."""
    return Survey.model_validate(from_yaml(FITTED.read_text(encoding="utf-8")))


def read_survey(path: Path) -> Converters:
    """The converters in the survey's workbook (.xlsx) that state year, SNDR, power and rate, band-pass ones left out.

    Raises ValueError where a sheet has other columns.
    """
    found: list[tuple[float, float, float, float]] = []
    with zipfile.ZipFile(path) as book:
        strings = [
            "".join(text.text or "" for text in entry.iter(f"{XML}t"))
            for entry in ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
        ]
        for sheet in SHEETS:
            head, *rows = _rows(ElementTree.fromstring(book.read(sheet)), strings)
            named = {name: column for column, name in head.items()}
            if missing := [name for name in COLUMNS if name not in named]:
                raise ValueError(f"{path}: {sheet} has no column {', '.join(missing)}: the survey's sheets have them")
            for row in rows:
                year, architecture, sndr, power, rate = (row.get(named[name], "") for name in COLUMNS)
                if "BP" in architecture:  # "bandpass converters are generally hard to compare" (Readme)
                    continue
                try:
                    found.append((float(year), (float(sndr) - 1.76) / 6.02, float(power) / float(rate), float(rate)))
                except ValueError:  # a figure is not stated
                    continue
    year, bits, joules, rate = np.array(found).T
    return Converters(year=year, bits=bits, joules=joules, rate=rate)


def _rows(sheet: ElementTree.Element, strings: list[str]) -> list[dict[str, str]]:
    """Texts of a sheet's cells by column, row by row."""
    rows = []
    for row in sheet.iter(f"{XML}row"):
        cells = {}
        for cell in row:
            value = cell.find(f"{XML}v")
            if value is not None and value.text is not None:
                column = re.sub(r"\d", "", cell.get("r", ""))
                cells[column] = strings[int(value.text)] if cell.get("t") == "s" else value.text
        rows.append(cells)
    return rows


def fit_survey(converters: Converters, source: str, licence: str) -> Survey:
    """Curves of the 5 %, 50 % and 95 % quantile of log energy (Koenker & Bassett, Econometrica 1978), the outer two
    then moved until all converters lie between them."""
    curves = {level: _quantile(converters, q) for level, q in QUANTILES.items()}
    left = {level: residuals(converters, curve) for level, curve in curves.items()}
    for level, factor in (("low", 10 ** left["low"].min()), ("high", 10 ** left["high"].max())):
        curve, factor = curves[level], factor * (1.001 if level == "high" else 0.999)
        curves[level] = curve.model_copy(update={"step": curve.step * factor, "noise": curve.noise * factor})
    rounded = {
        level: Curve(**{name: float(f"{value:.4g}") for name, value in curve.model_dump().items()})
        for level, curve in curves.items()
    }
    return Survey(
        source=source,
        licence=licence,
        years=(int(converters.year.min()), int(converters.year.max())),
        converters=len(converters.year),
        rms=round(float(np.sqrt(np.mean(left["median"] ** 2))), 3),
        curves=rounded,
    )


def residuals(converters: Converters, curve: Curve) -> Float[np.ndarray, " n"]:
    """Energy of each converter over the curve's, decades."""
    return np.asarray(np.log10(converters.joules / curve.joules(converters.bits, converters.rate)))


def _quantile(converters: Converters, q: float) -> Curve:
    """The curve below which a share ``q`` of the converters lies; the best of several starts."""
    from scipy.optimize import minimize

    names = tuple(Curve.model_fields)
    ends = np.array([(-17, -11), (7, 12), (-21, -15), (6, 10)])  # powers of ten, in the order of the names
    rng = np.random.default_rng(0)

    def curve(powers: np.ndarray) -> Curve:
        return Curve(**dict(zip(names, (10**powers).tolist(), strict=True)))

    def loss(powers: np.ndarray) -> float:
        if np.any(powers < ends[:, 0]) or np.any(powers > ends[:, 1]):
            return np.inf
        left = residuals(converters, curve(powers))
        return float(np.mean(np.where(left > 0, q * left, (q - 1) * left)))

    options = {"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-8}
    starts = rng.uniform(ends[:, 0], ends[:, 1], (24, len(names)))
    found = (minimize(loss, start, method="Nelder-Mead", options=options) for start in starts)
    return curve(min(found, key=lambda one: one.fun).x)
