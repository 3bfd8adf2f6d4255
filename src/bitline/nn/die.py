"""What sits on a die: what the parts of one model share, and what each part knows of its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bitline.macro import Chip, Macro, Reads, Site, without
from bitline.macro.program import sampled

if TYPE_CHECKING:
    from bitline.nn.arrays import OnArrays


@dataclass
class Silicon:
    """What the layers of one model share: the die they sit on, and the reads made now. Never saved, never broadcast."""

    chip: Chip = field(default_factory=lambda: Chip(0, 0))
    write: int = 0
    seed: int = 0
    read: int = 0
    samples: Tensor | None = None
    passes: int = 0
    written: dict[str, OnArrays] = field(default_factory=dict)  # layers whose arrays hold their weights, by site

    def begin(self, samples: Tensor | None, read: int = 0) -> None:
        """Announce a forward pass over these samples of the data set (int64, (B,)), read for the ``read``-th time."""
        self.samples, self.read = samples, read
        self.passes += 1

    def write_arrays(self, layer: OnArrays) -> None:
        """A layer is written into its arrays: layers that had one of them are there no more.

        So that evaluation holds what a chip of ``placement.arrays`` arrays does, however large the network is.
        """
        mine = layer.arrays
        for name, other in list(self.written.items()):
            if name != layer.site.name and not mine.isdisjoint(other.arrays):
                del self.written[name]
                other.erase()
        self.written[layer.site.name] = layer


class OnSilicon(nn.Module):
    """A part of a network that sits on a macro: a layer, or an analog batch norm. ``convert`` makes them."""

    design: Macro  # the macro asked for
    macro: Macro  # the one in use: the design, or one with something ideal
    cause: str | None  # of error, that is ideal in it
    site: Site
    silicon: Silicon
    _pass: tuple[int, int]

    def use(self, macro: Macro, cause: str | None = None) -> None:
        """Compute with ``macro`` (the design or a variant of it), one ``cause`` of error made ideal."""
        self.cause = cause
        self.macro = without(macro, cause) if cause else macro
        self.renew()

    def renew(self) -> None:
        """Forget what was programmed: the die, the weights or the macro changed."""
        raise NotImplementedError

    def drawn(self, what: str, shape: torch.Size, device: torch.device) -> Tensor | None:
        """Draws of the macro's variation for what this part holds, float32; None where dies do not differ."""
        assert self.macro.variation is not None
        silicon = self.silicon
        found = sampled(self.macro.variation, shape, silicon.chip, self.site, silicon.write, device, what)
        return None if found is None else found.float()

    def _keys(self, x: Tensor, noisy: bool = True) -> Tensor | None:
        """Keys of the reads of a batch; None where there is no fresh noise, or under ``torch.compile``."""
        silicon = self.silicon
        if torch.compiler.is_compiling():
            return None
        last, call = self._pass
        self._pass = (silicon.passes, call + 1 if last == silicon.passes else 0)
        if not noisy:
            return None
        samples = silicon.samples
        if samples is None:
            samples = torch.arange(len(x), device=x.device)
        elif len(samples) != len(x):
            raise ValueError(f"{self.site.name}: {len(x)} samples, but {len(samples)} indices were announced")
        reads = Reads(silicon.seed, silicon.chip, silicon.read, samples.to(x.device))
        return reads.keys(self.site.name, self._pass[1])
