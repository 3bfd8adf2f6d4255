"""Networks on a macro: quantizers, layers that are their torch classes, conversion and calibration."""

from bitline.nn.calibrate import calibrate, walk
from bitline.nn.cim import CimLayer
from bitline.nn.convert import Mapped, convert, fingerprint, mapping, restore
from bitline.nn.die import Silicon
from bitline.nn.kept import kept
from bitline.nn.model import differentiate, layers, on_chip, programmed, requantise, silicon, use
from bitline.nn.quantizers import AnyQuantizer, Lsq, MinMax, Mse, Pact, Percentile, Xnor
from bitline.nn.streamline import streamlined
from bitline.nn.tradeoff import InputRange, Tradeoff, input_ranges, range_tradeoff

__all__ = [
    "AnyQuantizer",
    "CimLayer",
    "InputRange",
    "Lsq",
    "Mapped",
    "MinMax",
    "Mse",
    "Pact",
    "Percentile",
    "Silicon",
    "Tradeoff",
    "Xnor",
    "calibrate",
    "convert",
    "differentiate",
    "fingerprint",
    "input_ranges",
    "kept",
    "layers",
    "mapping",
    "on_chip",
    "programmed",
    "range_tradeoff",
    "requantise",
    "restore",
    "silicon",
    "streamlined",
    "use",
    "walk",
]
