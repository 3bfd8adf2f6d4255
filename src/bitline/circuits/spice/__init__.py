"""Column circuits in ngspice: netlists with placeholders, a runner that resumes, and samples."""

from bitline.circuits.spice.card import Card
from bitline.circuits.spice.characterize import SimulationError, Volts, characterize, few, measured, scale
from bitline.circuits.spice.circuit import Circuit, Measure, Relative, Scale, Transistor, names, standard
from bitline.circuits.spice.noise import Channel, Plain, Reset
from bitline.circuits.spice.runner import Outcome, Simulator

__all__ = [
    "Card",
    "Channel",
    "Circuit",
    "Measure",
    "Outcome",
    "Plain",
    "Relative",
    "Reset",
    "Scale",
    "SimulationError",
    "Simulator",
    "Transistor",
    "Volts",
    "characterize",
    "few",
    "measured",
    "names",
    "scale",
    "standard",
]
