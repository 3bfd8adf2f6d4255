"""Energy of an analog-to-digital conversion by published laws: joules from bits and sample rate.

Bits are those of the macro's converter and stand for effective bits (SNDR = 6.02 · bits + 1.76 dB): a converter that
loses some of its bits to noise and distortion was cheaper to build than these laws say. Each law refuses what it was
not made for.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from bitline.configuration import Value
from bitline.cost.survey import BITS, RATES, shipped
from bitline.units import Joules, si


class AdcEnergy(Value):
    """What the laws share: the bits and sample rates (Hz) for which they hold."""

    BITS: ClassVar[tuple[int, int]]
    RATES: ClassVar[tuple[float, float]]

    @property
    @abstractmethod
    def title(self) -> str:
        """The law and its parameters, for tables."""

    def joules(self, bits: int, rate: float, where: str = "") -> float:
        """Energy of one conversion, J, of a converter of ``bits`` that makes ``rate`` of them a second.

        Raises ValueError outside the law's range, saying ``where`` the converter is.
        """
        place = f"{where}: " if where else ""
        low, high = self.BITS
        if not low <= bits <= high:
            raise ValueError(
                f"{place}{bits} bits; the ADC energy model {self.title} holds from {low} to {high}: "
                "choose another in `adc` of the technology, or give the converter as many"
            )
        slow, fast = self.RATES
        if not slow <= rate <= fast:
            raise ValueError(
                f"{place}{si(rate, 'Hz')} a converter; the ADC energy model {self.title} holds from {si(slow, 'Hz')} "
                f"to {si(fast, 'Hz')}: change `cycle` of the technology, or choose another in its `adc`"
            )
        return self._joules(bits, rate)

    @abstractmethod
    def _joules(self, bits: int, rate: float) -> float:
        """Energy of one conversion inside the range, J."""


class Walden(AdcEnergy):
    """FoM · 2^bits: a step of the scale costs the same at any resolution (Walden, JSAC 17(4), 1999).

    Default: 1 fJ a step, the lower line of the energy plot in Murmann's survey (2025), hence a bound. Good below about
    10 bits and up to 1.2 GHz, where the survey's best converters leave that line (sheet *Jitter and FOM lines*).
    """

    kind: Literal["walden"] = "walden"
    fom: Joules = Field(default=1e-15, gt=0, le=1e-9, description="energy of a step, J")

    BITS = (1, 10)
    RATES = (1.0, 1.2e9)

    @property
    def title(self) -> str:
        return f"Walden, {si(self.fom, 'J', 3)} a step"

    def _joules(self, bits: int, rate: float) -> float:
        return self.fom * 2.0**bits


class Schreier(AdcEnergy):
    """Thermal noise sets the power: four times the energy a bit, FoM = SNDR + 10 lg(rate / (2 P)) (Schreier & Temes,
    Understanding Delta-Sigma Data Converters, 2005; with SNDR: Ali et al., JSSC 45(12), 2010).

    Default: 185 dB, the other line of the energy plot in Murmann's survey (2025): a bound that converters of few bits
    do not come near, as its title says. To 51 MHz, where the survey's best converters leave it (sheet *Jitter and FOM
    lines*).
    """

    kind: Literal["schreier"] = "schreier"
    fom: float = Field(default=185.0, ge=100, le=200, description="figure of merit, dB")

    BITS = (1, 16)
    RATES = (1.0, 51e6)

    @property
    def title(self) -> str:
        return f"Schreier, {self.fom:g} dB (a lower bound below 10 bits)"

    def _joules(self, bits: int, rate: float) -> float:
        return 0.5 * 10 ** ((6.02 * bits + 1.76 - self.fom) / 10)


class Sar(AdcEnergy):
    """c1 · bits + c2 · 4^bits of a successive-approximation converter: comparator, logic and switching, once a bit, and
    the noise of comparator and capacitors, four times a bit (Murmann, TVLSI 29(1), 2021).

    Defaults: k1 = 100 fJ and k2 = 1 aJ of Gonugondla et al., TCAD 2022 (arXiv 2012.13645), with an input of full scale;
    the rate is not in the law. One channel: to 1 GHz.
    """

    kind: Literal["sar"] = "sar"
    logic: Joules = Field(default=100e-15, gt=0, le=1e-9, description="c1: comparator, logic and switching, J a bit")
    noise: Joules = Field(default=1e-18, ge=0, le=1e-12, description="c2: of 4^bits, J")

    BITS = (1, 14)
    RATES = (1.0, 1e9)

    @property
    def title(self) -> str:
        return f"SAR, {si(self.logic, 'J', 3)} · b + {si(self.noise, 'J', 3)} · 4^b"

    def _joules(self, bits: int, rate: float) -> float:
        return self.logic * bits + self.noise * 4.0**bits


class Murmann(AdcEnergy):
    """A fit to the converters of the last ten years in Murmann's survey (``survey.yaml``, made by
    ``examples/adc_survey.py``): a · 2^b · √(1 + (f/f_a)²) + c · 4^b · √(1 + (f/f_c)²), the survey's own two figures of
    merit with a corner in speed each.

    ``median``: half of the converters need less. ``low`` and ``high``: all need more, and less.
    """

    kind: Literal["murmann"] = "murmann"
    level: Literal["low", "median", "high"] = "median"

    BITS = BITS
    RATES = RATES

    @property
    def title(self) -> str:
        return f"Murmann's survey, {self.level}"

    def _joules(self, bits: int, rate: float) -> float:
        return float(shipped().curves[self.level].joules(bits, rate))


def brief(title: str) -> str:
    """A law's title without its parameters, for heads of columns and for sentences; what stands in brackets stays."""
    name, _, rest = title.partition(",")
    return f"{name} {rest[rest.index('(') :]}" if "(" in rest else name


AnyAdcEnergy = Annotated[Walden | Schreier | Sar | Murmann, Field(discriminator="kind")]
