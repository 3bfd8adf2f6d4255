"""The macro: exact digital bookkeeping around one inexact read."""

from bitline.macro.adaptive import Adapted, Goodness, Tolerance, adapt, judge
from bitline.macro.ageing import age
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
from bitline.macro.compensation import Compensation
from bitline.macro.components import Components, components
from bitline.macro.describe import describe
from bitline.macro.dmacem import Coverage, Split, coverage, fit_gaussian, split_table
from bitline.macro.enough import Learning, distance, learning_curve, reads_for
from bitline.macro.errors import Rates, error_model, error_rates
from bitline.macro.fit import CurveErrors, curve_errors, fit_curve
from bitline.macro.fresh import Fresh, fit_fresh
from bitline.macro.fused import Quantised, slow
from bitline.macro.geometry import Conv, Dense
from bitline.macro.gradients import AnyGradient, Sampled, Slope, SlopeExact, Ste, SteIdeal
from bitline.macro.ideals import causes, converters_without, ideal, nominal, without
from bitline.macro.inner import fit_inner
from bitline.macro.legs import Expected, expected_errors
from bitline.macro.macro import Macro
from bitline.macro.measured import Fitted, fit_macro
from bitline.macro.placement import Layout, Site
from bitline.macro.plans import Plan, choose, mac, runs_fused, scaled
from bitline.macro.program import program
from bitline.macro.read import Converters, Probe
from bitline.macro.readout import Readout
from bitline.macro.rereads import sample_reads, with_reads
from bitline.macro.simulate import simulate
from bitline.macro.tables import falls, fit_table
from bitline.macro.writing import Pulses, pulses

__all__ = [
    "Adapted",
    "AnyGradient",
    "Behaviour",
    "Characterised",
    "Chip",
    "Column",
    "Compensation",
    "Components",
    "Conv",
    "Converters",
    "Coverage",
    "CurveErrors",
    "Dense",
    "Expected",
    "Fitted",
    "Fresh",
    "Goodness",
    "Layout",
    "Learning",
    "Macro",
    "Mismatch",
    "Plan",
    "Probe",
    "Pulses",
    "Quantised",
    "Rates",
    "Readout",
    "Reads",
    "Sampled",
    "Shape",
    "Site",
    "Slope",
    "SlopeExact",
    "Split",
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
    "coverage",
    "curve_alone",
    "curve_errors",
    "describe",
    "distance",
    "error_model",
    "error_rates",
    "expected_errors",
    "falls",
    "fit_behaviour",
    "fit_curve",
    "fit_fresh",
    "fit_gaussian",
    "fit_inner",
    "fit_macro",
    "fit_mismatch",
    "fit_table",
    "ideal",
    "judge",
    "learning_curve",
    "mac",
    "model_circuit",
    "nominal",
    "program",
    "pulses",
    "reads_for",
    "runs_fused",
    "sample_circuit",
    "sample_reads",
    "scaled",
    "shipped",
    "simulate",
    "slow",
    "split_table",
    "spread_pool",
    "values_of",
    "with_dice",
    "with_reads",
    "without",
]
