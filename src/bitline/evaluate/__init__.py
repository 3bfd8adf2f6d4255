"""Evaluation: Monte Carlo over chips, and why accuracy fell."""

from bitline.evaluate.batchnorm import Recalibration, recalibrate, recalibrated
from bitline.evaluate.budget import LayerCurvature, Priorities, error_powers, priorities, worth_verifying
from bitline.evaluate.curvature import Trace, gauss_newton, hessian_traces, spend_bits
from bitline.evaluate.diagnose import explanation, layer_reports, sensitivity
from bitline.evaluate.enough import AccuracyCurve, accuracy_curve
from bitline.evaluate.gains import error_gain, injected_from, layer_gains
from bitline.evaluate.ledger import Ledger, fingerprint
from bitline.evaluate.montecarlo import Trial, answers, over_chips, testing_chip, without_errors
from bitline.evaluate.points import Comparison, Few, changed, sweep
from bitline.evaluate.result import (
    Band,
    Cause,
    Difference,
    LayerGain,
    LayerReport,
    Result,
    Row,
    Seen,
    Sensitivity,
    Verification,
)
from bitline.evaluate.simple import evaluate
from bitline.evaluate.statistics import difference, interval, row
from bitline.evaluate.swept import Over, Point, Sweep
from bitline.evaluate.workers import Pool, Workers, opened
from bitline.verbs import verb

__all__ = [
    "AccuracyCurve",
    "Band",
    "Cause",
    "Comparison",
    "Difference",
    "Few",
    "LayerCurvature",
    "LayerGain",
    "LayerReport",
    "Ledger",
    "Over",
    "Point",
    "Pool",
    "Priorities",
    "Recalibration",
    "Result",
    "Row",
    "Seen",
    "Sensitivity",
    "Sweep",
    "Trace",
    "Trial",
    "Verification",
    "Workers",
    "accuracy_curve",
    "answers",
    "changed",
    "difference",
    "error_gain",
    "error_powers",
    "evaluate",
    "explanation",
    "fingerprint",
    "gauss_newton",
    "hessian_traces",
    "injected_from",
    "interval",
    "layer_gains",
    "layer_reports",
    "opened",
    "over_chips",
    "priorities",
    "recalibrate",
    "recalibrated",
    "row",
    "sensitivity",
    "spend_bits",
    "sweep",
    "testing_chip",
    "without_errors",
    "worth_verifying",
]

verb(__name__)
