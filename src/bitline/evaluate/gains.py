"""How errors of weights grow on their way to the outputs: by layer, from end to end, and from each layer onward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from bitline.evaluate.budget import error_powers, relative
from bitline.evaluate.ledger import UNKEPT, Ledger
from bitline.evaluate.montecarlo import Batch, testing_chip
from bitline.evaluate.result import LayerGain
from bitline.macro import Macro, ideal
from bitline.methods import Suppression
from bitline.methods.suppression import effective, gram
from bitline.nn import kept, layers, norms_behind, on_chip, parts, silicon, use


@torch.no_grad()
def layer_gains(
    model: nn.Module, suppress: Suppression | None = None, chips: int = 3, seed: int = 0
) -> tuple[LayerGain, ...]:
    """The spectral norm of each layer on the macro, beside the λ that ``suppress`` wants. ``on_chips`` counts the norm
    behind it where there is one. The model stays as it is."""
    found, norms = layers(model), norms_behind(model)
    chosen = {} if suppress is None else suppress.weights(model)
    wanted = {name: suppress.scale(layer) for name, (layer, _) in chosen.items()} if suppress else {}
    powers = error_powers(model, chips, seed)
    erring = [n for n, layer in found.items() if layer.macro.variation is not None and layer.macro.variation.varies]
    met = dict.fromkeys(erring, 0.0)
    with kept(model):
        for number in range(chips):
            on_chip(model, testing_chip(seed, number))
            for name in erring:
                weight = effective(found[name], norms.get(name), found[name].held()[0])
                met[name] += _norm(weight) / chips
    return tuple(
        LayerGain(
            layer=name,
            shape=(layer.matrix_shape[1], layer.matrix_shape[0]),
            norm=_norm(effective(layer)),
            after_norm=_norm(effective(layer, norms[name])) if name in norms else None,
            wanted=wanted.get(name),
            on_chips=met.get(name),
            error=relative(powers.get(name), layer.weight),
        )
        for name, layer in found.items()
    )


def _norm(weight: Tensor) -> float:
    return float(torch.linalg.eigvalsh(gram(weight.double())).max().sqrt())


@torch.no_grad()
def error_gain(
    model: nn.Module,
    batches: Iterable[Batch],
    chips: int = 20,
    seed: int = 0,
    variant: Callable[[Macro], Macro] | None = None,
) -> Tensor:
    """‖f(x; w~) − f(x; w)‖ / ‖f(x; w)‖ of the outputs over all samples, on each chip, (chips,) float64.

    w are the weights on the ideal macro, w~ those on the design or a ``variant`` of it, with digits and norms in both.
    The model computes in eval mode, and with its design afterwards.
    """
    shared, device = silicon(model), next(model.parameters()).device
    clean = torch.zeros((), dtype=torch.float64)
    away = torch.zeros(chips, dtype=torch.float64)
    with kept(model):
        model.eval()
        shared.seed = seed
        for x, _, index in batches:
            shared.begin(index.to(device))
            use(model, ideal)
            wanted = model(x.to(device)).double().cpu()
            use(model, variant)
            clean += wanted.square().sum()
            for number in range(chips):
                on_chip(model, testing_chip(seed, number))
                away[number] += (model(x.to(device)).double().cpu() - wanted).square().sum()
        use(model)
    if not clean:
        raise ValueError("the network's outputs on the ideal macro are all zero, or there are no data")
    return (away / clean).sqrt()


def injected_from(
    model: nn.Module,
    source: Callable[[], Iterable[Batch]],
    chips: int,
    seed: int = 0,
    ledger: Ledger = UNKEPT,
) -> dict[str, Tensor]:
    """Answers (chips, images) with errors only from a layer onward, by that layer's name, in the order of the network.

    All before it compute with the ideal macro: where early layers cost most, the accuracy rises with the layer. The
    model computes with its design afterwards.
    """
    everything, found = parts(model), {}
    order = list(everything)
    try:
        for first in layers(model):
            for name, part in everything.items():
                part.use(part.design if order.index(name) >= order.index(first) else ideal(part.design))
            found[first] = ledger.over_chips(model, f"errors from {first}", source, chips, seed)
    finally:
        use(model)
    return found
