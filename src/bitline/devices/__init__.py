"""Cells: what a memory cell does to the level it should hold.

Levels are counted in steps of a cell: 0 … ``level_high``, the range G_max - G_min. An error is frozen by the clock it
belongs to: ``fabrication`` (mismatch: the same whatever is stored, and after every rewrite) or ``programming`` (drawn
anew each time the array is written). Drift and read noise are the other two moments. ``WeightVariation`` is the other
kind of model, in which the error falls on the float weight and no cells exist; the two are never mixed.
"""

from bitline.devices.cell import AnyCellError, Cell, Draws, Held
from bitline.devices.conductances import Conductances, join, shipped
from bitline.devices.confusion import confusion, fit_confusions, read_confusions, read_errors
from bitline.devices.draw import Draw
from bitline.devices.drift import BOLTZMANN_EV, AnyDrift, Drift, LogTimeDrift, PowerLawDrift
from bitline.devices.errors import (
    CapacitorMismatch,
    CellError,
    GaussianCell,
    LevelTable,
    LogNormalCell,
    UniformCell,
)
from bitline.devices.faults import StuckAt, StuckMap
from bitline.devices.kept import KeptError
from bitline.devices.lognormal import lognormal
from bitline.devices.measured import MeasuredCell
from bitline.devices.noise import AnyReadNoise, FlickerNoise, ReadNoise, StateNoise
from bitline.devices.offsets import OffsetRow, Stored
from bitline.devices.profiles import (
    AnyProfile,
    Logarithm,
    Middle,
    Power,
    Profile,
    Saturating,
    StateConstant,
    StatePoints,
    StatePolynomial,
)
from bitline.devices.reads import CellReads, fit_conductances, read_bake, read_relaxation
from bitline.devices.states import StateCell
from bitline.devices.verify import Writes, WriteVerify
from bitline.devices.weights import LogNormalWeight, RangeWeight, WeightError, WeightVariation

__all__ = [
    "BOLTZMANN_EV",
    "AnyCellError",
    "AnyDrift",
    "AnyProfile",
    "AnyReadNoise",
    "CapacitorMismatch",
    "Cell",
    "CellError",
    "CellReads",
    "Conductances",
    "Draw",
    "Draws",
    "Drift",
    "FlickerNoise",
    "GaussianCell",
    "Held",
    "KeptError",
    "LevelTable",
    "LogNormalCell",
    "LogNormalWeight",
    "LogTimeDrift",
    "Logarithm",
    "MeasuredCell",
    "Middle",
    "OffsetRow",
    "Power",
    "PowerLawDrift",
    "Profile",
    "RangeWeight",
    "ReadNoise",
    "Saturating",
    "StateCell",
    "StateConstant",
    "StateNoise",
    "StatePoints",
    "StatePolynomial",
    "Stored",
    "StuckAt",
    "StuckMap",
    "UniformCell",
    "WeightError",
    "WeightVariation",
    "WriteVerify",
    "Writes",
    "confusion",
    "fit_conductances",
    "fit_confusions",
    "join",
    "lognormal",
    "read_bake",
    "read_confusions",
    "read_errors",
    "read_relaxation",
    "shipped",
]
