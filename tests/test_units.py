"""Units: what a configuration may write, what is refused, and how a float is written back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bitline.units import Farads, Hertz, Kelvin, Metres, Ohms, Seconds, Siemens, Volts, si


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Ohms, "10 kOhm", 1e4),
        (Ohms, "10kΩ", 1e4),
        (Ohms, "1 M\u2126", 1e6),
        (Ohms, 50, 50.0),
        (Siemens, "5 uS", 5e-6),
        (Siemens, "5 µS", 5e-6),
        (Siemens, "5 \u03bcS", 5e-6),
        (Volts, "0.8 V", 0.8),
        (Volts, "-150 mV", -0.15),
        (Seconds, "3 ns", 3e-9),
        (Seconds, "1e-9", 1e-9),
        (Seconds, " 1e3 s ", 1e3),
        (Seconds, np.float32(0.5), 0.5),
        (Kelvin, "25 degC", 298.15),
        (Kelvin, "-40 °C", 233.15),
        (Kelvin, "300 K", 300.0),
        (Metres, "5 m", 5.0),
        (Metres, "5 mm", 5e-3),
        (Hertz, "0.2 GHz", 2e8),
        (Farads, ".5 fF", 5e-16),
    ],
)
def test_accepts(kind: object, text: object, expected: float) -> None:
    assert TypeAdapter(kind).validate_python(text) == expected


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Ohms, "5 uS", ["'5 uS'", "'uS'", "ohms", "10 kOhm"]),
        (Ohms, "5 qOhm", ["'5 qOhm'", "unknown prefix", "ohms", "10 kOhm"]),
        (Ohms, "5 kkOhm", ["unknown prefix"]),
        (Ohms, "25 degC", ["'degC'", "ohms"]),
        (Kelvin, "25 mdegC", ["'mdegC'", "kelvin"]),
        (Kelvin, "-300 degC", ["below 0 K"]),
        (Seconds, "soon", ["'soon'", "not a number", "seconds", "3 ns"]),
        (Seconds, "", ["not a number"]),
        (Seconds, "1 2 s", ["not a number"]),
        (Seconds, "nan", ["not a number"]),
        (Seconds, math.nan, ["nan", "not finite", "seconds"]),
        (Seconds, math.inf, ["inf", "not finite"]),
        (Seconds, "1e999 s", ["not finite"]),
        (Seconds, True, ["truth value"]),
        (Seconds, None, ["None", "not a number"]),
        (Seconds, [1], ["not a number"]),
    ],
)
def test_refuses_and_explains(kind: object, value: object, words: list[str]) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TypeAdapter(kind).validate_python(value)
    for word in words:
        assert word in str(error.value)


class Wire(BaseModel, frozen=True):
    resistance: Ohms = Field(gt=0)
    width: Metres = 45e-9


def test_in_a_model() -> None:
    wire = Wire.model_validate({"resistance": "2.5 Ohm"})
    assert wire.resistance == 2.5
    assert Wire.model_validate_json(wire.model_dump_json()) == wire
    with pytest.raises(ValidationError, match="greater than 0"):
        Wire.model_validate({"resistance": "-1 Ohm"})


def test_json_schema_takes_number_or_string() -> None:
    schema = Wire.model_json_schema()["properties"]
    assert schema["resistance"]["type"] == ["number", "string"]
    assert schema["resistance"]["exclusiveMinimum"] == 0
    assert "ohms" in schema["resistance"]["description"]
    assert schema["width"]["default"] == 45e-9


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1e4, "Ohm", "10 kΩ"),
        (5e-6, "S", "5 µS"),
        (0.8, "V", "800 mV"),
        (0.0, "V", "0 V"),
        (-3e-9, "s", "-3 ns"),
        (999.99e3, "Hz", "1 MHz"),
        (298.15, "K", "298.1 K"),
        (100.0, "m", "100 m"),
        (1e-30, "J", "1e-30 J"),
        (1e18, "Hz", "1e+18 Hz"),
        (math.nan, "V", "nan V"),
    ],
)
def test_si(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text


@given(st.floats(min_value=1e-17, max_value=1e17), st.booleans())
def test_si_reads_back(magnitude: float, negative: bool) -> None:
    value = -magnitude if negative else magnitude
    assert TypeAdapter(Ohms).validate_python(si(value, "Ohm", digits=17)) == value
