"""Networks on a macro: quantizers, layers that are their torch classes, conversion and calibration."""

from bitline.nn.calibrate import calibrate, walk
from bitline.nn.cim import CimLayer
from bitline.nn.convert import Mapped, convert, fingerprint, mapping, restore
from bitline.nn.die import Silicon
from bitline.nn.kept import kept
from bitline.nn.model import layers, on_chip, programmed, silicon, use
from bitline.nn.quantizers import AnyQuantizer, Lsq, MinMax, Mse, Pact, Percentile, Xnor
from bitline.nn.streamline import streamlined

__all__ = [
    "AnyQuantizer",
    "CimLayer",
    "Lsq",
    "Mapped",
    "MinMax",
    "Mse",
    "Pact",
    "Percentile",
    "Silicon",
    "Xnor",
    "calibrate",
    "convert",
    "fingerprint",
    "kept",
    "layers",
    "mapping",
    "on_chip",
    "programmed",
    "restore",
    "silicon",
    "streamlined",
    "use",
    "walk",
]
