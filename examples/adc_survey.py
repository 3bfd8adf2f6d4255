"""Fit the ADC energies that come with the library: ``python examples/adc_survey.py SURVEY.xlsx [INTO.yaml]``.

SURVEY.xlsx is the workbook of github.com/bmurmann/ADC-survey (BSD 3-Clause, Copyright (c) 2022, Boris Murmann). Prints
what the curves leave over; seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bitline.configuration import to_yaml
from bitline.cost.survey import FITTED, Converters, Survey, fit_survey, read_survey, residuals

SOURCE = 'B. Murmann, "ADC Performance Survey 1997-2025", https://github.com/bmurmann/ADC-survey (2025-06-09)'
LICENCE = "BSD 3-Clause, Copyright (c) 2022, Boris Murmann"
BANDS = ((4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 16.1))


def show(converters: Converters, survey: Survey) -> None:
    """Energies over the curves', in decades, by effective bits."""
    print("bits      converters   over low: median   over median: 5 %, 50 %, 95 %   over high: median")
    for low, high in (*BANDS, (0, 99)):
        inside = (converters.bits >= low) & (converters.bits < high)
        left = {level: residuals(converters, curve)[inside] for level, curve in survey.curves.items()}
        spread = "   ".join(f"{value:+.2f}" for value in np.percentile(left["median"], (5, 50, 95)))
        band = f"{low:g} … {high:g}" if high < 99 else "all"
        outer = [f"{np.median(left[level]):+18.2f}" for level in ("low", "high")]
        print(f"{band:10}{inside.sum():10d}{outer[0]}{spread:>31}{outer[1]}")


def main(workbook: Path, into: Path = FITTED) -> None:
    """Read, fit, show, write."""
    converters = read_survey(workbook).recent()
    survey = fit_survey(converters, SOURCE, LICENCE)
    show(converters, survey)
    into.write_text("# Made by examples/adc_survey.py; J and Hz.\n" + to_yaml(survey.model_dump(mode="json")))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
