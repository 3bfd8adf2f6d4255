"""Error suppression: layers that do not make errors larger, by a penalty on how far weights are from orthogonal."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.devices import LogNormalWeight, lognormal
from bitline.macro import Macro
from bitline.methods.parts import AnyLevels
from bitline.methods.protocol import Progress
from bitline.nn import CimLayer, all_match, layers, matches, norms_behind


def bound(sigma: float) -> float:
    """Mean and three standard deviations of exp(theta): how much larger errors make a weight at most, to S3."""
    mean, deviation = lognormal(sigma)
    return mean + 3 * deviation


@cache
def typical(sigma: float, ratio: float) -> float:
    """The largest singular value of W ∘ exp(theta) for a large orthogonal W, its sides in the ``ratio``, 0 < ratio ≤ 1.

    W ∘ exp(theta) is mean · W and beside it entries as good as independent, of variance deviation² / longer side: the
    edge of the spectrum of information plus noise (Dozier and Silverstein, 2007, for equal singular values). A typical
    figure, not a bound: at sigma = 0.5 most square matrices of 64 and more lie 0 … 8 % above it, a few still higher.
    """
    mean, deviation = lognormal(sigma)
    if not deviation:
        return mean
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]  # 1 + deviation² · ratio · (the Stieltjes transform)
    z = (mean**2 / u + deviation**2 * (1 - ratio) + deviation**2 * ratio / (1 - u)) / u
    return math.sqrt(float(z.min()))


def departure(weight: Tensor, scale: float) -> Tensor:
    """Σ ‖W Wᵀ − scale² I‖² over matrices W (G, N, K), by the smaller of its two Gram matrices.

    ‖WᵀW − c I‖² = ‖W Wᵀ − c I‖² + (K − N) c²: the same gradient, and the value is that of the smaller one.
    """
    found = gram(weight)
    return (found - scale**2 * torch.eye(found.shape[-1], dtype=found.dtype, device=found.device)).square().sum()


def gram(weight: Tensor) -> Tensor:
    """The smaller Gram matrix of each matrix (…, N, K)."""
    tall = weight.shape[-2] > weight.shape[-1]
    return weight.mT @ weight if tall else weight @ weight.mT


class Suppression(Frozen):
    """``beta`` · Σ_l ‖W_lᵀ W_l − λ² I‖² on top of the loss: S3's error suppression (CorrectNet, DATE 2023; after public
    re-implementations). W of a convolution is (out, in · kh · kw), of each group its own.

    λ = ``k`` / (m + 3 s) with m and s mean and standard deviation of exp(theta): then no layer makes what comes in
    larger than ``k`` times, whatever the errors, as far as three standard deviations are all. That is cautious:
    ``case: typical`` divides ``k`` by the largest singular value of an orthogonal W with its errors, for its shape.
    ``sigma`` is the macro's log-normal one; layers on macros without are left alone. With λ below 1 activations shrink
    layer by layer; the last layer, whose outputs are compared with one another alone, may be ``exempt``.

    A batch norm divides the size of the weights before it out and puts its own in place: the penalty on W alone would
    shrink W for nothing. ``norms: counted`` takes γ / √(var + ε) · W of a layer that a norm follows, var moving with
    the size of each row of W: what is suppressed is γ, and how rows lie. ``norms: ignored`` is the published form.

    The norm of W is that of the matrix: of a convolution's map it can be √(kh · kw) larger.
    """

    beta: float = Field(default=1e-3, gt=0, description="weight of the penalty; 0.01, 0.03 in re-implementations")
    k: float = Field(default=1.0, gt=0, description="Lipschitz constant of each layer with its errors")
    case: Literal["bound", "typical"] = "bound"
    sigma: float | None = Field(default=None, ge=0, le=2, description="of ln(w); absent: the macro's")
    schedule: AnyLevels | None = Field(default=None, description="factor on beta by step; absent: 1")
    exempt: tuple[str, ...] = Field(default=(), description="dotted-name patterns of layers left alone")
    norms: Literal["counted", "ignored"] = "counted"

    @property
    def title(self) -> str:
        """In a few words: what differs from the default."""
        own = [f"beta {self.beta:g}"]
        own += [f"k {self.k:g}"] if self.k != 1 else []
        own += [self.case] if self.case != "bound" else []
        own += [f"sigma {self.sigma:g}"] if self.sigma is not None else []
        own += [self.schedule.title.replace("noise", "beta")] if self.schedule is not None else []
        own += ["norms ignored"] if self.norms == "ignored" else []
        own += [f"except {', '.join(self.exempt)}"] if self.exempt else []
        return f"suppressed, {', '.join(own)}"

    def refuses(self, macro: Macro) -> str | None:
        """Why λ is not known on this macro; None if it is."""
        if self.sigma is None and not isinstance(macro.variation, LogNormalWeight):
            found = "no variation" if macro.variation is None else f"one of kind {macro.variation.kind}"
            return f"suppress takes sigma from a log-normal `variation`, and the macro has {found}: give suppress.sigma"
        return None

    def scale(self, layer: CimLayer) -> float:
        """λ of a layer."""
        error = layer.design.variation
        sigma = error.sigma if self.sigma is None and error is not None else self.sigma
        assert sigma is not None
        rows, columns, _ = layer.matrix_shape
        larger = bound(sigma) if self.case == "bound" else typical(sigma, min(rows, columns) / max(rows, columns))
        return self.k / larger

    def weights(self, model: nn.Module) -> dict[str, tuple[CimLayer, Tensor]]:
        """Layers that are not exempt and whose λ is known, with their matrices (G, N, K), norms counted or not; raises
        ValueError for a pattern that matches none."""
        found = layers(model)
        all_match(self.exempt, found, "suppress.exempt: ")
        norms = norms_behind(model) if self.norms == "counted" else {}
        known = {name: layer for name, layer in found.items() if self.refuses(layer.design) is None}
        chosen = {name: layer for name, layer in known.items() if not matches(name, self.exempt)}
        return {name: (layer, effective(layer, norms.get(name))) for name, layer in chosen.items()}

    def penalty(self, model: nn.Module, progress: Progress, seed: int) -> Tensor:
        """What is added to the loss at a step; in the weights' own precision under autocast too."""
        factor = 1.0 if self.schedule is None else self.schedule.at(progress, seed)
        found = self.weights(model)
        device = next(model.parameters()).device.type
        with torch.autocast(device, enabled=False):
            parts = [departure(weight, self.scale(layer)) for layer, weight in found.values()]
            return self.beta * factor * torch.stack(parts).sum()


def effective(layer: CimLayer, norm: nn.Module | None = None, weight: Tensor | None = None) -> Tensor:
    """The matrices of a layer, (G, N, K), with what a norm behind it makes of them; its clean weights, or others.

    The norm's variance is the running one; in the gradient it grows with the square of each row, as the variance of the
    batch does, so that a row's own size does not matter.
    """
    rows, columns, groups = layer.matrix_shape
    weight = (layer.weight if weight is None else weight).reshape(groups * columns, rows)
    if norm is not None:
        variance, gamma = norm._buffers["running_var"], norm._parameters["weight"]
        assert variance is not None
        size = weight.square().sum(1)
        grown = size / size.detach().clamp(min=1e-30)
        factor = (variance * grown + norm.eps).rsqrt()  # type: ignore[operator]
        weight = weight * (factor if gamma is None else factor * gamma)[:, None]
    return weight.view(groups, columns, rows)
