"""What all cells have in common and what sets them apart, where neither is a parameter of the law."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.devices.draw import Draw
from bitline.devices.errors import CellError

Keep = Literal["all", "mean", "spread", "none"]
SPREAD: dict[Keep, Keep] = {"all": "spread", "mean": "none"}  # what stays of what is kept, without the mean
MEAN: dict[Keep, Keep] = {"all": "mean", "spread": "none"}  # without the spread


def kept(keep: Keep, level: Tensor, whole: Tensor, mean: Tensor) -> Tensor:
    """What is kept of a random ``whole`` around its ``mean`` where cells should hold ``level``.

    mean: every cell holds what cells hold on average; spread: the deviation from that, around the level.
    """
    if keep == "all":
        return whole
    if keep == "none":
        return level
    return mean if keep == "mean" else level + (whole - mean)


class KeptError(CellError):
    """An error whose mean is no parameter of its own: ``keep`` says which part of it cells have."""

    keep: Keep = Field(
        default="all", description="mean: every cell holds what cells hold on average; spread: around the level"
    )

    @abstractmethod
    def drawn(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        """Levels held, with all of the error."""

    @abstractmethod
    def law(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of ``drawn``."""

    @property
    def _biased(self) -> bool:
        states = torch.linspace(0, 1, 17, dtype=torch.float64)
        return not torch.equal(self.law(states, 1)[0], states)

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        if self.keep == "all":
            return self.drawn(levels, draw, level_high)
        mean = self.law(levels, level_high)[0]
        return kept(self.keep, levels, self.drawn(levels, draw, level_high) if self.keep == "spread" else mean, mean)

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        mean, sigma = self.law(levels, level_high)
        return kept(self.keep, levels, mean, mean), sigma if self.keep in ("all", "spread") else torch.zeros_like(sigma)

    def centred(self) -> KeptError:
        return self.model_copy(update={"keep": SPREAD.get(self.keep, self.keep)}) if self._biased else self

    def typical(self) -> KeptError | None:
        keep = MEAN.get(self.keep, self.keep)
        return self.model_copy(update={"keep": keep}) if self._biased and keep != "none" else None
