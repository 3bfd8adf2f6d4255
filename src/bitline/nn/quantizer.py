"""Quantizer modules: a scale, learned or calibrated, and the codes of what passes through."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.nn.grid import SMALLEST_SCALE, Codes, Grid, Role, Statistics, ste

LARGEST_STEP = 0.1  # relative change of a learned scale or bound in one optimiser step


class QuantizerConfig(Frozen):
    """What every kind has in common; the kinds are in ``quantizers``."""

    per_channel: bool = Field(False, description="one scale per output (weights only)")
    asymmetric: bool = Field(False, description="learn or calibrate a zero point for data of both signs (inputs only)")

    def check(self, grid: Grid, role: Role, channels: int | None) -> int | None:
        """The number of scales a module holds, None for one."""
        name = type(self).__name__
        if self.per_channel and role == "inputs":
            raise ValueError(f"{name}(per_channel=True) for inputs: rows of a column share one scale; drop per_channel")
        if self.asymmetric and role == "weights":
            raise ValueError(f"{name}(asymmetric=True) for weights: weights have zero point 0; choose a signed scheme")
        if self.asymmetric and grid.step != 1:
            raise ValueError(f"{name}(asymmetric=True) on a bipolar grid, which has no zero; choose step 1")
        if self.per_channel and channels is None:
            raise ValueError(f"{name}(per_channel=True): build(..., channels=N) is needed")
        return channels if self.per_channel else None

    @abstractmethod
    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Starting scale and zero point, shape (C,), from what was observed."""


@dataclass(frozen=True)
class Affine:
    """A quantizer that rounds x / scale + zero: its scale and zero point, (), and how their gradients go."""

    scale: Tensor
    zero: Tensor
    rounded: bool = False  # the scale's gradient is that of the code, without the rounding error


