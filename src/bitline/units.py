"""SI quantities: plain floats in code, readable strings in a configuration.

A field typed `Ohms` takes `10e3`, `"10e3"` and `"10 kOhm"`, and holds the float `10000.0`. A wrong unit, an unknown
prefix, NaN and infinity are refused with a message that shows what would be accepted. `si` writes a float back.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

PREFIXES = {"a": -18, "f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
"""SI prefix to its power of ten; µ (either code point) is read as `u`."""

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\W\d_].*|°C)?\s*")
_CELSIUS_ZERO = Decimal("273.15")


@dataclass(frozen=True)
class Quantity:
    """What a pydantic field measures: the unit's name, its accepted spellings, and an example for messages."""

    name: str
    symbols: tuple[str, ...]
    example: str
    minimum: float = -math.inf

    def parse(self, value: object) -> float:
        """The value in SI units, from a number or a string; ValueError says what would be accepted."""
        if isinstance(value, str):
            number = self._parse_text(value)
        elif isinstance(value, bool):
            raise self._refuse(value, "is a truth value")
        else:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise self._refuse(value, "is not a number") from None
        if not math.isfinite(number):
            raise self._refuse(value, "is not finite")
        if number < self.minimum:
            raise self._refuse(value, f"is below {self.minimum:g} {self.symbols[0]}")
        return number

    def _parse_text(self, text: str) -> float:
        match = _NUMBER_AND_UNIT.fullmatch(text)
        if match is None:
            raise self._refuse(text, "is not a number with a unit")
        number, unit = Decimal(match[1]), (match[2] or "").strip()
        if not unit:
            return float(number)
        if unit in ("degC", "°C") and "K" in self.symbols:
            return float(number + _CELSIUS_ZERO)
        for symbol in self.symbols:
            prefix = unit.removesuffix(symbol).translate({0xB5: "u", 0x3BC: "u"})
            if unit.endswith(symbol) and prefix in PREFIXES:
                return float(number.scaleb(PREFIXES[prefix]))
        if any(unit.endswith(symbol) for symbol in self.symbols):
            raise self._refuse(text, f"has an unknown prefix in {unit!r}")
        raise self._refuse(text, f"has the unit {unit!r}")

    def _refuse(self, value: object, reason: str) -> ValueError:
        return ValueError(f"{value!r} {reason}; expected {self.name}, for example {self.example!r}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = f"{self.name}: a number, or a string such as {self.example!r}"
        return {"description": text, "examples": [self.example], **handler(schema), "type": ["number", "string"]}


Seconds = Annotated[float, Quantity("seconds", ("s",), "3 ns")]
Volts = Annotated[float, Quantity("volts", ("V",), "0.8 V")]
Amperes = Annotated[float, Quantity("amperes", ("A",), "2 uA")]
Ohms = Annotated[float, Quantity("ohms", ("Ohm", "ohm", "Ω", "\u2126"), "10 kOhm")]
Siemens = Annotated[float, Quantity("siemens", ("S",), "5 uS")]
Farads = Annotated[float, Quantity("farads", ("F",), "1.5 fF")]
Kelvin = Annotated[float, Quantity("kelvin", ("K",), "25 degC", minimum=0.0)]
Hertz = Annotated[float, Quantity("hertz", ("Hz",), "200 MHz")]
Joules = Annotated[float, Quantity("joules", ("J",), "15 fJ")]
Watts = Annotated[float, Quantity("watts", ("W",), "3 mW")]
Metres = Annotated[float, Quantity("metres", ("m",), "45 nm")]


def si(value: float, unit: str, digits: int = 4) -> str:
    """The value with the prefix that leaves 1 to 999 before the point: `si(1e4, "Ohm")` is `"10 kΩ"`.

    `digits` significant digits are kept and trailing zeros dropped. Beyond the prefixes the power of ten is written.
    """
    unit = "Ω" if unit in ("Ohm", "ohm") else unit
    rounded = Decimal(f"{value:.{digits - 1}e}")
    if not rounded.is_finite() or not rounded:
        return f"{value:g} {unit}"
    power = 3 * (rounded.adjusted() // 3)
    prefix = next((prefix for prefix, exponent in PREFIXES.items() if exponent == power), None)
    if prefix is None:
        return f"{value:.{digits}g} {unit}"
    number = f"{rounded.scaleb(-power):f}"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number} {'µ' if prefix == 'u' else prefix}{unit}"


def share(text: str, name: str, most: float = float("inf")) -> float:
    """A share from ``5%`` or ``0.05``; raises ValueError with ``name`` for one not above 0, or above ``most``."""
    number = text.strip()
    try:
        found = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"{name} {text!r}: a share above 0 is expected, such as 5% or 0.05")
    if found > most:
        hint = "" if number.endswith("%") or found > 100 else f": did you mean {number}%?"
        raise ValueError(f"{name} {text!r}: a share up to {most:.0%} is expected{hint}")
    return found
