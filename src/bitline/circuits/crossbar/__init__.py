"""Resistive arrays with the resistance of their wires: exact, differentiable, and as SPICE netlists.

An array whose rows are driven by sources of fixed resistance, whose cells are ohmic and whose columns are sensed at
virtual ground is linear: ``solve`` gives its one matrix. Gated rows and cells that are not ohmic are not;
``operating_point`` solves them input by input, and ``array_samples`` makes the table that a column is fitted to.
"""

from bitline.circuits.crossbar.laws import Gated, Law, Ohmic, Sinh
from bitline.circuits.crossbar.netlist import netlist
from bitline.circuits.crossbar.newton import NotConverged, Point, operating_point
from bitline.circuits.crossbar.reads import GatedArray, NonlinearArray, SinhArray, array_samples
from bitline.circuits.crossbar.solve import Linearised, solve
from bitline.circuits.crossbar.wires import Wires

__all__ = [
    "Gated",
    "GatedArray",
    "Law",
    "Linearised",
    "NonlinearArray",
    "NotConverged",
    "Ohmic",
    "Point",
    "Sinh",
    "SinhArray",
    "Wires",
    "array_samples",
    "netlist",
    "operating_point",
    "solve",
]
