"""Quantizers: from floats to the integer codes a macro is given.

A quantizer maps a float ``x`` to an integer code ``q`` on the grid ``low, low + step, …, high`` with a scale ``s > 0``
and an integer zero point ``z``, so that ``x ≈ s·(q − z)``. Zero is always exactly on the grid (``beta = −s·z`` is
snapped), except on a bipolar grid (``step = 2``), which has no zero. Weights have ``z = 0`` and one scale per tensor
or per output (axis 0). Rounding is half up everywhere: ``floor(v + 0.5)``.

Each kind is a frozen config; ``config.build(low, high, role=…)`` gives the module. A module is calibrated once,
``observe(x)`` over a few batches and then ``freeze()``; from then on ``forward(x)`` returns ``(q, scale, zero)``.
``q`` and ``zero`` hold integers as floats and carry straight-through gradients, so that a caller who computes
``scale·(q − zero)``, or any product of it, trains scale and bounds by autograd.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Role = Literal["inputs", "weights"]
Codes = tuple[Tensor, Tensor, Tensor]
"""``(q, scale, zero)``: codes in the shape of x, a scale and a zero point that broadcast against it."""

SAMPLE = 1 << 16  # values kept per tensor at calibration
CHANNEL_SAMPLE = 1 << 12  # values kept per output when there is a scale for each
SMALLEST_SCALE = 1e-12
LARGEST_STEP = 0.1  # relative change of a learned scale or bound in one optimiser step


@dataclass(frozen=True)
class Grid:
    """The codes ``low, low + step, …, high``; ``step = 2`` is a bipolar grid of odd codes.

    Raises ValueError for a range that does not hold zero between its ends or that the stride does not divide.
    """

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if not self.low <= 0 < self.high:
            raise ValueError(f"codes {self.low}..{self.high}: low <= 0 < high is needed")
        if self.step not in (1, 2):
            raise ValueError(f"step {self.step}: 1 (every integer) or 2 (odd codes, bipolar) is accepted")
        if self.step == 2 and (self.low % 2 == 0 or self.high % 2 == 0):
            raise ValueError(f"codes {self.low}..{self.high} with step 2: a bipolar grid has odd ends, e.g. -7..7")

    def nearest(self, v: Tensor) -> Tensor:
        """The grid code nearest to v (half up), clipped to the ends. Same shape; no gradient of its own."""
        code = torch.floor(v + 0.5) if self.step == 1 else self.low + 2 * torch.floor((v - self.low) / 2 + 0.5)
        return code.clamp(self.low, self.high)

    def fit(self, low: Tensor, high: Tensor, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point that cover [low, high] (shape (C,), in units of x), zero included."""
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if asymmetric:
            scale = (high - low) / (self.high - self.low)
        else:
            scale = high / self.high
            if self.low < 0:
                scale = torch.maximum(scale, low / self.low)
        scale = _fill_dead(scale)
        zero = self.low + torch.floor(-low / scale + 0.5) if asymmetric else torch.zeros_like(scale)
        return scale, zero.clamp(self.low, self.high)


def _fill_dead(scale: Tensor) -> Tensor:
    """A channel that is all zero takes the mean scale of the others (1 when there is no other)."""
    alive = scale > SMALLEST_SCALE
    spare = scale[alive].mean() if bool(alive.any()) else torch.ones((), dtype=scale.dtype, device=scale.device)
    return torch.where(alive, scale, spare)


def _ste(value: Tensor, path: Tensor) -> Tensor:
    """``value`` bit for bit in the forward, the gradient of ``path`` in the backward."""
    return value.detach() + (path - path.detach()) if torch.is_grad_enabled() else value


