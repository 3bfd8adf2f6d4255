"""Bitline: a neural network and a compute-in-memory macro in, a network that works on it out, with the evidence.

import bitline as bl

macro = bl.Macro.load("macro.yaml")            # or bl.presets.load("generic-8t-sram")
model = bl.convert(net, macro, skip=["conv1", "fc"])
bl.calibrate(model, loader)
bl.train(model, loader, config=bl.TrainConfig(epochs=10), method=bl.methods.ErrorAware())
result = bl.evaluate(model, test, chips=50)
bl.write_html(result, "report.html")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FROM = {
    "macro": (
        *("Chip", "Macro", "Ste", "SteIdeal", "age", "choose", "components", "describe", "fit_curve", "fit_table"),
        *("Sampled", "Slope", "coverage", "fit_gaussian", "fit_macro", "learning_curve", "split_table"),
        *("behaviour_of", "error_model", "ideal", "mac", "model_circuit", "nominal", "program", "shipped", "simulate"),
    ),
    "nn": ("calibrate", "choose_writes", "convert", "mapping", "on_chip", "restore", "verify_writes"),
    "samples": ("Samples",),
    "train": ("TrainConfig", "train"),
    "evaluate": (
        *("Workers", "accuracy_curve", "evaluate", "recalibrate", "sweep"),
        *("error_powers", "gauss_newton", "hessian_traces", "priorities", "spend_bits"),
        *("error_gain", "injected_from", "layer_gains"),
    ),
    "cost": ("Technology", "adc_saving", "cost", "measure_activity", "side_costs"),
    "place": ("place",),
    "report": ("write_html", "write_sweep"),
}
_WHERE = {name: module for module, names in _FROM.items() for name in names}
_MODULES = ("compensate", "data", "methods", "networks", "presets", "search", "units")

__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    """Parts are imported when they are first used: ``import bitline`` costs nothing."""
    if name in _WHERE:
        return getattr(import_module(f"bitline.{_WHERE[name]}"), name)
    if name in _MODULES:
        return import_module(f"bitline.{name}")
    raise AttributeError(f"module 'bitline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
