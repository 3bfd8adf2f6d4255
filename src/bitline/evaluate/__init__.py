"""Evaluation: Monte Carlo over chips, and why accuracy fell."""

from bitline.evaluate.batchnorm import norms, recalibrate, recalibrated
from bitline.evaluate.diagnose import explanation, layer_reports, sensitivity
from bitline.evaluate.montecarlo import Trial, answers, over_chips, testing_chip
from bitline.evaluate.result import Cause, Difference, LayerReport, Result, Row, Sensitivity, write_atomic
from bitline.evaluate.simple import evaluate
from bitline.evaluate.statistics import difference, interval, row

__all__ = [
    "Cause",
    "Difference",
    "LayerReport",
    "Result",
    "Row",
    "Sensitivity",
    "Trial",
    "answers",
    "difference",
    "evaluate",
    "explanation",
    "interval",
    "layer_reports",
    "norms",
    "over_chips",
    "recalibrate",
    "recalibrated",
    "row",
    "sensitivity",
    "testing_chip",
    "write_atomic",
]
