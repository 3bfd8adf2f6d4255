"""Placements that were tried: each is measured once, whoever asks, and what was measured is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bitline.evaluate.ledger import records, write
from bitline.place.result import Tried
from bitline.place.space import Actions, Space

Measure = Callable[[dict[str, float]], Sequence[float]]
"""The accuracies on each chip, 0 … 1, of a placement {layer: width}; empty: of the network without side paths."""


class Spent(Exception):
    """All evaluations of a search are used up."""


class Trials:
    """What a search has tried, in that order, first of all the network without side paths, which counts for nothing.

    ``measure`` is asked once a placement; answers go to a ``file`` and come from there in another search. ``limit``:
    placements that a search may ask for, whether measured before or not, so that a search that was interrupted ends as
    if it had not been. None: as many as there are.
    """

    def __init__(
        self,
        space: Space,
        measure: Measure,
        file: Path | None = None,
        limit: int | None = None,
        tell: Callable[[Tried], None] = lambda tried: None,
    ) -> None:
        self.space, self.measure, self.file, self.limit, self.tell = space, measure, file, limit, tell
        self.tried: dict[Actions, Tried] = {}
        self.known = {} if file is None else read(file)
        self._try((0,) * len(space.candidates))

    @property
    def spent(self) -> bool:
        """Whether no other placement may be asked for."""
        most = self.space.size - 1 if self.limit is None else min(self.limit, self.space.size - 1)
        return len(self.tried) - 1 >= most

    @property
    def best(self) -> Tried:
        """The largest reward of those within the budget."""
        return max((one for one in self.tried.values() if one.within), key=lambda one: one.reward)

    def __call__(self, actions: Actions) -> Tried:
        """A placement's figures; raises Spent for one more than the limit."""
        if actions not in self.tried:
            if self.spent:
                raise Spent
            self._try(actions)
        return self.tried[actions]

    def _try(self, actions: Actions) -> None:
        space, at = self.space, self.space.named(actions)
        name = json.dumps(at)
        if name not in self.known:
            self.known[name] = [float(one) for one in self.measure(at)]
            if self.file is not None:
                write(self.file, {"at": at, "accuracies": self.known[name]})
        found = self.known[name]
        self.tried[actions] = Tried(
            at=at,
            accuracies=tuple(100 * one for one in found),
            overhead=space.share(actions),
            within=space.within(actions),
            reward=space.reward(actions, found),
        )
        self.tell(self.tried[actions])


def read(file: Path) -> dict[str, list[float]]:
    """Accuracies by placement; a line that is not whole is work that is done again."""
    found = {}
    for record in records(file):
        try:
            found[json.dumps(record["at"])] = [float(one) for one in record["accuracies"]]
        except (ValueError, KeyError, TypeError):
            continue
    return found
