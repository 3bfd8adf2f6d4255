"""The range of a layer's converters: set by the circuit, calibrated from values seen, or trained from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitline.converters import Adc, CalibratedRange
from bitline.macro import Converters

KEPT = 1 << 16  # values kept for calibration
CANDIDATES = 60  # clip levels tried by the mse rule


class ConverterRange(nn.Module):
    """Value = step · (zero + code), counts: ``step`` is trained if the macro says so, ``zero`` keeps zero on a code."""

    zero: Tensor
    ready: Tensor

    def __init__(self, adc: Adc, low: float, high: float) -> None:
        super().__init__()
        self.adc, self.limits = adc, (low, high)
        start, step = adc.range.start(adc, low, high)
        value = torch.tensor(step, dtype=torch.float32)
        learn = isinstance(adc.range, CalibratedRange) and adc.range.learn
        if learn:
            self.step: Tensor = nn.Parameter(value)
        else:
            self.register_buffer("step", value)
        self.register_buffer("zero", torch.tensor(start / step, dtype=torch.float32))
        self.calibrated = not isinstance(adc.range, CalibratedRange)
        self.register_buffer("ready", torch.tensor(self.calibrated))
        self._kept: list[Tensor] = []
        self._seen = 0

    def forward(self) -> Converters:
        """The range now."""
        step = self.step.clamp(min=1e-9)
        return Converters((self.zero * step).detach(), step)

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Keep some of the values (counts) that the converters of a typical die see."""
        flat = values.detach().flatten().float()
        room = max(1, KEPT // 8)
        stride = max(1, len(flat) // room) | 1  # odd, so that it walks over all outputs
        self._kept.append(flat[(self._seen * 7919) % stride :: stride].clone())
        self._seen += 1
        if sum(map(len, self._kept)) > 4 * KEPT:
            self._kept = [torch.cat(self._kept)[::2].clone()]

    @torch.no_grad()
    def freeze(self) -> None:
        """Set the range from what was observed. A range set by the circuit stays."""
        rule = self.adc.range
        if not isinstance(rule, CalibratedRange):
            return
        if not self._kept:
            raise RuntimeError("converter range: nothing observed; calibrate with data that reaches this layer")
        values = torch.cat(self._kept)
        signed = self.limits[0] < 0
        extent = values.abs() if signed else values.clamp(min=0)
        most = float(extent.max())
        if rule.rule == "percentile":
            clips = [float(torch.quantile(extent[:: max(1, len(extent) // 1_000_000)], rule.percentile / 100))]
        else:
            clips = [most * (i + 1) / CANDIDATES for i in range(CANDIDATES)]
        best: tuple[float, float, float] | None = None
        for clip in clips:
            low, step = self.adc.cover(-clip if signed else 0.0, max(clip, 1e-6))
            code = ((values - low) / step + 0.5).floor().clamp(0, self.adc.codes - 1)
            error = float((code * step + low - values).double().square().mean())
            if best is None or error < best[0]:
                best = (error, low, step)
        assert best is not None
        self.step.copy_(torch.tensor(best[2]))
        self.zero.copy_(torch.tensor(round(best[1] / best[2])))
        self._kept, self.calibrated = [], True
        self.ready.fill_(True)

    def reset(self) -> None:
        """Not calibrated, where it has to be."""
        self._kept, self._seen, self.calibrated = [], 0, not isinstance(self.adc.range, CalibratedRange)
        self.ready.fill_(self.calibrated)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.calibrated = bool(self.ready)

    def extra_repr(self) -> str:
        return f"{self.adc.bits} bits, step {float(self.step):.4g} counts" if self.calibrated else "not calibrated"