class Quantizer(nn.Module, ABC):
    """The common part: calibration, and the guard that forward has a scale.

    ``calibrated`` is a plain bool, so that forward traces without reading a tensor; it is saved as the buffer
    ``ready`` and set again by ``load_state_dict``. ``name`` may hold the layer's dotted name for messages.
    """

    ready: Tensor

    def __init__(self, config: QuantizerConfig, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__()
        self.config = config
        self.grid = grid
        self.role = role
        self.channels = channels
        self.asymmetric = asymmetric
        self.name = ""
        self.calibrated = False
        self._seen: Statistics | None = None
        self._last: Tensor | None = None
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Add a batch to the statistics: inputs of any shape, or weights (N, …).

        Raises ValueError for an empty tensor and for NaN or infinite values.
        """
        if x.numel() == 0:
            raise ValueError(f"{self}: nothing to observe, the tensor of shape {tuple(x.shape)} is empty")
        if not bool(torch.isfinite(x.sum())) and (bad := int((~torch.isfinite(x)).sum())):
            raise ValueError(f"{self}: {bad} of {x.numel()} observed values are NaN or infinite")
        if self.channels is not None and x.shape[0] != self.channels:
            raise ValueError(f"{self}: weights of shape {tuple(x.shape)} for {self.channels} channels on axis 0")
        if self._seen is None:
            self._seen = Statistics(self.channels or 1, x.device)
        self._seen.update(x.detach().float().reshape(self.channels or 1, -1))

    @torch.no_grad()
    def freeze(self) -> None:
        """Set scale and zero point from what was observed, and forget it.

        Raises RuntimeError when nothing was observed, ValueError when negative data meets unsigned codes.
        """
        seen = self._seen
        if seen is None:
            raise RuntimeError(f"{self}: nothing observed; call observe(x) on a few batches before freeze()")
        scale, zero = self.config.fit(seen, self.grid, self.asymmetric)
        one_sided = self.grid.low == 0 and not self.asymmetric
        if one_sided and seen.share_negative > 1e-3 and bool((seen.low < -scale / 2).any()):
            raise ValueError(self._unsigned_message(seen))
        self.begin_at(scale, zero)

    @torch.no_grad()
    def begin_at(self, scale: Tensor, zero: Tensor) -> None:
        """Take over a range found elsewhere, scale and zero point of shape (C,); what was observed is forgotten."""
        self._start(scale, zero)
        self._seen = None
        value = self._positive()
        self._last = None if value is None else value.detach().clone()
        self.ready.fill_(True)
        self.calibrated = True

    def reset(self) -> None:
        """Not calibrated, as when it was made."""
        self._seen, self.calibrated = None, False
        self.ready.fill_(False)

    def _unsigned_message(self, seen: Statistics) -> str:
        what = f"{self}: {seen.share_negative:.1%} of the observed values are negative (down to {seen.low.min():.4g})"
        what += f", and the codes {self.grid.low}..{self.grid.high} are unsigned. "
        if self.role == "weights":
            return what + "Choose a signed weight scheme: two's complement, differential pair or offset"
        return what + (
            "Either set asymmetric=True on the quantizer (a zero point), choose a signed input scheme, "
            "or put a ReLU before the layer if clipping at zero is meant"
        )

    def _positive(self) -> nn.Parameter | None:
        """The learned parameter that must stay positive, if there is one."""
        return None

    @torch.no_grad()
    def constrain(self) -> None:
        """After an optimiser step: no learned scale moves by more than a tenth of itself, nor through zero.

        A noisy gradient would otherwise throw it below zero, where all codes saturate and no gradient leads back.
        """
        value = self._positive()
        if value is None:
            return
        if self._last is not None:
            value.copy_(torch.clamp(value, self._last * (1 - LARGEST_STEP), self._last * (1 + LARGEST_STEP)))
        self._last = value.detach().clone()

    @abstractmethod
    def _start(self, scale: Tensor, zero: Tensor) -> None:
        """Take over a calibrated scale and zero point, shape (C,)."""

    @abstractmethod
    def _codes(self, x: Tensor) -> Codes:
        """Codes, scale and zero point of x in fp32 or fp64."""

    def affine(self, x: Tensor) -> Affine | None:
        """What ``forward`` does to x, for a kernel that does it as it reads x; None where it is more than that."""
        return None

    def forward(self, x: Tensor) -> Codes:
        """Quantize x.

        Returns ``(q, scale, zero)``: integer codes of x's shape as floats, a positive scale that broadcasts against
        x (shape () or (N, 1, …)) and an integer zero point, shape (); ``x ≈ scale·(q − zero)``. Computed in fp32
        whatever the autocast (fp64 stays fp64).

        Raises RuntimeError before calibration.
        """
        if not self.calibrated:
            raise RuntimeError(
                f"{self} is not calibrated: call bitline.calibrate(model, loader), "
                "or observe(x) on a few batches and then freeze() on this quantizer"
            )
        return self._codes(x if x.dtype == torch.float64 else x.float())

    def _against(self, scale: Tensor, x: Tensor) -> Tensor:
        """A scale per channel, in the dtype of x, shaped to broadcast against it."""
        scale = scale.to(x.dtype)
        return scale if self.channels is None else scale.reshape(-1, *[1] * (x.dim() - 1))

    def _one(self, value: Tensor) -> Tensor:
        """A calibrated (C,) tensor in the shape it is held in: () for a scale per tensor."""
        return value if self.channels is not None else value.reshape(())

    def _parameter(self) -> nn.Parameter:
        return nn.Parameter(torch.ones(() if self.channels is None else (self.channels,)))

    def _zero_point(self, beta: Tensor, scale: Tensor) -> Tensor:
        """The integer code z of zero for a lower bound beta, ``low − beta/s`` rounded and kept on the grid.

        Its gradient is that of ((low − z)·s − beta)/s with z and the divisor held, so that s·(low − z), the value of
        the lowest code, has exactly the gradient of beta, and that of the highest exactly that of beta + n·s, wherever
        between two codes beta lies.
        """
        v = self.grid.low - beta / scale
        z = torch.floor(v + 0.5).clamp(self.grid.low, self.grid.high).detach()
        if not torch.is_grad_enabled():
            return z
        held = torch.clamp(v, self.grid.low, self.grid.high).detach() != v.detach()  # zero stays at an end
        return ste(z, torch.where(held, z, ((self.grid.low - z) * scale - beta) / scale.detach()))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.calibrated = bool(self.ready)
        value = self._positive()
        self._last = None if value is None else value.detach().clone()

    def extra_repr(self) -> str:
        stride = "" if self.grid.step == 1 else f" step {self.grid.step}"
        return f"{self.role} {self.grid.low}..{self.grid.high}{stride}"

    def __repr__(self) -> str:
        at = f" of {self.name}" if self.name else ""
        return f"{type(self.config).__name__}({self.extra_repr()}){at}"


class FixedQuantizer(Quantizer):
    """A scale set at calibration; the gradient of x is 1 inside the range and 0 where clipped."""

    scale: Tensor
    zero: Tensor

    def __init__(self, config: QuantizerConfig, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.register_buffer("scale", torch.ones(() if channels is None else (channels,)))
        self.register_buffer("zero", torch.zeros(()))

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.scale.copy_(self._one(scale))
        self.zero.copy_(zero[0])

    def affine(self, x: Tensor) -> Affine | None:
        return Affine(self.scale, self.zero) if self.channels is None else None

    def _codes(self, x: Tensor) -> Codes:
        scale, zero = self._against(self.scale, x), self.zero.to(x.dtype)
        v = (x / scale + zero).clamp(self.grid.low, self.grid.high)
        return ste(self.grid.nearest(v), v), scale, zero


class LsqQuantizer(Quantizer):
    """A learned scale and, where asymmetric, a learned lower bound ``beta`` (in units of x)."""

    def __init__(self, config: QuantizerConfig, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.scale = self._parameter()
        self.beta = nn.Parameter(torch.zeros(())) if asymmetric else None

    def _positive(self) -> nn.Parameter:
        return self.scale

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.scale.copy_(self._one(scale))
        if self.beta is not None:
            self.beta.copy_((scale * (self.grid.low - zero))[0])

    def affine(self, x: Tensor) -> Affine | None:
        return Affine(*self._learned(x)) if self.channels is None else None

    def _learned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for x, their gradients scaled (Esser et al., ICLR 2020, section 2.2)."""
        values = math.prod(x.shape) if self.role == "weights" else math.prod(x.shape[1:])
        factor = 1 / math.sqrt(values / (self.channels or 1) * self.grid.high)
        scale = self._against(self.scale, x)
        scale = ste(scale.clamp(min=SMALLEST_SCALE), scale * factor)
        if self.beta is None:
            return scale, scale.new_zeros(())
        beta = self.beta.to(x.dtype)
        return scale, self._zero_point(ste(beta, beta * factor), scale)

    def _codes(self, x: Tensor) -> Codes:
        scale, zero = self._learned(x)
        v = (x / scale + zero).clamp(self.grid.low, self.grid.high)
        return ste(self.grid.nearest(v), v), scale, zero


class PactQuantizer(Quantizer):
    """Learned clipping bounds ``alpha`` and, where asymmetric, ``beta`` (in units of x).

    E-PACT's formulas (``Pact``): y = s·(q − z), s = (alpha − beta)/n, dy/dx = 1 between the bounds, dy/dalpha = 1
    above, dy/dbeta = 1 below, and with ``residual`` ± (y − x)/(alpha − beta) between. What clips are the ends of the
    snapped range, s·(low − z) and s·(high − z), up to half a step from beta and alpha. A value at an end is inside:
    else every zero of a ReLU would push a lower bound of 0 about, though zero is a code whatever the bound.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        grid: Grid,
        role: Role,
        channels: int | None,
        asymmetric: bool,
        decay: float,
        residual: bool,
    ):
        super().__init__(config, grid, role, channels, asymmetric)
        self.decay, self.residual = decay, residual
        self.alpha = self._parameter()
        self.beta = nn.Parameter(torch.zeros(())) if asymmetric else None

    def _positive(self) -> nn.Parameter:
        return self.alpha

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.alpha.copy_((scale * (self.grid.high - zero))[0])
        if self.beta is not None:
            self.beta.copy_((scale * (self.grid.low - zero))[0])

    @torch.no_grad()
    def constrain(self) -> None:
        """As for every quantizer; and a lower bound stays at or below zero, which has to be a code."""
        super().constrain()
        if self.beta is not None:
            self.beta.clamp_(max=0)

    def penalty(self) -> Tensor:
        """The L2 term ``decay·(alpha² + beta²)`` to add to the loss, shape () (Choi et al. 2018, section 3)."""
        squared = self.alpha.square() if self.beta is None else self.alpha.square() + self.beta.square()
        return self.decay * squared

    def affine(self, x: Tensor) -> Affine | None:
        return Affine(*self._learned(x), rounded=not self.residual) if self.channels is None else None

    def _learned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for x."""
        alpha = self.alpha.to(x.dtype)
        beta = torch.zeros_like(alpha) if self.beta is None else self.beta.to(x.dtype)
        scale = (alpha - beta) / (self.grid.high - self.grid.low)
        scale = ste(scale.clamp(min=SMALLEST_SCALE), scale)
        return scale, torch.zeros_like(scale) if self.beta is None else self._zero_point(beta, scale)

    def _codes(self, x: Tensor) -> Codes:
        grid = self.grid
        scale, zero = self._learned(x)
        s, z = scale.detach(), zero.detach()
        v = x / s + z
        code = grid.nearest(v).detach()
        if not torch.is_grad_enabled():
            return code, scale, zero
        if self.residual:
            inside = ste(code, x / scale + zero)
        else:  # value: the code; s·(q − z) then has no gradient of the bounds inside
            inside = ste(code, x / s + zero + (code - z) * (s / scale))
        return torch.where((v >= grid.low) & (v <= grid.high), inside, code), scale, zero


class XnorQuantizer(Quantizer):
    """Signs of the weights and their mean magnitude, followed at every forward."""

    def __init__(self, config: QuantizerConfig, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.ready.fill_(True)
        self.calibrated = True

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        pass

    def _codes(self, x: Tensor) -> Codes:
        axes = tuple(range(x.dim())) if self.channels is None else tuple(range(1, x.dim()))
        scale = x.abs().mean(axes, keepdim=self.channels is not None)
        scale = ste(scale.clamp(min=SMALLEST_SCALE), scale)
        return ste(self.grid.nearest(x), x.clamp(-1, 1)), scale, scale.new_zeros(())
