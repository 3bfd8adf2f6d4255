"""Rows of an analog array that hold what is added to each output: biases, and the shifts of batch norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.weights import WeightError, half_range


@dataclass(frozen=True)
class Stored:
    """What an array with a row of offsets holds on one die: ``w`` and ``b`` in their own units."""

    w: Tensor
    b: Tensor
    amplitude: Tensor  # the row's input, in units of an input of the weights, ()
    deviation: Tensor | None  # of a weight from read to read, (); of an offset ``amplitude`` times as much


class OffsetRow(Frozen):
    """A row beside the weights that holds offsets b as b / f and is driven with the constant input f.

    All devices of the array share one physical range, that of w and b / f together, and err relative to it: the error
    of b is f times that of a weight. ``matched``: f = R_b / R_w, which makes both fill the range. That is S1's range
    matching (Wan et al., JETC 2022, from the authors' code), and what this library takes for its *analog bi-scale
    representation* (ABS, H1): a reconstruction, since the paper's text is not public. 1: one scale, without ABS. Where
    either half range R is 0 there is nothing to match, and f is 1.
    """

    amplitude: Literal["matched"] | PositiveFloat = "matched"

    @property
    def told(self) -> str:
        """The amplitude in words."""
        return "matched to the range of the weights (ABS)" if self.amplitude == "matched" else f"{self.amplitude:g}"

    def factor(self, w: Tensor, b: Tensor) -> Tensor:
        """f for weights and offsets of any shape, (); no gradient."""
        if self.amplitude != "matched":
            return w.new_tensor(self.amplitude)
        weights, offsets = half_range(w), half_range(b)
        return torch.where((weights > 0) & (offsets > 0), offsets / weights, torch.ones_like(weights))

    def stored(self, error: WeightError, w: Tensor, b: Tensor, n: Tensor | None, m: Tensor | None) -> Stored:
        """What a die holds by its draws for weights (``n``) and offsets (``m``), differentiable in ``w`` and ``b``."""
        f = self.factor(w, b)
        held = b / f
        beside = w.detach()
        return Stored(
            error.apply(w, n, held.detach()),
            b + f * (error.apply(held, m, beside) - held),  # not f · held: without an error it is b to the last bit
            f,
            error.deviation(w, held),
        )
