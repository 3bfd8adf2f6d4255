"""ADC energy of a network whose converters have other bits, against a declared baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from bitline.configuration import Frozen
from bitline.cost.adc import AdcEnergy
from bitline.cost.counts import LayerCounts
from bitline.cost.estimate import conversions

Bits = int | Mapping[str, int]


class Saving(Frozen):
    """ADC energy of one sample under one law, with two settings of bits."""

    adc: str = Field(description="the law and its parameters")
    baseline: float = Field(description="J, with the declared baseline bits")
    joules: float = Field(description="J, with the bits asked for")

    @property
    def saved(self) -> float:
        """Share of the baseline that is saved, 1: all of it; negative where more is spent."""
        return 1 - self.joules / self.baseline


def adc_saving(
    counted: Sequence[LayerCounts], bits: Bits, baseline: Bits, laws: Sequence[AdcEnergy], cycle: float
) -> tuple[Saving, ...]:
    """What ADC bits by layer save under each law, converters making one conversion in ``cycle`` seconds.

    ``bits``, ``baseline``: one number for all layers, or by layer's name; a layer that is not named keeps the bits of
    its macro. Ranges are the caller's: bits change the step alone. Raises ValueError for an unknown layer and outside a
    law's range.
    """
    on_macro = [one for one in counted if one.macro is not None]
    names = [one.layer for one in on_macro]
    for given in (bits, baseline):
        if not isinstance(given, int) and (unknown := given.keys() - set(names)):
            raise ValueError(f"bits of {', '.join(sorted(unknown))}: the layers on the macro are {', '.join(names)}")

    def joules(law: AdcEnergy, setting: Bits) -> float:
        each = [setting if isinstance(setting, int) else setting.get(one.layer, one.adc_bits) for one in on_macro]
        return sum(
            conversions(one) * law.joules(b, 1 / cycle, one.layer) for one, b in zip(on_macro, each, strict=True)
        )

    return tuple(Saving(adc=law.title, baseline=joules(law, baseline), joules=joules(law, bits)) for law in laws)
