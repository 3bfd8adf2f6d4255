"""The range of a layer's converters: set by the circuit, calibrated from values seen, or trained from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitline.converters import Adc
from bitline.macro import Converters

KEPT = 1 << 16  # values kept for calibration


class ConverterRange(nn.Module):
    """Value = step · (zero + code), counts: ``step`` is trained if the macro says so, ``zero`` keeps zero on a code."""

    zero: Tensor
    ready: Tensor

    def __init__(self, adc: Adc, low: float, high: float) -> None:
        super().__init__()
        self.adc, self.limits = adc, (low, high)
        start, step = adc.range.start(adc, low, high)
        value = torch.tensor(step, dtype=torch.float32)
        if adc.range.trained:
            self.step: Tensor = nn.Parameter(value)
        else:
            self.register_buffer("step", value)
        self.register_buffer("zero", torch.tensor(start / step, dtype=torch.float32))
        self.calibrated = not adc.range.calibrated
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
        if not rule.calibrated:
            return
        if not self._kept:
            raise RuntimeError("converter range: nothing observed; calibrate with data that reaches this layer")
        low, step = rule.fit(self.adc, torch.cat(self._kept), signed=self.limits[0] < 0)
        self.step.copy_(torch.tensor(step))
        self.zero.copy_(torch.tensor(round(low / step)))
        self._kept, self.calibrated = [], True
        self.ready.fill_(True)

    def reset(self) -> None:
        """Not calibrated, where it has to be."""
        self._kept, self._seen, self.calibrated = [], 0, not self.adc.range.calibrated
        self.ready.fill_(self.calibrated)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.calibrated = bool(self.ready)

    def extra_repr(self) -> str:
        return f"{self.adc.bits} bits, step {float(self.step):.4g} counts" if self.calibrated else "not calibrated"
