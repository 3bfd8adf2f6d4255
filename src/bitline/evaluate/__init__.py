"""Evaluation: Monte Carlo over chips, and why accuracy fell."""

import sys
from types import ModuleType
from typing import Any

from bitline.evaluate.batchnorm import norms, recalibrate, recalibrated
from bitline.evaluate.budget import LayerCurvature, Priorities, error_powers, priorities
from bitline.evaluate.curvature import Trace, gauss_newton, hessian_traces, spend_bits, write_verify
from bitline.evaluate.diagnose import explanation, layer_reports, sensitivity
from bitline.evaluate.enough import AccuracyCurve, accuracy_curve
from bitline.evaluate.montecarlo import Trial, answers, over_chips, testing_chip
from bitline.evaluate.result import (
    Band,
    Cause,
    Difference,
    LayerReport,
    Result,
    Row,
    Seen,
    Sensitivity,
    Verification,
    write_atomic,
)
from bitline.evaluate.simple import evaluate
from bitline.evaluate.statistics import difference, interval, row

__all__ = [
    "AccuracyCurve",
    "Band",
    "Cause",
    "Difference",
    "LayerCurvature",
    "LayerReport",
    "Priorities",
    "Result",
    "Row",
    "Seen",
    "Sensitivity",
    "Trace",
    "Trial",
    "Verification",
    "accuracy_curve",
    "answers",
    "difference",
    "error_powers",
    "evaluate",
    "explanation",
    "gauss_newton",
    "hessian_traces",
    "interval",
    "layer_reports",
    "norms",
    "over_chips",
    "priorities",
    "recalibrate",
    "recalibrated",
    "row",
    "sensitivity",
    "spend_bits",
    "testing_chip",
    "write_atomic",
    "write_verify",
]


class _Callable(ModuleType):
    """``bl.evaluate`` is this package and the verb: importing a package binds its name in ``bitline``."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.evaluate(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
