"""Wires in training: arrays solved exactly now and then, and followed to first order in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitline.circuits.crossbar import Linearised
from bitline.macro import Layout, Macro
from bitline.macro.wired import linearised


class Wiring(nn.Module):
    """The integers at which a layer's arrays were last solved, and how many programmings ago.

    Both are saved with the layer, so that a run that goes on from a checkpoint goes on exactly; the solution is not,
    it follows from them. A layer keeps 4 · rows · columns · (rows + columns) bytes an array: 16 MiB of 128 × 128.
    """

    solved_at: Tensor
    since: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("solved_at", torch.zeros(shape))
        self.register_buffer("since", torch.tensor(-1))  # below 0: never
        self._kept: tuple[Any, Linearised] | None = None

    @torch.no_grad()
    def around(self, weights: Tensor, macro: Macro, layout: Layout) -> Linearised | None:
        """What arrays with the integers ``weights`` (G·N, K) are followed from; None: each is solved."""
        assert macro.wires is not None
        if macro.wires.refresh == 1:
            return None
        since = int(self.since)
        if since < 0 or since >= macro.wires.refresh:
            self.solved_at.copy_(weights)
            self._kept, since = None, 0
        self.since.fill_(since + 1)
        key = (macro.wires, macro.cell)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, linearised(self.solved_at, macro, layout))
        return self._kept[1]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._kept = None  # it would stay where it was
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)
