"""Where a network on its macro is sensitive: the curvature of each layer against the errors its weights have there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.evaluate.curvature import gauss_newton, hessian_traces, spend_bits
from bitline.evaluate.montecarlo import testing_chip
from bitline.files import Saved
from bitline.nn import CimLayer, choose_writes, converted_layers, kept, layers, on_chip


class LayerCurvature(Frozen):
    """The loss around one layer's weights, and what they deserve."""

    layer: str
    weights: int = Field(description="number of weights")
    trace: float = Field(description="trace of the layer's block of the Hessian of the mean loss (Hutchinson)")
    trace_error: float = Field(description="standard error of the trace over probes")
    gauss_newton: float = Field(description="trace of its Gauss-Newton block")
    error: float | None = Field(
        description="rms error of a weight on the macro over its rms; null: no error of weights"
    )
    rise: float | None = Field(description="rise of the loss to expect of these errors, ½ Σ curvature · error²")
    verify: float = Field(description="share of the layer's weights among those to verify as they are written")
    bits: int = Field(description="bits of its weights, where all layers share a budget")


class Priorities(Saved):
    """Layers by what their weights cost the loss, in the order of the network."""

    FILE: ClassVar[str] = "curvature.json"

    macro: str
    samples: int = Field(description="of the data, that curvature was measured on")
    probes: int = Field(description="random directions of each trace")
    share: float = Field(description="of all weights, to be verified")
    mean_bits: float = Field(description="bits a weight on average, to be spent")
    layers: tuple[LayerCurvature, ...]


@torch.no_grad()
def error_powers(model: nn.Module, chips: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Mean square error of each weight on its macro, by layer in the shape of its weight; absent where none errs.

    From the law of a weight variation; for cells the mean of all weights of one code, over ``chips`` dies.
    """
    found: dict[str, Tensor] = {}
    with kept(model):
        for name, layer in layers(model).items():
            if layer.macro.variation is not None:
                column, scale = layer.program()
                beside = None
                if layer.offsets is not None and layer.bias is not None:
                    offsets = layer.bias / scale
                    beside = offsets / layer.offsets.factor(column.wanted, offsets)
                power = layer.macro.variation.power(column.wanted, beside)
            elif (cell := layer.macro.cell) is not None and (cell.errors or cell.seconds is not None):
                power, scale = _by_code(model, layer, chips, seed)
            else:
                continue
            per_output = scale.square().view(-1, 1) if scale.dim() else scale.square()
            found[name] = layer.geometry.native((power * per_output).to(layer.weight.dtype))
    return found


def _by_code(model: nn.Module, layer: CimLayer, chips: int, seed: int) -> tuple[Tensor, Tensor]:
    """(mean square error of the code each weight has, counts², (G·N, K); scale of a count)."""
    squares: list[Tensor] = []
    for number in range(chips):
        on_chip(model, testing_chip(seed, number))
        column, scale = layer.program()
        squares.append((column.weight - column.wanted).double().square())
    codes, place = column.wanted.round().unique(return_inverse=True)
    total = torch.zeros(len(codes), dtype=torch.float64, device=place.device)
    total.index_add_(0, place.flatten(), torch.stack(squares).mean(0).flatten())
    return (total / place.flatten().bincount(minlength=len(codes)))[place], scale


def relative(power: Tensor | None, weight: Tensor) -> float | None:
    """RMS error of a layer's weights over their rms, from their mean square errors; None where none errs."""
    return None if power is None else float((power.mean() / weight.square().mean()).sqrt())


def worth_verifying(model: nn.Module, batches: Iterable[Any], probes: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """How much it is worth to verify each weight as it is written, by layer in the shape of its weight: curvature times
    mean square error (SWIM, Yan et al., DAC 2022), curvature alone where nothing errs. Raises as ``gauss_newton``."""
    return _ranked(gauss_newton(model, batches, probes=probes, seed=seed), error_powers(model, seed=seed))


def _ranked(curved: dict[str, Tensor], powers: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: curved[name] * powers[name] for name in curved if name in powers} or curved


def priorities(
    model: nn.Module,
    data: Iterable[Any],
    *,
    batches: int = 8,
    probes: int = 8,
    share: float = 0.1,
    mean_bits: float = 4.0,
    seed: int = 0,
) -> Priorities:
    """Curvature, error on the macro, and what follows of both for each layer of a converted network.

    From the first ``batches`` of ``data``, (x, y) a batch, classes as targets. ``share`` of all weights is chosen to be
    verified by curvature times mean square error (SWIM, Yan et al., arXiv 2202.08395), by curvature alone where nothing
    errs; ``mean_bits`` a weight are spent on layers. Raises ValueError for a model that was not converted, and as
    ``hessian_traces`` does.
    """
    found = converted_layers(model)
    some = list(islice(data, batches))
    traces = hessian_traces(model, some, probes=probes, seed=seed)
    curved = {
        name: value for name, value in gauss_newton(model, some, probes=probes, seed=seed).items() if name in found
    }
    powers = error_powers(model, seed=seed)
    weights = {name: found[name].weight.detach() for name in curved}
    chosen = choose_writes(_ranked(curved, powers), share)
    bits = spend_bits(curved, weights, mean_bits)
    rows = []
    for name, w in weights.items():
        power = powers.get(name)
        rows.append(
            LayerCurvature(
                layer=name,
                weights=w.numel(),
                trace=traces[name].value,
                trace_error=traces[name].error,
                gauss_newton=float(curved[name].sum()),
                error=relative(power, w),
                rise=None if power is None else float((curved[name] * power).sum()) / 2,
                verify=float(chosen[name].double().mean()) if name in chosen else 0.0,
                bits=bits[name],
            )
        )
    return Priorities(
        macro=", ".join(dict.fromkeys(layer.design.name for layer in found.values())),
        samples=sum(len(batch[0]) for batch in some),
        probes=probes,
        share=share,
        mean_bits=mean_bits,
        layers=tuple(rows),
    )
