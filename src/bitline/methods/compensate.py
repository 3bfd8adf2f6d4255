"""Training of digital side paths alone, beside layers whose weights stay as they are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PrivateAttr, model_validator
from torch import nn

from bitline.compensate import AnyPath, CorrectNet, attach
from bitline.macro import Macro
from bitline.methods.kinds import AnyOfWeights
from bitline.methods.machine import OnFreshChips, OnMacro
from bitline.methods.protocol import Progress
from bitline.nn import batch_norms


class Compensate(OnFreshChips):
    """Side paths of one kind (``path``) beside the layers ``at``, trained on a fresh chip each step with all the rest
    frozen, statistics of batch norms too: S3's compensation (CorrectNet, DATE 2023) and its rivals. ``at`` may give
    each its own size, ``{conv1: 0.5, conv2: 0.25}``: the path's width, rank or share.

    ``after``: the method that an experiment trains the network by before; absent: the network as converted. Each of the
    two has the whole budget. ``bl.train`` takes the network it is given.
    """

    kind: Literal["compensate"] = "compensate"
    path: AnyPath = CorrectNet()
    at: tuple[str, ...] | dict[str, float] = Field(
        default=("*",),
        min_length=1,
        description="dotted-name patterns of layers, or each with its width, rank or share",
    )
    after: AnyOfWeights | None = None
    _frozen: list[nn.Parameter] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _trains(self) -> Compensate:
        if self.path.WHY_NOT_TRAINED is not None:
            raise ValueError(self.path.WHY_NOT_TRAINED)
        if self.centre is not None or (self.after is not None and self.after.centre is not None):
            raise ValueError("centred inputs are a side path, and a layer has room for one: remove centre")
        if self.suppress is not None:
            raise ValueError("suppress acts on weights, which are frozen here: put it into `after`")
        if isinstance(self.at, dict):
            for size in self.at.values():
                self.path.sized(size)
        return self

    @property
    def title(self) -> str:
        if isinstance(self.at, dict):
            first, *more = self.at.items()
            told = [f"{self.path.sized(first[1]).title} at {first[0]}", *(f"{size:g} at {name}" for name, size in more)]
            name = self.titled(f"compensated ({', '.join(told)})")
        else:
            places = "" if self.at == ("*",) else f" at {', '.join(self.at)}"
            name = self.titled(f"compensated ({self.path.title}{places})")
        return name if self.after is None else f"{self.after.title}, then {name}"

    @property
    def before(self) -> OnMacro | None:
        return self.after

    @property
    def patterns(self) -> tuple[str, ...]:
        return (*self.at, *(() if self.after is None else self.after.patterns))

    def refuses(self, macro: Macro) -> str | None:
        before = None if self.after is None else self.after.refuses(macro)
        return before or self.path.refuses(macro)

    @property
    def has_paths(self) -> bool:
        return True

    def put(self, model: nn.Module) -> nn.Module:
        """The side paths, untrained, beside their layers, in place; returns the model. Errors as of ``attach``."""
        for path, at in self.placed:
            attach(model, path, at)
        return model

    @property
    def placed(self) -> list[tuple[AnyPath, tuple[str, ...]]]:
        """Each side path, and the patterns of the layers that it stands beside."""
        if isinstance(self.at, dict):
            return [(self.path.sized(size), (name,)) for name, size in self.at.items()]
        return [(self.path, self.at)]

    def freeze(self, model: nn.Module) -> None:
        self._frozen = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        for norm in batch_norms(model):
            norm.eval()
        super().before_step(model, progress)

    def end(self, model: nn.Module) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
        super().end(model)
