"""What a searcher is to a search."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from bitline.configuration import Frozen
from bitline.place.space import Space
from bitline.place.trials import Trials


class Searcher(Frozen):
    """How placements are chosen. ``evaluations`` counts different placements: one that was asked before is free."""

    evaluations: int | None = Field(default=24, ge=1, description="placements tried; null: as many as it takes")
    seed: int = Field(default=0, description="of its random numbers")

    @abstractmethod
    def search(self, trials: Trials) -> None:
        """Try placements, by their actions, until there is nothing left to learn; ``Spent`` ends it earlier."""

    def missing(self) -> str | None:
        """What has to be installed before it can search; None: nothing."""
        return None

    def check(self) -> None:
        """Raise ImportError saying what has to be installed."""
        if reason := self.missing():
            raise ImportError(reason)

    def refuses(self, space: Space) -> str | None:
        """Why it cannot search this space; None if it can."""
        return None
