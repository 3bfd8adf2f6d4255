"""Networks on a macro: quantizers, layers that are their torch classes, conversion and calibration."""

from bitline.nn.calibrate import calibrate, walk
from bitline.nn.cim import CimLayer
from bitline.nn.convert import Mapped, convert, digital, fingerprint, mapping, restore
from bitline.nn.die import OnSilicon, Silicon
from bitline.nn.kept import computing, kept
from bitline.nn.model import (
    converted_layers,
    differentiate,
    layers,
    on_chip,
    parts,
    programmed,
    requantise,
    silicon,
    use,
)
from bitline.nn.moving import calibrated, moved
from bitline.nn.norms import AnalogNorm, batch_norms
from bitline.nn.outputs import count_outputs
from bitline.nn.patterns import all_match, matches
from bitline.nn.quantizers import AnyQuantizer, Lsq, MinMax, Mse, Pact, Percentile, Xnor
from bitline.nn.samplenorm import SampleNorm, per_sample
from bitline.nn.side import Read, ReadStep, SidePath, Steps
from bitline.nn.streamline import norms_behind, streamlined
from bitline.nn.suited import suit_ranges
from bitline.nn.tradeoff import InputRange, Tradeoff, input_ranges, range_tradeoff
from bitline.nn.verifying import choose_writes, verify_writes

__all__ = [
    "AnalogNorm",
    "AnyQuantizer",
    "CimLayer",
    "InputRange",
    "Lsq",
    "Mapped",
    "MinMax",
    "Mse",
    "OnSilicon",
    "Pact",
    "Percentile",
    "Read",
    "ReadStep",
    "SampleNorm",
    "SidePath",
    "Silicon",
    "Steps",
    "Tradeoff",
    "Xnor",
    "all_match",
    "batch_norms",
    "calibrate",
    "calibrated",
    "choose_writes",
    "computing",
    "convert",
    "converted_layers",
    "count_outputs",
    "differentiate",
    "digital",
    "fingerprint",
    "input_ranges",
    "kept",
    "layers",
    "mapping",
    "matches",
    "moved",
    "norms_behind",
    "on_chip",
    "parts",
    "per_sample",
    "programmed",
    "range_tradeoff",
    "requantise",
    "restore",
    "silicon",
    "streamlined",
    "suit_ranges",
    "use",
    "verify_writes",
    "walk",
]
