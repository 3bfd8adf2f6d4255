"""Evaluation: Monte Carlo over chips, and why accuracy fell."""

import sys
from types import ModuleType
from typing import Any

from bitline.evaluate.batchnorm import norms, recalibrate, recalibrated
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
    "LayerReport",
    "Result",
    "Row",
    "Seen",
    "Sensitivity",
    "Trial",
    "Verification",
    "accuracy_curve",
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


class _Callable(ModuleType):
    """``bl.evaluate`` is this package and the verb: importing a package binds its name in ``bitline``."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.evaluate(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
