"""The macro: exact digital bookkeeping around one inexact read."""

from bitline.macro.chip import Chip, Reads
from bitline.macro.column import Column
from bitline.macro.components import Components, components
from bitline.macro.describe import describe
from bitline.macro.fit import falls, fit_curve, fit_table
from bitline.macro.fused import Quantised, slow
from bitline.macro.geometry import Conv, Dense
from bitline.macro.gradients import AnyGradient, Slope, Ste, SteIdeal
from bitline.macro.ideals import causes, converters_without, ideal, nominal, without
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout, Site
from bitline.macro.plans import Plan, choose, mac, runs_fused, scaled
from bitline.macro.program import age, program
from bitline.macro.read import Converters, Probe
from bitline.macro.simulate import simulate

__all__ = [
    "AnyGradient",
    "Chip",
    "Column",
    "Components",
    "Conv",
    "Converters",
    "Dense",
    "Layout",
    "Macro",
    "Plan",
    "Probe",
    "Quantised",
    "Reads",
    "Site",
    "Slope",
    "Ste",
    "SteIdeal",
    "age",
    "causes",
    "choose",
    "components",
    "converters_without",
    "describe",
    "falls",
    "fit_curve",
    "fit_table",
    "ideal",
    "mac",
    "nominal",
    "program",
    "runs_fused",
    "scaled",
    "simulate",
    "slow",
    "without",
]
