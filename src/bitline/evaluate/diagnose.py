"""Why accuracy fell: which layer, which imperfection, and what each layer's conversions look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bitline.evaluate.ledger import UNKEPT, Ledger
from bitline.evaluate.montecarlo import Batch, answers, blocks, testing_chip
from bitline.evaluate.result import Cause, LayerReport, Sensitivity
from bitline.macro import Probe, causes, ideal
from bitline.nn import OnSilicon, kept, layers, on_chip, parts, silicon, use
from bitline.nn.cim import CimLayer

ROUNDING = 1e-12  # error over signal of float32 arithmetic: what is below is no error of the macro

Source = Callable[[], Iterable[Batch]]


class _Watch(Probe):
    """Histogram of codes, clipped and wrong conversions."""

    wants_codes = True

    def __init__(self, codes: int) -> None:
        self.histogram = torch.zeros(codes, dtype=torch.int64)
        self.clipped = self.wrong = 0

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        self.histogram += torch.bincount(code.flatten().long().cpu(), minlength=len(self.histogram))
        self.clipped += int(clipped.sum())
        self.wrong += int((code != ideal).sum())


class _Power:
    """Power of a layer's ideal product, and of its error."""

    def __init__(self) -> None:
        self.signal = self.error = 0.0

    def add(self, ideal: Tensor, real: Tensor) -> None:
        self.signal += float(ideal.double().square().sum())
        self.error += float((real.double() - ideal.double()).square().sum())

    @property
    def db(self) -> float | None:
        if self.error <= self.signal * ROUNDING:
            return None
        return round(10 * math.log10(self.signal / self.error), 3)


@torch.no_grad()
def layer_reports(
    model: nn.Module, source: Source, method: str, chips: int = 2, images: int = 128, seed: int = 0
) -> tuple[LayerReport, ...]:
    """What each layer met, over a few chips and images of the test set. The model stays as it is."""
    found = layers(model)
    watches = {name: _Watch(layer.codes) if layer.codes else None for name, layer in found.items()}
    powers = {name: _Power() for name in found}
    shared, device = silicon(model), next(model.parameters()).device
    hooks = [layer.register_forward_hook(_comparing(powers[name])) for name, layer in found.items()]
    try:
        with kept(model):
            model.eval()
            shared.seed = seed
            for name, watch in watches.items():
                found[name].probe = watch
            for number in range(chips):
                on_chip(model, testing_chip(seed, number))
                for x, index in _first(source(), images):
                    shared.begin(index.to(device), 0)
                    model(x.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        for layer in found.values():
            layer.probe = None
    return tuple(_report(name, found[name], watches[name], powers[name], method) for name in found)


def _first(batches: Iterable[Batch], images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, index) of so many images, in blocks."""
    for x, _, index, real in blocks(batches):
        count = min(real, images)
        yield x[:count], index[:count]
        images -= count
        if not images:
            return


def _comparing(power: _Power) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that compares a layer's output with the exact product of the same codes."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, CimLayer)
        exact = layer.exact(inputs[0])
        bias = 0 if layer.bias is None else layer.geometry.broadcast(layer.bias)
        if output.dim() == 1:
            output, exact = output[None], exact[None]
        power.add(exact - bias, output - bias)

    return hook


def _report(name: str, layer: CimLayer, watch: _Watch | None, power: _Power, method: str) -> LayerReport:
    total = int(watch.histogram.sum()) if watch else 0
    return LayerReport(
        method=method,
        macro=layer.macro.name,
        layer=name,
        snr_db=power.db,
        error_rate=round(watch.wrong / total, 6) if watch and total else 0.0,
        clipped=round(watch.clipped / total, 6) if watch and total else 0.0,
        codes=tuple(watch.histogram.tolist()) if watch else (),
    )


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[str, OnSilicon]]:
    """What of the model is on silicon, put back on its designs afterwards."""
    found = parts(model)
    try:
        yield found
    finally:
        use(model)


def _mean(model: nn.Module, name: str, source: Source, chips: int, seed: int, ledger: Ledger) -> float:
    return float(ledger.over_chips(model, name, source, chips, seed).double().mean()) * 100


def sensitivity(
    model: nn.Module, source: Source, method: str, chips: int = 3, seed: int = 0, ledger: Ledger = UNKEPT
) -> tuple[Sensitivity, ...]:
    """Accuracy with one layer, or analog norm, alone on real chips and all else ideal, one after the other."""
    rows = []
    with _kept(model) as found:
        use(model, ideal)
        base = float(answers(model, source()).double().mean()) * 100
        for name, layer in found.items():
            layer.use(layer.design)
            mean = _mean(model, f"{method}: {name} alone", source, chips, seed, ledger)
            layer.use(ideal(layer.design))
            rows.append(Sensitivity(method=method, layer=name, mean=round(mean, 4), loss=round(base - mean, 4)))
    return tuple(rows)


def explanation(
    model: nn.Module, source: Source, method: str, chips: int = 3, seed: int = 0, ledger: Ledger = UNKEPT
) -> tuple[Cause, ...]:
    """Accuracy with one imperfection at a time made ideal in every layer, all others kept."""
    rows = []
    with _kept(model) as found:
        base = _mean(model, f"{method}: all causes", source, chips, seed, ledger)
        for cause in dict.fromkeys(cause for layer in found.values() for cause in causes(layer.design)):
            use(model, cause=cause)
            mean = _mean(model, f"{method}: without {cause}", source, chips, seed, ledger)
            rows.append(Cause(method=method, cause=cause, mean=round(mean, 4), gain=round(mean - base, 4)))
    return tuple(rows)
