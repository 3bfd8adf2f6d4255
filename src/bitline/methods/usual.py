"""What an experiment compares that names no methods: those that are usual for its macros' errors, best last."""

from __future__ import annotations

from collections.abc import Sequence

from bitline.devices import RangeWeight
from bitline.macro import Macro
from bitline.methods.distil import Distillation
from bitline.methods.gaussian import Gaussian
from bitline.methods.hasgd import HaSgd
from bitline.methods.machine import ErrorAware, Qat
from bitline.methods.parts import Clip

ANY = (Qat(), Gaussian(), ErrorAware())
ANALOG = (Qat(), HaSgd(), HaSgd(clip=Clip(k=2), distil=Distillation()))
WHY = (
    "none named: those for errors relative to the range of the weights, of which the last did best of thirteen "
    "(benchmarks/RESULTS.md, training for analog memory): a range of two standard deviations halves errors, and the "
    "float network as teacher wins more than the perturbations alone"
)


def usual(macros: Sequence[Macro]) -> tuple[Qat | Gaussian | ErrorAware | HaSgd, ...]:
    """The methods for macros that all err alike."""
    return ANALOG if analog(macros) else ANY


def analog(macros: Sequence[Macro]) -> bool:
    """Whether all weights err by a share of their range."""
    return bool(macros) and all(isinstance(one.variation, RangeWeight) for one in macros)
