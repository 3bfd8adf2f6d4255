"""The macro: exact digital bookkeeping around one inexact read."""

from bitline.macro.adaptive import Adapted, Goodness, Tolerance, adapt, judge
from bitline.macro.behaviour import Behaviour, Mismatch, Shape, curve_alone, fit_behaviour, fit_mismatch
from bitline.macro.characterised import (
    Characterised,
    behaviour_of,
    model_circuit,
    sample_circuit,
    shipped,
    spread_pool,
    values_of,
    with_dice,
)
from bitline.macro.chip import Chip, Reads
from bitline.macro.column import Column
from bitline.macro.components import Components, components
from bitline.macro.describe import describe
from bitline.macro.errors import Rates, error_model, error_rates
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
    "Adapted",
    "AnyGradient",
    "Behaviour",
    "Characterised",
    "Chip",
    "Column",
    "Components",
    "Conv",
    "Converters",
    "Dense",
    "Goodness",
    "Layout",
    "Macro",
    "Mismatch",
    "Plan",
    "Probe",
    "Quantised",
    "Rates",
    "Reads",
    "Shape",
    "Site",
    "Slope",
    "Ste",
    "SteIdeal",
    "Tolerance",
    "adapt",
    "age",
    "behaviour_of",
    "causes",
    "choose",
    "components",
    "converters_without",
    "curve_alone",
    "describe",
    "error_model",
    "error_rates",
    "falls",
    "fit_behaviour",
    "fit_curve",
    "fit_mismatch",
    "fit_table",
    "ideal",
    "judge",
    "mac",
    "model_circuit",
    "nominal",
    "program",
    "runs_fused",
    "sample_circuit",
    "scaled",
    "shipped",
    "simulate",
    "slow",
    "spread_pool",
    "values_of",
    "with_dice",
    "without",
]
