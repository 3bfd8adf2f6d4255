"""What a macro says of itself, against its figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitline import presets
from bitline.converters import Adc
from bitline.macro import Macro
from bitline.macro.curves import Compressive
from bitline.macro.describe import describe
from bitline.macro.kinds import CurveColumn, TableColumn
from contracts import EXAMPLES, table

EIGHT_T = dict(describe(presets.load("generic-8t-sram")))


MACROS = [example.macro for example in EXAMPLES] + [presets.load(name) for name in presets.names()]


@pytest.mark.parametrize("macro", MACROS, ids=lambda macro: macro.name)
def test_every_macro_can_be_described(macro: Macro) -> None:
    facts = describe(macro)
    assert facts[0] == ("macro", macro.name)
    assert all(name and text for name, text in facts)
    assert not [text for _, text in facts if "None" in text or "nan" in text or "kind=" in text]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows of an array", "64, all on at once"),
        ("columns of an array", "128, 4 an output: 32 outputs"),
        ("converters of an array", "32, each for 4 columns"),
        ("inputs", "4 bits, unsigned (0 … 15), 1 bit at a time: 4 passes"),
        ("conversions of an output", "16 a full array (4 passes × 4 digits × 1 row group)"),
        ("full scale of a column", "64 counts = 512 mV"),
        ("LSB", "1 count = 8 mV"),
        ("range", "0 … 63 counts"),
        ("frozen spread of columns", "gain 0.3 %, offset 0.02 counts = 160 µV"),
        ("fresh noise at 0", "0.045 counts = 0.045 LSB = 360 µV"),
        ("fresh noise at half scale", "0.12 counts = 0.12 LSB = 960 µV"),
        ("fresh noise at full scale", "0.195 counts = 0.195 LSB = 1.56 mV"),
        ("corners", "hot, cold, low-supply"),
    ],
)
def test_the_8t_macro(name: str, text: str) -> None:
    assert EIGHT_T[name] == text


def test_inl_is_the_distance_from_the_end_point_line() -> None:
    u = np.linspace(0, 64, 6401)
    column = presets.load("generic-8t-sram").column
    assert isinstance(column, CurveColumn)
    assert isinstance(column.mean, Compressive)
    mean = u * (1 - 0.4 * u / 64) - column.mean.dead_zone * np.tanh(u / 6)
    inl = np.abs(mean - u * mean[-1] / 64).max()
    assert EIGHT_T["INL of a column"].startswith(f"{inl:.3g} counts")


def test_noise_adds_up_over_cells_legs_and_converter() -> None:
    macro = presets.load("generic-rram-128")
    cells = 2 * 128 * (7 * 0.005) ** 2  # two legs, 128 cells each, 7 levels
    assert dict(describe(macro))["fresh noise at full scale"].startswith(f"{cells**0.5:.3g} counts")
    noisy = macro.model_copy(update={"converter": Adc(bits=8, noise=0.5)})
    step = 896 / 127
    both = (cells + (0.5 * step) ** 2) ** 0.5
    assert dict(describe(noisy))["fresh noise at 0"] == f"{both:.3g} counts = {both / step:.3g} LSB"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"kind": "gaussian", "sigma": 0, "mu": 0.01}, "gaussian, sigma 0"),  # the mean alone
        ({"kind": "gaussian", "sigma": 0.1}, "gaussian, sigma 0.1"),
        ({"kind": "capacitor", "farads": "1 fF", "coefficient": 0}, "coefficient 0"),
        ({"kind": "state", "sigma": 0, "mu": 0.1}, "state, sigma 0"),
        ({"kind": "state", "sigma": 0.1, "floor": 0}, "floor 0 (least that a cell holds"),
    ],
)
def test_a_zero_that_was_meant_is_told(error: dict[str, Any], text: str) -> None:
    cell = {"errors": [error]}
    macro = Macro.model_validate(
        {"name": "m", "rows": 8, "columns": 8, "weights": {"kind": "differential", "bits": 3}, "cell": cell}
    )
    told = dict(describe(macro))["frozen error of a cell"]
    assert text in told
    assert ("mu" in told) == ("mu" in error)  # one that is the default is left out


def test_tables_tell_frozen_and_fresh_apart() -> None:
    macro = presets.load("dnat-sram").model_copy(update={"converter": None})
    two = np.stack([np.eye(16), np.roll(np.eye(16), 1, axis=1)])
    apart = dict(describe(macro.model_copy(update={"column": TableColumn(probability=two[:, :15], per="column")})))
    assert apart["frozen spread of columns"] == "up to 0.5 LSB"
    assert apart["fresh noise at half scale"] == "0 counts = 0 LSB"
    pooled = dict(describe(macro.model_copy(update={"column": TableColumn(probability=table(16, 1.0), step=64)})))
    assert pooled["frozen spread of columns"] == "up to 0 LSB"
    assert pooled["column"] == "one table for all columns, no error frozen"
    assert pooled["LSB"] == "64 counts"
    assert pooled["fresh noise at half scale"].endswith("= 1 LSB")


def test_a_converter_that_is_absent_is_said_to_be() -> None:
    facts = dict(describe(presets.load("dnat-sram").model_copy(update={"converter": None})))
    assert facts["converter"] == "none: a column's value is read as it is"
    assert "LSB" not in facts
    assert facts["fresh noise"] == "none"