class Statistics:
    """What was observed: exact extremes, mean magnitude and share of negatives, and a bounded sample of the values.

    The sample holds the values whose running index has the smallest hash, so it is uniform, deterministic, and the
    same whatever the batch size. Memory: C·max(4096, 65536 / C) values.
    """

    def __init__(self, channels: int, device: torch.device):
        self.channels = channels
        self.count = 0  # values per channel
        self.negative = 0  # values below zero, all channels
        self.low = torch.full((channels,), math.inf, device=device)
        self.high = torch.full((channels,), -math.inf, device=device)
        self.magnitude = torch.zeros(channels, dtype=torch.float64, device=device)  # Σ|x|
        self.sample = torch.zeros(channels, 0, device=device)
        self._hash = torch.zeros(0, dtype=torch.int64, device=device)
        self._size = max(CHANNEL_SAMPLE, SAMPLE // channels)

    def update(self, x: Tensor) -> None:
        """Add x, shape (C, n)."""
        n = x.shape[1]
        low, high = torch.aminmax(x, dim=1)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.magnitude = self.magnitude + x.abs().sum(1, dtype=torch.float64)
        if bool((low < 0).any()):
            self.negative += int((x < 0).sum())
        hashed = _scatter(self.count, n, x.device)
        self.count += n
        # Of count uniform hashes, those below this limit number 1.1 sizes, give or take 1 %: enough, and quick to find.
        limit = int((1.1 * self._size / self.count - 0.5) * 2**64)
        if self.count > 2 * self._size:
            enters = (hashed < limit).nonzero()[:, 0]
            x, hashed = x[:, enters], hashed[enters]
        self._hash = torch.cat([self._hash, hashed])
        self.sample = torch.cat([self.sample, x], 1)
        if self._hash.numel() > self._size:
            self._hash, kept = torch.topk(self._hash, self._size, largest=False)
            self.sample = self.sample[:, kept]

    @property
    def share_negative(self) -> float:
        """Share of all observed values below zero, 0..1."""
        return self.negative / (self.count * self.channels)


def _scatter(start: int, n: int, device: torch.device) -> Tensor:
    """64-bit hashes, shape (n,), of the indices from start on: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    h = torch.arange(start, start + n, device=device).mul_(0x9E3779B97F4A7C15 - (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        h.bitwise_xor_((h >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return h.bitwise_xor_((h >> 31).bitwise_and_((1 << 33) - 1))


# ---------------------------------------------------------------------------------------------------------- configs


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _QuantizerConfig(_Config):
    per_channel: bool = Field(False, description="one scale per output (weights only)")
    asymmetric: bool = Field(False, description="learn or calibrate a zero point for data of both signs (inputs only)")

    def _check(self, grid: Grid, role: Role, channels: int | None) -> int | None:
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


class _Fixed(_QuantizerConfig):
    """Observers: the scale is calibrated and fixed afterwards."""

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high; ``channels`` is the number of outputs N (per-channel weights)."""
        grid = Grid(low, high, step)
        return FixedQuantizer(self, grid, role, self._check(grid, role, channels), self.asymmetric)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point, shape (C,), from what was observed."""
        raise NotImplementedError


class MinMax(_Fixed):
    """The range is the smallest and largest value observed: nothing is clipped."""

    kind: Literal["minmax"] = "minmax"

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        return grid.fit(seen.low, seen.high, asymmetric)


class Percentile(_Fixed):
    """The range is the p-th and the (100 − p)-th percentile; what lies outside is clipped."""

    kind: Literal["percentile"] = "percentile"
    p: float = Field(99.9, gt=50, le=100, description="per cent")

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        if self.p == 100:
            return grid.fit(seen.low, seen.high, asymmetric)
        low, high = torch.quantile(seen.sample, torch.tensor([1 - self.p / 100, self.p / 100]).to(seen.sample), dim=1)
        return grid.fit(low, high, asymmetric)


class Mse(_Fixed):
    """The range with the smallest mean squared error among clipped ones (per channel).

    A geometric search from the whole range down to 1/256 of it, then a finer one around the best; a two-sided range
    then moves each end on its own.
    """

    kind: Literal["mse"] = "mse"

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        coarse = torch.logspace(0, -8, 65, base=2).tolist()
        fine = torch.linspace(0.92, 1.08, 17).tolist()
        low, high = seen.low.clamp(max=0.0), seen.high.clamp(min=0.0)
        moves = [(True, True, coarse), (True, True, fine)]
        if asymmetric:
            moves += [(False, True, coarse), (True, False, coarse), (False, True, fine), (True, False, fine)]
        for moves_low, moves_high, factors in moves:
            best = torch.full_like(low, math.inf)
            low_best, high_best = low, high
            for factor in factors:
                a, b = low * (factor if moves_low else 1.0), high * (factor if moves_high else 1.0)
                error = _squared_error(seen.sample, grid, *grid.fit(a, b, asymmetric))
                better = error < best
                best = torch.where(better, error, best)
                low_best, high_best = torch.where(better, a, low_best), torch.where(better, b, high_best)
            low, high = low_best, high_best
        return grid.fit(low, high, asymmetric)


def _squared_error(x: Tensor, grid: Grid, scale: Tensor, zero: Tensor) -> Tensor:
    """Mean squared error of (C, n) values on the grid; shape (C,)."""
    scale, zero = scale[:, None], zero[:, None]
    return ((grid.nearest(x / scale + zero) - zero) * scale - x).square().mean(1)


Observer = Annotated[MinMax | Percentile | Mse, Field(discriminator="kind")]


class Lsq(_QuantizerConfig):
    """Learned step size (Esser et al., ICLR 2020); with ``asymmetric`` also a learned offset (Bhalgat et al. 2020).

    The gradient of the scale is multiplied by 1/sqrt(N·Qp), N the number of weights of a scale or of input features,
    Qp the largest code. Start: 2·mean|x| / sqrt(Qp) (halved on a bipolar grid, whose codes are two apart), or what
    the observer ``init`` finds.
    """

    kind: Literal["lsq"] = "lsq"
    init: Observer | None = None

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high; ``channels`` is the number of outputs N (per-channel weights)."""
        grid = Grid(low, high, step)
        return LsqQuantizer(self, grid, role, self._check(grid, role, channels), self.asymmetric)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Starting scale and zero point, shape (C,)."""
        if self.init is not None or asymmetric:
            return (self.init or MinMax()).fit(seen, grid, asymmetric)
        mean = (seen.magnitude / seen.count).float()
        scale = _fill_dead(2 * mean / (grid.step * math.sqrt(grid.high)))
        return scale, torch.zeros_like(scale)


class Pact(_QuantizerConfig):
    """Inputs clipped at a learned bound alpha (PACT, Choi et al. 2018); ``asymmetric`` learns the lower bound as well
    (E-PACT, Lin et al., JETCAS 2022). The bounds train by what they clip alone; ``residual`` adds the rounding
    residual of what lies inside (PACT+). ``decay`` is the factor of the L2 term on the bounds, see ``penalty``.
    """

    kind: Literal["pact"] = "pact"
    init: Observer = Percentile()
    decay: float = Field(1e-4, ge=0)
    residual: bool = False

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high. Raises ValueError for weights, for a bipolar grid, and for signed codes
        without ``asymmetric``."""
        grid = Grid(low, high, step)
        if role == "weights":
            raise ValueError("Pact is for inputs; for weights choose Lsq, MinMax, Percentile or Mse")
        if step != 1 or (low != 0 and not self.asymmetric):
            raise ValueError(
                f"Pact on codes {low}..{high} step {step}: it needs unsigned codes 0..n, "
                "or asymmetric=True (both bounds learned) on codes one apart; or choose Lsq"
            )
        return PactQuantizer(self, grid, role, self._check(grid, role, channels), self.asymmetric)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Starting scale and zero point, shape (1,)."""
        return self.init.fit(seen, grid, asymmetric)


class Xnor(_QuantizerConfig):
    """Binary ±1 weights with scale mean|w|, followed as the weights train (XNOR-Net, Rastegari et al., ECCV 2016).

    Needs no calibration. Gradient: dy/dw = 1/n + mean|w|·1[|w| ≤ 1].
    """

    kind: Literal["xnor"] = "xnor"
    per_channel: bool = True

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes ±1. Raises ValueError for any other grid and for inputs."""
        if (low, high, step) != (-1, 1, 2) or role != "weights":
            raise ValueError(f"Xnor on {role} with codes {low}..{high} step {step}: only weights of -1..1 step 2")
        grid = Grid(low, high, step)
        return XnorQuantizer(self, grid, role, self._check(grid, role, channels), False)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """The scale these weights have now; for display, the module follows the weights."""
        scale = _fill_dead((seen.magnitude / seen.count).float())
        return scale, torch.zeros_like(scale)


AnyQuantizer = Annotated[Lsq | Pact | MinMax | Percentile | Mse | Xnor, Field(discriminator="kind")]


# ---------------------------------------------------------------------------------------------------------- modules


class Quantizer(nn.Module, ABC):
    """The common part: calibration, and the guard that forward has a scale.

    ``calibrated`` is a plain bool, so that forward traces without reading a tensor; it is saved as the buffer
    ``ready`` and set again by ``load_state_dict``. ``name`` may hold the layer's dotted name for messages.
    """

    ready: Tensor

    def __init__(
        self, config: Lsq | Pact | Xnor | _Fixed, grid: Grid, role: Role, channels: int | None, asymmetric: bool
    ):
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
        self._start(scale, zero)
        self._seen = None
        value = self._positive()
        self._last = None if value is None else value.detach().clone()
        self.ready.fill_(True)
        self.calibrated = True

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
        """The integer code of zero for a lower bound beta, straight-through: ``low − beta/s``, kept on the grid."""
        v = (self.grid.low - beta / scale).clamp(self.grid.low, self.grid.high)
        return _ste(torch.floor(v + 0.5), v)

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

    def __init__(self, config: _Fixed, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.register_buffer("scale", torch.ones(() if channels is None else (channels,)))
        self.register_buffer("zero", torch.zeros(()))

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.scale.copy_(self._one(scale))
        self.zero.copy_(zero[0])

    def _codes(self, x: Tensor) -> Codes:
        scale, zero = self._against(self.scale, x), self.zero.to(x.dtype)
        v = (x / scale + zero).clamp(self.grid.low, self.grid.high)
        return _ste(self.grid.nearest(v), v), scale, zero


class LsqQuantizer(Quantizer):
    """A learned scale and, where asymmetric, a learned lower bound ``beta`` (in units of x)."""

    def __init__(self, config: Lsq, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.scale = self._parameter()
        self.beta = nn.Parameter(torch.zeros(())) if asymmetric else None

    def _positive(self) -> nn.Parameter:
        return self.scale

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.scale.copy_(self._one(scale))
        if self.beta is not None:
            self.beta.copy_((scale * (self.grid.low - zero))[0])

    def _codes(self, x: Tensor) -> Codes:
        values = math.prod(x.shape) if self.role == "weights" else math.prod(x.shape[1:])
        factor = 1 / math.sqrt(values / (self.channels or 1) * self.grid.high)
        scale = self._against(self.scale, x)
        scale = _ste(scale.clamp(min=SMALLEST_SCALE), scale * factor)
        zero = scale.new_zeros(())
        if self.beta is not None:
            beta = self.beta.to(x.dtype)
            zero = self._zero_point(_ste(beta, beta * factor), scale)
        v = (x / scale + zero).clamp(self.grid.low, self.grid.high)
        return _ste(self.grid.nearest(v), v), scale, zero


class PactQuantizer(Quantizer):
    """Learned clipping bounds ``alpha`` and, where asymmetric, ``beta`` (in units of x)."""

    config: Pact

    def __init__(self, config: Pact, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.alpha = self._parameter()
        self.beta = nn.Parameter(torch.zeros(())) if asymmetric else None

    def _positive(self) -> nn.Parameter:
        return self.alpha

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        self.alpha.copy_((scale * (self.grid.high - zero))[0])
        if self.beta is not None:
            self.beta.copy_((scale * (self.grid.low - zero))[0])

    def penalty(self) -> Tensor:
        """The L2 term ``decay·(alpha² + beta²)`` to add to the loss, shape () (Choi et al. 2018, section 3)."""
        squared = self.alpha.square() if self.beta is None else self.alpha.square() + self.beta.square()
        return self.config.decay * squared

    def _codes(self, x: Tensor) -> Codes:
        grid = self.grid
        alpha = self.alpha.to(x.dtype)
        beta = torch.zeros_like(alpha) if self.beta is None else self.beta.to(x.dtype)
        scale = (alpha - beta) / (grid.high - grid.low)
        scale = _ste(scale.clamp(min=SMALLEST_SCALE), scale)
        zero = torch.zeros_like(scale) if self.beta is None else self._zero_point(beta, scale)
        s, z = scale.detach(), zero.detach()
        v = x / s + z
        code = grid.nearest(v).detach()
        if not torch.is_grad_enabled():
            return code, scale, zero
        if self.config.residual:
            inside = _ste(code, x / scale + zero)
        else:  # value: the code; s·(q − z) then has no gradient of the bounds inside
            inside = _ste(code, x / s + zero + (code - z) * (s / scale))
        return torch.where((v > grid.low) & (v < grid.high), inside, code), scale, zero


class XnorQuantizer(Quantizer):
    """Signs of the weights and their mean magnitude, followed at every forward."""

    def __init__(self, config: Xnor, grid: Grid, role: Role, channels: int | None, asymmetric: bool):
        super().__init__(config, grid, role, channels, asymmetric)
        self.ready.fill_(True)
        self.calibrated = True

    def _start(self, scale: Tensor, zero: Tensor) -> None:
        pass

    def _codes(self, x: Tensor) -> Codes:
        axes = tuple(range(x.dim())) if self.channels is None else tuple(range(1, x.dim()))
        scale = x.abs().mean(axes, keepdim=self.channels is not None)
        scale = _ste(scale.clamp(min=SMALLEST_SCALE), scale)
        return _ste(self.grid.nearest(x), x.clamp(-1, 1)), scale, scale.new_zeros(())
