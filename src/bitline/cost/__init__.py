"""Cost: energy, latency and area of a network on its macros, from counted conversions."""

from bitline.cost.activity import Activity, measure_activity
from bitline.cost.adc import AdcEnergy, AnyAdcEnergy, Murmann, Sar, Schreier, Walden, brief
from bitline.cost.counts import LayerCounts, accumulator_bits, count
from bitline.cost.estimate import DEFAULT, Cost, Energy, Estimate, cost, price
from bitline.cost.saving import Saving, adc_saving
from bitline.cost.sides import SideCost, side_costs
from bitline.cost.technology import (
    AnyArrayEnergy,
    Areas,
    Buffer,
    Digital,
    Driver,
    OhmicCell,
    SwitchedCell,
    Technology,
    Write,
)
from bitline.verbs import verb

__all__ = [
    "DEFAULT",
    "Activity",
    "AdcEnergy",
    "AnyAdcEnergy",
    "AnyArrayEnergy",
    "Areas",
    "Buffer",
    "Cost",
    "Digital",
    "Driver",
    "Energy",
    "Estimate",
    "LayerCounts",
    "Murmann",
    "OhmicCell",
    "Sar",
    "Saving",
    "Schreier",
    "SideCost",
    "SwitchedCell",
    "Technology",
    "Walden",
    "Write",
    "accumulator_bits",
    "adc_saving",
    "brief",
    "cost",
    "count",
    "measure_activity",
    "price",
    "side_costs",
]

verb(__name__)
